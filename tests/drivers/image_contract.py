"""What every driver must do that starts instances from archives of container images."""

import asyncio
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drivers.contracts import ImageArchive, InstanceSpec, Refused, SupportsImageArchives
from server import image_formats
from tests import image_samples as samples

MOST = 2**30


async def loaded(driver: Any, id: Any, archive: ImageArchive) -> None:
    async with asyncio.timeout(60):
        while not await driver.load_image(id, archive):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


class ImageContract:
    """A driver's test gives it a `driver`, and the `program` that a layer of it can run as its command."""

    @pytest.fixture
    def program(self) -> bytes:
        return b"#!"

    @pytest.fixture
    async def archive(self, tmp_path: Path, program: bytes) -> ImageArchive:
        path = tmp_path / "archive.tar"
        hello = samples.layer(("busybox", program), ("stamp", os.urandom(16)))
        path.write_bytes(
            samples.archive(hello, config={"Cmd": ["/busybox", "sleep", "1000"]}, tags=("busybox:latest",))
        )
        return await image_formats.archive_of(path, MOST)

    async def test_an_archive_is_loaded_started_from_and_removed(self, driver: Any, archive: ImageArchive) -> None:
        assert isinstance(driver, SupportsImageArchives)
        id, tenant = uuid4(), uuid4()
        spec = InstanceSpec(id=uuid4(), tenant_id=tenant, name="a", image=driver.image_name(id), vcpus=1, memory_mb=64)
        with pytest.raises(Refused):
            await driver.check(spec)
        try:
            for _ in range(2):
                await loaded(driver, id, archive)
            assert await driver.list_images() == {id}
            assert (await driver.apply(spec)).power == "RUNNING"
            with pytest.raises(Exception, match=r"."):
                await driver.remove_image(id)
            assert await driver.list_images() == {id}
        finally:
            await driver.delete(spec.id)
            for _ in range(2):
                await driver.remove_image(id)
        assert await driver.list_images() == set()

    async def test_a_load_cut_off_is_finished_by_the_next(self, driver: Any, archive: ImageArchive) -> None:
        id = uuid4()
        for moment in (0.0, 0.001, 0.01, 0.05):
            task = asyncio.ensure_future(driver.load_image(id, archive))
            await asyncio.wait([task], timeout=moment)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await loaded(driver, id, archive)
        assert await driver.list_images() == {id}
        await driver.remove_image(id)

    async def test_an_archive_that_is_gone_is_refused_or_fails(self, driver: Any, archive: ImageArchive) -> None:
        archive.path.unlink()
        with pytest.raises(Exception, match=r"."):
            await loaded(driver, uuid4(), archive)
        assert await driver.list_images() == set()
