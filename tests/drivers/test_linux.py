"""The linux network driver against the kernel, with real packets."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from drivers import linux_external, linux_kernel, linux_names
from drivers.contracts import PortBinding
from drivers.linux import LinuxNetwork
from drivers.linux_plan import External
from drivers.network import METADATA, ElasticIp, Group, Topology
from tests.drivers.contract import free_port
from tests.drivers.network_contract import NetworkContract
from tests.drivers.network_kills import peered
from tests.drivers.packets import Box
from tests.drivers.wires import ANYWHERE, Wires, allow, ip, with_groups, with_route
from tests.engines import require

EXTERNAL = External("tc-test", "198.18.0.0/16", "198.18.0.1")
HOST = linux_kernel.HOST


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[LinuxNetwork]:
    require("nftables")
    driver = LinuxNetwork(f"test-{uuid4()}", EXTERNAL, state=tmp_path)
    yield driver
    for id in await driver.list():
        await driver.delete(id)


def of_the_host() -> tuple[str, ...]:
    """All that a driver could leave behind outside of its namespaces."""
    commands = ("ip -o -br link", "ip route show table all", "ip rule", "nft list tables", "ip netns")
    listed = (subprocess.run(one.split(), capture_output=True, text=True, check=True).stdout for one in commands)
    return tuple(
        "\n".join(sorted(line.split("@")[0] for line in one.splitlines() if "test-" not in line)) for one in listed
    )


def world(wires: Wires) -> Box:
    """A host of the external network, once that is there."""
    box = wires.box()
    there, here = EXTERNAL.name, box.path[11:]
    ip("-n", there, "link", "add", "world", "type", "veth", "peer", "name", "eth0", "netns", here)
    ip("-n", there, "link", "set", "world", "master", linux_external.BRIDGE, "up")
    for command in ("addr add 198.18.9.9/16 dev eth0", "link set eth0 up"):
        ip("-n", here, *command.split())
    return box


class TestLinuxNetwork(NetworkContract):
    OUTSIDE = "198.18"

    @pytest.fixture
    def driver(self, driver: LinuxNetwork) -> LinuxNetwork:
        return driver

    @pytest.fixture
    def outside(self, wires: Wires) -> Callable[[], Box]:
        return lambda: world(wires)

    async def test_it_leaves_nothing_behind(self, driver: LinuxNetwork, vpc: Topology) -> None:
        before = of_the_host()
        igw = uuid4()
        vpc = with_route(replace(vpc, internet_gateway=igw), ANYWHERE, "internet_gateway", igw)
        ports = (replace(vpc.ports[0], published=(PortBinding(host=free_port(), container=80),)), *vpc.ports[1:])
        await driver.apply(replace(vpc, ports=ports))
        assert of_the_host() != before
        await driver.delete(vpc.vpc_id)
        assert of_the_host() == before

    async def test_a_published_port_leads_in_and_nothing_out(
        self, driver: LinuxNetwork, wires: Wires, vpc: Topology
    ) -> None:
        port = free_port()
        a, *others = vpc.ports
        vpc = replace(vpc, ports=(replace(a, published=(PortBinding(host=port, container=80),)), *others))
        await driver.apply(with_groups(vpc, 0, Group(id=uuid4())))
        host = Box(HOST)
        try:
            assert host.tcp("127.0.0.1", port) == vpc.subnets[0].gateway_ip
        finally:
            host.close()
        for address in ("169.254.64.0", "169.254.64.1", "127.0.0.1"):
            assert wires.boxes[others[0].id].tcp(address, port) is None

    async def test_who_listens_for_metadata_hears_the_instances_of_that_vpc_alone(
        self, driver: LinuxNetwork, wires: Wires
    ) -> None:
        one, two = peered(wires)
        with pytest.raises(LookupError):
            await driver.listen(one.vpc_id)
        await driver.apply(one)
        await driver.apply(two)
        assert (await driver.routers()).keys() == {one.vpc_id, two.vpc_id}
        with await driver.listen(one.vpc_id) as listening, await driver.listen(one.vpc_id) as shared:
            shared.close()
            listening.listen()
            listening.settimeout(1)
            for port in one.ports:  # whatever groups it has
                with wires.boxes[port.id].connect(METADATA, 80):
                    accepted, caller = await asyncio.to_thread(listening.accept)
                    accepted.close()
                    assert caller[0] == port.address
            for port in two.ports:
                assert wires.boxes[port.id].tcp(METADATA, 80) is None
            assert wires.boxes[one.ports[0].id].tcp(METADATA, 81) is None
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(listening.accept)
        await driver.delete(one.vpc_id)
        assert (await driver.routers()).keys() == {two.vpc_id}

    async def test_the_host_reaches_an_elastic_ip(self, driver: LinuxNetwork, vpc: Topology) -> None:
        igw = uuid4()
        vpc = with_route(replace(vpc, internet_gateway=igw), ANYWHERE, "internet_gateway", igw)
        vpc = with_groups(vpc, 0, Group(id=uuid4(), rules=(allow(),)))
        vpc = replace(vpc, elastic_ips=(ElasticIp(id=uuid4(), public_ip="198.18.5.1", port_id=vpc.ports[0].id),))
        await driver.apply(vpc)
        host = Box(HOST)
        try:
            assert host.tcp("198.18.5.1", 80) == "198.18.0.1"
        finally:
            host.close()

    async def test_a_firewall_somebody_wrote_to_is_seen_and_replaced(
        self, driver: LinuxNetwork, wires: Wires, vpc: Topology
    ) -> None:
        await driver.apply(vpc)
        namespace = driver._name(vpc.vpc_id)
        ip("netns", "exec", namespace, "nft", "flush chain ip vpc forward")
        assert not wires.boxes[vpc.ports[0].id].ping(vpc.ports[1].address)
        await driver.apply(vpc)
        assert wires.boxes[vpc.ports[0].id].ping(vpc.ports[1].address)

    async def test_names_outlive_the_server_and_come_back_when_their_daemon_is_killed(
        self, driver: LinuxNetwork, wires: Wires, vpc: Topology, tmp_path: Path
    ) -> None:
        a, *others = vpc.ports
        vpc = replace(vpc, ports=(replace(a, hostnames=("web",)), *others))
        await driver.apply(vpc)
        name, box, server = driver._name(vpc.vpc_id), wires.boxes[a.id], vpc.subnets[0].gateway_ip
        pid = linux_names._pid(name)
        again = LinuxNetwork("", EXTERNAL, state=tmp_path)
        again._prefix = driver._prefix
        await again.apply(vpc)
        assert linux_names._pid(name) == pid
        with box.opened(socket.SOCK_STREAM) as asking:  # dnsmasq has a process for it, which stays when the first goes
            asking.connect((server, 53))
            asking.send(b"\0")
            assert box.resolve(server, "web") == {a.address}
            os.kill(pid, signal.SIGKILL)
            assert box.resolve(server, "web") is None
            assert await driver.observe(vpc.vpc_id) == replace(vpc, ports=(a, *others))
            await driver.apply(vpc)
        assert box.resolve(server, "web", socket.SOCK_STREAM) == {a.address}
        assert await driver.observe(vpc.vpc_id) == vpc
        linux_names._file(name, "pid").unlink()
        assert await driver.observe(vpc.vpc_id) != vpc
        await driver.apply(vpc)
        assert box.resolve(server, "web") == {a.address}
        pid = linux_names._pid(name)
        await driver.delete(vpc.vpc_id)
        assert linux_names._argv(pid) == []
        assert not (linux_names.FOLDER / name).exists()

    async def test_names_of_a_namespace_that_somebody_removed_are_moved_or_deleted(
        self, driver: LinuxNetwork, wires: Wires, vpc: Topology
    ) -> None:
        a, *others = vpc.ports
        vpc = replace(vpc, ports=(replace(a, hostnames=("web",)), *others))
        await driver.apply(vpc)
        name = driver._name(vpc.vpc_id)
        left = linux_names._pid(name)
        ip("netns", "delete", name)
        async with asyncio.timeout(10):
            while True:
                try:
                    await driver.apply(vpc)
                    break
                except RuntimeError:  # the kernel takes a moment to remove a namespace, and the links in it
                    await asyncio.sleep(0.05)
        assert linux_names._argv(left) == []
        assert wires.boxes[a.id].resolve(vpc.subnets[0].gateway_ip, "web") == {a.address}
        left = linux_names._pid(name)
        ip("netns", "delete", name)
        assert await driver.list() == {vpc.vpc_id}
        await driver.delete(vpc.vpc_id)
        assert linux_names._argv(left) == []
        assert await driver.list() == set()

    async def test_a_process_that_took_the_number_of_dnsmasq_is_left_alone(
        self, driver: LinuxNetwork, wires: Wires, vpc: Topology
    ) -> None:
        a, *others = vpc.ports
        vpc = replace(vpc, ports=(replace(a, hostnames=("web",)), *others))
        await driver.apply(vpc)
        name = driver._name(vpc.vpc_id)
        os.kill(linux_names._pid(name), signal.SIGKILL)
        other = await asyncio.create_subprocess_exec("sleep", "60")
        try:
            for _ in range(2):
                linux_names._file(name, "pid").write_text(f"{other.pid}\n")
                await driver.apply(vpc)
                assert wires.boxes[a.id].resolve(vpc.subnets[0].gateway_ip, "web") == {a.address}
            linux_names._file(name, "pid").write_text(f"{other.pid}\n")
            await driver.delete(vpc.vpc_id)
            assert other.returncode is None
        finally:
            other.kill()
            await other.wait()

    async def test_a_container_gets_its_interface_back_after_a_restart(
        self, driver: LinuxNetwork, wires: Wires, vpc: Topology
    ) -> None:
        require("docker")
        name, (a, b, _) = f"test-{uuid4()}", vpc.ports

        def docker(*arguments: str) -> str:
            return subprocess.run(
                ["docker", *arguments], check=True, capture_output=True, text=True, timeout=60
            ).stdout.strip()

        def with_container() -> Topology:
            file = docker("inspect", "-f", "{{.NetworkSettings.SandboxKey}}", name)
            return replace(vpc, ports=(a, replace(b, netns=file), *vpc.ports[2:]))

        docker("run", "-d", "--name", name, "--network", "none", "busybox", "sh", "-c",
               "echo it is me > /tmp/index.html; exec httpd -f -p 80 -h /tmp")  # fmt: skip
        try:
            for _ in range(2):
                await driver.apply(with_container())
                assert wires.boxes[a.id].ping(b.address)
                with wires.boxes[a.id].connect(b.address, 80) as one:
                    one.send(b"GET / HTTP/1.0\r\n\r\n")
                    assert one.recv(1000)
                assert await driver.observe(vpc.vpc_id) == with_container()
                docker("restart", "-t", "0", name)
        finally:
            docker("rm", "-f", name)

    async def test_a_firewall_of_the_host_that_somebody_removed_is_seen_and_put_back(
        self, driver: LinuxNetwork, wires: Wires, vpc: Topology
    ) -> None:
        igw = uuid4()
        vpc = with_route(replace(vpc, internet_gateway=igw), ANYWHERE, "internet_gateway", igw)
        vpc = replace(vpc, elastic_ips=(ElasticIp(id=uuid4(), public_ip="198.18.5.1", port_id=vpc.ports[0].id),))
        ports = (replace(vpc.ports[0], published=(PortBinding(host=free_port(), container=80),)), *vpc.ports[1:])
        vpc = replace(vpc, ports=ports)
        await driver.apply(vpc)
        assert await driver.observe(vpc.vpc_id) == vpc
        for table in (linux_external.table(EXTERNAL), f"ip thecloud_{vpc.vpc_id.hex}"):
            linux_kernel.nft(f"delete table {table}\n")
            assert await driver.observe(vpc.vpc_id) != vpc
            await driver.apply(vpc)
            assert await driver.observe(vpc.vpc_id) == vpc
        assert wires.boxes[vpc.ports[0].id].tcp(EXTERNAL.gateway, 22) is None
