"""A VPC as its rows want it, and having the network driver make it so."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from drivers import network
from drivers.contracts import hostname
from drivers.network import Topology
from server import db, networks, ports
from server.db import Tx
from server.networks import ElasticIp, InternetGateway, NatGateway, SecurityGroup, SecurityRule, Subnet, Vpc, VpcPeering
from server.services import instance_types
from server.work import NotYet

if TYPE_CHECKING:
    from server.app import App

DOMAIN = "internal"  # instances find each other as <name> and <name>.internal
TARGETS: Mapping[str, network.Target] = {
    "local": "local", "igw": "internet_gateway", "nat": "nat_gateway", "peering": "peering", "instance": "instance",
}  # fmt: skip

INSTANCES = sa.table(
    "instances",
    *(
        sa.column(name)
        for name in ("vpc_id", "subnet_id", "netns", "tap", "private_ip", "name", "ports", "instance_type")
    ),
    sa.column("id", postgresql.UUID),
    sa.column("security_groups", postgresql.ARRAY(sa.Text)),
)
"""The columns of instances that a network is made of. The service of instances has it programmed, and is above this."""

_vpc = sa.bindparam("vpc_id", type_=postgresql.UUID)
_I, _P, _R, _T = INSTANCES.c, VpcPeering.TABLE.c, networks.Route.TABLE.c, networks.RouteTable.TABLE.c
_TYPES = instance_types.TYPES.c
_G, _RULES, _E, _N = SecurityGroup.TABLE.c, SecurityRule.TABLE.c, ElasticIp.TABLE.c, NatGateway.TABLE.c
_running = sa.or_(_I.netns.is_not(None), _I.tap.is_not(None))
_SUBNETS = sa.select(Subnet.TABLE).where(Subnet.TABLE.c.vpc_id == _vpc).order_by(Subnet.TABLE.c.id)
_PORTS = (
    sa.select(*INSTANCES.c, _TYPES.network_mbps)
    .join_from(INSTANCES, instance_types.TYPES, _TYPES.id == _I.instance_type)
    .where(_I.vpc_id == _vpc, _running)
    .order_by(_I.id)
)
_TABLES = sa.select(networks.RouteTable.TABLE).where(_T.vpc_id == _vpc).order_by(_T.id)
_ROUTES = (
    sa.select(networks.Route.TABLE)
    .join(networks.RouteTable.TABLE, _T.id == _R.route_table_id)
    .where(_T.vpc_id == _vpc)
    .order_by(_R.destination_cidr)
)
_GROUPS = sa.select(SecurityGroup.TABLE).where(_G.vpc_id == _vpc).order_by(_G.id)
_GROUP_RULES = (
    sa.select(SecurityRule.TABLE)
    .join(SecurityGroup.TABLE, _G.id == _RULES.group_id)
    .where(_G.vpc_id == _vpc)
    .order_by(_RULES.id)
)
_GATEWAY = sa.select(InternetGateway.TABLE.c.id).where(InternetGateway.TABLE.c.vpc_id == _vpc)
_NAT_GATEWAYS = (
    sa.select(_N.id, _N.subnet_id, _N.private_ip, _E.public_ip)
    .join_from(NatGateway.TABLE, ElasticIp.TABLE, _E.nat_gateway_id == _N.id)
    .where(_N.vpc_id == _vpc)
    .order_by(_N.id)
)
_ELASTIC_IPS = (
    sa.select(_E.id, _E.public_ip, _E.instance_id)
    .join_from(ElasticIp.TABLE, INSTANCES, _I.id == _E.instance_id)
    .where(_E.vpc_id == _vpc, _running)
    .order_by(_E.id)
)
_peer = sa.case((_P.requester_vpc_id == _vpc, _P.accepter_vpc_id), else_=_P.requester_vpc_id)
_PEERINGS = (
    sa.select(_P.id, _peer.label("peer_vpc_id"), Vpc.TABLE.c.cidr_block)
    .join_from(VpcPeering.TABLE, Vpc.TABLE, Vpc.TABLE.c.id == _peer)
    .where(sa.or_(_P.requester_vpc_id == _vpc, _P.accepter_vpc_id == _vpc), _P.status == "active")
    .order_by(_P.id)
)


async def render(tx: Tx, vpc_id: UUID) -> Topology | None:
    """The VPC with all that is in it, of one snapshot; None when it is gone or to go."""
    vpc = await db.find(tx, Vpc, vpc_id)
    if vpc is None or vpc.desired == "DELETED":
        return None
    tables = await db.records(tx, _TABLES, vpc_id=vpc_id)
    main = next(each["id"] for each in tables if each["is_main"])
    routes, rules = await db.records(tx, _ROUTES, vpc_id=vpc_id), await db.records(tx, _GROUP_RULES, vpc_id=vpc_id)
    return Topology(
        vpc_id=vpc_id, tenant_id=vpc.tenant_id, cidrs=(vpc.cidr_block,),
        subnets=tuple(
            network.Subnet(id=each["id"], cidr=each["cidr_block"], gateway_ip=each["gateway_ip"],
                           route_table_id=each["route_table_id"] or main)
            for each in await db.records(tx, _SUBNETS, vpc_id=vpc_id)
        ),
        ports=tuple(map(port, await db.records(tx, _PORTS, vpc_id=vpc_id))),
        groups=tuple(
            network.Group(id=each["id"], rules=tuple(rule(one) for one in rules if one["group_id"] == each["id"]))
            for each in await db.records(tx, _GROUPS, vpc_id=vpc_id)
        ),
        route_tables=tuple(
            network.RouteTable(
                id=each["id"], routes=tuple(route(one) for one in routes if one["route_table_id"] == each["id"])
            )
            for each in tables
        ),
        internet_gateway=await db.value(tx, _GATEWAY, vpc_id=vpc_id),
        nat_gateways=tuple(network.NatGateway(**each) for each in await db.records(tx, _NAT_GATEWAYS, vpc_id=vpc_id)),
        elastic_ips=tuple(
            network.ElasticIp(id=each["id"], public_ip=each["public_ip"], port_id=each["instance_id"])
            for each in await db.records(tx, _ELASTIC_IPS, vpc_id=vpc_id)
        ),
        peerings=tuple(
            network.Peering(id=each["id"], peer_vpc_id=each["peer_vpc_id"], peer_cidrs=(each["cidr_block"],))
            for each in await db.records(tx, _PEERINGS, vpc_id=vpc_id)
        ),
    )  # fmt: skip


def port(instance: Any) -> network.Port:
    """An instance that runs, as it meets its subnet. The port has the instance's id."""
    called = hostname(instance["name"])
    return network.Port(
        id=instance["id"], instance_id=instance["id"], subnet_id=instance["subnet_id"],
        mac=networks.mac(instance["private_ip"]), address=instance["private_ip"],
        groups=tuple(map(UUID, instance["security_groups"])), mbps=instance["network_mbps"], netns=instance["netns"],
        tap=instance["tap"], published=tuple(ports.parse(instance["ports"])),
        hostnames=(called, f"{called}.{DOMAIN}") if called else (),
    )  # fmt: skip


def rule(row: Any) -> network.Rule:
    numbers = {} if row["port_min"] is None else {"port_min": row["port_min"], "port_max": row["port_max"]}
    return network.Rule(
        id=row["id"], direction=row["direction"], protocol=row["protocol"], cidr=row["cidr"],
        group_id=row["referenced_group_id"], **numbers,
    )  # fmt: skip


def route(row: Any) -> network.Route:
    return network.Route(
        destination=row["destination_cidr"], target=TARGETS[row["target_type"]], target_id=row["target_id"]
    )


async def wanted(app: "App", *vpc_ids: UUID) -> dict[UUID, Topology]:
    """These VPCs as they should be, of one moment; what is gone or to go is left out."""
    async with app.db.snapshot() as tx:
        rendered = [(id, await render(tx, id)) for id in vpc_ids]
    return {id: topology for id, topology in rendered if topology is not None}


async def program(app: "App", vpc_id: UUID) -> None:
    """Have the driver make the VPC as it is wanted now, or be gone. Takes turns, so that the latest wish wins.

    Raises NotYet where this server may not, or lacks what it needs.
    """
    async with app.db.alone(f"vpc/{vpc_id}"):
        topology = (await wanted(app, vpc_id)).get(vpc_id)
        try:
            if topology is None:
                await app.drivers.network.delete(vpc_id)
            else:
                await app.drivers.network.apply(topology)
        except PermissionError as error:
            raise NotYet(f"networks are made by a server that runs as root, and this one does not: {error}") from None
        except FileNotFoundError as error:
            raise NotYet(f"this host lacks what networks are made with ({error}); see `thecloud doctor`") from None
