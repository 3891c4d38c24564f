"""Virtual machines for the tests of drivers."""

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from drivers.contracts import BootDisk
from server import guest_image
from tests.engines import require

if TYPE_CHECKING:
    from drivers.libvirt import LibvirtCompute
    from tests.libvirtd import Libvirtd

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "thecloud"


@pytest.fixture(scope="session")
def libvirtd() -> "Iterator[Libvirtd]":
    require("libvirt")
    from tests.libvirtd import Libvirtd

    libvirtd = Libvirtd()
    yield libvirtd
    libvirtd.close()


@pytest.fixture
async def virtual(libvirtd: "Libvirtd", tmp_path: Path) -> "AsyncIterator[LibvirtCompute]":
    from drivers.libvirt import LibvirtCompute

    folder = tmp_path / "instances"
    driver = LibvirtCompute(f"test-{uuid4()}", folder=folder, uri=libvirtd.uri, virt_type="qemu", patience=2)
    yield driver
    for id in await driver.list():
        await driver.delete(id)
    await driver.close()


@pytest.fixture(scope="session")
async def tiny() -> BootDisk:
    """The image of the tiny guest, kept between runs."""
    recipe = hashlib.sha256(Path(guest_image.__file__).read_bytes()).hexdigest()[:12]
    path = await guest_image.build(CACHE / f"guest-{recipe}.qcow2", say=print)
    return BootDisk(path=str(path), format="qcow2", size_gb=1)
