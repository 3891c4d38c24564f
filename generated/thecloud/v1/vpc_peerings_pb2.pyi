import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from thecloud.v1 import options_pb2 as _options_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VpcPeering(_message.Message):
    __slots__ = ("id", "requester_vpc_id", "accepter_vpc_id", "status", "arn", "tenant_id", "created_at", "updated_at", "estimated_price_per_hour")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[VpcPeering.State]
        STATE_PENDING_ACCEPTANCE: _ClassVar[VpcPeering.State]
        STATE_ACTIVE: _ClassVar[VpcPeering.State]
        STATE_REJECTED: _ClassVar[VpcPeering.State]
    STATE_UNSPECIFIED: VpcPeering.State
    STATE_PENDING_ACCEPTANCE: VpcPeering.State
    STATE_ACTIVE: VpcPeering.State
    STATE_REJECTED: VpcPeering.State
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUESTER_VPC_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTER_VPC_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ARN_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    id: str
    requester_vpc_id: str
    accepter_vpc_id: str
    status: VpcPeering.State
    arn: str
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    estimated_price_per_hour: float
    def __init__(self, id: _Optional[str] = ..., requester_vpc_id: _Optional[str] = ..., accepter_vpc_id: _Optional[str] = ..., status: _Optional[_Union[VpcPeering.State, str]] = ..., arn: _Optional[str] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_price_per_hour: _Optional[float] = ...) -> None: ...

class ListVpcPeeringsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListVpcPeeringsResponse(_message.Message):
    __slots__ = ("vpc_peerings", "next_page_token")
    VPC_PEERINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    vpc_peerings: _containers.RepeatedCompositeFieldContainer[VpcPeering]
    next_page_token: str
    def __init__(self, vpc_peerings: _Optional[_Iterable[_Union[VpcPeering, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateVpcPeeringRequest(_message.Message):
    __slots__ = ("requester_vpc_id", "accepter_vpc_id", "validate_only")
    REQUESTER_VPC_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTER_VPC_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    requester_vpc_id: str
    accepter_vpc_id: str
    validate_only: bool
    def __init__(self, requester_vpc_id: _Optional[str] = ..., accepter_vpc_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetVpcPeeringRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class AcceptVpcPeeringRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RejectVpcPeeringRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteVpcPeeringRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...
