"""An instance's life in its VPC, and processes that die in the middle of it."""

from dataclasses import dataclass
from uuid import UUID

import pytest

from drivers.contracts import Refused
from drivers.network import Port, Topology
from server import topology
from server.services import instance_lives, vpcs
from tests.conftest import Cloud, Person
from tests.crash import MOMENTS, Moment, die, expire
from tests.networks import done, got, made, subnet, vpc, world


def port(cloud: Cloud, vpc_id: str, instance_id: str) -> Port | None:
    ports = cloud.network.applied[UUID(vpc_id)].ports
    return next((each for each in ports if str(each.id) == instance_id), None)


async def wanted(cloud: Cloud) -> dict[UUID, Topology]:
    """All VPCs as their rows want them."""
    async with cloud.app.db.reading() as tx:
        ids = [each["id"] for each in await tx.connection.fetch("select id from vpcs")]
    return await topology.wanted(cloud.app, *ids)


async def due(cloud: Cloud) -> None:
    await cloud.value("update work set due_at = now()")
    await cloud.settle()


async def test_an_instance_keeps_its_address_and_its_mac_through_its_life(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    room = await subnet(ada, home["id"])
    born = await ada.launch(subnet_id=room["id"], name="Web_01", instance_type="basic-2", ports="0:80")
    assert (born["vpc_id"], born["subnet_id"], born["private_ip"]) == (home["id"], room["id"], "10.0.1.2")
    await cloud.settle()
    first = port(cloud, home["id"], born["id"])
    assert first is not None
    seen = await ada.instance(born["id"])
    host_port = int(seen["ports"].partition(":")[0])
    assert (first.address, first.mac, first.mbps) == ("10.0.1.2", "02:74:0a:00:01:02", 1000)
    assert [(each.host, each.container) for each in first.published] == [(host_port, 80)]
    assert first.netns == f"/nowhere/{born['id']}/1"
    machine = cloud.compute.machines[UUID(born["id"])]
    attachment = machine.spec.attachment
    assert attachment is not None
    assert (attachment.address, attachment.resolver) == ("10.0.1.2", "10.0.1.1")

    await done(ada, f"/instances/{born['id']}/pause")
    await cloud.settle()
    assert port(cloud, home["id"], born["id"]) == first
    await done(ada, f"/instances/{born['id']}/resume")
    await done(ada, f"/instances/{born['id']}/stop")
    await cloud.settle()
    stopped = await ada.instance(born["id"])
    assert (stopped["status"], stopped["private_ip"]) == ("STOPPED", "10.0.1.2")
    assert port(cloud, home["id"], born["id"]) is None
    assert (await ada.launch(subnet_id=room["id"], name="other"))["private_ip"] == "10.0.1.3"

    await ada.rest.put(f"/instances/{born['id']}", json={"status": "RUNNING"})
    await cloud.settle()
    again = port(cloud, home["id"], born["id"])
    assert again is not None
    assert (again.address, again.mac, again.netns) == (first.address, first.mac, f"/nowhere/{born['id']}/2")
    assert (await ada.instance(born["id"]))["private_ip"] == "10.0.1.2"

    await ada.rest.delete(f"/instances/{born['id']}")
    await cloud.settle()
    assert port(cloud, home["id"], born["id"]) is None
    assert (await ada.launch(subnet_id=room["id"], name="next"))["private_ip"] == "10.0.1.2"


async def test_a_command_that_ends_and_starts_again_keeps_its_address(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    ends = await ada.launch(subnet_id=net.subnet, name="ends", cmd=["sh", "-c", "exit 3"])
    await cloud.settle()
    seen = await ada.instance(ends["id"])
    assert (seen["status"], seen["private_ip"]) == ("ERROR", ends["private_ip"])
    assert port(cloud, net.vpc, ends["id"]) is None
    cloud.compute.machines[UUID(ends["id"])].spec = cloud.compute.machines[UUID(net.instance)].spec
    await due(cloud)
    assert (await ada.instance(ends["id"]))["private_ip"] == ends["private_ip"]

    machine = cloud.compute.machines[UUID(net.instance)]
    before = port(cloud, net.vpc, net.instance)
    machine.power, machine.exit_code = "STOPPED", 1  # by itself
    await instance_lives.compare(cloud.app)
    await cloud.settle()
    after = port(cloud, net.vpc, net.instance)
    assert before is not None
    assert after is not None
    assert (after.address, after.mac) == (before.address, before.mac)
    assert after.netns == f"/nowhere/{net.instance}/{machine.starts}" != before.netns


async def test_a_change_of_name_or_type_is_programmed(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    await ada.rest.patch(f"/instances/{net.instance}", json={"name": "Renamed"})
    await cloud.settle()
    renamed = port(cloud, net.vpc, net.instance)
    assert renamed is not None
    assert renamed.hostnames == ("renamed", "renamed.internal")
    await done(ada, f"/instances/{net.instance}/resize", instance_type="standard-1")
    await cloud.settle()
    resized = port(cloud, net.vpc, net.instance)
    mbps = await cloud.value("select network_mbps from instance_types where id = 'standard-1'")
    assert resized is not None
    assert resized.mbps == mbps


async def test_an_instance_outside_of_every_vpc_is_none_of_the_network_drivers(cloud: Cloud, ada: Person) -> None:
    made_so = await ada.running()
    assert (made_so["private_ip"][:7], "vpc_id" in made_so) == ("198.18.", False)
    assert cloud.network.applied == {}


async def test_a_launch_that_is_refused_gives_its_address_back(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    free = await cloud.value("select count(*) from subnet_addresses")
    for body in ({"image": "no-such-image"}, {"instance_type": "none"}, {"ports": "x"}):
        launch = {"name": "a", "image": "nginx", "subnet_id": net.subnet} | body
        assert (await ada.rest.post("/instances", json=launch)).status_code in (400, 404)
    tried = await ada.rest.post(
        "/instances?dry_run=true", json={"name": "a", "image": "nginx", "subnet_id": net.subnet}
    )
    assert (tried.status_code, tried.json()["private_ip"]) == (200, "10.0.1.4")
    assert await cloud.value("select count(*) from subnet_addresses") == free


async def test_a_server_that_may_make_no_networks_says_so_and_tries_again(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def apply(topology: Topology) -> None:
        raise PermissionError("Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(cloud.network, "apply", apply)
        home = await vpc(ada)
        room = await subnet(ada, home["id"])
        waits = await ada.launch(subnet_id=room["id"])
        await cloud.settle()
        seen = await got(ada, f"/vpcs/{home['id']}")
        assert (seen["reconciling"], "root" in seen["status_message"]) == (True, True)
        assert (await ada.instance(waits["id"]))["status"] == "STARTING"
    await due(cloud)
    assert "status_message" not in await got(ada, f"/vpcs/{home['id']}")
    assert (await ada.instance(waits["id"]))["status"] == "RUNNING"
    assert cloud.network.applied == await wanted(cloud)


async def test_a_network_that_is_refused_is_an_error_until_it_is_not(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def apply(topology: Topology) -> None:
        raise Refused("there is no room for another network")

    with monkeypatch.context() as patch:
        patch.setattr(cloud.network, "apply", apply)
        home = await vpc(ada)
        await cloud.settle()
        seen = await got(ada, f"/vpcs/{home['id']}")
        assert (seen["status"], seen["status_message"]) == ("error", "there is no room for another network")
        assert seen["reconciling"] is False
    await vpcs.compare(cloud.app)
    await cloud.settle()
    assert await got(ada, f"/vpcs/{home['id']}") == home | {"reconciling": False}
    assert cloud.network.applied == await wanted(cloud)


# Killed


@dataclass
class Story:
    """Changes one after another, in each of which the process dies once."""

    cloud: Cloud
    driver: str
    moment: Moment
    deaths: int = 0

    async def goes_on(self) -> None:
        """Die at the moment, if it comes, and let other processes finish; then all is as it is wanted."""
        self.deaths += await die(self.cloud, self.driver, self.moment)
        for _ in range(10):
            await expire(self.cloud)
            await self.cloud.settle()
            if not await self.cloud.value("select count(*) from work"):
                break
        else:
            raise AssertionError(await self.cloud.value("select string_agg(w::text, ' ') from work w"))
        assert self.cloud.network.applied == await wanted(self.cloud)


@pytest.mark.parametrize("driver", ["network", "compute"])
@pytest.mark.parametrize("moment", MOMENTS[:6], ids=str)
async def test_every_change_of_a_network_survives(cloud: Cloud, ada: Person, driver: str, moment: Moment) -> None:
    story = Story(cloud, driver, moment)
    home, peer = await vpc(ada), await vpc(ada, "peer", "10.1.0.0/16")
    room = await subnet(ada, home["id"])
    await story.goes_on()  # a network is made
    group = await made(ada, "/security-groups", vpc_id=home["id"], name="g")
    peering = await made(ada, "/vpc-peerings", requester_vpc_id=home["id"], accepter_vpc_id=peer["id"])
    await done(ada, f"/vpc-peerings/{peering['id']}/accept")
    await story.goes_on()  # and changed
    two = [await ada.launch(subnet_id=room["id"], name=f"i{n}", security_groups=["g"]) for n in range(2)]
    await story.goes_on()  # instances start
    assert {(await ada.instance(each["id"]))["status"] for each in two} == {"RUNNING"}
    assert {each.address for each in cloud.network.applied[UUID(home["id"])].ports} == {"10.0.1.2", "10.0.1.3"}
    address = await made(ada, "/elastic-ips")
    await done(ada, f"/elastic-ips/{address['id']}/associate", instance_id="i0")
    await made(ada, f"/security-groups/{group['id']}/rules", direction="ingress", protocol="all", cidr="0.0.0.0/0")
    await done(ada, "/instances/i0/stop")
    await story.goes_on()  # one stops
    await ada.rest.put("/instances/i0", json={"status": "RUNNING"})
    await story.goes_on()  # and starts again
    assert (await ada.instance("i0"))["private_ip"] == two[0]["private_ip"]
    started = port(cloud, home["id"], two[0]["id"])
    assert started is not None
    assert started.netns == f"/nowhere/{two[0]['id']}/{cloud.compute.machines[UUID(two[0]['id'])].starts}"
    for each in two:
        await ada.rest.delete(f"/instances/{each['id']}")
    await story.goes_on()  # both are terminated
    assert cloud.compute.machines == {}
    await ada.rest.delete(f"/vpc-peerings/{peering['id']}")
    for each in (home, peer):
        assert (await ada.rest.delete(f"/vpcs/{each['id']}")).status_code == 200
    await story.goes_on()  # and the networks deleted
    assert cloud.network.applied == {}
    tables = ("vpcs", "subnets", "routes", "route_tables", "security_groups", "security_rules", "subnet_addresses")
    assert [await cloud.value(f"select count(*) from {table}") for table in tables] == [0] * 7
    assert story.deaths >= (4 if moment.call == 1 else 1)


async def test_a_driver_that_publishes_no_ports_and_spans_hosts(cloud: Cloud, ada: Person) -> None:
    cloud.network.publishes, cloud.network.one_host = False, False
    home = await vpc(ada)
    assert await cloud.value("select host from vpcs") is None
    room = await subnet(ada, home["id"])
    body = {"name": "web", "image": "nginx", "subnet_id": room["id"], "ports": "0:80"}
    reply = await ada.rest.post("/instances", json=body)
    assert (reply.status_code, reply.json()["error"]["reason"]) == (501, "UNSUPPORTED")
    assert "elastic IP" in reply.json()["error"]["message"]
    assert await cloud.value("select count(*) from instances") == 0
    instance = await ada.running(subnet_id=room["id"])
    assert port(cloud, home["id"], instance["id"])
    cloud.network.applied.clear()
    await vpcs.compare(cloud.app)
    await cloud.settle()
    assert cloud.network.applied == await wanted(cloud)
