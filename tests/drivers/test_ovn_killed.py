"""The ovn network driver killed at any step is finished by the next apply, or delete."""

from collections.abc import Callable

import pytest

from drivers import ovn_database
from drivers.network import Topology
from drivers.ovn import OvnNetwork
from tests.drivers.network_kills import Kills
from tests.drivers.ovn_machines import Chassis, Machines
from tests.drivers.test_ovn import driver, everything, peered, running, wires
from tests.drivers.wires import Wires

__all__ = ["driver", "running", "wires"]  # the fixtures


class TestOvnNetworkKilled(Kills):
    OWN_STEPS = ((ovn_database.Database, "change"), (ovn_database.Database, "wait"))

    @pytest.fixture
    def everything(self, running: tuple[Machines, Chassis], driver: OvnNetwork) -> Callable[[], object]:
        return lambda: everything(running[0], driver)

    def peered(self, wires: Wires) -> tuple[Topology, Topology]:
        return peered(wires)
