"""What server/reachability.py says of a topology agrees with packets."""

import asyncio
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import get_args
from uuid import UUID, uuid4

import pytest

from drivers.linux import LinuxNetwork
from drivers.network import ElasticIp, Group, NatGateway, Peering, Port, Route, RouteTable, Rule, Topology, Transport
from server.reachability import obstacle
from tests.drivers.test_linux import EXTERNAL, world
from tests.drivers.wires import ANYWHERE, Wires, ip
from tests.engines import require

SECONDS = 20
PROBES: tuple[tuple[Transport, int], ...] = (("icmp", 0), ("tcp", 80), ("tcp", 81), ("udp", 82))


@pytest.fixture
def wires() -> Iterator[Wires]:
    with ExitStack() as stack:
        yield Wires(stack)


def varied(number: int, vpc: Topology, peer: Topology, peering: Peering, dice: random.Random) -> Topology:
    """Random groups, gateways and routes for these instances."""
    groups = [Group(id=uuid4()) for _ in range(2)]
    cidrs = ["0.0.0.0/0", vpc.subnets[0].cidr, vpc.cidrs[0], peer.cidrs[0], f"{vpc.ports[0].address}/32"]

    def rule() -> Rule:
        far = {"cidr": dice.choice(cidrs)} if dice.random() < 0.7 else {"group_id": dice.choice(groups).id}
        first, last = sorted(dice.choices((79, 80, 81, 82, 83), k=2))
        return Rule(
            id=uuid4(), direction="egress" if dice.random() < 0.2 else "ingress",
            protocol=dice.choice(get_args(Transport)), port_min=first, port_max=last, **far,  # type: ignore[arg-type]
        )  # fmt: skip

    groups = [replace(group, rules=tuple(rule() for _ in range(dice.randrange(4)))) for group in groups]
    igw = uuid4() if dice.random() < 0.8 else None
    nat = NatGateway(
        id=uuid4(), subnet_id=dice.choice(vpc.subnets).id, public_ip=f"198.18.6.{number}",
        private_ip=f"{vpc.subnets[0].cidr[:-4]}200",
    )  # fmt: skip
    elastic = ElasticIp(id=uuid4(), public_ip=f"198.18.5.{number}", port_id=dice.choice(vpc.ports).id)
    ids = {"peering": peering.id, "internet_gateway": igw, "nat_gateway": nat.id, "instance": holder(vpc).id}
    inner, out = ("local", "peering", "blackhole"), ("internet_gateway", "nat_gateway", "blackhole")

    def table(id: UUID) -> RouteTable:
        routes = {cidr: dice.choice(inner) for cidr in dice.sample([*cidrs[1:], peer.subnets[1].cidr], 2)}
        routes |= {vpc.cidrs[0]: "local", peer.cidrs[0]: "peering"} if dice.random() < 0.8 else {}
        routes = {
            cidr: target
            for cidr, target in routes.items()
            if (target == "peering") == (cidr[:4] == peer.cidrs[0][:4]) or target == "blackhole"
        }
        routes |= {ANYWHERE: dice.choices(out, (5, 2, 1))[0]} if dice.random() < 0.8 else {}
        routes |= {"198.18.0.0/16": dice.choice(out)} if dice.random() < 0.3 else {}
        routes |= {"172.20.0.0/16": "instance"} if dice.random() < 0.7 else {}
        made = (Route(destination=to, target=target, target_id=ids.get(target)) for to, target in routes.items())  # type: ignore[arg-type]
        return RouteTable(id=id, routes=tuple(made))

    tables = (table(vpc.route_tables[0].id), table(UUID(int=vpc.route_tables[0].id.int ^ 1)))
    return replace(
        vpc,
        groups=tuple(groups),
        ports=tuple(
            replace(port, groups=tuple(group.id for group in groups if dice.random() < 0.4)) for port in vpc.ports
        ),
        subnets=tuple(replace(one, route_table_id=two.id) for one, two in zip(vpc.subnets, tables, strict=True)),
        route_tables=tables,
        internet_gateway=igw,
        nat_gateways=(nat,) if dice.random() < 0.8 else (),
        elastic_ips=(elastic,) if dice.random() < 0.8 else (),
        peerings=(peering,) if dice.random() < 0.8 else (),
    )


def holder(vpc: Topology) -> Port:
    """The instance that has 172.20.0.1 too."""
    return vpc.ports[2]


async def test_it_agrees_with_packets(wires: Wires, tmp_path: Path) -> None:
    require("nftables")
    driver = LinuxNetwork(f"test-{uuid4()}", EXTERNAL, state=tmp_path)
    seed = random.randrange(2**32)
    dice, one, two, id = random.Random(seed), wires.vpc("10.1"), wires.vpc("10.2"), uuid4()
    ends = [Peering(id=id, peer_vpc_id=vpc.vpc_id, peer_cidrs=vpc.cidrs) for vpc in (one, two)]
    outer = Topology(
        vpc_id=uuid4(), tenant_id=uuid4(), cidrs=("10.9.0.0/16",), internet_gateway=uuid4()
    )  # has the outside stay
    await driver.apply(outer)
    world(wires)
    for vpc in (one, two):
        ip("-n", wires.boxes[holder(vpc).id].path[11:], "addr", "add", "172.20.0.1/32", "dev", "lo")
    deadline, agreed = time.monotonic() + SECONDS, {True: 0, False: 0}
    try:
        with ThreadPoolExecutor(32) as pool:
            while time.monotonic() < deadline:
                vpcs = (varied(1, one, two, ends[1], dice), varied(2, two, one, ends[0], dice))
                for vpc in vpcs:
                    await driver.apply(vpc)
                await compare(wires, vpcs, pool, agreed, seed)
    finally:
        for vpc in (one, two, outer):
            await driver.delete(vpc.vpc_id)
    assert min(agreed.values()) > 20


async def compare(
    wires: Wires, vpcs: tuple[Topology, ...], pool: ThreadPoolExecutor, agreed: dict[bool, int], seed: int
) -> None:
    peers = {vpc.vpc_id: vpc for vpc in vpcs}

    def probe(source: Port, address: str, protocol: Transport, number: int) -> bool:
        box = wires.boxes[source.id]
        if protocol == "icmp":
            return box.ping(address)
        return (box.tcp if protocol == "tcp" else box.udp)(address, number) is not None

    public = ["198.18.9.9", *(one.public_ip for vpc in vpcs for one in (*vpc.elastic_ips, *vpc.nat_gateways))]
    gateways = [subnet.gateway_ip for vpc in vpcs for subnet in vpc.subnets]
    cases = [
        (vpc, source, address, protocol, number)
        for vpc in vpcs
        for source in vpc.ports
        for address in (*(port.address for other in vpcs for port in other.ports), *public, *gateways, "172.20.0.1")
        for protocol, number in PROBES
        if address != source.address
        # What listens for UDP answers from its own address, whatever it was asked at.
        and (address != "172.20.0.1" or (source is not holder(vpc) and protocol != "udp"))
    ]
    loop = asyncio.get_running_loop()
    reached = await asyncio.gather(*(loop.run_in_executor(pool, probe, *case[1:]) for case in cases))
    for (vpc, source, address, protocol, number), got in zip(cases, reached, strict=True):
        found = obstacle(vpc, source, address, protocol, number, peers)
        if found is None and not got:  # on a busy machine a reply may be late: then all is quiet now
            got = await asyncio.to_thread(probe, source, address, protocol, number)
        assert got == (found is None), (seed, protocol, number, source, address, found, vpcs)
        agreed[got] += 1
