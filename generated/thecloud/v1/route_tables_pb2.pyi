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

class RouteTable(_message.Message):
    __slots__ = ("id", "vpc_id", "name", "is_main", "routes", "associations", "tenant_id", "created_at", "estimated_price_per_hour")
    ID_FIELD_NUMBER: _ClassVar[int]
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_MAIN_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    ASSOCIATIONS_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    id: str
    vpc_id: str
    name: str
    is_main: bool
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    associations: _containers.RepeatedCompositeFieldContainer[RouteTableAssociation]
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    estimated_price_per_hour: float
    def __init__(self, id: _Optional[str] = ..., vpc_id: _Optional[str] = ..., name: _Optional[str] = ..., is_main: _Optional[bool] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., associations: _Optional[_Iterable[_Union[RouteTableAssociation, _Mapping]]] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_price_per_hour: _Optional[float] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("id", "route_table_id", "destination_cidr", "target_type", "target_id", "origin", "tenant_id", "created_at", "estimated_price_per_hour")
    class Target(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TARGET_UNSPECIFIED: _ClassVar[Route.Target]
        TARGET_LOCAL: _ClassVar[Route.Target]
        TARGET_IGW: _ClassVar[Route.Target]
        TARGET_NAT: _ClassVar[Route.Target]
        TARGET_PEERING: _ClassVar[Route.Target]
        TARGET_INSTANCE: _ClassVar[Route.Target]
    TARGET_UNSPECIFIED: Route.Target
    TARGET_LOCAL: Route.Target
    TARGET_IGW: Route.Target
    TARGET_NAT: Route.Target
    TARGET_PEERING: Route.Target
    TARGET_INSTANCE: Route.Target
    ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_CIDR_FIELD_NUMBER: _ClassVar[int]
    TARGET_TYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    id: str
    route_table_id: str
    destination_cidr: str
    target_type: Route.Target
    target_id: str
    origin: str
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    estimated_price_per_hour: float
    def __init__(self, id: _Optional[str] = ..., route_table_id: _Optional[str] = ..., destination_cidr: _Optional[str] = ..., target_type: _Optional[_Union[Route.Target, str]] = ..., target_id: _Optional[str] = ..., origin: _Optional[str] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_price_per_hour: _Optional[float] = ...) -> None: ...

class RouteTableAssociation(_message.Message):
    __slots__ = ("id", "route_table_id", "subnet_id", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    route_table_id: str
    subnet_id: str
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., route_table_id: _Optional[str] = ..., subnet_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListRouteTablesRequest(_message.Message):
    __slots__ = ("vpc_id", "page_size", "page_token")
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    vpc_id: str
    page_size: int
    page_token: str
    def __init__(self, vpc_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRouteTablesResponse(_message.Message):
    __slots__ = ("route_tables", "next_page_token")
    ROUTE_TABLES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    route_tables: _containers.RepeatedCompositeFieldContainer[RouteTable]
    next_page_token: str
    def __init__(self, route_tables: _Optional[_Iterable[_Union[RouteTable, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateRouteTableRequest(_message.Message):
    __slots__ = ("vpc_id", "name", "is_main", "validate_only")
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_MAIN_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    vpc_id: str
    name: str
    is_main: bool
    validate_only: bool
    def __init__(self, vpc_id: _Optional[str] = ..., name: _Optional[str] = ..., is_main: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetRouteTableRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteRouteTableRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CreateRouteRequest(_message.Message):
    __slots__ = ("id", "destination_cidr", "target_type", "target_id", "validate_only")
    ID_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_CIDR_FIELD_NUMBER: _ClassVar[int]
    TARGET_TYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    id: str
    destination_cidr: str
    target_type: Route.Target
    target_id: str
    validate_only: bool
    def __init__(self, id: _Optional[str] = ..., destination_cidr: _Optional[str] = ..., target_type: _Optional[_Union[Route.Target, str]] = ..., target_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetRouteRequest(_message.Message):
    __slots__ = ("id", "route_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    route_id: str
    def __init__(self, id: _Optional[str] = ..., route_id: _Optional[str] = ...) -> None: ...

class DeleteRouteRequest(_message.Message):
    __slots__ = ("id", "route_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROUTE_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    route_id: str
    def __init__(self, id: _Optional[str] = ..., route_id: _Optional[str] = ...) -> None: ...

class AssociateRouteTableRequest(_message.Message):
    __slots__ = ("id", "subnet_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    subnet_id: str
    def __init__(self, id: _Optional[str] = ..., subnet_id: _Optional[str] = ...) -> None: ...

class DisassociateRouteTableRequest(_message.Message):
    __slots__ = ("id", "subnet_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    subnet_id: str
    def __init__(self, id: _Optional[str] = ..., subnet_id: _Optional[str] = ...) -> None: ...
