"""Bills, usage and budgets."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import billing_pb2 as pb
from thecloud.v1.billing_pb2_grpc import BillingServiceStub

from server import budgets, db, rating
from tests.conftest import Cloud, Person
from tests.crash import MOMENTS, Moment, die, expire
from tests.history import Event, happened

MONTH = {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"}
NONE = {"compute": 0.0, "storage": 0.0, "database": 0.0, "network": 0.0}


def at(text: str) -> datetime:
    """ "05 10:00:00" of January 2026."""
    return datetime.fromisoformat(f"2026-01-{text}").replace(tzinfo=UTC)


def state(person: Person, status: str = "RUNNING", type: str = "basic-2") -> dict[str, str]:
    return {"user_id": str(person.user_id), "status": status, "instance_type": type}


async def lived(person: Person, *life: tuple[str | datetime, dict[str, str] | None]) -> UUID:
    """An instance of the past, in these states from these moments on."""
    id = uuid4()
    events = [Event(at(moment) if isinstance(moment, str) else moment, "instance", id, each) for moment, each in life]
    async with person.cloud.app.db.transaction() as tx:
        await happened(tx, person.tenant_id, events)
    return id


async def an_hour_ago(person: Person) -> None:
    """Let all that has happened so far have happened an hour earlier."""
    await person.cloud.value("update changes set at = at - interval '1 hour' where tenant_id = $1", person.tenant_id)


async def summary(person: Person, **period: str) -> dict[str, Any]:
    reply = await person.rest.get("/billing/summary", params=period or MONTH)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def usage(person: Person, **query: Any) -> list[dict[str, Any]]:
    reply = await person.rest.get("/billing/usage", params=MONTH | query)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


# The summary


async def test_the_summary_has_the_documented_form(ada: Person) -> None:
    await lived(ada, ("05 10:00:00", state(ada, type="standard-4")), ("11 10:00:00", None))
    assert await summary(ada) == {
        "period_start": "2026-01-01T00:00:00Z",
        "period_end": "2026-01-31T23:59:59Z",
        "total_amount": 46.08,
        "currency": "USD",
        "usage_by_type": NONE | {"compute": 46.08},
    }


async def test_the_summary_is_of_this_month_unless_told_otherwise(cloud: Cloud, ada: Person) -> None:
    def month() -> tuple[str, str]:
        first, following = rating.month(datetime.now(UTC))
        return f"{first:%FT%TZ}", f"{following - rating.SECOND:%FT%TZ}"

    before = month()
    reply = await ada.rest.get("/api/v1/billing/summary")
    found = reply.json()["data"]
    assert (found["period_start"], found["period_end"]) in (before, month())
    assert found["period_end"].endswith("T23:59:59Z")
    assert (found["total_amount"], found["usage_by_type"]) == (0.0, NONE)


async def test_the_summary_over_grpc_is_the_same(cloud: Cloud, ada: Person) -> None:
    await lived(ada, ("05 10:00:00", state(ada)), ("05 11:00:00", None))
    request = pb.GetBillingSummaryRequest(start=at("01"), end=at("06"))
    found = await BillingServiceStub(cloud.channel).GetBillingSummary(request, metadata=ada.metadata)
    assert (found.total_amount, dict(found.usage_by_type)) == (0.02, NONE | {"compute": 0.02})
    assert found.period_end.ToDatetime(UTC) == at("05 23:59:59")


async def test_what_happens_now_is_billed_at_once(cloud: Cloud, ada: Person) -> None:
    """From a launch over the API to its end, with nobody reading the log in between."""
    made = await ada.running(instance_type="standard-4")
    await an_hour_ago(ada)
    start = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    [record] = await usage(ada, start=start, end=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert record["resource_id"] == made["id"]
    assert (record["type"], record["user_id"]) == ("standard-4", str(ada.user_id))
    assert 3600 <= record["quantity"] < 3660
    ended = datetime.fromisoformat(record["end_time"])
    assert timedelta(0) <= datetime.now(UTC) - ended < timedelta(seconds=60)
    await ada.rest.delete(f"/instances/{made['id']}")
    await cloud.settle()
    await ada.rest.get("/billing/usage")
    assert await cloud.value("select count(*) from usage where ended_at is null") == 0


# Usage


async def test_a_usage_record_has_the_documented_form(ada: Person) -> None:
    id = await lived(ada, ("05 10:00:00.9", state(ada)), ("05 10:01:30.1", state(ada, "STOPPED")))
    [record] = await usage(ada)
    assert UUID(record.pop("id"))
    assert record == {
        "user_id": str(ada.user_id), "tenant_id": str(ada.tenant_id), "resource_id": str(id),
        "resource_type": "INSTANCE", "type": "basic-2", "category": "compute", "quantity": 90.0, "unit": "second",
        "unit_price_per_hour": 0.02, "amount": 0.0005, "start_time": "2026-01-05T10:00:00Z",
        "end_time": "2026-01-05T10:01:30Z",
    }  # fmt: skip


async def test_only_running_costs(ada: Person) -> None:
    await lived(
        ada,
        ("05 10:00:00", state(ada, "STARTING")), ("05 10:00:07", state(ada)), ("05 11:00:07", state(ada, "PAUSED")),
        ("06 10:00:00", state(ada)), ("06 10:30:00", state(ada, "STOPPED")), ("07 00:00:00", state(ada, "STARTING")),
        ("07 00:00:01", state(ada)), ("07 00:00:02", state(ada, "DELETING")), ("07 00:00:09", None),
    )  # fmt: skip
    assert [each["quantity"] for each in await usage(ada)] == [1, 1800, 3600]
    assert (await summary(ada))["total_amount"] == 0.03


async def test_a_resize_changes_what_it_costs_from_then_on(ada: Person) -> None:
    await lived(
        ada, ("05 10:00:00", state(ada)), ("05 11:00:00", state(ada, type="standard-4")),
        ("05 11:00:30", state(ada, type="standard-4") | {"name": "renamed"}), ("05 12:00:00", None),
    )  # fmt: skip
    records = await usage(ada)
    assert [(each["type"], each["quantity"], each["amount"]) for each in records] == [
        ("standard-4", 3600, 0.32), ("basic-2", 3600, 0.02),
    ]  # fmt: skip
    assert records[0]["start_time"] == records[1]["end_time"]


async def test_a_new_price_holds_from_its_moment_on(cloud: Cloud, ada: Person) -> None:
    await lived(ada, ("05 10:00:00", state(ada)), ("05 14:00:00", None))
    before = await usage(ada)
    await cloud.value("insert into prices values ('instance', 'basic-2', '2026-01-05T13:00:00Z', 0.5)")
    later, earlier = await usage(ada)
    assert (earlier["unit_price_per_hour"], earlier["amount"]) == (0.02, 0.06)
    assert (later["unit_price_per_hour"], later["amount"]) == (0.5, 0.5)
    assert earlier["end_time"] == later["start_time"] == "2026-01-05T13:00:00Z"
    assert earlier["id"] == before[0]["id"] != later["id"]
    assert await usage(ada, start="2026-01-05T13:30:00Z") == [
        later | {"start_time": "2026-01-05T13:30:00Z", "quantity": 1800.0, "amount": 0.25}
    ]
    assert (await summary(ada))["usage_by_type"]["compute"] == 0.56


async def test_a_month_ends_where_the_next_begins(ada: Person) -> None:
    await lived(ada, ("31 23:00:00", state(ada)), (datetime(2026, 2, 1, 1, tzinfo=UTC), None))
    [january] = await usage(ada)
    [february] = await usage(ada, start=MONTH["end"], end="2026-03-01T00:00:00Z")
    assert january["end_time"] == february["start_time"] == "2026-02-01T00:00:00Z"
    assert january["quantity"] == february["quantity"] == 3600


async def test_the_total_is_the_sum_of_rounded_categories(ada: Person) -> None:
    for _ in range(3):
        await lived(ada, ("05 10:00:00", state(ada)), ("05 10:13:00", None))  # 0.00433… each
    found = await summary(ada)
    assert found["total_amount"] == found["usage_by_type"]["compute"] == 0.01


async def test_usage_comes_in_pages_newest_first(ada: Person) -> None:
    for hour in range(5):
        await lived(ada, (f"05 1{hour}:00:00", state(ada)), ("06 00:00:00", None))
    both = [await lived(ada, ("05 12:00:00", state(ada)), ("06 00:00:00", None)) for _ in range(2)]
    found, token = [], ""
    while True:
        reply = await ada.rest.get("/billing/usage", params=MONTH | {"page_size": 2, "page_token": token})
        found += reply.json()
        if not (token := reply.headers.get("x-next-page-token", "")):
            break
    assert found == await usage(ada)
    assert [each["start_time"][11:13] for each in found] == ["14", "13", "12", "12", "12", "11", "10"]
    assert {str(id) for id in both} < {each["resource_id"] for each in found[2:5]}
    assert refusal(await ada.rest.get("/billing/usage?page_token=x")) == (400, "INVALID_INPUT")


async def test_another_tenant_sees_nothing(ada: Person, bob: Person) -> None:
    await lived(ada, ("05 10:00:00", state(ada)), ("06 10:00:00", None))
    await ada.rest.put("/billing/budget", json={"amount": 10})
    assert await usage(bob) == []
    assert (await summary(bob))["usage_by_type"] == NONE
    assert refusal(await bob.rest.get("/billing/budget")) == (404, "NOT_FOUND")
    assert refusal(await bob.rest.delete("/billing/budget")) == (404, "NOT_FOUND")
    assert len(await usage(ada)) == 1


@pytest.mark.parametrize("path", ["/billing/summary", "/billing/usage"])
@pytest.mark.parametrize(
    "period",
    [
        {"start": "yesterday"}, {"end": "2026-13-01T00:00:00Z"}, {"start": "2026-01-01"},
        {"start": MONTH["end"], "end": MONTH["start"]}, {"start": MONTH["start"], "end": MONTH["start"]},
        {"start": "2026-01-01T00:00:00.1Z", "end": "2026-01-01T00:00:00.9Z"},
        {"start": "2026-01-01T00:00:00Z", "end": "2027-02-06T00:00:00Z"}, {"end": "2020-01-01T00:00:00Z"},
    ],
)  # fmt: skip
async def test_bad_periods_are_refused(ada: Person, path: str, period: dict[str, str]) -> None:
    assert refusal(await ada.rest.get(path, params=period)) == (400, "INVALID_INPUT")


async def test_a_period_may_have_four_hundred_days(ada: Person) -> None:
    assert (await summary(ada, start="2026-01-01T00:00:00Z", end="2027-02-05T00:00:00Z"))["total_amount"] == 0


async def test_every_tenants_log_is_read_once_a_minute(cloud: Cloud, ada: Person, bob: Person) -> None:
    for person in (ada, bob):
        await person.running()
    await rating.meter(cloud.app)
    await cloud.settle()
    behind = "select count(*) from change_heads left join usage_cursors c using (tenant_id) " \
             "where change_heads.sequence > coalesce(c.sequence, 0)"  # fmt: skip
    assert await cloud.value(behind) == 0
    assert await cloud.value("select count(*) from usage where ended_at is null") == 2
    await cloud.value("delete from work")
    await rating.meter(cloud.app)
    assert await cloud.value("select count(*) from work") == 0


async def test_retention_is_told_how_far_the_log_was_read(cloud: Cloud, ada: Person) -> None:
    tenant = sa.literal(ada.tenant_id, postgresql.UUID)
    await ada.running()
    async with cloud.app.db.transaction() as tx:
        assert await db.value(tx, sa.select(rating.read_through(tenant))) == 0
        await rating.catch_up(tx, ada.tenant_id)
        head = await tx.connection.fetchval("select sequence from change_heads where tenant_id = $1", ada.tenant_id)
        assert await db.value(tx, sa.select(rating.read_through(tenant))) == head > 0


async def test_a_dry_run_tells_what_it_would_cost(ada: Person) -> None:
    body = {"name": "a", "image": "nginx", "instance_type": "standard-4", "validate_only": True}
    assert (await ada.rest.post("/instances", json=body)).json()["estimated_price_per_hour"] == 0.32


async def test_the_types_show_the_price_of_now(cloud: Cloud, ada: Person) -> None:
    await cloud.value("insert into prices values ('instance', 'basic-2', '2026-01-01T00:00:00Z', 0.5)")
    await cloud.value("insert into prices values ('instance', 'basic-2', '2999-01-01T00:00:00Z', 0.7)")
    types = {each["id"]: each["price_per_hour"] for each in (await ada.rest.get("/instance-types")).json()}
    assert (types["basic-2"], types["basic-4"], len(types)) == (0.5, 0.04, 8)


# Budgets


async def spend(person: Person) -> None:
    """Have an instance run that costs a fortune each second, and has for an hour."""
    await person.cloud.value(
        "insert into prices values ('instance', 'basic-2', '2020-01-01T00:00:00Z', 3600000000) on conflict do nothing"
    )
    await person.running()
    await an_hour_ago(person)


async def test_a_budget_has_the_documented_form(cloud: Cloud, ada: Person) -> None:
    reply = await ada.rest.put("/billing/budget", json={"amount": 12.34, "action": "DENY"})
    assert reply.status_code == 200, reply.text
    made = reply.json()
    assert set(made) == {"amount", "action", "spent", "created_at", "updated_at"}
    assert (made["amount"], made["action"], made["spent"]) == (12.34, "DENY", 0.0)
    assert (await ada.rest.get("/billing/budget")).json() == made
    again = (await ada.rest.put("/billing/budget", json={"amount": 50})).json()
    assert (again["amount"], again["action"], again["created_at"]) == (50, "NOTIFY", made["created_at"])
    assert await cloud.value("select count(*) from budgets") == 1
    assert (await ada.rest.delete("/billing/budget")).status_code == 204
    assert refusal(await ada.rest.get("/billing/budget")) == (404, "NOT_FOUND")
    assert refusal(await ada.rest.delete("/billing/budget")) == (404, "NOT_FOUND")


async def test_budgets_are_audited_and_logged(cloud: Cloud, ada: Person) -> None:
    await ada.rest.put("/billing/budget", json={"amount": 12.5})
    await ada.rest.delete("/billing/budget")
    gone, made = (await ada.rest.get("/audit")).json()
    assert (made["action"], made["after"]["amount"]) == ("BUDGET_SET", 12.5)
    assert (gone["action"], gone["before"]["action"]) == ("BUDGET_DELETE", "NOTIFY")
    kinds = await cloud.value("select array_agg(type order by sequence) from changes where kind = 'budget'")
    assert kinds == ["CREATED", "DELETED"]


@pytest.mark.parametrize("body", [{}, {"amount": 0}, {"amount": -1}, {"amount": 2e9}, {"amount": "ten"},
                                  {"amount": 5, "action": "STOP"}])  # fmt: skip
async def test_budgets_that_cannot_be_are_refused(ada: Person, body: dict[str, Any]) -> None:
    assert refusal(await ada.rest.put("/billing/budget", json=body)) == (400, "INVALID_INPUT")


@pytest.mark.parametrize(
    ("role", "reads", "sets"), [("viewer", 200, 403), ("developer", 200, 403), ("admin", 200, 200)]
)
async def test_who_may_read_bills_and_set_budgets(cloud: Cloud, ada: Person, role: str, reads: int, sets: int) -> None:
    await ada.rest.put("/billing/budget", json={"amount": 10})
    person = await cloud.person("eve", tenant_id=ada.tenant_id, role=role)
    for path in ("/billing/summary", "/billing/usage", "/billing/budget"):
        assert (await person.rest.get(path)).status_code == reads
    assert (await person.rest.put("/billing/budget", json={"amount": 10})).status_code == sets


async def test_of_two_first_budgets_at_once_both_are_set(cloud: Cloud, ada: Person) -> None:
    replies = await asyncio.gather(*(ada.rest.put("/billing/budget", json={"amount": 10 + n}) for n in range(8)))
    assert {reply.status_code for reply in replies} == {200}
    assert await cloud.value("select count(*) from budgets") == 1


async def test_a_spent_budget_denies_what_makes_more_cost(cloud: Cloud, ada: Person, bob: Person) -> None:
    await ada.rest.put("/billing/budget", json={"amount": 0.5, "action": "DENY"})
    made = await ada.launch()
    await cloud.settle()
    await spend(ada)
    for body in ({}, {"validate_only": True}):
        refused = await ada.rest.post("/instances", json={"name": "more", "image": "nginx"} | body)
        assert refusal(refused) == (403, "BUDGET_EXCEEDED")
    error = refused.json()["error"]
    assert (error["reason"], error["metadata"]["limit"]) == ("BUDGET_EXCEEDED", "0.5")
    assert Decimal(error["metadata"]["spent"]) > 10**6
    assert (
        await ada.rest.post(f"/instances/{made['id']}/resize", json={"instance_type": "basic-4"})
    ).status_code == 403
    await bob.launch()
    assert (await ada.rest.post(f"/instances/{made['id']}/stop")).is_success
    assert (await ada.rest.delete(f"/instances/{made['id']}")).is_success
    assert (await ada.rest.put("/billing/budget", json={"amount": 1e9, "action": "DENY"})).json()["spent"] > 10**6
    await cloud.value("delete from prices where effective_from > 'epoch'")
    await ada.launch()


async def test_a_budget_is_spent_when_its_last_cent_is(cloud: Cloud, ada: Person) -> None:
    """And begins anew with the month."""
    await lived(ada, ("05 10:00:00", state(ada)), ("06 10:00:00", None))  # 0.48
    async with cloud.app.db.transaction() as tx:
        await rating.catch_up(tx, ada.tenant_id)
        assert await budgets.spent(tx, ada.tenant_id, at("06 09:00:00")) == Decimal("0.46")
        assert await budgets.spent(tx, ada.tenant_id, at("31 00:00:00")) == Decimal("0.48")
        assert await budgets.spent(tx, ada.tenant_id, datetime(2026, 2, 1, tzinfo=UTC)) == 0


async def test_a_repeated_call_gets_its_reply_whatever_was_spent_since(cloud: Cloud, ada: Person) -> None:
    await ada.rest.put("/billing/budget", json={"amount": 0.5, "action": "DENY"})
    body, headers = {"name": "a", "image": "nginx"}, {"idempotency-key": "one"}
    first = await ada.rest.post("/instances", json=body, headers=headers)
    await spend_without_launching(cloud, ada)
    again = await ada.rest.post("/instances", json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


async def spend_without_launching(cloud: Cloud, person: Person) -> None:
    await cloud.value("insert into prices values ('instance', 'basic-2', '2020-01-01T00:00:00Z', 3600000000)")
    await lived(person, (datetime.now(UTC) - timedelta(hours=1), state(person)))


async def test_a_budget_that_notifies_refuses_nothing(cloud: Cloud, ada: Person) -> None:
    await ada.rest.put("/billing/budget", json={"amount": 0.5})
    await spend(ada)
    await ada.launch()


@pytest.mark.parametrize("action", ["NOTIFY", "DENY"])
async def test_owners_are_told_once_a_month(cloud: Cloud, ada: Person, action: str) -> None:
    grace = await cloud.person("grace", tenant_id=ada.tenant_id, role="owner")
    await cloud.person("eve", tenant_id=ada.tenant_id, role="admin")
    await ada.rest.put("/billing/budget", json={"amount": 0.5, "action": action})
    await cloud.settle()
    assert cloud.mail() == []
    await spend_without_launching(cloud, ada)
    for _ in range(3):
        await expire(cloud)
        await cloud.settle()
    mails = cloud.mail()
    assert {ada.email, grace.email} == {to for to in (ada.email, grace.email) if any(to in mail for mail in mails)}
    assert len(mails) == 2
    assert "of the 0.5 it has" in mails[0]
    await ada.rest.put("/billing/budget", json={"amount": 0.6, "action": action})
    await cloud.settle()
    assert len(cloud.mail()) == 2
    await cloud.value("update budgets set told_for = told_for - interval '1 month'")
    (cloud.app.config.data / "outbox").rename(cloud.app.config.data / "read")
    await expire(cloud)
    await cloud.settle()
    assert len(cloud.mail()) == 2


@pytest.mark.parametrize("moment", MOMENTS[:2], ids=str)
async def test_owners_are_told_by_whoever_survives(cloud: Cloud, ada: Person, moment: Moment) -> None:
    await ada.rest.put("/billing/budget", json={"amount": 0.5})
    await spend_without_launching(cloud, ada)
    assert await die(cloud, "mail", moment)
    assert await cloud.value("select told_for from budgets") is None
    await expire(cloud)
    await cloud.settle()
    assert len(cloud.mail()) == 1
    assert await cloud.value("select told_for from budgets")


async def test_a_budget_that_is_gone_is_not_looked_at_again(cloud: Cloud, ada: Person) -> None:
    await ada.rest.put("/billing/budget", json={"amount": 0.5})
    await cloud.settle()
    assert await cloud.value("select count(*) from work where kind = 'budget'") == 1
    await ada.rest.delete("/billing/budget")
    await expire(cloud)
    await cloud.settle()
    assert await cloud.value("select count(*) from work where kind = 'budget'") == 0
