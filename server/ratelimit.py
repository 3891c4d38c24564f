"""Token buckets: so many calls at once, refilled at so many a minute.

Limits that a method declares are shared by all processes and kept in PostgreSQL; the general
limit of each caller is kept in memory, since asking the database would cost more than the call.
Both store one moment for each bucket, when it will be full again (the generic cell rate
algorithm, ITU-T I.371).
"""

import ipaddress
import time
from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.db import METADATA, Tx
from server.work import every

if TYPE_CHECKING:
    from server.app import App

BUCKETS = sa.Table(
    "rate_limits",
    METADATA,
    sa.Column("bucket", sa.Text, primary_key=True),
    sa.Column("full_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
)
_now = sa.func.clock_timestamp()
_each = sa.bindparam("each", type_=postgresql.INTERVAL)
_window = sa.bindparam("window", type_=postgresql.INTERVAL)
_insert = postgresql.insert(BUCKETS).values(bucket=sa.bindparam("bucket"), full_at=_now + _each)
_next = sa.func.greatest(BUCKETS.c.full_at, _now) + _each
_TAKE = _insert.on_conflict_do_update(
    index_elements=[BUCKETS.c.bucket], set_={"full_at": _next}, where=_next <= _now + _window
).returning(BUCKETS.c.full_at)
_FULL_AT = sa.select(BUCKETS.c.full_at).where(BUCKETS.c.bucket == sa.bindparam("bucket"))
_FORGET = sa.delete(BUCKETS).where(BUCKETS.c.bucket == sa.bindparam("its_bucket"))
_SWEEP = sa.delete(BUCKETS).where(BUCKETS.c.full_at < sa.func.now())


async def take(tx: Tx, bucket: str, burst: int, window: timedelta = timedelta(minutes=1)) -> float:
    """Take a token; 0, or the seconds until there is one."""
    if await db.value(tx, _TAKE, bucket=bucket, each=window / burst, window=window):
        return 0.0
    return await wait(tx, bucket, burst, window)


async def wait(tx: Tx, bucket: str, burst: int, window: timedelta = timedelta(minutes=1)) -> float:
    """The seconds until the bucket has a token; 0 when it has one."""
    full_at: datetime | None = await db.value(tx, _FULL_AT, bucket=bucket)
    if full_at is None:
        return 0.0
    return max(0.0, (full_at + window / burst - datetime.now(UTC) - window).total_seconds())


async def forget(tx: Tx, bucket: str) -> None:
    """Fill the bucket."""
    await db.execute(tx, _FORGET, its_bucket=bucket)


@every(timedelta(hours=1))
async def sweep(app: "App") -> None:
    """Drop the buckets that are full: they say no more than none."""
    async with app.db.transaction() as tx:
        await db.execute(tx, _SWEEP)


class Buckets:
    """Buckets of one process, in memory."""

    def __init__(self) -> None:
        self._full_at: dict[Hashable, float] = {}

    def take(self, bucket: Hashable, burst: int, window: float = 60.0) -> float:
        """Take a token of a bucket that is filled in so many seconds; 0, or the seconds until there is one."""
        now, each = time.monotonic(), window / burst
        full_at = max(self._full_at.get(bucket, 0.0), now) + each
        if full_at > now + window:
            return full_at - now - window
        if len(self._full_at) > 100_000:
            self._full_at = {key: at for key, at in self._full_at.items() if at > now}
        self._full_at[bucket] = full_at
        return 0.0


def address_group(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one, which one client has whole."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
