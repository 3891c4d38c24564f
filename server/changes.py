"""The change log: every change of a resource, in the transaction that makes it.

Watch, audit, billing, webhooks and time travel read it; none of them keeps a log of its own.
Services that have nothing to provision write their rows through `insert`, `update` and
`delete` here; provisioned ones go through provision.py, which does.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.db import METADATA, Row, Tx

CHANGES = sa.Table(
    "changes",
    METADATA,
    sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("tenant_id", postgresql.UUID, nullable=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("id", postgresql.UUID, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("before", postgresql.JSONB(none_as_null=True), nullable=True),
    sa.Column("after", postgresql.JSONB(none_as_null=True), nullable=True),
)
_APPEND = sa.insert(CHANGES).values(
    {name: sa.bindparam(name) for name in
     ("tenant_id", "kind", "id", "type", "actor", "request_id", "before", "after")}
)  # fmt: skip
ChangeType = Literal["CREATED", "UPDATED", "DELETED"]
R = TypeVar("R", bound=Row)


async def insert(tx: Tx, cls: type[R], **columns: object) -> R:
    row = await db.insert(tx, cls, **columns)
    await append(tx, None, row)
    return row


async def update(tx: Tx, row: R, **columns: object) -> R:
    changed = await db.update(tx, row, **columns)
    await append(tx, row, changed)
    return changed


async def delete(tx: Tx, row: Row) -> bool:
    """Whether the row was there to delete."""
    if not await db.delete(tx, row):
        return False
    await append(tx, row, None)
    return True


async def append(tx: Tx, before: Row | None, after: Row | None) -> None:
    """Log what became of a resource. A change that nobody can see is none."""
    row = after or before
    assert row is not None
    old, new = (public(each) if each else None for each in (before, after))
    if old == new:
        return
    kind: ChangeType = "UPDATED" if before and after else "CREATED" if after else "DELETED"
    await db.execute(
        tx, _APPEND, tenant_id=getattr(row, "tenant_id", None), kind=row.KIND, id=row.id, type=kind,
        actor=tx.actor, request_id=tx.request_id, before=old, after=new,
    )  # fmt: skip


def public(row: Row) -> dict[str, Any]:
    """The columns that the API shows, less secrets."""
    values: Mapping[str, Any] = row.__dict__
    return {name: str(value) if isinstance(value, UUID) else value
            for name in _public_names(type(row))  # type: ignore[arg-type]
            if (value := values[name]) is not None}  # fmt: skip


@cache
def _public_names(cls: type[Row]) -> list[str]:
    shown = cls.MESSAGE.DESCRIPTOR.fields_by_name
    return [
        each.name
        for each in fields(cls)
        if each.name in shown and each.name != "updated_at" and not shown[each.name].GetOptions().debug_redact
    ]
