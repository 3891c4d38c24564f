from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from thecloud.v1 import options_pb2 as _options_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PresignObjectRequest(_message.Message):
    __slots__ = ("bucket", "key", "method", "expiry_seconds")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    method: str
    expiry_seconds: int
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., method: _Optional[str] = ..., expiry_seconds: _Optional[int] = ...) -> None: ...

class PresignedObject(_message.Message):
    __slots__ = ("url", "method", "expires_at")
    URL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    url: str
    method: str
    expires_at: str
    def __init__(self, url: _Optional[str] = ..., method: _Optional[str] = ..., expires_at: _Optional[str] = ...) -> None: ...
