"""The change log: every change of a resource, in the transaction that makes it.

Watch, audit, billing, webhooks and time travel read it; none of them keeps a log of its own.
Services that have nothing to provision write their rows through `insert`, `update` and
`delete` here; provisioned ones go through provision.py, which does.

Each tenant's changes are numbered 1, 2, 3 … in the order in which their transactions commit. A
transaction takes its numbers from the tenant's head as the last thing it does, and holds the head
until it has committed; so whoever has seen number n has seen all before it, and a transaction
that fails leaves no gap. Heads are taken in one order, after every other lock: they add no deadlock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import cache
from typing import Any, Literal, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.db import METADATA, Row, Tx

NO_TENANT = UUID(int=0)  # whose log has what belongs to no tenant: people, their keys, tenants themselves

HEADS = sa.Table(
    "change_heads",
    METADATA,
    sa.Column("tenant_id", postgresql.UUID, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),  # of the latest change
    sa.Column("purged", sa.BigInteger, nullable=False),  # of the latest change that retention has removed
)
CHANGES = sa.Table(
    "changes",
    METADATA,
    sa.Column("tenant_id", postgresql.UUID, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("id", postgresql.UUID, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("before", postgresql.JSONB(none_as_null=True), nullable=True),
    sa.Column("after", postgresql.JSONB(none_as_null=True), nullable=True),
)
ChangeType = Literal["CREATED", "UPDATED", "DELETED"]
R = TypeVar("R", bound=Row)

_tenant = sa.bindparam("tenant", type_=postgresql.UUID)
_count = sa.bindparam("count", type_=sa.BigInteger)
_GIVEN = {"kind": sa.Text, "id": postgresql.UUID, "type": sa.Text, "actor": sa.Text, "request_id": sa.Text,
          "before": postgresql.JSONB, "after": postgresql.JSONB}  # fmt: skip
_given = db.together(_GIVEN, numbered="n")


def appending(*after: sa.CTE) -> sa.Insert:
    """The statement that appends to the log of :tenant what told() tells; where something is done before it, if that
    gives a row."""
    first = sa.select(_tenant.label("tenant"), _count.label("count"), sa.literal(0).label("purged"))
    head = (
        postgresql.insert(HEADS)
        .from_select(["tenant_id", "sequence", "purged"], first.select_from(*after))
        .on_conflict_do_update(index_elements=[HEADS.c.tenant_id], set_={"sequence": HEADS.c.sequence + _count})
        .returning(HEADS.c.sequence)
        .cte("change_head")
    )
    numbered = sa.select(_tenant, head.c.sequence - _count + _given.c.n, *(_given.c[name] for name in _GIVEN))
    return sa.insert(CHANGES).from_select(
        ["tenant_id", "sequence", *_GIVEN], numbered.select_from(head.join(_given, sa.true()))
    )


_APPEND = appending()


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one resource: its public columns before and after."""

    tenant_id: UUID
    kind: str
    id: UUID
    type: ChangeType
    actor: str
    request_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


async def insert(tx: Tx, cls: type[R], **columns: object) -> R:
    row = await db.insert(tx, cls, **columns)
    append(tx, None, row)
    return row


async def update(tx: Tx, row: R, **columns: object) -> R:
    changed = await db.update(tx, row, **columns)
    append(tx, row, changed)
    return changed


async def delete(tx: Tx, row: Row) -> bool:
    """Whether the row was there to delete."""
    if not await db.delete(tx, row):
        return False
    append(tx, row, None)
    return True


def append(tx: Tx, before: Row | None, after: Row | None) -> None:
    """Have what became of a resource logged when the transaction commits. A change that nobody can see is none."""
    row = after or before
    assert row is not None
    old, new = (public(each) if each else None for each in (before, after))
    if old == new:
        return
    kind: ChangeType = "UPDATED" if before and after else "CREATED" if after else "DELETED"
    tenant_id = getattr(row, "tenant_id", None) or NO_TENANT
    change = Change(tenant_id, row.KIND, row.id, kind, tx.actor, tx.request_id, old, new)
    tx.changes.append(change)
    tx.before_commit(key(tenant_id), _write, change)


def key(tenant_id: UUID) -> tuple[str, str]:
    """What changes of this tenant are left to write under, which is right after its audit log."""
    return str(tenant_id), "changes"


async def _write(tx: Tx, new: list[Change]) -> None:
    await db.execute(tx, _APPEND, **told(new))


def told(new: Sequence[Change]) -> dict[str, Any]:
    """The parameters of appending()."""
    columns = {name: [getattr(change, name) for change in new] for name in _GIVEN}
    return {"tenant": new[0].tenant_id, "count": len(new), **columns}


def public(row: Row) -> dict[str, Any]:
    """The columns that the API shows, less secrets."""
    values: Mapping[str, Any] = row.__dict__
    return {name: str(value) if isinstance(value, UUID) else float(value) if isinstance(value, Decimal) else value
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
