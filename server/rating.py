"""What is used of what has a price, and what that costs.

A service says of its kind what is billed; nothing is measured besides. Usage is read off the
change log, which says when a resource came to be billed, at which size, and until when. Each
tenant's cursor says how far its log has been read: usage and cursor are written together, so
reading may stop anywhere, and be begun again by anybody.

Billing is by the second: every moment is cut to a whole second, of changes, prices and periods
alike, so that durations add up exactly however they are cut into months. A type's first price
comes with its migration and holds from the epoch; what has no price at all is free.

Money is exact until it is shown: Decimal for prices, Fraction for amounts, since a second's price
is seldom a decimal number.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.changes import CHANGES, HEADS, Change
from server.db import METADATA, Tx
from server.errors import invalid
from server.work import RECONCILERS, every, nudge

if TYPE_CHECKING:
    from server.app import App

BATCH = 1000  # changes read in one go
DEAREST = 1_000_000  # dollars an hour
CATEGORIES = ("compute", "storage", "database")  # that a bill always shows
BILLED = ("kind", "resource_id", "user_id", "type", "quantity", "category", "unit")  # usage ends when one changes
SECOND = timedelta(seconds=1)
_MOMENT = postgresql.TIMESTAMP(timezone=True)

PRICES = sa.Table(
    "prices",
    METADATA,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("effective_from", _MOMENT, primary_key=True),  # until the type's next one
    sa.Column("price_per_hour", sa.Numeric, nullable=False),
)
USAGE = sa.Table(
    "usage",
    METADATA,
    sa.Column("id", postgresql.UUID, primary_key=True),
    sa.Column("tenant_id", postgresql.UUID, nullable=False),
    sa.Column("user_id", postgresql.UUID, nullable=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("resource_id", postgresql.UUID, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("quantity", sa.Numeric, nullable=False),
    sa.Column("category", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("started_at", _MOMENT, nullable=False),
    sa.Column("ended_at", _MOMENT, nullable=True),  # null while it goes on
)
CURSORS = sa.Table(
    "usage_cursors",
    METADATA,
    sa.Column("tenant_id", postgresql.UUID, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),  # of the latest change that was read
)

State = Mapping[str, Any]


@dataclass(frozen=True)
class Meter:
    """What is billed of a kind."""

    category: str
    unit: str
    size: Callable[[State], tuple[str, Decimal | int]]
    billed: Callable[[State], bool]


METERS: dict[str, Meter] = {}


def metered(
    kind: str, *, category: str, size: Callable[[State], tuple[str, Decimal | int]],
    billed: Callable[[State], bool], unit: str = "second",
) -> None:  # fmt: skip
    """Declare what is billed of a kind, from its state as the change log has it.

    `size` is the type, which has a price an hour, and how much of it: ("gp2", 10). `unit` is one of
    it for a second, as the API calls that: "GB-second".
    """
    METERS[kind] = Meter(category, unit, size, billed)


# Usage, from the change log

_tenant = sa.bindparam("tenant_id", type_=postgresql.UUID)
_head = sa.select(HEADS.c.sequence).where(HEADS.c.tenant_id == _tenant)
_take_turns = postgresql.insert(CURSORS).values(tenant_id=_tenant, sequence=0)
_CURSOR = _take_turns.on_conflict_do_update(
    index_elements=[CURSORS.c.tenant_id], set_={"sequence": CURSORS.c.sequence}
).returning(CURSORS.c.sequence)
_ADVANCE = sa.update(CURSORS).where(CURSORS.c.tenant_id == _tenant).values(sequence=sa.bindparam("reached"))
_NEXT = (
    sa.select(CHANGES.c.sequence, CHANGES.c.at, CHANGES.c.kind, CHANGES.c.id, CHANGES.c.after)
    .where(
        CHANGES.c.tenant_id == _tenant, CHANGES.c.sequence > sa.bindparam("read"),
        CHANGES.c.sequence <= sa.bindparam("head"),
        CHANGES.c.kind == sa.any_(sa.bindparam("kinds", type_=postgresql.ARRAY(sa.Text))),
    )
    .order_by(CHANGES.c.sequence)
    .limit(sa.bindparam("most", type_=sa.Integer))
)  # fmt: skip
_OPEN = sa.select(USAGE).where(
    USAGE.c.tenant_id == _tenant, USAGE.c.ended_at.is_(None),
    USAGE.c.resource_id == sa.any_(sa.bindparam("ids", type_=postgresql.ARRAY(postgresql.UUID))),
)  # fmt: skip
_given = (
    sa.func.unnest(*(sa.bindparam(column.name, type_=postgresql.ARRAY(column.type)) for column in USAGE.c))
    .table_valued(*(sa.column(column.name, column.type) for column in USAGE.c), name="given")
    .render_derived()
)
_write = postgresql.insert(USAGE).from_select(USAGE.c.keys(), sa.select(*_given.c))
_WRITE = _write.on_conflict_do_update(index_elements=[USAGE.c.id], set_={"ended_at": _write.excluded.ended_at})


def read_through(tenant_id: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """The latest of a tenant's changes that was read. Retention keeps those after it: they are not billed yet."""
    read = sa.select(CURSORS.c.sequence).where(CURSORS.c.tenant_id == tenant_id).scalar_subquery()
    return sa.func.coalesce(read, 0)


_UNREAD = sa.select(_head.scalar_subquery() > read_through(_tenant))
_BEHIND = sa.select(HEADS.c.tenant_id).where(HEADS.c.sequence > read_through(HEADS.c.tenant_id))


async def catch_up(tx: Tx, tenant_id: UUID, most: int = BATCH) -> bool:
    """Read on in a tenant's changes, and write down the usage they begin and end. Whether there may be more to read."""
    if not await db.value(tx, _UNREAD, tenant_id=tenant_id):
        return False
    read = await db.value(tx, _CURSOR, tenant_id=tenant_id)
    head = await db.value(tx, _head, tenant_id=tenant_id)
    found = await db.records(tx, _NEXT, tenant_id=tenant_id, read=read, head=head, kinds=list(METERS), most=most)
    known = await db.records(tx, _OPEN, tenant_id=tenant_id, ids=list({each["id"] for each in found}))
    if changed := follow(tenant_id, found, known):
        await db.execute(tx, _WRITE, **{name: [each[name] for each in changed] for name in USAGE.c.keys()})  # noqa: SIM118
    more = len(found) == most
    await db.execute(tx, _ADVANCE, tenant_id=tenant_id, reached=found[-1]["sequence"] if more else head)
    return more


def follow(tenant_id: UUID, found: Iterable[State], known: Iterable[State]) -> list[dict[str, Any]]:
    """The usage that changes, in their order, end or begin, what they end first; `known` was open before them."""
    opened = {(each["kind"], each["resource_id"]): dict(each) for each in known}
    touched: dict[UUID, dict[str, Any]] = {}
    for change in found:
        key = change["kind"], change["id"]
        usage, wanted = opened.get(key), _wanted(change)
        if wanted == ({name: usage[name] for name in BILLED} if usage else None):
            continue
        at = change["at"].replace(microsecond=0)
        if usage:
            at = max(at, usage["started_at"])  # should the clock have been set back
            touched[usage["id"]] = usage | {"ended_at": at}
            del opened[key]
        if wanted:
            new = {"id": uuid5(tenant_id, str(change["sequence"])), "tenant_id": tenant_id, "started_at": at,
                   "ended_at": None, **wanted}  # fmt: skip
            touched[new["id"]] = opened[key] = new
    return list(touched.values())


def _wanted(change: State) -> dict[str, Any] | None:
    """What is billed of a resource after this change, of whom; None when nothing is."""
    state, meter = change["after"], METERS[change["kind"]]
    if state is None or not meter.billed(state):
        return None
    type, quantity = meter.size(state)
    user_id = UUID(state["user_id"]) if "user_id" in state else None
    return {"kind": change["kind"], "resource_id": change["id"], "user_id": user_id, "type": type,
            "quantity": Decimal(quantity), "category": meter.category, "unit": meter.unit}  # fmt: skip


async def read_on(app: "App", tenant_id: UUID) -> None:
    """Read all of a tenant's changes so far."""
    more = True
    while more:
        async with app.db.transaction() as tx:
            more = await catch_up(tx, tenant_id)


RECONCILERS["usage"] = read_on


@every(timedelta(minutes=1))
async def meter(app: "App") -> None:
    """Have the changes read of every tenant that has new ones."""
    async with app.db.transaction() as tx:
        for each in await db.records(tx, _BEHIND):
            await nudge(tx, "usage", each["tenant_id"])


# Amounts

_since = PRICES.c.effective_from
_until = sa.func.lead(_since, 1, sa.literal_column("'infinity'::timestamptz")).over(
    partition_by=(PRICES.c.kind, PRICES.c.type), order_by=_since
)
_book = sa.select(PRICES, _until.label("until")).subquery("book")  # each price, and when the next one takes over
_now = sa.func.clock_timestamp()
in_force = sa.select(_book).where(_book.c.effective_from <= _now, _book.c.until > _now).subquery("in_force")
"""The prices of now."""

_start, _end = (sa.bindparam(name, type_=_MOMENT) for name in ("period_start", "period_end"))
_priced = USAGE.outerjoin(
    _book, sa.and_(
        _book.c.kind == USAGE.c.kind, _book.c.type == USAGE.c.type, _book.c.until > USAGE.c.started_at,
        _book.c.effective_from < sa.func.coalesce(USAGE.c.ended_at, _end),
    )
)  # fmt: skip
_piece = (
    sa.select(
        *(column for column in USAGE.c if column.name not in ("started_at", "ended_at")),
        sa.func.coalesce(_book.c.price_per_hour, 0).label("price_per_hour"),
        sa.case((_book.c.effective_from > USAGE.c.started_at, _book.c.effective_from)).label("price_since"),
        sa.func.greatest(USAGE.c.started_at, _book.c.effective_from, _start).label("started_at"),
        sa.func.least(USAGE.c.ended_at, _book.c.until, _end).label("ended_at"),
    )
    .select_from(_priced)
    .where(
        USAGE.c.tenant_id == _tenant, USAGE.c.started_at < _end,
        sa.or_(USAGE.c.ended_at.is_(None), USAGE.c.ended_at > _start),
    )
    .subquery("piece")
)  # fmt: skip
_real = _piece.c.started_at < _piece.c.ended_at
_seconds = sa.func.extract("epoch", _piece.c.ended_at) - sa.func.extract("epoch", _piece.c.started_at)
_TOTALS = (
    sa.select(_piece.c.category, sa.func.sum(_piece.c.quantity * _seconds * _piece.c.price_per_hour).label("total"))
    .where(_real)
    .group_by(_piece.c.category)
)
_last = sa.tuple_(sa.bindparam("last_at", type_=_MOMENT), sa.bindparam("last_id", type_=postgresql.UUID))
_FIRST_AMOUNTS = (
    sa.select(_piece)
    .where(_real)
    .order_by(_piece.c.started_at.desc(), _piece.c.id.desc())
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_MORE_AMOUNTS = _FIRST_AMOUNTS.where(sa.tuple_(_piece.c.started_at, _piece.c.id) < _last)


@dataclass(frozen=True)
class Amount:
    """A resource in use at one size and one price, as far as it lies in a period."""

    usage_id: UUID
    price_since: datetime | None  # when the price came in force, if that was while the resource was in use
    tenant_id: UUID
    user_id: UUID | None
    kind: str
    resource_id: UUID
    type: str
    category: str
    unit: str
    quantity: Decimal  # of the unit, all in all
    price_per_hour: Decimal
    started_at: datetime
    ended_at: datetime

    @property
    def id(self) -> UUID:
        """The same whatever the period."""
        return uuid5(self.usage_id, self.price_since.isoformat()) if self.price_since else self.usage_id

    @property
    def dollars(self) -> Fraction:
        return Fraction(self.quantity) * Fraction(self.price_per_hour) / 3600


async def amounts(
    tx: Tx, tenant_id: UUID, start: datetime, end: datetime, now: datetime, *, most: int | None = None,
    after: tuple[datetime, UUID] | None = None,
) -> list[Amount]:  # fmt: skip
    """What a tenant used from `start` to before `end`, and up to `now`; what began last comes first.

    `after`: those that follow in that order on the one of this beginning and usage.
    """
    statement, more = (_MORE_AMOUNTS, {"last_at": after[0], "last_id": after[1]}) if after else (_FIRST_AMOUNTS, {})
    period = _period(start, end, now)
    return [_amount(each) for each in await db.records(tx, statement, tenant_id=tenant_id, most=most, **period, **more)]


def _amount(record: Any) -> Amount:
    values = dict(record)
    seconds = (values["ended_at"] - values["started_at"]) // SECOND
    return Amount(usage_id=values.pop("id"), **values | {"quantity": values["quantity"] * seconds})


def _period(start: datetime, end: datetime, now: datetime) -> dict[str, datetime]:
    return {"period_start": start.replace(microsecond=0), "period_end": min(end, now).replace(microsecond=0)}


async def totals(tx: Tx, tenant_id: UUID, start: datetime, end: datetime, now: datetime) -> dict[str, Decimal]:
    """What a tenant spent from `start` to before `end`, and up to `now`: each category, in whole cents."""
    spent = dict.fromkeys([*CATEGORIES, *(each.category for each in METERS.values())], Decimal("0.00"))
    for each in await db.records(tx, _TOTALS, tenant_id=tenant_id, **_period(start, end, now)):
        spent[each["category"]] = cents(Fraction(each["total"]) / 3600)
    return spent


def cents(dollars: Fraction) -> Decimal:
    """Rounded to whole cents, a half to the even one."""
    return Decimal(round(dollars * 100)).scaleb(-2)


async def now(tx: Tx) -> datetime:
    """By the clock that dates changes."""
    return await db.value(tx, sa.select(_now))  # type: ignore[no-any-return]


def month(moment: datetime) -> tuple[datetime, datetime]:
    """The first instants of the moment's calendar month and of the next one. The moment is one of UTC."""
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return first, (first + timedelta(days=31)).replace(day=1)


# Prices

_sized = (
    sa.func.unnest(
        sa.bindparam("kinds", type_=postgresql.ARRAY(sa.Text)), sa.bindparam("types", type_=postgresql.ARRAY(sa.Text)),
        sa.bindparam("quantities", type_=postgresql.ARRAY(sa.Numeric)),
    )
    .table_valued(
        sa.column("kind", sa.Text), sa.column("type", sa.Text), sa.column("quantity", sa.Numeric), name="sized"
    )
    .render_derived()
)  # fmt: skip
_its_price = sa.and_(in_force.c.kind == _sized.c.kind, in_force.c.type == _sized.c.type)
_ESTIMATE = sa.select(sa.func.coalesce(sa.func.sum(_sized.c.quantity * in_force.c.price_per_hour), 0)).select_from(
    _sized.join(in_force, _its_price)
)
_set_price = postgresql.insert(PRICES).values(
    {name: sa.bindparam(name, type_=PRICES.c[name].type) for name in PRICES.c.keys()}  # noqa: SIM118
)
_SET_PRICE = _set_price.on_conflict_do_update(
    index_elements=list(PRICES.primary_key), set_={"price_per_hour": _set_price.excluded.price_per_hour}
)
_BOOK = sa.select(PRICES).order_by(PRICES.c.kind, PRICES.c.type, PRICES.c.effective_from)


async def estimate(tx: Tx, changes: Sequence[Change]) -> Decimal:
    """What the resources that these changes create cost an hour, while they are billed, at the prices of now."""
    created = [each for each in changes if each.type == "CREATED" and each.kind in METERS]
    sizes = [METERS[each.kind].size(each.after or {}) for each in created]
    return await db.value(  # type: ignore[no-any-return]
        tx, _ESTIMATE, kinds=[each.kind for each in created], types=[type for type, _ in sizes],
        quantities=[Decimal(quantity) for _, quantity in sizes],
    )  # fmt: skip


async def prices(tx: Tx) -> list[Any]:
    """The whole book: kind, type, effective_from and price_per_hour of each price, by type and from the oldest on."""
    return await db.records(tx, _BOOK)


async def set_price(tx: Tx, kind: str, type: str, price: Decimal, since: datetime | None = None) -> datetime:
    """Change a type's price, from a moment to come on, else from the next second on. When it comes in force.

    Raises INVALID_ARGUMENT for a moment that has passed, since bills of the past do not change, and
    for a type that the book does not have.
    """
    if not (price.is_finite() and 0 <= price <= DEAREST):
        raise invalid("price", f"a price is a number of dollars from 0 to {DEAREST}; {price} is none")
    types = sorted({f"{each['kind']} {each['type']}" for each in await prices(tx)})
    if f"{kind} {type}" not in types:
        raise invalid("type", f"there is no {kind} {type} in the price book; there are {', '.join(types)}")
    earliest = (await now(tx)).replace(microsecond=0) + SECOND
    since = earliest if since is None else since.replace(microsecond=0)
    if since < earliest:
        raise invalid("from", f"{since.isoformat()} has passed, and bills of the past do not change; "
                              "name a moment to come, or none to have it from now on")  # fmt: skip
    await db.execute(tx, _SET_PRICE, kind=kind, type=type, effective_from=since, price_per_hour=price)
    return since
