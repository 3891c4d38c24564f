"""Whether this process lives, and whether it can serve."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from thecloud.v1 import health_pb2 as pb

from server.call import Call

if TYPE_CHECKING:
    from server.app import App

log = structlog.get_logger()
PATIENCE = 2.0  # seconds for each check


class HealthService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def GetLiveness(self, call: Call, request: pb.GetLivenessRequest) -> pb.Liveness:
        return pb.Liveness(status="ok")

    async def GetReadiness(self, call: Call, request: pb.GetReadinessRequest) -> pb.Readiness:
        checks: dict[str, Awaitable[object]] = {"database": self._database()}
        checks |= {name: driver.capacity() for name, driver in self.app.drivers.compute.items()}
        replies = await asyncio.gather(*(reply(name, check) for name, check in checks.items()))
        all_well = all(replies)
        return pb.Readiness(
            status=pb.Readiness.STATUS_UP if all_well else pb.Readiness.STATUS_DEGRADED,
            checks={name: "CONNECTED" if well else "DISCONNECTED" for name, well in zip(checks, replies, strict=True)},
            time=datetime.now(UTC).replace(microsecond=0),
        )

    async def _database(self) -> None:
        async with self.app.db.reading() as tx:
            await tx.connection.execute("select 1")


async def reply(name: str, check: Awaitable[object]) -> bool:
    """Whether the check ends well in time. Why not is for the log, not for anonymous callers."""
    try:
        async with asyncio.timeout(PATIENCE):
            await check
    except Exception as exception:
        log.warning("health_check_failed", check=name, error=repr(exception))
        return False
    return True
