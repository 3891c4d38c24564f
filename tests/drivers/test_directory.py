"""Volumes as files, on real file systems."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from drivers import directory, ext4
from drivers.contracts import Refused
from drivers.directory import DirectoryVolumes
from tests.drivers.volume_mounts import MountedVolumes
from tests.engines import require


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[DirectoryVolumes]:
    require("loop devices")
    driver = DirectoryVolumes(tmp_path)
    yield driver
    for id in await driver.list():
        await driver.delete(id)


class TestDirectoryVolumes(MountedVolumes):
    @pytest.fixture
    def driver(self, driver: DirectoryVolumes) -> DirectoryVolumes:
        return driver

    async def test_an_empty_volume_takes_hardly_any_room(self, driver: DirectoryVolumes) -> None:
        id = uuid4()
        await driver.apply(id, 100)
        assert Path(await driver.open(id)).stat().st_blocks * 512 < 2**28

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
        assert str(id) not in ext4.run("losetup", "-l")
