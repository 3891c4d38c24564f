"""Archives of container images: the contract on the fake and on Docker, and what reaches an engine."""

import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from aiodocker import Docker

from drivers.contracts import ImageArchive
from drivers.docker import DockerCompute
from drivers.docker_archives import packed
from server import image_formats, images
from tests import image_samples as samples
from tests.drivers.fake import FakeCompute
from tests.drivers.image_contract import MOST, ImageContract, loaded
from tests.engines import require


class TestFakeImages(ImageContract):
    @pytest.fixture
    def driver(self) -> FakeCompute:
        return FakeCompute()


class TestDockerImages(ImageContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[Docker]:
        require("docker")
        await images.build("busybox", say=print)
        async with Docker(url="unix:///var/run/docker.sock") as docker:
            yield docker

    @pytest.fixture
    async def program(self, engine: Docker) -> bytes:
        """The busybox of the image of that name, which needs no libraries."""
        container = await engine.containers.create({"Image": "busybox"})
        try:
            found = (await container.get_archive("/bin/busybox")).extractfile("busybox")
            assert found
            return found.read()
        finally:
            await container.delete()

    @pytest.fixture
    async def driver(self, engine: Docker) -> AsyncIterator[DockerCompute]:
        driver = DockerCompute(cloud_id=str(uuid4()))
        yield driver
        for id in await driver.list():
            await driver.delete(id)
        for id in await driver.list_images():
            await driver.remove_image(id)
        await driver.close()

    async def test_names_in_an_archive_have_no_effect(
        self, driver: DockerCompute, engine: Docker, archive: ImageArchive
    ) -> None:
        """This one calls itself busybox:latest, as other tenants' instances call theirs."""
        before = (await engine.images.inspect("busybox:latest"))["Id"]
        id = uuid4()
        await loaded(driver, id, archive)
        assert (await engine.images.inspect("busybox:latest"))["Id"] == before
        assert (await engine.images.inspect(driver.image_name(id)))["RepoTags"] == [driver.image_name(id)]

    async def test_what_is_not_loaded_is_not_pulled(self, driver: DockerCompute) -> None:
        with pytest.raises(LookupError):
            await driver._images.pulled(driver.image_name(uuid4()), wait=0)


async def test_an_engine_gets_what_was_looked_into_and_nothing_else(tmp_path: Path) -> None:
    layers = [samples.layer(("a", b"1")), samples.layer(("b", b"2" * 5000))]
    stray = tarfile.TarInfo("repositories")
    path = tmp_path / "archive.tar"
    path.write_bytes(samples.archive(*layers, tags=("nginx:latest",), extra=(stray,)))
    archive = await image_formats.archive_of(path, MOST)
    given = io.BytesIO(b"".join([piece async for piece in packed(archive, "ours:1")]))
    with tarfile.open(fileobj=given) as tar:
        assert tar.getnames() == ["manifest.json", "config.json", "0.tar", "1.tar"]
        read = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    assert [read["0.tar"], read["1.tar"]] == layers
    assert json.loads(read["manifest.json"]) == [
        {"Config": "config.json", "RepoTags": ["ours:1"], "Layers": ["0.tar", "1.tar"]}
    ]
