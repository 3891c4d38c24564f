"""What a read costs in db.py: the key's owner and a page of twenty instances, two statements on one connection.

db.py runs the expressions, up to asyncpg's records; by hand the same two texts are run on the same
connection, up to the same records; SQLAlchemy executes the same expressions through an async
engine, up to its rows. A further figure is db.py's page as a service calls it, up to rows as
dataclasses. All take turns in one process, on one loop.
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
from bench.cloud import Prepared
from bench.figure import figure
from server import auth, db, pages
from server.auth import _OWNER_OF
from server.db import Database, Tx
from server.instances import Instance
from server.services import instances

ROUNDS, CALLS = 150, 10
Read = Callable[[], Awaitable[int]]


def figures() -> Iterator[dict[str, Any]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ours, rows, hand, core = runner.run(measure())
    yield figure("auth and list", round(1 / ours), "reads/s", "asyncpg by hand", hand / ours, 0.9)
    yield figure("auth and list, as rows", round(1 / rows), "reads/s", "asyncpg by hand", hand / rows, None)
    yield figure("auth and list, core", round(1 / ours), "reads/s", "SQLAlchemy's execution", core / ours, None)


async def measure() -> list[float]:
    """Seconds of a read: db.py's, the same as rows, by hand, SQLAlchemy's."""
    async with cloud.prepared() as prepared:
        engine = create_async_engine(prepared.url.replace("postgresql:", "postgresql+asyncpg:"))
        async with Database(prepared.url, 1) as database, database.reading() as tx, engine.connect() as connection:
            sides = [ours(tx, prepared), as_rows(tx, prepared), by_hand(tx, prepared), sqlalchemy(connection, prepared)]
            for read in sides:
                assert await read() == cloud.INSTANCES
            taken: list[list[float]] = [[] for _ in sides]
            for _ in range(ROUNDS):
                for read, times in zip(sides, taken, strict=True):
                    began = perf_counter()
                    for _ in range(CALLS):
                        await read()
                    times.append((perf_counter() - began) / CALLS)
        await engine.dispose()
    return [median(times) for times in taken]


def ours(tx: Tx, prepared: Prepared) -> Read:
    statement = pages.newest_first(Instance, instances._listed, False)

    async def read() -> int:
        await db.record(tx, _OWNER_OF, hash=auth.digest(prepared.key))
        return len(await db.records(tx, statement, **values(prepared)))

    return read


def as_rows(tx: Tx, prepared: Prepared) -> Read:
    async def read() -> int:
        await db.record(tx, _OWNER_OF, hash=auth.digest(prepared.key))
        rows, _ = await pages.page(
            tx, Instance, instances._listed, size=0, token="", tenant_id=prepared.tenant_id, pairs={}, keys=[]
        )
        return len(rows)

    return read


def by_hand(tx: Tx, prepared: Prepared) -> Read:
    owner, _ = db.sql(_OWNER_OF, {"hash": b""})
    page, _ = db.sql(pages.newest_first(Instance, instances._listed, False), values(prepared))
    connection = tx.connection

    async def read() -> int:
        await connection.fetchrow(owner, auth.digest(prepared.key))
        return len(await connection.fetch(page, prepared.tenant_id, {}, [], db.MOST + 1))

    return read


def sqlalchemy(connection: Any, prepared: Prepared) -> Read:
    statement: sa.Select[Any] = pages.newest_first(Instance, instances._listed, False)

    async def read() -> int:
        (await connection.execute(_OWNER_OF, {"hash": auth.digest(prepared.key)})).first()
        return len((await connection.execute(statement, values(prepared))).all())

    return read


def values(prepared: Prepared) -> dict[str, Any]:
    return {"tenant_id": prepared.tenant_id, "pairs": {}, "keys": [], "page_limit": db.MOST + 1}
