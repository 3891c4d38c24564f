"""Waiting for new changes: where the change logs end, of the tenants that somebody in this process watches.

Whoever waits is woken by the listener (server/listener.py), which asks for the heads of all watched
tenants at once with each of its pings: a NOTIFY in every change would halve the rate of changes.
"""

import asyncio
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.changes import HEADS

_HEADS = sa.select(HEADS.c.tenant_id, HEADS.c.sequence).where(
    HEADS.c.tenant_id == sa.any_(sa.bindparam("tenants", type_=postgresql.ARRAY(postgresql.UUID)))
)


class Heads:
    """Those who wait for changes in this process."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], tuple[UUID, int]] = {}

    async def passed(self, tenant_id: UUID, sequence: int, seconds: float) -> bool:
        """Wait until the tenant's log goes beyond this number, at most so many seconds; whether it does."""
        woken = asyncio.get_running_loop().create_future()
        self._waiting[woken] = tenant_id, sequence
        try:
            async with asyncio.timeout(seconds):
                await woken
            return True
        except TimeoutError:
            return False
        finally:
            del self._waiting[woken]

    async def ask(self, connection: Any) -> None:
        """Ask the database where the logs end, and wake whoever waits for less. It is a ping, too."""
        tenants = {tenant_id for tenant_id, _ in self._waiting.values()}
        heads = {each["tenant_id"]: each["sequence"]
                 for each in await db.records(db.Tx(connection), _HEADS, tenants=list(tenants))}  # fmt: skip
        for woken, (tenant_id, sequence) in list(self._waiting.items()):
            if heads.get(tenant_id, 0) > sequence and not woken.done():
                woken.set_result(None)
