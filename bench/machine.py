"""From POST /instances of a disk image to the first byte on the machine's console, against `virsh` with the same guest.

Ours is a real `thecloud up` asked over REST; theirs is `qemu-img create` of the overlay, `virsh define` and `virsh
start` of the same domain, whose seed is there already. Both have the libvirtd that tests have, take turns, and are seen
in the file of the console. The first byte comes from the guest's first program: most of the time is QEMU's and Linux's.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

from bench.figure import figure, medians, told
from bench.launch import POLL, TYPE, Client
from bench.memory import up
from bench.processes import running
from drivers import libvirt_files, libvirt_xml
from drivers.contracts import BootDisk, InstanceSpec
from server import engines, guest_image
from server.images import BuildFailed

ROUNDS, PATIENCE = 5, 120.0
NAME, AGAINST = "virtual machine launch", "virsh define and start"


def figures() -> Iterator[dict[str, Any]]:
    if os.geteuid() or find_spec("libvirt") is None or engines.libvirt_version() is None or not shutil.which("virsh"):
        yield figure(NAME, None, "ms", AGAINST, None, None, reason="this needs root, and what `make libvirt` installs")
        return
    from tests.libvirtd import Libvirtd  # which needs libvirt

    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            asyncio.run(guest_image.build(folder / "guest.qcow2", say=told))
        except BuildFailed as failure:
            yield figure(NAME, None, "ms", AGAINST, None, None, reason=str(failure))
            return
        with closing(Libvirtd()) as libvirtd:
            ours, theirs = compare(folder, libvirtd.uri)
    sys.stderr.write(f"  {ours * 1000:.0f} ms, virsh {theirs * 1000:.0f} ms\n")
    yield figure(NAME, round(ours * 1000), "ms", AGAINST, ours / theirs, None)


def compare(folder: Path, uri: str) -> list[float]:
    machines = folder / "machines"
    environment = {
        "THECLOUD_COMPUTE": "libvirt", "THECLOUD_LIBVIRT_URI": uri, "THECLOUD_LIBVIRT_FOLDER": str(machines)
    }  # fmt: skip
    with running(*up(folder / "data"), environment=environment) as server:
        address = server.wait_for(r"http://(\S+)")
        server.wait_for("ready")
        client = Client(address)
        image = client.call("POST", "/images", {"name": "guest"})[1]["id"]
        _, stored = client.call("POST", f"/images/{image}/upload", (folder / "guest.qcow2").read_bytes())
        assert stored["status"] == "ACTIVE", stored
        [size] = [each for each in client.call("GET", "/instance-types")[1] if each["id"] == TYPE]
        disk = BootDisk(path=str(folder / "data/images" / image), format="qcow2", size_gb=size["disk_gb"])
        try:
            launch(client, image, machines)  # finds out what the processor can
            return medians(
                ROUNDS, lambda: launch(client, image, machines), lambda: define_and_start(uri, machines, size, disk)
            )
        finally:
            client.clean()


def launch(client: Client, image: str, machines: Path) -> float:
    """Seconds from the request to the first byte."""
    began = time.perf_counter()
    status, made = client.call("POST", "/instances", {"name": "bench", "image": image, "instance_type": TYPE})
    assert status == 202, made
    client.rest()
    try:
        return first_byte(machines / made["id"], began)
    finally:
        client.remove(f"/instances/{made['id']}")
        client.rest()


def define_and_start(uri: str, machines: Path, size: dict[str, Any], disk: BootDisk) -> float:
    """Seconds of the same without a cloud."""
    id = uuid4()
    spec = InstanceSpec(id=id, tenant_id=UUID(int=0), name="bench", image="guest", disk=disk, vcpus=size["vcpus"],
                        memory_mb=size["memory_mb"])  # fmt: skip
    files = libvirt_files.Files(machines / str(id))
    files.folder.mkdir()
    files.seed.write_bytes(libvirt_files.iso(libvirt_files.seed(spec)))
    text = libvirt_xml.domain(
        spec, str(id), "bench", files, (machines / "virt-type").read_text().strip(), os.cpu_count() or 1
    )
    (files.folder / "domain.xml").write_text(text)
    overlay = ("-f", "qcow2", "-F", "qcow2", "-b", disk.path, str(files.disk), f"{disk.size_gb}G")
    try:
        began = time.perf_counter()
        run("qemu-img", "create", "-q", *overlay)
        run("virsh", "-q", "-c", uri, "define", str(files.folder / "domain.xml"))
        run("virsh", "-q", "-c", uri, "start", str(id))
        return first_byte(files.folder, began)
    finally:
        for verb in ("destroy", "undefine"):
            subprocess.run(["virsh", "-q", "-c", uri, verb, str(id)], stdout=subprocess.DEVNULL, check=False)
        files.remove()


def run(*command: str) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def first_byte(folder: Path, began: float) -> float:
    """Seconds until the console of the machine has printed something."""
    console = libvirt_files.Files(folder).console
    while not (console.exists() and console.stat().st_size):
        assert time.perf_counter() < began + PATIENCE, f"nothing in {console}"
        time.sleep(POLL)
    return time.perf_counter() - began
