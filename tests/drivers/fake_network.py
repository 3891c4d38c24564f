"""VPCs in memory, for the tests of services. It keeps what was applied last, and moves no packets."""

from dataclasses import replace
from uuid import UUID

from drivers.contracts import Wire
from drivers.network import Topology


class FakeNetwork:
    """See NetworkDriver. A peering is there once both its VPCs are."""

    one_host = True
    publishes = True

    def __init__(self) -> None:
        self.applied: dict[UUID, Topology] = {}

    async def apply(self, topology: Topology) -> None:
        self.applied[topology.vpc_id] = topology

    async def observe(self, vpc_id: UUID) -> Topology | None:
        there = self.applied.get(vpc_id)
        if there is None:
            return None
        return replace(there, peerings=tuple(one for one in there.peerings if one.peer_vpc_id in self.applied))

    async def delete(self, vpc_id: UUID) -> None:
        self.applied.pop(vpc_id, None)

    async def list(self) -> set[UUID]:
        return set(self.applied)

    async def wire(self) -> Wire:
        return Wire()
