"""VPCs. Their parts have services of their own; server/networks.py has all their rows."""

from datetime import timedelta
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import vpcs_pb2 as pb

from server import changes, db, networks, pages, quota, request_fields, topology
from server.call import Call
from server.db import Owned, Tx
from server.errors import ApiError, invalid
from server.networks import (
    InternetGateway,
    NatGateway,
    Route,
    RouteTable,
    SecurityGroup,
    SecurityRule,
    Subnet,
    Vpc,
    VpcPeering,
    read_block,
)
from server.provision import ask, create, gone, observed, pending, reconciles, reconciling
from server.resources import arn
from server.topology import INSTANCES, program
from server.work import NotYet, every, nudge

if TYPE_CHECKING:
    from server.app import App

RANGES = [IPv4Network(f"10.{number}.0.0/16") for number in range(256)]  # that are picked from

V = Vpc.TABLE.c
_tenant = V.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_staying = V.desired != "DELETED"
_listed = sa.and_(_tenant, _staying)
_RANGES = sa.select(V.cidr_block).where(_listed)
_vpc = sa.bindparam("vpc_id", type_=postgresql.UUID)
_P = VpcPeering.TABLE.c
_peered = sa.or_(_P.requester_vpc_id == _vpc, _P.accepter_vpc_id == _vpc)
_HELD_BY = sa.union_all(
    sa.select(sa.literal("instance").label("kind"), INSTANCES.c.id).where(INSTANCES.c.vpc_id == _vpc),
    sa.select(sa.literal("nat_gateway"), NatGateway.TABLE.c.id).where(NatGateway.TABLE.c.vpc_id == _vpc),
    sa.select(sa.literal("internet_gateway"), InternetGateway.TABLE.c.id).where(InternetGateway.TABLE.c.vpc_id == _vpc),
    sa.select(sa.literal("vpc_peering"), _P.id).where(_peered, _P.status != "rejected"),
).limit(5)
_of_table = sa.select(RouteTable.TABLE.c.id).where(RouteTable.TABLE.c.vpc_id == _vpc)
_of_group = sa.select(SecurityGroup.TABLE.c.id).where(SecurityGroup.TABLE.c.vpc_id == _vpc)
_FALLING: list[tuple[type[Owned], Any]] = [  # with a VPC, in an order in which none is referred to
    (cls, sa.select(cls.TABLE).where(condition))
    for cls, condition in (
        (VpcPeering, _peered),
        (Subnet, Subnet.TABLE.c.vpc_id == _vpc),
        (Route, Route.TABLE.c.route_table_id.in_(_of_table)),
        (RouteTable, RouteTable.TABLE.c.vpc_id == _vpc),
        (SecurityRule, SecurityRule.TABLE.c.group_id.in_(_of_group)),
        (SecurityGroup, SecurityGroup.TABLE.c.vpc_id == _vpc),
    )
]
_OF_HOST = sa.select(V.id).where(_staying, sa.or_(V.host == sa.bindparam("at_host"), V.host.is_(None)))
_EXISTING = sa.select(V.id).where(V.id == sa.any_(sa.bindparam("ids", type_=postgresql.ARRAY(postgresql.UUID))))

quota.counted("vpcs", 20, sa.select(sa.func.count()).select_from(Vpc.TABLE).where(_listed))


class VpcService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListVpcs(self, call: Call, request: pb.ListVpcsRequest) -> pb.ListVpcsResponse:
        found, token = await pages.page(
            call.tx, Vpc, _listed, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListVpcsResponse(vpcs=map(to_message, found), next_page_token=token)

    async def CreateVpc(self, call: Call, request: pb.CreateVpcRequest) -> pb.Vpc:
        if request.cidr_block:
            block = read_block("cidr_block", request.cidr_block, IPv4Network(self.app.config.external_network))
        else:
            block = await free_range(call.tx, call.tenant_id)
        id = uuid4()
        host = self.app.config.host if self.app.drivers.network.one_host else None
        try:
            made = await create(
                call.tx, Vpc, id=id, desired="ACTIVE", status="active", tenant_id=call.tenant_id,
                user_id=call.principal.user_id, host=host, name=request.name, cidr_block=str(block),
                automatic=not request.cidr_block,
            )  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise taken(request.name) from None
        table = await changes.insert(
            call.tx, RouteTable, id=uuid4(), tenant_id=call.tenant_id, vpc_id=id, name="main", is_main=True
        )
        await add_local_route(call.tx, table, str(block))
        return to_message(made)

    async def GetVpc(self, call: Call, request: pb.GetVpcRequest) -> pb.Vpc:
        return to_message(await networks.locate_vpc(call.tx, request.id, call.tenant_id))

    async def UpdateVpc(self, call: Call, request: pb.UpdateVpcRequest) -> pb.Vpc:
        vpc = await networks.locate_vpc(call.tx, request.id, call.tenant_id, lock=True)
        wanted = request_fields.masked(request, "name")
        if wanted.get("name") == "":
            raise invalid("name", "a name has at least one character")
        try:
            return to_message(await changes.update(call.tx, vpc, **wanted) if wanted else vpc)
        except asyncpg.UniqueViolationError:
            raise taken(request.name) from None

    async def DeleteVpc(self, call: Call, request: pb.DeleteVpcRequest) -> Empty:
        vpc = await networks.locate_vpc(call.tx, request.id, call.tenant_id, lock=True)
        held = [f"{each['kind']}/{each['id']}" for each in await db.records(call.tx, _HELD_BY, vpc_id=vpc.id)]
        if held:
            raise ApiError(
                "IN_USE", f"vpc {vpc.name} still has {', '.join(held)} in it; delete or detach that first",
                kind="vpc", id=str(vpc.id), by=",".join(held),
            )  # fmt: skip
        for cls, statement in _FALLING:
            for row in await db.rows(call.tx, cls, statement, vpc_id=vpc.id):
                await changes.delete(call.tx, row)
        await ask(call.tx, vpc, desired="DELETED")
        return Empty()


def to_message(row: Vpc) -> pb.Vpc:
    return db.to_message(  # type: ignore[no-any-return]
        row, reconciling=reconciling(row), arn=arn("vpc", row.tenant_id, "vpc", row.id)
    )


def taken(name: str) -> ApiError:
    return ApiError("ALREADY_EXISTS", f"a VPC {name!r} is there already; choose another name", kind="vpc", name=name)


async def free_range(tx: Tx, tenant_id: UUID) -> IPv4Network:
    """The next range that no VPC of the tenant has. Its creators take turns: see quota.py."""
    taken = [IPv4Network(each["cidr_block"]) for each in await db.records(tx, _RANGES, tenant_id=tenant_id)]
    for range in RANGES:
        if not any(range.overlaps(other) for other in taken):
            return range
    raise invalid("cidr_block", "every 10.x.0.0/16 is taken; name another range")


async def add_local_route(tx: Tx, table: RouteTable, block: str) -> None:
    await changes.insert(
        tx, Route, id=uuid4(), tenant_id=table.tenant_id, route_table_id=table.id, destination_cidr=block,
        target_type="local", origin="auto",
    )  # fmt: skip


@reconciles(Vpc)
async def reconcile(app: "App", row: Vpc) -> timedelta | None:
    """Have one VPC programmed as its rows are now."""
    try:
        await program(app, row.id)
    except NotYet as reason:
        await pending(app, row, str(reason))
        raise
    if row.desired == "DELETED":
        await gone(app, row)
    else:
        await observed(app, row, "active")
    return None


@every(timedelta(seconds=15), each_host=True)
async def compare(app: "App") -> None:
    """Look for VPCs that are not programmed as their rows want, and for leftovers that no row knows.

    Where an interface is missing its instance is looked at too: it may have been started anew, in another namespace.
    """
    there = await app.drivers.network.list()
    async with app.db.reading() as tx:
        here = [each["id"] for each in await db.records(tx, _OF_HOST, at_host=app.config.host)]
        known = {each["id"] for each in await db.records(tx, _EXISTING, ids=list(there))}
    for id in here:
        wanted = (await topology.wanted(app, id)).get(id)
        if wanted is None or (seen := await app.drivers.network.observe(id)) == wanted:
            continue
        if not app.drivers.network.one_host:
            await program(app, id)  # here: each host has a part of its own in it
            continue
        plugged = {port.id for port in seen.ports} if seen else set()
        async with app.db.transaction() as tx:
            await nudge(tx, Vpc.KIND, id, app.config.host)
            for port in wanted.ports:
                if port.id not in plugged:
                    await nudge(tx, "instance", port.id, app.config.host)
    for id in there - known:
        await app.drivers.network.delete(id)
