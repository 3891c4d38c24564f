"""The whole cloud as processes of their own, over the machine's real engines."""

import asyncio
import tempfile
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiodocker import Docker, DockerError

from drivers.linux import LinuxNetwork
from drivers.linux_plan import External
from server import images
from tests.engines import require
from tests.system.process import Thecloud, unless_absent

if TYPE_CHECKING:
    from tests.libvirtd import Libvirtd

NETWORK = "thecloud"
LAST = "32000"  # the metric of a route that is taken when there is no other
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


def network_of(cloud: Thecloud) -> LinuxNetwork:
    """The network driver as the cloud has it."""
    return LinuxNetwork(cloud.id, External.of(cloud.environment["THECLOUD_EXTERNAL_NETWORK"]))


async def ip(*arguments: str) -> None:
    child = await asyncio.create_subprocess_exec("ip", *arguments)
    assert await child.wait() == 0


@pytest.fixture
async def network_cloud(docker: Docker) -> AsyncIterator[Thecloud]:
    """A cloud with an external network of its own. Nothing of its networks is left afterwards.

    While there is no such network, packets to it go nowhere, and not out of this machine.
    """
    require("nftables")
    async with folder_of_a_cloud(docker) as cloud, AsyncExitStack() as stack:
        number = zlib.crc32(str(cloud.folder).encode()) % 512
        range = f"198.{18 + number // 256}.{number % 256}.0/24"
        await ip("route", "add", "unreachable", range, "metric", LAST)
        stack.push_async_callback(ip, "route", "delete", "unreachable", range, "metric", LAST)
        cloud.environment["THECLOUD_EXTERNAL_NETWORK"] = range
        yield cloud
        if cloud.process and cloud.process.running:
            await cloud.process.kill()
        for id in await network_of(cloud).list():
            await network_of(cloud).delete(id)


@pytest.fixture
async def machine_cloud(network_cloud: Thecloud, libvirtd: "Libvirtd") -> AsyncIterator[Thecloud]:
    """A cloud that starts containers and virtual machines, of which none is left afterwards."""
    folder = network_cloud.folder / "machines"
    folder.mkdir()
    (folder / "virt-type").write_text("qemu\n")
    network_cloud.environment |= {
        "THECLOUD_COMPUTE": "docker,libvirt", "THECLOUD_LIBVIRT_URI": libvirtd.uri,
        "THECLOUD_LIBVIRT_FOLDER": str(folder),
    }  # fmt: skip
    yield network_cloud
    if network_cloud.process and network_cloud.process.running:
        await network_cloud.process.kill()
    libvirtd.clear()


@pytest.fixture(scope="module")
async def started(docker: Docker) -> AsyncIterator[Thecloud]:
    """A cloud that runs, for all tests of a module that leave it running."""
    async with folder_of_a_cloud(docker) as cloud:
        yield await cloud.up()
