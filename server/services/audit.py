"""The audit log, for those who may read it. server/audit.py writes it."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from google.api.httpbody_pb2 import HttpBody
from sqlalchemy.dialects import postgresql
from thecloud.v1 import audit_pb2 as pb

from server import db, pages, request_fields
from server.audit import Entry
from server.call import Call

if TYPE_CHECKING:
    from server.app import App

USUAL = 50  # entries of a page
MIME = "application/x-ndjson"
JSON_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z

E = Entry.TABLE.c


_MOMENT = postgresql.TIMESTAMP(timezone=True)
_wanted = sa.and_(
    E.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID),
    db.given("only_user", postgresql.UUID, lambda its: E.user_id == its),
    db.given("since", _MOMENT, lambda moment: E.created_at >= moment),
    db.given("until", _MOMENT, lambda moment: E.created_at <= moment),
    db.given("actor", sa.Text, lambda its: E.actor == its),
    db.given("action", sa.Text, lambda its: E.action == its),
    db.given("kind", sa.Text, lambda its: E.resource_type == its),
    db.given("id_begins", sa.Text, lambda its: sa.func.starts_with(E.resource_id, its)),
    db.given("status", sa.Text, lambda its: E.status == its),
)


class AuditService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListAuditLogs(self, call: Call, request: pb.ListAuditLogsRequest) -> pb.ListAuditLogsResponse:
        entries, token = await pages.page(
            call.tx, Entry, _wanted, size=request.limit or request.page_size or USUAL, token=request.page_token,
            **wanted(call, request),
        )  # fmt: skip
        return pb.ListAuditLogsResponse(audit_logs=map(to_message, entries), next_page_token=token)

    async def ExportAuditLogs(self, call: Call, request: pb.ExportAuditLogsRequest) -> AsyncIterator[HttpBody]:
        token, more = "", True
        while more:
            async with self.app.db.reading() as tx:
                entries, token = await pages.page(tx, Entry, _wanted, size=0, token=token, **wanted(call, request))
            lines = b"".join(orjson.dumps(plain(entry), option=JSON_LINE) for entry in entries)
            yield HttpBody(content_type=MIME, data=lines)
            more = bool(token)


def wanted(call: Call, request: pb.ListAuditLogsRequest | pb.ExportAuditLogsRequest) -> dict[str, Any]:
    """What the request filters by, and whose entries the caller may see."""
    kind, slash, id = request.resource.partition("/")
    return {
        "tenant_id": call.tenant_id,
        "only_user": None if call.may(call.method.wider_permission, "audit_log") else call.principal.user_id,
        "since": request_fields.moment(request, "start_time"), "until": request_fields.moment(request, "end_time"),
        "actor": request.actor or None, "action": request.action or None, "kind": kind or None,
        "id_begins": id if slash else None, "status": request.status or None,
    }  # fmt: skip


def plain(entry: Entry) -> dict[str, Any]:
    """The entry as plain data, as the API shows it."""
    details = orjson.loads(entry.details)
    values = {name: str(value) if isinstance(value, UUID) else value for name, value in vars(entry).items()}
    values |= {name: details.pop(name) for name in ("before", "after") if name in details}
    try:
        shown = str(UUID(entry.resource_id))[:8]
    except ValueError:
        shown = entry.resource_id
    values |= {
        "timestamp": entry.created_at, "resource": f"{entry.resource_type}/{shown}", "hash": entry.hash.hex(),
        "details": details,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def to_message(entry: Entry) -> pb.AuditLog:
    values = plain(entry)
    moment = values.pop("created_at")
    return pb.AuditLog(**(values | {"timestamp": moment, "created_at": moment}))
