"""A change log with a past: what a test says has happened, at the moments it says."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from server.db import Tx


class Event(NamedTuple):
    """What became of a resource. Without a state it was deleted."""

    at: datetime
    kind: str
    id: UUID
    state: Mapping[str, Any] | None


async def happened(tx: Tx, tenant_id: UUID, events: Sequence[Event]) -> None:
    """Log these changes of the tenant, in this order, as if they had just been committed."""
    last = await tx.connection.fetchval(
        "insert into change_heads values ($1, $2, 0) on conflict (tenant_id) do update "
        "set sequence = change_heads.sequence + $2 returning sequence",
        tenant_id, len(events),
    )  # fmt: skip
    await tx.connection.executemany(
        "insert into changes (tenant_id, sequence, at, kind, id, type, actor, request_id, after) "
        "values ($1, $2, $3, $4, $5, 'UPDATED', '', '', $6)",
        [(tenant_id, last - len(events) + number, *each) for number, each in enumerate(events, 1)],
    )
