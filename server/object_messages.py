"""Objects as lists show them: messages of records that have just what is shown.

A list has up to 1,000 of them. Rows of all columns, and messages of those, take three times as long.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from thecloud.v1 import objects_pb2 as pb

from server.messages import EPOCH
from server.object_rows import Bucket, O
from server.resources import arn

SECOND = 1_000_000  # microseconds
LISTED = (
    sa.cast(O.id, sa.Text).label("id"), O.key, O.version_id, O.is_latest, O.delete_marker, O.size_bytes,
    O.content_type, O.checksum, O.etag, O.is_public, O.checksum_algorithm, O.checksum_value, O.parts_count,
    O.wrapped_key.is_not(None).label("encrypted"), sa.cast(O.user_id, sa.Text).label("user_id"),
    sa.cast(sa.extract("epoch", O.created_at) * SECOND, sa.BigInteger).label("created"),  # a moment is slow to read
)  # fmt: skip


def add(objects: Any, bucket: Bucket, records: Iterable[Any]) -> None:
    """Add the bucket's objects to the field of a message. The records have the columns LISTED."""
    name, tenant_id = bucket.name, str(bucket.tenant_id)
    place, new = arn("storage", tenant_id, "object", f"{name}/"), objects.add
    for (
        id, key, version_id, is_latest, delete_marker, size_bytes, content_type, checksum, etag, is_public, algorithm,
        checksum_value, parts_count, encrypted, user_id, created, *_,
    ) in records:  # fmt: skip
        each = new()
        each.id, each.bucket, each.key, each.arn, each.tenant_id = id, name, key, place + key, tenant_id
        each.version_id, each.is_latest, each.delete_marker = version_id, is_latest, delete_marker
        each.size_bytes, each.content_type, each.checksum, each.etag = size_bytes, content_type, checksum, etag
        each.is_public, each.checksum_algorithm, each.checksum_value = is_public, algorithm, checksum_value
        each.parts_count, each.encrypted, each.user_id = parts_count, encrypted, user_id
        each.upload_status, at = "AVAILABLE", each.created_at
        at.seconds, microseconds = divmod(created, SECOND)
        at.nanos = 1000 * microseconds


def columns(bucket: Bucket, records: Sequence[Any]) -> pb.ObjectColumns:
    """The bucket's objects, of records with the columns LISTED."""
    found = pb.ObjectColumns(tenant_id=str(bucket.tenant_id), created_at_us=[each["created"] for each in records])
    for name in ("key", "size_bytes", "etag", "checksum_algorithm", "checksum_value"):
        getattr(found, name).extend([each[name] for each in records])
    return found


def moment(created: int) -> datetime:
    """The moment of the column `created`."""
    return EPOCH + timedelta(microseconds=created)
