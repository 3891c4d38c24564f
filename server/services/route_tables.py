"""Route tables of VPCs."""

from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import route_tables_pb2 as pb

from server import changes, db, enums, networks, pages, quota
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid, not_found, wrong_state
from server.networks import InternetGateway, NatGateway, Route, RouteTable, Subnet, VpcPeering, read_range
from server.services import vpcs
from server.topology import INSTANCES

if TYPE_CHECKING:
    from server.app import App

TARGETS = enums.spellings(pb.Route.Target.DESCRIPTOR)

T, R, S, _P = RouteTable.TABLE.c, Route.TABLE.c, Subnet.TABLE.c, VpcPeering.TABLE.c
_of_vpc = networks.of_vpc(RouteTable)
_vpc = sa.bindparam("vpc_id", type_=postgresql.UUID)
_target = sa.bindparam("target", type_=postgresql.UUID)
_tables = sa.bindparam("tables", type_=postgresql.ARRAY(postgresql.UUID))
_ROUTES = sa.select(Route.TABLE).where(R.route_table_id == sa.any_(_tables)).order_by(R.created_at, R.id)
_FOLLOWERS = sa.select(Subnet.TABLE).where(S.route_table_id == sa.any_(_tables)).order_by(S.associated_at, S.id)
_TO_SAME = sa.select(Route.TABLE).where(R.route_table_id == sa.bindparam("table", type_=postgresql.UUID),
                                        R.destination_cidr == sa.bindparam("destination"))  # fmt: skip
_IGW, _NAT = InternetGateway.TABLE.c, NatGateway.TABLE.c
_THERE = {  # whether a route's target is in the VPC, and in use
    "igw": sa.select(_IGW.id).where(_IGW.id == _target, _IGW.vpc_id == _vpc),
    "nat": sa.select(_NAT.id).where(_NAT.id == _target, _NAT.vpc_id == _vpc),
    "peering": sa.select(_P.id).where(
        _P.id == _target, _P.status == "active", sa.or_(_P.requester_vpc_id == _vpc, _P.accepter_vpc_id == _vpc)
    ),
    "instance": sa.select(INSTANCES.c.id).where(INSTANCES.c.id == _target, INSTANCES.c.vpc_id == _vpc),
}
_KINDS = {"igw": "internet_gateway", "nat": "nat_gateway", "peering": "vpc_peering", "instance": "instance"}

quota.counted("route_tables", 200, networks.counting(RouteTable))
quota.counted("routes", 2000, networks.counting(Route))


class RouteTableService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListRouteTables(self, call: Call, request: pb.ListRouteTablesRequest) -> pb.ListRouteTablesResponse:
        vpc = await networks.locate_vpc(call.tx, request.vpc_id, call.tenant_id)
        found, token = await pages.page(
            call.tx, RouteTable, _of_vpc, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id, vpc_id=vpc.id,
        )  # fmt: skip
        return pb.ListRouteTablesResponse(route_tables=await to_messages(call.tx, found), next_page_token=token)

    async def CreateRouteTable(self, call: Call, request: pb.CreateRouteTableRequest) -> pb.RouteTable:
        vpc = await networks.locate_vpc(call.tx, request.vpc_id, call.tenant_id, lock=True)
        if request.is_main:
            await changes.update(call.tx, await networks.main_table(call.tx, vpc.id), is_main=False)
        try:
            table = await changes.insert(
                call.tx, RouteTable, id=uuid4(), tenant_id=call.tenant_id, vpc_id=vpc.id, name=request.name,
                is_main=request.is_main,
            )  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise ApiError("ALREADY_EXISTS", f"the VPC has a route table {request.name!r} already; choose another name",
                           kind="route_table", name=request.name) from None  # fmt: skip
        await vpcs.add_local_route(call.tx, table, vpc.cidr_block)
        await networks.changed(call.tx, vpc)
        return await to_message(call.tx, table)

    async def GetRouteTable(self, call: Call, request: pb.GetRouteTableRequest) -> pb.RouteTable:
        return await to_message(call.tx, await db.locate(call.tx, RouteTable, request.id, call.tenant_id))

    async def DeleteRouteTable(self, call: Call, request: pb.DeleteRouteTableRequest) -> Empty:
        vpc, table = await networks.locate_part(call.tx, RouteTable, request.id, call.tenant_id)
        if table.is_main:
            raise invalid("id", f"route table {table.name} is the VPC's main one; make another the main one first")
        if followers := await db.rows(call.tx, Subnet, _FOLLOWERS, tables=[table.id]):
            named = ",".join(f"subnet/{each.id}" for each in followers[:5])
            raise ApiError("IN_USE", f"route table {table.name} is associated with {named}; disassociate that first",
                           kind="route_table", id=str(table.id), by=named)  # fmt: skip
        for route in await routes_of(call.tx, table.id):
            await changes.delete(call.tx, route)
        await changes.delete(call.tx, table)
        await networks.changed(call.tx, vpc)
        return Empty()

    async def CreateRoute(self, call: Call, request: pb.CreateRouteRequest) -> pb.Route:
        vpc, table = await networks.locate_part(call.tx, RouteTable, request.id, call.tenant_id)
        destination = str(read_range("destination_cidr", request.destination_cidr))
        target = TARGETS[request.target_type]
        target_id = await check_target(call.tx, call.tenant_id, vpc, destination, target, request.target_id)
        there = await db.first(call.tx, Route, _TO_SAME, table=table.id, destination=destination)
        if there is None:
            made = await changes.insert(
                call.tx, Route, id=uuid4(), tenant_id=call.tenant_id, route_table_id=table.id,
                destination_cidr=destination, target_type=target, target_id=target_id, origin="user",
            )  # fmt: skip
            await networks.changed(call.tx, vpc)
            return db.to_message(made)  # type: ignore[no-any-return]
        if (there.target_type, there.target_id) != (target, target_id):
            raise ApiError("ALREADY_EXISTS", f"route table {table.name} leads {destination} to {there.target_type} "
                           f"{there.target_id or ''} already; remove that route first",
                           kind="route", id=str(there.id))  # fmt: skip
        if there.origin == "auto" and target != "local":
            there = await changes.update(call.tx, there, origin="user")
        return db.to_message(there)  # type: ignore[no-any-return]

    async def GetRoute(self, call: Call, request: pb.GetRouteRequest) -> pb.Route:
        table = await db.locate(call.tx, RouteTable, request.id, call.tenant_id)
        return db.to_message(await route_of(call.tx, table, request.route_id))  # type: ignore[no-any-return]

    async def DeleteRoute(self, call: Call, request: pb.DeleteRouteRequest) -> Empty:
        vpc, table = await networks.locate_part(call.tx, RouteTable, request.id, call.tenant_id)
        route = await route_of(call.tx, table, request.route_id)
        if route.target_type == "local" and route.origin == "auto":
            raise invalid("route_id", "the local route stays as long as the table")
        await changes.delete(call.tx, route)
        await networks.changed(call.tx, vpc)
        return Empty()

    async def AssociateRouteTable(
        self, call: Call, request: pb.AssociateRouteTableRequest
    ) -> pb.RouteTableAssociation:  # fmt: skip
        vpc, table = await networks.locate_part(call.tx, RouteTable, request.id, call.tenant_id)
        subnet = await subnet_of(call.tx, table, request.subnet_id)
        if subnet.route_table_id != table.id:
            subnet = await changes.update(
                call.tx, subnet, route_table_id=table.id, associated_at=sa.func.clock_timestamp()
            )
            await networks.changed(call.tx, vpc)
        return association(subnet)

    async def DisassociateRouteTable(
        self, call: Call, request: pb.DisassociateRouteTableRequest
    ) -> pb.RouteTable:  # fmt: skip
        vpc, table = await networks.locate_part(call.tx, RouteTable, request.id, call.tenant_id)
        subnet = await subnet_of(call.tx, table, request.subnet_id)
        if subnet.route_table_id == table.id:
            await changes.update(call.tx, subnet, route_table_id=None, associated_at=None)
            await networks.changed(call.tx, vpc)
        return await to_message(call.tx, table)


async def to_message(tx: Tx, table: RouteTable) -> pb.RouteTable:
    return (await to_messages(tx, [table]))[0]


async def to_messages(tx: Tx, tables: Sequence[RouteTable]) -> list[pb.RouteTable]:
    """The tables with their routes and associations."""
    ids = [table.id for table in tables]
    routes = await db.rows(tx, Route, _ROUTES, tables=ids)
    followers = await db.rows(tx, Subnet, _FOLLOWERS, tables=ids)
    return [
        db.to_message(
            table,
            routes=[db.to_message(each) for each in routes if each.route_table_id == table.id],
            associations=[association(each) for each in followers if each.route_table_id == table.id],
        )
        for table in tables
    ]


def association(subnet: Subnet) -> pb.RouteTableAssociation:
    return pb.RouteTableAssociation(
        id=str(subnet.id), route_table_id=str(subnet.route_table_id), subnet_id=str(subnet.id),
        created_at=subnet.associated_at,
    )  # fmt: skip


async def routes_of(tx: Tx, table_id: UUID) -> list[Route]:
    return await db.rows(tx, Route, _ROUTES, tables=[table_id])


async def route_of(tx: Tx, table: RouteTable, id: str) -> Route:
    route = await db.get(tx, Route, id, table.tenant_id)
    if route.route_table_id != table.id:
        raise not_found("route", id)
    return route


async def subnet_of(tx: Tx, table: RouteTable, id: str) -> Subnet:
    subnet = await db.get(tx, Subnet, id, table.tenant_id)
    if subnet.vpc_id != table.vpc_id:
        raise invalid("subnet_id", f"subnet {subnet.name} is in another VPC than route table {table.name}")
    return subnet


async def check_target(
    tx: Tx, tenant_id: UUID, vpc: networks.Vpc, destination: str, target: str, id: str
) -> UUID | None:  # fmt: skip
    """The id of what a new route is to lead to. Raises INVALID_ARGUMENT, NOT_FOUND, or WRONG_STATE for what is not
    attached to the VPC."""
    if target == "local":
        if id:
            raise invalid("target_id", "a local route has no target_id")
        if not IPv4Network(destination).subnet_of(IPv4Network(vpc.cidr_block)):
            raise invalid("destination_cidr", f"local is the VPC's own range {vpc.cidr_block}, and {destination} "
                                              "is not a part of it")  # fmt: skip
        return None
    if not id:
        raise invalid("target_id", f"a route to {target} needs the id of its target")
    if await db.value(tx, _THERE[target], target=UUID(id), vpc_id=vpc.id):
        return UUID(id)
    kind = _KINDS[target]
    if not await db.identities(tx, db.KINDS[kind], id, tenant_id):  # type: ignore[arg-type]
        raise not_found(kind, id)
    if target in ("igw", "peering"):
        raise wrong_state(kind, UUID(id), f"not in use by vpc {vpc.name}", "attached" if target == "igw" else "active")
    raise invalid("target_id", f"{kind} {id} is not in VPC {vpc.name}")


async def is_there(tx: Tx, vpc_id: UUID, route: Route) -> bool:
    """Whether the route's target is there; packets of one that is not fall into a blackhole."""
    if route.target_type == "local":
        return True
    return bool(await db.value(tx, _THERE[route.target_type], target=route.target_id, vpc_id=vpc_id))
