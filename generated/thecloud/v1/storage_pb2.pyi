import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import httpbody_pb2 as _httpbody_pb2
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

class Bucket(_message.Message):
    __slots__ = ("id", "name", "is_public", "versioning_enabled", "versioning", "encryption_enabled", "user_id", "tenant_id", "created_at", "estimated_price_per_hour")
    class Versioning(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERSIONING_UNSPECIFIED: _ClassVar[Bucket.Versioning]
        VERSIONING_OFF: _ClassVar[Bucket.Versioning]
        VERSIONING_ENABLED: _ClassVar[Bucket.Versioning]
        VERSIONING_SUSPENDED: _ClassVar[Bucket.Versioning]
    VERSIONING_UNSPECIFIED: Bucket.Versioning
    VERSIONING_OFF: Bucket.Versioning
    VERSIONING_ENABLED: Bucket.Versioning
    VERSIONING_SUSPENDED: Bucket.Versioning
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    VERSIONING_ENABLED_FIELD_NUMBER: _ClassVar[int]
    VERSIONING_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTION_ENABLED_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    is_public: bool
    versioning_enabled: bool
    versioning: Bucket.Versioning
    encryption_enabled: bool
    user_id: str
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    estimated_price_per_hour: float
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., is_public: _Optional[bool] = ..., versioning_enabled: _Optional[bool] = ..., versioning: _Optional[_Union[Bucket.Versioning, str]] = ..., encryption_enabled: _Optional[bool] = ..., user_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_price_per_hour: _Optional[float] = ...) -> None: ...

class Object(_message.Message):
    __slots__ = ("id", "bucket", "key", "size_bytes", "content_type", "checksum", "upload_status", "version_id", "is_latest", "etag", "arn", "user_id", "tenant_id", "created_at", "delete_marker", "properties", "tags", "is_public", "checksum_algorithm", "checksum_value", "parts_count", "encrypted")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_STATUS_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    IS_LATEST_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ARN_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    DELETE_MARKER_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    IS_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_VALUE_FIELD_NUMBER: _ClassVar[int]
    PARTS_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    id: str
    bucket: str
    key: str
    size_bytes: int
    content_type: str
    checksum: str
    upload_status: str
    version_id: str
    is_latest: bool
    etag: str
    arn: str
    user_id: str
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    delete_marker: bool
    properties: ObjectProperties
    tags: Tags
    is_public: bool
    checksum_algorithm: str
    checksum_value: str
    parts_count: int
    encrypted: bool
    def __init__(self, id: _Optional[str] = ..., bucket: _Optional[str] = ..., key: _Optional[str] = ..., size_bytes: _Optional[int] = ..., content_type: _Optional[str] = ..., checksum: _Optional[str] = ..., upload_status: _Optional[str] = ..., version_id: _Optional[str] = ..., is_latest: _Optional[bool] = ..., etag: _Optional[str] = ..., arn: _Optional[str] = ..., user_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delete_marker: _Optional[bool] = ..., properties: _Optional[_Union[ObjectProperties, _Mapping]] = ..., tags: _Optional[_Union[Tags, _Mapping]] = ..., is_public: _Optional[bool] = ..., checksum_algorithm: _Optional[str] = ..., checksum_value: _Optional[str] = ..., parts_count: _Optional[int] = ..., encrypted: _Optional[bool] = ...) -> None: ...

class ObjectColumns(_message.Message):
    __slots__ = ("id", "bucket", "key", "size_bytes", "content_type", "checksum", "upload_status", "version_id", "is_latest", "etag", "arn", "user_id", "tenant_id", "created_at_us", "delete_marker", "is_public", "checksum_algorithm", "checksum_value", "parts_count", "encrypted")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_STATUS_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    IS_LATEST_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ARN_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_US_FIELD_NUMBER: _ClassVar[int]
    DELETE_MARKER_FIELD_NUMBER: _ClassVar[int]
    IS_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_VALUE_FIELD_NUMBER: _ClassVar[int]
    PARTS_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    id: _containers.RepeatedScalarFieldContainer[str]
    bucket: str
    key: _containers.RepeatedScalarFieldContainer[str]
    size_bytes: _containers.RepeatedScalarFieldContainer[int]
    content_type: _containers.RepeatedScalarFieldContainer[str]
    checksum: _containers.RepeatedScalarFieldContainer[str]
    upload_status: str
    version_id: _containers.RepeatedScalarFieldContainer[str]
    is_latest: _containers.RepeatedScalarFieldContainer[bool]
    etag: _containers.RepeatedScalarFieldContainer[str]
    arn: _containers.RepeatedScalarFieldContainer[str]
    user_id: _containers.RepeatedScalarFieldContainer[str]
    tenant_id: str
    created_at_us: _containers.RepeatedScalarFieldContainer[int]
    delete_marker: _containers.RepeatedScalarFieldContainer[bool]
    is_public: _containers.RepeatedScalarFieldContainer[bool]
    checksum_algorithm: _containers.RepeatedScalarFieldContainer[str]
    checksum_value: _containers.RepeatedScalarFieldContainer[str]
    parts_count: _containers.RepeatedScalarFieldContainer[int]
    encrypted: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, id: _Optional[_Iterable[str]] = ..., bucket: _Optional[str] = ..., key: _Optional[_Iterable[str]] = ..., size_bytes: _Optional[_Iterable[int]] = ..., content_type: _Optional[_Iterable[str]] = ..., checksum: _Optional[_Iterable[str]] = ..., upload_status: _Optional[str] = ..., version_id: _Optional[_Iterable[str]] = ..., is_latest: _Optional[_Iterable[bool]] = ..., etag: _Optional[_Iterable[str]] = ..., arn: _Optional[_Iterable[str]] = ..., user_id: _Optional[_Iterable[str]] = ..., tenant_id: _Optional[str] = ..., created_at_us: _Optional[_Iterable[int]] = ..., delete_marker: _Optional[_Iterable[bool]] = ..., is_public: _Optional[_Iterable[bool]] = ..., checksum_algorithm: _Optional[_Iterable[str]] = ..., checksum_value: _Optional[_Iterable[str]] = ..., parts_count: _Optional[_Iterable[int]] = ..., encrypted: _Optional[_Iterable[bool]] = ...) -> None: ...

class ObjectProperties(_message.Message):
    __slots__ = ("content_type", "metadata", "headers")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    content_type: str
    metadata: _containers.ScalarMap[str, str]
    headers: _containers.ScalarMap[str, str]
    def __init__(self, content_type: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., headers: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Tags(_message.Message):
    __slots__ = ("tags",)
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TAGS_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.ScalarMap[str, str]
    def __init__(self, tags: _Optional[_Mapping[str, str]] = ...) -> None: ...

class MultipartUpload(_message.Message):
    __slots__ = ("id", "bucket", "key", "user_id", "tenant_id", "created_at", "properties", "tags", "is_public", "checksum_algorithm")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    IS_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    id: str
    bucket: str
    key: str
    user_id: str
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    properties: ObjectProperties
    tags: Tags
    is_public: bool
    checksum_algorithm: str
    def __init__(self, id: _Optional[str] = ..., bucket: _Optional[str] = ..., key: _Optional[str] = ..., user_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., properties: _Optional[_Union[ObjectProperties, _Mapping]] = ..., tags: _Optional[_Union[Tags, _Mapping]] = ..., is_public: _Optional[bool] = ..., checksum_algorithm: _Optional[str] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("upload_id", "part_number", "size_bytes", "etag", "md5", "checksum_algorithm", "checksum_value", "created_at")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    PART_NUMBER_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    MD5_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_VALUE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    part_number: int
    size_bytes: int
    etag: str
    md5: str
    checksum_algorithm: str
    checksum_value: str
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, upload_id: _Optional[str] = ..., part_number: _Optional[int] = ..., size_bytes: _Optional[int] = ..., etag: _Optional[str] = ..., md5: _Optional[str] = ..., checksum_algorithm: _Optional[str] = ..., checksum_value: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LifecycleRule(_message.Message):
    __slots__ = ("id", "bucket_name", "prefix", "expiration_days", "enabled", "user_id", "tenant_id", "created_at", "updated_at", "estimated_price_per_hour", "name", "noncurrent_days", "abort_upload_days", "expired_markers")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_NAME_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_DAYS_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NONCURRENT_DAYS_FIELD_NUMBER: _ClassVar[int]
    ABORT_UPLOAD_DAYS_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_MARKERS_FIELD_NUMBER: _ClassVar[int]
    id: str
    bucket_name: str
    prefix: str
    expiration_days: int
    enabled: bool
    user_id: str
    tenant_id: str
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    estimated_price_per_hour: float
    name: str
    noncurrent_days: int
    abort_upload_days: int
    expired_markers: bool
    def __init__(self, id: _Optional[str] = ..., bucket_name: _Optional[str] = ..., prefix: _Optional[str] = ..., expiration_days: _Optional[int] = ..., enabled: _Optional[bool] = ..., user_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., estimated_price_per_hour: _Optional[float] = ..., name: _Optional[str] = ..., noncurrent_days: _Optional[int] = ..., abort_upload_days: _Optional[int] = ..., expired_markers: _Optional[bool] = ...) -> None: ...

class LifecycleExpiry(_message.Message):
    __slots__ = ("rule_id", "action", "id", "key", "version_id", "size_bytes")
    class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACTION_UNSPECIFIED: _ClassVar[LifecycleExpiry.Action]
        ACTION_EXPIRE: _ClassVar[LifecycleExpiry.Action]
        ACTION_DELETE_VERSION: _ClassVar[LifecycleExpiry.Action]
        ACTION_DELETE_MARKER: _ClassVar[LifecycleExpiry.Action]
        ACTION_ABORT_UPLOAD: _ClassVar[LifecycleExpiry.Action]
    ACTION_UNSPECIFIED: LifecycleExpiry.Action
    ACTION_EXPIRE: LifecycleExpiry.Action
    ACTION_DELETE_VERSION: LifecycleExpiry.Action
    ACTION_DELETE_MARKER: LifecycleExpiry.Action
    ACTION_ABORT_UPLOAD: LifecycleExpiry.Action
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    rule_id: str
    action: LifecycleExpiry.Action
    id: str
    key: str
    version_id: str
    size_bytes: int
    def __init__(self, rule_id: _Optional[str] = ..., action: _Optional[_Union[LifecycleExpiry.Action, str]] = ..., id: _Optional[str] = ..., key: _Optional[str] = ..., version_id: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class StorageCluster(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[StorageNode]
    def __init__(self, nodes: _Optional[_Iterable[_Union[StorageNode, _Mapping]]] = ...) -> None: ...

class StorageNode(_message.Message):
    __slots__ = ("id", "address", "data_dir", "status", "last_seen", "scrubbed_at", "objects", "corrupt_objects", "missing_objects")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_DIR_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    SCRUBBED_AT_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    MISSING_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    data_dir: str
    status: str
    last_seen: _timestamp_pb2.Timestamp
    scrubbed_at: _timestamp_pb2.Timestamp
    objects: int
    corrupt_objects: int
    missing_objects: int
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ..., data_dir: _Optional[str] = ..., status: _Optional[str] = ..., last_seen: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., scrubbed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., objects: _Optional[int] = ..., corrupt_objects: _Optional[int] = ..., missing_objects: _Optional[int] = ...) -> None: ...

class ListBucketsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "own")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    own: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., own: _Optional[bool] = ...) -> None: ...

class ListBucketsResponse(_message.Message):
    __slots__ = ("buckets", "next_page_token")
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    buckets: _containers.RepeatedCompositeFieldContainer[Bucket]
    next_page_token: str
    def __init__(self, buckets: _Optional[_Iterable[_Union[Bucket, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateBucketRequest(_message.Message):
    __slots__ = ("name", "is_public", "validate_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    is_public: bool
    validate_only: bool
    def __init__(self, name: _Optional[str] = ..., is_public: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class DeleteBucketRequest(_message.Message):
    __slots__ = ("bucket", "force")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    force: bool
    def __init__(self, bucket: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class SetBucketVersioningRequest(_message.Message):
    __slots__ = ("bucket", "enabled")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    enabled: bool
    def __init__(self, bucket: _Optional[str] = ..., enabled: _Optional[bool] = ...) -> None: ...

class SetBucketVersioningResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: str
    def __init__(self, status: _Optional[str] = ...) -> None: ...

class ListObjectsRequest(_message.Message):
    __slots__ = ("bucket", "prefix", "page_size", "page_token", "as_columns")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AS_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    prefix: str
    page_size: int
    page_token: str
    as_columns: bool
    def __init__(self, bucket: _Optional[str] = ..., prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., as_columns: _Optional[bool] = ...) -> None: ...

class ListObjectsResponse(_message.Message):
    __slots__ = ("objects", "next_page_token", "columns")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[Object]
    next_page_token: str
    columns: ObjectColumns
    def __init__(self, objects: _Optional[_Iterable[_Union[Object, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., columns: _Optional[_Union[ObjectColumns, _Mapping]] = ...) -> None: ...

class UploadObjectRequest(_message.Message):
    __slots__ = ("bucket", "key", "content_sha256", "content_type", "data", "if_match", "if_none_match", "content_md5", "properties", "tags", "is_public", "checksum_algorithm", "checksum_value")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_SHA256_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_MD5_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    IS_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_VALUE_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    content_sha256: str
    content_type: str
    data: bytes
    if_match: str
    if_none_match: str
    content_md5: str
    properties: ObjectProperties
    tags: Tags
    is_public: bool
    checksum_algorithm: str
    checksum_value: str
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., content_sha256: _Optional[str] = ..., content_type: _Optional[str] = ..., data: _Optional[bytes] = ..., if_match: _Optional[str] = ..., if_none_match: _Optional[str] = ..., content_md5: _Optional[str] = ..., properties: _Optional[_Union[ObjectProperties, _Mapping]] = ..., tags: _Optional[_Union[Tags, _Mapping]] = ..., is_public: _Optional[bool] = ..., checksum_algorithm: _Optional[str] = ..., checksum_value: _Optional[str] = ...) -> None: ...

class DownloadObjectRequest(_message.Message):
    __slots__ = ("bucket", "key", "version_id", "range", "if_match", "if_none_match", "if_modified_since", "if_range", "if_unmodified_since", "part_number", "only_head")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_MODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    IF_RANGE_FIELD_NUMBER: _ClassVar[int]
    IF_UNMODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    PART_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ONLY_HEAD_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    version_id: str
    range: str
    if_match: str
    if_none_match: str
    if_modified_since: str
    if_range: str
    if_unmodified_since: str
    part_number: int
    only_head: bool
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., version_id: _Optional[str] = ..., range: _Optional[str] = ..., if_match: _Optional[str] = ..., if_none_match: _Optional[str] = ..., if_modified_since: _Optional[str] = ..., if_range: _Optional[str] = ..., if_unmodified_since: _Optional[str] = ..., part_number: _Optional[int] = ..., only_head: _Optional[bool] = ...) -> None: ...

class DeleteObjectRequest(_message.Message):
    __slots__ = ("bucket", "key", "version_id")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    version_id: str
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., version_id: _Optional[str] = ...) -> None: ...

class ListObjectVersionsRequest(_message.Message):
    __slots__ = ("bucket", "key", "page_size", "page_token")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    page_size: int
    page_token: str
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListObjectVersionsResponse(_message.Message):
    __slots__ = ("objects", "next_page_token")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[Object]
    next_page_token: str
    def __init__(self, objects: _Optional[_Iterable[_Union[Object, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetStorageClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BeginMultipartUploadRequest(_message.Message):
    __slots__ = ("bucket", "key", "properties", "tags", "is_public", "checksum_algorithm")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    IS_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    properties: ObjectProperties
    tags: Tags
    is_public: bool
    checksum_algorithm: str
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., properties: _Optional[_Union[ObjectProperties, _Mapping]] = ..., tags: _Optional[_Union[Tags, _Mapping]] = ..., is_public: _Optional[bool] = ..., checksum_algorithm: _Optional[str] = ...) -> None: ...

class UploadPartRequest(_message.Message):
    __slots__ = ("id", "part", "content_sha256", "data", "content_md5", "checksum_algorithm", "checksum_value", "object")
    ID_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    CONTENT_SHA256_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_MD5_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_VALUE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    id: str
    part: int
    content_sha256: str
    data: bytes
    content_md5: str
    checksum_algorithm: str
    checksum_value: str
    object: str
    def __init__(self, id: _Optional[str] = ..., part: _Optional[int] = ..., content_sha256: _Optional[str] = ..., data: _Optional[bytes] = ..., content_md5: _Optional[str] = ..., checksum_algorithm: _Optional[str] = ..., checksum_value: _Optional[str] = ..., object: _Optional[str] = ...) -> None: ...

class CompleteMultipartUploadRequest(_message.Message):
    __slots__ = ("id", "parts", "if_match", "if_none_match", "object", "checksum_algorithm", "checksum_value")
    ID_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_VALUE_FIELD_NUMBER: _ClassVar[int]
    id: str
    parts: _containers.RepeatedCompositeFieldContainer[PartReference]
    if_match: str
    if_none_match: str
    object: str
    checksum_algorithm: str
    checksum_value: str
    def __init__(self, id: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[PartReference, _Mapping]]] = ..., if_match: _Optional[str] = ..., if_none_match: _Optional[str] = ..., object: _Optional[str] = ..., checksum_algorithm: _Optional[str] = ..., checksum_value: _Optional[str] = ...) -> None: ...

class PartReference(_message.Message):
    __slots__ = ("part_number", "etag", "checksum_value")
    PART_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_VALUE_FIELD_NUMBER: _ClassVar[int]
    part_number: int
    etag: str
    checksum_value: str
    def __init__(self, part_number: _Optional[int] = ..., etag: _Optional[str] = ..., checksum_value: _Optional[str] = ...) -> None: ...

class AbortMultipartUploadRequest(_message.Message):
    __slots__ = ("id", "object")
    ID_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    id: str
    object: str
    def __init__(self, id: _Optional[str] = ..., object: _Optional[str] = ...) -> None: ...

class ListLifecycleRulesRequest(_message.Message):
    __slots__ = ("bucket", "page_size", "page_token")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    page_size: int
    page_token: str
    def __init__(self, bucket: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLifecycleRulesResponse(_message.Message):
    __slots__ = ("rules", "next_page_token")
    RULES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rules: _containers.RepeatedCompositeFieldContainer[LifecycleRule]
    next_page_token: str
    def __init__(self, rules: _Optional[_Iterable[_Union[LifecycleRule, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateLifecycleRuleRequest(_message.Message):
    __slots__ = ("bucket", "prefix", "expiration_days", "enabled", "validate_only", "name", "noncurrent_days", "abort_upload_days", "expired_markers")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_DAYS_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NONCURRENT_DAYS_FIELD_NUMBER: _ClassVar[int]
    ABORT_UPLOAD_DAYS_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_MARKERS_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    prefix: str
    expiration_days: int
    enabled: bool
    validate_only: bool
    name: str
    noncurrent_days: int
    abort_upload_days: int
    expired_markers: bool
    def __init__(self, bucket: _Optional[str] = ..., prefix: _Optional[str] = ..., expiration_days: _Optional[int] = ..., enabled: _Optional[bool] = ..., validate_only: _Optional[bool] = ..., name: _Optional[str] = ..., noncurrent_days: _Optional[int] = ..., abort_upload_days: _Optional[int] = ..., expired_markers: _Optional[bool] = ...) -> None: ...

class DeleteLifecycleRuleRequest(_message.Message):
    __slots__ = ("bucket", "id")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    id: str
    def __init__(self, bucket: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class LifecycleRuleSettings(_message.Message):
    __slots__ = ("name", "prefix", "expiration_days", "noncurrent_days", "abort_upload_days", "expired_markers", "enabled")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_DAYS_FIELD_NUMBER: _ClassVar[int]
    NONCURRENT_DAYS_FIELD_NUMBER: _ClassVar[int]
    ABORT_UPLOAD_DAYS_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_MARKERS_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    name: str
    prefix: str
    expiration_days: int
    noncurrent_days: int
    abort_upload_days: int
    expired_markers: bool
    enabled: bool
    def __init__(self, name: _Optional[str] = ..., prefix: _Optional[str] = ..., expiration_days: _Optional[int] = ..., noncurrent_days: _Optional[int] = ..., abort_upload_days: _Optional[int] = ..., expired_markers: _Optional[bool] = ..., enabled: _Optional[bool] = ...) -> None: ...

class SetLifecycleRulesRequest(_message.Message):
    __slots__ = ("bucket", "rules")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    rules: _containers.RepeatedCompositeFieldContainer[LifecycleRuleSettings]
    def __init__(self, bucket: _Optional[str] = ..., rules: _Optional[_Iterable[_Union[LifecycleRuleSettings, _Mapping]]] = ...) -> None: ...

class SetLifecycleRulesResponse(_message.Message):
    __slots__ = ("rules",)
    RULES_FIELD_NUMBER: _ClassVar[int]
    rules: _containers.RepeatedCompositeFieldContainer[LifecycleRule]
    def __init__(self, rules: _Optional[_Iterable[_Union[LifecycleRule, _Mapping]]] = ...) -> None: ...

class PreviewLifecycleRequest(_message.Message):
    __slots__ = ("bucket", "page_size", "page_token")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    page_size: int
    page_token: str
    def __init__(self, bucket: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class PreviewLifecycleResponse(_message.Message):
    __slots__ = ("expiries", "next_page_token", "total", "total_bytes")
    EXPIRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    expiries: _containers.RepeatedCompositeFieldContainer[LifecycleExpiry]
    next_page_token: str
    total: int
    total_bytes: int
    def __init__(self, expiries: _Optional[_Iterable[_Union[LifecycleExpiry, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total: _Optional[int] = ..., total_bytes: _Optional[int] = ...) -> None: ...
