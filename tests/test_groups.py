"""What waits for the same is served together."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from server.groups import MOST, Groups


class Server:
    """Doubles numbers, when it is let. Zero is refused; a negative number fails all that are with it."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.ready, self.go = asyncio.Event(), asyncio.Event()
        self.ready.set()

    async def __call__(self, _: str, members: Callable[[], Sequence[int]]) -> list[int | Exception]:
        await self.ready.wait()
        items = members()
        assert members() == items
        self.groups.append([*items])
        await self.go.wait()
        if min(items, default=0) < 0:
            raise LookupError("negative")
        return [2 * item if item else ValueError("zero") for item in items]


async def begun(groups: Groups[str, int, int], *items: int, key: str = "") -> list[asyncio.Future[int]]:
    tasks = [asyncio.ensure_future(groups.join(key, item)) for item in items]
    await asyncio.sleep(0.01)
    return tasks


async def test_those_that_come_meanwhile_go_together_in_their_order() -> None:
    server = Server()
    groups = Groups(server)
    tasks = [*await begun(groups, 1), *await begun(groups, 2, 3, 4)]
    assert server.groups == [[1]]
    server.go.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert server.groups == [[1], [2, 3, 4]]
    assert await groups.join("", 5) == 10
    assert server.groups[2:] == [[5]]


async def test_those_that_come_before_it_is_ready_join_the_first() -> None:
    server = Server()
    groups = Groups(server)
    server.ready.clear()
    first, left, last = [*await begun(groups, 1), *await begun(groups, 2, 3)]
    left.cancel()
    server.go.set()
    server.ready.set()
    assert (await first, await last) == (2, 6)
    assert server.groups == [[1, 3]]
    server.ready.clear()
    [only] = await begun(groups, 4)
    only.cancel()
    await asyncio.sleep(0)
    server.ready.set()
    assert await groups.join("", 5) == 10
    assert server.groups[1:] == [[], [5]] or server.groups[1:] == [[5]]


async def test_keys_do_not_wait_for_each_other_and_groups_have_a_bound() -> None:
    server = Server()
    groups = Groups(server)
    tasks = [*await begun(groups, 1, key="a"), *await begun(groups, *range(1, 2 * MOST), key="b")]
    server.go.set()
    assert await asyncio.gather(*tasks) == [2, *range(2, 4 * MOST, 2)]
    assert sorted(map(len, server.groups)) == [1, MOST - 1, MOST]
    assert not groups._waiting


async def test_what_is_refused_or_fails_is_told_to_those_it_concerns() -> None:
    server = Server()
    groups = Groups(server)
    tasks = [*await begun(groups, 1), *await begun(groups, 0, 2)]
    server.go.set()
    first, refused, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, str(refused), last) == (2, "zero", 4)
    server.go.clear()
    tasks = [*await begun(groups, 1), *await begun(groups, -1, 2)]
    server.go.set()
    first, *failed = await asyncio.gather(*tasks, return_exceptions=True)
    assert first == 2 and [str(each) for each in failed] == ["negative"] * 2
    assert await groups.join("", 3) == 6


async def test_who_leaves_while_waiting_is_not_served_and_harms_nobody() -> None:
    server = Server()
    groups = Groups(server)
    first, second, third = [*await begun(groups, 1), *await begun(groups, 2, 3)]
    second.cancel()
    await asyncio.sleep(0)
    server.go.set()
    assert (await first, await third) == (2, 6)
    assert server.groups == [[1], [3]]
    server.go.clear()
    first, second = [*await begun(groups, 4), *await begun(groups, 5)]
    first.cancel()  # it is served, and nobody hears of it
    server.go.set()
    assert await second == 10


async def test_when_the_server_ends_nobody_is_left_waiting() -> None:
    groups = Groups(Server())
    tasks = [*await begun(groups, 1), *await begun(groups, 2)]
    for task in groups._tasks:
        task.cancel()
    for waiting in tasks:
        with pytest.raises(asyncio.CancelledError):
            await waiting
