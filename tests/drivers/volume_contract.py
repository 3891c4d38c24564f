"""What every volume driver must do: drivers/volumes.py as tests.

A driver's test subclasses the contract, gives it a `driver` fixture that no other test shares, and says how
to write and read what is in a mounted volume.
"""

from typing import Any
from uuid import uuid4

import pytest

from drivers.contracts import Refused
from drivers.volumes import VolumeDriver


class VolumeContract:
    async def write(self, driver: Any, id: Any, text: str) -> None:
        """Put a text into a mounted volume, in place of what is there."""
        raise NotImplementedError

    async def read(self, driver: Any, id: Any) -> str:
        """What was put into a mounted volume; "" if nothing was."""
        raise NotImplementedError

    async def test_a_volume_is_made_once_and_grows_and_goes(self, driver: VolumeDriver) -> None:
        id = uuid4()
        assert await driver.observe(id) is None
        made = await driver.apply(id, 1)
        assert made.size_gb == 1
        assert made.folder is None
        assert await driver.apply(id, 1) == made
        assert await driver.observe(id) == made
        assert (await driver.apply(id, 3)).size_gb == 3
        assert (await driver.apply(id, 2)).size_gb == 3, "it never shrinks"
        assert await driver.list() == {id}
        for _ in range(2):
            await driver.delete(id)
        assert await driver.observe(id) is None
        assert await driver.list() == set()

    async def test_what_is_written_stays_through_mounts_and_growth(self, driver: VolumeDriver) -> None:
        id = uuid4()
        await driver.apply(id, 1)
        folder = await driver.mount(id)
        assert await driver.mount(id) == folder
        assert await self.read(driver, id) == ""
        await self.write(driver, id, "kept")
        with pytest.raises(Refused):
            await driver.apply(id, 2)
        seen = await driver.apply(id, 1)
        assert (seen.size_gb, seen.folder) == (1, folder)
        assert await self.read(driver, id) == "kept"
        for _ in range(2):
            await driver.unmount(id)
        seen = await driver.apply(id, 3)
        assert (seen.size_gb, seen.folder) == (3, None)
        await driver.mount(id)
        assert await self.read(driver, id) == "kept"
        await driver.delete(id)
        assert await driver.list() == set()

    async def test_a_volume_that_is_not_there_is_not_mounted(self, driver: VolumeDriver) -> None:
        with pytest.raises(LookupError):
            await driver.mount(uuid4())
        await driver.unmount(uuid4())

    async def test_a_snapshot_keeps_a_moment_and_begins_a_volume(self, driver: VolumeDriver) -> None:
        id, snapshot, other = uuid4(), uuid4(), uuid4()
        await driver.apply(id, 1)
        await driver.mount(id)
        await self.write(driver, id, "then")
        with pytest.raises(Refused):
            await driver.snapshot(id, snapshot)
        await driver.unmount(id)
        for _ in range(2):
            await driver.snapshot(id, snapshot)
        await driver.mount(id)
        await self.write(driver, id, "now")
        await driver.snapshot(id, snapshot)  # it is there: nothing is done
        await driver.unmount(id)
        await driver.delete(id)
        assert await driver.list_snapshots() == {snapshot}
        assert (await driver.apply(other, 2, snapshot)).size_gb == 2
        await driver.mount(other)
        assert await self.read(driver, other) == "then"
        for _ in range(2):
            await driver.delete_snapshot(snapshot)
        assert await driver.list_snapshots() == set()
        await driver.apply(other, 2, snapshot)  # it has begun: the snapshot is not needed any more
        assert await self.read(driver, other) == "then"
        await driver.delete(other)
        for absent in (snapshot, uuid4()):
            with pytest.raises(Refused):
                await driver.apply(uuid4(), 1, absent)
        with pytest.raises(Refused):
            await driver.snapshot(uuid4(), uuid4())
        assert await driver.list() == set()
