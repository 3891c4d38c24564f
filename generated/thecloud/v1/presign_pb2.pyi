from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.api import httpbody_pb2 as _httpbody_pb2
from thecloud.v1 import options_pb2 as _options_pb2
from thecloud.v1 import storage_pb2 as _storage_pb2
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

class DownloadPresignedRequest(_message.Message):
    __slots__ = ("bucket", "key", "expires", "signature", "range", "if_match", "if_none_match", "if_modified_since", "if_range", "if_unmodified_since")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_MODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    IF_RANGE_FIELD_NUMBER: _ClassVar[int]
    IF_UNMODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    expires: int
    signature: str
    range: str
    if_match: str
    if_none_match: str
    if_modified_since: str
    if_range: str
    if_unmodified_since: str
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., expires: _Optional[int] = ..., signature: _Optional[str] = ..., range: _Optional[str] = ..., if_match: _Optional[str] = ..., if_none_match: _Optional[str] = ..., if_modified_since: _Optional[str] = ..., if_range: _Optional[str] = ..., if_unmodified_since: _Optional[str] = ...) -> None: ...

class UploadPresignedRequest(_message.Message):
    __slots__ = ("bucket", "key", "expires", "signature", "content_sha256", "content_type", "content_md5", "if_match", "if_none_match", "data")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_SHA256_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_MD5_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    expires: int
    signature: str
    content_sha256: str
    content_type: str
    content_md5: str
    if_match: str
    if_none_match: str
    data: bytes
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., expires: _Optional[int] = ..., signature: _Optional[str] = ..., content_sha256: _Optional[str] = ..., content_type: _Optional[str] = ..., content_md5: _Optional[str] = ..., if_match: _Optional[str] = ..., if_none_match: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...
