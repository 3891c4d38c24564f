from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.rpc import code_pb2 as _code_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
RULE_FIELD_NUMBER: _ClassVar[int]
rule: _descriptor.FieldDescriptor
REST_FIELD_NUMBER: _ClassVar[int]
rest: _descriptor.FieldDescriptor
JSON_FIELD_NUMBER: _ClassVar[int]
json: _descriptor.FieldDescriptor
ERROR_FIELD_NUMBER: _ClassVar[int]
error: _descriptor.FieldDescriptor
HEADER_FIELD_NUMBER: _ClassVar[int]
header: _descriptor.FieldDescriptor
QUERY_FIELD_NUMBER: _ClassVar[int]
query: _descriptor.FieldDescriptor

class ErrorRule(_message.Message):
    __slots__ = ("code", "http", "json")
    CODE_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    code: _code_pb2.Code
    http: int
    json: str
    def __init__(self, code: _Optional[_Union[_code_pb2.Code, str]] = ..., http: _Optional[int] = ..., json: _Optional[str] = ...) -> None: ...

class Rule(_message.Message):
    __slots__ = ("anyone", "signed_in", "permission", "target", "audit", "quota", "rate_limit", "live", "tenant_field", "action", "wider_permission", "deadline_seconds", "each")
    ANYONE_FIELD_NUMBER: _ClassVar[int]
    SIGNED_IN_FIELD_NUMBER: _ClassVar[int]
    PERMISSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    RATE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    WIDER_PERMISSION_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EACH_FIELD_NUMBER: _ClassVar[int]
    anyone: bool
    signed_in: bool
    permission: str
    target: str
    audit: str
    quota: _containers.RepeatedScalarFieldContainer[str]
    rate_limit: RateLimit
    live: bool
    tenant_field: str
    action: str
    wider_permission: str
    deadline_seconds: int
    each: bool
    def __init__(self, anyone: _Optional[bool] = ..., signed_in: _Optional[bool] = ..., permission: _Optional[str] = ..., target: _Optional[str] = ..., audit: _Optional[str] = ..., quota: _Optional[_Iterable[str]] = ..., rate_limit: _Optional[_Union[RateLimit, _Mapping]] = ..., live: _Optional[bool] = ..., tenant_field: _Optional[str] = ..., action: _Optional[str] = ..., wider_permission: _Optional[str] = ..., deadline_seconds: _Optional[int] = ..., each: _Optional[bool] = ...) -> None: ...

class RateLimit(_message.Message):
    __slots__ = ("per_minute", "key", "bucket")
    class Key(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KEY_UNSPECIFIED: _ClassVar[RateLimit.Key]
        KEY_ADDRESS: _ClassVar[RateLimit.Key]
        KEY_CALLER: _ClassVar[RateLimit.Key]
    KEY_UNSPECIFIED: RateLimit.Key
    KEY_ADDRESS: RateLimit.Key
    KEY_CALLER: RateLimit.Key
    PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    per_minute: int
    key: RateLimit.Key
    bucket: str
    def __init__(self, per_minute: _Optional[int] = ..., key: _Optional[_Union[RateLimit.Key, str]] = ..., bucket: _Optional[str] = ...) -> None: ...

class Rest(_message.Message):
    __slots__ = ("status", "message", "add_message", "bare", "status_by", "statuses")
    class StatusByEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ADD_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    BARE_FIELD_NUMBER: _ClassVar[int]
    STATUS_BY_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    status: int
    message: str
    add_message: str
    bare: bool
    status_by: _containers.ScalarMap[str, int]
    statuses: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, status: _Optional[int] = ..., message: _Optional[str] = ..., add_message: _Optional[str] = ..., bare: _Optional[bool] = ..., status_by: _Optional[_Mapping[str, int]] = ..., statuses: _Optional[_Iterable[int]] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("status", "headers")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    status: int
    headers: _containers.ScalarMap[str, str]
    def __init__(self, status: _Optional[int] = ..., headers: _Optional[_Mapping[str, str]] = ...) -> None: ...
