"""Whether an instance reaches something, and what is in the way."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import reachability_pb2 as pb

from drivers.network import Port, Topology
from server import db, topology
from server.call import Call
from server.errors import invalid
from server.instances import Instance
from server.networks import ElasticIp, VpcPeering
from server.reachability import Obstacle, obstacle

if TYPE_CHECKING:
    from server.app import App

_P = VpcPeering.TABLE.c
_vpc = sa.bindparam("vpc_id", type_=postgresql.UUID)
_PEERS = sa.select(sa.case((_P.requester_vpc_id == _vpc, _P.accepter_vpc_id), else_=_P.requester_vpc_id)).where(
    sa.or_(_P.requester_vpc_id == _vpc, _P.accepter_vpc_id == _vpc), _P.status == "active"
)
_E = ElasticIp.TABLE.c
_OWNER = sa.select(_E.vpc_id).where(_E.public_ip == sa.bindparam("address"), _E.vpc_id.is_not(None),
                                    _E.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID))  # fmt: skip
Topologies = dict[UUID, Topology]


class ReachabilityService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def CheckReachability(self, call: Call, request: pb.CheckReachabilityRequest) -> pb.Reachability:
        async with self.app.db.reading() as tx:
            source = await self._instance(tx, call, "source_instance_id", request.source_instance_id)
            address, vpc_id = request.destination_address, source.vpc_id
            assert vpc_id is not None
            if request.destination_instance_id:
                destination = await self._instance(
                    tx, call, "destination_instance_id", request.destination_instance_id
                )  # fmt: skip
                address = destination.private_ip or ""
            vpc_ids = [vpc_id, *(each[0] for each in await db.records(tx, _PEERS, vpc_id=vpc_id))]
            if request.destination_instance_id and destination.vpc_id not in vpc_ids:
                return answer(Obstacle("peering", None, "the instances' VPCs are not peered"), programmed=True)
            owner = await db.value(tx, _OWNER, address=address, tenant_id=call.tenant_id)
            if owner and owner not in vpc_ids:
                vpc_ids.append(owner)
        wanted = await topology.wanted(self.app, *vpc_ids)
        seen = {id: there for id in vpc_ids if (there := await self.app.drivers.network.observe(id))}
        found = look(wanted, vpc_id, source.id, address, request)
        return answer(found or look(seen, vpc_id, source.id, address, request), programmed=seen == wanted)

    async def _instance(self, tx: db.Tx, call: Call, field: str, reference: str) -> Instance:
        instance = await db.locate(tx, Instance, reference, call.tenant_id)
        if instance.vpc_id is None:
            raise invalid(field, f"instance {instance.name} is in no VPC")
        return instance


def look(there: Topologies, vpc_id: UUID, source_id: UUID, address: str, request: Any) -> Obstacle | None:
    """What is in the way in these topologies."""
    source = port_of(there.get(vpc_id), source_id)
    if source is None:
        return Obstacle("instance", source_id, "the sender does not run, or its interface is not there yet")
    peers = {id: each for id, each in there.items() if id != vpc_id}
    return obstacle(there[vpc_id], source, address, request.protocol, request.port, peers)


def port_of(there: Topology | None, id: UUID) -> Port | None:
    return next((port for port in there.ports if port.id == id), None) if there else None


def answer(found: Obstacle | None, *, programmed: bool) -> pb.Reachability:
    if found is None:
        return pb.Reachability(reachable=True, programmed=programmed)
    return pb.Reachability(
        obstacle=pb.Obstacle(kind=found.kind, id=str(found.id) if found.id else None, message=found.text),
        programmed=programmed,
    )
