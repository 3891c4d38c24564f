"""What a tenant has and had, read from the change log."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import inventory_pb2 as pb

from server import db, request_fields
from server.call import Call
from server.changes import CHANGES, HEADS
from server.db import Tx
from server.errors import invalid
from server.resources import name_of
from server.services.watch import expired

if TYPE_CHECKING:
    from server.app import App

C = CHANGES.c
_MOMENT = postgresql.TIMESTAMP(timezone=True)
_page = (
    C.tenant_id == sa.bindparam("tenant", type_=postgresql.UUID),
    sa.tuple_(C.kind, C.id) > sa.tuple_(sa.bindparam("last_kind", type_=sa.Text),
                                        sa.bindparam("last_id", type_=postgresql.UUID)),
    sa.or_(sa.bindparam("kind", type_=sa.Text) == "", C.kind == sa.bindparam("kind", type_=sa.Text)),
)  # fmt: skip
_limit = sa.bindparam("most", type_=sa.Integer)


def _latest(*conditions: sa.ColumnElement[bool]) -> sa.Subquery:
    """The last change of each resource among those that the conditions leave."""
    return (
        sa.select(C.kind, C.id, C.at, C.after)
        .where(*_page, *conditions)
        .ext(postgresql.distinct_on(C.kind, C.id))
        .order_by(C.kind, C.id, C.sequence.desc())
        .subquery("latest")
    )


_then = _latest(C.at <= sa.bindparam("moment", type_=_MOMENT))
_AT = sa.select(_then).where(_then.c.after.is_not(None)).order_by(_then.c.kind, _then.c.id).limit(_limit)
_since = sa.bindparam("since", type_=_MOMENT)
_new = _latest(C.at > _since, C.at <= sa.bindparam("moment", type_=_MOMENT))
_older = CHANGES.alias("older")
_old = (
    sa.select(_older.c.after)
    .where(_older.c.tenant_id == sa.bindparam("tenant", type_=postgresql.UUID), _older.c.kind == _new.c.kind,
           _older.c.id == _new.c.id, _older.c.at <= _since)
    .order_by(_older.c.sequence.desc())
    .limit(1)
    .lateral("old")
)  # fmt: skip
_BETWEEN = (
    sa.select(_new.c.kind, _new.c.id, _new.c.after, _old.c.after.label("before"))
    .select_from(_new.outerjoin(_old, sa.true()))
    .where(_new.c.after.is_distinct_from(_old.c.after))
    .order_by(_new.c.kind, _new.c.id)
    .limit(_limit)
)
_PURGED = sa.select(HEADS.c.purged).where(HEADS.c.tenant_id == sa.bindparam("tenant"))


class InventoryService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def GetInventory(self, call: Call, request: pb.GetInventoryRequest) -> pb.GetInventoryResponse:
        at = await self._moment(call.tx, call.tenant_id, request, "at")
        found, token = await page(call, request, _AT, moment=at)
        items = [pb.InventoryItem(kind=each["kind"], id=str(each["id"]), changed_at=each["at"], state=each["after"])
                 for each in found]  # fmt: skip
        return pb.GetInventoryResponse(at=at, resources=items, next_page_token=token)

    async def GetInventoryDiff(self, call: Call, request: pb.GetInventoryDiffRequest) -> pb.GetInventoryDiffResponse:
        since = await self._moment(call.tx, call.tenant_id, request, "from")
        until = await self._moment(call.tx, call.tenant_id, request, "to")
        if since > until:
            raise invalid("from", "this is later than `to`")
        found, token = await page(call, request, _BETWEEN, since=since, moment=until)
        differences = [
            pb.InventoryDifference(
                kind=each["kind"], id=str(each["id"]), before=each["before"], after=each["after"],
                change="created" if each["before"] is None else "deleted" if each["after"] is None else "updated",
            )
            for each in found
        ]  # fmt: skip
        return pb.GetInventoryDiffResponse(**{"from": since}, to=until, differences=differences, next_page_token=token)

    async def _moment(self, tx: Tx, tenant_id: UUID, request: Any, name: str) -> datetime:
        """The moment asked for, which the log must still tell of."""
        now = datetime.now(UTC)
        asked = request_fields.moment(request, name) or now
        if asked > now:
            raise invalid(name, "this is in the future; the log knows only the past")
        if asked < now - timedelta(days=self.app.config.change_days) and await db.value(tx, _PURGED, tenant=tenant_id):
            raise expired(self.app)
        return asked


async def page(call: Call, request: Any, statement: sa.Select[Any], **values: object) -> tuple[Sequence[Any], str]:
    """Those of the next records that the caller may see, and the token of the page after."""
    size = min(request.page_size or db.MOST, db.MOST)
    last_kind, last_id = position(request.page_token)
    found = await db.records(
        call.tx, statement, tenant=call.tenant_id, kind=request.kind, last_kind=last_kind, last_id=last_id,
        most=size + 1, **values,
    )  # fmt: skip
    token = ""
    if len(found) > size:
        last = found[size - 1]
        token = base64.urlsafe_b64encode(f"{last['kind']} {last['id'].hex}".encode()).decode()
    return [each for each in found[:size] if visible(call, each)], token


def visible(call: Call, record: Any) -> bool:
    state = record["after"] or record.get("before") or {}
    return call.may_read(record["kind"], str(record["id"]), name_of(state))


def position(token: str) -> tuple[str, UUID]:
    """The kind and id that a page token ends with. Raises INVALID_ARGUMENT."""
    if not token:
        return "", UUID(int=0)
    try:
        kind, id = base64.urlsafe_b64decode(token).decode().split()
        return kind, UUID(id)
    except ValueError:
        raise invalid("page_token", "this is not a page token of this list; leave it out to start anew") from None
