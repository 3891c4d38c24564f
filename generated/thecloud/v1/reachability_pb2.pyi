from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from thecloud.v1 import options_pb2 as _options_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CheckReachabilityRequest(_message.Message):
    __slots__ = ("source_instance_id", "destination_instance_id", "destination_address", "protocol", "port")
    SOURCE_INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    source_instance_id: str
    destination_instance_id: str
    destination_address: str
    protocol: str
    port: int
    def __init__(self, source_instance_id: _Optional[str] = ..., destination_instance_id: _Optional[str] = ..., destination_address: _Optional[str] = ..., protocol: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class Reachability(_message.Message):
    __slots__ = ("reachable", "obstacle", "programmed")
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    OBSTACLE_FIELD_NUMBER: _ClassVar[int]
    PROGRAMMED_FIELD_NUMBER: _ClassVar[int]
    reachable: bool
    obstacle: Obstacle
    programmed: bool
    def __init__(self, reachable: _Optional[bool] = ..., obstacle: _Optional[_Union[Obstacle, _Mapping]] = ..., programmed: _Optional[bool] = ...) -> None: ...

class Obstacle(_message.Message):
    __slots__ = ("kind", "id", "message")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    message: str
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
