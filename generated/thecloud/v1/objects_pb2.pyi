from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from thecloud.v1 import options_pb2 as _options_pb2
from thecloud.v1 import storage_pb2 as _storage_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListObjectKeysRequest(_message.Message):
    __slots__ = ("bucket", "prefix", "delimiter", "after", "page_size", "as_columns")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    DELIMITER_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    AS_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    prefix: str
    delimiter: str
    after: str
    page_size: int
    as_columns: bool
    def __init__(self, bucket: _Optional[str] = ..., prefix: _Optional[str] = ..., delimiter: _Optional[str] = ..., after: _Optional[str] = ..., page_size: _Optional[int] = ..., as_columns: _Optional[bool] = ...) -> None: ...

class ListObjectKeysResponse(_message.Message):
    __slots__ = ("objects", "common_prefixes", "next_after", "columns")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    COMMON_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[_storage_pb2.Object]
    common_prefixes: _containers.RepeatedScalarFieldContainer[str]
    next_after: str
    columns: _storage_pb2.ObjectColumns
    def __init__(self, objects: _Optional[_Iterable[_Union[_storage_pb2.Object, _Mapping]]] = ..., common_prefixes: _Optional[_Iterable[str]] = ..., next_after: _Optional[str] = ..., columns: _Optional[_Union[_storage_pb2.ObjectColumns, _Mapping]] = ...) -> None: ...

class ListAllVersionsRequest(_message.Message):
    __slots__ = ("bucket", "prefix", "delimiter", "after_key", "after_version_id", "page_size")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    DELIMITER_FIELD_NUMBER: _ClassVar[int]
    AFTER_KEY_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    prefix: str
    delimiter: str
    after_key: str
    after_version_id: str
    page_size: int
    def __init__(self, bucket: _Optional[str] = ..., prefix: _Optional[str] = ..., delimiter: _Optional[str] = ..., after_key: _Optional[str] = ..., after_version_id: _Optional[str] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListAllVersionsResponse(_message.Message):
    __slots__ = ("objects", "common_prefixes", "next_after_key", "next_after_version_id")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    COMMON_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_KEY_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[_storage_pb2.Object]
    common_prefixes: _containers.RepeatedScalarFieldContainer[str]
    next_after_key: str
    next_after_version_id: str
    def __init__(self, objects: _Optional[_Iterable[_Union[_storage_pb2.Object, _Mapping]]] = ..., common_prefixes: _Optional[_Iterable[str]] = ..., next_after_key: _Optional[str] = ..., next_after_version_id: _Optional[str] = ...) -> None: ...

class CopyObjectRequest(_message.Message):
    __slots__ = ("bucket", "key", "source_bucket", "source_key", "source_version_id", "source_if_match", "source_if_none_match", "source_if_modified_since", "source_if_unmodified_since", "if_match", "if_none_match", "properties", "tags", "is_public", "checksum_algorithm")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BUCKET_FIELD_NUMBER: _ClassVar[int]
    SOURCE_KEY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IF_MODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IF_UNMODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    IS_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    source_bucket: str
    source_key: str
    source_version_id: str
    source_if_match: str
    source_if_none_match: str
    source_if_modified_since: str
    source_if_unmodified_since: str
    if_match: str
    if_none_match: str
    properties: _storage_pb2.ObjectProperties
    tags: _storage_pb2.Tags
    is_public: bool
    checksum_algorithm: str
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., source_bucket: _Optional[str] = ..., source_key: _Optional[str] = ..., source_version_id: _Optional[str] = ..., source_if_match: _Optional[str] = ..., source_if_none_match: _Optional[str] = ..., source_if_modified_since: _Optional[str] = ..., source_if_unmodified_since: _Optional[str] = ..., if_match: _Optional[str] = ..., if_none_match: _Optional[str] = ..., properties: _Optional[_Union[_storage_pb2.ObjectProperties, _Mapping]] = ..., tags: _Optional[_Union[_storage_pb2.Tags, _Mapping]] = ..., is_public: _Optional[bool] = ..., checksum_algorithm: _Optional[str] = ...) -> None: ...

class CopyPartRequest(_message.Message):
    __slots__ = ("id", "part", "source_bucket", "source_key", "source_version_id", "source_range", "source_if_match", "source_if_none_match", "source_if_modified_since", "source_if_unmodified_since", "object")
    ID_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BUCKET_FIELD_NUMBER: _ClassVar[int]
    SOURCE_KEY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_RANGE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IF_MODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IF_UNMODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    id: str
    part: int
    source_bucket: str
    source_key: str
    source_version_id: str
    source_range: str
    source_if_match: str
    source_if_none_match: str
    source_if_modified_since: str
    source_if_unmodified_since: str
    object: str
    def __init__(self, id: _Optional[str] = ..., part: _Optional[int] = ..., source_bucket: _Optional[str] = ..., source_key: _Optional[str] = ..., source_version_id: _Optional[str] = ..., source_range: _Optional[str] = ..., source_if_match: _Optional[str] = ..., source_if_none_match: _Optional[str] = ..., source_if_modified_since: _Optional[str] = ..., source_if_unmodified_since: _Optional[str] = ..., object: _Optional[str] = ...) -> None: ...

class DeleteObjectsRequest(_message.Message):
    __slots__ = ("bucket", "objects")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    objects: _containers.RepeatedCompositeFieldContainer[ObjectReference]
    def __init__(self, bucket: _Optional[str] = ..., objects: _Optional[_Iterable[_Union[ObjectReference, _Mapping]]] = ...) -> None: ...

class ObjectReference(_message.Message):
    __slots__ = ("key", "version_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    version_id: str
    def __init__(self, key: _Optional[str] = ..., version_id: _Optional[str] = ...) -> None: ...

class DeleteObjectsResponse(_message.Message):
    __slots__ = ("deleted", "errors")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    deleted: _containers.RepeatedCompositeFieldContainer[DeletedObject]
    errors: _containers.RepeatedCompositeFieldContainer[UndeletedObject]
    def __init__(self, deleted: _Optional[_Iterable[_Union[DeletedObject, _Mapping]]] = ..., errors: _Optional[_Iterable[_Union[UndeletedObject, _Mapping]]] = ...) -> None: ...

class DeletedObject(_message.Message):
    __slots__ = ("key", "version_id", "delete_marker", "delete_marker_version_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    DELETE_MARKER_FIELD_NUMBER: _ClassVar[int]
    DELETE_MARKER_VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    key: str
    version_id: str
    delete_marker: bool
    delete_marker_version_id: str
    def __init__(self, key: _Optional[str] = ..., version_id: _Optional[str] = ..., delete_marker: _Optional[bool] = ..., delete_marker_version_id: _Optional[str] = ...) -> None: ...

class UndeletedObject(_message.Message):
    __slots__ = ("key", "version_id", "reason", "message")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    key: str
    version_id: str
    reason: str
    message: str
    def __init__(self, key: _Optional[str] = ..., version_id: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ListMultipartUploadsRequest(_message.Message):
    __slots__ = ("bucket", "prefix", "delimiter", "after_key", "after_id", "page_size")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    DELIMITER_FIELD_NUMBER: _ClassVar[int]
    AFTER_KEY_FIELD_NUMBER: _ClassVar[int]
    AFTER_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    prefix: str
    delimiter: str
    after_key: str
    after_id: str
    page_size: int
    def __init__(self, bucket: _Optional[str] = ..., prefix: _Optional[str] = ..., delimiter: _Optional[str] = ..., after_key: _Optional[str] = ..., after_id: _Optional[str] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListMultipartUploadsResponse(_message.Message):
    __slots__ = ("uploads", "common_prefixes", "next_after_key", "next_after_id")
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    COMMON_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_KEY_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_ID_FIELD_NUMBER: _ClassVar[int]
    uploads: _containers.RepeatedCompositeFieldContainer[_storage_pb2.MultipartUpload]
    common_prefixes: _containers.RepeatedScalarFieldContainer[str]
    next_after_key: str
    next_after_id: str
    def __init__(self, uploads: _Optional[_Iterable[_Union[_storage_pb2.MultipartUpload, _Mapping]]] = ..., common_prefixes: _Optional[_Iterable[str]] = ..., next_after_key: _Optional[str] = ..., next_after_id: _Optional[str] = ...) -> None: ...

class ListPartsRequest(_message.Message):
    __slots__ = ("id", "after", "page_size", "object")
    ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    id: str
    after: int
    page_size: int
    object: str
    def __init__(self, id: _Optional[str] = ..., after: _Optional[int] = ..., page_size: _Optional[int] = ..., object: _Optional[str] = ...) -> None: ...

class ListPartsResponse(_message.Message):
    __slots__ = ("parts", "next_after", "upload")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[_storage_pb2.Part]
    next_after: int
    upload: _storage_pb2.MultipartUpload
    def __init__(self, parts: _Optional[_Iterable[_Union[_storage_pb2.Part, _Mapping]]] = ..., next_after: _Optional[int] = ..., upload: _Optional[_Union[_storage_pb2.MultipartUpload, _Mapping]] = ...) -> None: ...

class SetObjectTagsRequest(_message.Message):
    __slots__ = ("bucket", "key", "version_id", "tags")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    version_id: str
    tags: _storage_pb2.Tags
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., version_id: _Optional[str] = ..., tags: _Optional[_Union[_storage_pb2.Tags, _Mapping]] = ...) -> None: ...

class SetObjectAccessRequest(_message.Message):
    __slots__ = ("bucket", "key", "version_id", "is_public")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    IS_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    version_id: str
    is_public: bool
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., version_id: _Optional[str] = ..., is_public: _Optional[bool] = ...) -> None: ...

class GetObjectRequest(_message.Message):
    __slots__ = ("bucket", "key", "version_id")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: str
    version_id: str
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[str] = ..., version_id: _Optional[str] = ...) -> None: ...
