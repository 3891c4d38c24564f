"""What every network driver must do: drivers/network.py as tests, with packets.

A driver's test subclasses the contract and gives it a `driver` fixture that no other test shares,
and `OUTSIDE`, the range of its external network. What it cannot do is named in its CANNOT.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from uuid import uuid4

import pytest

from drivers.network import (
    ElasticIp,
    Group,
    NatGateway,
    NetworkDriver,
    Peering,
    Route,
    RouteTable,
    Rule,
    Topology,
)
from tests.drivers.contract import until
from tests.drivers.network_isolation import Isolation
from tests.drivers.network_names import Names
from tests.drivers.packets import Box
from tests.drivers.wires import ANYWHERE, Wires, addresses_of_the_host, allow, ip, with_groups, with_route


async def at_the_outside(box: Box, target: str, elastic: ElasticIp) -> bool:
    """Whether a host outside sees the elastic IP. It may know the gateway before by another MAC for a moment."""
    return await asyncio.to_thread(box.tcp, target, 80) == elastic.public_ip


class NetworkContract(Names, Isolation):
    """CANNOT may name: fragments."""

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

    async def test_a_flow_ends_with_the_group_that_allowed_it(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        web, other = Group(id=uuid4(), rules=(allow(),)), Group(id=uuid4(), rules=(allow("tcp", 81, 81),))
        both = with_groups(vpc, 1, web, other)
        a, b, c = both.ports
        await driver.apply(both)
        with wires.boxes[a.id].connect(b.address, 80) as flow:
            assert Box.say(flow) == a.address
            await driver.apply(replace(both, ports=(a, replace(b, groups=(web.id,)), c)))
            assert Box.say(flow) == a.address
            await driver.apply(replace(both, ports=(a, replace(b, groups=(other.id,)), c)))
            assert Box.say(flow) is None

    async def test_a_range_of_ports_includes_both_its_ends(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        group, box, address = uuid4(), wires.boxes[vpc.ports[0].id], vpc.ports[1].address
        for first, last, reached in (
            (80, 81, [80, 81]),
            (81, 82, [81, 82]),
            (81, 81, [81]),
            (1, 79, []),
            (83, 65535, []),
        ):
            for protocol, probe in (("tcp", box.tcp), ("udp", box.udp)):
                await driver.apply(with_groups(vpc, 1, Group(id=group, rules=(allow(protocol, first, last),))))
                assert [port for port in (80, 81, 82) if probe(address, port)] == reached

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

    async def test_the_most_specific_route_is_taken_whatever_its_target(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology, outside: Callable[[], Box]
    ) -> None:
        igw, (a, b, _) = uuid4(), vpc.ports
        elastic = ElasticIp(id=uuid4(), public_ip=f"{self.OUTSIDE}.5.1", port_id=a.id)
        nat = NatGateway(
            id=uuid4(), subnet_id=vpc.subnets[1].id, public_ip=f"{self.OUTSIDE}.6.1", private_ip="10.0.2.200"
        )
        vpc = replace(vpc, internet_gateway=igw, elastic_ips=(elastic,), nat_gateways=(nat,))
        target = f"{self.OUTSIDE}.9.9"

        async def seen() -> str | None:
            await driver.apply(vpc)
            return wires.boxes[a.id].tcp(target, 80)

        vpc = with_route(vpc, ANYWHERE, "internet_gateway", igw)
        await driver.apply(vpc)
        outside()
        assert await seen() == elastic.public_ip
        vpc = with_route(vpc, f"{self.OUTSIDE}.9.0/24", "nat_gateway", nat.id)
        assert await seen() == nat.public_ip
        vpc = with_route(vpc, f"{self.OUTSIDE}.9.8/30", "blackhole")
        assert await seen() is None
        vpc = with_route(vpc, f"{target}/32", "instance", b.id)
        ip("-n", wires.boxes[b.id].path[11:], "addr", "add", f"{target}/32", "dev", "lo")
        assert await seen() == a.address
        vpc = replace(vpc, ports=(a, replace(b, netns=None), vpc.ports[2]))
        assert await seen() is None  # not the less specific ones instead

    async def test_a_route_to_an_internet_gateway_that_is_gone_is_a_blackhole(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology, outside: Callable[[], Box]
    ) -> None:
        igw, other, target = uuid4(), wires.vpc("10.1"), f"{self.OUTSIDE}.9.9"
        vpc = with_route(replace(vpc, internet_gateway=igw), ANYWHERE, "internet_gateway", igw)
        elastic = ElasticIp(id=uuid4(), public_ip=f"{self.OUTSIDE}.5.1", port_id=vpc.ports[0].id)
        vpc = replace(vpc, elastic_ips=(elastic,))
        await driver.apply(replace(other, internet_gateway=uuid4()))  # has the external network stay
        await driver.apply(vpc)
        outside()
        box = wires.boxes[vpc.ports[0].id]
        with box.connect(target, 80) as flow:
            assert Box.say(flow) == elastic.public_ip
            await driver.apply(replace(vpc, internet_gateway=None))
            assert Box.say(flow) is None
        assert box.tcp(target, 80) is None
        await driver.apply(vpc)
        await until(lambda: at_the_outside(box, target, elastic))
        another = replace(vpc, internet_gateway=uuid4())
        await driver.apply(another)
        assert box.tcp(target, 80) is None
        table = replace(vpc.route_tables[0], routes=vpc.route_tables[0].routes[:1])
        another = replace(another, route_tables=(table,))
        await driver.apply(with_route(another, ANYWHERE, "internet_gateway", another.internet_gateway))
        await until(lambda: at_the_outside(box, target, elastic))
        assert box.ping(vpc.ports[1].address)

    async def test_an_instance_is_no_faster_than_its_rate_either_way(
        self, driver: NetworkDriver, wires: Wires, vpc: Topology
    ) -> None:
        a, b, c = vpc.ports

        async def seconds(sender: int | None, receiver: int | None) -> float:
            await driver.apply(replace(vpc, ports=(replace(a, mbps=sender), replace(b, mbps=receiver), c)))
            with wires.boxes[a.id].connect(b.address, 80) as flow:
                flow.settimeout(10)
                begun = time.monotonic()
                await asyncio.to_thread(flow.sendall, bytes(6_000_000))
                return time.monotonic() - begun

        assert 0.5 < await seconds(20, None) < 6  # 6 MB are 2.4 s at that rate, less what buffers hold
        assert 0.5 < await seconds(None, 20) < 6
        assert await seconds(None, None) < 0.5

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
