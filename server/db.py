"""PostgreSQL: rows as frozen dataclasses, statements as SQLAlchemy expressions run on asyncpg.

A row class names its table, and its fields are the columns. A column that the API's message
shows too carries the message field's name, so `to_message` needs no mapping. A statement is
compiled once for each shape and then runs on the asyncpg connection itself: SQLAlchemy's own
execution costs three times as much (bench/README.md).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from random import getrandbits
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints
from uuid import UUID
from weakref import WeakKeyDictionary, WeakValueDictionary

import asyncpg
import orjson
import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.sql.base import Executable

from server.errors import ApiError, invalid, not_found
from server.messages import builder

METADATA = sa.MetaData()
MOST = 1000  # rows of one page
COLUMN_TYPES: dict[Any, Any] = {
    UUID: postgresql.UUID(),
    str: sa.Text(),
    int: sa.BigInteger(),
    float: sa.Double(),
    bool: sa.Boolean(),
    bytes: sa.LargeBinary(),
    Decimal: sa.Numeric(),
    datetime: postgresql.TIMESTAMP(timezone=True),
    timedelta: postgresql.INTERVAL(),
    dict: postgresql.JSONB(),
    Any: postgresql.JSONB(),
}
LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a call raises when the database, or the way to it, has gone; TimeoutError is an OSError."""
_DIALECT = asyncpg_dialect()  # type: ignore[no-untyped-call]
_COMPILED: dict[Any, Any] = {}
_KNOWN: WeakKeyDictionary[Executable, tuple[str, Sequence[str], dict[str, Any]]] = WeakKeyDictionary()
KINDS: "dict[str, type[Row]]" = {}  # what the API calls one: its class


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row with an id. `KIND` is what the API calls one, `MESSAGE` how it shows one."""

    TABLE: ClassVar[sa.Table]
    KIND: ClassVar[str]
    MESSAGE: ClassVar[type[Message]]

    id: UUID
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Owned(Row):
    """A row that belongs to a tenant."""

    tenant_id: UUID


@dataclass(frozen=True, kw_only=True)
class Provisioned(Owned):
    """A row that something outside the database has to be brought in line with: see provision.py."""

    desired: str  # what was asked for; "DELETED" to have it gone
    generation: int  # counts the askings
    status: str  # what is, as far as the reconciler has seen
    status_message: str | None
    observed_generation: int  # the asking that `status` answers
    updated_at: datetime


R = TypeVar("R", bound=Row)
O = TypeVar("O", bound=Owned)  # noqa: E741


@dataclass_transform(frozen_default=True, kw_only_default=True)
def row(table: str, kind: str, message: type[Message]) -> Callable[[type[R]], type[R]]:
    """The class is a row of this table: its annotations are the columns."""

    def decorate(cls: type[R]) -> type[R]:
        made = dataclass(frozen=True, kw_only=True)(cls)
        hints = get_type_hints(made)
        made.KIND, made.MESSAGE = kind, message
        KINDS[kind] = made
        made.TABLE = sa.Table(
            table, METADATA, *(_column(each.name, hints[each.name]) for each in fields(made))
        )  # fmt: skip
        return made

    return decorate


def _column(name: str, hint: Any) -> sa.Column[Any]:
    nullable = get_origin(hint) is UnionType and NoneType in get_args(hint)
    if nullable:
        [hint] = set(get_args(hint)) - {NoneType}
    origin = get_origin(hint)
    kind = postgresql.ARRAY(COLUMN_TYPES[get_args(hint)[0]]) if origin is list else COLUMN_TYPES[origin or hint]
    return sa.Column(name, kind, primary_key=name == "id", nullable=nullable)


@dataclass
class Tx:
    """A connection in one transaction, and whose change it is."""

    connection: Any  # asyncpg's, or the pool's proxy of one
    actor: str = "system"
    request_id: str = ""
    changes: list[Any] = field(default_factory=list)  # of resources, so far: see changes.py
    left: dict[tuple[str, str], tuple["Write", list[Any]]] = field(default_factory=dict)
    """What is left to write at the end, by tenant and log, in the order of these: two transactions never wait for each
    other there."""
    asked: list["Asked"] = field(default_factory=list)  # at the end, by whoever writes then, or else by itself
    after_commit: list[Callable[[], None]] = field(default_factory=list)

    def before_commit(self, key: tuple[str, str], write: "Write", item: object) -> None:
        """Have this written at the end, by `write`, along with all else that has this key."""
        self.left.setdefault(key, (write, []))[1].append(item)

    def taken_along(self, key: tuple[str, str]) -> list[Any]:
        """What is left to write under the key that comes next, by who writes it along with its own."""
        return self.left.pop(key)[1] if key in self.left else []

    def part(self, actor: str, request_id: str) -> "Tx":
        """The same transaction, for what is changed in it by somebody else."""
        return Tx(self.connection, actor, request_id, left=self.left, after_commit=self.after_commit)


Write = Callable[[Tx, list[Any]], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """What is asked, and who is told its first row; that may raise."""

    statement: sa.Select[Any]
    values: dict[str, Any]
    tell: Callable[[Sequence[Any]], None]


class Database:
    """A pool of connections. Open it with `async with`."""

    def __init__(self, url: str, size: int = 20) -> None:
        self.url, self.size = url, size
        self.pool: Any = None
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> "Database":
        self.pool = await asyncpg.create_pool(
            self.url, min_size=1, max_size=self.size, init=_prepare, reset=_keep, statement_cache_size=500,
            server_settings={
                "application_name": "thecloud", "jit": "off",
                "statement_timeout": "60s", "idle_in_transaction_session_timeout": "60s",
            },
        )  # fmt: skip
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.pool.close()

    @asynccontextmanager
    async def transaction(self, actor: str = "system", request_id: str = "") -> AsyncIterator[Tx]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        async with self.pool.acquire() as connection:
            tx = Tx(connection, actor, request_id)
            async with connection.transaction():
                yield tx
                while tx.left:
                    write, items = tx.left.pop(min(tx.left))
                    await write(tx, items)
                await ask(tx)
        for act in tx.after_commit:
            act()

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """Until the block ends or the process dies, nobody else, in no process, is alone with this key.

        Of one process only one waits with a connection: the others wait for that one.
        """
        turns = self._turns.setdefault(key, asyncio.Lock())
        async with turns, self.pool.acquire() as connection:
            try:
                await connection.execute("select pg_advisory_lock(hashtextextended($1, 0))", key)
                yield
            finally:
                await connection.execute("select pg_advisory_unlock(hashtextextended($1, 0))", key)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Tx]:
        """A connection for reads that all see what is committed when the first of them runs."""
        async with (
            self.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield Tx(connection)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Tx]:
        """A connection outside a transaction: each statement is one by itself, and sees what is committed by then."""
        async with self.pool.acquire() as connection:
            yield Tx(connection)


async def connect(url: str) -> Any:
    """A connection of its own, for LISTEN and migrations."""
    return await asyncpg.connect(url)


async def _prepare(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value, option=orjson.OPT_UTC_Z),
        decoder=lambda data: orjson.loads(data[1:]),
    )  # fmt: skip


async def _keep(connection: Any) -> None:
    """Nothing to reset: we set no session state, and a round trip for each release is dear."""


def sql(statement: Executable, values: Mapping[str, object]) -> tuple[str, list[object]]:
    """The statement's text, compiled once for its shape, and its arguments in order."""
    known = _KNOWN.get(statement)
    if known is None:
        compiled: Any
        compiled, literals, *_ = statement._compile_w_cache(dialect=_DIALECT, compiled_cache=_COMPILED, column_keys=[])
        constants = compiled.construct_params(extracted_parameters=literals, _check=False)
        names = compiled.positiontup or ()
        given = {name: constants[name] for name in names if not compiled.binds[name].required}
        known = _KNOWN[statement] = compiled.string, names, given
    text, names, given = known
    return text, [values[name] if name in values else given[name] for name in names]


async def records(tx: Tx, statement: Executable, **values: object) -> list[Any]:
    """All rows of a statement, as asyncpg records."""
    text, arguments = sql(statement, values)
    return await tx.connection.fetch(text, *arguments)  # type: ignore[no-any-return]


async def record(tx: Tx, statement: Executable, **values: object) -> Any:
    """The first row, or None."""
    text, arguments = sql(statement, values)
    return await tx.connection.fetchrow(text, *arguments)


async def value(tx: Tx, statement: Executable, **values: object) -> Any:
    """The first column of the first row, or None."""
    text, arguments = sql(statement, values)
    return await tx.connection.fetchval(text, *arguments)


async def ask(tx: Tx) -> None:
    """Ask now what was left to the end."""
    while tx.asked:
        asked = tx.asked.pop()
        asked.tell(await record(tx, asked.statement, **asked.values))


async def execute(tx: Tx, statement: Executable, **values: object) -> int:
    """Run the statement; how many rows it touched."""
    text, arguments = sql(statement, values)
    status: str = await tx.connection.execute(text, *arguments)
    return int(status.rsplit(" ", 1)[-1]) if status[-1].isdigit() else 0


def made(cls: type[R], record: Any) -> R:
    """The record as a row. It must have every column; the dataclass's own __init__ costs ten times as much."""
    found = object.__new__(cls)
    found.__dict__.update(record.items())
    return found


async def rows(tx: Tx, cls: type[R], statement: Executable, **values: object) -> list[R]:
    return [made(cls, each) for each in await records(tx, statement, **values)]


async def first(tx: Tx, cls: type[R], statement: Executable, **values: object) -> R | None:
    found = await record(tx, statement, **values)
    return None if found is None else made(cls, found)


async def find(tx: Tx, cls: type[R], id: UUID, *, lock: bool = False) -> R | None:
    """The row with this id, whosever it is. For reconcilers; a service says `get`."""
    return await first(tx, cls, _by_id(cls, False, lock), id=id)  # type: ignore[arg-type]


async def get(tx: Tx, cls: type[O], id: str, tenant_id: UUID, *, lock: bool = False) -> O:
    """The tenant's row with this id. Another tenant's row is as absent as one that never was."""
    found = await first(tx, cls, _by_id(cls, True, lock), id=UUID(id), tenant_id=tenant_id)  # type: ignore[arg-type]
    if found is None:
        raise not_found(cls.KIND, id)
    return found


@cache
def _by_id(cls: type[Row], tenant: bool, lock: bool) -> sa.Select[Any]:
    columns = cls.TABLE.c
    statement = sa.select(cls.TABLE).where(columns.id == sa.bindparam("id"))
    if tenant:
        statement = statement.where(columns.tenant_id == sa.bindparam("tenant_id"))
    return statement.with_for_update() if lock else statement


async def identities(tx: Tx, cls: type[Owned], reference: str, tenant_id: UUID) -> list[tuple[UUID, str]]:
    """The id and the name of each row of the tenant that has this id or this name."""
    try:
        id = UUID(reference)
    except ValueError:
        if "name" not in cls.TABLE.c:
            return []
        id = UUID(int=0)
    found = await records(tx, _identities(cls), tenant_id=tenant_id, id=id, name=reference)  # type: ignore[arg-type]
    return [tuple(each.values()) for each in found]


async def locate(tx: Tx, cls: type[O], reference: str, tenant_id: UUID, *, lock: bool = False) -> O:
    """The tenant's row with this id, or the only one with this name. What is to go has its name no more."""
    try:
        id = str(UUID(reference))
    except ValueError:
        found = await records(tx, _named(cls), tenant_id=tenant_id, name=reference)  # type: ignore[arg-type]
        if not found:
            raise invalid("id", f"{reference!r} is neither the id nor the name of {a(cls.KIND)}") from None
        if len(found) > 1:
            raise ApiError("IN_USE", f"several {cls.KIND.replace('_', ' ')}s are called {reference}; use the id",
                           kind=cls.KIND, id=reference) from None  # fmt: skip
        id = str(found[0]["id"])
    return await get(tx, cls, id, tenant_id, lock=lock)


@cache
def _named(cls: type[Owned]) -> sa.Select[Any]:
    columns = cls.TABLE.c
    found = sa.select(columns.id).where(columns.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID),
                                        columns.name == sa.bindparam("name", type_=sa.Text))  # fmt: skip
    return (found.where(columns.desired != "DELETED") if "desired" in columns else found).limit(2)


def a(kind: str) -> str:
    """A kind with its article, as people say it."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind.replace('_', ' ')}"


@cache
def _identities(cls: type[Owned]) -> sa.Select[Any]:
    columns = cls.TABLE.c
    name = columns.name if "name" in columns else sa.literal("")
    return sa.select(columns.id, name).where(
        columns.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID),
        sa.or_(columns.id == sa.bindparam("id", type_=postgresql.UUID), name == sa.bindparam("name", type_=sa.Text)),
    )


def new_id() -> UUID:
    """A random id (RFC 9562, version 4). Ids are no secrets, and bits from the kernel cost twenty times as much."""
    return UUID(int=getrandbits(128), version=4)


async def insert(tx: Tx, cls: type[R], **columns: object) -> R:
    expressions = {name: value for name, value in columns.items() if isinstance(value, sa.ColumnElement)}
    values = {f"new_{name}": value for name, value in columns.items() if name not in expressions}
    statement = _insert(cls, tuple(name for name in columns if name not in expressions))  # type: ignore[arg-type]
    return made(cls, await record(tx, statement.values(**expressions) if expressions else statement, **values))


@cache
def _insert(cls: type[Row], names: tuple[str, ...]) -> Any:
    """Made once for each set of columns: making it takes longer than running it."""
    values = {name: sa.bindparam(f"new_{name}", type_=cls.TABLE.c[name].type) for name in names}
    return sa.insert(cls.TABLE).values(values).returning(*cls.TABLE.c)


def together(kinds: Mapping[str, Any], *, numbered: str | None = None) -> Any:
    """A table of arrays, each a bind parameter with this name and with values of this kind. `numbered`: the name of a
    column that counts its rows from 1.

    How long they are is hidden from the planner, which else plans anew for each length: for longer than the statement
    takes.
    """
    arrays = (
        sa.select(sa.bindparam(name, type_=postgresql.ARRAY(kind))).scalar_subquery() for name, kind in kinds.items()
    )
    columns = (sa.column(name, kind) for name, kind in kinds.items())
    return sa.func.unnest(*arrays).table_valued(*columns, with_ordinality=numbered, name="given").render_derived()


async def update(tx: Tx, row: R, **columns: object) -> R:
    """The row with these columns changed, as it is now. Raises NOT_FOUND when it has gone meanwhile."""
    table = row.TABLE
    if "updated_at" in table.c:
        columns.setdefault("updated_at", sa.func.clock_timestamp())
    found = await record(tx, sa.update(table).where(table.c.id == row.id).values(**columns).returning(*table.c))
    if found is None:
        raise not_found(row.KIND, row.id)
    return made(type(row), found)


async def delete(tx: Tx, row: Row) -> bool:
    """Whether the row was there to delete."""
    return await execute(tx, _delete(type(row)), id=row.id) > 0  # type: ignore[arg-type]


@cache
def _delete(cls: type[Row]) -> Executable:
    return sa.delete(cls.TABLE).where(cls.TABLE.c.id == sa.bindparam("id"))


def given(name: str, kind: Any, condition: Callable[[Any], sa.ColumnElement[bool]]) -> sa.ColumnElement[bool]:
    """A condition on a bind parameter that may be null: then there is none."""
    parameter = sa.bindparam(name, type_=kind)
    return sa.or_(parameter.is_(None), condition(parameter))


def to_message(row: Row, **more: object) -> Any:
    """The row's message, with every field that the row, or `more`, has a value for."""
    return builder(row.MESSAGE)(row.__dict__ | more)  # type: ignore[arg-type]
