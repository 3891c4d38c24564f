"""Whether an instance reaches something: what is asked, what is answered, and what is in the way."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from drivers.network import Topology
from tests.conftest import Cloud, Person
from tests.networks import World, done, got, made, main_table, message, subnet, world


@pytest.fixture
async def net(cloud: Cloud, ada: Person) -> World:
    net = await world(ada)
    await cloud.settle()
    return net


async def ask(person: Person, source: str, **body: Any) -> dict[str, Any]:
    body = {"source_instance_id": source, "protocol": "tcp", "port": 80} | body
    return await done(person, "/network/reachability", **body)  # type: ignore[no-any-return]


async def test_two_instances_of_a_subnet_reach_each_other_if_groups_let(cloud: Cloud, ada: Person, net: World) -> None:
    other = await ada.running(name="other", subnet_id=net.subnet)
    for destination in ({"destination_instance_id": net.instance}, {"destination_instance_id": "web-01"},
                        {"destination_address": (await ada.instance(net.instance))["private_ip"]}):  # fmt: skip
        assert await ask(ada, other["id"], **destination) == {"reachable": True, "programmed": True}
        shut = await ask(ada, "other", port=81, **destination)
        assert (shut["reachable"], shut["programmed"], shut["obstacle"]["kind"]) == (False, True, "group")
        assert shut["obstacle"]["id"] == net.instance
        assert "no ingress rule allows tcp" in shut["obstacle"]["message"]
    assert (await ask(ada, other["id"], destination_instance_id=net.instance, protocol="icmp"))["reachable"] is False
    assert (await ask(ada, net.instance, destination_instance_id=other["id"], port=7))["reachable"] is True


async def test_a_change_counts_at_once_and_is_programmed_a_moment_later(cloud: Cloud, ada: Person, net: World) -> None:
    other = await ada.running(name="other", subnet_id=net.subnet)
    await ada.rest.delete(f"/security-groups/rules/{net.security_rule}")
    shut = await ask(ada, other["id"], destination_instance_id=net.instance)
    assert (shut["reachable"], shut["programmed"]) == (False, False)
    await cloud.settle()
    assert (await ask(ada, other["id"], destination_instance_id=net.instance))["programmed"] is True
    await made(ada, f"/security-groups/{net.security_group}/rules", direction="ingress", protocol="all",
               cidr="10.0.0.0/16")  # fmt: skip
    not_yet = await ask(ada, other["id"], destination_instance_id=net.instance)
    assert (not_yet["reachable"], not_yet["programmed"], not_yet["obstacle"]["kind"]) == (False, False, "group")
    await cloud.settle()
    assert (await ask(ada, other["id"], destination_instance_id=net.instance))["reachable"] is True


async def test_drift_is_in_the_way(cloud: Cloud, ada: Person, net: World) -> None:
    other = await ada.running(name="other", subnet_id=net.subnet)
    there = cloud.network.applied[UUID(net.vpc)]
    ports = tuple(each for each in there.ports if str(each.id) != other["id"])
    cloud.network.applied[UUID(net.vpc)] = Topology(**vars(there) | {"ports": ports})
    found = await ask(ada, other["id"], destination_instance_id=net.instance)
    assert (found["reachable"], found["programmed"], found["obstacle"]["kind"]) == (False, False, "instance")
    cloud.network.applied.clear()
    assert (await ask(ada, other["id"], destination_instance_id=net.instance))["reachable"] is False


async def test_over_a_peering(cloud: Cloud, ada: Person, net: World) -> None:
    room = await subnet(ada, net.peer, "10.1.1.0/24")
    far = await ada.running(name="far", subnet_id=room["id"])
    closed = await ask(ada, net.instance, destination_instance_id=far["id"])
    assert (closed["obstacle"]["kind"], closed["obstacle"]["id"]) == ("group", far["id"])
    assert await ask(ada, far["id"], destination_instance_id=net.instance) == {"reachable": True, "programmed": True}
    route = next(each for each in (await main_table(ada, net.peer))["routes"] if each["target_type"] == "peering")
    await ada.rest.delete(f"/route-tables/{route['route_table_id']}/routes/{route['id']}")
    await cloud.settle()
    assert (await ask(ada, far["id"], destination_instance_id=net.instance))["obstacle"]["kind"] == "route"
    await ada.rest.delete(f"/vpc-peerings/{net.vpc_peering}")
    await cloud.settle()
    assert (await ask(ada, far["id"], destination_instance_id=net.instance))["obstacle"]["kind"] == "peering"


async def test_the_way_out_needs_an_elastic_ip_or_a_nat_gateway(cloud: Cloud, ada: Person, net: World) -> None:
    outside = {"destination_address": "192.0.2.1"}
    shut = await ask(ada, net.instance, **outside)
    assert (shut["obstacle"]["kind"], shut["obstacle"]["id"]) == ("gateway", net.internet_gateway)
    assert "elastic IP" in shut["obstacle"]["message"]
    await done(ada, f"/elastic-ips/{net.elastic_ip}/associate", instance_id=net.instance)
    await cloud.settle()
    assert (await ask(ada, net.instance, **outside))["reachable"] is True
    await done(ada, f"/elastic-ips/{net.elastic_ip}/disassociate")
    room = await subnet(ada, net.vpc, "10.0.2.0/24", "private")
    await done(ada, f"/route-tables/{net.route_table}/associate", subnet_id=room["id"])
    private = await ada.running(name="private", subnet_id=room["id"])
    assert (await ask(ada, private["id"], **outside))["reachable"] is True
    await ada.rest.delete(f"/nat-gateways/{net.nat_gateway}")
    await cloud.settle()
    lost = await ask(ada, private["id"], **outside)
    assert (lost["obstacle"]["kind"], lost["obstacle"]["id"]) == ("route", net.route_table)


async def test_an_elastic_ip_of_another_vpc_is_behind_its_groups(cloud: Cloud, ada: Person, net: World) -> None:
    await done(ada, f"/elastic-ips/{net.elastic_ip}/associate", instance_id=net.instance)
    far = (await made(ada, "/vpcs", name="far", cidr_block="10.9.0.0/16"))["id"]
    gateway = (await made(ada, "/internet-gateways"))["id"]
    await done(ada, f"/internet-gateways/{gateway}/attach", vpc_id=far)
    group = (await made(ada, "/security-groups", vpc_id=far, name="web"))["id"]
    await made(ada, f"/security-groups/{group}/rules", direction="ingress", protocol="tcp", port_min=443, port_max=443,
               cidr="0.0.0.0/0")  # fmt: skip
    room = await subnet(ada, far, "10.9.1.0/24")
    other = await ada.running(name="far", subnet_id=room["id"], security_groups=["web"])
    elastic = await made(ada, "/elastic-ips")
    await done(ada, f"/elastic-ips/{elastic['id']}/associate", instance_id=other["id"])
    await cloud.settle()
    shut = await ask(ada, net.instance, destination_address=elastic["public_ip"])
    assert (shut["reachable"], shut["obstacle"]["kind"], shut["obstacle"]["id"]) == (False, "group", other["id"])
    assert (await ask(ada, net.instance, destination_address=elastic["public_ip"], port=443))["reachable"] is True


async def test_what_does_not_run_neither_sends_nor_receives(cloud: Cloud, ada: Person, net: World) -> None:
    other = await ada.running(name="other", subnet_id=net.subnet)
    await done(ada, f"/instances/{other['id']}/stop")
    await cloud.settle()
    assert (await ask(ada, other["id"], destination_instance_id=net.instance))["obstacle"]["kind"] == "instance"
    assert (await ask(ada, net.instance, destination_instance_id=other["id"]))["obstacle"]["kind"] == "target"
    assert (await ask(ada, net.instance, destination_address="169.254.169.254"))["obstacle"]["kind"] == "target"
    assert (await ask(ada, net.instance, destination_address="127.0.0.1"))["obstacle"]["kind"] == "target"


async def test_a_bad_question_is_refused(cloud: Cloud, ada: Person, bob: Person, net: World) -> None:
    foreign, outside = await world(bob), await ada.running(name="outside")
    good: dict[str, Any] = {"source_instance_id": net.instance, "destination_address": "10.0.1.1", "protocol": "icmp"}
    for body, status in (
        ({"source_instance_id": ""}, 400), ({"source_instance_id": None}, 400), ({"source_instance_id": "none"}, 400),
        ({"source_instance_id": outside["id"]}, 400), ({"source_instance_id": str(uuid4())}, 404),
        ({"source_instance_id": foreign.instance}, 404), ({"destination_instance_id": net.instance}, 400),
        ({"destination_address": "", "destination_instance_id": foreign.instance}, 404),
        ({"destination_address": "", "destination_instance_id": outside["id"]}, 400),
        ({"destination_address": ""}, 400), ({"destination_address": None}, 400),
        *(({"destination_address": each}, 400) for each in (
            "x", "010.0.0.1", "10.0.0.1/24", "10.0.0", "::1", "\u0661\u0660.0.0.1", " 10.0.0.1", "10.0.0.256", "1", 7,
        )),
        *(({"protocol": each}, 400) for each in ("", None, "all", "TCP", "arp", 6)),
        *(({"protocol": "tcp", "port": each}, 400) for each in (None, 0, -1, 65536, 2**31, "x", 1.5)),
    ):  # fmt: skip
        reply = await ada.rest.post("/network/reachability", json=good | body)
        assert reply.status_code == status, (body, reply.text)
        assert message(reply)
    assert (await ada.rest.post("/network/reachability")).status_code == 400


async def test_viewers_may_ask_and_nothing_is_changed(cloud: Cloud, ada: Person, net: World) -> None:
    viewer = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    before = [await cloud.value(f"select count(*) from {table}") for table in ("changes", "audit_log", "work")]
    await ask(viewer, net.instance, destination_address="10.0.1.77")
    assert [await cloud.value(f"select count(*) from {table}") for table in ("changes", "audit_log", "work")] == before
    enveloped = await viewer.rest.post("/api/v1/network/reachability", json={
        "source_instance_id": net.instance, "destination_address": "10.0.1.77", "protocol": "icmp"})  # fmt: skip
    assert enveloped.json()["data"]["obstacle"]["kind"] == "target"
    assert (await got(ada, f"/instances/{net.instance}"))["status"] == "RUNNING"
