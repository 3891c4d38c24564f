"""Objects as lists show them: messages of records that have just what is shown.

A list has up to 1,000 of them. Rows of all columns, and messages of those, take three times as long.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from thecloud.v1 import storage_pb2 as pb

from server.messages import EPOCH
from server.object_rows import Bucket, O
from server.resources import arn

SECOND = 1_000_000  # microseconds
LISTED = (
    sa.cast(O.id, sa.Text).label("id"), O.key, O.version_id, O.is_latest, O.delete_marker, O.size_bytes,
    O.content_type, O.checksum, O.etag, O.is_public, O.checksum_algorithm, O.checksum_value, O.parts_count,
    O.wrapped_key.is_not(None).label("encrypted"), sa.cast(O.user_id, sa.Text).label("user_id"),
    sa.cast(sa.extract("epoch", O.created_at) * SECOND, sa.BigInteger).label("created_at_us"),  # faster than a moment
)  # fmt: skip
NAMES = [column.name for column in LISTED]
BRIEF = ("key", "size_bytes", "etag", "created_at_us", "checksum_algorithm", "checksum_value")


def add(objects: Any, bucket: Bucket, records: Iterable[Any]) -> None:
    """Add the bucket's objects to the field of a message. The records have the columns LISTED."""
    name, tenant_id, place, new = bucket.name, str(bucket.tenant_id), _place(bucket), objects.add
    for (
        id, key, version_id, is_latest, delete_marker, size_bytes, content_type, checksum, etag, is_public, algorithm,
        checksum_value, parts_count, encrypted, user_id, created_at_us, *_,
    ) in records:  # fmt: skip
        each = new()
        each.id, each.bucket, each.key, each.arn, each.tenant_id = id, name, key, place + key, tenant_id
        each.version_id, each.is_latest, each.delete_marker = version_id, is_latest, delete_marker
        each.size_bytes, each.content_type, each.checksum, each.etag = size_bytes, content_type, checksum, etag
        each.is_public, each.checksum_algorithm, each.checksum_value = is_public, algorithm, checksum_value
        each.parts_count, each.encrypted, each.user_id = parts_count, encrypted, user_id
        each.upload_status, at = "AVAILABLE", each.created_at
        at.seconds, microseconds = divmod(created_at_us, SECOND)
        at.nanos = 1000 * microseconds


def tell(columns: pb.ObjectColumns, bucket: Bucket, records: Sequence[Any], names: Iterable[str] = BRIEF) -> None:
    """Put what S3's lists tell of the bucket's objects into a message. The records have the columns LISTED."""
    columns.tenant_id = str(bucket.tenant_id)
    for name, values in zip(NAMES, zip(*records, strict=True), strict=False):
        if name in names:
            getattr(columns, name).extend(values)


def tell_all(columns: pb.ObjectColumns, bucket: Bucket, records: Sequence[Any]) -> None:
    """Put all that lists show of them into it."""
    tell(columns, bucket, records, NAMES)
    columns.bucket, columns.upload_status, place = bucket.name, "AVAILABLE", _place(bucket)
    columns.arn.extend([place + each["key"] for each in records])


def _place(bucket: Bucket) -> str:
    """What the ARNs of its objects begin with."""
    return arn("storage", bucket.tenant_id, "object", f"{bucket.name}/")


def moment(created_at_us: int) -> datetime:
    """The moment that is so many microseconds after 1970 began."""
    return EPOCH + timedelta(microseconds=created_at_us)
