"""Volumes as files, on real file systems."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drivers import directory
from drivers.contracts import Refused
from drivers.directory import DirectoryVolumes
from tests.drivers.volume_contract import VolumeContract
from tests.engines import require


def fill(file: Path) -> None:
    """Write 2 GiB."""
    with file.open("wb") as opened:
        for _ in range(2048):
            opened.write(bytes(2**20))


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[DirectoryVolumes]:
    require("loop devices")
    driver = DirectoryVolumes(tmp_path)
    yield driver
    for id in await driver.list():
        await driver.delete(id)


class TestDirectoryVolumes(VolumeContract):
    @pytest.fixture
    def driver(self, driver: DirectoryVolumes) -> DirectoryVolumes:
        return driver

    async def write(self, driver: Any, id: Any, text: str) -> None:
        (Path((await driver.observe(id)).folder) / "text").write_text(text)

    async def read(self, driver: Any, id: Any) -> str:
        file = Path((await driver.observe(id)).folder) / "text"
        return file.read_text() if file.exists() else ""

    async def test_no_more_goes_in_than_the_size_and_anybody_may_write(self, driver: DirectoryVolumes) -> None:
        id = uuid4()
        await driver.apply(id, 1)
        folder = Path(await driver.mount(id))
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o777 == 0o777
        with pytest.raises(OSError, match="No space left"):
            fill(folder / "large")
        assert 0.85 * 2**30 < (folder / "large").stat().st_size <= 2**30

    async def test_an_empty_volume_takes_hardly_any_room(self, driver: DirectoryVolumes) -> None:
        seen = await driver.apply(uuid4(), 100)
        assert Path(seen.path).stat().st_blocks * 512 < 2**28

    async def test_killed_at_any_step_it_is_finished_by_the_next(
        self, driver: DirectoryVolumes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, left = directory.run, 0

        def counted(*command: str, **more: Any) -> str:
            nonlocal left
            left -= 1
            if left == 0:
                raise InterruptedError
            done = run(*command, **more)
            if left == -1:
                raise InterruptedError
            return done

        async def survives(step: Callable[[], Any]) -> None:
            nonlocal left
            for left in range(6):
                try:
                    await step()
                except InterruptedError:
                    left = 100
                    await step()

        monkeypatch.setattr(directory, "run", counted)
        for _ in range(2):
            id, snapshot, other = uuid4(), uuid4(), uuid4()
            await survives(lambda id=id: driver.apply(id, 1))
            left = 100
            await driver.mount(id)
            await self.write(driver, id, "kept")
            await driver.unmount(id)
            await survives(lambda id=id: driver.apply(id, 2))
            await survives(lambda id=id: driver.apply(id, 3))
            await survives(lambda id=id, snapshot=snapshot: driver.snapshot(id, snapshot))
            await survives(lambda other=other, snapshot=snapshot: driver.apply(other, 4, snapshot))
            left = 100
            await driver.mount(other)
            assert await self.read(driver, other) == "kept"
            assert (await driver.observe(other)).size_gb == 4  # type: ignore[union-attr]
            for one in (id, other):
                await driver.delete(one)
            await driver.delete_snapshot(snapshot)
        assert await driver.list() == set()
        assert await driver.list_snapshots() == set()

    async def test_where_there_is_no_room_a_copy_is_refused(
        self, driver: DirectoryVolumes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        id, snapshot = uuid4(), uuid4()
        await driver.apply(id, 1)
        usage = directory.shutil.disk_usage("/")
        monkeypatch.setattr(directory.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(Refused, match="MiB are needed"):
            await driver.snapshot(id, snapshot)
        assert await driver.list_snapshots() == set()

    async def test_nothing_is_left_mounted(self, driver: DirectoryVolumes) -> None:
        id = uuid4()
        await driver.apply(id, 1)
        await driver.mount(id)
        await driver.delete(id)
        assert str(id) not in Path("/proc/self/mountinfo").read_text()
        assert str(id) not in directory.run("losetup", "-l")
