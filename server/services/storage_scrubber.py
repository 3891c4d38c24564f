"""The scrubber: reads what is stored again and again, to see whether it still is what it was.

An object counts as seen when it is stored. The one that was not seen for longest is next, so that a scrubber that ended
halfway, or was killed, goes on where it was. What it finds is in the object's row, and shown with the cluster's nodes;
what is damaged is looked at again each hour, since a disk may be back, or a file.
"""

import asyncio
import errno
import hashlib
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql

from server import db, small_objects
from server.db import Tx
from server.object_rows import O, Object
from server.work import LONGER, every

if TYPE_CHECKING:
    from server.app import App

log = structlog.get_logger()

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
LEAST = 64 * 1024  # bytes that an object counts for, however small it is: a disk seeks, and a row is written

_seen = sa.func.coalesce(O.verified_at, O.created_at)
_host = sa.and_(O.host == sa.bindparam("host", type_=sa.Text), ~O.delete_marker)
_before = sa.bindparam("before", type_=O.created_at.type)
_NEXT = sa.select(Object.TABLE).where(_host, _seen < _before).order_by(_seen).limit(1)
_AGAIN = sa.select(Object.TABLE).where(_host, O.damage != "", O.verified_at < _before).order_by(O.verified_at).limit(1)
_NOTE = (
    sa.update(Object.TABLE).where(O.id == sa.bindparam("this", type_=postgresql.UUID))
    .values(verified_at=sa.func.clock_timestamp(), damage=sa.bindparam("found", type_=sa.Text))
)  # fmt: skip


def _damaged(damage: str) -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.count()).where(_host, O.damage != "", O.damage == damage).scalar_subquery()


_STATE = sa.select(
    sa.select(_seen).where(_host).order_by(_seen).limit(1).scalar_subquery().label("scrubbed_at"),
    sa.select(sa.func.count()).where(_host).scalar_subquery().label("objects"),
    _damaged("CORRUPT").label("corrupt_objects"), _damaged("MISSING").label("missing_objects"),
)  # fmt: skip


async def state(tx: Tx, host: str) -> dict[str, Any]:
    """What StorageNode says of the objects that this host has stored: what has no value is left out."""
    found = await db.record(tx, _STATE, host=host)
    return {name: value for name, value in found.items() if value is not None}


async def scrub(app: "App", host: str) -> None:
    """Read objects that this host has stored, as many as may be read in a minute."""
    ends = time.monotonic() + MINUTE.total_seconds()
    while app.config.scrub_days and not app.stopping.is_set() and time.monotonic() < ends:
        row = await _next(app, host)
        if row is None:
            return
        await _note(app, row, await _damage(app, row))
        await _pause(app, max(row.size_bytes, LEAST))


async def _pause(app: "App", size: int) -> None:
    """Wait for as long as reading so many bytes may take, or until the server stops."""
    if app.config.scrub_bytes:
        with suppress(TimeoutError):
            async with asyncio.timeout(size / app.config.scrub_bytes):
                await app.stopping.wait()


async def _next(app: "App", host: str) -> Object | None:
    """What is to be read, if anything is."""
    now = datetime.now(UTC)
    async with app.db.reading() as tx:
        again = await db.first(tx, Object, _AGAIN, host=host, before=now - HOUR)
        days = timedelta(days=app.config.scrub_days)
        return again or await db.first(tx, Object, _NEXT, host=host, before=now - days)


async def _damage(app: "App", row: Object) -> str:
    """Whether the bytes of an object are not there, or not those that were stored; else nothing."""
    if row.inline:
        async with app.db.reading() as tx:
            data = await small_objects.find(tx, row.id)
        whole = data is not None and hashlib.sha256(data).hexdigest() == (row.blob_checksum or row.checksum)
        return "MISSING" if data is None else "" if whole else "CORRUPT"
    try:
        found = await app.drivers.objects.verify(row.id)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return "CORRUPT"  # the disk cannot read it any more
    if found is None:
        return "MISSING"
    return "" if found.sha256 == (row.blob_checksum or row.checksum) else "CORRUPT"


async def _note(app: "App", row: Object, damage: str) -> None:
    async with app.db.transaction() as tx:
        there = await db.execute(tx, _NOTE, this=row.id, found=damage)
    if there and damage != row.damage:  # else it was deleted while it was read, or nothing is new
        tell = log.error if damage else log.info
        tell("object_damaged" if damage else "object_whole_again", id=str(row.id), bucket=row.bucket, key=row.key,
             version=row.version_id, tenant=str(row.tenant_id), damage=damage)  # fmt: skip


@every(MINUTE, each_host=True)
async def scrub_host(app: "App") -> None:
    """Read what is on this host."""
    if app.drivers.objects.one_host:
        await scrub(app, app.config.host)


@every(MINUTE)
async def scrub_shared(app: "App") -> None:
    """Read what all hosts see."""
    if not app.drivers.objects.one_host:
        await scrub(app, "")


for _each in (scrub_host, scrub_shared):
    LONGER[f"{__name__}.{_each.__name__}"] = 6 * 3600.0  # seconds: one object may take that long
