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

class Subnet(_message.Message):
    __slots__ = ("id", "vpc_id", "name", "cidr_block", "availability_zone", "gateway_ip", "status", "route_table_id", "arn", "user_id", "tenant_id", "created_at", "estimated_price_per_hour")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Subnet.State]
        STATE_AVAILABLE: _ClassVar[Subnet.State]
    STATE_UNSPECIFIED: Subnet.State
    STATE_AVAILABLE: Subnet.State
    ID_FIELD_NUMBER: _ClassVar[int]
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CIDR_BLOCK_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_ZONE_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_IP_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    ARN_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    id: str
    vpc_id: str
    name: str
    cidr_block: str
    availability_zone: str
    gateway_ip: str
    status: Subnet.State
    route_table_id: str
    arn: str
    user_id: str
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    estimated_price_per_hour: float
    def __init__(self, id: _Optional[str] = ..., vpc_id: _Optional[str] = ..., name: _Optional[str] = ..., cidr_block: _Optional[str] = ..., availability_zone: _Optional[str] = ..., gateway_ip: _Optional[str] = ..., status: _Optional[_Union[Subnet.State, str]] = ..., route_table_id: _Optional[str] = ..., arn: _Optional[str] = ..., user_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_price_per_hour: _Optional[float] = ...) -> None: ...

class ListSubnetsRequest(_message.Message):
    __slots__ = ("vpc_id", "page_size", "page_token")
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    vpc_id: str
    page_size: int
    page_token: str
    def __init__(self, vpc_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSubnetsResponse(_message.Message):
    __slots__ = ("subnets", "next_page_token")
    SUBNETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    subnets: _containers.RepeatedCompositeFieldContainer[Subnet]
    next_page_token: str
    def __init__(self, subnets: _Optional[_Iterable[_Union[Subnet, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateSubnetRequest(_message.Message):
    __slots__ = ("vpc_id", "name", "cidr_block", "availability_zone", "validate_only")
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CIDR_BLOCK_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_ZONE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    vpc_id: str
    name: str
    cidr_block: str
    availability_zone: str
    validate_only: bool
    def __init__(self, vpc_id: _Optional[str] = ..., name: _Optional[str] = ..., cidr_block: _Optional[str] = ..., availability_zone: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetSubnetRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteSubnetRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetSubnetRoutesRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetSubnetRoutesResponse(_message.Message):
    __slots__ = ("route_table_id", "routes")
    class EffectiveRoute(_message.Message):
        __slots__ = ("destination_cidr", "target_type", "target_id", "state", "route_id")
        DESTINATION_CIDR_FIELD_NUMBER: _ClassVar[int]
        TARGET_TYPE_FIELD_NUMBER: _ClassVar[int]
        TARGET_ID_FIELD_NUMBER: _ClassVar[int]
        STATE_FIELD_NUMBER: _ClassVar[int]
        ROUTE_ID_FIELD_NUMBER: _ClassVar[int]
        destination_cidr: str
        target_type: str
        target_id: str
        state: str
        route_id: str
        def __init__(self, destination_cidr: _Optional[str] = ..., target_type: _Optional[str] = ..., target_id: _Optional[str] = ..., state: _Optional[str] = ..., route_id: _Optional[str] = ...) -> None: ...
    ROUTE_TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    route_table_id: str
    routes: _containers.RepeatedCompositeFieldContainer[GetSubnetRoutesResponse.EffectiveRoute]
    def __init__(self, route_table_id: _Optional[str] = ..., routes: _Optional[_Iterable[_Union[GetSubnetRoutesResponse.EffectiveRoute, _Mapping]]] = ...) -> None: ...
