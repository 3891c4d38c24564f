"""The work engine: every wake is answered, by one worker at a time, whoever dies."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from server import db, provision, work
from server.app import App
from server.instances import Instance
from server.work import Lease, NotYet, Reconciler
from tests.conftest import Cloud, Person, running_cloud, until


@pytest.fixture
def reconciler() -> Iterator[Callable[[Reconciler], str]]:
    """Registers a function for a kind of its own, for as long as the test runs."""
    kinds: list[str] = []

    def register(function: Reconciler) -> str:
        kinds.append(f"test-{uuid4().hex[:8]}")
        work.RECONCILERS[kinds[-1]] = function
        return kinds[-1]

    yield register
    for kind in kinds:
        del work.RECONCILERS[kind]


async def wake(app: App, kind: str, id: UUID, host: str | None = None) -> None:
    async with app.db.transaction() as tx:
        await work.wake(tx, kind, id, host)


async def take(app: App, limit: int = 10) -> list[Lease]:
    async with app.db.transaction() as tx:
        return await work.take(app, tx, limit)


async def release(app: App, lease: Lease, again: timedelta | None = None, error: str | None = None) -> None:
    async with app.db.transaction() as tx:
        await work.release(tx, [lease], again, error)


async def row(app: App) -> Any:
    """The only row of work."""
    async with app.db.reading() as tx:
        found = await tx.connection.fetch("select *, due_at - clock_timestamp() as wait from work")
    assert len(found) == 1
    return found[0]


async def rest(app: App) -> int:
    async with app.db.reading() as tx:
        return await tx.connection.fetchval("select count(*) from work")  # type: ignore[no-any-return]


async def run_due(app: App) -> None:
    """Let what waits be due, and run it."""
    async with app.db.reading() as tx:
        await tx.connection.execute("update work set due_at = now()")
    await work.drain(app)


def named(app: App, **settings: Any) -> App:
    return replace(app, config=replace(app.config, **settings), bell=asyncio.Event())


@asynccontextmanager
async def worker(app: App) -> AsyncIterator[work.Worker]:
    """A worker that runs until the block ends."""
    made = work.Worker(app)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        made.stop()
        async with asyncio.timeout(10):
            await running


# Waking


async def test_work_is_woken_with_its_transaction_or_not_at_all(cloud: Cloud, reconciler: Any) -> None:
    async def run(app: App, id: UUID) -> None:
        raise AssertionError("never woken")

    kind = reconciler(run)
    with suppress(LookupError):
        async with cloud.app.db.transaction() as tx:
            await work.wake(tx, kind, uuid4())
            raise LookupError
    assert await rest(cloud.app) == 0


async def test_wakes_of_one_resource_are_one_run(cloud: Cloud, reconciler: Any) -> None:
    runs: list[UUID] = []

    async def run(app: App, id: UUID) -> None:
        runs.append(id)

    kind, id = reconciler(run), uuid4()
    for _ in range(5):
        await wake(cloud.app, kind, id)
    assert await work.drain(cloud.app) == 1
    assert runs == [id]
    assert await rest(cloud.app) == 0


async def test_what_is_finished_together_fails_by_itself(cloud: Cloud, monkeypatch: Any) -> None:
    ids, bad, together = [uuid4() for _ in range(9)], uuid4(), list[int]()

    async def finish(app: App, these: Sequence[UUID]) -> None:
        together.append(len(these))
        if bad in these:
            raise OSError("bad block")

    monkeypatch.setitem(work.TOGETHER, "test-together", finish)
    for id in (*ids, bad):
        await wake(cloud.app, "test-together", id)
    for run in work.runs(await take(cloud.app)):
        await work.run_once(cloud.app, run)
    assert together == [10, *[1] * 10]
    left = await row(cloud.app)
    assert (left["id"], left["last_error"], left["attempts"]) == (bad, "OSError: bad block", 1)
    assert left["wait"] > timedelta(0)


async def test_a_wake_during_a_run_is_not_lost(cloud: Cloud, reconciler: Any) -> None:
    runs = 0

    async def run(app: App, id: UUID) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await wake(app, kind, id)

    kind = reconciler(run)
    await wake(cloud.app, kind, uuid4())
    assert await work.drain(cloud.app) == 2
    assert runs == 2
    assert await rest(cloud.app) == 0


@pytest.mark.parametrize("outcome", [timedelta(hours=1), NotYet("later"), ValueError("broken")])
async def test_a_wake_during_a_run_wins_over_what_the_run_wants(cloud: Cloud, reconciler: Any, outcome: Any) -> None:
    runs = 0

    async def run(app: App, id: UUID) -> timedelta | None:
        nonlocal runs
        runs += 1
        if runs > 1:
            return None
        await wake(app, kind, id)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    kind = reconciler(run)
    await wake(cloud.app, kind, uuid4())
    assert await work.drain(cloud.app) == 2
    assert await rest(cloud.app) == 0


async def test_a_nudge_does_not_hurry_what_waits(cloud: Cloud, reconciler: Any) -> None:
    async def run(app: App, id: UUID) -> timedelta:
        return timedelta(hours=1)

    kind, id = reconciler(run), uuid4()
    await wake(cloud.app, kind, id)
    await work.drain(cloud.app)
    async with cloud.app.db.transaction() as tx:
        await work.nudge(tx, kind, id)
    assert await work.drain(cloud.app) == 0
    await wake(cloud.app, kind, id)
    assert await work.drain(cloud.app) == 1


async def test_many_workers_never_overlap_and_lose_no_wake(cloud: Cloud, tmp_path: Path, reconciler: Any) -> None:
    ids = [uuid4() for _ in range(8)]
    wanted, seen = dict.fromkeys(ids, 0), dict.fromkeys(ids, 0)
    running: set[UUID] = set()
    overlaps: list[UUID] = []

    async def run(app: App, id: UUID) -> timedelta | None:
        if id in running:
            overlaps.append(id)
        running.add(id)
        found = wanted[id]
        async with app.db.reading() as tx:
            for _ in range(random.randrange(3)):
                await tx.connection.execute("select 1")
        running.discard(id)
        match random.randrange(6):
            case 0:
                raise OSError("the engine is away")
            case 1:
                return timedelta(0)
        seen[id] = found
        return None

    kind = reconciler(run)

    async def ask() -> None:
        for _ in range(25):
            id = random.choice(ids)
            async with cloud.app.db.transaction() as tx:
                wanted[id] += 1
                await work.wake(tx, kind, id)

    async with AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(running_cloud(cloud.app.db.url, tmp_path / str(number)))
            for number in range(2)
        ]
        for each in (cloud, *others):
            await stack.enter_async_context(worker(each.app))
        await asyncio.gather(*(ask() for _ in range(8)))

        async def done() -> bool:
            await cloud.value("update work set due_at = now() where attempts > 0 and lease is null")
            return await rest(cloud.app) == 0

        await until(done)
    assert overlaps == []
    assert sum(wanted.values()) == 200
    assert seen == wanted


# Failing


async def test_what_fails_is_tried_again_later_each_time(cloud: Cloud, reconciler: Any) -> None:
    async def run(app: App, id: UUID) -> None:
        raise ValueError("out of\0 order")

    await wake(cloud.app, kind := reconciler(run), id := uuid4())
    for attempt in range(1, 8):
        await run_due(cloud.app)
        found = await row(cloud.app)
        assert (found["attempts"], found["lease"]) == (attempt, None)
        assert found["last_error"].startswith("ValueError: out of")
        longest = timedelta(seconds=2 ** (attempt - 1))
        assert longest / 2 - timedelta(seconds=1) < found["wait"] <= longest
    await wake(cloud.app, kind, id)
    found = await row(cloud.app)
    assert found["attempts"] == 0
    assert found["wait"] <= timedelta(0), "a wake does not wait"


def test_no_wait_is_longer_than_ten_minutes() -> None:
    for attempts in (1, 11, 12, 100, 10**9):
        wait = work.backoff(Lease("any", uuid4(), uuid4(), None, 1, attempts))  # type: ignore[arg-type]
        assert timedelta(seconds=0.5) <= wait <= timedelta(minutes=10)


async def test_not_yet_says_why_and_tries_again(cloud: Cloud, reconciler: Any) -> None:
    there = False

    async def run(app: App, id: UUID) -> None:
        if not there:
            raise NotYet("the volume is still attached")

    await wake(cloud.app, reconciler(run), uuid4())
    await work.drain(cloud.app)
    found = await row(cloud.app)
    assert found["last_error"] == "the volume is still attached"
    assert found["wait"] > timedelta(0)
    there = True
    await run_due(cloud.app)
    assert await rest(cloud.app) == 0


async def test_a_success_forgets_earlier_failures(cloud: Cloud, reconciler: Any) -> None:
    runs = 0

    async def run(app: App, id: UUID) -> timedelta:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise OSError
        return timedelta(hours=1)

    await wake(cloud.app, reconciler(run), uuid4())
    for _ in range(4):
        await run_due(cloud.app)
    found = await row(cloud.app)
    assert (found["attempts"], found["last_error"]) == (0, None)
    assert timedelta(minutes=59) < found["wait"] <= timedelta(hours=1)


async def test_a_run_that_takes_too_long_is_ended(
    cloud: Cloud, reconciler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(app: App, id: UUID) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(work, "LIMIT", 0.05)
    await wake(cloud.app, reconciler(run), uuid4())
    await work.drain(cloud.app)
    assert (await row(cloud.app))["last_error"].startswith("TimeoutError")


async def test_work_of_an_unknown_kind_waits_for_a_process_that_knows_it(cloud: Cloud) -> None:
    await wake(cloud.app, "from-a-later-version", uuid4())
    assert await work.drain(cloud.app) == 0
    assert await rest(cloud.app) == 1


# Leases


async def nothing(app: App, id: UUID) -> None:
    """A reconciler that has nothing to do."""


async def test_what_is_leased_is_nobody_elses_until_the_lease_runs_out(cloud: Cloud, reconciler: Any) -> None:
    await wake(cloud.app, reconciler(nothing), uuid4())
    [lease] = await take(cloud.app)
    assert await take(cloud.app) == []
    assert timedelta(seconds=4) < (await cloud.value("select leased_until - now() from work")) <= timedelta(seconds=5)
    await cloud.value("update work set leased_until = now() - interval '1 second'")
    [taken] = await take(cloud.app)
    assert taken.id == lease.id
    assert taken.lease != lease.lease
    assert (lease.attempts, taken.attempts) == (1, 2)


@pytest.mark.parametrize(("again", "error"), [(None, None), (timedelta(hours=1), None), (timedelta(0), "failed")])
async def test_a_late_release_after_a_takeover_does_nothing(
    cloud: Cloud, reconciler: Any, again: timedelta | None, error: str | None
) -> None:
    await wake(cloud.app, reconciler(nothing), uuid4())
    [late] = await take(cloud.app)
    await cloud.value("update work set leased_until = now() - interval '1 second'")
    [holder] = await take(cloud.app)
    before = dict(await row(cloud.app)) | {"wait": None}
    await release(cloud.app, late, again, error)
    assert dict(await row(cloud.app)) | {"wait": None} == before
    await release(cloud.app, holder)
    assert await rest(cloud.app) == 0
    await release(cloud.app, late, again, error)
    assert await rest(cloud.app) == 0


async def test_renewals_keep_a_long_run(cloud: Cloud, reconciler: Any) -> None:
    go, runs = asyncio.Event(), 0

    async def run(app: App, id: UUID) -> None:
        nonlocal runs
        runs += 1
        await go.wait()

    app = named(cloud.app, lease_seconds=1.0)
    await wake(app, reconciler(run), uuid4())
    async with worker(app), worker(named(cloud.app, lease_seconds=1.0)):
        await until(lambda: asyncio.sleep(0, runs == 1))
        until_first = await cloud.value("select leased_until from work")
        overdue = "select clock_timestamp() > $1::timestamptz + interval '0.5 seconds' from work"
        await until(lambda: cloud.value(overdue, until_first))
        assert await cloud.value("select leased_until > clock_timestamp() from work")
        go.set()
        await until(lambda: cloud.value("select count(*) = 0 from work"))
    assert runs == 1


async def test_what_is_cancelled_gives_its_lease_back(cloud: Cloud, reconciler: Any) -> None:
    began, stuck = asyncio.Event(), True

    async def run(app: App, id: UUID) -> None:
        began.set()
        if stuck:
            await asyncio.Event().wait()

    await wake(cloud.app, reconciler(run), uuid4())
    async with worker(cloud.app) as busy:
        await began.wait()
        busy.stop()
        busy.cancel()
    found = await row(cloud.app)
    assert found["lease"] is None
    assert found["wait"] <= timedelta(0)
    stuck = False
    assert await work.drain(cloud.app) == 1


async def test_a_worker_that_stops_lets_its_runs_end(cloud: Cloud, reconciler: Any) -> None:
    began, go, ended = asyncio.Event(), asyncio.Event(), False

    async def run(app: App, id: UUID) -> None:
        nonlocal ended
        began.set()
        await go.wait()
        ended = True

    await wake(cloud.app, reconciler(run), uuid4())
    async with worker(cloud.app) as busy:
        await began.wait()
        busy.stop()
        go.set()
    assert ended
    assert await rest(cloud.app) == 0


async def test_a_worker_runs_only_so_much_at_once(cloud: Cloud, reconciler: Any) -> None:
    running, most, done = 0, 0, 0

    async def run(app: App, id: UUID) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        async with app.db.reading() as tx:
            await tx.connection.execute("select 1")
        running -= 1
        done += 1

    kind = reconciler(run)
    for _ in range(20):
        await wake(cloud.app, kind, uuid4())
    async with worker(named(cloud.app, concurrency=3)):
        await until(lambda: asyncio.sleep(0, done == 20))
    assert most == 3


async def test_a_worker_outlives_its_connections(cloud: Cloud, reconciler: Any) -> None:
    runs: list[UUID] = []

    async def run(app: App, id: UUID) -> None:
        runs.append(id)

    kind, ids = reconciler(run), [uuid4(), uuid4()]
    async with worker(cloud.app):
        await wake(cloud.app, kind, ids[0])
        await until(lambda: asyncio.sleep(0, runs == ids[:1]))
        async with running_cloud(cloud.app.db.url, cloud.app.config.data / "other") as other:
            await other.value(
                """select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid()"""
            )
            await until(lambda: woken(other.app, kind, ids[1]))
            await until(lambda: asyncio.sleep(0, runs[1:] == ids[1:]))


async def woken(app: App, kind: str, id: UUID) -> bool:
    await wake(app, kind, id)
    return True


# Hosts


async def test_a_hosts_work_is_done_there_and_nobodys_anywhere(cloud: Cloud, reconciler: Any) -> None:
    ran: list[tuple[str, UUID]] = []

    async def run(app: App, id: UUID) -> None:
        ran.append((app.config.host, id))

    kind, a, b, anywhere = reconciler(run), uuid4(), uuid4(), uuid4()
    await wake(cloud.app, kind, a, "a")
    await wake(cloud.app, kind, b, "b")
    assert await work.drain(named(cloud.app, host="c")) == 0
    assert await work.drain(named(cloud.app, host="a")) == 1
    await wake(cloud.app, kind, anywhere)
    assert await work.drain(named(cloud.app, host="c")) == 1
    assert await work.drain(named(cloud.app, host="b")) == 1
    assert ran == [("a", a), ("c", anywhere), ("b", b)]


async def test_work_goes_where_the_latest_wake_says(cloud: Cloud, reconciler: Any) -> None:
    kind, id = reconciler(nothing), uuid4()
    await wake(cloud.app, kind, id, "a")
    await wake(cloud.app, kind, id, "b")
    assert await work.drain(named(cloud.app, host="a")) == 0
    assert await work.drain(named(cloud.app, host="b")) == 1


# Periodic work


async def test_periodic_work_has_one_row_however_many_processes_start(cloud: Cloud) -> None:
    hosts = [named(cloud.app, host=host) for host in ("a", "b", "a", "b", "a")]
    for _ in range(2):
        await asyncio.gather(*(work.start_periodic(app) for app in hosts))
    async with cloud.app.db.reading() as tx:
        found = await tx.connection.fetch("select kind, host from work order by kind, host")
    expected = [
        (kind, host) for kind, each in work.PERIODIC.items() for host in (("a", "b") if each.each_host else (None,))
    ]
    assert sorted(map(tuple, found), key=str) == sorted(expected, key=str)


async def test_periodic_work_comes_back(cloud: Cloud) -> None:
    await work.start_periodic(cloud.app)
    assert await cloud.settle() == len(work.PERIODIC)
    assert await cloud.settle() == 0
    async with cloud.app.db.reading() as tx:
        for found in await tx.connection.fetch("select kind, due_at - now() as wait, last_error from work"):
            period = work.PERIODIC[found["kind"]].period
            assert period - timedelta(seconds=5) < found["wait"] <= period
            assert found["last_error"] is None


async def test_periodic_work_that_fails_keeps_its_pace(cloud: Cloud) -> None:
    kind = next(kind for kind, each in work.PERIODIC.items() if kind == "server.hosts.beat")
    for attempts in (1, 5, 30):
        wait = work.backoff(Lease(kind, uuid4(), uuid4(), None, 1, attempts))  # type: ignore[arg-type]
        assert wait <= work.PERIODIC[kind].period


# What reconcilers write down


async def test_an_observation_that_is_overtaken_is_void(cloud: Cloud, ada: Person) -> None:
    made = await ada.running()

    async def read() -> Instance:
        async with cloud.app.db.reading() as tx:
            found = await db.find(tx, Instance, UUID(made["id"]))
        assert found
        return found

    old = await read()
    await ada.rest.post(f"/instances/{made['id']}/pause")
    await provision.observed(cloud.app, old, "RUNNING")
    assert (await ada.instance(made["id"]))["reconciling"] is True, "that was no answer to the pause"
    await cloud.settle()
    before = await ada.instance(made["id"])
    assert (before["status"], before["reconciling"]) == ("PAUSED", False)
    await provision.observed(cloud.app, old, "ERROR", "late")
    assert await ada.instance(made["id"]) == before
    await ada.rest.delete(f"/instances/{made['id']}")
    await provision.observed(cloud.app, await read(), "RUNNING")
    assert (await ada.instance(made["id"]))["status"] == "DELETING"
    await cloud.settle()
    await provision.observed(cloud.app, old, "RUNNING")
    assert (await ada.rest.get(f"/instances/{made['id']}")).status_code == 404
