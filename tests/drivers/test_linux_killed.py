"""The linux network driver killed at any step is finished by the next apply, or delete."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from drivers import linux_kernel, linux_names, linux_record
from drivers.linux import LinuxNetwork
from drivers.network import Topology
from tests.drivers.network_kills import Kills
from tests.drivers.packets import Box
from tests.drivers.test_linux import driver, of_the_host
from tests.drivers.wires import Wires

__all__ = ["driver"]  # the fixture


class TestLinuxNetworkKilled(Kills):
    OWN_STEPS = ((linux_record.Records, "write"), (linux_record.Records, "remove"))

    @pytest.fixture
    def wires(self) -> Iterator[Wires]:
        with ExitStack() as stack:
            yield Wires(stack)

    @pytest.fixture
    def everything(self) -> Callable[[], object]:
        return of_the_host

    async def check(self, driver: LinuxNetwork, wires: Wires, one: Topology, two: Topology) -> None:
        await super().check(driver, wires, one, two)
        host = Box(linux_kernel.HOST)
        try:
            assert host.tcp("127.0.0.1", one.ports[1].published[0].host) == one.subnets[0].gateway_ip
        finally:
            host.close()

    async def check_left_alone(self, driver: LinuxNetwork, one: Topology, two: Topology) -> None:
        await driver.apply(two)
        seen = await driver.observe(two.vpc_id)
        assert seen == replace(two, peerings=(), route_tables=seen.route_tables if seen else ())
        assert not (linux_names.FOLDER / driver._name(one.vpc_id)).exists()
