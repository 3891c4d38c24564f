"""Quotas, for those whom they limit. server/quota.py counts and enforces them."""

from typing import TYPE_CHECKING

from thecloud.v1 import quotas_pb2 as pb

from server import quota
from server.call import Call

if TYPE_CHECKING:
    from server.app import App


class QuotaService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListQuotas(self, call: Call, request: pb.ListQuotasRequest) -> pb.ListQuotasResponse:
        found = await quota.standings(call.tx, call.tenant_id, sorted(quota.QUOTAS))
        return pb.ListQuotasResponse(quotas=[pb.Quota(**vars(each)) for each in found])
