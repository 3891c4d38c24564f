"""The one life of everything provisioned: asked for, observed, gone.

A service makes a resource with `create`, changes what is wanted with `ask`; a reconciler writes
down what is with `observed`, and drops the row with `gone`. Nothing else writes `desired`,
`generation`, `status` or `observed_generation`.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from drivers.contracts import Refused
from server import changes, db, enums
from server.db import Provisioned, Tx
from server.work import LIMIT, LONGER, RECONCILERS, wake

if TYPE_CHECKING:
    from server.app import App

P = TypeVar("P", bound=Provisioned)
Reconcile = Callable[["App", P], Awaitable[timedelta | None]]


def reconciles(cls: type[P], *, longest: float = LIMIT) -> Callable[[Reconcile[P]], Reconcile[P]]:
    """The function reconciles rows of this class. It is given the row as it is now; what a driver
    refuses becomes the resource's ERROR, anything else it raises is retried. A run may take `longest` seconds."""

    def register(function: Reconcile[P]) -> Reconcile[P]:
        async def run(app: "App", id: UUID) -> timedelta | None:
            async with app.db.reading() as tx:
                row = await db.find(tx, cls, id)
            if row is None:
                return None
            try:
                return await function(app, row)
            except Refused as refusal:
                await observed(app, row, state(cls, "ERROR"), str(refusal))
                return None

        RECONCILERS[cls.KIND], LONGER[cls.KIND] = run, longest
        return function

    return register


async def create(tx: Tx, cls: type[P], *, id: UUID, desired: str, status: str, **columns: object) -> P:
    """A new resource, brought about once this transaction commits."""
    row = await changes.insert(
        tx, cls, id=id, desired=desired, status=status, generation=1, observed_generation=0, **columns
    )  # fmt: skip
    await wake(tx, cls.KIND, row.id, getattr(row, "host", None))
    return row


async def ask(tx: Tx, row: P, *, desired: str | None = None, status: str | None = None, **columns: object) -> P:
    """Want something else of a resource, and have it brought about once this transaction commits.

    `status` is what it shows until the reconciler has seen more; without one it shows what was seen last.
    """
    if desired == "DELETED":
        status = state(type(row), "DELETING")
    if desired:
        columns["desired"] = desired
    if status:
        columns |= {"status": status, "status_message": None}
    asked = await changes.update(tx, row, **columns, generation=row.TABLE.c.generation + 1)
    await wake(tx, row.KIND, row.id, getattr(row, "host", None))
    return asked


async def pending(app: "App", row: Provisioned, message: str | None) -> None:
    """Say what a resource that is still on its way is waiting for."""
    if message != row.status_message:
        async with app.db.transaction() as tx:
            await changes.update(tx, row, status_message=message)


async def observed(
    app: "App", row: P, status: str | Callable[[P], str], message: str | None = None, **columns: object
) -> None:
    """Write down what is, in answer to the asking `row` was read with. A status may depend on the row as it is now.

    An answer to an asking that is no longer the latest leaves `reconciling` true; one that comes
    after the answer to a later asking is void; and what is on its way out stays DELETING.
    """
    async with app.db.transaction() as tx:
        now = await db.find(tx, type(row), row.id, lock=True)
        if now is None or now.observed_generation > row.generation:
            return
        seen = status if isinstance(status, str) else status(now)
        new = columns | {"status": seen, "status_message": message, "observed_generation": row.generation}
        if now.desired == "DELETED":
            new |= {"status": state(type(row), "DELETING")}
        if any(getattr(now, name) != value for name, value in new.items()):
            await changes.update(tx, now, **new)


async def gone(app: "App", row: Provisioned) -> None:
    """The resource is no more: drop its row."""
    async with app.db.transaction() as tx:
        await changes.delete(tx, row)


def state(cls: type[Provisioned], name: str) -> str:
    """How the API spells this state of such a resource."""
    states: Any = cls.MESSAGE.DESCRIPTOR.fields_by_name["status"].enum_type
    return enums.spellings(states)[states.values_by_name[f"STATE_{name}"].number]


def reconciling(row: Provisioned) -> bool:
    """Whether the server is still bringing the resource to what was asked."""
    return row.generation > row.observed_generation
