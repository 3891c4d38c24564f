"""The ovn network driver killed at any step is finished by the next apply, or delete."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from drivers import linux_kernel, linux_names, ovn_database
from drivers.network import Topology
from drivers.ovn import OvnNetwork
from tests.drivers.ovn_machines import Chassis, Machines
from tests.drivers.test_ovn import driver, everything, peered, running, wires
from tests.drivers.wires import Wires

__all__ = ["driver", "running", "wires"]  # the fixtures
STRIDE = 5  # steps from one kill to the next
STEPS = 400  # more than there are


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
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

    for owner, name in (
        (linux_kernel.Netlink, "do"), (linux_kernel, "nft"), (linux_kernel, "make_namespace"),
        (linux_kernel, "remove_namespace"), (linux_kernel, "setting"), (linux_names, "start"),
        (linux_names, "_kill_all"), (ovn_database.Database, "change"), (ovn_database.Database, "wait"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return after


async def check(driver: OvnNetwork, wires: Wires, one: Topology, two: Topology) -> None:
    """Both are as they were asked to be, and so do packets say."""
    for vpc in (one, two):
        assert await driver.observe(vpc.vpc_id) == vpc
    a, b, c = one.ports
    box = wires.boxes[a.id]
    assert box.tcp(b.address, 80) == a.address
    assert box.tcp(two.ports[0].address, 80) == a.address
    assert box.resolve(one.subnets[0].gateway_ip, "web") == {a.address}
    assert wires.boxes[c.id].tcp(b.address, 80) == c.address


@pytest.mark.parametrize("first", range(0, 5 * STRIDE, STRIDE))
async def test_killed_at_any_step_both_vpcs_of_a_peering_are_finished_by_the_next(
    running: tuple[Machines, Chassis], driver: OvnNetwork, wires: Wires, kill: Callable[[int], None], first: int
) -> None:
    before, (one, two) = everything(running[0], driver), peered(wires)
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
            await check(driver, wires, one, two)
            for vpc in (one, two):
                await driver.delete(vpc.vpc_id)
            assert await driver.list() == set()
            assert everything(running[0], driver) == before
            if not died:
                return
        pytest.fail("it never got through")
    finally:
        kill(10 * STEPS)


async def test_killed_in_delete_all_is_gone_after_the_next(
    running: tuple[Machines, Chassis], driver: OvnNetwork, wires: Wires, kill: Callable[[int], None]
) -> None:
    before, (one, two) = everything(running[0], driver), peered(wires)
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
            assert await driver.observe(two.vpc_id) == replace(two, peerings=())
            await driver.delete(two.vpc_id)
            assert await driver.list() == set()
            assert everything(running[0], driver) == before
            if not died:
                return
        pytest.fail("it never got through")
    finally:
        kill(10 * STEPS)
