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
from uuid import uuid4

import pytest

from drivers.linux import LinuxNetwork
from drivers.network import Group, Peering, Port, Route, Rule, Topology, Transport
from server.reachability import obstacle
from tests.drivers.network_contract import Wires
from tests.drivers.test_linux import EXTERNAL
from tests.engines import require

SECONDS = 20
PROBES: tuple[tuple[Transport, int], ...] = (("icmp", 0), ("tcp", 80), ("tcp", 81), ("udp", 82))


@pytest.fixture
def wires() -> Iterator[Wires]:
    with ExitStack() as stack:
        yield Wires(stack)


def varied(vpc: Topology, peer: Topology, peering: Peering, dice: random.Random) -> Topology:
    """Random groups and routes for these instances."""
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
    targets = ("local", "peering", "blackhole")
    routes = {cidr: dice.choice(targets) for cidr in dice.sample([*cidrs[1:], peer.subnets[1].cidr], 2)}
    routes |= {vpc.cidrs[0]: "local", peer.cidrs[0]: "peering"} if dice.random() < 0.8 else {}
    made = (
        Route(destination=cidr, target=target, target_id=peering.id if target == "peering" else None)  # type: ignore[arg-type]
        for cidr, target in routes.items()
        if (target == "peering") == (cidr[:4] == peer.cidrs[0][:4]) or target == "blackhole"
    )
    return replace(
        vpc,
        groups=tuple(groups),
        ports=tuple(
            replace(port, groups=tuple(group.id for group in groups if dice.random() < 0.4)) for port in vpc.ports
        ),
        route_tables=(replace(vpc.route_tables[0], routes=tuple(made)),),
        peerings=(peering,) if dice.random() < 0.8 else (),
    )


async def test_it_agrees_with_packets(wires: Wires, tmp_path: Path) -> None:
    require("nftables")
    driver = LinuxNetwork(f"test-{uuid4()}", EXTERNAL, state=tmp_path)
    seed = random.randrange(2**32)
    dice, one, two, id = random.Random(seed), wires.vpc("10.1"), wires.vpc("10.2"), uuid4()
    ends = [Peering(id=id, peer_vpc_id=vpc.vpc_id, peer_cidrs=vpc.cidrs) for vpc in (one, two)]
    deadline, agreed = time.monotonic() + SECONDS, {True: 0, False: 0}
    try:
        with ThreadPoolExecutor(24) as pool:
            while time.monotonic() < deadline:
                vpcs = (varied(one, two, ends[1], dice), varied(two, one, ends[0], dice))
                for vpc in vpcs:
                    await driver.apply(vpc)
                await compare(wires, vpcs, pool, agreed, seed)
    finally:
        for vpc in (one, two):
            await driver.delete(vpc.vpc_id)
    assert min(agreed.values()) > 20


async def compare(
    wires: Wires, vpcs: tuple[Topology, ...], pool: ThreadPoolExecutor, agreed: dict[bool, int], seed: int
) -> None:
    peers = {vpc.vpc_id: vpc for vpc in vpcs}

    def probe(source: Port, target: Port, protocol: Transport, number: int) -> bool:
        box = wires.boxes[source.id]
        if protocol == "icmp":
            return box.ping(target.address)
        return (box.tcp if protocol == "tcp" else box.udp)(target.address, number) is not None

    cases = [
        (vpc, source, target, protocol, number)
        for vpc in vpcs
        for source in vpc.ports
        for other in vpcs
        for target in other.ports
        for protocol, number in PROBES
        if source is not target
    ]
    loop = asyncio.get_running_loop()
    reached = await asyncio.gather(*(loop.run_in_executor(pool, probe, *case[1:]) for case in cases))
    for (vpc, source, target, protocol, number), got in zip(cases, reached, strict=True):
        found = obstacle(vpc, source, target.address, protocol, number, peers)
        assert got == (found is None), (seed, protocol, number, source, target, found, vpcs)
        agreed[got] += 1
