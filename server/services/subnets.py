"""Subnets of VPCs."""

from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import subnets_pb2 as pb

from server import changes, db, networks, pages, quota
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid
from server.networks import ADDRESSES, Route, RouteTable, Subnet, Vpc, VpcPeering, read_block
from server.resources import arn
from server.services import route_tables

if TYPE_CHECKING:
    from server.app import App

S, _P, _A = Subnet.TABLE.c, VpcPeering.TABLE.c, ADDRESSES.c
_vpc = sa.bindparam("vpc_id", type_=postgresql.UUID)
_of_vpc = networks.of_vpc(Subnet)
_SIBLINGS = sa.select(S.name, S.cidr_block).where(S.vpc_id == _vpc)
_PEERED = sa.select(_P.id).where(
    sa.or_(_P.requester_vpc_id == _vpc, _P.accepter_vpc_id == _vpc), _P.status != "rejected"
)
_LOCAL = (
    sa.select(Route.TABLE)
    .join(RouteTable.TABLE, RouteTable.TABLE.c.id == Route.TABLE.c.route_table_id)
    .where(RouteTable.TABLE.c.vpc_id == _vpc, Route.TABLE.c.target_type == "local", Route.TABLE.c.origin == "auto")
)
_USERS = sa.select(_A.instance_id, _A.nat_gateway_id).where(
    _A.subnet_id == sa.bindparam("subnet", type_=postgresql.UUID)
)

quota.counted("subnets", 200, networks.counting(Subnet))


class SubnetService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListSubnets(self, call: Call, request: pb.ListSubnetsRequest) -> pb.ListSubnetsResponse:
        vpc = await networks.locate_vpc(call.tx, request.vpc_id, call.tenant_id)
        found, token = await pages.page(
            call.tx, Subnet, _of_vpc, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id, vpc_id=vpc.id,
        )  # fmt: skip
        return pb.ListSubnetsResponse(subnets=map(to_message, found), next_page_token=token)

    async def CreateSubnet(self, call: Call, request: pb.CreateSubnetRequest) -> pb.Subnet:
        vpc = await networks.locate_vpc(call.tx, request.vpc_id, call.tenant_id, lock=True)
        external = IPv4Network(self.app.config.external_network)
        block = read_block("cidr_block", request.cidr_block, external)
        siblings = await db.records(call.tx, _SIBLINGS, vpc_id=vpc.id)
        if not block.subnet_of(IPv4Network(vpc.cidr_block)):
            if not vpc.automatic or siblings or await db.value(call.tx, _PEERED, vpc_id=vpc.id):
                raise invalid("cidr_block", f"{block} is not a part of the VPC's range {vpc.cidr_block}")
            vpc = await move(call.tx, vpc, read_block("cidr_block", str(block.supernet(new_prefix=16)), external))
        for other in siblings:
            if block.overlaps(IPv4Network(other["cidr_block"])):
                raise ApiError("ALREADY_EXISTS", f"{block} overlaps {other['cidr_block']} of subnet {other['name']}",
                               kind="subnet", name=other["name"])  # fmt: skip
        try:
            made = await changes.insert(
                call.tx, Subnet, id=uuid4(), tenant_id=call.tenant_id, user_id=call.principal.user_id, vpc_id=vpc.id,
                name=request.name, cidr_block=str(block), availability_zone=request.availability_zone,
                gateway_ip=str(block.network_address + 1),
            )  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise ApiError("ALREADY_EXISTS", f"the VPC has a subnet {request.name!r} already; choose another name",
                           kind="subnet", name=request.name) from None  # fmt: skip
        await networks.changed(call.tx, vpc)
        return to_message(made)

    async def GetSubnet(self, call: Call, request: pb.GetSubnetRequest) -> pb.Subnet:
        return to_message(await db.locate(call.tx, Subnet, request.id, call.tenant_id))

    async def DeleteSubnet(self, call: Call, request: pb.DeleteSubnetRequest) -> Empty:
        vpc, subnet = await networks.locate_part(call.tx, Subnet, request.id, call.tenant_id)
        users = [
            f"instance/{each['instance_id']}" if each["instance_id"] else f"nat_gateway/{each['nat_gateway_id']}"
            for each in await db.records(call.tx, _USERS, subnet=subnet.id)
        ]
        if users:
            raise ApiError(
                "IN_USE", f"subnet {subnet.name} still has {', '.join(users[:5])} in it; delete that first",
                kind="subnet", id=str(subnet.id), by=",".join(users[:5]),
            )  # fmt: skip
        await changes.delete(call.tx, subnet)
        await networks.changed(call.tx, vpc)
        return Empty()

    async def GetSubnetRoutes(self, call: Call, request: pb.GetSubnetRoutesRequest) -> pb.GetSubnetRoutesResponse:
        subnet = await db.locate(call.tx, Subnet, request.id, call.tenant_id)
        table_id = subnet.route_table_id or (await networks.main_table(call.tx, subnet.vpc_id)).id
        routes = await route_tables.routes_of(call.tx, table_id)
        routes.sort(key=lambda route: IPv4Network(route.destination_cidr).prefixlen, reverse=True)
        return pb.GetSubnetRoutesResponse(
            route_table_id=str(table_id),
            routes=[await effective(call.tx, subnet, route) for route in routes],
        )


def to_message(row: Subnet) -> pb.Subnet:
    return db.to_message(  # type: ignore[no-any-return]
        row, status="available", arn=arn("subnet", row.tenant_id, "subnet", row.id)
    )


async def effective(tx: Tx, subnet: Subnet, route: Route) -> Any:
    there = await route_tables.is_there(tx, subnet.vpc_id, route)
    return pb.GetSubnetRoutesResponse.EffectiveRoute(
        destination_cidr=route.destination_cidr, target_type=route.target_type, route_id=str(route.id),
        target_id=str(route.target_id) if route.target_id else None, state="active" if there else "blackhole",
    )  # fmt: skip


async def move(tx: Tx, vpc: Vpc, block: IPv4Network) -> Vpc:
    """Give a VPC that nothing is in another range."""
    for route in await db.rows(tx, Route, _LOCAL, vpc_id=vpc.id):
        try:
            await changes.update(tx, route, destination_cidr=str(block))
        except asyncpg.UniqueViolationError:
            raise ApiError("ALREADY_EXISTS", f"a route table of {vpc.name} leads {block} elsewhere; remove that route "
                           "first", kind="route", name=str(block)) from None  # fmt: skip
    return await changes.update(tx, vpc, cidr_block=str(block))
