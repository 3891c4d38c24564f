"""Images are built of Debian's packages, and what is built runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from aiodocker import Docker, DockerError

from drivers.contracts import InstanceSpec, PortBinding
from drivers.docker import DockerCompute
from server import guest_image, images
from tests.drivers.contract import free_port, settled, until
from tests.engines import require


@pytest.fixture
async def engine() -> AsyncIterator[Docker]:
    require("docker")
    async with Docker(url="unix:///var/run/docker.sock") as docker:
        yield docker


@pytest.fixture
async def driver(engine: Docker) -> AsyncIterator[DockerCompute]:
    driver = DockerCompute(cloud_id=f"test-{uuid4()}")
    yield driver
    for id in await driver.list():
        await driver.delete(id)
    await driver.close()


@pytest.fixture
async def tag(engine: Docker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The only tag of the busybox recipe for now, so that nobody's own busybox is touched."""
    tag = f"thecloud-test/{uuid4()}:latest"
    monkeypatch.setitem(images.RECIPES, "busybox", replace(images.RECIPES["busybox"], tags=(tag,)))
    yield tag
    with suppress(DockerError):
        await engine.images.delete(tag)


def spec(image: str, port: int) -> InstanceSpec:
    ports = (PortBinding(host=port, container=80),)
    return InstanceSpec(id=uuid4(), tenant_id=uuid4(), name="image", image=image, vcpus=1, memory_mb=128, ports=ports)


async def answers(port: int, wanted: bytes) -> None:
    """Wait until a page with these words is served."""

    async def served() -> bool:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            page = await reader.read()
            writer.close()
            return wanted in page
        return False

    await until(served)


async def test_busybox_builds_and_runs(tag: str, driver: DockerCompute) -> None:
    told: list[str] = []
    assert await images.build("busybox", say=told.append) == [tag]
    assert told == [f"busybox: building {tag}", "busybox: done"]
    port = free_port()
    instance = spec(tag, port)
    serve = ("sh", "-c", "echo built > /var/www/index.html; exec httpd -f -h /var/www")
    assert (await settled(driver, replace(instance, cmd=serve))).power == "RUNNING"
    await answers(port, b"built")


async def test_an_image_that_is_there_is_left_alone_unless_rebuilt(engine: Docker, tag: str) -> None:
    await images.build("busybox", say=print)
    first = (await engine.images.inspect(tag))["Id"]
    await images.build("busybox", say=print)
    assert (await engine.images.inspect(tag))["Id"] == first
    await images.build("busybox", rebuild=True, say=print)
    assert (await engine.images.inspect(tag))["Id"] != first
    await engine.images.delete(first)


async def test_nginx_serves_a_page_and_logs_it(driver: DockerCompute) -> None:
    await images.build("nginx", say=print)
    port = free_port()
    instance = spec("nginx", port)
    assert (await settled(driver, instance)).power == "RUNNING"
    await answers(port, b"Welcome to nginx!")

    async def logged() -> bool:
        return b'"GET / HTTP/1.0" 200' in await driver.logs(instance.id, tail=10)

    await until(logged)


async def test_what_has_no_recipe_fails_and_names_those_that_have() -> None:
    with pytest.raises(images.BuildFailed, match="busybox, debian, nginx"):
        await images.build("windows", say=print)


async def test_a_missing_tool_is_named_with_its_package(
    tag: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(images.BuildFailed, match="apt-get is missing; install it with `apt install apt`"):
        await images.build("busybox", say=print)


async def test_a_missing_engine_is_named() -> None:
    with pytest.raises(images.BuildFailed, match="thecloud doctor"):
        await images.build("busybox", say=print, url="unix:///nowhere/docker.sock")


async def test_a_guest_that_is_there_is_left_alone(tmp_path: Path) -> None:
    told: list[str] = []
    there = tmp_path / "guest.qcow2"
    there.write_bytes(b"mine")
    assert await guest_image.build(there, say=told.append) == there
    assert there.read_bytes() == b"mine"
    assert told == [f"guest: {there} is there"]


async def test_a_tool_that_the_guest_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(images.BuildFailed, match="apt-get is missing"):
        await guest_image.build(tmp_path / "images/guest.qcow2", say=print)
    assert list((tmp_path / "images").iterdir()) == []
