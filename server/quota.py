"""Quotas: usage is counted from the tables, never stored, so it cannot drift.

A service says how its quotas are counted; the methods that use them up name them in their
`rule.quota`. A tenant's creators take turns, so that what is counted holds until they commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.db import METADATA, Tx
from server.errors import quota_exceeded

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


QUOTAS: dict[str, Quota] = {}


def counted(name: str, default: int, used: sa.Select[Any]) -> None:
    """Declare a quota. `used` takes the bind parameter tenant_id."""
    QUOTAS[name] = Quota(default, used)


_LIMITS = sa.select(LIMITS.c.name, LIMITS.c.most).where(LIMITS.c.tenant_id == sa.bindparam("tenant_id"))
_TAKE_TURNS = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("turn"), 0)))


async def usage(tx: Tx, tenant_id: UUID, names: Sequence[str]) -> dict[str, int]:
    """What the tenant uses of each, until the transaction ends: others of the tenant wait for it."""
    await db.execute(tx, _TAKE_TURNS, turn=f"quota/{tenant_id}")
    return {name: await db.value(tx, QUOTAS[name].used, tenant_id=tenant_id) for name in names}


async def enforce(tx: Tx, tenant_id: UUID, before: dict[str, int]) -> None:
    """Raise QUOTA_EXCEEDED when the transaction has taken more than the tenant may have. Using less is always fine."""
    limits = {each["name"]: each["most"] for each in await db.records(tx, _LIMITS, tenant_id=tenant_id)}
    for name, used in before.items():
        now = await db.value(tx, QUOTAS[name].used, tenant_id=tenant_id)
        limit = limits.get(name, QUOTAS[name].default)
        if now > limit and now > used:
            raise quota_exceeded(name, limit, used, now - used)
