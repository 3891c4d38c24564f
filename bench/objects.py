"""Objects as files: puts and gets of a KiB, and of much, against the same by hand, in turn on one file system.

By hand a put is open, write, fsync and rename into one folder. Ours hashes twice, goes through a thread, and has the
name on the disk too; a put of one KiB is then two waits for the disk where that by hand is one.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import uvloop

from bench.figure import figure, medians
from drivers.files import FileObjects, synced

SMALL, LARGE, PIECE = os.urandom(1024), 256 * 2**20, os.urandom(2**18)
PUTS, GETS, AT_ONCE, ROUNDS = 200, 1000, 16, 5
BY_HAND = "open, write, fsync, rename"
AS_DURABLE = f"{BY_HAND}, fsync of the folder"


def figures() -> Iterator[dict[str, Any]]:
    with TemporaryDirectory() as name, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        folder = Path(name)
        (folder / "bare").mkdir()
        ours, bare = Ours(FileObjects(folder / "objects"), runner), Bare(folder / "bare")
        ours.fill()
        rate, plain, durable = medians(ROUNDS, ours.puts, bare.puts, bare.durable_puts)
        yield figure("object puts", round(rate), "puts/s", BY_HAND, rate / plain, None)
        yield figure("object puts, durable", round(rate), "puts/s", AS_DURABLE, rate / durable, None)
        at_once = f"{AT_ONCE} at once"
        yield compared(f"object puts, {at_once}", "puts/s", f"{BY_HAND} in {AT_ONCE} threads", ours.puts_at_once,
                       bare.puts_at_once)  # fmt: skip
        yield compared("object gets", "gets/s", "open, read", ours.gets, bare.gets)
        yield compared(f"object gets, {at_once}", "gets/s", "open, read, one at a time", ours.gets_at_once, bare.gets)
        yield compared("object put, 256 MiB", "MB/s", BY_HAND, ours.put_large, bare.put_large)
        yield compared("object get, 256 MiB", "MB/s", "open, read", ours.get_large, bare.get_large)


def compared(
    name: str, unit: str, against: str, ours: Callable[[], float], theirs: Callable[[], float]
) -> dict[str, Any]:  # fmt: skip
    value, other = medians(ROUNDS, ours, theirs)
    return figure(name, round(value), unit, against, value / other, None)


class Ours:
    """What the driver does in a second."""

    def __init__(self, store: FileObjects, runner: asyncio.Runner) -> None:
        self._store, self._runner = store, runner
        self._ids: list[UUID] = []
        self._large = uuid4()

    def fill(self) -> None:
        """So that its folders are there, as they are in a cloud that has some objects."""
        self._runner.run(self._fill())

    async def _fill(self) -> None:
        ids = [UUID(int=uuid4().int & ~0xFFF | number) for number in range(0x1000)]
        await asyncio.gather(*map(self._put, ids))

    def puts(self) -> float:
        return self._rate(self._puts, PUTS, 1)

    def puts_at_once(self) -> float:
        return self._rate(self._puts, PUTS * 4, AT_ONCE)

    def gets(self) -> float:
        return self._rate(self._gets, GETS, 1)

    def gets_at_once(self) -> float:
        return self._rate(self._gets, GETS, AT_ONCE)

    def put_large(self) -> float:
        return self._rate(lambda _: self._store.put(self._large, data()), LARGE, 1) / 1e6

    def get_large(self) -> float:
        return self._rate(self._get_large, LARGE, 1) / 1e6

    def _rate(self, function: Callable[[int], Coroutine[Any, Any, Any]], number: int, at_once: int) -> float:
        async def measured() -> float:
            began = perf_counter()
            await asyncio.gather(*(function(number // at_once) for _ in range(at_once)))
            return number / (perf_counter() - began)

        return self._runner.run(measured())

    async def _put(self, id: UUID) -> None:
        await self._store.put(id, small())

    async def _puts(self, number: int) -> None:
        for _ in range(number):
            id = uuid4()
            await self._put(id)
            self._ids.append(id)

    async def _gets(self, number: int) -> None:
        for at in range(number):
            async for _ in self._store.get(self._ids[at % len(self._ids)]):
                pass

    async def _get_large(self, _: int) -> None:
        async for _piece in self._store.get(self._large):
            pass


class Bare:
    """What the same by hand does in a second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: list[str] = []

    def puts(self) -> float:
        began = perf_counter()
        self._puts(PUTS)
        return PUTS / (perf_counter() - began)

    def durable_puts(self) -> float:
        began = perf_counter()
        for _ in range(PUTS):
            write(str(self._folder / str(uuid4())), [SMALL])
            synced(self._folder)
        return PUTS / (perf_counter() - began)

    def puts_at_once(self) -> float:
        began = perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(self._puts, [PUTS * 4 // AT_ONCE] * AT_ONCE))
        return PUTS * 4 / (perf_counter() - began)

    def gets(self) -> float:
        began = perf_counter()
        for at in range(GETS):
            read(self._names[at % len(self._names)])
        return GETS / (perf_counter() - began)

    def put_large(self) -> float:
        began = perf_counter()
        write(str(self._folder / "large"), [PIECE] * (LARGE // len(PIECE)))
        return LARGE / 1e6 / (perf_counter() - began)

    def get_large(self) -> float:
        began = perf_counter()
        read(str(self._folder / "large"))
        return LARGE / 1e6 / (perf_counter() - began)

    def _puts(self, number: int) -> None:
        for _ in range(number):
            name = str(self._folder / str(uuid4()))
            write(name, [SMALL])
            self._names.append(name)


def write(name: str, parts: list[bytes]) -> None:
    file = os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT, 0o600)
    for part in parts:
        os.write(file, part)
    os.fsync(file)
    os.close(file)
    os.rename(f"{name}.new", name)


def read(name: str) -> None:
    file = os.open(name, os.O_RDONLY)
    while os.read(file, 2**20):
        pass
    os.close(file)


async def small() -> AsyncIterator[bytes]:
    yield SMALL


async def data() -> AsyncIterator[bytes]:
    for _ in range(LARGE // len(PIECE)):
        yield PIECE
