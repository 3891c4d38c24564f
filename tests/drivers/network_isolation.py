"""The part of the network contract that is about those who mean ill. NetworkContract has it."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from drivers import linux_kernel as kernel
from drivers.network import ElasticIp, Group, NetworkDriver, Topology
from tests.drivers.packets import arp_reply, datagram, fragment
from tests.drivers.wires import ANYWHERE, Wires, addresses_of_the_host, allow, ip, with_groups, with_route


@contextmanager
def listeners_of_the_host() -> Iterator[list[tuple[str, int]]]:
    """Sockets that listen on addresses of the host: two of its own making, and those of bridges of Docker's."""
    with ExitStack() as stack:
        found = [one for one in addresses_of_the_host() if one.startswith(("172.17.", "172.18."))]
        for number, address in enumerate(("198.19.7.1", "172.31.7.1")):
            name = f"test-{number}-{uuid4().hex[:6]}"
            ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
            stack.callback(ip, "link", "delete", name)
            ip("address", "add", f"{address}/32", "dev", name)
            for end in (name, f"{name}p"):
                ip("link", "set", end, "up")
            found.append(address)
        listening = []
        for address in found:
            one = stack.enter_context(socket.socket())
            one.bind((address, 0))
            one.listen()
            with socket.create_connection(one.getsockname(), 2):
                listening.append(one.getsockname())
        yield listening


class Isolation:
    OUTSIDE: str
    CANNOT: frozenset[str] = frozenset()

    async def test_nothing_that_listens_on_the_host_is_reached(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        igw, a = uuid4(), vpc.ports[0]
        vpc = with_route(replace(vpc, internet_gateway=igw), ANYWHERE, "internet_gateway", igw)
        elastic = ElasticIp(id=uuid4(), public_ip=f"{self.OUTSIDE}.5.1", port_id=a.id)
        with listeners_of_the_host() as listening:
            for elastic_ips in ((), (elastic,)):
                await driver.apply(replace(vpc, elastic_ips=elastic_ips))
                for address, port in listening:
                    with wires.boxes[a.id].opened(socket.SOCK_STREAM) as one:
                        assert one.connect_ex((address, port)) != 0

    async def test_another_tenants_gateways_and_private_addresses_are_not_reached(
        self, driver: NetworkDriver, wires: Wires
    ) -> None:
        made = []
        for number, net in enumerate(("10.1", "10.2")):
            vpc, igw = wires.vpc(net), uuid4()
            vpc = with_route(replace(vpc, internet_gateway=igw), ANYWHERE, "internet_gateway", igw)
            vpc = with_groups(vpc, 0, Group(id=uuid4(), rules=(allow("all"),)))
            address = f"{self.OUTSIDE}.5.{number + 1}"
            vpc = replace(vpc, elastic_ips=(ElasticIp(id=uuid4(), public_ip=address, port_id=vpc.ports[0].id),))
            await driver.apply(vpc)
            made.append(vpc)
        one, two = made
        box = wires.boxes[one.ports[0].id]
        assert box.tcp(two.elastic_ips[0].public_ip, 80) == one.elastic_ips[0].public_ip
        for address in (*(subnet.gateway_ip for subnet in two.subnets), *(port.address for port in two.ports)):
            assert not box.ping(address)
            assert box.tcp(address, 80) is None
            assert box.udp(address, 80) is None

    async def test_answering_arp_for_others_changes_nothing(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        await driver.apply(vpc)
        a, b, c = vpc.ports
        wires.boxes[b.id].listen(90)  # only b itself answers there
        liar, gateway = wires.boxes[a.id], vpc.subnets[0].gateway_ip
        for address in (b.address, c.address, gateway):
            ip("-n", liar.path[11:], "addr", "add", f"{address}/32", "dev", "eth0")
        for _ in range(3):
            for claimed in (b.address, c.address, gateway):
                for asker, mac in ((b.address, b.mac), (gateway, "ff:ff:ff:ff:ff:ff")):
                    liar.frame("eth0", arp_reply(a.mac, claimed, mac, asker))
            assert wires.boxes[c.id].tcp(b.address, 90) == c.address
            assert wires.boxes[b.id].tcp(c.address, 80) == b.address
            assert wires.boxes[b.id].ping(gateway)

    async def test_fragments_are_judged_as_what_they_are_parts_of(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        a, b, _ = vpc.ports
        await driver.apply(with_groups(vpc, 1, Group(id=uuid4(), rules=(allow("udp", 80, 80),))))
        box = wires.boxes[a.id]
        with (
            box.opened(socket.SOCK_DGRAM) as mouth,
            box.opened(socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
            wires.boxes[b.id].opened(socket.SOCK_DGRAM) as ear,
        ):
            ear.bind(("", 90))
            mouth.connect((b.address, 80))
            mouth.send(bytes(4000))
            if "fragments" not in self.CANNOT:  # what is allowed arrives in fragments too
                assert mouth.recv(100).decode() == a.address
            mouth.connect((b.address, 90))
            mouth.send(bytes(4000))
            allowed, other = datagram(5000, 80, bytes(16)), datagram(5000, 90, bytes(16))
            for number, parts in enumerate(
                (
                    [(0, other[:8], True), (8, other[8:], False)],
                    [(8, other[8:], False), (0, other[:8], True)],
                    [(0, allowed[:8], True), (0, other[:8], True), (8, other[8:], False)],
                    [(0, allowed, True), (0, other, False)],
                )
            ):
                for offset, data, more in parts:
                    raw.sendto(fragment(a.address, b.address, number + 1, offset, data, more), (b.address, 0))
            with pytest.raises(TimeoutError):
                ear.recv(1)

    async def test_ipv6_is_no_way_around_groups(self, driver: NetworkDriver, wires: Wires, vpc: Topology) -> None:
        await driver.apply(with_groups(vpc, 1, Group(id=uuid4(), rules=(allow("icmp"),))))
        a, b, _ = vpc.ports
        boxes = [wires.boxes[one.id] for one in (a, b)]
        assert boxes[0].ping(b.address)
        router = ip("-n", boxes[0].path[11:], "neigh", "show", vpc.subnets[0].gateway_ip)
        routers_mac = router.split("lladdr ")[1].split()[0] if "lladdr " in router else b.mac
        for box, address in zip(boxes, ("fd00::a", "fd00::b"), strict=True):
            ip("-n", box.path[11:], "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
        with kernel.entered(boxes[1].path):
            ear = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            with ear:
                ear.settimeout(0.4)
                ear.bind(("::", 90))
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own:
                    own.sendto(b"own", ("fd00::b", 90))
                assert ear.recv(10) == b"own"
                for mac in (b.mac, routers_mac, "33:33:00:00:00:01"):
                    ip("-n", boxes[0].path[11:], "neigh", "replace", "fd00::b", "lladdr", mac, "dev", "eth0")
                    with kernel.entered(boxes[0].path), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as mouth:
                        mouth.sendto(b"foreign", ("fd00::b", 90))
                with pytest.raises(TimeoutError):
                    ear.recv(10)
