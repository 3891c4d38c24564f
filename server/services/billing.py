"""Bills and budgets, for those who pay. server/rating.py knows what was used, server/budgets.py what may be."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import uuid4

from google.protobuf.empty_pb2 import Empty
from thecloud.v1 import billing_pb2 as pb

from server import budgets, changes, db, enums, pages, rating, request_fields
from server.budgets import Budget
from server.call import Call
from server.db import Tx
from server.errors import invalid, not_found
from server.services.tenants import Tenant
from server.work import wake

if TYPE_CHECKING:
    from server.app import App

ACTIONS = enums.spellings(pb.Budget.Action.DESCRIPTOR)
LONGEST = timedelta(days=400)  # of a period


class BillingService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def _read_on(self, call: Call, _: object) -> None:
        """Read the tenant's changes up to now, so that the answer is as of now."""
        await rating.read_on(self.app, call.tenant_id)

    prepare_GetBillingSummary = prepare_ListUsage = prepare_GetBudget = prepare_SetBudget = _read_on

    async def GetBillingSummary(self, call: Call, request: pb.GetBillingSummaryRequest) -> pb.BillingSummary:
        now = await rating.now(call.tx)
        start, end = period(request, now)
        spent = await rating.totals(call.tx, call.tenant_id, start, end, now)
        return pb.BillingSummary(
            period_start=start, period_end=end - rating.SECOND, total_amount=float(sum(spent.values())),
            currency="USD", usage_by_type={category: float(amount) for category, amount in spent.items()},
        )  # fmt: skip

    async def ListUsage(self, call: Call, request: pb.ListUsageRequest) -> pb.ListUsageResponse:
        now = await rating.now(call.tx)
        most = min(request.page_size or db.MOST, db.MOST)
        after = pages.read_token(request.page_token) if request.page_token else None
        found = await rating.amounts(
            call.tx, call.tenant_id, *period(request, now), now, most=most + 1, after=after
        )  # fmt: skip
        last = found[most - 1] if len(found) > most else None
        token = pages.page_token(last.started_at, last.usage_id) if last else ""
        return pb.ListUsageResponse(usage=map(to_record, found[:most]), next_page_token=token)

    async def GetBudget(self, call: Call, request: pb.GetBudgetRequest) -> pb.Budget:
        return await to_message(call.tx, await existing(call))

    async def SetBudget(self, call: Call, request: pb.SetBudgetRequest) -> pb.Budget:
        columns = {"amount": Decimal(str(request.amount)), "action": ACTIONS[request.action or pb.Budget.ACTION_NOTIFY]}
        await db.find(call.tx, Tenant, call.tenant_id, lock=True)  # two first budgets at once take turns
        budget = await budgets.of(call.tx, call.tenant_id, lock=True)
        if budget:
            budget = await changes.update(call.tx, budget, **columns)
        else:
            budget = await changes.insert(call.tx, Budget, id=uuid4(), tenant_id=call.tenant_id, **columns)
        await wake(call.tx, Budget.KIND, budget.id)
        return await to_message(call.tx, budget)

    async def DeleteBudget(self, call: Call, request: pb.DeleteBudgetRequest) -> Empty:
        if not await changes.delete(call.tx, await existing(call)):
            raise not_found(Budget.KIND, "of the tenant")
        return Empty()


async def existing(call: Call) -> Budget:
    """The tenant's budget. Raises NOT_FOUND when it has none."""
    budget = await budgets.of(call.tx, call.tenant_id)
    if budget is None:
        raise not_found(Budget.KIND, "of the tenant")
    return budget


async def to_message(tx: Tx, budget: Budget) -> pb.Budget:
    spent = await budgets.spent(tx, budget.tenant_id, await rating.now(tx))
    return db.to_message(budget, spent=spent)  # type: ignore[no-any-return]


def to_record(amount: rating.Amount) -> pb.UsageRecord:
    return pb.UsageRecord(
        id=str(amount.id), user_id=None if amount.user_id is None else str(amount.user_id),
        tenant_id=str(amount.tenant_id), resource_id=str(amount.resource_id), resource_type=amount.kind.upper(),
        type=amount.type, category=amount.category, quantity=float(amount.quantity), unit=amount.unit,
        unit_price_per_hour=float(amount.price_per_hour), amount=float(round(amount.dollars, 10)),
        start_time=amount.started_at, end_time=amount.ended_at,
    )  # fmt: skip


def period(request: pb.GetBillingSummaryRequest | pb.ListUsageRequest, now: datetime) -> tuple[datetime, datetime]:
    """The period asked for, in whole seconds. Raises INVALID_ARGUMENT when it is none, or too long."""
    first, next_first = rating.month(now)
    start = (request_fields.moment(request, "start") or first).replace(microsecond=0)
    end = (request_fields.moment(request, "end") or next_first).replace(microsecond=0)
    if start >= end:
        raise invalid("end", f"the period from {start.isoformat()} to {end.isoformat()} has not a second: "
                             "`end` is the moment after it; give both")  # fmt: skip
    if end - start > LONGEST:
        raise invalid("end", f"the period has more than {LONGEST.days} days; ask for a part of it")
    return start, end
