"""Usage and amounts against a plain count of every second."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import app as server_app
from server import rating
from server.changes import Change
from server.db import Database, Tx
from server.errors import ApiError
from server.messages import EPOCH
from tests.history import Event, happened

server_app.load_services()
MONTH_ENDS = datetime(2026, 2, 1, tzinfo=UTC)
SPAN = timedelta(minutes=2)  # before and after the month's end that anything happens in
START, END = MONTH_ENDS - SPAN, MONTH_ENDS + SPAN
DISK = rating.Meter("storage", "GB-second", lambda state: (state["type"], state["gb"]), lambda state: True)
CLOSE = settings(max_examples=60)
Prices = dict[str, list[tuple[datetime, Decimal]]]


@pytest.fixture(autouse=True)
def disks() -> Iterator[None]:
    """A kind whose size is a number, too."""
    rating.METERS["disk"] = DISK
    yield
    del rating.METERS["disk"]


@pytest.fixture
async def database(empty_database: str) -> AsyncIterator[Database]:
    async with Database(empty_database, 3) as database:
        yield database
        async with database.transaction() as tx:
            await tx.connection.execute("delete from prices where type like 'test-%'")


def moments() -> st.SearchStrategy[datetime]:
    return st.integers(0, int(2 * SPAN.total_seconds() * 10) - 1).map(lambda tenths: START + tenths * timedelta(0, 0.1))


def prices() -> st.SearchStrategy[Decimal]:
    return st.decimals(0, 100, places=6)


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Event], Prices]:
    """Lives of some resources, of types whose prices change meanwhile."""
    types = [f"test-{uuid4()}" for _ in range(3)]
    book = {
        type: [(EPOCH, draw(prices()))] + [
            (at.replace(microsecond=0), draw(prices()))
            for at in draw(st.lists(moments(), max_size=3, unique_by=lambda at: at.replace(microsecond=0)))
        ]
        for type in types
    }  # fmt: skip
    events: list[Event] = []
    for _ in range(draw(st.integers(1, 4))):
        kind, id = draw(st.sampled_from(["instance", "disk"])), uuid4()
        for at in sorted(draw(st.lists(moments(), min_size=1, max_size=6))):
            events.append(Event(at, kind, id, draw(states(kind, types))))
    return sorted(events, key=lambda event: event.at), book


def states(kind: str, types: list[str]) -> st.SearchStrategy[dict[str, Any] | None]:
    type = st.sampled_from(types)
    if kind == "disk":
        return st.none() | st.fixed_dictionaries({"type": type, "gb": st.integers(1, 99)})
    status = st.sampled_from(["RUNNING", "RUNNING", "STOPPED", "DELETING"])
    return st.none() | st.fixed_dictionaries({"instance_type": type, "status": status, "user_id": st.just(str(OWNER))})


OWNER = uuid4()


async def publish(tx: Tx, book: Prices) -> None:
    values = [("instance", type, *each) for type, changes in book.items() for each in changes]
    values += [("disk", *each[1:]) for each in values]
    await tx.connection.executemany("insert into prices values ($1, $2, $3, $4)", values)


async def read_all(tx: Tx, tenant_id: UUID, most: int = 1000) -> None:
    while await rating.catch_up(tx, tenant_id, most):
        pass


def counted(events: Sequence[Event], book: Prices, start: datetime, end: datetime) -> dict[str, Fraction]:
    """What every second costs, one by one: the state and the price at its beginning."""
    found = {"compute": Fraction(0), "storage": Fraction(0)}
    for _, group in groupby(sorted(events, key=lambda event: event.id), key=lambda event: event.id):
        life = list(group)
        second = start
        while second < end:
            state = next((each.state for each in reversed(life) if each.at.replace(microsecond=0) <= second), None)
            if state and state.get("status", "RUNNING") == "RUNNING":
                type = state.get("instance_type") or state["type"]
                price = max(each for each in book[type] if each[0] <= second)[1]
                category = "compute" if life[0].kind == "instance" else "storage"
                found[category] += Fraction(price) * state.get("gb", 1) / 3600
            second += rating.SECOND
    return found


def summed(amounts: Sequence[rating.Amount]) -> dict[str, Fraction]:
    found = {"compute": Fraction(0), "storage": Fraction(0)}
    for each in amounts:
        found[each.category] += each.dollars
    return found


@CLOSE
@given(stories(), moments())
async def test_the_bill_is_what_its_seconds_cost(
    database: Database, story: tuple[list[Event], Prices], now: datetime
) -> None:
    (events, book), tenant_id = story, uuid4()
    async with database.transaction() as tx:
        await publish(tx, book)
        await happened(tx, tenant_id, events)
        await read_all(tx, tenant_id)
        whole = await rating.amounts(tx, tenant_id, START, END, END)
        before, after = [
            await rating.amounts(tx, tenant_id, *period, END) for period in ((START, MONTH_ENDS), (MONTH_ENDS, END))
        ]
        totals = await rating.totals(tx, tenant_id, START, END, END)
        so_far = await rating.amounts(tx, tenant_id, START, END, now)
    assert summed(whole) == counted(events, book, START, END)
    assert summed([*before, *after]) == summed(whole)
    assert summed(so_far) == counted(events, book, START, now.replace(microsecond=0))
    assert totals == dict.fromkeys(totals, 0) | {name: rating.cents(each) for name, each in summed(whole).items()}
    assert len({each.id for each in whole}) == len(whole)
    assert {each.id for each in [*before, *after]} == {each.id for each in whole}
    assert whole == sorted(whole, key=lambda each: (each.started_at, each.usage_id), reverse=True)


class Interrupted(Exception):
    """The process ended before it could commit."""


@CLOSE
@given(stories(), st.data())
async def test_usage_is_the_same_however_its_log_was_read(
    database: Database, story: tuple[list[Event], Prices], data: st.DataObject
) -> None:
    (events, _), tenant_id, written = story, uuid4(), 0
    while written < len(events):
        more = data.draw(st.integers(0, 5))
        async with database.transaction() as tx:
            await happened(tx, tenant_id, events[written : written + more])
        written += more
        for dies in data.draw(st.lists(st.booleans(), max_size=3)):
            try:
                async with database.transaction() as tx:
                    await rating.catch_up(tx, tenant_id, data.draw(st.integers(1, 4)))
                    if dies:
                        raise Interrupted
            except Interrupted:
                pass
    async with database.transaction() as tx:
        await read_all(tx, tenant_id, 3)
        select = "select * from usage where tenant_id = $1 order by id"
        piecemeal = await tx.connection.fetch(select, tenant_id)
        assert not await rating.catch_up(tx, tenant_id)
        assert await tx.connection.fetch(select, tenant_id) == piecemeal
        for table in ("usage", "usage_cursors"):
            await tx.connection.execute(f"delete from {table} where tenant_id = $1", tenant_id)
        await read_all(tx, tenant_id)
        assert await tx.connection.fetch(select, tenant_id) == piecemeal


@CLOSE
@given(prices(), st.integers(0, 2000), st.integers(1, 10))
async def test_an_estimate_is_what_the_hours_come_to(
    database: Database, price: Decimal, hours: int, gb: int
) -> None:  # fmt: skip
    """Hour by hour, to the cent."""
    tenant_id, type, id = uuid4(), f"test-{uuid4()}", uuid4()
    state = {"type": type, "gb": gb}
    end = START + timedelta(hours=hours)
    async with database.transaction() as tx:
        await publish(tx, {type: [(EPOCH, price)]})
        hourly = await rating.estimate(tx, [Change(tenant_id, "disk", id, "CREATED", "", "", None, state),
                                            Change(tenant_id, "disk", id, "UPDATED", "", "", state, state),
                                            Change(tenant_id, "tenant", id, "CREATED", "", "", None, {})])  # fmt: skip
        await happened(tx, tenant_id, [Event(START, "disk", id, state), Event(end, "disk", id, None)])
        await read_all(tx, tenant_id)
        totals = await rating.totals(tx, tenant_id, START, end + SPAN, end + SPAN)
    assert hourly == price * gb
    assert totals["storage"] == rating.cents(Fraction(hourly) * hours)


async def test_two_who_read_one_log_take_turns(database: Database) -> None:
    tenant_id, id = uuid4(), uuid4()
    states = [{"type": "test-x", "gb": number} for number in range(1, 301)]
    async with database.transaction() as tx:
        await happened(tx, tenant_id, [Event(START, "disk", id, state) for state in states])

    async def read() -> None:
        more = True
        while more:
            async with database.transaction() as tx:
                more = await rating.catch_up(tx, tenant_id, 7)

    await asyncio.gather(read(), read(), read())
    async with database.reading() as tx:
        found = await tx.connection.fetch("select quantity from usage where tenant_id = $1", tenant_id)
        assert await tx.connection.fetchval("select sequence from usage_cursors where tenant_id = $1", tenant_id) == 300
    assert sorted(each["quantity"] for each in found) == list(range(1, 301))


def test_a_clock_that_was_set_back_makes_no_time_run_backwards() -> None:
    id, earlier = uuid4(), START - timedelta(hours=1)
    changes = [
        {"sequence": 1, "at": START, "kind": "disk", "id": id, "after": {"type": "a", "gb": 1}},
        {"sequence": 2, "at": earlier, "kind": "disk", "id": id, "after": {"type": "b", "gb": 1}},
        {"sequence": 3, "at": END, "kind": "disk", "id": id, "after": None},
    ]
    first, second = rating.follow(uuid4(), changes, [])
    assert (first["started_at"], first["ended_at"]) == (START, START)
    assert (second["started_at"], second["ended_at"]) == (START, END)


async def test_what_has_no_price_is_free_and_shown(database: Database) -> None:
    tenant_id = uuid4()
    async with database.transaction() as tx:
        await happened(tx, tenant_id, [Event(START, "disk", uuid4(), {"type": "test-none", "gb": 2})])
        await read_all(tx, tenant_id)
        [amount] = await rating.amounts(tx, tenant_id, START, END, END)
    assert (amount.quantity, amount.price_per_hour, amount.dollars) == (2 * 240, 0, 0)


@pytest.mark.parametrize(("dollars", "shown"), [("0.005", "0.00"), ("0.015", "0.02"), ("0.025", "0.02"), ("7", "7.00")])
def test_half_a_cent_goes_to_the_even_one(dollars: str, shown: str) -> None:
    assert str(rating.cents(Fraction(dollars))) == shown


# Prices


async def test_a_price_holds_from_the_next_second_on(database: Database) -> None:
    async with database.transaction() as tx:
        now = await rating.now(tx)
        since = await rating.set_price(tx, "instance", "basic-2", Decimal("0.5"))
        assert now < since <= await rating.now(tx) + rating.SECOND
        assert since.microsecond == 0


async def test_a_price_to_come_can_be_changed_and_holds_from_its_moment_on(database: Database) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    created = Change(uuid4(), "instance", uuid4(), "CREATED", "", "", None, {"instance_type": "basic-2"})
    async with database.transaction() as tx:
        for price in ("0.5", "0.6"):
            assert await rating.set_price(tx, "instance", "basic-2", Decimal(price), soon) == soon
        book = [each for each in await rating.prices(tx) if (each["kind"], each["type"]) == ("instance", "basic-2")]
        assert [(each["effective_from"], each["price_per_hour"]) for each in book] == [
            (EPOCH, Decimal("0.02")), (soon, Decimal("0.6")),
        ]  # fmt: skip
        assert await rating.estimate(tx, [created, replace(created, id=uuid4())]) == Decimal("0.04")


@pytest.mark.parametrize(
    ("type", "price", "since", "why"),
    [
        ("basic-2", "0.5", MONTH_ENDS, "bills of the past do not change"), ("basic-3", "0.5", None, "there are"),
        ("basic-2", "-1", None, "price"), ("basic-2", "nan", None, "price"), ("basic-2", "1e9", None, "price"),
    ],
)  # fmt: skip
async def test_prices_that_cannot_be_are_refused(
    database: Database, type: str, price: str, since: datetime | None, why: str
) -> None:
    async with database.transaction() as tx:
        with pytest.raises(ApiError, match=why):
            await rating.set_price(tx, "instance", type, Decimal(price), since)
