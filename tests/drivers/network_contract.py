"""What every network driver must do: drivers/network.py as tests, with packets.

A driver's test subclasses the contract and gives it a `driver` fixture that no other test shares,
and `OUTSIDE`, the range of its external network. What it cannot do is named in its CANNOT.
"""

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from drivers.network import (
    ElasticIp,
    Group,
    NatGateway,
    NetworkDriver,
    Peering,
    Port,
    Route,
    RouteTable,
    Rule,
    Subnet,
    Topology,
)
from tests.drivers.packets import Box

ANYWHERE = "0.0.0.0/0"


def allow(protocol: str = "tcp", first: int = 80, last: int = 80, **more: object) -> Rule:
    """An ingress rule, from anywhere."""
    source: dict[str, object] = {} if "group_id" in more else {"cidr": ANYWHERE}
    parts = {"direction": "ingress", "port_min": first, "port_max": last} | source | more
    return Rule(id=uuid4(), protocol=protocol, **parts)  # type: ignore[arg-type]


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10).stdout


def addresses_of_the_host() -> list[str]:
    lines = ip("-4", "-o", "address", "show", "scope", "global").splitlines()
    return [line.split()[3].partition("/")[0] for line in lines]


class Wires:
    """Namespaces in the place of instances, and the topologies they are in; all gone at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.boxes: dict[UUID, Box] = {}
        self._macs = 0

    def box(self) -> Box:
        name = f"test-{uuid4()}"
        ip("netns", "add", name)
        self._stack.callback(ip, "netns", "delete", name)
        box = Box(f"/run/netns/{name}").listen(80, 81, 82)
        self._stack.callback(box.close)
        return box

    def port(self, subnet: Subnet, last: int, *groups: UUID) -> Port:
        """A port with a running instance."""
        self._macs += 1
        box = self.box()
        port = Port(
            id=uuid4(),
            instance_id=uuid4(),
            subnet_id=subnet.id,
            mac=f"02:00:00:00:00:{self._macs:02x}",
            address=f"{subnet.cidr.rpartition('.')[0]}.{last}",
            groups=groups,
            netns=box.path,
        )
        self.boxes[port.id] = box
        return port

    def vpc(self, net: str = "10.0", first: int = 10) -> Topology:
        """Two subnets, two instances in the first and one in the second, local routes."""
        table = RouteTable(id=uuid4(), routes=(Route(destination=f"{net}.0.0/16", target="local"),))
        one, two = (
            Subnet(id=uuid4(), cidr=f"{net}.{n}.0/24", gateway_ip=f"{net}.{n}.1", route_table_id=table.id)
            for n in (1, 2)
        )
        ports = (self.port(one, first), self.port(one, first + 1), self.port(two, first))
        return Topology(
            vpc_id=uuid4(), tenant_id=uuid4(), cidrs=(f"{net}.0.0/16",), subnets=(one, two), ports=ports,
            route_tables=(table,),
        )  # fmt: skip


def with_route(vpc: Topology, destination: str, target: str, id: UUID | None = None) -> Topology:
    table = vpc.route_tables[0]
    route = Route(destination=destination, target=target, target_id=id)  # type: ignore[arg-type]
    return replace(vpc, route_tables=(replace(table, routes=(*table.routes, route)), *vpc.route_tables[1:]))


def with_groups(vpc: Topology, number: int, *groups: Group) -> Topology:
    """The groups, and this port in all of them."""
    ports = list(vpc.ports)
    ports[number] = replace(ports[number], groups=tuple(group.id for group in groups))
    return replace(vpc, ports=tuple(ports), groups=groups)


class NetworkContract:
    """CANNOT may name: packets."""

    OUTSIDE: str  # the first two bytes of the external network; a box in a test is at .9.9 there
    CANNOT: frozenset[str] = frozenset()

    @pytest.fixture
    def wires(self) -> Iterator[Wires]:
        with ExitStack() as stack:
            yield Wires(stack)

    @pytest.fixture
    def vpc(self, wires: Wires) -> Topology:
        return wires.vpc()

    # Subnets and isolation

    async def test_instances_of_a_vpc_reach_each_other(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        await driver.apply(vpc)
        a, b, c = vpc.ports
        for other in (b, c):
            assert wires.boxes[a.id].ping(other.address)
            assert wires.boxes[a.id].tcp(other.address, 80) == a.address
            assert wires.boxes[other.id].udp(a.address, 80) == other.address

    async def test_vpcs_with_the_same_range_are_apart(self, driver: NetworkDriver, wires: Wires, vpc: Topology) -> None:
        other = wires.vpc(first=20)
        await driver.apply(vpc)
        await driver.apply(other)
        assert wires.boxes[vpc.ports[0].id].ping(vpc.ports[1].address)
        assert wires.boxes[other.ports[0].id].ping(other.ports[1].address)
        assert not wires.boxes[vpc.ports[0].id].ping(other.ports[1].address)

    async def test_nothing_reaches_the_host_or_link_local_addresses(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        igw = uuid4()
        vpc = with_route(replace(vpc, internet_gateway=igw), ANYWHERE, "internet_gateway", igw)
        vpc = replace(
            vpc, elastic_ips=(ElasticIp(id=uuid4(), public_ip=f"{self.OUTSIDE}.5.1", port_id=vpc.ports[0].id),)
        )
        await driver.apply(vpc)
        box = wires.boxes[vpc.ports[0].id]
        assert box.ping(vpc.subnets[0].gateway_ip)
        assert box.tcp(vpc.subnets[0].gateway_ip, 80) is None
        for address in (*addresses_of_the_host(), f"{self.OUTSIDE}.0.1", "169.254.169.254"):
            assert not box.ping(address)
            assert box.tcp(address, 22) is None

    async def test_a_spoofed_address_or_mac_is_dropped(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        await driver.apply(vpc)
        a, b, _ = vpc.ports
        box, path = wires.boxes[a.id], wires.boxes[a.id].path
        ip("-n", path[11:], "addr", "add", "10.0.1.99/32", "dev", "eth0")
        assert box.ping(b.address, source=a.address)
        assert not box.ping(b.address, source="10.0.1.99")
        ip("-n", path[11:], "link", "set", "eth0", "address", "02:00:00:00:00:99")
        assert not box.ping(b.address, source=a.address)
        ip("-n", path[11:], "link", "set", "eth0", "address", a.mac)
        assert box.ping(b.address, source=a.address)

    # Names

    async def test_instances_find_each_other_by_name(self, driver: NetworkDriver, wires: Wires, vpc: Topology) -> None:
        a, b, c = vpc.ports
        named = replace(vpc, ports=(replace(a, hostnames=("web", "web-1.example.internal")),
                                    replace(b, hostnames=("web",), netns=None), c))  # fmt: skip
        await driver.apply(named)
        assert await driver.observe(vpc.vpc_id) == named
        for port, subnet in ((a, vpc.subnets[0]), (c, vpc.subnets[1])):
            box, server = wires.boxes[port.id], subnet.gateway_ip
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                assert box.resolve(server, "web", kind) == {a.address, b.address}
                assert box.resolve(server, "web-1.example.internal", kind) == {a.address}
                for absent in ("db", "example.com", "web.example.com", "localhost"):
                    assert box.resolve(server, absent, kind) == set()
        await driver.apply(replace(vpc, ports=(a, replace(b, hostnames=("db",)), c)))
        box, server = wires.boxes[a.id], vpc.subnets[0].gateway_ip
        assert box.resolve(server, "web") == set()
        assert box.resolve(server, "db") == {b.address}
        await driver.apply(vpc)
        assert box.resolve(server, "db") is None
        assert box.ping(server)

    async def test_names_are_answered_whatever_routes_and_groups_there_are(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        a, b, c = vpc.ports
        vpc = replace(vpc, route_tables=(replace(vpc.route_tables[0], routes=()),))
        vpc = replace(vpc, ports=(a, replace(b, hostnames=("web",)), c))
        vpc = with_groups(vpc, 0, Group(id=uuid4(), rules=(allow(direction="egress", cidr="10.0.2.0/24"),)))
        await driver.apply(vpc)
        box, server = wires.boxes[a.id], vpc.subnets[0].gateway_ip
        assert box.resolve(server, "web") == {b.address}
        assert box.ping(server)
        assert not box.ping(b.address)

    async def test_names_are_those_of_the_own_vpc_and_nobody_elses_to_ask(
        self, driver: NetworkDriver, wires: Wires, outside: Callable[[], Box]
    ) -> None:
        one, two, peer = wires.vpc("10.1"), wires.vpc("10.1", first=20), wires.vpc("10.2")
        one, two = (
            replace(vpc, ports=(replace(vpc.ports[0], hostnames=("web",)), *vpc.ports[1:])) for vpc in (one, two)
        )
        igw, id = uuid4(), uuid4()
        one = with_route(replace(one, internet_gateway=igw), ANYWHERE, "internet_gateway", igw)
        elastic = ElasticIp(id=uuid4(), public_ip=f"{self.OUTSIDE}.5.1", port_id=one.ports[0].id)
        peering = Peering(id=id, peer_vpc_id=peer.vpc_id, peer_cidrs=peer.cidrs)
        one = with_route(replace(one, elastic_ips=(elastic,), peerings=(peering,)), peer.cidrs[0], "peering", id)
        back = Peering(id=id, peer_vpc_id=one.vpc_id, peer_cidrs=one.cidrs)
        peer = with_route(replace(peer, peerings=(back,)), one.cidrs[0], "peering", id)
        for vpc in (one, two, peer):
            await driver.apply(vpc)
        server, world = one.subnets[0].gateway_ip, outside()
        for vpc in (one, two):
            assert wires.boxes[vpc.ports[1].id].resolve(server, "web") == {vpc.ports[0].address}
        for box in (world, wires.boxes[peer.ports[0].id]):
            for address in (server, elastic.public_ip, one.ports[0].address):
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    assert box.resolve(address, "web", kind) is None

    async def test_no_query_is_lost_while_names_change(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        a, b, c = vpc.ports
        box, server, asked, stop = wires.boxes[a.id], vpc.subnets[0].gateway_ip, [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                asked.append(box.resolve(server, "web"))

        named = replace(vpc, ports=(replace(a, hostnames=("web",)), b, c))
        await driver.apply(named)
        asking = asyncio.create_task(asyncio.to_thread(ask))
        try:
            for number in range(20):
                await driver.apply(replace(named, ports=(named.ports[0], replace(b, hostnames=(f"db-{number}",)), c)))
                assert await asyncio.to_thread(box.resolve, server, f"db-{number}") == {b.address}
        finally:
            stop.set()
            await asking
        assert len(asked) > 20
        assert all(one == {a.address} for one in asked)

    # Groups

    async def test_with_a_group_only_what_a_rule_allows_comes_in(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        a, b, _ = vpc.ports
        box = wires.boxes[a.id]

        async def reached(*rules: Rule) -> tuple[bool, ...]:
            await driver.apply(with_groups(vpc, 1, Group(id=group, rules=rules)))
            tcp = (box.tcp(b.address, port) is not None for port in (80, 81, 82))
            return (box.ping(b.address), *tcp, box.udp(b.address, 80) is not None)

        group = uuid4()
        assert await reached() == (False, False, False, False, False)
        assert await reached(allow("icmp")) == (True, False, False, False, False)
        assert await reached(allow("tcp", 80, 81)) == (False, True, True, False, False)
        assert await reached(allow("udp", 80, 80)) == (False, False, False, False, True)
        assert await reached(allow("all")) == (True, True, True, True, True)
        assert await reached(allow(cidr="10.0.2.0/24")) == (False, False, False, False, False)
        assert await reached(allow(cidr="10.0.1.0/24"), allow("tcp", 82, 82)) == (False, True, False, True, False)
        assert wires.boxes[b.id].tcp(a.address, 81) == b.address  # all goes out, and replies come in

    async def test_an_egress_rule_closes_what_it_does_not_allow(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        a, b, c = vpc.ports
        rule = allow(direction="egress", cidr="10.0.2.0/24")
        await driver.apply(with_groups(vpc, 0, Group(id=uuid4(), rules=(rule, allow("all")))))
        box = wires.boxes[a.id]
        assert box.tcp(c.address, 80) == a.address
        assert box.tcp(c.address, 81) is None
        assert box.tcp(b.address, 80) is None
        assert wires.boxes[b.id].tcp(a.address, 81) == b.address

    async def test_a_group_as_source_means_its_instances(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        web, data = Group(id=uuid4()), Group(id=uuid4())
        data = replace(data, rules=(allow(group_id=web.id),))
        vpc = with_groups(with_groups(vpc, 1, data), 0, web)
        vpc = replace(vpc, groups=(web, data))
        await driver.apply(vpc)
        a, b, c = vpc.ports
        assert wires.boxes[a.id].tcp(b.address, 80) == a.address
        assert wires.boxes[c.id].tcp(b.address, 80) is None
        await driver.apply(replace(vpc, ports=(replace(a, groups=()), b, replace(c, groups=(web.id,)))))
        assert wires.boxes[a.id].tcp(b.address, 80) is None
        assert wires.boxes[c.id].tcp(b.address, 80) == c.address

    async def test_a_flow_ends_with_its_rule_and_survives_all_else(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        group = Group(id=uuid4(), rules=(allow(), allow("icmp")))
        open_to_all = with_groups(vpc, 1, group)
        await driver.apply(open_to_all)
        a, b, _ = vpc.ports
        with wires.boxes[a.id].connect(b.address, 80) as flow:
            assert Box.say(flow) == a.address
            await driver.apply(open_to_all)
            assert Box.say(flow) == a.address
            await driver.apply(with_groups(vpc, 1, replace(group, rules=group.rules[:1])))
            assert Box.say(flow) == a.address
            await driver.apply(with_groups(vpc, 1, replace(group, rules=group.rules[1:])))
            assert Box.say(flow) is None

    # Routes

    async def test_the_most_specific_route_is_taken(self, driver: NetworkDriver, wires: Wires, vpc: Topology) -> None:
        a, b, c = vpc.ports
        box = wires.boxes[a.id]
        await driver.apply(with_route(vpc, "10.0.2.0/24", "blackhole"))
        assert not box.ping(c.address)
        assert box.ping(b.address)
        await driver.apply(with_route(with_route(vpc, "10.0.2.0/24", "blackhole"), f"{c.address}/32", "local"))
        assert box.ping(c.address)
        await driver.apply(vpc)
        assert box.ping(c.address)

    async def test_a_route_may_lead_to_an_instance(self, driver: NetworkDriver, wires: Wires, vpc: Topology) -> None:
        a, b, _ = vpc.ports
        routed = with_route(vpc, "172.20.0.0/16", "instance", b.id)
        await driver.apply(routed)
        namespace = wires.boxes[b.id].path[11:]
        ip("-n", namespace, "addr", "add", "172.20.0.1/32", "dev", "lo")
        assert wires.boxes[a.id].ping("172.20.0.1")
        await driver.apply(replace(routed, ports=(a, replace(b, netns=None))))
        assert not wires.boxes[a.id].ping("172.20.0.1")

    async def test_an_instance_sends_no_faster_than_its_rate(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        a, b, c = vpc.ports

        async def seconds(mbps: int | None) -> float:
            await driver.apply(replace(vpc, ports=(replace(a, mbps=mbps), b, c)))
            with wires.boxes[a.id].connect(b.address, 80) as flow:
                flow.settimeout(10)
                begun = time.monotonic()
                await asyncio.to_thread(flow.sendall, bytes(6_000_000))
                return time.monotonic() - begun

        assert await seconds(20) > 0.5  # 6 MB are 2.4 s at that rate, less what buffers hold
        assert await seconds(None) < 0.5

    # Peerings

    async def test_a_peering_joins_two_vpcs_and_no_third(self, driver: NetworkDriver, wires: Wires) -> None:
        one, two, three = (wires.vpc(net) for net in ("10.1", "10.2", "10.3"))
        vpcs = {vpc.vpc_id: vpc for vpc in (one, two, three)}
        for left, right in ((one, two), (two, three)):
            id = uuid4()
            for own, peer in ((left, right), (right, left)):
                peering = Peering(id=id, peer_vpc_id=peer.vpc_id, peer_cidrs=peer.cidrs)
                vpc = replace(vpcs[own.vpc_id], peerings=(*vpcs[own.vpc_id].peerings, peering))
                vpcs[own.vpc_id] = with_route(vpc, peer.cidrs[0], "peering", id)
        first, second, third = vpcs.values()
        first = with_route(first, three.cidrs[0], "peering", first.peerings[0].id)
        third = with_route(third, one.cidrs[0], "peering", third.peerings[0].id)
        second = with_groups(second, 0, Group(id=uuid4(), rules=(allow("all", cidr="10.1.0.0/16"),)))
        for vpc in (first, second, third):
            await driver.apply(vpc)
        for vpc in (first, second, third):
            assert await driver.observe(vpc.vpc_id) == vpc
        box = wires.boxes[first.ports[0].id]
        assert box.tcp(second.ports[0].address, 80) == first.ports[0].address
        assert not box.ping(second.ports[1].address)  # without a group: closed to what is outside its VPC
        assert not wires.boxes[third.ports[0].id].ping(second.ports[0].address)
        assert not box.ping(third.ports[0].address)
        await driver.delete(second.vpc_id)
        assert not box.ping(second.ports[0].address)
        assert await driver.observe(first.vpc_id) != first

    # The way out

    async def test_an_elastic_ip_is_the_instance_both_ways(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology, outside: Callable[[], Box]
    ) -> None:
        igw, address = uuid4(), f"{self.OUTSIDE}.5.1"
        vpc = with_route(replace(vpc, internet_gateway=igw), ANYWHERE, "internet_gateway", igw)
        vpc = with_groups(vpc, 0, Group(id=uuid4(), rules=(allow(), allow("icmp"))))
        a, b, _ = vpc.ports
        elastic = ElasticIp(id=uuid4(), public_ip=address, port_id=a.id)
        await driver.apply(replace(vpc, elastic_ips=(elastic,)))
        world = outside()
        assert wires.boxes[a.id].tcp(f"{self.OUTSIDE}.9.9", 80) == address
        assert wires.boxes[b.id].tcp(f"{self.OUTSIDE}.9.9", 80) is None  # none of its own
        assert world.tcp(address, 80) == f"{self.OUTSIDE}.9.9"
        assert world.tcp(address, 81) is None
        with wires.boxes[a.id].connect(f"{self.OUTSIDE}.9.9", 80) as flow:
            await driver.apply(replace(vpc, elastic_ips=(replace(elastic, port_id=b.id),)))
            assert Box.say(flow) is None
        assert wires.boxes[b.id].tcp(f"{self.OUTSIDE}.9.9", 80) == address
        assert world.tcp(address, 80) is None  # b has no group: it is closed to the outside

    async def test_what_leaves_through_a_nat_gateway_has_its_address(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology, outside: Callable[[], Box]
    ) -> None:
        igw, public = uuid4(), f"{self.OUTSIDE}.6.1"
        nat = NatGateway(id=uuid4(), subnet_id=vpc.subnets[1].id, public_ip=public, private_ip="10.0.2.200")
        way_out = RouteTable(
            id=uuid4(),
            routes=(Route(destination=ANYWHERE, target="internet_gateway", target_id=igw), *vpc.route_tables[0].routes),
        )
        subnets = (vpc.subnets[0], replace(vpc.subnets[1], route_table_id=way_out.id))
        vpc = replace(vpc, internet_gateway=igw, nat_gateways=(nat,), subnets=subnets)
        vpc = replace(with_route(vpc, ANYWHERE, "nat_gateway", nat.id))
        vpc = replace(vpc, route_tables=(*vpc.route_tables, way_out))
        await driver.apply(vpc)
        world = outside()
        a, _, c = vpc.ports
        assert wires.boxes[a.id].tcp(f"{self.OUTSIDE}.9.9", 80) == public
        assert wires.boxes[a.id].ping(f"{self.OUTSIDE}.9.9")
        assert wires.boxes[c.id].tcp(f"{self.OUTSIDE}.9.9", 80) is None
        assert not world.ping(public)
        await driver.apply(replace(vpc, nat_gateways=()))
        assert wires.boxes[a.id].tcp(f"{self.OUTSIDE}.9.9", 80) is None

    # Apply, observe, delete

    async def test_observe_tells_what_was_applied(self, driver: NetworkDriver, vpc: Topology) -> None:
        assert await driver.observe(vpc.vpc_id) is None
        vpc = with_groups(vpc, 1, Group(id=uuid4(), rules=(allow(),)))
        await driver.apply(vpc)
        assert await driver.observe(vpc.vpc_id) == vpc
        assert await driver.list() == {vpc.vpc_id}
        await driver.delete(vpc.vpc_id)
        await driver.delete(vpc.vpc_id)
        assert await driver.observe(vpc.vpc_id) is None
        assert await driver.list() == set()

    async def test_an_instance_that_was_started_anew_gets_its_interface_back(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        await driver.apply(vpc)
        again = wires.box()
        a, *others = vpc.ports
        moved = replace(vpc, ports=(replace(a, netns=again.path), *others))
        await driver.apply(moved)
        assert again.tcp(others[0].address, 80) == a.address
        assert await driver.observe(vpc.vpc_id) == moved
        ip("-n", again.path[11:], "link", "delete", "eth0")
        seen = await driver.observe(vpc.vpc_id)
        assert seen is not None
        assert seen.ports == tuple(others)
        await driver.apply(moved)
        assert again.tcp(others[0].address, 80) == a.address

    async def test_many_apply_at_once(self, driver: NetworkDriver, wires: Wires, vpc: Topology) -> None:
        other = wires.vpc("10.1")
        await asyncio.gather(*(driver.apply(one) for one in (vpc, other, vpc, other)))
        assert await driver.observe(vpc.vpc_id) == vpc
        assert await driver.observe(other.vpc_id) == other
