"""The part of the network contract that is about drivers that are killed: the next apply, or delete, finishes it.

A driver's test names the steps that it may be killed before, and has a fixture `everything`: all that the driver
could leave behind.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from drivers import linux_kernel, linux_names
from drivers.contracts import PortBinding
from drivers.network import ElasticIp, Group, NatGateway, NetworkDriver, Peering, Route, RouteTable, Topology
from tests.drivers.contract import free_port
from tests.drivers.wires import ANYWHERE, Wires, allow, with_groups, with_route

STRIDE = 5  # steps from one kill to the next
STEPS = 400  # more than there are
SHARED = (
    (linux_kernel.Netlink, "do"), (linux_kernel, "nft"), (linux_kernel, "make_namespace"),
    (linux_kernel, "remove_namespace"), (linux_kernel, "setting"), (linux_names, "start"), (linux_names, "_kill_all"),
)  # fmt: skip


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


class Kills:
    OWN_STEPS: ClassVar[tuple[tuple[Any, str], ...]]

    @pytest.fixture
    def kill(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        """Sets after how many more steps the driver dies."""
        left = STEPS

        def after(steps: int) -> None:
            nonlocal left
            left = steps

        def counted(step: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **parts: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise InterruptedError
                return step(*arguments, **parts)

            return run

        for owner, name in (*SHARED, *self.OWN_STEPS):
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
        return after

    def peered(self, wires: Wires) -> tuple[Topology, Topology]:
        return peered(wires)

    async def check(self, driver: NetworkDriver, wires: Wires, one: Topology, two: Topology) -> None:
        """Both are as they were asked to be, and so do packets say."""
        for vpc in (one, two):
            assert await driver.observe(vpc.vpc_id) == vpc
        a, b, c = one.ports
        box = wires.boxes[a.id]
        assert box.tcp(b.address, 80) == a.address
        assert box.tcp(two.ports[0].address, 80) == a.address
        assert box.resolve(one.subnets[0].gateway_ip, "web") == {a.address}
        assert wires.boxes[c.id].tcp(b.address, 80) == c.address

    async def check_left_alone(self, driver: NetworkDriver, one: Topology, two: Topology) -> None:
        """The second VPC is as it was, now that the first is gone."""
        assert await driver.observe(two.vpc_id) == replace(two, peerings=())

    @pytest.mark.parametrize("first", range(0, 5 * STRIDE, STRIDE))
    async def test_killed_at_any_step_both_vpcs_of_a_peering_are_finished_by_the_next(
        self, driver: NetworkDriver, wires: Wires, everything: Callable[[], object], kill: Callable[[int], None],
        first: int,
    ) -> None:  # fmt: skip
        before, (one, two) = everything(), self.peered(wires)
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
                await self.check(driver, wires, one, two)
                for vpc in (one, two):
                    await driver.delete(vpc.vpc_id)
                assert await driver.list() == set()
                assert everything() == before
                if not died:
                    return
            pytest.fail("it never got through")
        finally:
            kill(10 * STEPS)

    async def test_killed_in_delete_all_is_gone_after_the_next(
        self, driver: NetworkDriver, wires: Wires, everything: Callable[[], object], kill: Callable[[int], None]
    ) -> None:
        before, (one, two) = everything(), self.peered(wires)
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
                await self.check_left_alone(driver, one, two)
                await driver.delete(two.vpc_id)
                assert await driver.list() == set()
                assert everything() == before
                if not died:
                    return
            pytest.fail("it never got through")
        finally:
            kill(10 * STEPS)
