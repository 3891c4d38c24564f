"""Virtual machines for the tests of drivers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from drivers.libvirt import LibvirtCompute
    from tests.libvirtd import Libvirtd


@pytest.fixture
async def virtual(libvirtd: "Libvirtd", tmp_path: Path) -> "AsyncIterator[LibvirtCompute]":
    from drivers.libvirt import LibvirtCompute

    folder = tmp_path / "instances"
    driver = LibvirtCompute(f"test-{uuid4()}", folder=folder, uri=libvirtd.uri, virt_type="qemu", patience=2)
    yield driver
    for id in await driver.list():
        await driver.delete(id)
    await driver.close()
