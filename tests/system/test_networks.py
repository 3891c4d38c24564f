"""VPCs of a whole cloud: real containers, real packets, and the server killed meanwhile."""

import asyncio
import json
import os
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest

from drivers import linux_kernel
from drivers.linux_kernel import HOST
from drivers.linux_plan import External
from drivers.network import Topology
from server import topology
from server.db import Database
from tests.conftest import until
from tests.drivers.packets import Box
from tests.system.client import Client, eventually
from tests.system.conftest import network_of
from tests.system.process import Ended, Thecloud

ROUNDS = 20
SEED = int(os.environ.get("THECLOUD_TEST_SEED") or random.randrange(2**32))


@pytest.fixture
async def client(network_cloud: Thecloud) -> AsyncIterator[Client]:
    with ExitStack() as stack:
        await network_cloud.up()
        yield Client(network_cloud, await network_cloud.person(), stack)


async def test_instances_of_a_vpc_behind_a_group_an_elastic_ip_and_a_peering(client: Client) -> None:
    vpc, subnet = await client.vpc("prod", "10.0")
    group = await client.make("/security-groups", vpc_id=vpc, name="web")
    a = await client.person.running(name="web-01", subnet_id=subnet, ports="0:80", security_groups=["web"])
    b = await client.person.running(name="web-02", vpc_id=vpc)
    assert (a["private_ip"], b["private_ip"]) == ("10.0.1.2", "10.0.1.3")
    in_a, in_b = await client.box(a), await client.box(b)

    assert in_b.tcp("10.0.1.2", 80) is None
    rule = await client.make(f"/security-groups/{group}/rules", direction="ingress", protocol="tcp", port_min=80,
                             port_max=80, cidr="0.0.0.0/0")  # fmt: skip
    await eventually("10.0.1.3", lambda: in_b.tcp("10.0.1.2", 80))
    assert in_a.tcp("10.0.1.3", 80) == "10.0.1.2"
    stats = await client.do("GET", f"/instances/{a['id']}/stats")
    assert stats["network_rx_bytes"] > 0 < stats["network_tx_bytes"]
    assert not in_b.ping("10.0.1.2")

    host = Box(HOST)
    try:
        port = int(a["ports"].split(":")[0])
        assert host.tcp("127.0.0.1", port) == "10.0.1.1"

        igw = await client.make("/internet-gateways")
        await client.do("POST", f"/internet-gateways/{igw}/attach", vpc_id=vpc)
        elastic = await client.do("POST", "/elastic-ips")
        await client.do("POST", f"/elastic-ips/{elastic['id']}/associate", instance_id=a["id"])
        gateway = External.of(client.cloud.environment["THECLOUD_EXTERNAL_NETWORK"]).gateway
        await client.programmed(vpc)
        await eventually(gateway, lambda: host.tcp(elastic["public_ip"], 80))
        await client.do("DELETE", f"/security-groups/rules/{rule}")
        await eventually(None, lambda: host.tcp(elastic["public_ip"], 80))
    finally:
        host.close()

    other, other_subnet = await client.vpc("other", "10.1")
    c = await client.person.running(name="db-01", subnet_id=other_subnet)
    await client.box(c)
    peering = await client.make("/vpc-peerings", requester_vpc_id=vpc, accepter_vpc_id=other)
    await client.do("POST", f"/vpc-peerings/{peering}/accept")
    open_group = await client.make("/security-groups", vpc_id=other, name="all")
    await client.make(f"/security-groups/{open_group}/rules", direction="ingress", protocol="all", cidr="0.0.0.0/0")
    await client.do("POST", "/security-groups/attach", instance_id="db-01", group_id=open_group)
    await eventually("10.0.1.3", lambda: in_b.tcp("10.1.1.2", 80))
    await client.do("DELETE", f"/vpc-peerings/{peering}")
    await eventually(None, lambda: in_b.tcp("10.1.1.2", 80))

    for id in (a["id"], b["id"], c["id"]):
        await client.do("DELETE", f"/instances/{id}")
        await client.person.gone(id)
    await client.do("POST", f"/internet-gateways/{igw}/detach")
    for id in (vpc, other):
        await client.do("DELETE", f"/vpcs/{id}")
    await until(lambda: nothing_left(client.cloud))


async def nothing_left(cloud: Thecloud) -> bool:
    external = External.of(cloud.environment["THECLOUD_EXTERNAL_NETWORK"])
    return not await network_of(cloud).list() and external.name not in linux_kernel.namespaces()


async def test_instances_find_each_other_by_name(client: Client) -> None:
    _, subnet = await client.vpc("prod", "10.0")
    await client.person.running(name="web-01", subnet_id=subnet)
    b = await client.person.running(name="web-02", subnet_id=subnet)
    container = await client.cloud.container(b["id"])

    def asked(name: str) -> str:
        command = ["docker", "exec", container["Id"], "nslookup", name]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout

    assert "10.0.1.2" in await asyncio.to_thread(asked, "web-01.internal")
    assert "10.0.1.2" in await asyncio.to_thread(asked, "web-01")
    await client.do("PUT", "/instances/web-01", name="db-01")
    await eventually(True, lambda: "10.0.1.2" in asked("db-01.internal"))
    assert "10.0.1.2" not in await asyncio.to_thread(asked, "web-01.internal")


async def test_flows_go_on_while_the_server_is_killed_and_started_again(client: Client) -> None:
    vpc, subnet = await client.vpc("prod", "10.0")
    a, b = [await client.person.running(name=name, subnet_id=subnet) for name in ("web-01", "web-02")]
    in_a = await client.box(a)
    await client.box(b)
    with in_a.connect(b["private_ip"], 80) as flow:
        assert in_a.say(flow) == a["private_ip"]
        assert client.cloud.process
        await client.cloud.process.kill()
        assert in_a.say(flow) == a["private_ip"]
        await client.cloud.up()
        await client.make("/security-groups", vpc_id=vpc, name="new")
        await client.programmed(vpc)
        assert in_a.say(flow) == a["private_ip"]


async def test_an_instance_that_restarts_gets_its_interface_back(client: Client) -> None:
    _, subnet = await client.vpc("prod", "10.0")
    a, b = [await client.person.running(name=name, subnet_id=subnet) for name in ("web-01", "web-02")]
    container = await client.cloud.container(b["id"])
    for restart in (lambda: subprocess.run(["docker", "restart", "-t", "0", container["Id"]], capture_output=True),
                    lambda: subprocess.run(["docker", "exec", container["Id"], "kill", "-9", "1"])):  # fmt: skip
        await asyncio.to_thread(restart)
        await until(lambda: reaches(client, b, a["private_ip"]), 40)
    await client.do("POST", f"/instances/{b['id']}/stop")
    await client.person.becomes(b["id"], "STOPPED")
    await client.do("PUT", f"/instances/{b['id']}", status="RUNNING")
    seen = await client.person.becomes(b["id"], "RUNNING")
    assert seen["private_ip"] == b["private_ip"]
    assert await reaches(client, b, a["private_ip"])


async def reaches(client: Client, instance: dict[str, Any], address: str) -> bool:
    """Whether a ping of the instance, wherever it runs now, is answered."""
    container = await client.cloud.container(instance["id"])
    if not container["State"]["Running"]:
        return False
    box = Box(container["NetworkSettings"]["SandboxKey"])
    try:
        return await asyncio.to_thread(box.ping, address)
    except OSError:
        return False
    finally:
        box.close()


class Chaos:
    """Changes of everything in two VPCs, of any kind, in any order."""

    def __init__(self, client: Client, dice: random.Random) -> None:
        self.rest, self.dice, self.client = client.person.rest, dice, client

    async def setup(self) -> None:
        self.vpcs = [await self.client.vpc(name, net) for name, net in (("a", "10.0"), ("b", "10.1"))]
        self.instances = [
            (await self.client.person.launch(name=f"i-{number}", subnet_id=self.vpcs[number % 2][1]))["id"]
            for number in range(4)
        ]
        self.groups = [
            (await self.client.make("/security-groups", vpc_id=self.vpcs[n % 2][0], name=f"g-{n}")) for n in range(4)
        ]
        self.elastic_ips = [await self.client.make("/elastic-ips") for _ in range(2)]
        self.gateways = [await self.client.make("/internet-gateways") for _ in range(2)]

    async def change(self) -> None:
        """One change, which may be refused, or lost with the server."""
        dice, vpc, subnet = self.dice, *self.dice.choice(self.vpcs)
        with suppress(httpx.TransportError):
            match dice.randrange(10):
                case 0:
                    await self.post(f"/security-groups/{dice.choice(self.groups)}/rules", direction="ingress",
                                    protocol="tcp", port_min=dice.randint(1, 99), port_max=99,
                                    cidr="0.0.0.0/0")  # fmt: skip
                case 1:
                    await self.post("/security-groups/attach", instance_id=dice.choice(self.instances),
                                    group_id=dice.choice(self.groups))  # fmt: skip
                case 2:
                    await self.post("/security-groups/detach", instance_id=dice.choice(self.instances),
                                    group_id=dice.choice(self.groups))  # fmt: skip
                case 3:
                    verb = dice.choice(["attach", "detach"])
                    await self.post(f"/internet-gateways/{dice.choice(self.gateways)}/{verb}", vpc_id=vpc)
                case 4:
                    verb = dice.choice(["associate", "disassociate"])
                    await self.post(f"/elastic-ips/{dice.choice(self.elastic_ips)}/{verb}",
                                    instance_id=dice.choice(self.instances))  # fmt: skip
                case 5:
                    if there := (await self.rest.get(f"/nat-gateways?vpc_id={vpc}")).json():
                        await self.rest.delete(f"/nat-gateways/{there[0]['id']}")
                    else:
                        await self.post("/nat-gateways", subnet_id=subnet, eip_id=dice.choice(self.elastic_ips))
                case 6:
                    peerings = (await self.rest.get("/vpc-peerings")).json()
                    if not peerings:
                        await self.post("/vpc-peerings", requester_vpc_id=self.vpcs[0][0],
                                        accepter_vpc_id=self.vpcs[1][0])  # fmt: skip
                    elif peerings[0]["status"] == "active":
                        await self.rest.delete(f"/vpc-peerings/{peerings[0]['id']}")
                    else:
                        await self.post(f"/vpc-peerings/{peerings[0]['id']}/accept")
                case 7:
                    status = dice.choice(["RUNNING", "STOPPED"])
                    await self.rest.put(f"/instances/{dice.choice(self.instances)}", json={"status": status})
                case 8:
                    if len(tables := (await self.rest.get(f"/route-tables?vpc_id={vpc}")).json()) < 3:
                        await self.post("/route-tables", vpc_id=vpc, name=f"t-{dice.randrange(10**6)}")
                    else:
                        await self.post(f"/route-tables/{dice.choice(tables)['id']}/associate", subnet_id=subnet)
                case 9:
                    if extra := [one for one in (await self.rest.get("/vpcs")).json() if one["name"] == "extra"]:
                        await self.rest.delete(f"/vpcs/{extra[0]['id']}")
                    else:
                        await self.post("/vpcs", name="extra")

    async def post(self, path: str, **body: Any) -> None:
        reply = await self.rest.post(path, json=body)
        assert reply.status_code < 500 or reply.status_code == 503, f"{path} {body}: {reply.text}"


@pytest.mark.timeout(400)
async def test_after_twenty_kills_what_is_programmed_is_what_is_wanted(client: Client) -> None:
    print("THECLOUD_TEST_SEED =", SEED)
    dice = random.Random(SEED)
    chaos, cloud = Chaos(client, dice), client.cloud
    await chaos.setup()
    for _ in range(ROUNDS):
        assert cloud.process
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(repeated(chaos, dice.randint(1, 4)))
            with suppress(TimeoutError):
                async with asyncio.timeout(dice.uniform(0, 0.6)):
                    await cloud.process.ended()
            await cloud.process.kill()
        await cloud.up()
    async with Database(cloud.url, 2) as database:

        async def wanted() -> dict[UUID, Topology]:
            ids = json.loads(await cloud.value("select coalesce(json_agg(id), '[]') from vpcs"))
            return await topology.wanted(SimpleNamespace(db=database), *map(UUID, ids))  # type: ignore[arg-type]

        async def seen() -> dict[UUID, Topology | None]:
            driver = network_of(cloud)
            return {id: await driver.observe(id) for id in await driver.list()}

        async def the_same() -> bool:
            return await seen() == await wanted()

        try:
            await until(the_same, 60)
        except TimeoutError:
            pytest.fail(f"{await seen()}\n\ninstead of\n\n{await wanted()}")
        there = await wanted()
        assert len(there) >= 2

    async def known() -> bool:  # the last programming is written down right after it was seen above
        return await cloud.value("select count(*) from vpcs where observed_generation < generation") == 0

    await until(known)


async def repeated(chaos: Chaos, times: int) -> None:
    for _ in range(times):
        await chaos.change()


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [("EXTERNAL_NETWORK", "198.18.0.1/16"), ("EXTERNAL_NETWORK", "198.18.0.0/31"), ("EXTERNAL_NETWORK", "nonsense"),
     ("NETWORK", "nonsense")],
)  # fmt: skip
async def test_a_network_that_cannot_be_is_told_in_a_line(network_cloud: Thecloud, setting: str, wrong: str) -> None:
    with pytest.raises(Ended) as ended:
        await network_cloud.up(**{f"THECLOUD_{setting}": wrong})
    assert ended.value.code == 2
    assert wrong in ended.value.errors
    assert "Traceback" not in ended.value.errors
