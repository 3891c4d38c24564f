"""NAT gateways of VPCs."""

from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
from google.protobuf.empty_pb2 import Empty
from thecloud.v1 import nat_gateways_pb2 as pb

from server import changes, db, networks, pages, quota, rating
from server.call import Call
from server.errors import invalid, wrong_state
from server.networks import ElasticIp, NatGateway, Subnet
from server.resources import arn

if TYPE_CHECKING:
    from server.app import App

_of_vpc = networks.of_vpc(NatGateway)

quota.counted("nat_gateways", 20, networks.counting(NatGateway))
rating.metered("nat_gateway", category="network", size=lambda state: ("nat_gateway", 1), billed=lambda state: True)


class NatGatewayService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListNatGateways(self, call: Call, request: pb.ListNatGatewaysRequest) -> pb.ListNatGatewaysResponse:
        vpc = await networks.locate_vpc(call.tx, request.vpc_id, call.tenant_id)
        found, token = await pages.page(
            call.tx, NatGateway, _of_vpc, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id, vpc_id=vpc.id,
        )  # fmt: skip
        return pb.ListNatGatewaysResponse(nat_gateways=map(to_message, found), next_page_token=token)

    async def CreateNatGateway(self, call: Call, request: pb.CreateNatGatewayRequest) -> pb.NatGateway:
        vpc, subnet = await networks.locate_part(call.tx, Subnet, request.subnet_id, call.tenant_id)
        elastic_ip_id = request.eip_id or request.elastic_ip_id
        elastic_ip = await db.get(call.tx, ElasticIp, elastic_ip_id, call.tenant_id, lock=True)
        if elastic_ip.status != "allocated":
            raise wrong_state("elastic_ip", elastic_ip.id, elastic_ip.status, "allocated")
        id = uuid4()
        address = await networks.take_address(call.tx, subnet, nat_gateway_id=id)
        try:
            made = await changes.insert(
                call.tx, NatGateway, id=id, tenant_id=call.tenant_id, user_id=call.principal.user_id, vpc_id=vpc.id,
                subnet_id=subnet.id, elastic_ip_id=elastic_ip.id, private_ip=address, status="active",
            )  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise invalid("subnet_id", f"subnet {subnet.name} has a NAT gateway already; it may have one") from None
        await changes.update(call.tx, elastic_ip, status="associated", nat_gateway_id=id, vpc_id=vpc.id)
        await networks.changed(call.tx, vpc)
        return to_message(made)

    async def GetNatGateway(self, call: Call, request: pb.GetNatGatewayRequest) -> pb.NatGateway:
        return to_message(await db.get(call.tx, NatGateway, request.id, call.tenant_id))

    async def DeleteNatGateway(self, call: Call, request: pb.DeleteNatGatewayRequest) -> Empty:
        vpc, gateway = await networks.locate_part(call.tx, NatGateway, request.id, call.tenant_id)
        elastic_ip = await db.get(call.tx, ElasticIp, str(gateway.elastic_ip_id), call.tenant_id, lock=True)
        await changes.update(call.tx, elastic_ip, status="allocated", nat_gateway_id=None, vpc_id=None)
        await networks.drop_routes(call.tx, gateway.id)
        await changes.delete(call.tx, gateway)
        await networks.changed(call.tx, vpc)
        return Empty()


def to_message(row: NatGateway) -> pb.NatGateway:
    return db.to_message(row, arn=arn("vpc", row.tenant_id, row.KIND, row.id))  # type: ignore[no-any-return]
