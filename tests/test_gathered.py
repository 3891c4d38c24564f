"""Look-ups that are gathered: each gets its own, and none harms another."""

import asyncio
from collections.abc import Sequence

import pytest

from server.gathered import MOST, Gathered
from tests.conftest import until


class Table:
    """Finds ten times a number, when it is let; knows what it was asked for, and how many statements run."""

    def __init__(self) -> None:
        self.statements: list[list[int]] = []
        self.running, self.most_running = 0, 0
        self.go = asyncio.Semaphore(0)

    async def look_up(self, keys: Sequence[int]) -> Sequence[int]:
        self.statements.append([*keys])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.go.acquire()
            if -1 in keys:
                raise LookupError("there is no -1")
            return [each * 10 for each in keys]
        finally:
            self.running -= 1

    def let(self, statements: int) -> None:
        for _ in range(statements):
            self.go.release()

    async def began(self, statements: int) -> None:
        async def enough() -> bool:
            return len(self.statements) >= statements

        await until(enough)


@pytest.fixture
async def table() -> Table:
    return Table()


def asked(gathered: Gathered[int, int], *keys: int) -> list[asyncio.Task[int]]:
    return [asyncio.ensure_future(gathered.get(key)) for key in keys]


async def test_each_gets_its_own_and_few_statements_run(table: Table) -> None:
    table.let(100)
    gathered = Gathered(table.look_up, 5)
    keys = [*range(3 * MOST), 1, 1]
    assert await asyncio.gather(*asked(gathered, *keys)) == [key * 10 for key in keys]
    assert [len(each) for each in table.statements] == [MOST, MOST, MOST, 2]
    assert table.most_running == 1


async def test_none_joins_a_statement_that_has_begun(table: Table) -> None:
    gathered = Gathered(table.look_up, 5)
    [first] = asked(gathered, 1)
    await table.began(1)
    later = asked(gathered, 2, 3)
    table.let(2)
    assert await asyncio.gather(first, *later) == [10, 20, 30]
    assert table.statements == [[1], [2, 3]]


async def test_an_error_is_told_to_those_it_was_looked_up_with(table: Table) -> None:
    table.let(100)
    gathered = Gathered(table.look_up, 5)
    found = await asyncio.gather(*asked(gathered, 1, -1), return_exceptions=True)
    assert [type(each) for each in found] == [LookupError, LookupError]
    assert await gathered.get(2) == 20


async def test_who_gives_up_harms_nobody(table: Table) -> None:
    gathered = Gathered(table.look_up, 5)
    first, second = asked(gathered, 1, 2)
    await table.began(1)
    third, fourth = asked(gathered, 3, 4)
    await asyncio.sleep(0)
    for each in (first, third):
        each.cancel()
    await asyncio.wait([first, third])
    table.let(2)
    assert await asyncio.gather(second, fourth) == [20, 40]


async def test_a_statement_that_nobody_waits_for_ends(table: Table) -> None:
    gathered = Gathered(table.look_up, 5)
    [only] = asked(gathered, -1)
    await table.began(1)
    only.cancel()
    await asyncio.wait([only])
    table.let(2)
    assert await gathered.get(2) == 20
    assert table.running == 0


async def test_a_statement_that_hangs_is_given_up(table: Table) -> None:
    gathered = Gathered(table.look_up, 0.05)
    with pytest.raises(TimeoutError):
        await gathered.get(1)
    table.let(1)
    assert await gathered.get(2) == 20
    assert table.running == 0
