"""What every driver must do whose volumes are file systems that the kernel mounts, made by commands."""

import asyncio
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drivers import ext4
from drivers.volumes import VolumeDriver
from tests.drivers.volume_contract import VolumeContract

LOOKING = {"ls", "list", "info", "get", "status"}  # words of commands that change nothing


class MountedVolumes(VolumeContract):
    async def write(self, driver: Any, id: Any, text: str) -> None:
        (Path((await driver.observe(id)).folder) / "text").write_text(text)

    async def read(self, driver: Any, id: Any) -> str:
        file = Path((await driver.observe(id)).folder) / "text"
        return file.read_text() if file.exists() else ""

    async def test_no_more_goes_in_than_the_size_and_anybody_may_write(self, driver: VolumeDriver) -> None:
        id = uuid4()
        await driver.apply(id, 1)
        folder = Path(await driver.mount(id))
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o777 == 0o777
        with pytest.raises(OSError, match="No space left"):
            fill(folder / "large")
        assert 0.85 * 2**30 < (folder / "large").stat().st_size <= 2**30

    async def test_killed_at_any_step_it_is_finished_by_the_next(
        self, driver: VolumeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, left = ext4.run, 0

        def counted(*command: str, **more: Any) -> str:
            nonlocal left
            done = run(*command, **more)
            changed = LOOKING.isdisjoint(command)
            left -= changed
            if changed and left == 0:
                raise InterruptedError
            return done

        async def survives(step: Callable[[int], Any]) -> None:
            """Die after the first change of the first such step, after the second of the second … and repeat each."""
            nonlocal left
            for number in count(1):
                left = number
                try:
                    await step(number)
                except InterruptedError:
                    await step(number)
                else:
                    break
            left = 0

        monkeypatch.setattr(ext4, "run", counted)
        ids, others, snapshots = ([uuid4() for _ in range(99)] for _ in range(3))
        await survives(lambda number: driver.apply(ids[number], 1))
        await driver.mount(ids[1])
        await self.write(driver, ids[1], "kept")
        await driver.unmount(ids[1])
        await survives(lambda number: driver.apply(ids[1], 1 + number))
        await survives(lambda number: driver.snapshot(ids[1], snapshots[number]))
        grown = await driver.observe(ids[1])
        assert grown
        await survives(lambda number: driver.apply(others[number], grown.size_gb, snapshots[1]))
        await survives(lambda number: driver.mount(others[number]))
        assert await self.read(driver, others[1]) == "kept"
        assert shutil.disk_usage(await driver.mount(others[1])).total > (grown.size_gb - 0.5) * 2**30
        await survives(lambda number: driver.unmount(others[number]))
        await survives(lambda number: driver.delete(others[number]))
        await survives(lambda number: driver.delete_snapshot(snapshots[number]))
        for one in await driver.list():
            await driver.delete(one)
        for one in await driver.list_snapshots():
            await driver.delete_snapshot(one)
        assert await driver.list() == await driver.list_snapshots() == set()


def fill(file: Path) -> None:
    """Write 2 GiB."""
    with file.open("wb") as opened:
        for _ in range(2048):
            opened.write(bytes(2**20))

    async def test_what_a_machine_wrote_is_not_looked_into(self, driver: VolumeDriver) -> None:
        id, kept, copy = uuid4(), uuid4(), uuid4()
        with pytest.raises(LookupError):
            await driver.open(id)
        await driver.apply(id, 1)
        path = await driver.open(id)
        assert await driver.open(id) == path
        await asyncio.to_thread(write_at, path, 1024, b"no file system has this here")
        await driver.unmount(id)
        await driver.apply(id, 2, opaque=True)
        await driver.snapshot(id, kept)
        await driver.apply(copy, 3, kept, opaque=True)
        for one, size in ((id, 2), (copy, 3)):
            path = await driver.open(one)
            with open(path, "rb") as disk:  # noqa: ASYNC230
                disk.seek(1024)
                assert disk.read(28) == b"no file system has this here"
                assert disk.seek(0, 2) == size * 2**30
            await driver.unmount(one)


def write_at(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as disk:
        disk.seek(offset)
        disk.write(data)
