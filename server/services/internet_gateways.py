"""Internet gateways of VPCs."""

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import internet_gateways_pb2 as pb

from server import changes, db, networks, pages, quota
from server.call import Call
from server.errors import ApiError, wrong_state
from server.networks import ANYWHERE, InternetGateway, Route
from server.resources import arn

if TYPE_CHECKING:
    from server.app import App

G, R = InternetGateway.TABLE.c, Route.TABLE.c
_of_tenant = G.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_OF_VPC = sa.select(G.id).where(G.vpc_id == sa.bindparam("vpc_id", type_=postgresql.UUID))
_BY_HAND = sa.select(R.id, R.route_table_id, R.destination_cidr).where(
    R.target_id == sa.bindparam("target", type_=postgresql.UUID), R.origin == "user"
)
_DEFAULT = sa.select(R.id).where(R.route_table_id == sa.bindparam("table", type_=postgresql.UUID),
                                 R.destination_cidr == ANYWHERE)  # fmt: skip

quota.counted("internet_gateways", 20, networks.counting(InternetGateway))


class InternetGatewayService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListInternetGateways(
        self, call: Call, request: pb.ListInternetGatewaysRequest
    ) -> pb.ListInternetGatewaysResponse:
        found, token = await pages.page(
            call.tx, InternetGateway, _of_tenant, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id,
        )  # fmt: skip
        return pb.ListInternetGatewaysResponse(internet_gateways=map(to_message, found), next_page_token=token)

    async def CreateInternetGateway(
        self, call: Call, request: pb.CreateInternetGatewayRequest
    ) -> pb.InternetGateway:  # fmt: skip
        return to_message(await changes.insert(
            call.tx, InternetGateway, id=uuid4(), tenant_id=call.tenant_id, user_id=call.principal.user_id,
            vpc_id=None, status="detached",
        ))  # fmt: skip

    async def GetInternetGateway(self, call: Call, request: pb.GetInternetGatewayRequest) -> pb.InternetGateway:
        return to_message(await db.get(call.tx, InternetGateway, request.id, call.tenant_id))

    async def AttachInternetGateway(
        self, call: Call, request: pb.AttachInternetGatewayRequest
    ) -> pb.InternetGateway:  # fmt: skip
        await db.get(call.tx, InternetGateway, request.id, call.tenant_id)
        [vpc] = await networks.locked(call.tx, call.tenant_id, UUID(request.vpc_id))
        gateway = await db.get(call.tx, InternetGateway, request.id, call.tenant_id, lock=True)
        if gateway.vpc_id:
            raise wrong_state("internet_gateway", gateway.id, "attached", "detached")
        if other := await db.value(call.tx, _OF_VPC, vpc_id=vpc.id):
            raise ApiError("ALREADY_EXISTS", f"vpc {vpc.name} has internet gateway {other} already; detach that first",
                           kind="internet_gateway", id=str(other))  # fmt: skip
        gateway = await changes.update(call.tx, gateway, vpc_id=vpc.id, status="attached")
        main = await networks.main_table(call.tx, vpc.id)
        if not await db.value(call.tx, _DEFAULT, table=main.id):
            await changes.insert(
                call.tx, Route, id=uuid4(), tenant_id=call.tenant_id, route_table_id=main.id,
                destination_cidr=ANYWHERE, target_type="igw", target_id=gateway.id, origin="auto",
            )  # fmt: skip
        await networks.changed(call.tx, vpc)
        return to_message(gateway)

    async def DetachInternetGateway(
        self, call: Call, request: pb.DetachInternetGatewayRequest
    ) -> pb.InternetGateway:  # fmt: skip
        before = await db.get(call.tx, InternetGateway, request.id, call.tenant_id)
        vpcs = await networks.locked(call.tx, call.tenant_id, before.vpc_id) if before.vpc_id else []
        gateway = await db.get(call.tx, InternetGateway, request.id, call.tenant_id, lock=True)
        if not gateway.vpc_id or gateway.vpc_id != before.vpc_id:
            raise wrong_state("internet_gateway", gateway.id, gateway.status, "attached")
        if routes := await db.records(call.tx, _BY_HAND, target=gateway.id):
            named = ",".join(f"route/{each['id']}" for each in routes[:5])
            raise ApiError(
                "IN_USE", f"{routes[0]['destination_cidr']} of route table {routes[0]['route_table_id']} leads to "
                f"internet gateway {gateway.id}; remove {named} first",
                kind="internet_gateway", id=str(gateway.id), by=named,
            )  # fmt: skip
        await networks.drop_routes(call.tx, gateway.id)
        gateway = await changes.update(call.tx, gateway, vpc_id=None, status="detached")
        await networks.changed(call.tx, *vpcs)
        return to_message(gateway)

    async def DeleteInternetGateway(self, call: Call, request: pb.DeleteInternetGatewayRequest) -> Empty:
        gateway = await db.get(call.tx, InternetGateway, request.id, call.tenant_id, lock=True)
        if gateway.vpc_id:
            raise wrong_state("internet_gateway", gateway.id, "attached", "detached")
        await changes.delete(call.tx, gateway)
        return Empty()


def to_message(row: InternetGateway) -> pb.InternetGateway:
    return db.to_message(row, arn=arn("vpc", row.tenant_id, row.KIND, row.id))  # type: ignore[no-any-return]
