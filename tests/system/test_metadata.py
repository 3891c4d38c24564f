"""The metadata of instances with real packets: containers in VPCs, one of them hostile, and the server killed."""

import asyncio
import socket
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from drivers import linux_kernel
from drivers.network import METADATA
from tests.conftest import until
from tests.drivers.packets import Box, checksum
from tests.services.test_ssh_keys import ED25519
from tests.system.conftest import network_of
from tests.system.test_networks import Client, client, nothing_left

__all__ = ["client"]  # a fixture
TTL, TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"


def sent(box: Box, data: bytes) -> bytes:
    """What comes back for these bytes, up to the end; nothing when there is nobody."""
    found = b""
    with suppress(OSError), box.connect(METADATA, 80) as one:
        one.sendall(data)
        while part := one.recv(65536):
            found += part
    return found


def asked(box: Box, verb: str, path: str, **headers: str) -> tuple[int, str]:
    """Status and text of the answer; 0 when there is none."""
    lines = [f"{verb} {path} HTTP/1.1", f"Host: {METADATA}", *(f"{name}: {value}" for name, value in headers.items())]
    head, _, body = sent(box, "\r\n".join([*lines, "", ""]).encode()).partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else 0), body.decode()


def token(box: Box, seconds: int = 60) -> str:
    status, text = asked(box, "PUT", "/latest/api/token", **{TTL: str(seconds)})
    return text if status == 200 else ""


def read(box: Box, path: str, by: str | None = None) -> tuple[int, str]:
    return asked(box, "GET", path, **{TOKEN: token(box) if by is None else by})


async def soon(condition: Callable[[], object]) -> None:
    """Wait until it is so, which is not to take long."""
    await until(lambda: asyncio.to_thread(condition), 5)


async def test_instances_are_told_who_they_are_and_nobody_else_is(client: Client) -> None:
    await client.make("/ssh-keys", name="laptop", public_key=ED25519)
    vpc, subnet = await client.vpc("prod", "10.0")
    closed = await client.make("/security-groups", vpc_id=vpc, name="closed")
    await client.make(f"/security-groups/{closed}/rules", direction="egress", protocol="tcp", port_min=1, port_max=1,
                      cidr="192.0.2.1/32")  # fmt: skip
    a = await client.person.running(name="web-01", subnet_id=subnet, ssh_key_id="laptop", user_data="#!/bin/sh\n",
                                    security_groups=["closed"])  # fmt: skip
    b = await client.person.running(name="web-02", subnet_id=subnet)
    _, foreign = await client.vpc("other", "10.0")
    c = await client.person.running(name="web-01", subnet_id=foreign)
    assert c["private_ip"] == a["private_ip"]
    in_a, in_b, in_c = [await client.box(one) for one in (a, b, c)]

    for box, instance in ((in_a, a), (in_b, b), (in_c, c)):
        await soon(lambda box=box: token(box))  # type: ignore[misc]
        assert await asyncio.to_thread(read, box, "/latest/meta-data/instance-id") == (200, instance["id"])

    def looks() -> None:
        assert read(in_a, "/latest/user-data") == (200, "#!/bin/sh\n")
        assert read(in_a, "/latest/meta-data/public-keys/0/openssh-key") == (200, f"{ED25519} laptop")
        assert asked(in_a, "GET", "/latest/user-data")[0] == 401
        for wrong in ("x", token(in_b), token(in_c)):
            assert read(in_a, "/latest/user-data", wrong)[0] == 401
        passed_on = {TTL: "60", "X-Forwarded-For": "10.0.1.9"}
        assert asked(in_a, "PUT", "/latest/api/token", **passed_on)[0] == 403
        for port in (22, 53, 81, 8080, int(client.cloud.http.rpartition(":")[2])):
            assert in_a.tcp(METADATA, port) is None
        assert in_a.tcp("10.0.1.1", 80) is None
        assert not in_a.ping(METADATA)

    await asyncio.to_thread(looks)
    short = token(in_a, 1)
    await soon(lambda: read(in_a, "/latest/meta-data/", short)[0] == 401)


async def test_software_in_a_container_uses_it_without_a_route_of_the_subnet(client: Client) -> None:
    """What people do: `wget` and `nc`, in a subnet that has no route at all but the local one."""
    _, subnet = await client.vpc("prod", "10.0")
    made = await client.person.running(name="web-01", subnet_id=subnet)
    container = (await client.cloud.container(made["id"]))["Id"]
    script = f"""
        ask() {{ printf 'PUT /latest/api/token HTTP/1.0\\r\\n{TTL}: 60\\r\\n\\r\\n'; sleep 2; }}
        token=$(ask | nc -w 5 {METADATA} 80 | tail -n 1)
        wget -q -O - --header "{TOKEN}: $token" http://{METADATA}/latest/meta-data/instance-id
    """

    def output() -> str:
        command = ["docker", "exec", container, "sh", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout

    # It waits for the answer before it closes: who closes first may get none.
    await until(lambda: asyncio.to_thread(lambda: output() == made["id"]), 30)


async def test_with_another_instances_address_nothing_is_learnt(client: Client) -> None:
    """Not even by one that routes lead to, which may send for others."""
    vpc, subnet = await client.vpc("prod", "10.0")
    a, b = [await client.person.running(name=name, subnet_id=subnet) for name in ("web-01", "web-02")]
    in_a, in_b = await client.box(a), await client.box(b)
    await soon(lambda: token(in_a))
    [main] = await client.do("GET", f"/route-tables?vpc_id={vpc}")
    await client.do("POST", f"/route-tables/{main['id']}/routes", destination_cidr="192.0.2.0/24",
                    target_type="instance", target_id=b["id"])  # fmt: skip
    await client.programmed(vpc)
    with linux_kernel.entered(in_a.path), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0008) as heard:
        heard.bind(("eth0", 0x0800))
        heard.settimeout(0.5)
        mine = tcp_syn(a["private_ip"], METADATA)
        for box, answered in ((in_b, False), (in_a, True)):
            with box.opened(socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                raw.sendto(mine, (METADATA, 0))
            assert await asyncio.to_thread(hears, heard, METADATA) == answered


def tcp_syn(source: str, target: str) -> bytes:
    """A packet that begins a connection to port 80."""
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    segment = struct.pack("!HHIIBBHHH", 40000, 80, 1, 0, 0x50, 2, 1000, 0, 0)
    check = checksum(ends + struct.pack("!BBH", 0, 6, 20) + segment)
    segment = segment[:16] + struct.pack("!H", check) + segment[18:]
    return struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + ends + segment


def hears(wire: socket.socket, sender: str) -> bool:
    """Whether a TCP packet of the sender comes, and may go no further than here."""
    with suppress(TimeoutError):
        while True:
            packet = wire.recv(2000)[14:]
            if packet[9] == 6 and packet[12:16] == socket.inet_aton(sender):
                assert packet[8] == 1  # hops
                return True
    return False


async def test_it_goes_on_after_a_restart_and_with_a_new_router_and_ends_with_the_vpc(client: Client) -> None:
    vpc, subnet = await client.vpc("prod", "10.0")
    made = await client.person.running(name="web-01", subnet_id=subnet)
    box = await client.box(made)
    await soon(lambda: token(box))
    by = token(box)
    assert client.cloud.process
    await client.cloud.process.kill()
    assert token(box) == ""
    client.cloud.environment["THECLOUD_WORKERS"] = "2"  # who share the port
    await client.cloud.up()
    await soon(lambda: read(box, "/latest/meta-data/instance-id", by) == (200, made["id"]))

    name = network_of(client.cloud)._name(UUID(vpc))
    await asyncio.to_thread(subprocess.run, ["ip", "netns", "delete", name], check=True)
    await until(lambda: asyncio.to_thread(lambda: token(box) and read(box, "/latest/", by)[0] == 200), 40)

    await client.do("DELETE", f"/instances/{made['id']}")
    await client.person.gone(made["id"])
    await client.do("DELETE", f"/vpcs/{vpc}")
    await until(lambda: nothing_left(client.cloud))


async def test_those_who_are_slow_or_many_are_cut_off_and_others_are_served(client: Client) -> None:
    _, subnet = await client.vpc("prod", "10.0")
    a, b = [await client.person.running(name=name, subnet_id=subnet) for name in ("web-01", "web-02")]
    in_a, in_b = await client.box(a), await client.box(b)
    await soon(lambda: token(in_a))

    def hostile() -> None:
        held = [in_a.connect(METADATA, 80) for _ in range(40)]
        for one in held:
            with suppress(OSError):
                one.sendall(b"PUT /latest/api/token HTTP/1.1\r\nx:")
        assert token(in_a) == ""
        assert token(in_b)
        ended = 0
        for one in held:
            one.settimeout(15)
            with suppress(ConnectionError):
                assert one.recv(100) == b""
            ended += 1
            one.close()
        assert ended == 40
        assert token(in_a)
        assert b" 400 " in sent(in_a, b"PUT / HTTP/1.1\r\nx: " + b"y" * 200_000)[:40]
        for junk in (b"\x00" * 100, b"GET\r\n\r\n", b"PUT /latest/api/token HTTP/1.1\r\nTransfer-Encoding: x\r\n\r\n"):
            assert b" 200 " not in sent(in_a, junk)[:40]
        statuses = [asked(in_a, "GET", "/")[0] for _ in range(400)]
        assert {401} <= set(statuses) <= {401, 429}
        assert token(in_b)

    await asyncio.to_thread(hostile)
