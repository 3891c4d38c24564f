"""The session of docs/virtual-machines.md, as it stands there but for the port."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from drivers.contracts import BootDisk
from tests.system.process import Thecloud
from tests.system.test_readme import block, register, run


@pytest.mark.timeout(600)
async def test_the_session_about_virtual_machines_ends_with_nothing_left(
    machine_cloud: Thecloud, tiny: BootDisk, tmp_path: Path
) -> None:
    guest = tmp_path / ".thecloud/images/guest.qcow2"
    guest.parent.mkdir(parents=True)
    shutil.copy(tiny.path, guest)
    await machine_cloud.up()
    await register(machine_cloud)
    session = block("sh", "docs/virtual-machines.md").replace("127.0.0.1:8080", urlsplit(machine_cloud.http).netloc)
    said = await run("bash", "-e", "-o", "pipefail", "-c", session, folder=tmp_path, seconds=300)
    for expected in (
        '"status":"ACTIVE"', '"driver":"libvirt"', "GUEST_READY vm-01", "hello from vm-01", '"opaque":true', "DISK vd",
        "DISK_GONE vd", '"console_url":"vnc://127.0.0.1:59', '"vnc_url":"ws://', '"message":"instance paused"',
        '"message":"instance resized"', '"message":"volume deleted"', '"message":"image deleted"',
        '"message":"vpc deleted"',
    ):  # fmt: skip
        assert expected in said, said
