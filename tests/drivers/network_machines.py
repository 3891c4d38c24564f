"""What holds of a virtual machine in a VPC, with packets from and to a guest that boots.

The tests of a network driver are a class that inherits from NetworkMachines.
"""

import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest

from drivers import linux_kernel as kernel
from drivers.contracts import Attachment, BootDisk, InstanceSpec, Terminal
from drivers.libvirt import LibvirtCompute
from drivers.network import Group, NetworkDriver, Topology
from tests.drivers.contract import read_until, settled
from tests.drivers.packets import Box
from tests.drivers.wires import Wires, allow, with_groups
from tests.libvirtd import Libvirtd, printed

MAC = "02:00:00:00:00:77"
Networks = Callable[[], NetworkDriver]


@dataclass
class Guest:
    """A machine with its VPC, of which it is the last port."""

    spec: InstanceSpec
    vpc: Topology
    box: Box  # another instance of its subnet

    @property
    def address(self) -> str:
        return self.vpc.ports[-1].address

    def page(self, path: str = "index.html") -> bytes:
        """What its HTTP server answers to the other instance; empty when nothing comes back."""
        read = b""
        try:
            with self.box.connect(self.address, 80) as one:
                one.settimeout(20)
                one.send(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
                while data := one.recv(65536):
                    read += data
        except OSError:
            return b""
        return read


async def started(virtual: LibvirtCompute, guest: Guest) -> str:
    """Its tap, which is on the host and down: it reaches nobody there."""
    seen = await virtual.apply(guest.spec)
    assert seen.tap
    assert not kernel.is_up(seen.tap)
    assert kernel.index(seen.tap)
    guest.vpc = replace(guest.vpc, ports=(*guest.vpc.ports[:-1], replace(guest.vpc.ports[-1], tap=seen.tap)))
    return seen.tap


async def run(terminal: Terminal, command: str) -> int:
    """The exit code of a command in the guest."""
    await terminal.write(f"{command}; echo code $? end''ed\n".encode())
    text = await read_until(terminal, b" ended", seconds=20)
    code = re.search(rb"code (\d+) ended", text)
    assert code
    return int(code[1])


class NetworkMachines:
    """Subclasses have the fixture `networks`, which makes driver after driver of one cloud."""

    def plugged(self, tap: str) -> object:
        """What stays the same as long as the tap is not plugged anew; None while it is not plugged."""
        raise NotImplementedError

    @pytest.fixture
    async def network(self, networks: Networks) -> AsyncIterator[NetworkDriver]:
        network = networks()
        yield network
        for id in await network.list():
            await network.delete(id)

    @pytest.fixture
    def wires(self) -> Iterator[Wires]:
        with ExitStack() as stack:
            yield Wires(stack)

    @pytest.fixture
    async def guest(
        self, virtual: LibvirtCompute, network: NetworkDriver, wires: Wires, tiny: BootDisk
    ) -> AsyncIterator[Guest]:
        """Made and stopped, with a tap in the topology as soon as it runs."""
        vpc = wires.vpc()
        box, subnet = wires.boxes[vpc.ports[0].id], vpc.subnets[0]
        attachment = Attachment(
            address="10.0.1.50", resolver=subnet.gateway_ip, domain="internal", mac=MAC, prefix_length=24,
            gateway=subnet.gateway_ip, wire=await network.wire(),
        )  # fmt: skip
        spec = InstanceSpec(
            id=uuid4(), tenant_id=uuid4(), name="vm", image="guest", vcpus=1, memory_mb=192, disk=tiny,
            attachment=attachment,
        )  # fmt: skip
        port = replace(wires.port(subnet, 50), instance_id=spec.id, mac=MAC, netns=None)
        seen = await settled(virtual, replace(spec, power="STOPPED"))
        assert seen.tap is None
        yield Guest(spec, replace(vpc, ports=(*vpc.ports, port)), box)
        await virtual.delete(spec.id)

    async def test_a_virtual_machine_is_an_instance_of_its_vpc_like_any_other(
        self, virtual: LibvirtCompute, network: NetworkDriver, networks: Networks, guest: Guest, libvirtd: Libvirtd
    ) -> None:
        tap = await started(virtual, guest)
        await network.apply(guest.vpc)
        plugged = self.plugged(tap)
        assert plugged
        assert await network.observe(guest.vpc.vpc_id) == guest.vpc
        assert b"GUEST_READY vm 10.0.1.50/24" in await printed(virtual, guest.spec, b"GUEST_READY")
        terminal = await virtual.console(guest.spec.id)
        other = guest.vpc.ports[0].address

        mtu = (await network.wire()).mtu or 1500
        assert await run(terminal, f"grep -x {mtu} /sys/class/net/eth0/mtu") == 0

        # Both ways, within its subnet and to another
        assert guest.box.ping(guest.address)
        assert b"hello from vm" in guest.page()
        assert await run(terminal, f"ping -c 1 -W 2 {other}") == 0
        assert await run(terminal, f"echo | nc -w 2 {guest.vpc.ports[2].address} 80 | grep 10.0.1.50") == 0
        assert await run(terminal, f"ping -c 1 -W 2 {guest.vpc.subnets[0].gateway_ip}") == 0

        # To others it hears of a way, and of nobody who has its own address
        assert await run(terminal, f"arping -c 1 -w 2 -I eth0 {other} | grep Unicast") == 0
        assert await run(terminal, f"arping -c 1 -w 2 -I eth0 {guest.address} | grep Unicast") != 0

        # What is there already is not changed, by nobody
        with guest.box.connect(guest.address, 80) as one:
            for driver in (network, networks(), network):
                await driver.apply(guest.vpc)
            assert self.plugged(tap) == plugged
            one.send(b"GET / HTTP/1.0\r\n\r\n")
            one.settimeout(10)
            assert one.recv(100)

        # Groups
        closed = with_groups(guest.vpc, 3, Group(id=uuid4()))
        await network.apply(closed)
        assert not guest.box.ping(guest.address)
        assert guest.page() == b""
        await network.apply(with_groups(guest.vpc, 3, Group(id=uuid4(), rules=(allow(),))))
        assert not guest.box.ping(guest.address)
        assert b"hello from vm" in guest.page()
        await network.apply(guest.vpc)

        # Its own address and MAC only
        await run(terminal, "ip addr add 10.0.1.99/32 dev eth0")
        assert await run(terminal, f"ping -c 1 -W 2 -I {guest.address} {other}") == 0
        assert await run(terminal, f"ping -c 1 -W 2 -I 10.0.1.99 {other}") != 0
        assert await run(terminal, "ip link set eth0 address 02:00:00:00:00:99") == 0
        assert await run(terminal, f"ping -c 1 -W 2 -I {guest.address} {other}") != 0
        assert await run(terminal, f"ip link set eth0 address {MAC}") == 0
        assert await run(terminal, f"ping -c 1 -W 2 -I {guest.address} {other}") == 0

        # libvirtd comes back while its tap is away
        libvirtd.kill()
        libvirtd.start()
        seen = await virtual.observe(guest.spec.id)
        assert seen is not None
        assert (seen.power, seen.tap) == ("RUNNING", tap)
        assert guest.box.ping(guest.address)
        assert (await virtual.stats(guest.spec.id)).memory_usage_bytes

        # The VPC goes and comes back
        await network.delete(guest.vpc.vpc_id)
        assert kernel.index(tap)
        assert not kernel.is_up(tap)
        assert self.plugged(tap) is None
        await network.apply(guest.vpc)
        assert guest.box.ping(guest.address)

        # With its machine the tap is gone, and with the next start a new one is plugged
        await virtual.apply(replace(guest.spec, power="STOPPED"))
        there = await network.observe(guest.vpc.vpc_id)
        assert there is not None
        assert there.ports == guest.vpc.ports[:-1]
        await network.apply(guest.vpc)  # it counts as not running
        assert await started(virtual, guest) == tap
        await network.apply(guest.vpc)
        assert await network.observe(guest.vpc.vpc_id) == guest.vpc
        assert self.plugged(tap)
        await printed(virtual, guest.spec, b"GUEST_READY", times=2)
        assert guest.box.ping(guest.address)
        await virtual.delete(guest.spec.id)
        await network.delete(guest.vpc.vpc_id)
        assert not kernel.index(tap)
        assert not await network.list()

    async def test_what_a_virtual_machine_gets_and_sends_has_a_rate(
        self, virtual: LibvirtCompute, network: NetworkDriver, guest: Guest
    ) -> None:
        size = 2_000_000

        def download() -> float:
            start = time.monotonic()
            assert len(guest.page("large")) > size
            return time.monotonic() - start

        async def upload() -> float:
            start = time.monotonic()
            with guest.box.connect(guest.address, 81) as one:
                one.settimeout(30)
                one.sendall(bytes(size))
                one.shutdown(1)
                while one.recv(1000):
                    pass
            return time.monotonic() - start

        await started(virtual, guest)
        await network.apply(guest.vpc)
        await printed(virtual, guest.spec, b"GUEST_READY")
        terminal = await virtual.console(guest.spec.id)
        assert await run(terminal, f"head -c {size} /dev/zero > /www/large") == 0
        await run(terminal, "{ while :; do nc -l -p 81 > /dev/null; done; } & true")
        assert download() < 2
        assert await upload() < 2
        *others, port = guest.vpc.ports
        await network.apply(replace(guest.vpc, ports=(*others, replace(port, mbps=4))))
        seconds = size * 8 / 4e6
        assert seconds - 1.2 < download() < seconds * 3  # what may be sent in a second may be sent at once
        assert seconds - 0.5 < await upload() < seconds * 2
        await network.apply(guest.vpc)
        assert download() < 2
        assert await upload() < 2
