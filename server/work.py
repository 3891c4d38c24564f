"""Everything that happens after a reply: reconcilers, and the loop that runs them.

A resource with something left to do has one row in `work`. `wake` writes that row in the
transaction that changed the resource, so neither exists without the other. A worker leases
due rows and calls the reconciler of their kind with the resource's id and nothing else: the
reconciler reads what is wanted and what is, and does what is missing. It may be killed at any
point; the lease runs out and another worker starts over.

A reconciler returns
  * None         nothing is left to do, forget the resource until its next wake;
  * a timedelta  look again after that long;
and raises when something failed: it is called again, later each time. What costs less for many at
once, and is done when it returns, is called with the ids of all that were leased together.

A worker renews the leases of what it runs. One that cannot (the database is out of reach) ends
its runs before their leases do, so that two workers never run one resource at a time.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql

from server import db
from server.db import METADATA, Tx
from server.metrics import RUNS

if TYPE_CHECKING:
    from server.app import App

log = structlog.get_logger()

CHANNEL = "work"
LIMIT = 90.0  # seconds of one run
POLL = 2.0  # seconds between looks at the table when nothing rings
SLOWEST = 600.0  # seconds of the longest back-off
NEVER = sa.text("'-infinity'::timestamptz")

WORK = sa.Table(
    "work",
    METADATA,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("id", postgresql.UUID, primary_key=True),
    sa.Column("host", sa.Text, nullable=True),
    sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("leased_until", postgresql.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("lease", postgresql.UUID, nullable=True),
    sa.Column("wakes", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.BigInteger, nullable=False),
    sa.Column("last_error", sa.Text, nullable=True),
)


class NotYet(Exception):
    """What is wanted is not there, for a reason outside this program, which the text names. Later may be better."""


Reconciler = Callable[["App", UUID], Awaitable[timedelta | None]]
RECONCILERS: dict[str, Reconciler] = {}
TOGETHER: dict[str, Callable[["App", Sequence[UUID]], Awaitable[None]]] = {}
"""What finishes many resources of a kind at once, which have no reconciler of their own."""
LONGER: dict[str, float] = {}  # seconds of one run, of kinds that may have more than LIMIT


@dataclass(frozen=True)
class Periodic:
    """Work that comes back by itself."""

    period: timedelta
    each_host: bool  # each host has a row of its own


PERIODIC: dict[str, Periodic] = {}


def every(period: timedelta, *, each_host: bool = False) -> Callable[..., Callable[["App"], Awaitable[None]]]:
    """The function runs once each period, on one worker, or on one worker of each host."""

    def register(function: Callable[["App"], Awaitable[None]]) -> Callable[["App"], Awaitable[None]]:
        async def run(app: "App", _: UUID) -> timedelta:
            await function(app)
            return period

        kind = f"{function.__module__}.{function.__name__}"
        PERIODIC[kind] = Periodic(period, each_host)
        RECONCILERS[kind] = run
        return function

    return register


FOLLOWING: list[Callable[["App"], Awaitable[None]]] = []


def follows(function: Callable[["App"], Awaitable[None]]) -> Callable[["App"], Awaitable[None]]:
    """The function follows what happens outside for as long as it can, beside the work; begun again when it ends."""
    FOLLOWING.append(function)
    return function


async def follow(app: "App") -> None:
    """Have everything followed that is to be, until this is cancelled."""
    async with asyncio.TaskGroup() as group:
        for function in FOLLOWING:
            group.create_task(forever(f"{function.__module__}.{function.__name__}", partial(function, app)))


async def forever(what: str, function: Callable[[], Awaitable[None]]) -> None:
    """Call the function again and again, a moment after it ended or failed."""
    told = ""
    while True:
        try:
            await function()
        except Exception as exception:
            if (error := repr(exception)) != told:  # once, however long it lasts
                log.warning("follow_failed", what=what, error=error)
                told = error
        await asyncio.sleep(POLL)


_now = sa.func.clock_timestamp()
_wake = postgresql.insert(WORK).values(
    kind=sa.bindparam("kind"), id=sa.bindparam("id"), host=sa.bindparam("host"),
    due_at=sa.func.now(), leased_until=NEVER, wakes=1, attempts=0,
)  # fmt: skip
WAKE = _wake.on_conflict_do_update(
    index_elements=[WORK.c.kind, WORK.c.id],
    set_={
        "due_at": sa.func.least(WORK.c.due_at, sa.func.now()),
        "wakes": WORK.c.wakes + 1, "attempts": 0, "host": _wake.excluded.host,
    },
)  # fmt: skip
START = _wake.on_conflict_do_nothing()
HURRY = (
    sa.update(WORK)
    .where(WORK.c.host == sa.bindparam("at_host"), WORK.c.last_error.is_not(None), WORK.c.due_at > sa.func.now())
    .values(due_at=sa.func.now())
)


async def wake(tx: Tx, kind: str, id: UUID, host: str | None = None) -> None:
    """Have the resource reconciled, by a worker of this host, as soon as this transaction commits."""
    await db.execute(tx, WAKE, kind=kind, id=id, host=host)
    await tx.connection.execute(f"notify {CHANNEL}")


async def nudge(tx: Tx, kind: str, id: UUID, host: str | None = None) -> None:
    """Have the resource looked at again; one that waits for its next try goes on waiting."""
    await db.execute(tx, START, kind=kind, id=id, host=host)


async def hurry(tx: Tx, host: str) -> None:
    """Let what waits for its next try on this host be tried now: what it failed for may have passed."""
    await db.execute(tx, HURRY, at_host=host)
    await tx.connection.execute(f"notify {CHANNEL}")


async def start_periodic(app: "App") -> None:
    """Give every periodic kind its row, due now. May be repeated."""
    async with app.db.transaction() as tx:
        for kind, periodic in PERIODIC.items():
            host = app.config.host if periodic.each_host else None
            id = uuid5(NAMESPACE_OID, host) if host else UUID(int=0)
            await db.execute(tx, WAKE, kind=kind, id=id, host=host)


@dataclass(frozen=True)
class Lease:
    """A row of work that is ours until `leased_until`, if it still carries our `lease`."""

    kind: str
    id: UUID
    lease: UUID
    leased_until: datetime
    wakes: int
    attempts: int


_due = (
    sa.select(WORK.c.kind, WORK.c.id)
    .where(
        WORK.c.due_at <= _now,
        WORK.c.leased_until < _now,
        sa.or_(WORK.c.host.is_(None), WORK.c.host == sa.bindparam("at_host")),
        WORK.c.kind == sa.any_(sa.bindparam("kinds", type_=postgresql.ARRAY(sa.Text))),
    )
    .order_by(WORK.c.due_at)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
    .cte("due")
)
TAKE = (
    sa.update(WORK)
    .where(WORK.c.kind == _due.c.kind, WORK.c.id == _due.c.id)
    .values(
        lease=sa.bindparam("new_lease"),
        leased_until=_now + sa.bindparam("lasting", type_=postgresql.INTERVAL),
        attempts=WORK.c.attempts + 1,
    )
    .returning(WORK.c.kind, WORK.c.id, WORK.c.lease, WORK.c.leased_until, WORK.c.wakes, WORK.c.attempts)
)


async def take(app: "App", tx: Tx, limit: int) -> list[Lease]:
    """Lease up to `limit` due rows that this host may run, the longest overdue first."""
    found = await db.records(
        tx, TAKE, at_host=app.config.host, kinds=[*RECONCILERS, *TOGETHER], most=limit, new_lease=uuid4(),
        lasting=timedelta(seconds=app.config.lease_seconds),
    )  # fmt: skip
    return [Lease(*each.values()) for each in found]


_mine = sa.and_(
    WORK.c.kind == sa.bindparam("its_kind"), WORK.c.id == sa.bindparam("its_id"),
    WORK.c.lease == sa.bindparam("its_lease"),
)  # fmt: skip
_no_wake_since = WORK.c.wakes == sa.bindparam("its_wakes")
_ours = db.together({"kinds": sa.Text, "ids": postgresql.UUID, "leases": postgresql.UUID, "wakings": sa.BigInteger})
FINISH = (
    sa.delete(WORK)
    .where(WORK.c.kind == _ours.c.kinds, WORK.c.id == _ours.c.ids, WORK.c.lease == _ours.c.leases,
           WORK.c.wakes == _ours.c.wakings)
    .returning(WORK.c.kind, WORK.c.id)
)  # fmt: skip
GIVE_BACK = (
    sa.update(WORK)
    .where(_mine)
    .values(
        lease=None,
        leased_until=NEVER,
        last_error=sa.bindparam("error", type_=sa.Text),
        attempts=sa.case((sa.bindparam("error", type_=sa.Text).is_(None), 0), else_=WORK.c.attempts),
        due_at=sa.case(
            (_no_wake_since, _now + sa.bindparam("again", type_=postgresql.INTERVAL)), else_=sa.func.now()
        ),
    )
)  # fmt: skip
RENEW = (
    sa.update(WORK)
    .where(WORK.c.lease == sa.any_(sa.bindparam("leases", type_=postgresql.ARRAY(postgresql.UUID))))
    .values(leased_until=_now + sa.bindparam("lasting", type_=postgresql.INTERVAL))
)


async def release(tx: Tx, leases: Sequence[Lease], again: timedelta | None, error: str | None = None) -> None:
    """Give the rows back. A wake that came during the run wins: the row stays, due at once.

    A lease that ran out and was taken by another is no longer ours to give back; then this does nothing.
    """
    if again is None:
        done = {(each["kind"], each["id"]) for each in await db.records(
            tx, FINISH, kinds=[lease.kind for lease in leases], ids=[lease.id for lease in leases],
            leases=[lease.lease for lease in leases], wakings=[lease.wakes for lease in leases],
        )}  # fmt: skip
        leases = [lease for lease in leases if (lease.kind, lease.id) not in done]
    error = error and error.replace("\0", "")  # which PostgreSQL's text cannot hold
    for lease in leases:
        await db.execute(tx, GIVE_BACK, its_kind=lease.kind, its_id=lease.id, its_lease=lease.lease,
                         its_wakes=lease.wakes, again=again or timedelta(0), error=error)  # fmt: skip


def backoff(lease: Lease) -> timedelta:
    """Twice as long after each failure; periodic work waits no longer than usual."""
    slowest = PERIODIC[lease.kind].period.total_seconds() if lease.kind in PERIODIC else SLOWEST
    return timedelta(seconds=min(2.0 ** min(lease.attempts - 1, 20), slowest) * random.uniform(0.5, 1))


def runs(leases: Sequence[Lease]) -> list[list[Lease]]:
    """What is run by itself of these: all of a kind that is finished together, else one."""
    by_kind: dict[str, list[Lease]] = {}
    for lease in leases:
        by_kind.setdefault(lease.kind, []).append(lease)
    return [run for kind, its in by_kind.items() for run in ([its] if kind in TOGETHER else [[lease] for lease in its])]


async def run_once(app: "App", leases: Sequence[Lease]) -> None:
    """Run leased rows, one or several that are finished together, and give them back."""
    error, again, began, lease = None, None, time.perf_counter(), leases[0]
    with structlog.contextvars.bound_contextvars(kind=lease.kind, id=str(lease.id), attempt=lease.attempts):
        try:
            async with asyncio.timeout(LONGER.get(lease.kind, LIMIT)):
                if lease.kind in TOGETHER:
                    await TOGETHER[lease.kind](app, [each.id for each in leases])
                else:
                    again = await RECONCILERS[lease.kind](app, lease.id)
        except asyncio.CancelledError:
            with suppress(*db.LOST):
                async with asyncio.timeout(2), app.db.reading() as tx:
                    await release(tx, leases, timedelta(0))
            raise
        except NotYet as reason:
            error, again = str(reason), backoff(lease)
        except Exception as exception:
            if len(leases) > 1:  # of which one may be to blame
                for each in leases:
                    await run_once(app, [each])
                return
            log.warning("reconcile_failed", error=str(exception), exc_info=lease.attempts == 1)
            error, again = f"{type(exception).__name__}: {exception}", backoff(lease)
        RUNS.labels(lease.kind, "failed" if error else "OK").observe(time.perf_counter() - began)
        async with app.db.reading() as tx:
            await release(tx, leases, again, error)


class Worker:
    """Runs reconcilers until told to stop."""

    def __init__(self, app: "App") -> None:
        self.app = app
        self.running: dict[asyncio.Task[None], UUID] = {}
        self.stopped_at: float | None = None

    async def run(self) -> None:
        """Take and run work. Returns once `stop` was called and all runs have ended."""
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew())
            while self.stopped_at is None:
                self.app.bell.clear()  # before looking, so that a ring between looking and waiting is heard
                free = self.app.config.concurrency - len(self.running)
                try:
                    async with self.app.db.reading() as tx:
                        leases = await take(self.app, tx, free) if free else []
                except db.LOST as exception:
                    log.warning("work_unreachable", error=str(exception))
                    leases = []
                for run in runs(leases):
                    task = group.create_task(self._guarded(run))
                    self.running[task] = run[0].lease
                    task.add_done_callback(self._ended)
                if not leases:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.app.bell.wait(), POLL)
            if self.running:
                await asyncio.wait(self.running)
            renewing.cancel()

    def stop(self) -> None:
        """Take no more work; `run` returns when what runs has ended."""
        self.stopped_at = self.stopped_at or time.monotonic()
        self.app.bell.set()

    async def finish(self, running: "asyncio.Task[None]", grace: float) -> None:
        """Stop, let what runs finish until so many seconds after the first stop, then end it."""
        self.stop()
        assert self.stopped_at is not None
        await asyncio.wait([running], timeout=max(0.0, self.stopped_at + grace - time.monotonic()))
        self.cancel()
        await running

    def cancel(self) -> None:
        """End what runs now; each gives its lease back."""
        for task in list(self.running):
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self.running[task]
        self.app.bell.set()

    async def _guarded(self, leases: Sequence[Lease]) -> None:
        """A run whose failure to give back (the database is gone) ends nothing but itself."""
        try:
            await run_once(self.app, leases)
        except db.LOST as exception:
            log.warning("release_failed", kind=leases[0].kind, id=str(leases[0].id), error=str(exception))

    async def _renew(self) -> None:
        lasting = self.app.config.lease_seconds
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(lasting / 4)
            began = time.monotonic()
            try:
                if self.running:
                    async with asyncio.timeout(lasting / 4), self.app.db.reading() as tx:
                        leases = list(self.running.values())
                        await db.execute(tx, RENEW, leases=leases, lasting=timedelta(seconds=lasting))
                renewed = began
            except db.LOST as exception:
                log.warning("renew_failed", error=str(exception))
                if time.monotonic() - renewed > lasting * 0.7:
                    self.cancel()


async def drain(app: "App") -> int:
    """Run everything due now, one at a time, until nothing is; how many ran. For tests."""
    ran = 0
    while True:
        async with app.db.reading() as tx:
            leases = await take(app, tx, 1)
        if not leases:
            return ran
        await run_once(app, leases)
        ran += 1
