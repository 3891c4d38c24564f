"""The machines that run instances: what each has, and when it was last heard of."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from drivers.contracts import Capacity, ComputeDriver
from server import db
from server.db import METADATA, Tx
from server.errors import ApiError, invalid
from server.work import every, hurry

if TYPE_CHECKING:
    from server.app import App

BEAT = timedelta(seconds=10)
SILENT = timedelta(seconds=45)  # without a beat, and nothing new is put there
PATIENCE = 5.0  # seconds for a compute engine to answer
FIRST = 3.0  # seconds that a start waits for the first beat

HOSTS = sa.Table(
    "hosts",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("compute", sa.Text, nullable=False),
    sa.Column("vcpus", sa.BigInteger, nullable=False),
    sa.Column("memory_mb", sa.BigInteger, nullable=False),
    sa.Column("heartbeat_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
)
_insert = postgresql.insert(HOSTS).values(
    {name: sa.bindparam(name) for name in ("name", "compute", "vcpus", "memory_mb")} | {"heartbeat_at": sa.func.now()}
)
_BEAT = _insert.on_conflict_do_update(
    index_elements=[HOSTS.c.name],
    set_={name: _insert.excluded[name] for name in ("compute", "vcpus", "memory_mb", "heartbeat_at")},
)
alive = HOSTS.c.heartbeat_at > sa.func.now() - SILENT
_INSTANCES = sa.table("instances", sa.column("host"), sa.column("desired"), sa.column("memory_mb", sa.BigInteger)).c
_promised = (
    sa.select(sa.func.coalesce(sa.func.sum(_INSTANCES.memory_mb), 0))
    .where(_INSTANCES.host == HOSTS.c.name, _INSTANCES.desired != "DELETED")
    .scalar_subquery()
)
_BY_ROOM = sa.select(HOSTS).where(alive).order_by(_promised / HOSTS.c.memory_mb, HOSTS.c.name)
_ONE = sa.select(HOSTS).where(HOSTS.c.name == sa.bindparam("host"))
_WORKS_WITH = sa.select(HOSTS.c.compute).where(HOSTS.c.name == sa.bindparam("host"), alive)


@every(BEAT, each_host=True)
async def beat(app: "App") -> None:
    """Say what this host has, and which of its compute drivers answer. It falls silent when none does, and catches up
    once more of them do."""
    drivers = app.drivers.compute
    answers = dict(zip(drivers, await asyncio.gather(*map(_capacity, drivers.values())), strict=True))
    has = [each for each in answers.values() if isinstance(each, Capacity)]
    if not has:
        raise next(each for each in answers.values() if isinstance(each, Exception))
    compute = ",".join(name for name, answer in answers.items() if isinstance(answer, Capacity))
    async with app.db.transaction() as tx:
        if await db.value(tx, _WORKS_WITH, host=app.config.host) != compute:
            await hurry(tx, app.config.host)
        await db.execute(tx, _BEAT, name=app.config.host, compute=compute,
                         vcpus=has[0].vcpus, memory_mb=has[0].memory_mb)  # fmt: skip


async def _capacity(driver: ComputeDriver) -> Capacity | Exception:
    try:
        async with asyncio.timeout(PATIENCE):
            return await driver.capacity()
    except Exception as error:
        return error


async def heard(app: "App") -> None:
    """Wait until this host may be given instances, but not for long: its compute engine may be away."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST), app.db.reading() as tx:
            while not await db.value(tx, _WORKS_WITH, host=app.config.host):  # noqa: ASYNC110 - it is in the database
                await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Place:
    """Where an instance goes, and what it takes there."""

    host: str
    driver: str
    vcpus: int
    memory_mb: int


async def find_place(tx: Tx, driver: str, vcpus: int, memory_mb: int, only: str | None = None) -> Place:
    """The host with the most room for an instance of this size. `only`: no other will do."""
    alive = [host for host in await db.records(tx, _BY_ROOM)
             if only in (None, host["name"]) and driver in host["compute"].split(",")]  # fmt: skip
    if not alive:
        raise ApiError("UNAVAILABLE", f"no host that runs instances with {driver} answers; see `thecloud doctor` there")
    for host in alive:
        if host["vcpus"] >= vcpus and host["memory_mb"] >= memory_mb:
            return Place(host["name"], driver, vcpus, memory_mb)
    most = max((host["vcpus"], host["memory_mb"]) for host in alive)
    raise invalid("instance_type", f"no host has {vcpus} vCPUs and {memory_mb} MiB; the largest has {most[0]} and "
                                   f"{most[1]}; choose a smaller type")  # fmt: skip


async def has(tx: Tx, host: str, vcpus: int, memory_mb: int) -> bool:
    """Whether the host is large enough for an instance of this size."""
    found = await db.record(tx, _ONE, host=host)
    return found is not None and found["vcpus"] >= vcpus and found["memory_mb"] >= memory_mb
