"""The rows of object storage, and what becomes of them: which version of an object is the latest, and what goes.

A row of `objects` is one version, and its id is that of the blob that has its bytes. The blob is there, whole, before
the row is; when the row goes, its blob is left to `discard`. So what is to be seen is decided in one transaction, and
what no row knows is rubbish.
"""

import base64
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.dialects import postgresql
from thecloud.v1 import storage_pb2 as pb

from server import db
from server.db import METADATA, Owned, Tx
from server.errors import ApiError, invalid, not_found
from server.resources import arn

if TYPE_CHECKING:
    from server.bucket_access import Question

MOST_METADATA = 2048  # bytes


@db.row("buckets", "bucket", pb.Bucket)
class Bucket(Owned):
    user_id: UUID
    name: str
    is_public: bool
    versioning: str  # "OFF", "ENABLED", "SUSPENDED"
    encryption_enabled: bool  # of what is stored from now on
    deleted_at: datetime | None  # when it was; nobody sees it since
    tags: dict[str, str]
    cors: Any  # list of CorsRule, as plain data
    policy: str | None  # as it was set


@db.row("objects", "object", pb.Object)
class Object(Owned):
    user_id: UUID
    bucket_id: UUID
    bucket: str  # its name, which never changes
    key: str
    version_id: str
    is_latest: bool
    delete_marker: bool  # as the latest it hides the others; it has no blob
    size_bytes: int
    content_type: str
    checksum: str
    etag: str
    host: str  # that stored it; empty where every host has what is stored
    metadata: dict[str, Any]  # of the user's, by name
    headers: dict[str, Any]  # of its download
    tags: dict[str, Any]
    is_public: bool
    checksum_algorithm: str
    checksum_value: str
    parts_count: int  # of those it was made of, whose sizes are in SIZES
    inline: bool  # the blob is in the database: see small_objects.py
    wrapped_key: bytes | None  # of an encrypted blob: see object_encryption.py
    blob_checksum: str | None  # its SHA-256, which is not that of the object
    noncurrent_since: datetime | None  # when it was the latest no more
    verified_at: datetime | None  # when the scrubber last read it
    damage: str  # what that found: "CORRUPT", "MISSING", or "" for none


@db.row("multipart_uploads", "multipart_upload", pb.MultipartUpload)
class Upload(Owned):
    user_id: UUID
    bucket_id: UUID
    bucket: str
    key: str
    name: str  # "bucket/key", for policies
    content_type: str  # what follows is for the object
    metadata: dict[str, Any]
    headers: dict[str, Any]
    tags: dict[str, Any]
    is_public: bool
    checksum_algorithm: str


@db.row("upload_parts", "upload_part", pb.Part)
class Part(Owned):
    upload_id: UUID
    part_number: int
    size_bytes: int
    etag: str
    host: str
    md5: str
    checksum_algorithm: str
    checksum_value: str
    wrapped_key: bytes | None


@db.row("lifecycle_rules", "lifecycle_rule", pb.LifecycleRule)
class LifecycleRule(Owned):
    user_id: UUID
    bucket_id: UUID
    bucket_name: str
    prefix: str
    name: str
    expiration_days: int | None
    noncurrent_days: int | None
    abort_upload_days: int | None
    expired_markers: bool
    enabled: bool
    updated_at: datetime


USAGE = sa.Table(
    "storage_usage",  # kept by triggers
    METADATA,
    sa.Column("tenant_id", postgresql.UUID, primary_key=True),
    sa.Column("objects", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),  # of objects and of parts of uploads
    sa.Column("parts", sa.BigInteger, nullable=False),
)
SIZES = sa.Table(
    "object_parts",  # they go with the object
    METADATA,
    sa.Column("object_id", postgresql.UUID, primary_key=True),
    sa.Column("sizes", postgresql.ARRAY(sa.BigInteger), nullable=False),
)

B, O = Bucket.TABLE.c, Object.TABLE.c  # noqa: E741
_name = B.name == sa.bindparam("name", type_=sa.Text)
_tenant = B.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_there = B.deleted_at.is_(None)
_OWN = sa.select(Bucket.TABLE).where(_name, _there, _tenant)
_HELD = {False: _OWN.with_for_update(read=True, key_share=True), True: _OWN.with_for_update()}
_NAMED = sa.select(Bucket.TABLE).where(_name, _there)
_bucket = O.bucket_id == sa.bindparam("bucket_id", type_=postgresql.UUID)
_key = O.key == sa.bindparam("key", type_=sa.Text)
_version = O.version_id == sa.bindparam("version_id", type_=sa.Text)
_LATEST = sa.select(Object.TABLE).where(_bucket, _key, O.is_latest)
_VERSION = sa.select(Object.TABLE).where(_bucket, _key, _version)
_locks = db.together({"whole": sa.Text, "alone": sa.Text})
_of_bucket, _of_key = (sa.func.hashtextextended(name, 0) for name in _locks.c)
_ALONE = sa.select(sa.func.pg_advisory_xact_lock_shared(_of_bucket), sa.func.pg_advisory_xact_lock(_of_key))
_entered = _HELD[False].cte("bucket")
_each = db.together({"keys": sa.Text})
_its_bucket = sa.func.hashtextextended(sa.func.concat("objects/", _entered.c.id), 0)
_its_key = sa.func.hashtextextended(sa.func.concat("object/", _entered.c.id, "/", _each.c["keys"]), 0)
_both = sa.func.count(
    sa.tuple_(sa.func.pg_advisory_xact_lock_shared(_its_bucket), sa.func.pg_advisory_xact_lock(_its_key))
)
_locked = sa.select(_both).select_from(_each)
_ENTERED = sa.select(_entered).where(_locked.scalar_subquery() > 0)
_WHOLE = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("whole", type_=sa.Text), 0)))
_SIZES = sa.select(SIZES.c.sizes).where(SIZES.c.object_id == sa.bindparam("object_id", type_=postgresql.UUID))


async def own_bucket(
    tx: Tx, name: str, tenant_id: UUID, *, lock: bool = False, question: "Question | None" = None
) -> Bucket:
    """The tenant's bucket, which stays as long as the transaction does. Locked, nothing is put in meanwhile.

    Raises PERMISSION_DENIED where it has a policy that denies what is asked for, or that cannot be asked, since there
    is no question.
    """
    bucket = await held_bucket(tx, name, tenant_id, lock=lock)
    obey(bucket, question)
    return bucket


async def held_bucket(tx: Tx, name: str, tenant_id: UUID, *, lock: bool = False) -> Bucket:
    """What own_bucket() gives, whatever its policy says."""
    bucket = await db.first(tx, Bucket, _HELD[lock], name=name, tenant_id=tenant_id)
    if bucket is None:
        raise not_found("bucket", name)
    return bucket


async def entered_bucket(tx: Tx, name: str, tenant_id: UUID, keys: Iterable[str]) -> Bucket:
    """What held_bucket() gives; and nobody else changes the objects of these keys until the transaction ends."""
    bucket = await db.first(tx, Bucket, _ENTERED, name=name, tenant_id=tenant_id, keys=sorted(keys))
    if bucket is None:
        raise not_found("bucket", name)
    return bucket


async def readable_bucket(tx: Tx, name: str, tenant_id: UUID, *, question: "Question | None" = None) -> Bucket:
    """The bucket of this name, if it is the tenant's, as `own_bucket` has it, or lets others do what is asked for.
    Without a question that is so if it is public, and has no policy."""
    bucket = await named_bucket(tx, name)
    if bucket is None:
        raise not_found("bucket", name)
    if bucket.tenant_id == tenant_id:
        obey(bucket, question)
    elif not (question.granted(bucket) if question else bucket.is_public and bucket.policy is None):
        raise not_found("bucket", name)
    return bucket


async def named_bucket(tx: Tx, name: str) -> Bucket | None:
    """The bucket of this name, whosever it is."""
    return await db.first(tx, Bucket, _NAMED, name=name)


def obey(bucket: Bucket, question: "Question | None") -> None:
    """Raise PERMISSION_DENIED where the bucket has a policy that says so, or that has no question to go by."""
    if bucket.policy is None:
        return
    if question is None:
        raise ApiError("PERMISSION_DENIED", f"bucket {bucket.name} has a policy, which this cannot ask")
    question.obey(bucket)


def absent(bucket: Bucket, key: str, marker: Object | None = None) -> ApiError:
    """What is said of an object that is not there, or that this hides."""
    error = not_found("object", f"{bucket.name}/{key}")
    if marker:
        error.metadata |= {"delete_marker": "true", "version_id": marker.version_id}
    return error


async def version(tx: Tx, bucket: Bucket, key: str, version_id: str = "") -> Object | None:
    """The latest version of an object, or this one, be it a delete marker; None when there is none."""
    statement = _VERSION if version_id else _LATEST
    return await db.first(tx, Object, statement, bucket_id=bucket.id, key=key, version_id=version_id)


async def find(tx: Tx, bucket: Bucket, key: str, version_id: str = "") -> Object | None:
    """The latest version of an object, or this one; None when there is none, or it is a delete marker."""
    found = await version(tx, bucket, key, version_id)
    return None if found is None or found.delete_marker else found


async def sizes(tx: Tx, row: Object) -> Sequence[int]:
    """How large each of its parts is; of one that came as a whole, that."""
    found = await db.value(tx, _SIZES, object_id=row.id) if row.parts_count else None
    return found or [row.size_bytes]


async def alone(tx: Tx, *objects: tuple[Bucket, str]) -> None:
    """Have nobody else change the objects of these keys until the transaction ends."""
    names = sorted({(f"objects/{bucket.id}", f"object/{bucket.id}/{key}") for bucket, key in objects})
    await db.execute(tx, _ALONE, whole=[whole for whole, _ in names], alone=[alone for _, alone in names])


async def whole(tx: Tx, bucket: Bucket) -> None:
    """Have nobody else change any object of the bucket until the transaction ends."""
    await db.execute(tx, _WHOLE, whole=f"objects/{bucket.id}")


def named(row: Object, etags: str) -> bool:
    """Whether the object's ETag is in a list of them, or that is "*"."""
    each = [one.strip().removeprefix("W/").strip('"') for one in etags.split(",")]
    return "*" in each or row.etag in each


def shown_bucket(bucket: Bucket) -> pb.Bucket:
    enabled = bucket.versioning == "ENABLED"
    return db.to_message(bucket, versioning_enabled=enabled)  # type: ignore[no-any-return]


def shown(row: Object, **more: object) -> pb.Object:
    """One of several objects."""
    seen = {"tags": None, "encrypted": row.wrapped_key is not None} | more
    name = arn("storage", row.tenant_id, "object", f"{row.bucket}/{row.key}")
    return db.to_message(row, upload_status="AVAILABLE", arn=name, **seen)  # type: ignore[no-any-return]


def shown_whole(row: Object) -> pb.Object:
    """An object with all that is told along with it."""
    return shown(row, **_told(row))


def shown_upload(upload: Upload) -> pb.MultipartUpload:
    return db.to_message(upload, **_told(upload))  # type: ignore[no-any-return]


def _told(row: Object | Upload) -> dict[str, Message]:
    properties = pb.ObjectProperties(content_type=row.content_type, metadata=row.metadata, headers=row.headers)
    return {"properties": properties, "tags": pb.Tags(tags=row.tags)}


def told(properties: pb.ObjectProperties, tags: pb.Tags) -> dict[str, Any]:
    """The columns with what a request tells along with an object, but for its content type."""
    metadata = dict(properties.metadata)
    if "\0" in "".join((*metadata.values(), *tags.tags.keys(), *tags.tags.values())):
        raise invalid("", "text must not contain the zero character")
    if sum(len(name) + len(value.encode()) for name, value in metadata.items()) > MOST_METADATA:
        raise invalid("properties.metadata", f"names and values have at most {MOST_METADATA} bytes together")
    return {"metadata": metadata, "headers": dict(properties.headers), "tags": dict(tags.tags)}


def beyond(prefix: str) -> str | None:
    """The first text, in the order of bytes, after all that begin with this one; None when there is none."""
    while prefix:
        following = ord(prefix[-1]) + 1
        if following == 0xD800:  # surrogates are no characters
            following = 0xE000
        if following <= 0x10FFFF:
            return prefix[:-1] + chr(following)
        prefix = prefix[:-1]
    return None


def key_token(key: str) -> str:
    """The token of the page that follows on this key."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def read_key(token: str) -> str:
    try:
        return base64.b64decode(token, b"-_", validate=True).decode()
    except ValueError:
        raise invalid("page_token", "this is not a page token of this list; leave it out to start anew") from None
