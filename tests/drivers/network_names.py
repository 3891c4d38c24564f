"""The part of the network contract that is about names. NetworkContract has it."""

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

from drivers.network import ElasticIp, Group, NetworkDriver, Peering, Topology
from tests.drivers.packets import Box
from tests.drivers.wires import ANYWHERE, Wires, allow, with_groups, with_route


class Names:
    OUTSIDE: str  # the first two bytes of the external network; a box in a test is at .9.9 there

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
