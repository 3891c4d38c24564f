"""The ovn network driver against OVN and switches in user space, with real packets."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from drivers import linux_kernel as kernel
from drivers.linux_plan import External
from drivers.network import Topology
from drivers.ovn import OvnNetwork
from drivers.ovn_plug import guard
from tests.drivers.network_contract import NetworkContract
from tests.drivers.ovn_machines import Chassis, Machines, machines
from tests.drivers.packets import Box
from tests.drivers.test_linux import of_the_host
from tests.drivers.wires import Wires, ip
from tests.engines import require

EXTERNAL = External("tc-test-ovn", "198.18.0.0/16", "198.18.0.1")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machines, Chassis]]:
    require("ovn")
    with machines(tmp_path_factory.mktemp("ovn")) as made:
        yield made


@pytest.fixture
async def driver(running: tuple[Machines, Chassis], tmp_path: Path) -> AsyncIterator[OvnNetwork]:
    ovn, here = running
    driver = OvnNetwork(f"test-{uuid4()}", EXTERNAL, ovn.northbound, ovn.southbound, here.database, state=tmp_path)
    yield driver
    for id in await driver.list():
        await driver.delete(id)
    await driver.close()


class TestOvnNetwork(NetworkContract):
    OUTSIDE = "198.18"
    # A switch in user space sees no ports in fragments, so that no rule with ports lets them in. The kernel's does.
    CANNOT = frozenset({"fragments"})

    @pytest.fixture
    def driver(self, driver: OvnNetwork) -> OvnNetwork:
        return driver

    @pytest.fixture
    def outside(self, running: tuple[Machines, Chassis], wires: Wires) -> Iterator[Callable[[], Box]]:
        """A host of the external network, on this machine's bridge into it."""
        _, here = running
        link = f"w-{uuid4().hex[:8]}"

        def world() -> Box:
            box = wires.box()
            namespace = box.path[11:]
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            kernel.nft(guard("netdev test_world", link))
            ip("link", "set", link, "up")
            for command in ("addr add 198.18.9.9/16 dev eth0", "link set eth0 up"):
                ip("-n", namespace, *command.split())
            here.ask("add-port", f"{here.name}-ext", link)
            return box

        yield world
        here.ask("--if-exists", "del-port", link)
        kernel.nft("add table netdev test_world\ndelete table netdev test_world\n")

    async def test_it_leaves_nothing_behind(self, driver: OvnNetwork, vpc: Topology) -> None:
        before = of_the_host()
        await driver.apply(vpc)
        assert of_the_host() != before
        await driver.delete(vpc.vpc_id)
        assert of_the_host() == before
