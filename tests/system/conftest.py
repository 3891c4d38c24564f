"""The whole cloud as processes of their own, over the machine's real engines."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiodocker import Docker, DockerError

from server import images
from tests.engines import require
from tests.system.process import Thecloud, unless_absent

NETWORK = "thecloud"
ENVIRONMENT = {
    "THECLOUD_AUTH_RATE_LIMIT": "100000",
    "THECLOUD_LEASE_SECONDS": "2",
    "THECLOUD_LOG_FORMAT": "json",
}


@pytest.fixture(scope="session")
async def docker() -> AsyncIterator[Docker]:
    """The engine, with the image that tests run; the network goes if it was not there before."""
    require("docker")
    await images.build("busybox", say=print)
    async with Docker(url="unix:///var/run/docker.sock") as docker:
        there = NETWORK in {network["Name"] for network in await docker.networks.list()}
        yield docker
        if not there:
            with unless_absent():
                try:
                    await (await docker.networks.get(NETWORK)).delete()
                except DockerError as error:
                    if error.status != 403:  # another cloud uses it by now
                        raise


@asynccontextmanager
async def folder_of_a_cloud(docker: Docker, **environment: str) -> AsyncIterator[Thecloud]:
    """A cloud that has not been started, in a folder that everybody may enter."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="thecloud-test-"))
    folder.chmod(0o755)
    cloud = Thecloud(folder, docker, ENVIRONMENT | environment)
    try:
        yield cloud
    finally:
        await cloud.clear()


@pytest.fixture
async def cloud(docker: Docker) -> AsyncIterator[Thecloud]:  # type: ignore[override]
    """A cloud that has not been started."""
    async with folder_of_a_cloud(docker) as cloud:
        yield cloud


@pytest.fixture(scope="module")
async def started(docker: Docker) -> AsyncIterator[Thecloud]:
    """A cloud that runs, for all tests of a module that leave it running."""
    async with folder_of_a_cloud(docker) as cloud:
        yield await cloud.up()
