"""Virtual machines of a whole cloud: real guests, packets, disks and consoles."""

import asyncio
import os
import random
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import libvirt
import pytest
from websockets.asyncio.client import ClientConnection, connect

from drivers.contracts import BootDisk
from tests.conftest import until
from tests.libvirtd import BOOT, Libvirtd
from tests.system.client import Client, eventually
from tests.system.process import Thecloud

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDjPfrfGjPEglOnnJHbhoexjjiIHzf2Ftd9BKGoIi8Px"
USER_DATA = "#!/bin/sh\necho told $(hostname)\ngrep public-keys /seed/meta-data\n"
TOKEN = r"PUT /latest/api/token HTTP/1.0\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
ROUNDS = 20
SEED = int(os.environ.get("THECLOUD_TEST_SEED") or random.randrange(2**32))


@pytest.fixture
async def client(machine_cloud: Thecloud) -> AsyncIterator[Client]:
    """Somebody in a cloud that starts containers and virtual machines."""
    with ExitStack() as stack:
        await machine_cloud.up()
        yield Client(machine_cloud, await machine_cloud.person(), stack)


def domains(libvirtd: Libvirtd) -> list[Any]:
    connection = libvirt.open(libvirtd.uri)
    return connection.listAllDomains()  # type: ignore[no-any-return]


def taps() -> set[str]:
    """Links of virtual machines, in whatever namespace of this machine."""
    told = subprocess.run(["ip", "-all", "-netns", "exec", "ip", "-o", "link"], capture_output=True, text=True).stdout
    told += subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
    return set(re.findall(r"\bv-[0-9a-f]{13}\b", told))


async def registered(client: Client, tiny: BootDisk) -> str:
    """The tiny guest as an image, uploaded as browsers do it."""
    id = await client.make("/images", name="tiny", os="linux", version="12")
    data = await asyncio.to_thread(Path(tiny.path).read_bytes)
    sent = await client.person.rest.post(f"/images/{id}/upload", files={"file": ("tiny.qcow2", data)})
    assert (sent.status_code, sent.json()["status"], sent.json()["format"]) == (200, "ACTIVE", "qcow2"), sent.text
    return id


async def printed(client: Client, id: str, text: str, times: int = 1) -> str:
    """What the machine's console has printed, once that is in it so often."""

    async def there() -> bool:
        reply = await client.person.rest.get(f"/instances/{id}/logs", params={"tail": 10000})
        return reply.text.count(text) >= times

    await until(there, BOOT)
    return (await client.person.rest.get(f"/instances/{id}/logs", params={"tail": 10000})).text


async def disk_of(client: Client, id: str, volume: str) -> str:
    """What the guest calls the volume, which it finds by its serial number."""
    serial = volume.replace("-", "")[:20]
    found = re.findall(rf"DISK (vd[a-z]) {serial}", await printed(client, id, serial))
    return found[-1]  # type: ignore[no-any-return]


async def read_until(terminal: ClientConnection, text: bytes) -> bytes:
    read = b""
    try:
        async with asyncio.timeout(30):
            while text not in read:
                piece = await terminal.recv()
                read += piece if isinstance(piece, bytes) else piece.encode()
    except TimeoutError:
        pytest.fail(f"{text!r} is not in {read!r}")
    return read


async def execute(client: Client, id: str, command: str) -> None:
    """Have the guest's shell do it."""
    url = (await client.do("GET", f"/instances/{id}/console"))["url"]
    async with connect(url, proxy=None) as terminal:
        await terminal.send(f"\n{command}; echo do''ne\n".encode())
        await read_until(terminal, b"done")


async def settled(client: Client, path: str, **wanted: object) -> dict[str, Any]:
    """The resource, once it is like this, and nothing is still done to it."""

    async def there() -> bool:
        now = await client.do("GET", path)
        return not now["reconciling"] and all(now.get(name) == value for name, value in wanted.items())

    await until(there, BOOT)
    return await client.do("GET", path)  # type: ignore[no-any-return]


def page(container: str, address: str, path: str = "") -> str:
    """What the guest's HTTP server answers to a container. (Debian's static busybox has a wget that crashes.)"""
    command = ["docker", "exec", "-i", container, "nc", "-w", "5", address, "80"]
    request = f"GET /{path} HTTP/1.0\r\n\r\n"
    return subprocess.run(command, input=request, capture_output=True, text=True).stdout.partition("\n\n")[2]


async def is_ready(client: Client, image: str, format: str) -> bool:
    seen = await client.do("GET", f"/images/{image}")
    assert seen["status"] != "ERROR", seen
    return bool((seen["status"], seen["format"]) == ("ACTIVE", format))


async def test_the_life_of_two_virtual_machines(client: Client, libvirtd: Libvirtd, tiny: BootDisk) -> None:
    before = taps()
    image = await registered(client, tiny)
    await client.make("/ssh-keys", name="laptop", public_key=KEY)
    vpc, subnet = await client.vpc("prod", "10.0")
    web = await client.make("/security-groups", vpc_id=vpc, name="web")
    friends = await client.make("/security-groups", vpc_id=vpc, name="friends")
    await client.do("POST", f"/security-groups/{web}/rules", direction="ingress", protocol="tcp", port_min=80,
                    port_max=80, referenced_group_id=friends)  # fmt: skip
    boxes = [(await client.person.running(name="friend", subnet_id=subnet, security_groups=["friends"]))["id"],
             (await client.person.running(name="stranger", subnet_id=subnet))["id"]]  # fmt: skip
    friend, stranger = [(await client.cloud.container(id))["Id"] for id in boxes]
    machine = {"image": image, "instance_type": "basic-1", "subnet_id": subnet, "security_groups": ["web"],
               "ssh_key_id": "laptop", "user_data": USER_DATA}  # fmt: skip
    first, second = [await client.make("/instances", name=name, **machine) for name in ("vm-one", "vm-two")]
    machine = await client.person.becomes(first, "RUNNING", BOOT)
    assert machine["driver"] == "libvirt"
    address = machine["private_ip"]

    said = await printed(client, first, "GUEST_READY vm-one")
    assert f"GUEST_READY vm-one {address}/24" in said
    assert "told vm-one" in said
    assert f'public-keys: ["{KEY} laptop"]' in said
    console = await client.do("GET", f"/instances/{first}/console")
    assert re.fullmatch(r"vnc://127\.0\.0\.1:59\d\d", console["console_url"])
    async with connect(console["url"], proxy=None) as terminal:
        await terminal.send(b"\necho $((40 + 2))-is-it\n")
        await read_until(terminal, b"42-is-it")
        # it stays open meanwhile: a server may take the end of what is sent for that of the connection
        await terminal.send(f"(printf '{TOKEN}'; sleep 3) | nc 169.254.169.254 80\n".encode())
        await read_until(terminal, b"200 OK")
    async with connect(console["vnc_url"], proxy=None, subprotocols=["binary"]) as screen:  # type: ignore[list-item]
        assert await screen.recv() == b"RFB 003.008\n"
        assert screen.subprotocol == "binary"

    await eventually("hello from vm-one\n", lambda: page(friend, address))
    assert await asyncio.to_thread(page, stranger, address) == ""
    assert address in subprocess.run(  # noqa: ASYNC221 - it answers at once
        ["docker", "exec", friend, "nslookup", "vm-one.internal"], capture_output=True, text=True
    ).stdout  # fmt: skip
    stats = await client.do("GET", f"/instances/{first}/stats")
    assert stats["memory_limit_bytes"] == 512 * 2**20

    volume = await client.make("/volumes", name="data", size_gb=1)
    await client.do("POST", f"/volumes/{volume}/attach", instance_id=first)
    await settled(client, f"/instances/{first}")
    disk = await disk_of(client, first, volume)
    await execute(client, first, f"echo kept > /disks/{disk}/file; sync; umount /disks/{disk}")
    await client.do("POST", f"/volumes/{volume}/detach")
    await settled(client, f"/volumes/{volume}", status="AVAILABLE")
    await printed(client, second, "GUEST_READY vm-two")
    await client.do("POST", f"/volumes/{volume}/attach", instance_id="vm-two")
    disk = await disk_of(client, second, volume)
    other = (await client.do("GET", f"/instances/{second}"))["private_ip"]
    assert await asyncio.to_thread(page, friend, other, f"disks/{disk}/file") == "kept\n"

    taken = [await client.make(f"/instances/{id}/snapshot", name="golden") for id in (second, boxes[0])]
    for id, format in zip(taken, ("qcow2", "container"), strict=True):
        await until(lambda id=id, format=format: is_ready(client, id, format), BOOT)  # type: ignore[misc]
    copy = await client.person.running(name="copy", image=taken[1])
    await client.do("DELETE", f"/instances/{copy['id']}")

    await client.do("POST", f"/instances/{first}/pause")
    await settled(client, f"/instances/{first}", status="PAUSED")
    assert await asyncio.to_thread(page, friend, address) == ""
    await client.do("POST", f"/instances/{first}/resume")
    await settled(client, f"/instances/{first}", status="RUNNING")
    await eventually("hello from vm-one\n", lambda: page(friend, address))
    await client.do("POST", f"/instances/{first}/resize", instance_type="basic-2")
    said = await printed(client, first, "GUEST_READY vm-one", times=2)
    sizes = [int(kib) for kib in re.findall(r"kib=(\d+)", said)]
    assert sizes[1] - sizes[0] > 400 * 1024
    await settled(client, f"/instances/{first}", status="RUNNING", instance_type="basic-2")
    await eventually("hello from vm-one\n", lambda: page(friend, address))

    for id in (first, second, *boxes):
        await client.do("DELETE", f"/instances/{id}")
    for id in (first, second, *boxes):
        await client.person.gone(id, 60)
    await client.do("DELETE", f"/volumes/{volume}")
    for id in (image, *taken):
        await client.do("DELETE", f"/images/{id}")
    await nothing_left(client.cloud, libvirtd, before)


POWERS = {"pause": ("RUNNING", "PAUSED"), "resume": ("PAUSED", "RUNNING"), "stop": ("RUNNING", "STOPPED"),
          "start": ("STOPPED", "RUNNING")}  # fmt: skip


class Insisting:
    """Somebody who asks for everything until there is an answer, and what they were promised."""

    def __init__(self, client: Client, dice: random.Random) -> None:
        self._client, self._dice = client, dice
        self.powers: dict[str, str] = {}  # of machines
        self.owner: str | None = None  # of the volume

    async def ask(self, verb: str, path: str, **body: Any) -> httpx.Response:
        headers = {"idempotency-key": str(uuid4())}
        async with asyncio.timeout(90):
            while True:
                with suppress(httpx.TransportError):
                    reply = await self._client.person.rest.request(verb, path, json=body or None, headers=headers)
                    if reply.status_code < 500:
                        return reply
                await asyncio.sleep(0.1)

    async def launch(self, **body: Any) -> str:
        reply = await self.ask("POST", "/instances", **body)
        assert reply.status_code == 202, reply.text
        id: str = reply.json()["id"]
        self.powers[id] = "RUNNING"
        return id

    async def switch(self) -> None:
        """Pause, resume, stop or start a machine, where that is possible now."""
        id, action = self._dice.choice(list(self.powers)), self._dice.choice(list(POWERS))
        before, after = POWERS[action]
        if self.powers[id] != before:
            return
        if action == "start":
            reply = await self.ask("PUT", f"/instances/{id}", status="RUNNING")
        else:
            reply = await self.ask("POST", f"/instances/{id}/{action}")
        if reply.status_code == 200:
            self.powers[id] = after
        else:
            assert reply.json()["error"]["reason"] == "WRONG_STATE", reply.text

    async def move(self, volume: str) -> None:
        """Give the volume to a machine, or take it from the one that has it."""
        id = self._dice.choice(list(self.powers))
        if self.owner is None:
            reply = await self.ask("POST", f"/volumes/{volume}/attach", instance_id=id)
            owner: str | None = id
        else:
            reply, owner = await self.ask("POST", f"/volumes/{volume}/detach"), None
        if reply.status_code == 200:
            self.owner = owner
        else:
            assert reply.json()["error"]["reason"] == "WRONG_STATE", reply.text

    def differences(self, libvirtd: Libvirtd, volume: str) -> list[str]:
        """Where libvirt has something else than was promised."""
        found = {}
        for domain in domains(libvirtd):
            power = {libvirt.VIR_DOMAIN_RUNNING: "RUNNING", libvirt.VIR_DOMAIN_PAUSED: "PAUSED"}.get(
                domain.state()[0], "STOPPED"
            )
            found[domain.UUIDString()] = (power, volume in domain.XMLDesc())
        wanted = {id: (power, self.owner == id) for id, power in self.powers.items()}
        return [
            f"{id}: {found.get(id)}, not {wanted.get(id)}" for id in found | wanted if found.get(id) != wanted.get(id)
        ]


@pytest.mark.timeout(900)
async def test_it_converges_after_twenty_kills_of_the_server_and_five_of_libvirtd(
    client: Client, libvirtd: Libvirtd, tiny: BootDisk
) -> None:
    print("THECLOUD_TEST_SEED =", SEED)
    dice, before, cloud = random.Random(SEED), taps(), client.cloud
    person = Insisting(client, dice)
    image = await registered(client, tiny)
    _, subnet = await client.vpc("prod", "10.0")
    box = (await client.person.running(name="box", subnet_id=subnet))["id"]
    friend = (await cloud.container(box))["Id"]
    volume = await client.make("/volumes", name="data", size_gb=1)
    machine = {"image": image, "instance_type": "basic-1", "subnet_id": subnet}
    for number in range(ROUNDS):
        async with asyncio.TaskGroup() as group:
            if len(person.powers) < 2:
                group.create_task(person.launch(name=f"vm-{number}", **machine))
            if person.powers:
                group.create_task(person.switch())
                group.create_task(person.move(volume))
            await asyncio.sleep(dice.choice([dice.uniform(0, 0.2), dice.uniform(0, 4)]))
            assert cloud.process
            await cloud.process.kill()
            if number % 4 == 3:
                libvirtd.kill()
                await asyncio.to_thread(libvirtd.start)
            await cloud.up()

    for id, power in person.powers.items():
        if power != "RUNNING":
            reply = await person.ask("PUT", f"/instances/{id}", status="RUNNING")
            assert reply.status_code == 200, reply.text
            person.powers[id] = "RUNNING"
    try:
        await settled(client, f"/volumes/{volume}")
    except TimeoutError:
        seen = await client.do("GET", f"/volumes/{volume}")
        owner = await client.do("GET", f"/instances/{seen['instance_id']}")
        waits = await cloud.value("select string_agg(w::text, ' ') from work w where kind = 'instance'")
        pytest.fail(f"{seen}\n{owner}\n{waits}\n{person.differences(libvirtd, volume)}")
    if person.owner is None:
        for id in person.powers:  # a machine that is just starting takes no volume
            await settled(client, f"/instances/{id}", status="RUNNING")
        await person.move(volume)

    async def as_promised() -> bool:
        return not await asyncio.to_thread(person.differences, libvirtd, volume)

    try:
        await until(as_promised, 2 * BOOT)
    except TimeoutError:
        pytest.fail("\n".join(person.differences(libvirtd, volume)))
    for id in person.powers:
        seen = await settled(client, f"/instances/{id}", status="RUNNING")
        await printed(client, id, "GUEST_READY")
        await eventually(f"hello from {seen['name']}\n", lambda address=seen["private_ip"]: page(friend, address))  # type: ignore[misc]
    assert person.owner
    disk = await disk_of(client, person.owner, volume)
    await execute(client, person.owner, f"echo kept > /disks/{disk}/file")
    for id in (box, *person.powers):
        await client.do("DELETE", f"/instances/{id}")
    for id in (box, *person.powers):
        await client.person.gone(id, 60)
    await client.do("DELETE", f"/volumes/{volume}")
    await client.do("DELETE", f"/images/{image}")
    await nothing_left(cloud, libvirtd, before)


async def nothing_left(cloud: Thecloud, libvirtd: Libvirtd, before: set[str]) -> None:
    """Neither domains, nor files, nor taps, nor leases."""

    async def gone() -> bool:
        folders = [cloud.folder / name for name in ("machines", "data/images", "data/volumes")]
        files = {file.name for folder in folders for file in folder.rglob("*") if file.is_file()}
        return not (files - {"virt-type"} or await asyncio.to_thread(domains, libvirtd) or taps() - before)

    await until(gone, 30)
