"""Virtual machines in VPCs of each network driver that works on real packets."""

import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from drivers import linux_kernel as kernel
from drivers.libvirt import LibvirtCompute
from drivers.linux import LinuxNetwork
from drivers.linux_plan import External
from drivers.network import NatGateway
from drivers.ovn import OvnNetwork
from drivers.ovn_plug import unguard
from tests.drivers.network_machines import Guest, NetworkMachines, Networks, run, started
from tests.drivers.ovn_machines import Chassis, Machines
from tests.drivers.packets import Box
from tests.drivers.test_ovn import EXTERNAL as OVN_EXTERNAL
from tests.drivers.test_ovn import everything, outside, running
from tests.drivers.wires import ANYWHERE, addresses_of_the_host, with_route
from tests.engines import require
from tests.libvirtd import printed

__all__ = ["outside", "running"]  # the fixtures
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

    async def test_the_host_hears_nothing_of_it_and_nothing_is_left(
        self, running: tuple[Machines, Chassis], virtual: LibvirtCompute, network: OvnNetwork, guest: Guest
    ) -> None:
        before = everything(running[0], network)
        tap = await started(virtual, guest)
        await network.apply(guest.vpc)
        await printed(virtual, guest.spec, b"GUEST_READY")
        assert kernel.is_up(tap)
        assert Path(f"/proc/sys/net/ipv6/conf/{tap}/disable_ipv6").read_text() == "1\n"
        terminal, [own, *_] = await virtual.console(guest.spec.id), addresses_of_the_host()
        gateway, mac = guest.vpc.subnets[0].gateway_ip, Path(f"/sys/class/net/{tap}/address").read_text().strip()
        await run(terminal, f"arp -s {gateway} {mac}")  # as if the host's end of the tap were the router
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ear:
            ear.settimeout(1)

            async def heard() -> bool:
                await run(terminal, f"ping -c 1 -W 1 {own}")
                try:
                    while ear.recvfrom(2000)[1][0] != guest.address:
                        pass
                except TimeoutError:
                    return False
                return True

            assert not await heard()
            kernel.nft(unguard(f"netdev thecloud_{network._cloud}", tap))
            assert await heard()  # so that is what kept it from the host
        await network.apply(replace(guest.vpc, ports=guest.vpc.ports[:-1]))
        assert not kernel.is_up(tap)
        assert self.plugged(tap) is None
        await network.delete(guest.vpc.vpc_id)
        await virtual.apply(replace(guest.spec, power="STOPPED"))
        assert everything(running[0], network) == before

    async def test_its_first_packet_to_a_host_outside_is_translated_too(
        self, virtual: LibvirtCompute, network: OvnNetwork, guest: Guest, outside: Callable[[], Box]
    ) -> None:
        await started(virtual, guest)
        igw, (inner, outer) = uuid4(), guest.vpc.subnets
        nat = NatGateway(id=uuid4(), subnet_id=outer.id, public_ip="198.18.6.1", private_ip="10.0.2.200")
        vpc = replace(guest.vpc, internet_gateway=igw, nat_gateways=(nat,))
        [public] = with_route(vpc, ANYWHERE, "internet_gateway", igw).route_tables
        vpc = with_route(vpc, ANYWHERE, "nat_gateway", nat.id)
        public = replace(public, id=uuid4())
        vpc = replace(vpc, subnets=(inner, replace(outer, route_table_id=public.id)),
                      route_tables=(*vpc.route_tables, public))  # fmt: skip
        await network.apply(vpc)
        world = outside()
        with kernel.entered(world.path):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        with wire:
            wire.settimeout(5)
            await printed(virtual, guest.spec, b"GUEST_READY")
            terminal = await virtual.console(guest.spec.id)
            assert await run(terminal, f"echo | nc -w 5 198.18.9.9 80 | grep {nat.public_ip}") == 0
            assert socket.inet_ntoa(wire.recv(2000)[26:30]) == nat.public_ip
