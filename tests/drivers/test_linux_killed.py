"""The linux network driver killed at any step is finished by the next apply, or delete."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from drivers import linux_kernel, linux_names, linux_record
from drivers.contracts import PortBinding
from drivers.linux import LinuxNetwork
from drivers.network import ElasticIp, Group, NatGateway, Peering, Route, RouteTable, Topology
from tests.drivers.contract import free_port
from tests.drivers.packets import Box
from tests.drivers.test_linux import driver, of_the_host
from tests.drivers.wires import ANYWHERE, Wires, allow, with_groups, with_route

__all__ = ["driver"]  # the fixture
STRIDE = 5  # steps from one kill to the next
STEPS = 400  # more than there are


@pytest.fixture
def wires() -> Iterator[Wires]:
    with ExitStack() as stack:
        yield Wires(stack)


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets after how many more steps the driver dies."""
    left = STEPS

    def after(steps: int) -> None:
        nonlocal left
        left = steps

    def counted(step: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any, **parts: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedError
            step(*arguments, **parts)

        return run

    for owner, name in (
        (linux_kernel.Netlink, "do"), (linux_kernel, "nft"), (linux_kernel, "make_namespace"),
        (linux_kernel, "remove_namespace"), (linux_kernel, "setting"), (linux_names, "start"),
        (linux_names, "_kill_all"), (linux_record.Records, "write"), (linux_record.Records, "remove"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return after


def peered(wires: Wires) -> tuple[Topology, Topology]:
    """Two VPCs that are peered. The first has all that a VPC may have."""
    one, two, id = wires.vpc("10.1"), wires.vpc("10.2"), uuid4()
    one = with_route(one, two.cidrs[0], "peering", id)
    two = with_route(two, one.cidrs[0], "peering", id)
    one = replace(one, peerings=(Peering(id=id, peer_vpc_id=two.vpc_id, peer_cidrs=two.cidrs),))
    two = replace(two, peerings=(Peering(id=id, peer_vpc_id=one.vpc_id, peer_cidrs=one.cidrs),))
    two = with_groups(two, 0, Group(id=uuid4(), rules=(allow(),)))
    igw, (a, b, c) = uuid4(), one.ports
    way_out = RouteTable(
        id=uuid4(), routes=(*one.route_tables[0].routes, Route(destination=ANYWHERE, target="internet_gateway",
                                                               target_id=igw)),
    )  # fmt: skip
    nat = NatGateway(id=uuid4(), subnet_id=one.subnets[1].id, public_ip="198.18.6.1", private_ip="10.1.2.200")
    one = with_route(one, ANYWHERE, "nat_gateway", nat.id)
    published = (PortBinding(host=free_port(), container=80),)
    one = replace(
        one,
        subnets=(one.subnets[0], replace(one.subnets[1], route_table_id=way_out.id)),
        route_tables=(*one.route_tables, way_out),
        internet_gateway=igw,
        nat_gateways=(nat,),
        ports=(replace(a, hostnames=("web",), mbps=1000), replace(b, published=published), c),
        elastic_ips=(ElasticIp(id=uuid4(), public_ip="198.18.5.1", port_id=c.id),),
    )
    return with_groups(one, 1, Group(id=uuid4(), rules=(allow(),))), two


async def check(driver: LinuxNetwork, wires: Wires, host: Box, one: Topology, two: Topology) -> None:
    """Both are as they were asked to be, and so do packets say."""
    for vpc in (one, two):
        assert await driver.observe(vpc.vpc_id) == vpc
    a, b, c = one.ports
    box = wires.boxes[a.id]
    assert box.tcp(b.address, 80) == a.address
    assert box.tcp(two.ports[0].address, 80) == a.address
    assert box.resolve(one.subnets[0].gateway_ip, "web") == {a.address}
    assert host.tcp("127.0.0.1", b.published[0].host) == one.subnets[0].gateway_ip
    assert wires.boxes[c.id].tcp(b.address, 80) == c.address


@pytest.mark.parametrize("first", range(0, 5 * STRIDE, STRIDE))
async def test_killed_at_any_step_both_vpcs_of_a_peering_are_finished_by_the_next(
    driver: LinuxNetwork, wires: Wires, kill: Callable[[int], None], first: int
) -> None:
    before, (one, two), host = of_the_host(), peered(wires), Box(linux_kernel.HOST)
    try:
        for steps in range(first, STEPS, 5 * STRIDE):
            kill(steps)
            try:
                for vpc in (one, two):
                    await driver.apply(vpc)
                died = False
            except InterruptedError:
                died = True
            kill(10 * STEPS)
            for vpc in (two, one):
                await driver.apply(vpc)
            await check(driver, wires, host, one, two)
            for vpc in (one, two):
                await driver.delete(vpc.vpc_id)
            assert await driver.list() == set()
            assert of_the_host() == before
            if not died:
                return
        pytest.fail("it never got through")
    finally:
        kill(10 * STEPS)
        host.close()


async def test_killed_in_delete_all_is_gone_after_the_next(
    driver: LinuxNetwork, wires: Wires, kill: Callable[[int], None]
) -> None:
    before, (one, two) = of_the_host(), peered(wires)
    try:
        for steps in range(0, STEPS, 3):
            for vpc in (one, two):
                await driver.apply(vpc)
            kill(steps)
            try:
                await driver.delete(one.vpc_id)
                died = False
            except InterruptedError:
                died = True
            kill(10 * STEPS)
            await driver.delete(one.vpc_id)
            await driver.apply(two)
            seen = await driver.observe(two.vpc_id)
            assert seen == replace(two, peerings=(), route_tables=seen.route_tables if seen else ())
            await driver.delete(two.vpc_id)
            assert of_the_host() == before
            assert not (linux_names.FOLDER / driver._name(one.vpc_id)).exists()
            if not died:
                return
        pytest.fail("it never got through")
    finally:
        kill(10 * STEPS)
