"""Objects as files, on real file systems."""

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from drivers.files import FileObjects, path
from drivers.objects import NoRoom
from tests.drivers.object_contract import ObjectContract, got, made, sent, stored
from tests.engines import require

# Puts objects for ever, eight at a time, and says each that is stored.
PUTS = """
import asyncio, sys
from pathlib import Path
from uuid import uuid4
from drivers.files import FileObjects

async def data(id, size):
    for at in range(0, size, 50_000):
        yield (id.bytes * (size // 16 + 1))[at : min(at + 50_000, size)]

async def puts(driver, size):
    while True:
        id = uuid4()
        await driver.put(id, data(id, size))
        sys.stdout.write(f"{id} {size}\\n")
        sys.stdout.flush()

async def main():
    driver = FileObjects(Path(sys.argv[1]))
    await asyncio.gather(*(puts(driver, size) for size in (10, 1000, 65536, 65537, 2**20, 3 * 2**20, 5 * 2**20, 7)))

asyncio.run(main())
"""


@pytest.fixture
def driver(tmp_path: Path) -> FileObjects:
    return FileObjects(tmp_path / "objects")


@pytest.fixture
def little(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB."""
    require("loop devices")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def held(file: Path) -> bool:
    """Whether the kernel has the beginning of this file in its cache."""
    opened = os.open(file, os.O_RDONLY)
    try:
        return os.preadv(opened, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    finally:
        os.close(opened)


class TestFileObjects(ObjectContract):
    @pytest.fixture
    def driver(self, driver: FileObjects) -> FileObjects:
        return driver

    async def test_a_flipped_byte_is_seen(self, driver: FileObjects, tmp_path: Path) -> None:
        id, data = uuid4(), made(3 * 2**20)
        await driver.put(id, sent(data))
        with (tmp_path / "objects" / path(id)).open("r+b") as file:
            file.seek(2 * 2**20)
            file.write(bytes([data[2 * 2**20] ^ 1]))
        seen = await driver.verify(id)
        assert seen and seen != stored(data)
        assert seen.size_bytes == len(data)

    async def test_killed_it_has_whole_ones_and_leftovers(self, driver: FileObjects, tmp_path: Path) -> None:
        folder, said = tmp_path / "objects", {}
        for number in range(5):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PUTS, folder, stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout
            for _ in range(10 + 7 * number):
                id, size = (await process.stdout.readline()).split()
                said[UUID(id.decode())] = int(size)
            process.kill()
            for line in (await process.stdout.read()).splitlines():
                id, size = line.split()
                said[UUID(id.decode())] = int(size)
            await process.wait()
        there = {id async for id, _ in driver.list()}
        assert set(said) <= there
        sizes = {}
        for id in there:
            if seen := await driver.verify(id):
                assert seen == stored((id.bytes * (seen.size_bytes // 16 + 1))[: seen.size_bytes])
                sizes[id] = seen.size_bytes
        assert said.items() <= sizes.items(), "what was said to be stored is stored"
        assert there - set(sizes), "nothing was cut off"
        for id in there:
            await driver.delete(id)
        assert not [file for file in folder.rglob("*") if file.is_file()]

    async def test_where_there_is_no_room_nothing_is_left(self, little: Path) -> None:
        driver = FileObjects(little)
        kept = uuid4()
        await driver.put(kept, sent(b"kept"))
        for size in (2**21, 10 * 2**20):
            with pytest.raises(NoRoom):
                await driver.put(uuid4(), sent(made(size)))
        part = uuid4()
        await driver.put(part, sent(made(2**20)))
        with pytest.raises(NoRoom):
            await driver.compose(uuid4(), [part, part])
        assert {id async for id, _ in driver.list()} == {kept, part}
        assert await driver.put(kept, sent(made(2**19))) == stored(made(2**19))

    async def test_without_its_folder_it_is_dead(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        [node] = await FileObjects(tmp_path / "file" / "objects").nodes()
        assert node.status == "dead"

    async def test_where_nothing_can_be_written_it_is_suspect(self, little: Path) -> None:
        driver = FileObjects(little)
        [node] = await driver.nodes()
        assert (node.status, node.total_bytes) == ("alive", 2**21)
        subprocess.run(["mount", "-o", "remount,ro", little], check=True)  # noqa: ASYNC221
        [node] = await driver.nodes()
        assert node.status == "suspect"

    async def test_what_cannot_be_copied_by_the_file_system_is_written(
        self, driver: FileObjects, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object) -> int:
            raise OSError(22, "no")

        monkeypatch.setattr("os.copy_file_range", refused)
        part, id = uuid4(), uuid4()
        await driver.put(part, sent(made(2**21)))
        assert await driver.compose(id, [part, part]) == stored(made(2**21) * 2)
        assert await got(driver, id) == made(2**21) * 2

    async def test_what_is_large_goes_past_the_cache(self, driver: FileObjects, tmp_path: Path) -> None:
        can = True
        try:
            os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
        except OSError:
            can = False
        for size, past in ((2**20 + 5, can), (2**16 + 4096, can), (2**16, False)):
            id = uuid4()
            await driver.put(id, sent(made(size)))
            assert held(tmp_path / "objects" / path(id)) == (not past)
            assert await got(driver, id) == made(size)

    @pytest.mark.parametrize("refusing", ["setting", "writing"])
    async def test_what_cannot_go_past_the_cache_goes_through_it(
        self, driver: FileObjects, monkeypatch: pytest.MonkeyPatch, refusing: str
    ) -> None:
        real, write = fcntl.fcntl, os.pwrite

        def set_flags(file: int, command: int, flags: int = 0) -> int:
            if refusing == "setting" and flags & os.O_DIRECT:
                raise OSError(22, "no")
            return real(file, command, flags)

        def written(file: int, data: memoryview, offset: int) -> int:
            if refusing == "writing" and real(file, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(22, "no")
            return write(file, data, offset)

        monkeypatch.setattr("fcntl.fcntl", set_flags)
        monkeypatch.setattr("os.pwrite", written)
        id = uuid4()
        assert await driver.put(id, sent(made(3 * 2**20 + 7))) == stored(made(3 * 2**20 + 7))
        assert await got(driver, id) == made(3 * 2**20 + 7)

    async def test_deleted_while_it_is_put_it_is_not_there(self, driver: FileObjects) -> None:
        id = uuid4()

        async def data() -> AsyncIterator[bytes]:
            for _ in range(4):
                yield made(2**20)
            await driver.delete(id)

        with pytest.raises(FileNotFoundError):
            await driver.put(id, data())
        assert not [found async for found in driver.list()]
