"""Peerings of VPCs."""

from ipaddress import IPv4Network
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import vpc_peerings_pb2 as pb

from server import changes, db, networks, pages, quota
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid, wrong_state
from server.networks import Route, Vpc, VpcPeering
from server.resources import arn

if TYPE_CHECKING:
    from server.app import App

P = VpcPeering.TABLE.c
_of_tenant = P.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)

quota.counted("vpc_peerings", 50, networks.counting(VpcPeering))


class VpcPeeringService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListVpcPeerings(self, call: Call, request: pb.ListVpcPeeringsRequest) -> pb.ListVpcPeeringsResponse:
        found, token = await pages.page(
            call.tx, VpcPeering, _of_tenant, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListVpcPeeringsResponse(vpc_peerings=map(to_message, found), next_page_token=token)

    async def CreateVpcPeering(self, call: Call, request: pb.CreateVpcPeeringRequest) -> pb.VpcPeering:
        ids = UUID(request.requester_vpc_id), UUID(request.accepter_vpc_id)
        if ids[0] == ids[1]:
            raise invalid("accepter_vpc_id", "a VPC is not peered with itself; name another")
        requester, accepter = await networks.locked(call.tx, call.tenant_id, *ids)
        if IPv4Network(requester.cidr_block).overlaps(IPv4Network(accepter.cidr_block)):
            raise invalid("accepter_vpc_id", f"{requester.cidr_block} of {requester.name} and {accepter.cidr_block} of "
                                             f"{accepter.name} overlap; peer VPCs that share no address")  # fmt: skip
        if requester.host != accepter.host:
            raise invalid("accepter_vpc_id", f"{requester.name} is on host {requester.host} and {accepter.name} on "
                                             f"{accepter.host}; networks here span no two hosts")  # fmt: skip
        try:
            return to_message(await changes.insert(
                call.tx, VpcPeering, id=uuid4(), tenant_id=call.tenant_id, requester_vpc_id=ids[0],
                accepter_vpc_id=ids[1], status="pending-acceptance",
            ))  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise ApiError("ALREADY_EXISTS", f"{requester.name} and {accepter.name} have a peering already, pending or "
                           "active", kind="vpc_peering") from None  # fmt: skip

    async def GetVpcPeering(self, call: Call, request: pb.GetVpcPeeringRequest) -> pb.VpcPeering:
        return to_message(await db.get(call.tx, VpcPeering, request.id, call.tenant_id))

    async def AcceptVpcPeering(self, call: Call, request: pb.AcceptVpcPeeringRequest) -> pb.VpcPeering:
        peering, requester, accepter = await locate(call, request.id)
        need_pending(peering)
        for own, other in ((requester, accepter), (accepter, requester)):
            await add_route(call.tx, peering, own, other)
        peering = await changes.update(call.tx, peering, status="active")
        await networks.changed(call.tx, requester, accepter)
        return to_message(peering)

    async def RejectVpcPeering(self, call: Call, request: pb.RejectVpcPeeringRequest) -> pb.VpcPeering:
        peering, _, _ = await locate(call, request.id)
        need_pending(peering)
        return to_message(await changes.update(call.tx, peering, status="rejected"))

    async def DeleteVpcPeering(self, call: Call, request: pb.DeleteVpcPeeringRequest) -> Empty:
        peering, *vpcs = await locate(call, request.id)
        await networks.drop_routes(call.tx, peering.id)
        await changes.delete(call.tx, peering)
        if peering.status == "active":
            await networks.changed(call.tx, *vpcs)
        return Empty()


def to_message(row: VpcPeering) -> pb.VpcPeering:
    return db.to_message(row, arn=arn("vpc-peering", row.tenant_id, row.KIND, row.id))  # type: ignore[no-any-return]


async def locate(call: Call, id: str) -> tuple[VpcPeering, Vpc, Vpc]:
    """The peering with both its VPCs, locked."""
    before = await db.get(call.tx, VpcPeering, id, call.tenant_id)
    vpcs = await networks.locked(call.tx, call.tenant_id, before.requester_vpc_id, before.accepter_vpc_id)
    return await db.get(call.tx, VpcPeering, id, call.tenant_id, lock=True), *vpcs  # type: ignore[return-value]


def need_pending(peering: VpcPeering) -> None:
    if peering.status != "pending-acceptance":
        raise wrong_state("vpc_peering", peering.id, peering.status, "pending-acceptance")


async def add_route(tx: Tx, peering: VpcPeering, own: Vpc, other: Vpc) -> None:
    """The route to the other VPC, in the main table of this one."""
    table = await networks.main_table(tx, own.id)
    try:
        await changes.insert(
            tx, Route, id=uuid4(), tenant_id=own.tenant_id, route_table_id=table.id,
            destination_cidr=other.cidr_block, target_type="peering", target_id=peering.id, origin="auto",
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise ApiError("ALREADY_EXISTS", f"the main route table of {own.name} leads {other.cidr_block} elsewhere; "
                       "remove that route first", kind="route", name=other.cidr_block) from None  # fmt: skip
