"""Takes the logs of this host's instances, as they are written."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql

from server import db
from server.instances import Instance
from server.services import logs
from server.services.logs import CURSORS
from server.work import every

if TYPE_CHECKING:
    from server.app import App

log = structlog.get_logger()
AT_ONCE = 8
PATIENCE = 10.0  # seconds for one instance

I = Instance.TABLE.c  # noqa: E741
_ends = sa.or_(CURSORS.c.drained_at.is_(None), CURSORS.c.drained_at < I.updated_at)
_WRITING = (
    sa.select(Instance.TABLE, sa.func.coalesce(CURSORS.c.position, "").label("position"))
    .select_from(Instance.TABLE.outerjoin(CURSORS, CURSORS.c.instance_id == I.id))
    .where(I.host == sa.bindparam("host"), I.container_id.is_not(None), I.desired != "DELETED",
           sa.or_(I.status == "RUNNING", I.status == "PAUSED", _ends))
)  # fmt: skip
_drained = postgresql.insert(CURSORS).values(
    instance_id=sa.bindparam("instance"), position="", drained_at=sa.func.clock_timestamp()
)
_DRAINED = _drained.on_conflict_do_update(
    index_elements=[CURSORS.c.instance_id], set_={"drained_at": _drained.excluded.drained_at}
)


@every(timedelta(seconds=1), each_host=True)
async def gather(app: "App") -> None:
    """Take what this host's instances have written since the last time, of several at once. One that cannot be read
    now keeps no other from being read."""
    async with app.db.reading() as tx:
        found = [(db.made(Instance, {name: each[name] for name in I.keys()}), each["position"])  # noqa: SIM118
                 for each in await db.records(tx, _WRITING, host=app.config.host)]  # fmt: skip
    free = asyncio.Semaphore(AT_ONCE)
    taken = await asyncio.gather(*(take(app, row, position, free) for row, position in found), return_exceptions=True)
    for (row, _), failure in zip(found, taken, strict=True):
        if isinstance(failure, Exception):
            log.warning("log_not_taken", instance=str(row.id), error=repr(failure))
        elif failure:
            raise failure


async def take(app: "App", row: Instance, position: str, free: asyncio.Semaphore) -> None:
    async with free, asyncio.timeout(PATIENCE):
        try:
            more = await logs.collect(app, row, position)
        except LookupError:  # gone with its engine; what is made anew will have another log
            more = False
        if not more and row.status not in ("RUNNING", "PAUSED"):
            async with app.db.transaction() as tx:
                await db.execute(tx, _DRAINED, instance=row.id)
