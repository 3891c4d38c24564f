"""What every object store must do: drivers/objects.py as tests.

A driver's test subclasses the contract, gives it a `driver` fixture that no other test shares, and names in CANNOT
what it cannot do.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from drivers.objects import ObjectStore, Stored

BLOCK = random.Random(1).randbytes(2**16)
LARGE = 100 * 2**20
GROWTH = 48 * 2**20  # that memory may grow by while so much goes through


class CutOff(Exception):
    """Whoever was sending has gone."""


class ObjectContract:
    """CANNOT may name: little memory."""

    CANNOT: frozenset[str] = frozenset()

    async def test_what_is_put_is_there_until_it_is_deleted(self, driver: ObjectStore) -> None:
        id, data = uuid4(), BLOCK[:1000]
        assert not [piece async for piece in driver.list()]
        assert await driver.verify(id) is None
        assert await driver.put(id, sent(data)) == stored(data)
        assert await got(driver, id) == data
        assert await driver.verify(id) == stored(data)
        assert [found async for found, _ in driver.list()] == [id]
        for _ in range(2):
            await driver.delete(id)
        assert not [piece async for piece in driver.list()]
        assert await driver.verify(id) is None
        with pytest.raises(LookupError):
            await got(driver, id)
        with pytest.raises(LookupError):
            await got(driver, id, 5, 2)

    @pytest.mark.parametrize("size", [0, 1, 2**16 - 1, 2**16, 2**20 - 1, 2**20, 2**20 + 1, 9 * 2**20 + 5])
    async def test_any_size_comes_back_as_it_was(self, driver: ObjectStore, size: int) -> None:
        id, data = uuid4(), made(size)
        assert await driver.put(id, sent(data, 70_001)) == stored(data)
        assert await got(driver, id) == data
        assert await driver.verify(id) == stored(data)

    async def test_however_it_is_cut_it_is_the_same(self, driver: ObjectStore) -> None:
        data, chance = made(3 * 2**20), random.Random(2)
        for longest in (5000, 2**20, 2**22):
            id = uuid4()
            cuts = sorted({0, len(data), *(chance.randrange(len(data)) for _ in range(2 * len(data) // longest))})
            parts = [b"", *(data[a:b] for a, b in pairwise(cuts)), b""]
            assert await driver.put(id, each(parts)) == stored(data)
            assert await got(driver, id) == data

    async def test_ranges(self, driver: ObjectStore) -> None:
        id, data, chance = uuid4(), made(2 * 2**20 + 7), random.Random(3)
        await driver.put(id, sent(data))
        size = len(data)
        edges = [(0, 0), (0, 1), (size - 1, size), (size - 1, None), (size, None), (0, size + 100),
                 (size + 5, size + 9), (2**20 - 1, 2**20 + 1), (5, None), (9, 5)]  # fmt: skip
        for start, end in [*edges, *((chance.randrange(size), chance.randrange(size)) for _ in range(20))]:
            assert await got(driver, id, start, end) == data[start : end if end is None else max(start, end)]

    async def test_nothing_of_an_empty_object_is_nothing(self, driver: ObjectStore) -> None:
        id = uuid4()
        await driver.put(id, sent(b""))
        for start, end in ((0, None), (0, 0), (0, 10), (5, None)):
            assert await got(driver, id, start, end) == b""

    async def test_the_same_id_again_replaces(self, driver: ObjectStore) -> None:
        id = uuid4()
        for data in (made(2**20 + 1), b"", b"short"):
            assert await driver.put(id, sent(data)) == stored(data)
            assert await got(driver, id) == data

    async def test_what_is_cut_off_leaves_nothing(self, driver: ObjectStore) -> None:
        chance, data = random.Random(4), made(10 * 2**20)
        for at in [0, 1, 2**16, 2**20, len(data), *(chance.randrange(len(data)) for _ in range(5))]:
            id = uuid4()
            with pytest.raises(CutOff):
                await driver.put(id, breaking(data, at))
            assert await driver.verify(id) is None
            with pytest.raises(LookupError):
                await got(driver, id)
        assert not [found async for found in driver.list()]

    async def test_what_is_cut_off_leaves_what_was_there(self, driver: ObjectStore) -> None:
        id, data = uuid4(), made(10 * 2**20)
        await driver.put(id, sent(b"before"))
        for at in (0, 2**20, len(data)):
            with pytest.raises(CutOff):
                await driver.put(id, breaking(data, at))
            assert await got(driver, id) == b"before"

    async def test_what_is_cancelled_is_there_as_a_whole_or_not_at_all(self, driver: ObjectStore) -> None:
        chance = random.Random(5)
        for size in (100, 10 * 2**20):
            data = made(size)
            began = asyncio.get_running_loop().time()
            await driver.put(uuid4(), sent(data))
            took = asyncio.get_running_loop().time() - began
            for _ in range(10):
                id = uuid4()
                putting = asyncio.create_task(driver.put(id, sent(data)))
                asyncio.get_running_loop().call_later(chance.random() * took, putting.cancel)
                with suppress(asyncio.CancelledError):
                    await putting
                assert await driver.verify(id) in (None, stored(data))
                await driver.delete(id)
                assert id not in [found async for found, _ in driver.list()]

    async def test_large_ones_go_through_little_memory(self, driver: ObjectStore) -> None:
        if "little memory" in self.CANNOT:
            pytest.skip("it keeps everything in memory")
        id, hashes = uuid4(), hashlib.sha256()
        await driver.put(uuid4(), sent(made(2**20)))

        async def large() -> AsyncIterator[bytes]:
            for number in range(LARGE // len(BLOCK)):
                yield number.to_bytes(8, "big") + BLOCK[8:]

        before = watched_memory()
        there = await driver.put(id, large())
        async for piece in driver.get(id):
            hashes.update(piece)
        assert await driver.verify(id) == there
        assert most_memory() - before < GROWTH
        assert (there.size_bytes, there.sha256) == (LARGE, hashes.hexdigest())

    async def test_of_puts_at_once_one_wins(self, driver: ObjectStore) -> None:
        id = uuid4()
        for size in (1000, 3 * 2**20):
            each_data = [bytes([number]) * size for number in range(8)]
            puts = [driver.put(id, sent(data)) for data in each_data]
            assert await asyncio.gather(*puts) == [stored(data) for data in each_data]
            assert await got(driver, id) in each_data
        assert [found async for found, _ in driver.list()] == [id]

    async def test_puts_beside_each_other(self, driver: ObjectStore) -> None:
        wanted = {uuid4(): BLOCK[:number] for number in range(50)}
        await asyncio.gather(*(driver.put(id, sent(data)) for id, data in wanted.items()))
        for id, data in wanted.items():
            assert await got(driver, id) == data

    async def test_who_reads_does_not_see_two(self, driver: ObjectStore) -> None:
        id = uuid4()
        old, new = b"a" * 4 * 2**20, b"b" * 4 * 2**20
        await driver.put(id, sent(old))
        seen = set()
        with suppress(Exception):
            async for piece in driver.get(id):
                if not seen:
                    await driver.put(id, sent(new))
                seen |= set(piece)
        assert seen == {ord("a")}
        assert await got(driver, id) == new

    async def test_reading_may_stop(self, driver: ObjectStore) -> None:
        id = uuid4()
        await driver.put(id, sent(made(3 * 2**20)))
        reading = driver.get(id)
        assert await anext(reading)
        await reading.aclose()
        await driver.delete(id)

    @pytest.mark.parametrize(
        "sizes", [(), (0,), (5,), (3, 0, 2**20 + 1), (5 * 2**20, 6 * 2**20, 10), (100, 6 * 2**20)], ids=str
    )
    async def test_parts_become_one(self, driver: ObjectStore, sizes: Sequence[int]) -> None:
        parts = {uuid4(): made(size, number) for number, size in enumerate(sizes)}
        whole, id = b"".join(parts.values()), uuid4()
        for part, data in parts.items():
            await driver.put(part, sent(data))
        for _ in range(2):
            assert await driver.compose(id, list(parts)) == stored(whole)
        assert await driver.verify(id) == stored(whole)
        for part, data in parts.items():
            assert await got(driver, part) == data
            await driver.delete(part)
        assert await got(driver, id) == whole

    async def test_a_part_that_is_missing_leaves_what_was_there(self, driver: ObjectStore) -> None:
        part, id = uuid4(), uuid4()
        await driver.put(part, sent(made(5 * 2**20)))
        with pytest.raises(LookupError):
            await driver.compose(id, [part, uuid4()])
        assert await driver.verify(id) is None
        await driver.put(id, sent(b"before"))
        with pytest.raises(LookupError):
            await driver.compose(id, [part, uuid4(), part])
        assert await got(driver, id) == b"before"
        assert {found async for found, _ in driver.list()} == {part, id}

    async def test_one_part_may_come_twice(self, driver: ObjectStore) -> None:
        part, id, data = uuid4(), uuid4(), made(1000)
        await driver.put(part, sent(data))
        assert await driver.compose(id, [part, part]) == stored(data + data)

    async def test_all_are_listed_with_their_moment(self, driver: ObjectStore) -> None:
        began, wanted = datetime.now(UTC), {uuid4() for _ in range(30)}
        for id in wanted:
            await driver.put(id, sent(b"x"))
        moments = {found: moment async for found, moment in driver.list()}
        assert set(moments) == wanted
        for moment in moments.values():
            assert began - timedelta(seconds=2) <= moment <= datetime.now(UTC) + timedelta(seconds=2)

    async def test_it_says_where_objects_are(self, driver: ObjectStore) -> None:
        [node] = await driver.nodes()
        assert node.status == "alive"
        assert node.id and node.address and node.data_dir
        assert abs(datetime.now(UTC) - node.last_seen) < timedelta(minutes=1)


def made(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def stored(data: bytes) -> Stored:
    sha256, md5 = hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest()
    return Stored(size_bytes=len(data), sha256=sha256, md5=md5)


async def sent(data: bytes, size: int = 2**16) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
        await asyncio.sleep(0)


async def each(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def breaking(data: bytes, at: int) -> AsyncIterator[bytes]:
    async for piece in sent(data[:at]):
        yield piece
    raise CutOff


async def got(driver: ObjectStore, id: UUID, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in driver.get(id, start, end)])


def watched_memory() -> int:
    """What this process has in memory; most_memory() counts from now on."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def most_memory() -> int:
    return memory("VmHWM")


def memory(name: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024
