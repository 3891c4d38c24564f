"""Virtual machines in VPCs of each network driver that works on real packets."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from drivers import linux_kernel as kernel
from drivers.linux import LinuxNetwork
from drivers.linux_plan import External
from drivers.ovn import OvnNetwork
from drivers.ovn_plug import MTU
from tests.drivers.network_machines import NetworkMachines, Networks
from tests.drivers.ovn_machines import Chassis, Machines
from tests.drivers.test_ovn import EXTERNAL as OVN_EXTERNAL
from tests.drivers.test_ovn import running
from tests.engines import require

__all__ = ["running"]  # the fixture
EXTERNAL = External("tc-test", "198.18.0.0/16", "198.18.0.1")


class TestMachinesBehindLinux(NetworkMachines):
    @pytest.fixture
    def networks(self, tmp_path: Path) -> Networks:
        require("nftables")
        cloud = f"test-{uuid4()}"
        return lambda: LinuxNetwork(cloud, EXTERNAL, state=tmp_path / "network")

    def plugged(self, tap: str) -> object:
        """Whether the host has it no longer."""
        return None if kernel.index(tap) else tap


class TestMachinesBehindOvn(NetworkMachines):
    MTU = MTU

    @pytest.fixture
    async def networks(self, running: tuple[Machines, Chassis], tmp_path: Path) -> AsyncIterator[Networks]:
        ovn, self.here = running
        cloud, made = f"test-{uuid4()}", []

        def network() -> OvnNetwork:
            made.append(
                OvnNetwork(cloud, OVN_EXTERNAL, ovn.northbound, ovn.southbound, self.here.database, state=tmp_path)
            )
            return made[-1]

        yield network
        for one in made:
            await one.close()

    def plugged(self, tap: str) -> object:
        """The switch's row of it."""
        return self.here.ask("--bare", "--columns=_uuid", "find", "Interface", f"name={tap}") or None
