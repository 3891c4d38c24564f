"""Volumes as images of a real Ceph, mapped by the real kernel."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from drivers.contracts import Refused
from drivers.rbd import RbdVolumes
from tests import ceph
from tests.drivers.volume_mounts import MountedVolumes
from tests.engines import require


@pytest.fixture(scope="module")
def configuration() -> Iterator[str]:
    """Of a Ceph of our own; THECLOUD_TEST_CEPH_CONF names that of another, which has a pool rbd."""
    require("ceph")
    if there := os.environ.get("THECLOUD_TEST_CEPH_CONF"):
        yield there
        return
    with ceph.running() as config:
        yield str(config)


@pytest.fixture
async def driver(configuration: str, tmp_path: Path) -> AsyncIterator[RbdVolumes]:
    driver = RbdVolumes(str(uuid4()), tmp_path, pool="rbd", conf=configuration, id="admin")
    yield driver
    for id in await driver.list():
        await driver.delete(id)
    for id in await driver.list_snapshots():
        await driver.delete_snapshot(id)


def mapped(id: UUID) -> int:
    return sum(str(id) in file.read_text() for file in Path("/sys/bus/rbd/devices").glob("*/name"))


class TestRbdVolumes(MountedVolumes):
    @pytest.fixture
    def driver(self, driver: RbdVolumes) -> RbdVolumes:
        return driver

    async def test_clouds_in_one_pool_do_not_see_each_other(
        self, driver: RbdVolumes, configuration: str, tmp_path: Path
    ) -> None:
        other = RbdVolumes(str(uuid4()), tmp_path / "other", pool="rbd", conf=configuration, id="admin")
        id, snapshot = uuid4(), uuid4()
        await driver.apply(id, 1)
        await driver.snapshot(id, snapshot)
        assert await other.observe(id) is None
        assert await other.list() == await other.list_snapshots() == set()
        await other.delete(id)
        await other.delete_snapshot(snapshot)
        assert await driver.list() == {id}
        assert await driver.list_snapshots() == {snapshot}

    async def test_it_is_mapped_only_while_it_is_mounted(self, driver: RbdVolumes) -> None:
        """So that any other host may have it then."""
        id = uuid4()
        await driver.apply(id, 1)
        await driver.apply(id, 2)
        assert mapped(id) == 0
        await driver.mount(id)
        assert mapped(id) == 1
        await driver.unmount(id)
        assert mapped(id) == 0

    async def test_what_another_host_has_mapped_neither_grows_nor_is_copied(
        self, driver: RbdVolumes, configuration: str
    ) -> None:
        id = uuid4()
        await driver.apply(id, 1)
        listed = ("rbd", "--conf", configuration, "ls", "--format", "json", "rbd")
        [name] = [each for each in json.loads(subprocess.check_output(listed)) if str(id) in each]  # noqa: ASYNC221
        bench = ("rbd", "--conf", configuration, "bench", "--io-type", "write", "--io-total", "1T", f"rbd/{name}")
        elsewhere = await asyncio.create_subprocess_exec(*bench, stdout=asyncio.subprocess.PIPE)
        assert elsewhere.stdout
        await elsewhere.stdout.readline()  # it has begun
        with pytest.raises(Refused, match="in use"):
            await driver.apply(id, 2)
        with pytest.raises(Refused, match="in use"):
            await driver.snapshot(id, uuid4())
        elsewhere.terminate()
        await elsewhere.wait()

    async def test_where_there_is_no_pool_nothing_is_taken_for_gone(self, configuration: str, tmp_path: Path) -> None:
        driver = RbdVolumes(str(uuid4()), tmp_path, pool="absent", conf=configuration, id="admin")
        for step in (driver.list(), driver.observe(uuid4()), driver.delete(uuid4()), driver.delete_snapshot(uuid4())):
            with pytest.raises(RuntimeError, match="pool"):
                await step
