"""Which version of an object is the latest: what is added to a bucket, hidden, and taken out of it for good."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import changes, db, small_objects
from server.db import Tx
from server.errors import ApiError
from server.object_rows import SIZES, Bucket, O, Object, Part, absent, alone, find, named, version
from server.work import NEVER, WORK

UNVERSIONED = "null"

_places = db.together({"buckets": postgresql.UUID, "keys": sa.Text})
_LATEST = sa.select(Object.TABLE).join(
    _places, sa.and_(O.bucket_id == _places.c.buckets, O.key == _places.c["keys"], O.is_latest)
)
_given = O.id == sa.any_(sa.bindparam("ids", type_=postgresql.ARRAY(postgresql.UUID)))
_now = {"is_latest": sa.false(), "noncurrent_since": sa.func.clock_timestamp()}
_NO_LONGER_LATEST = sa.update(Object.TABLE).where(_given).values(_now).returning(Object.TABLE)
_bucket = O.bucket_id == sa.bindparam("bucket_id", type_=postgresql.UUID)
_key = O.key == sa.bindparam("key", type_=sa.Text)
_NEWEST = sa.select(Object.TABLE).where(_bucket, _key).order_by(O.created_at.desc(), O.id.desc()).limit(1)
_KEPT = sa.select(O.id).where(_bucket, _key, ~O.delete_marker).limit(1)
_MARKERS = sa.select(Object.TABLE).where(_bucket, _key, O.delete_marker)
_dropped = sa.delete(Object.TABLE).where(_given).returning(O.id, O.host, O.delete_marker, O.inline).cte("dropped")
_gone = db.together({"blobs": postgresql.UUID, "hosts": sa.Text})


def _discarding(id: Any, host: Any, *which: Any) -> sa.Insert:
    """Has the blobs deleted, on their hosts."""
    columns = {"kind": sa.literal("blob"), "id": id, "host": sa.func.nullif(host, ""), "due_at": sa.func.now(),
               "leased_until": NEVER, "wakes": sa.literal(1), "attempts": sa.literal(0)}  # fmt: skip
    return (
        postgresql.insert(WORK)
        .from_select([*columns], sa.select(*columns.values()).where(*which))
        .on_conflict_do_nothing()
    )


_DROP = _discarding(_dropped.c.id, _dropped.c.host, ~_dropped.c.delete_marker, ~_dropped.c.inline)
_DISCARD = _discarding(_gone.c.blobs, _gone.c.hosts)


@dataclass(frozen=True, kw_only=True)
class Put:
    """A version that is to be the latest of an object."""

    tx: Tx  # of who puts it
    bucket: Bucket
    key: str
    columns: dict[str, Any]  # of its row; the same ones as of what is put with it
    data: bytes | None = None  # the blob, where it is to be kept with the row
    delete_marker: bool = False
    part_sizes: Sequence[int] = ()
    if_match: str = ""
    if_none_match: str = ""

    @property
    def place(self) -> tuple[UUID, str]:
        return self.bucket.id, self.key


def judge(bucket: Bucket, key: str, latest: Object | None, if_match: str, if_none_match: str) -> None:
    """Raise unless this may be replaced: PRECONDITION_FAILED, or NOT_FOUND where an object is wanted and none there."""
    there = None if latest is None or latest.delete_marker else latest
    if if_match and there is None:
        raise absent(bucket, key)
    if there and ((if_match and not named(there, if_match)) or (if_none_match and named(there, if_none_match))):
        raise ApiError("PRECONDITION_FAILED", f'the object\'s ETag is "{there.etag}"', etag=there.etag)


async def add(*puts: Put) -> list[Object]:
    """Put all of them, in this order, in one transaction. What they replace is discarded. Raises what judge() does."""
    await alone(puts[0].tx, *((put.bucket, put.key) for put in puts))
    return await put_in(*puts)


async def put_in(*puts: Put) -> list[Object]:
    """What add() does, by whoever is alone with the objects."""
    added: dict[int, Object] = {}
    while len(added) < len(puts):
        now: dict[tuple[UUID, str], int] = {}  # one of each object
        for number, put in enumerate(puts):
            if number not in added:
                now.setdefault(put.place, number)
        added |= zip(now.values(), await _add([puts[number] for number in now.values()]), strict=True)
    return [added[number] for number in range(len(puts))]


async def _add(puts: Sequence[Put]) -> list[Object]:
    """Put versions of different objects, of which nobody else changes any."""
    tx, fresh = puts[0].tx, str(2**62 - time.time_ns())
    versions = [UNVERSIONED if put.bucket.versioning != "ENABLED" else fresh for put in puts]
    if any(put.if_match or put.if_none_match or put.bucket.versioning != "OFF" for put in puts):
        await _make_way(puts)
    values = [
        {"tenant_id": put.bucket.tenant_id, "bucket_id": put.bucket.id, "bucket": put.bucket.name, "key": put.key,
         "version_id": version_id, "is_latest": True, "delete_marker": put.delete_marker,
         "parts_count": len(put.part_sizes), **put.columns}
        for put, version_id in zip(puts, versions, strict=True)
    ]  # fmt: skip
    blobs = {put.columns["id"]: put.data for put in puts if put.data is not None}
    found = await db.rows(
        tx, Object, _replace(tuple(values[0]), bool(blobs)), ids=[*blobs], blobs=[*blobs.values()],
        **{f"new_{name}": [each[name] for each in values] for name in values[0]},
    )  # fmt: skip
    rows, of = {row.id: row for row in found}, {put.place: put for put in puts}
    added = [rows.pop(put.columns["id"]) for put in puts]
    for row in rows.values():
        changes.append(of[row.bucket_id, row.key].tx, row, None)
    for put, row in zip(puts, added, strict=True):
        changes.append(put.tx, None, row)
        if put.part_sizes:
            await db.execute(tx, sa.insert(SIZES).values(object_id=row.id, sizes=list(put.part_sizes)))
    return added


async def _make_way(puts: Sequence[Put]) -> None:
    """Have what is the latest now be so no longer, unless it is what will be replaced. Raises what judge() does."""
    tx, of = puts[0].tx, {put.place: put for put in puts}
    found = await db.rows(tx, Object, _LATEST, buckets=[put.bucket.id for put in puts], keys=[put.key for put in puts])
    latest = {(row.bucket_id, row.key): row for row in found}
    for place, put in of.items():
        judge(put.bucket, put.key, latest.get(place), put.if_match, put.if_none_match)
    kept = {row.id: row for place, row in latest.items()
            if of[place].bucket.versioning == "ENABLED" or row.version_id != UNVERSIONED}  # fmt: skip
    if kept:
        for row in await db.rows(tx, Object, _NO_LONGER_LATEST, ids=[*kept]):
            changes.append(of[row.bucket_id, row.key].tx, kept[row.id], row)


@cache
def _replace(names: tuple[str, ...], small: bool) -> Any:
    """Drops what is of the versions that are put, then puts them: rows with these columns, and blobs of their own if
    some are small. Gives both, what is dropped and what is put."""
    given = db.together({f"new_{name}": O[name].type for name in names})
    theirs = (O[name] == given.c[f"new_{name}"] for name in ("bucket_id", "key", "version_id"))
    dropped = sa.delete(Object.TABLE).where(*theirs).returning(Object.TABLE).cte("dropped")
    first = sa.select(sa.func.count().label("count")).select_from(dropped).cte("first")  # so that it is done before
    values = sa.select(*given.c).select_from(given.join(first, first.c.count >= 0))
    added = sa.insert(Object.TABLE).from_select(names, values).returning(Object.TABLE).cte("added")
    discarded = _discarding(dropped.c.id, dropped.c.host, ~dropped.c.delete_marker, ~dropped.c.inline).cte("discarded")
    both = sa.union_all(sa.select(dropped), sa.select(added)).add_cte(discarded)
    return both.add_cte(small_objects.KEEP.cte("kept")) if small else both


async def hide(tx: Tx, bucket: Bucket, key: str, user_id: UUID) -> bool:
    """Delete the latest version, so that there is none: for good where no versions are kept. Whether there was one."""
    await alone(tx, (bucket, key))
    latest = await find(tx, bucket, key)
    if latest is None:
        return False
    await put_away(tx, bucket, key, user_id)
    return True


async def put_away(tx: Tx, bucket: Bucket, key: str, user_id: UUID) -> Object | None:
    """What hide() does, by whoever is alone with the object; where versions are kept also if there is none: then the
    delete marker."""
    if bucket.versioning != "OFF":
        columns = {"id": uuid4(), "user_id": user_id, "size_bytes": 0, "content_type": "", "checksum": "", "etag": "",
                   "host": ""}  # fmt: skip
        [marker] = await _add([Put(tx=tx, bucket=bucket, key=key, delete_marker=True, columns=columns)])
        return marker
    if latest := await version(tx, bucket, key):
        await drop(tx, latest)
    return None


async def remove(tx: Tx, bucket: Bucket, key: str, version_id: str) -> Object | None:
    """Delete one version for good; the newest of the others is the latest then. The version, if there was one."""
    await alone(tx, (bucket, key))
    return await take_out(tx, bucket, key, version_id)


async def take_out(tx: Tx, bucket: Bucket, key: str, version_id: str) -> Object | None:
    """What remove() does, by whoever is alone with the object."""
    gone = await version(tx, bucket, key, version_id)
    if gone is None:
        return None
    await drop(tx, gone)
    if not gone.delete_marker and await db.value(tx, _KEPT, bucket_id=bucket.id, key=key) is None:
        for marker in await db.rows(tx, Object, _MARKERS, bucket_id=bucket.id, key=key):  # with nothing to hide
            await drop(tx, marker)
    elif gone.is_latest and (newest := await db.first(tx, Object, _NEWEST, bucket_id=bucket.id, key=key)):
        await changes.update(tx, newest, is_latest=True, noncurrent_since=None)
    return gone


async def drop(tx: Tx, row: Object) -> None:
    """Delete one version for good, whatever there is besides."""
    changes.append(tx, row, None)
    await db.execute(tx, _DROP, ids=[row.id])


async def discard(tx: Tx, rows: Iterable[Object | Part]) -> None:
    """Have the blobs of rows that went deleted, some time after this transaction commits."""
    if blobs := [row for row in rows if not (isinstance(row, Object) and (row.delete_marker or row.inline))]:
        await db.execute(tx, _DISCARD, blobs=[row.id for row in blobs], hosts=[row.host for row in blobs])
