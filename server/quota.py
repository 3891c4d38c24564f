"""Quotas: usage is counted from the tables, so it cannot drift.

A service says how its quotas are counted; the methods that use them up name them in their
`rule.quota`. A tenant's creators take turns, so that what is counted holds until they commit. What is too much to count
each time is a sum that triggers keep.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.db import METADATA, Asked, Tx
from server.errors import invalid, quota_exceeded

LIMITS = sa.Table(
    "quotas",
    METADATA,
    sa.Column("tenant_id", postgresql.UUID, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("most", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Quota:
    """The limit of tenants without one of their own, and the statement that counts what a tenant uses."""

    default: int
    used: sa.Select[Any]  # one number; takes :tenant_id
    kept: bool  # it is a sum in one row, which whoever changes it holds until the transaction ends


QUOTAS: dict[str, Quota] = {}


def counted(name: str, default: int, used: sa.Select[Any], *, kept: bool = False) -> None:
    """Declare a quota. `used` takes the bind parameter tenant_id."""
    QUOTAS[name] = Quota(default, used, kept)


@dataclass(frozen=True)
class Standing:
    """A quota of one tenant: what it may have, and has."""

    name: str
    limit: int
    used: int


_LIMITS = sa.select(sa.func.jsonb_object_agg(LIMITS.c.name, LIMITS.c.most)).where(
    LIMITS.c.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
)
_set_limit = postgresql.insert(LIMITS).values(
    tenant_id=sa.bindparam("tenant_id"), name=sa.bindparam("name"), most=sa.bindparam("most")
)
_SET_LIMIT = _set_limit.on_conflict_do_update(
    index_elements=list(LIMITS.primary_key), set_={"most": _set_limit.excluded.most}
)
_TAKE_TURNS = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("turn"), 0)))


async def usage(
    tx: Tx, tenant_id: UUID, names: Sequence[str], *more: sa.ColumnElement[Any]
) -> tuple[dict[str, int], list[Any]]:
    """What the tenant uses of each, until the transaction ends: others of the tenant wait for it; where sums are kept,
    they wait when they change them, which is later. And what else is asked of :tenant_id along with it."""
    if not all(QUOTAS[name].kept for name in names):
        await db.execute(tx, _TAKE_TURNS, turn=f"quota/{tenant_id}")
    _, *found = await db.record(tx, _used(tuple(names), *more), tenant_id=tenant_id)
    return dict(zip(names, found, strict=False)), found[len(names) :]


def enforce(tx: Tx, tenant_id: UUID, before: Mapping[str, int]) -> None:
    """Have QUOTA_EXCEEDED raised at the end, if the transaction has taken more than the tenant may have. Using less is
    always fine."""
    names = tuple(before)

    def judge(found: Sequence[Any]) -> None:
        for standing in _told(names, found):
            used = before[standing.name]
            if standing.used > standing.limit and standing.used > used:
                raise quota_exceeded(standing.name, standing.limit, used, standing.used - used)

    tx.asked.append(Asked(_used(names), {"tenant_id": tenant_id}, judge))


async def standings(tx: Tx, tenant_id: UUID, names: Iterable[str]) -> list[Standing]:
    """How the tenant stands with each of these quotas now."""
    names = tuple(names)
    return _told(names, await db.record(tx, _used(names), tenant_id=tenant_id))


def _told(names: Iterable[str], found: Sequence[Any]) -> list[Standing]:
    limits, *used = found
    return [
        Standing(name, (limits or {}).get(name, QUOTAS[name].default), number)
        for name, number in zip(names, used, strict=True)
    ]


@cache
def _used(names: tuple[str, ...], *more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """One row: the tenant's own limits by name, if it has some, how much it uses of each, and what else is asked."""
    return sa.select(_LIMITS.scalar_subquery(), *(QUOTAS[name].used.scalar_subquery() for name in names), *more)


async def set_limit(tx: Tx, tenant_id: UUID, name: str, most: int) -> None:
    """Give the tenant a limit of its own. Raises INVALID_ARGUMENT for a quota that there is not."""
    if name not in QUOTAS:
        raise invalid("name", f"there is no quota {name!r}; there are {', '.join(sorted(QUOTAS))}")
    await db.execute(tx, _SET_LIMIT, tenant_id=tenant_id, name=name, most=most)
