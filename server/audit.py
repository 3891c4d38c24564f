"""The audit log: attempt and outcome of every change, written with the change itself."""

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.db import METADATA, Tx

if TYPE_CHECKING:
    from server.pipeline import Call

LONGEST = 500  # characters of what a caller says

AUDIT = sa.Table(
    "audit_log",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("tenant_id", postgresql.UUID, nullable=True),
    sa.Column("user_id", postgresql.UUID, nullable=True),
    sa.Column("key_id", postgresql.UUID, nullable=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=True),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("user_agent", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
)
_COLUMNS = ("tenant_id", "user_id", "key_id", "actor", "action", "target", "outcome", "reason", "address",
            "user_agent", "request_id")  # fmt: skip
_APPEND = sa.insert(AUDIT).values({name: sa.bindparam(name) for name in _COLUMNS})


async def record(tx: Tx, call: "Call", outcome: str, target: str, reason: str | None = None) -> None:
    """One entry: what was tried on what, by whom, from where, and how it ended."""
    principal = call.principal
    await db.execute(
        tx, _APPEND, tenant_id=call.tenant, user_id=principal.user_id if principal.key_id else None,
        key_id=principal.key_id, actor=principal.email, action=call.method.audit, target=clean(target), outcome=outcome,
        reason=reason, address=call.address, user_agent=clean(call.metadata.get("user-agent", "")),
        request_id=call.request_id,
    )  # fmt: skip


def clean(text: str) -> str:
    """What a refused request says of itself may be anything: no more of it than is of use."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:LONGEST]
