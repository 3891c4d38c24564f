"""Which version of an object a request means, and whether its caller may read that."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.bucket_access import Question
from server.db import Database, Tx
from server.errors import not_found
from server.groups import Groups
from server.object_rows import B, Bucket, O, Object, absent
from server.small_objects import BLOBS

Found = tuple[Bucket, Object | None]

_OF_BUCKET, _OF_OBJECT = tuple(B.keys()), tuple(O.keys())
_CUT = len(_OF_BUCKET)
_there = B.deleted_at.is_(None)
_NAMED = sa.select(Bucket.TABLE).where(
    B.name == sa.any_(sa.bindparam("names", type_=postgresql.ARRAY(sa.Text))), _there
)
_both = sa.select(Bucket.TABLE, Object.TABLE).where(B.name == sa.bindparam("name", type_=sa.Text), _there)
_key = O.key == sa.bindparam("key", type_=sa.Text)
_BOTH_LATEST, _BOTH_VERSION = (
    _both.select_from(sa.outerjoin(Bucket.TABLE, Object.TABLE, sa.and_(O.bucket_id == B.id, _key, one)))
    for one in (O.is_latest, O.version_id == sa.bindparam("version_id", type_=sa.Text))
)

_asked = db.together({"names": sa.Text, "keys": sa.Text, "read": sa.Boolean}, numbered="number")
_one: Any = sa.literal_column("1")  # has the planner use the index for each, whatever it thinks of the tables
_bucket = sa.select(Bucket.TABLE).where(B.name == _asked.c.names, _there).limit(_one).lateral("bucket")
_object = (
    sa.select(Object.TABLE)
    .where(O.bucket_id == _bucket.c.id, O.key == _asked.c["keys"], O.is_latest)
    .limit(_one)
    .lateral("object")
)
_blob = (
    sa.select(BLOBS.c.data)
    .where(BLOBS.c.id == _object.c.id, _object.c.inline, _asked.c.read)
    .limit(_one)
    .lateral("blob")
)
_EACH_LATEST = (
    sa.select(*_bucket.c, *_object.c, _blob.c.data)
    .select_from(_asked.outerjoin(_bucket, sa.true()).outerjoin(_object, sa.true()).outerjoin(_blob, sa.true()))
    .order_by(_asked.c.number)
)


class ObjectLookups:
    """Looks up what is read or written to, for many at once: to run a statement costs more than what it finds."""

    def __init__(self, database: Database, seconds: float) -> None:
        """`seconds`: how long a statement may take."""
        self._db, self._seconds = database, seconds
        self._buckets, self._latest = Groups(self._named), Groups(self._both)

    async def bucket(self, name: str) -> Bucket | None:
        """The bucket of this name, whosever it is."""
        return None if "\0" in name else await self._buckets.join(None, name)

    async def readable(self, question: Question) -> tuple[Bucket, Object, bytes | None]:
        """What readable() below tells, and the blob if it has come along."""
        request = question.request
        if request.version_id or "\0" in request.bucket + request.key:  # which the database turns down
            async with self._db.reading() as tx:
                return *(await readable(tx, question)), None
        found, data = await self._latest.join(None, (request.bucket, request.key, not request.only_head))
        return *_may_read(question, found), data

    async def _named(self, _: None, asked: Callable[[], Sequence[str]]) -> Sequence[Bucket | None]:
        names = asked()
        async with asyncio.timeout(self._seconds), self._db.reading() as tx:
            found = {bucket.name: bucket for bucket in await db.rows(tx, Bucket, _NAMED, names=[*{*names}])}
        return [found.get(name) for name in names]

    async def _both(
        self, _: None, asked: Callable[[], Sequence[tuple[str, str, bool]]]
    ) -> Sequence[tuple[Found | None, bytes | None]]:
        names, keys, read = zip(*asked(), strict=True)
        async with asyncio.timeout(self._seconds), self._db.reading() as tx:
            found = await db.records(tx, _EACH_LATEST, names=names, keys=keys, read=read)
        return [(_found(each), each["data"]) for each in found]


async def readable(tx: Tx, question: Question) -> tuple[Bucket, Object]:
    """The bucket, and the version of an object in it that a request names, the latest without `version_id`, if the
    caller's tenant has it or others may read it. Raises NOT_FOUND, which tells of a delete marker."""
    request = question.request
    both = _BOTH_VERSION if request.version_id else _BOTH_LATEST
    found = await db.record(tx, both, name=request.bucket, key=request.key, version_id=request.version_id)
    return _may_read(question, found and _found(found))


def _found(record: Any) -> Found | None:
    bucket = dict(zip(_OF_BUCKET, record[:_CUT], strict=True))
    row = dict(zip(_OF_OBJECT, record[_CUT : _CUT + len(_OF_OBJECT)], strict=True))
    return (db.made(Bucket, bucket), db.made(Object, row) if row["id"] else None) if bucket["id"] else None


def _may_read(question: Question, found: Found | None) -> tuple[Bucket, Object]:
    request = question.request
    if found is None:
        raise not_found("bucket", request.bucket)
    bucket, row = found
    if bucket.tenant_id == question.call.tenant:
        question.obey(bucket)
    elif not question.granted(bucket, row):
        raise not_found("bucket", request.bucket)
    if row is None or row.delete_marker:
        raise absent(bucket, request.key, row)
    return bucket, row
