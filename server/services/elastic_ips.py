"""Elastic IPs, and the pool they come from."""

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import elastic_ips_pb2 as pb

from server import changes, db, instances, networks, pages, quota, rating
from server.call import Call
from server.db import METADATA, Tx
from server.errors import ApiError, wrong_state
from server.networks import ElasticIp
from server.resources import arn

if TYPE_CHECKING:
    from server.app import App

MORE = 256  # addresses that the pool grows by when it has no free one

POOL = sa.Table(
    "public_addresses",
    METADATA,
    sa.Column("address", sa.BigInteger, primary_key=True),
    sa.Column("elastic_ip_id", postgresql.UUID, nullable=True),
    sa.Column("freed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
)
E = ElasticIp.TABLE.c
_of_tenant = E.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_first, _last = (sa.bindparam(name, type_=sa.BigInteger) for name in ("first", "last"))
_in_pool = POOL.c.address.between(_first, _last)
_free = (
    sa.select(POOL.c.address)
    .where(POOL.c.elastic_ip_id.is_(None), _in_pool)
    .order_by(POOL.c.freed_at.asc().nulls_first(), POOL.c.address)  # the longest ago free, so that nobody gets
    .limit(1)  # an address that somebody else has just let go
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)
_TAKE = (
    sa.update(POOL)
    .where(POOL.c.address == _free)
    .values(elastic_ip_id=sa.bindparam("its_id"))
    .returning(POOL.c.address)
)
_number = sa.func.generate_series(0, MORE - 1).column_valued("number")
_highest = sa.select(sa.func.max(POOL.c.address) + 1).where(_in_pool).scalar_subquery()
_next = sa.func.coalesce(_highest, _first) + _number
_GROW = (
    postgresql.insert(POOL).from_select(["address"], sa.select(_next).where(_next <= _last)).on_conflict_do_nothing()
)
_FREE = (
    sa.update(POOL)
    .where(POOL.c.elastic_ip_id == sa.bindparam("its_id"))
    .values(elastic_ip_id=None, freed_at=sa.func.clock_timestamp())
)
_OF_INSTANCE = sa.select(E.id).where(E.instance_id == sa.bindparam("instance", type_=postgresql.UUID))

quota.counted("elastic_ips", 20, networks.counting(ElasticIp))
rating.metered("elastic_ip", category="network", size=lambda state: ("elastic_ip", 1), billed=lambda state: True)


class ElasticIpService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListElasticIps(self, call: Call, request: pb.ListElasticIpsRequest) -> pb.ListElasticIpsResponse:
        found, token = await pages.page(
            call.tx, ElasticIp, _of_tenant, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListElasticIpsResponse(elastic_ips=map(to_message, found), next_page_token=token)

    async def CreateElasticIp(self, call: Call, request: pb.CreateElasticIpRequest) -> pb.ElasticIp:
        id = uuid4()
        address = await take(call.tx, IPv4Network(self.app.config.external_network), id)
        return to_message(await changes.insert(
            call.tx, ElasticIp, id=id, tenant_id=call.tenant_id, user_id=call.principal.user_id, public_ip=address,
            status="allocated",
        ))  # fmt: skip

    async def GetElasticIp(self, call: Call, request: pb.GetElasticIpRequest) -> pb.ElasticIp:
        return to_message(await db.get(call.tx, ElasticIp, request.id, call.tenant_id))

    async def DeleteElasticIp(self, call: Call, request: pb.DeleteElasticIpRequest) -> Empty:
        elastic_ip = await db.get(call.tx, ElasticIp, request.id, call.tenant_id, lock=True)
        if elastic_ip.status == "associated":
            holder = holder_of(elastic_ip)
            raise ApiError("IN_USE", f"elastic ip {elastic_ip.public_ip} is associated with {holder}; disassociate it",
                           kind="elastic_ip", id=str(elastic_ip.id), by=holder)  # fmt: skip
        await db.execute(call.tx, _FREE, its_id=elastic_ip.id)
        await changes.delete(call.tx, elastic_ip)
        return Empty()

    async def AssociateElasticIp(self, call: Call, request: pb.AssociateElasticIpRequest) -> pb.ElasticIp:
        await db.get(call.tx, ElasticIp, request.id, call.tenant_id)
        vpc, instance = await instances.locate_in_vpc(call.tx, request.instance_id, call.tenant_id)
        elastic_ip = await db.get(call.tx, ElasticIp, request.id, call.tenant_id, lock=True)
        if elastic_ip.instance_id == instance.id:
            return to_message(elastic_ip)
        if elastic_ip.status == "associated":
            holder = holder_of(elastic_ip)
            raise ApiError("IN_USE", f"elastic ip {elastic_ip.public_ip} is associated with {holder}",
                           kind="elastic_ip", id=str(elastic_ip.id), by=holder)  # fmt: skip
        if other := await db.value(call.tx, _OF_INSTANCE, instance=instance.id):
            raise ApiError("IN_USE", f"instance {instance.name} has the elastic ip {other} already; it may have one",
                           kind="instance", id=str(instance.id), by=f"elastic_ip/{other}")  # fmt: skip
        elastic_ip = await changes.update(
            call.tx, elastic_ip, status="associated", instance_id=instance.id, vpc_id=vpc.id
        )
        await networks.changed(call.tx, vpc)
        return to_message(elastic_ip)

    async def DisassociateElasticIp(self, call: Call, request: pb.DisassociateElasticIpRequest) -> pb.ElasticIp:
        before = await db.get(call.tx, ElasticIp, request.id, call.tenant_id)
        vpcs = await networks.locked(call.tx, call.tenant_id, before.vpc_id) if before.vpc_id else []
        elastic_ip = await db.get(call.tx, ElasticIp, request.id, call.tenant_id, lock=True)
        if elastic_ip.nat_gateway_id:
            holder = holder_of(elastic_ip)
            raise ApiError("IN_USE", f"elastic ip {elastic_ip.public_ip} is that of {holder}; delete the gateway",
                           kind="elastic_ip", id=str(elastic_ip.id), by=holder)  # fmt: skip
        if elastic_ip.instance_id is None or elastic_ip.vpc_id != before.vpc_id:
            raise wrong_state("elastic_ip", elastic_ip.id, elastic_ip.status, "associated")
        elastic_ip = await changes.update(call.tx, elastic_ip, status="allocated", instance_id=None, vpc_id=None)
        await networks.changed(call.tx, *vpcs)
        return to_message(elastic_ip)


def to_message(row: ElasticIp) -> pb.ElasticIp:
    return db.to_message(row, arn=arn("vpc", row.tenant_id, row.KIND, row.id))  # type: ignore[no-any-return]


def holder_of(elastic_ip: ElasticIp) -> str:
    if elastic_ip.nat_gateway_id:
        return f"nat_gateway/{elastic_ip.nat_gateway_id}"
    return f"instance/{elastic_ip.instance_id}"


async def take(tx: Tx, pool: IPv4Network, id: UUID) -> str:
    """A free address of the pool for this elastic IP. Others that take one meanwhile pass over it."""
    own = pool.num_addresses // 8  # at the end, which gateways have addresses of where the driver gives them some
    ends = {"first": int(pool.network_address) + 2, "last": int(pool.broadcast_address) - 1 - own}
    address = await db.value(tx, _TAKE, its_id=id, **ends)
    if address is None:
        await db.execute(tx, _GROW, **ends)
        address = await db.value(tx, _TAKE, its_id=id, **ends)
    if address is None:
        raise ApiError("IN_USE", f"all elastic ips of {pool} are taken; ask the operator for a larger pool",
                       kind="elastic_ip", id=str(pool))  # fmt: skip
    return str(IPv4Address(address))
