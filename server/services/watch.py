"""The tenant's changes as they happen, and how long they are kept."""

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import watch_pb2 as pb

from server import db, enums, rating
from server.call import Call
from server.changes import CHANGES, HEADS
from server.db import Tx
from server.errors import ApiError, invalid
from server.resources import name_of
from server.work import every

if TYPE_CHECKING:
    from server.app import App

HEARTBEAT = 10.0  # seconds without a change after which a bookmark is sent
BATCH = 500  # changes read at once
PURGED = 5000  # changes removed in one transaction
TYPES: Any = enums.numbers(pb.Change.Type.DESCRIPTOR)

C = CHANGES.c
_HEAD = sa.select(HEADS.c.sequence, HEADS.c.purged).where(HEADS.c.tenant_id == sa.bindparam("tenant"))
_after = (
    sa.select(CHANGES)
    .where(
        C.tenant_id == HEADS.c.tenant_id, C.sequence > sa.bindparam("position"),
        sa.or_(sa.bindparam("kinds", type_=postgresql.ARRAY(sa.Text)).is_(None),
               C.kind == sa.any_(sa.bindparam("kinds", type_=postgresql.ARRAY(sa.Text)))),
        sa.or_(sa.bindparam("ids", type_=postgresql.ARRAY(postgresql.UUID)).is_(None),
               C.id == sa.any_(sa.bindparam("ids", type_=postgresql.ARRAY(postgresql.UUID)))),
    )
    .order_by(C.sequence)
    .limit(BATCH)
    .lateral("after")
)  # fmt: skip
_SINCE = (  # one statement, so that the head and the changes are of one moment
    sa.select(HEADS.c.sequence.label("head"), HEADS.c.purged, _after)
    .select_from(HEADS.outerjoin(_after, sa.true()))
    .where(HEADS.c.tenant_id == sa.bindparam("tenant"))
    .order_by(_after.c.sequence)
)
_later = CHANGES.alias("later")
_horizon = sa.bindparam("horizon", type_=postgresql.TIMESTAMP(timezone=True))
_SUPERSEDED = (
    sa.select(C.tenant_id, C.sequence)
    .where(
        C.at < _horizon,
        C.sequence <= rating.read_through(C.tenant_id),
        sa.or_(
            C.type == "DELETED",
            sa.exists().where(
                _later.c.tenant_id == C.tenant_id, _later.c.kind == C.kind, _later.c.id == C.id,
                _later.c.sequence > C.sequence, _later.c.at < _horizon,
            ),
        ),
    )
    .limit(PURGED)
)  # fmt: skip
_gone = (
    sa.delete(CHANGES)
    .where(sa.tuple_(C.tenant_id, C.sequence).in_(_SUPERSEDED))
    .returning(C.tenant_id, C.sequence)
    .cte("gone")
)
_through = (
    sa.select(_gone.c.tenant_id, sa.func.max(_gone.c.sequence).label("sequence"), sa.func.count().label("many"))
    .group_by(_gone.c.tenant_id)
    .cte("through")
)
_PURGE = (
    sa.update(HEADS)
    .where(HEADS.c.tenant_id == _through.c.tenant_id)
    .values(purged=sa.func.greatest(HEADS.c.purged, _through.c.sequence))
    .returning(_through.c.many)
)


class WatchService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def Watch(self, call: Call, request: pb.WatchRequest) -> AsyncIterator[pb.WatchResponse]:
        tenant_id = call.tenant_id
        async with self.app.db.reading() as tx:
            head = await db.record(tx, _HEAD, tenant=tenant_id) or {"sequence": 0, "purged": 0}
        position = head["sequence"]
        if request.resume_token:
            position = resumed(request.resume_token, tenant_id, position)
        else:
            yield bookmark(tenant_id, position)
        kinds, ids = list(request.kinds) or None, [UUID(id) for id in request.ids] or None
        while True:
            async with self.app.db.reading() as tx:
                found = await db.records(tx, _SINCE, tenant=tenant_id, position=position, kinds=kinds, ids=ids)
            if found and position < found[0]["purged"]:
                raise expired(self.app)
            changes = [each for each in found if each["sequence"] is not None]
            for each in changes:
                position = each["sequence"]
                if call.may_read(each["kind"], str(each["id"]), name_of(each["after"] or each["before"] or {})):
                    yield pb.WatchResponse(resume_token=token(tenant_id, position), change=to_message(each))
            if len(changes) == BATCH:
                continue
            position = found[0]["head"] if found else position
            if not await self.app.heads.passed(tenant_id, position, HEARTBEAT):
                yield bookmark(tenant_id, position)


def token(tenant_id: UUID, sequence: int) -> str:
    return base64.urlsafe_b64encode(tenant_id.bytes + sequence.to_bytes(8)).decode()


def resumed(text: str, tenant_id: UUID, head: int) -> int:
    """The position of a resume token. Raises INVALID_ARGUMENT when it is not one of this tenant."""
    try:
        data = base64.urlsafe_b64decode(text)
    except ValueError:
        data = b""
    position = int.from_bytes(data[16:])
    if len(data) != 24 or data[:16] != tenant_id.bytes or position > head:
        raise invalid("resume_token", "this is not a resume token of a watch of this tenant; leave it out to begin now")
    return position


def expired(app: "App") -> ApiError:
    since = datetime.now(UTC) - timedelta(days=app.config.change_days)
    return ApiError(
        "HISTORY_EXPIRED",
        f"the change log is kept for {app.config.change_days} days, and what you ask for is older; list again, and "
        "watch without a resume_token",
        since=f"{since:%Y-%m-%dT%H:%M:%SZ}",
    )  # fmt: skip


def bookmark(tenant_id: UUID, position: int) -> pb.WatchResponse:
    return pb.WatchResponse(resume_token=token(tenant_id, position), bookmark=pb.Bookmark(sequence=position))


def to_message(record: Any) -> pb.Change:
    return pb.Change(
        sequence=record["sequence"], at=record["at"], kind=record["kind"], id=str(record["id"]),
        type=TYPES[record["type"]], actor=record["actor"], request_id=record["request_id"],
        before=record["before"], after=record["after"],
    )  # fmt: skip


@every(timedelta(hours=1))
async def purge(app: "App") -> None:
    """Remove what is older than the log is kept, but of each resource that is still there its last change before:
    so what there was at any later moment can be told. What has not been billed yet stays."""
    horizon = datetime.now(UTC) - timedelta(days=app.config.change_days)
    for _ in range(200):
        async with app.db.transaction() as tx:
            if await purged(tx, horizon) < PURGED:
                return


async def purged(tx: Tx, horizon: datetime) -> int:
    """Remove changes of before the horizon, some at a time; how many."""
    return sum(each["many"] for each in await db.records(tx, _PURGE, horizon=horizon))
