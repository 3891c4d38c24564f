"""The list's statement through server/db.py, against the same one written by hand on asyncpg, and SQLAlchemy's own.

All read the same twenty rows over one connection each, in turn.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

import sqlalchemy as sa
import uvloop
from sqlalchemy.ext.asyncio import create_async_engine

from bench import cloud
from bench.figure import figure
from server import db
from server.db import Database
from server.services.instances import Instance

ROUNDS, CALLS = 15, 200
TABLE = Instance.TABLE
MINE = TABLE.c.tenant_id == sa.bindparam("tenant_id", type_=TABLE.c.tenant_id.type)


def figures() -> Iterator[dict[str, Any]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ours, by_hand, core = runner.run(measure())
    yield figure("db.py rows", round(1 / ours), "lists/s", "the same by hand on asyncpg", by_hand / ours, 0.9)
    yield figure("db.py rows, core", round(1 / ours), "lists/s", "SQLAlchemy Core's execution", core / ours, None)


async def measure() -> list[float]:
    """Seconds of a list: through db.py, by hand, through SQLAlchemy."""
    async with cloud.prepared() as prepared, Database(prepared.url, 1) as database, database.reading() as tx:
        tenant_id = prepared.tenant_id
        statement = sa.select(TABLE).where(MINE).order_by(TABLE.c.created_at.desc(), TABLE.c.id.desc()).limit(1001)
        columns = ", ".join(f'"{name}"' for name in TABLE.c.keys())  # noqa: SIM118 - iterating gives columns
        text = f"select {columns} from instances where tenant_id = $1 order by created_at desc, id desc limit 1001"
        engine = create_async_engine(sa.make_url(prepared.url).set(drivername="postgresql+asyncpg"))
        async with engine.connect() as connection:

            async def through_db() -> object:
                rows, _ = await db.page(tx, Instance, MINE, size=0, token="", tenant_id=tenant_id)
                return rows

            async def by_hand() -> object:
                return [db.made(Instance, record) for record in await tx.connection.fetch(text, tenant_id)]

            async def core() -> object:
                return (await connection.execute(statement, {"tenant_id": tenant_id})).all()

            found = await timed(through_db, by_hand, core)
        await engine.dispose()
    return found


async def timed(*sides: Callable[[], Awaitable[object]]) -> list[float]:
    seconds: list[list[float]] = [[] for _ in sides]
    for number in range(ROUNDS + 1):
        for side, taken in zip(sides, seconds, strict=True):
            began = perf_counter()
            for _ in range(CALLS):
                await side()
            if number:
                taken.append((perf_counter() - began) / CALLS)
    return [median(taken) for taken in seconds]
