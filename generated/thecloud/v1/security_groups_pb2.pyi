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

class SecurityGroup(_message.Message):
    __slots__ = ("id", "vpc_id", "name", "description", "rules", "arn", "user_id", "tenant_id", "created_at", "estimated_price_per_hour")
    ID_FIELD_NUMBER: _ClassVar[int]
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    ARN_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    id: str
    vpc_id: str
    name: str
    description: str
    rules: _containers.RepeatedCompositeFieldContainer[SecurityRule]
    arn: str
    user_id: str
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    estimated_price_per_hour: float
    def __init__(self, id: _Optional[str] = ..., vpc_id: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., rules: _Optional[_Iterable[_Union[SecurityRule, _Mapping]]] = ..., arn: _Optional[str] = ..., user_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_price_per_hour: _Optional[float] = ...) -> None: ...

class SecurityRule(_message.Message):
    __slots__ = ("id", "group_id", "direction", "protocol", "port_min", "port_max", "cidr", "referenced_group_id", "priority", "tenant_id", "created_at", "estimated_price_per_hour")
    class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DIRECTION_UNSPECIFIED: _ClassVar[SecurityRule.Direction]
        DIRECTION_INGRESS: _ClassVar[SecurityRule.Direction]
        DIRECTION_EGRESS: _ClassVar[SecurityRule.Direction]
    DIRECTION_UNSPECIFIED: SecurityRule.Direction
    DIRECTION_INGRESS: SecurityRule.Direction
    DIRECTION_EGRESS: SecurityRule.Direction
    class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PROTOCOL_UNSPECIFIED: _ClassVar[SecurityRule.Protocol]
        PROTOCOL_TCP: _ClassVar[SecurityRule.Protocol]
        PROTOCOL_UDP: _ClassVar[SecurityRule.Protocol]
        PROTOCOL_ICMP: _ClassVar[SecurityRule.Protocol]
        PROTOCOL_ALL: _ClassVar[SecurityRule.Protocol]
    PROTOCOL_UNSPECIFIED: SecurityRule.Protocol
    PROTOCOL_TCP: SecurityRule.Protocol
    PROTOCOL_UDP: SecurityRule.Protocol
    PROTOCOL_ICMP: SecurityRule.Protocol
    PROTOCOL_ALL: SecurityRule.Protocol
    ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_MIN_FIELD_NUMBER: _ClassVar[int]
    PORT_MAX_FIELD_NUMBER: _ClassVar[int]
    CIDR_FIELD_NUMBER: _ClassVar[int]
    REFERENCED_GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    id: str
    group_id: str
    direction: SecurityRule.Direction
    protocol: SecurityRule.Protocol
    port_min: int
    port_max: int
    cidr: str
    referenced_group_id: str
    priority: int
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    estimated_price_per_hour: float
    def __init__(self, id: _Optional[str] = ..., group_id: _Optional[str] = ..., direction: _Optional[_Union[SecurityRule.Direction, str]] = ..., protocol: _Optional[_Union[SecurityRule.Protocol, str]] = ..., port_min: _Optional[int] = ..., port_max: _Optional[int] = ..., cidr: _Optional[str] = ..., referenced_group_id: _Optional[str] = ..., priority: _Optional[int] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_price_per_hour: _Optional[float] = ...) -> None: ...

class ListSecurityGroupsRequest(_message.Message):
    __slots__ = ("vpc_id", "page_size", "page_token")
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    vpc_id: str
    page_size: int
    page_token: str
    def __init__(self, vpc_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSecurityGroupsResponse(_message.Message):
    __slots__ = ("security_groups", "next_page_token")
    SECURITY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    security_groups: _containers.RepeatedCompositeFieldContainer[SecurityGroup]
    next_page_token: str
    def __init__(self, security_groups: _Optional[_Iterable[_Union[SecurityGroup, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateSecurityGroupRequest(_message.Message):
    __slots__ = ("vpc_id", "name", "description", "validate_only")
    VPC_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    vpc_id: str
    name: str
    description: str
    validate_only: bool
    def __init__(self, vpc_id: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetSecurityGroupRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteSecurityGroupRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CreateSecurityRuleRequest(_message.Message):
    __slots__ = ("id", "direction", "protocol", "port_min", "port_max", "cidr", "referenced_group_id", "priority", "validate_only")
    ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_MIN_FIELD_NUMBER: _ClassVar[int]
    PORT_MAX_FIELD_NUMBER: _ClassVar[int]
    CIDR_FIELD_NUMBER: _ClassVar[int]
    REFERENCED_GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    id: str
    direction: SecurityRule.Direction
    protocol: SecurityRule.Protocol
    port_min: int
    port_max: int
    cidr: str
    referenced_group_id: str
    priority: int
    validate_only: bool
    def __init__(self, id: _Optional[str] = ..., direction: _Optional[_Union[SecurityRule.Direction, str]] = ..., protocol: _Optional[_Union[SecurityRule.Protocol, str]] = ..., port_min: _Optional[int] = ..., port_max: _Optional[int] = ..., cidr: _Optional[str] = ..., referenced_group_id: _Optional[str] = ..., priority: _Optional[int] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetSecurityRuleRequest(_message.Message):
    __slots__ = ("rule_id",)
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    rule_id: str
    def __init__(self, rule_id: _Optional[str] = ...) -> None: ...

class DeleteSecurityRuleRequest(_message.Message):
    __slots__ = ("rule_id",)
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    rule_id: str
    def __init__(self, rule_id: _Optional[str] = ...) -> None: ...

class AttachSecurityGroupRequest(_message.Message):
    __slots__ = ("instance_id", "group_id")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    group_id: str
    def __init__(self, instance_id: _Optional[str] = ..., group_id: _Optional[str] = ...) -> None: ...

class DetachSecurityGroupRequest(_message.Message):
    __slots__ = ("instance_id", "group_id")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    group_id: str
    def __init__(self, instance_id: _Optional[str] = ..., group_id: _Optional[str] = ...) -> None: ...
