"""The ovn network driver against OVN and switches in user space, with real packets."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from drivers import linux_kernel as kernel
from drivers import load
from drivers.linux_plan import External
from drivers.network import ElasticIp, Group, NatGateway, Topology
from drivers.ovn import OvnNetwork
from drivers.ovn_database import TABLES
from drivers.ovn_plug import guard, sum_itself
from tests.drivers.network_contract import NetworkContract
from tests.drivers.network_kills import peered as all_there_is
from tests.drivers.ovn_elsewhere import Elsewhere
from tests.drivers.ovn_machines import Chassis, Machines, machines, run, wait
from tests.drivers.packets import Box, arp_reply
from tests.drivers.test_linux import of_the_host
from tests.drivers.wires import ANYWHERE, Wires, allow, ip, with_groups, with_route
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


@pytest.fixture
def wires() -> Iterator[Wires]:
    with ExitStack() as stack:
        yield Wires(stack)


@pytest.fixture
def outside(running: tuple[Machines, Chassis], wires: Wires) -> Iterator[Callable[[], Box]]:
    """A host of the external network, on this machine's bridge into it."""
    _, here = running
    link = f"w_{uuid4().hex[:8]}"

    def world() -> Box:
        box = wires.box()
        namespace = box.path[11:]
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        kernel.nft(guard(f"netdev {link}", link))
        ip("link", "set", link, "up")
        for command in ("addr add 198.18.9.9/16 dev eth0", "link set eth0 up"):
            ip("-n", namespace, *command.split())
        sum_itself(box.path, "eth0")  # as what comes over a wire has its checksum
        here.ask("add-port", f"{here.name}-ext", link)
        return box

    yield world
    here.ask("--if-exists", "del-port", link)
    with kernel.inside(kernel.HOST) as host:
        host.remove(link)  # now: the box's namespace goes a moment after it was deleted, in the middle of another test
    kernel.nft(f"add table netdev {link}\ndelete table netdev {link}\n")


def everything(ovn: Machines, driver: OvnNetwork) -> set[str]:
    """All that a driver could leave behind: on this host, unless it is another cloud's, and in OVN."""
    lines = {line for listed in of_the_host() for line in listed.splitlines()}
    tables = (ovn.nbctl("--bare", "--columns=_uuid", "list", table) for table in TABLES)
    rows = {line for table in tables for line in table.splitlines()}
    return rows | {line for line in lines if "thecloud-" not in line or driver._prefix in line}


def peered(wires: Wires) -> tuple[Topology, Topology]:
    """Two VPCs that are peered. The first has all that a VPC may have, but for published ports."""
    one, two = all_there_is(wires)
    return replace(one, ports=tuple(replace(port, published=()) for port in one.ports)), two


class TestOvnNetwork(NetworkContract):
    OUTSIDE = "198.18"
    # A switch in user space sees no ports in fragments, so that no rule with ports lets them in. The kernel's does.
    CANNOT = frozenset({"fragments"})

    @pytest.fixture
    def driver(self, driver: OvnNetwork) -> OvnNetwork:
        return driver

    async def test_routes_hold_within_a_subnet_too(self, driver: OvnNetwork, wires: Wires, vpc: Topology) -> None:
        a, b, _ = vpc.ports
        box, namespace = wires.boxes[a.id], wires.boxes[a.id].path[11:]
        await driver.apply(vpc)
        assert box.ping(b.address)
        await driver.apply(with_route(vpc, f"{b.address}/32", "blackhole"))
        assert not box.ping(b.address)
        ip("-n", namespace, "neigh", "replace", b.address, "lladdr", b.mac, "dev", "eth0")
        ip("-n", namespace, "route", "add", f"{b.address}/32", "dev", "eth0")
        assert not box.ping(b.address)  # nor past the router

    async def test_who_sends_for_others_is_not_taken_for_the_router(
        self, driver: OvnNetwork, wires: Wires, vpc: Topology
    ) -> None:
        a, b, c = vpc.ports
        await driver.apply(with_route(vpc, "172.20.0.0/16", "instance", a.id))
        gateway, liar, box = vpc.subnets[0].gateway_ip, wires.boxes[a.id], wires.boxes[b.id]
        with kernel.entered(box.path):
            kernel.setting("ipv4/neigh/eth0/locktime", "0")  # believe whoever spoke last
        assert box.ping(gateway)
        assert liar.ping(b.address)
        for _ in range(3):
            liar.frame("eth0", arp_reply(a.mac, gateway, b.mac, b.address))
        assert a.mac not in ip("-n", box.path[11:], "neigh", "show", gateway)
        assert box.ping(c.address)

    async def test_who_routes_to_a_gateway_reaches_nothing_private(
        self, running: tuple[Machines, Chassis], driver: OvnNetwork, wires: Wires, vpc: Topology,
        outside: Callable[[], Box],
    ) -> None:  # fmt: skip
        igw, (a, b, _) = uuid4(), vpc.ports
        nat = NatGateway(id=uuid4(), subnet_id=vpc.subnets[1].id, public_ip="198.18.6.1", private_ip="10.0.2.200")
        vpc = with_route(replace(vpc, internet_gateway=igw, nat_gateways=(nat,)), ANYWHERE, "internet_gateway", igw)
        vpc = with_groups(vpc, 1, Group(id=uuid4(), rules=(allow("all"),)))
        vpc = replace(vpc, elastic_ips=(ElasticIp(id=uuid4(), public_ip="198.18.5.1", port_id=a.id),))
        await driver.apply(vpc)
        world = outside()
        with wires.boxes[b.id].opened(socket.SOCK_DGRAM) as ear, world.opened(socket.SOCK_DGRAM) as mouth:
            ear.bind(("", 90))
            for id in (igw, nat.id):
                [leg] = running[0].nbctl("--bare", "--columns=networks", "find", "Logical_Router_Port",
                                         f"name=e-{id.hex}").split()  # fmt: skip
                ip("-n", world.path[11:], "route", "replace", "10.0.0.0/16", "via", leg.partition("/")[0])
                assert not world.ping(leg.partition("/")[0])
                mouth.sendto(b"?", (b.address, 90))
                with pytest.raises(TimeoutError):
                    ear.recv(1)

    async def test_it_leaves_nothing_behind(
        self, running: tuple[Machines, Chassis], driver: OvnNetwork, wires: Wires
    ) -> None:
        before, (one, two) = everything(running[0], driver), peered(wires)
        for vpc in (one, two):
            await driver.apply(vpc)
        assert everything(running[0], driver) != before
        await driver.apply(replace(one, internet_gateway=None, nat_gateways=(), elastic_ips=()))
        for vpc in (one, two):
            await driver.delete(vpc.vpc_id)
        assert everything(running[0], driver) == before

    async def test_an_interface_that_went_leaves_no_firewall(
        self, driver: OvnNetwork, wires: Wires, vpc: Topology
    ) -> None:
        await driver.apply(vpc)
        a, *others = vpc.ports
        again = replace(vpc, ports=(replace(a, netns=wires.box().path), *others))
        await driver.apply(again)
        guarded = run("nft", "list", "table", "netdev", f"thecloud_{driver._cloud}")
        assert guarded.count("chain") == len(vpc.ports)

    async def test_applied_again_nothing_is_committed(
        self, running: tuple[Machines, Chassis], driver: OvnNetwork, wires: Wires
    ) -> None:
        one, two = peered(wires)
        for vpc in (one, two, one):
            await driver.apply(vpc)
        version = running[0].nbctl("get", "NB_Global", ".", "nb_cfg")
        for vpc in (two, one):
            await driver.apply(vpc)
        assert running[0].nbctl("get", "NB_Global", ".", "nb_cfg") == version


def test_the_driver_is_loaded_by_its_name(tmp_path: Path) -> None:
    require("ovn")
    databases = {"northbound": "unix:/n", "southbound": "unix:/s", "switch": "unix:/o"}
    loaded = load.load(compute="docker", network="ovn", cloud_id="test", publish="127.0.0.1", external="198.18.0.0/16",
                       data=tmp_path, smtp_url="", mail_from="", ovn=databases)  # fmt: skip
    assert isinstance(loaded.network, OvnNetwork)
    assert not loaded.network.one_host
    assert not loaded.network.publishes


# Two machines


@pytest.fixture(scope="module")
def second(running: tuple[Machines, Chassis]) -> Chassis:
    return running[0].second(running[1])


@contextmanager
def tunnelled(ovn: Machines) -> Iterator[list[bytes]]:
    """What goes between the machines meanwhile: the frames of geneve."""
    with kernel.entered(kernel.HOST), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.bind((ovn.tunnel, 0))
        wire.setblocking(False)
        found: list[bytes] = []
        yield found
        for _ in range(10_000):
            try:
                frame = wire.recv(2000)
            except BlockingIOError:
                return
            if frame[23] == socket.IPPROTO_UDP and frame[36:38] == (6081).to_bytes(2, "big"):
                found.append(frame)


async def test_a_vpc_spans_machines(
    running: tuple[Machines, Chassis], second: Chassis, wires: Wires, tmp_path: Path, outside: Callable[[], Box]
) -> None:
    ovn, here = running
    cloud = f"test-{uuid4()}"
    driver = OvnNetwork(cloud, EXTERNAL, ovn.northbound, ovn.southbound, here.database, state=tmp_path / "own")
    elsewhere = Elsewhere(ovn, second, cloud, EXTERNAL, tmp_path)

    def placed(vpc: Topology) -> Topology:
        """The first port here, the others there."""
        places = zip(vpc.ports, ("here", "there", "there"), strict=True)
        return replace(vpc, ports=tuple(replace(one, netns=elsewhere.file(one.netns or "", at)) for one, at in places))

    vpc, other = placed(wires.vpc()), placed(wires.vpc())
    a, b, c = (wires.boxes[port.id] for port in vpc.ports)
    to_b, to_c, from_a = vpc.ports[1].address, vpc.ports[2].address, vpc.ports[0].address
    try:
        for one in (vpc, other):
            await driver.apply(one)
            assert elsewhere.apply(one)
            assert await driver.observe(one.vpc_id) == one
        wait(lambda: a.ping(to_b))  # in user space, the first packet over a tunnel only asks for the other end's MAC
        for target in (to_b, to_c):  # in the same subnet, and in another
            with tunnelled(ovn) as frames:
                assert a.tcp(target, 80) == from_a
                assert a.ping(target)
            assert len(frames) >= 4
        with tunnelled(ovn) as frames:
            assert b.tcp(to_c, 80) == to_b  # both are there
        assert frames == []
        a.listen(90)
        assert wires.boxes[other.ports[1].id].tcp(from_a, 90) is None  # the same addresses, in another VPC
        web, data = Group(id=uuid4()), Group(id=uuid4())
        data = replace(data, rules=(allow(group_id=web.id),))
        grouped = with_groups(with_groups(vpc, 1, data), 0, web)
        await driver.apply(replace(grouped, groups=(web, data)))
        assert a.tcp(to_b, 80) == from_a
        assert a.tcp(to_b, 81) is None
        assert c.tcp(to_b, 80) is None
        igw = uuid4()  # which is on this machine: the other is not in the external network
        elastic = ElasticIp(id=uuid4(), public_ip="198.18.5.1", port_id=vpc.ports[2].id)
        public = with_route(
            replace(vpc, internet_gateway=igw, elastic_ips=(elastic,)), ANYWHERE, "internet_gateway", igw
        )
        await driver.apply(public)
        outside()
        # The first packets ask for the MAC from the other machine, and are lost or held until it is known.
        wait(lambda: c.tcp("198.18.9.9", 80) == "198.18.5.1")
        assert c.ping("198.18.9.9")
        assert a.tcp("198.18.9.9", 80) is None
    finally:
        for one in (vpc, other):
            elsewhere.delete(one)
            await driver.delete(one.vpc_id)
        await driver.close()
