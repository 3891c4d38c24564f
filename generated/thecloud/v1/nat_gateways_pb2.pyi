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

class NatGateway(_message.Message):
    __slots__ = ("id", "vpc_id", "subnet_id", "elastic_ip_id", "status", "private_ip", "arn", "user_id", "tenant_id", "created_at", "estimated_price_per_hour")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[NatGateway.State]
        STATE_ACTIVE: _ClassVar[NatGateway.State]
    STATE_UNSPECIFIED: NatGateway.State
    STATE_ACTIVE: NatGateway.State
    ID_FIELD_NUMBER: _ClassVar[int]
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
    ELASTIC_IP_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_IP_FIELD_NUMBER: _ClassVar[int]
    ARN_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    id: str
    vpc_id: str
    subnet_id: str
    elastic_ip_id: str
    status: NatGateway.State
    private_ip: str
    arn: str
    user_id: str
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    estimated_price_per_hour: float
    def __init__(self, id: _Optional[str] = ..., vpc_id: _Optional[str] = ..., subnet_id: _Optional[str] = ..., elastic_ip_id: _Optional[str] = ..., status: _Optional[_Union[NatGateway.State, str]] = ..., private_ip: _Optional[str] = ..., arn: _Optional[str] = ..., user_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_price_per_hour: _Optional[float] = ...) -> None: ...

class ListNatGatewaysRequest(_message.Message):
    __slots__ = ("vpc_id", "page_size", "page_token")
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    vpc_id: str
    page_size: int
    page_token: str
    def __init__(self, vpc_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListNatGatewaysResponse(_message.Message):
    __slots__ = ("nat_gateways", "next_page_token")
    NAT_GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    nat_gateways: _containers.RepeatedCompositeFieldContainer[NatGateway]
    next_page_token: str
    def __init__(self, nat_gateways: _Optional[_Iterable[_Union[NatGateway, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateNatGatewayRequest(_message.Message):
    __slots__ = ("subnet_id", "eip_id", "elastic_ip_id", "validate_only")
    SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
    EIP_ID_FIELD_NUMBER: _ClassVar[int]
    ELASTIC_IP_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    subnet_id: str
    eip_id: str
    elastic_ip_id: str
    validate_only: bool
    def __init__(self, subnet_id: _Optional[str] = ..., eip_id: _Optional[str] = ..., elastic_ip_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetNatGatewayRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteNatGatewayRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...
