"""What a VPC is made of: rows, and what the services of its parts share.

Whoever changes a part holds the lock of its VPC's row and ends with `changed`, which has the VPC
programmed anew. Of several VPCs the lowest id is locked first, and a VPC before its parts; so it is with
their work: a VPC is woken before its instances.
"""

from collections.abc import Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import (
    elastic_ips_pb2,
    internet_gateways_pb2,
    nat_gateways_pb2,
    route_tables_pb2,
    security_groups_pb2,
    subnets_pb2,
    vpc_peerings_pb2,
    vpcs_pb2,
)

from server import changes, db
from server.db import METADATA, Owned, Provisioned, Tx
from server.errors import ApiError, invalid, not_found
from server.provision import ask

LARGEST, SMALLEST = 16, 28  # prefixes of VPCs and subnets
FORBIDDEN = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))
ANYWHERE = "0.0.0.0/0"


@db.row("vpcs", "vpc", vpcs_pb2.Vpc)
class Vpc(Provisioned):
    user_id: UUID
    host: str | None  # the one it is on, where the network driver spans no others
    name: str
    cidr_block: str
    automatic: bool  # the range was picked, and may still move


@db.row("route_tables", "route_table", route_tables_pb2.RouteTable)
class RouteTable(Owned):
    vpc_id: UUID
    name: str
    is_main: bool


@db.row("routes", "route", route_tables_pb2.Route)
class Route(Owned):
    route_table_id: UUID
    destination_cidr: str
    target_type: str
    target_id: UUID | None
    origin: str


@db.row("subnets", "subnet", subnets_pb2.Subnet)
class Subnet(Owned):
    user_id: UUID
    vpc_id: UUID
    name: str
    cidr_block: str
    availability_zone: str
    gateway_ip: str
    route_table_id: UUID | None
    associated_at: datetime | None


@db.row("internet_gateways", "internet_gateway", internet_gateways_pb2.InternetGateway)
class InternetGateway(Owned):
    user_id: UUID
    vpc_id: UUID | None
    status: str


@db.row("nat_gateways", "nat_gateway", nat_gateways_pb2.NatGateway)
class NatGateway(Owned):
    user_id: UUID
    vpc_id: UUID
    subnet_id: UUID
    elastic_ip_id: UUID
    private_ip: str
    status: str


@db.row("security_groups", "security_group", security_groups_pb2.SecurityGroup)
class SecurityGroup(Owned):
    user_id: UUID
    vpc_id: UUID
    name: str
    description: str


@db.row("security_rules", "security_rule", security_groups_pb2.SecurityRule)
class SecurityRule(Owned):
    group_id: UUID
    direction: str
    protocol: str
    port_min: int | None
    port_max: int | None
    cidr: str | None
    referenced_group_id: UUID | None
    priority: int


@db.row("elastic_ips", "elastic_ip", elastic_ips_pb2.ElasticIp)
class ElasticIp(Owned):
    user_id: UUID
    public_ip: str
    status: str
    instance_id: UUID | None
    nat_gateway_id: UUID | None
    vpc_id: UUID | None
    updated_at: datetime


@db.row("vpc_peerings", "vpc_peering", vpc_peerings_pb2.VpcPeering)
class VpcPeering(Owned):
    requester_vpc_id: UUID
    accepter_vpc_id: UUID
    status: str
    updated_at: datetime


ADDRESSES = sa.Table(
    "subnet_addresses",
    METADATA,
    sa.Column("subnet_id", postgresql.UUID, primary_key=True),
    sa.Column("address", sa.BigInteger, primary_key=True),
    sa.Column("instance_id", postgresql.UUID, nullable=True),
    sa.Column("nat_gateway_id", postgresql.UUID, nullable=True),
)
O = TypeVar("O", bound=Owned)  # noqa: E741

_vpc = sa.bindparam("vpc_id", type_=postgresql.UUID)
_tenant = sa.bindparam("tenant_id", type_=postgresql.UUID)
_A = ADDRESSES.c
_here = _A.subnet_id == sa.bindparam("subnet", type_=postgresql.UUID)
_candidates = (
    sa.select(sa.bindparam("first", type_=sa.BigInteger).label("address"))
    .union_all(sa.select((_A.address + 1).label("address")).where(_here))
    .subquery()
)
_FREE = sa.select(sa.func.min(_candidates.c.address)).where(
    _candidates.c.address <= sa.bindparam("last", type_=sa.BigInteger),
    _candidates.c.address >= sa.bindparam("first", type_=sa.BigInteger),
    ~sa.exists().where(_here, _A.address == _candidates.c.address),
)
_TAKE = sa.insert(ADDRESSES).values(
    {name: sa.bindparam(name) for name in ("subnet_id", "address", "instance_id", "nat_gateway_id")}
)
_MAIN = sa.select(RouteTable.TABLE).where(RouteTable.TABLE.c.vpc_id == _vpc, RouteTable.TABLE.c.is_main)
_GROUPS = sa.select(SecurityGroup.TABLE.c.id, SecurityGroup.TABLE.c.name).where(SecurityGroup.TABLE.c.vpc_id == _vpc)
_ROUTES_TO = sa.select(Route.TABLE).where(Route.TABLE.c.target_id == sa.bindparam("target", type_=postgresql.UUID))
_ELASTIC_IP_OF = sa.select(ElasticIp.TABLE).where(
    ElasticIp.TABLE.c.instance_id == sa.bindparam("instance", type_=postgresql.UUID)
)
_IN_ORDER = (
    sa.select(Vpc.TABLE)
    .where(Vpc.TABLE.c.id == sa.any_(sa.bindparam("ids", type_=postgresql.ARRAY(postgresql.UUID))),
           Vpc.TABLE.c.tenant_id == _tenant, Vpc.TABLE.c.desired != "DELETED")
    .order_by(Vpc.TABLE.c.id)
    .with_for_update()
)  # fmt: skip


def counting(cls: type[Owned]) -> sa.Select[Any]:
    """The statement that counts a tenant's rows, for quotas."""
    return sa.select(sa.func.count()).select_from(cls.TABLE).where(cls.TABLE.c.tenant_id == _tenant)


def of_vpc(cls: type[Owned]) -> sa.ColumnElement[bool]:
    """A VPC's rows, for lists."""
    return sa.and_(cls.TABLE.c.tenant_id == _tenant, cls.TABLE.c.vpc_id == _vpc)


async def locate_vpc(tx: Tx, reference: str, tenant_id: UUID, *, lock: bool = False) -> Vpc:
    """The tenant's VPC with this id or name. Raises NOT_FOUND also for one on its way out."""
    vpc = await db.locate(tx, Vpc, reference, tenant_id, lock=lock)
    if vpc.desired == "DELETED":
        raise not_found("vpc", reference)
    return vpc


async def locked(tx: Tx, tenant_id: UUID, *ids: UUID) -> list[Vpc]:
    """These VPCs of the tenant, locked, in the order of `ids`. Raises NOT_FOUND for the first that is not there."""
    found = {vpc.id: vpc for vpc in await db.rows(tx, Vpc, _IN_ORDER, ids=sorted(ids), tenant_id=tenant_id)}
    for id in ids:
        if id not in found:
            raise not_found("vpc", id)
    return [found[id] for id in ids]


async def locate_part(tx: Tx, cls: type[O], reference: str, tenant_id: UUID) -> tuple[Vpc, O]:
    """A part of a VPC by its id or name, as it is now that the VPC is locked."""
    part: Any = await db.locate(tx, cls, reference, tenant_id)
    [vpc] = await locked(tx, tenant_id, part.vpc_id)
    return vpc, await db.get(tx, cls, str(part.id), tenant_id, lock=True)


async def changed(tx: Tx, *vpcs: Vpc) -> None:
    """Have these VPCs, which are locked, programmed anew once the transaction commits."""
    for vpc in sorted(vpcs, key=lambda vpc: vpc.id):
        await ask(tx, vpc)


async def main_table(tx: Tx, vpc_id: UUID) -> RouteTable:
    table = await db.first(tx, RouteTable, _MAIN, vpc_id=vpc_id)
    assert table is not None
    return table


async def drop_routes(tx: Tx, target_id: UUID) -> None:
    """Remove every route that leads to this."""
    for route in await db.rows(tx, Route, _ROUTES_TO, target=target_id):
        await changes.delete(tx, route)


async def take_address(
    tx: Tx, subnet: Subnet, *, instance_id: UUID | None = None, nat_gateway_id: UUID | None = None
) -> str:
    """The lowest free address of a subnet whose VPC is locked. It comes back with the row of whoever takes it."""
    network = IPv4Network(subnet.cidr_block)
    first, last = int(network.network_address) + 2, int(network.broadcast_address) - 1  # 1 is the gateway's
    address = await db.value(tx, _FREE, subnet=subnet.id, first=first, last=last)
    if address is None:
        raise ApiError("IN_USE", f"subnet {subnet.name} ({subnet.cidr_block}) has no free address; use another",
                       kind="subnet", id=str(subnet.id))  # fmt: skip
    await db.execute(
        tx, _TAKE, subnet_id=subnet.id, address=address, instance_id=instance_id, nat_gateway_id=nat_gateway_id
    )
    return str(IPv4Address(address))


def mac(address: str) -> str:
    """The MAC of the instance that has this address: no other in its VPC has it."""
    return "02:74:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


async def groups_of(tx: Tx, vpc_id: UUID, references: Sequence[str]) -> list[str]:
    """The ids of a VPC's security groups, given by id or name. Raises NOT_FOUND."""
    if not references:
        return []
    found = await db.records(tx, _GROUPS, vpc_id=vpc_id)
    names, ids = {each["name"]: str(each["id"]) for each in found}, {str(each["id"]) for each in found}
    chosen: dict[str, None] = {}
    for reference in references:
        try:
            id = str(UUID(reference))
        except ValueError:
            id = names.get(reference, "")
        if id not in ids:
            raise not_found("security_group", reference)
        chosen[id] = None
    return list(chosen)


async def release_elastic_ip(tx: Tx, instance_id: UUID) -> None:
    """Take its elastic IP, if it has one, from an instance."""
    if held := await db.first(tx, ElasticIp, _ELASTIC_IP_OF, instance=instance_id):
        await changes.update(tx, held, status="allocated", instance_id=None, vpc_id=None)


def read_range(field: str, text: str, *, bare: bool = False) -> IPv4Network:
    """An IPv4 range. `bare`: an address alone means itself. Raises INVALID_ARGUMENT, also for host bits."""
    try:
        if "/" not in text and not bare:
            raise ValueError
        network = IPv4Network(text, strict=False)
    except ValueError:
        raise invalid(field, f'{text!r} is no IPv4 range such as "10.0.1.0/24"') from None
    address = text.partition("/")[0]
    if str(network.network_address) != address:
        raise invalid(field, f"{text} has bits after its prefix; the range is {network}")
    if "/" in text and not text.partition("/")[2].isdigit():
        raise invalid(field, f"{text}: give the prefix as a number; the range is {network}")
    return network


def read_block(field: str, text: str, *apart: IPv4Network) -> IPv4Network:
    """The range of a VPC or a subnet; it shares nothing with what is `apart`. Raises INVALID_ARGUMENT."""
    network = read_range(field, text)
    if not LARGEST <= network.prefixlen <= SMALLEST:
        raise invalid(field, f"{text} is too {'large' if network.prefixlen < LARGEST else 'small'}; "
                             f"a range here is /{LARGEST} to /{SMALLEST}")  # fmt: skip
    for other in (*FORBIDDEN, *apart):
        if network.overlaps(other):
            raise invalid(field, f"{text} overlaps {other}, which means something else; choose another range")
    return network
