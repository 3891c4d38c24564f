"""What resources wrote: taken from where it is written, kept for a while, searched, and followed.

An instance's cursor says how far its log has been taken. Lines and cursor are written together, so
that every line is there once, whoever dies when.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import logs_pb2 as pb
from thecloud.v1 import watch_pb2

from drivers.contracts import LogLine, SupportsLogsSince
from server import db, request_fields
from server.call import Call, identified
from server.db import METADATA, Tx
from server.instances import Instance
from server.messages import builder
from server.work import every

if TYPE_CHECKING:
    from server.app import App

LIMIT, MOST = 100, 1000  # entries of an answer
LONGEST = 16 * 1024  # characters of a message
CUT = "… [cut]"
MOST_BYTES = 256 * 1024  # of an instance's log that are taken at once
LAST_BATCHES = 100  # taken of an instance that is on its way out
POLL = 0.5  # seconds between looks of those who follow
HEARTBEAT = 10.0  # seconds without an entry after which they are sent a bookmark
PURGED = 5000  # entries removed in one transaction
RESOURCES = 10_000  # looked through for those that a caller may see

ENTRIES = sa.Table(
    "log_entries",
    METADATA,
    sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("id", postgresql.UUID, nullable=False),
    sa.Column("tenant_id", postgresql.UUID, nullable=False),
    sa.Column("resource_id", sa.Text, nullable=False),
    sa.Column("resource_type", sa.Text, nullable=False),
    sa.Column("level", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("timestamp", postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("trace_id", sa.Text, nullable=True),
)
CURSORS = sa.Table(
    "log_cursors",
    METADATA,
    sa.Column("instance_id", postgresql.UUID, primary_key=True),
    sa.Column("position", sa.Text, nullable=False),
    sa.Column("drained_at", postgresql.TIMESTAMP(timezone=True), nullable=True),  # all was taken, and it ran no more
)

E = ENTRIES.c
_MOMENT = postgresql.TIMESTAMP(timezone=True)
_tenant = E.tenant_id == sa.bindparam("tenant", type_=postgresql.UUID)
_wanted = sa.and_(
    _tenant,
    db.given("resource_id", sa.Text, lambda its: E.resource_id == its),
    db.given("resource_type", sa.Text, lambda its: E.resource_type == its),
    db.given("level", sa.Text, lambda its: E.level == its),
    db.given("pattern", sa.Text, lambda its: E.message.ilike(its, escape="\\")),
    db.given("since", _MOMENT, lambda moment: E.timestamp >= moment),
    db.given("until", _MOMENT, lambda moment: E.timestamp <= moment),
    db.given("shown", postgresql.ARRAY(sa.Text), lambda ids: E.resource_id == sa.any_(ids)),
)
_SEARCH = (
    sa.select(ENTRIES)
    .where(_wanted)
    .order_by(E.timestamp.desc(), E.sequence.desc())
    .limit(sa.bindparam("most", type_=sa.Integer))
    .offset(sa.bindparam("passed", type_=sa.Integer))
)
_TOTAL = sa.select(sa.func.count()).select_from(ENTRIES).where(_wanted)
_RESOURCES = sa.select(E.resource_type, E.resource_id).where(_tenant).distinct().limit(RESOURCES)
_of_resource = sa.and_(_tenant, E.resource_id == sa.bindparam("resource"))
_LATEST = (
    sa.select(ENTRIES).where(_of_resource).order_by(E.sequence.desc()).limit(sa.bindparam("most", type_=sa.Integer))
)
_NEXT = (
    sa.select(ENTRIES).where(_of_resource, E.sequence > sa.bindparam("position")).order_by(E.sequence).limit(MOST)
)  # fmt: skip
_LAST = sa.select(sa.func.coalesce(sa.func.max(E.sequence), 0)).where(_of_resource)
_given = (
    sa.func.unnest(*(sa.bindparam(f"{name}s", type_=postgresql.ARRAY(kind))
                     for name, kind in (("level", sa.Text), ("message", sa.Text), ("timestamp", _MOMENT))))
    .table_valued("level", "message", "timestamp", with_ordinality="n", name="given")
    .render_derived()
)  # fmt: skip
_APPEND = sa.insert(ENTRIES).from_select(
    ["tenant_id", "resource_id", "resource_type", "trace_id", "level", "message", "timestamp"],
    sa.select(
        sa.bindparam("tenant", type_=postgresql.UUID), sa.bindparam("resource", type_=sa.Text),
        sa.bindparam("kind", type_=sa.Text), sa.bindparam("trace", type_=sa.Text),
        _given.c.level, _given.c.message, _given.c.timestamp,
    ).order_by(_given.c.n),
    include_defaults=False,
)  # fmt: skip
_POSITION = sa.select(CURSORS.c.position).where(CURSORS.c.instance_id == sa.bindparam("instance"))
_cursor = postgresql.insert(CURSORS).values(
    instance_id=sa.bindparam("instance"), position=sa.bindparam("reached"), drained_at=None
)
_ADVANCE = _cursor.on_conflict_do_update(
    index_elements=[CURSORS.c.instance_id],
    set_={"position": _cursor.excluded.position, "drained_at": None},
    where=CURSORS.c.position == sa.bindparam("was", type_=sa.Text),
)


class LogService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def SearchLogs(self, call: Call, request: pb.SearchLogsRequest) -> pb.SearchLogsResponse:
        limit, offset = clamped(request.limit), max(0, request.offset)
        search = re.sub(r"([%_\\])", r"\\\1", request.search.replace("\x00", ""))
        wanted = {
            "resource_id": request.resource_id or None, "resource_type": request.resource_type or None,
            "level": request.level or None, "pattern": f"%{search}%" if search else None,
            "since": request_fields.moment(request, "start_time"), "until": request_fields.moment(request, "end_time"),
            "shown": await shown(call),
        }  # fmt: skip
        found = await db.records(call.tx, _SEARCH, tenant=call.tenant_id, most=limit, passed=offset, **wanted)
        total = await db.value(call.tx, _TOTAL, tenant=call.tenant_id, **wanted)
        return pb.SearchLogsResponse(entries=map(to_message, found), total=total, limit=limit, offset=offset)

    async def GetResourceLogs(self, call: Call, request: pb.GetResourceLogsRequest) -> pb.GetResourceLogsResponse:
        wanted = dict.fromkeys(("resource_type", "level", "pattern", "since", "until", "shown"))
        of = {"tenant": call.tenant_id, "resource_id": request.resource_id, **wanted}
        found = await db.records(call.tx, _SEARCH, most=clamped(request.limit), passed=0, **of)
        return pb.GetResourceLogsResponse(entries=map(to_message, found), total=await db.value(call.tx, _TOTAL, **of))

    async def TailLogs(self, call: Call, request: pb.TailLogsRequest) -> AsyncIterator[pb.TailLogsResponse]:
        of = {"tenant": call.tenant_id, "resource": request.resource_id}
        lines = request.lines if request.HasField("lines") else 10
        async with self.app.db.reading() as tx:
            if request.resume_token:
                position, found = int(request.resume_token), []
            else:
                position = await db.value(tx, _LAST, **of)
                found = (await db.records(tx, _LATEST, most=lines, **of))[::-1]
        idle = HEARTBEAT  # so that a bookmark follows what there is at the beginning
        while True:
            for each in found:
                position = max(position, each["sequence"])
                yield pb.TailLogsResponse(entry=to_message(each), resume_token=str(each["sequence"]))
            if idle >= HEARTBEAT:
                idle = 0.0
                yield pb.TailLogsResponse(bookmark=watch_pb2.Bookmark(sequence=position), resume_token=str(position))
            async with self.app.db.reading() as tx:
                found = await db.records(tx, _NEXT, position=position, **of)
            if not found:
                await asyncio.sleep(POLL)
            idle = 0.0 if found else idle + POLL


def clamped(limit: int) -> int:
    return LIMIT if limit <= 0 else min(limit, MOST)


def to_message(record: Any) -> pb.LogEntry:
    return builder(pb.LogEntry)(record)  # type: ignore[no-any-return]


async def shown(call: Call) -> list[str] | None:
    """The ids of the resources whose logs the caller may see; None when that is all of them."""
    permission = call.method.permission
    if call.access.always(permission):
        return None
    found: list[str] = []
    for each in await db.records(call.tx, _RESOURCES, tenant=call.tenant_id):
        kind, id = each["resource_type"], each["resource_id"]
        meant = await identified(call.tx, call.tenant_id, kind, id)
        if all(call.access.may(permission, resource, call.context) for resource in meant):
            found.append(id)
    return found


# Taking


LEVELS = {
    "error": "ERROR", "err": "ERROR", "fatal": "ERROR", "critical": "ERROR", "crit": "ERROR", "panic": "ERROR",
    "warn": "WARN", "warning": "WARN", "info": "INFO", "notice": "INFO", "debug": "DEBUG", "trace": "DEBUG",
}  # fmt: skip
_LEVEL = re.compile(rf"(?<![\w.-])({'|'.join(LEVELS)})(?![\w.-])", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NEAR = 100  # characters from the beginning in which a level is looked for


def level(message: str, stream: str) -> str:
    """What the line says of itself near its beginning, else what its stream says."""
    if word := _LEVEL.search(message[:NEAR]):
        return LEVELS[word[1].lower()]
    return "ERROR" if stream == "stderr" else "INFO"


def text(line: LogLine) -> str:
    """The line as it is kept: text, without the codes that colour it on a terminal, and not too long."""
    found = _COLOUR.sub("", line.text.decode(errors="replace")).replace("\x00", "\N{REPLACEMENT CHARACTER}").rstrip()
    return found[: LONGEST - len(CUT)] + CUT if line.cut or len(found) > LONGEST else found


async def append(
    tx: Tx, tenant_id: UUID, resource_type: str, resource_id: str, lines: Sequence[LogLine], trace_id: str | None = None
) -> None:
    """Keep what a resource wrote, whatever it is. Blank lines are left out."""
    kept = [(line, found) for line in lines if (found := text(line))]
    if kept:
        await db.execute(
            tx, _APPEND, tenant=tenant_id, resource=resource_id, kind=resource_type, trace=trace_id,
            levels=[level(found, line.stream) for line, found in kept], messages=[found for _, found in kept],
            timestamps=[line.at for line, _ in kept],
        )  # fmt: skip


async def collect(app: "App", row: Instance, position: str) -> bool:
    """Take what an instance of this host wrote after the position, as far as it goes at once. Whether there is more.

    Raises LookupError when the engine has no such instance.
    """
    compute = app.drivers.compute.get(row.driver)
    if not isinstance(compute, SupportsLogsSince):
        return False
    batch = await compute.logs_since(row.id, position, MOST_BYTES)
    if batch.lines:
        with suppress(asyncpg.ForeignKeyViolationError):  # it has gone meanwhile, and its log was taken before
            async with app.db.transaction() as tx:
                if await db.execute(tx, _ADVANCE, instance=row.id, reached=batch.position, was=position):
                    await append(tx, row.tenant_id, row.KIND, str(row.id), batch.lines)
    return batch.more


async def drain(app: "App", row: Instance) -> None:
    """Take what is left of an instance that is on its way out."""
    for _ in range(LAST_BATCHES):
        async with app.db.reading() as tx:
            position = await db.value(tx, _POSITION, instance=row.id) or ""
        try:
            if not await collect(app, row, position):
                return
        except LookupError:
            return


# Keeping

_OLD = sa.select(E.sequence).where(E.timestamp < sa.bindparam("horizon", type_=_MOMENT)).limit(PURGED)
_PURGE = sa.delete(ENTRIES).where(E.sequence.in_(_OLD))
_BUSY = sa.select(E.tenant_id, E.resource_id).where(E.timestamp > sa.bindparam("since", type_=_MOMENT)).distinct()
_excess = (
    sa.select(E.sequence)
    .where(_of_resource)
    .order_by(E.sequence.desc())
    .offset(sa.bindparam("kept", type_=sa.Integer))
    .limit(1)
    .scalar_subquery()
)
_TRIM = sa.delete(ENTRIES).where(_of_resource, E.sequence <= _excess)


@every(timedelta(hours=1))
async def purge(app: "App") -> None:
    """Remove what is older than logs are kept."""
    horizon = datetime.now(UTC) - timedelta(days=app.config.log_days)
    for _ in range(200):
        async with app.db.transaction() as tx:
            if await db.execute(tx, _PURGE, horizon=horizon) < PURGED:
                return


@every(timedelta(minutes=1))
async def trim(app: "App") -> None:
    """Of those who write most, remove the oldest: nobody may fill the disk."""
    async with app.db.reading() as tx:
        busy = await db.records(tx, _BUSY, since=datetime.now(UTC) - timedelta(minutes=2))
    for each in busy:
        async with app.db.transaction() as tx:
            await db.execute(tx, _TRIM, tenant=each["tenant_id"], resource=each["resource_id"],
                             kept=app.config.log_lines)  # fmt: skip
