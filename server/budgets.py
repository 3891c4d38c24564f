"""What a tenant means to spend in a month, and what happens when it has.

The pipeline asks `within_budget` before anything that uses up a quota. Besides, each budget is
looked at every few minutes by its reconciler, which mails the tenant's owners once a month.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import billing_pb2 as pb

from server import db, rating
from server.auth import Member, User
from server.db import Owned, Tx
from server.errors import budget_exceeded
from server.work import RECONCILERS

if TYPE_CHECKING:
    from server.app import App

LOOK_AGAIN = timedelta(minutes=5)
MAIL = """The tenant {tenant} has spent {spent} US dollars of the {amount} it has for {month}.

{consequence}

GET /billing/usage says on what; PUT /billing/budget sets another budget.
"""
CONSEQUENCES = {
    "NOTIFY": "Nothing is stopped or refused.",
    "DENY": "Until the month ends, nothing more can be made or enlarged. What runs goes on running, and costing.",
}


@db.row("budgets", "budget", pb.Budget)
class Budget(Owned):
    amount: Decimal
    action: str
    told_for: datetime | None  # the first instant of the month for which the owners have been told
    updated_at: datetime


B = Budget.TABLE.c
_of_tenant = sa.select(Budget.TABLE).where(B.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID))
_of_tenant_locked = _of_tenant.with_for_update()
_denying = _of_tenant.where(B.action == "DENY")
DENIES = _denying.exists()
"""Whether within_budget() has anything to look at, of :tenant_id."""
_owners = (
    sa.select(User.TABLE.c.id, User.TABLE.c.email)
    .join(Member.TABLE, Member.TABLE.c.user_id == User.TABLE.c.id)
    .where(Member.TABLE.c.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID), Member.TABLE.c.role == "owner")
    .order_by(User.TABLE.c.email)
)
_TOLD = sa.update(Budget.TABLE).where(B.id == sa.bindparam("its_id")).values(told_for=sa.bindparam("month"))


async def of(tx: Tx, tenant_id: UUID, *, lock: bool = False) -> Budget | None:
    """The tenant's budget, if it has one."""
    return await db.first(tx, Budget, _of_tenant_locked if lock else _of_tenant, tenant_id=tenant_id)


async def spent(tx: Tx, tenant_id: UUID, now: datetime) -> Decimal:
    """What the tenant has spent in the month of `now`, up to then, as far as its changes have been read."""
    return sum((await rating.totals(tx, tenant_id, *rating.month(now), now)).values(), Decimal("0.00"))


async def within_budget(tx: Tx, tenant_id: UUID) -> None:
    """Raise BUDGET_EXCEEDED when the tenant is to be denied more, and has spent its budget of this month."""
    budget = await db.first(tx, Budget, _denying, tenant_id=tenant_id)
    if budget is None:
        return
    while await rating.catch_up(tx, tenant_id):
        pass
    so_far = await spent(tx, tenant_id, await rating.now(tx))
    if so_far >= budget.amount:
        raise budget_exceeded(budget.amount, so_far)


async def reconcile(app: "App", id: UUID) -> timedelta | None:
    """Tell the owners when a budget is spent, once a month. One who dies before noting it down tells them again,
    in mails of the same ids."""
    async with app.db.reading() as tx:
        budget = await db.find(tx, Budget, id)
        now = await rating.now(tx)
    if budget is None:
        return None
    month, _ = rating.month(now)
    if budget.told_for == month:
        return LOOK_AGAIN
    await rating.read_on(app, budget.tenant_id)
    async with app.db.reading() as tx:
        so_far = await spent(tx, budget.tenant_id, now)
        owners = await db.records(tx, _owners, tenant_id=budget.tenant_id)
    if so_far < budget.amount:
        return LOOK_AGAIN
    text = MAIL.format(tenant=budget.tenant_id, spent=so_far, amount=f"{budget.amount:f}", month=f"{month:%B %Y}",
                       consequence=CONSEQUENCES[budget.action])  # fmt: skip
    for owner in owners:
        mail_id = uuid5(budget.tenant_id, f"{month:%Y-%m} {owner['id']}")
        await app.drivers.mail.send(mail_id, owner["email"], f"The budget for {month:%B %Y} is spent", text)
    async with app.db.transaction() as tx:
        await db.execute(tx, _TOLD, its_id=budget.id, month=month)
    return LOOK_AGAIN


RECONCILERS[Budget.KIND] = reconcile
