"""Subnets through the front door, and the addresses they hand out."""

import asyncio
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Cloud, Person
from tests.networks import done, got, made, main_table, message, pages, refusal, subnet, vpc, world


async def test_a_subnet_lives_as_documented(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    body = {"name": "private-subnet-1", "cidr_block": "10.0.1.0/24", "availability_zone": "us-east-1a"}
    born = await made(ada, f"/vpcs/{home['id']}/subnets", **body)
    assert {name: born[name] for name in body} == body
    assert set(born) - set(body) == {
        "id", "vpc_id", "gateway_ip", "status", "arn", "user_id", "tenant_id", "created_at"
    }  # fmt: skip
    assert (born["vpc_id"], born["gateway_ip"], born["status"]) == (home["id"], "10.0.1.1", "available")
    assert born["arn"] == f"arn:thecloud:subnet:local:{ada.tenant_id}:subnet/{born['id']}"
    assert (born["user_id"], born["tenant_id"]) == (str(ada.user_id), str(ada.tenant_id))
    for reference in (born["id"], "private-subnet-1"):
        assert await got(ada, f"/subnets/{reference}") == born
    assert await got(ada, f"/vpcs/{home['id']}/subnets") == [born]
    assert (await got(ada, f"/api/v1/vpcs/{home['name']}/subnets"))["data"] == [born]

    await cloud.settle()
    [programmed] = cloud.network.applied[UUID(home["id"])].subnets
    main = await main_table(ada, home["id"])
    assert (str(programmed.id), programmed.cidr, programmed.gateway_ip, str(programmed.route_table_id)) == (
        born["id"], "10.0.1.0/24", "10.0.1.1", main["id"],
    )  # fmt: skip
    gone = await ada.rest.delete(f"/subnets/{born['id']}")
    assert (gone.status_code, gone.json()) == (200, {"message": "subnet deleted"})
    assert refusal(await ada.rest.get(f"/subnets/{born['id']}")) == (404, "NOT_FOUND")
    await cloud.settle()
    assert cloud.network.applied[UUID(home["id"])].subnets == ()


@pytest.mark.parametrize(
    ("block", "status", "says"),
    [
        ("10.1.0.0/24", 400, "not a part of the VPC's range 10.0.0.0/16"), ("10.0.0.0/15", 400, "too large"),
        ("10.0.9.1/24", 400, "the range is 10.0.9.0/24"), ("10.0.9.0/29", 400, "too small"),
        ("127.0.0.0/24", 400, "127.0.0.0/8"), ("100.64.1.0/24", 400, "100.64.0.0/16"), ("10.0.9.0", 400, "IPv4 range"),
        ("fd00::/64", 400, "IPv4 range"), ("\u0661\u0660.0.9.0/24", 400, "IPv4 range"), ("10.0.9.0/24 ", 400, "range"),
        ("010.0.9.0/24", 400, "IPv4 range"), ("", 400, "cidr_block"), (None, 400, "cidr_block"),
        ("10.0.1.0/24", 409, "10.0.1.0/24 of subnet web"), ("10.0.1.128/25", 409, "subnet web"),
        ("10.0.0.0/16", 409, "subnet web"), ("10.0.0.0/20", 409, "subnet web"), ("10.0.1.0/024", 409, "subnet web"),
    ],
)  # fmt: skip
async def test_a_bad_range_is_refused_and_leaves_nothing(
    cloud: Cloud, ada: Person, block: Any, status: int, says: str
) -> None:
    home = await vpc(ada)
    await subnet(ada, home["id"])
    await cloud.settle()
    applied = dict(cloud.network.applied)
    reply = await ada.rest.post(f"/vpcs/{home['id']}/subnets", json={"name": "more", "cidr_block": block})
    assert reply.status_code == status
    assert says in message(reply)
    assert await cloud.value("select count(*) from subnets") == 1
    assert await cloud.settle() == 0
    assert cloud.network.applied == applied


async def test_a_bad_name_or_zone_is_refused(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    for body in ({"name": ""}, {"name": "x" * 65}, {"name": "a b"}, {"name": None}, {"availability_zone": "x" * 65},
                 {"availability_zone": "a b"}, {"availability_zone": "\u0000"}):  # fmt: skip
        reply = await ada.rest.post(f"/vpcs/{home['id']}/subnets",
                                    json={"name": "a", "cidr_block": "10.0.1.0/24"} | body)  # fmt: skip
        assert refusal(reply) == (400, "INVALID_INPUT"), body
    assert await cloud.value("select count(*) from subnets") == 0
    await made(ada, f"/vpcs/{home['id']}/subnets", id="", name="a", cidr_block="10.0.1.0/24", availability_zone="")


async def test_a_name_is_taken_once_in_a_vpc(cloud: Cloud, ada: Person) -> None:
    first, second = await vpc(ada, "a"), await vpc(ada, "b")
    born = await subnet(ada, first["id"])
    again = await ada.rest.post(f"/vpcs/{first['id']}/subnets", json={"name": "web", "cidr_block": "10.0.2.0/24"})
    assert refusal(again) == (409, "CONFLICT")
    assert "web" in message(again)
    await subnet(ada, second["id"])
    assert refusal(await ada.rest.get("/subnets/web")) == (409, "CONFLICT")
    assert await got(ada, f"/subnets/{born['id']}") == born


async def test_subnets_of_no_vpc_are_not_found(ada: Person, bob: Person) -> None:
    home = await vpc(ada)
    body = {"name": "a", "cidr_block": "10.0.1.0/24"}
    for id in (home["id"], str(uuid4())):
        assert refusal(await bob.rest.get(f"/vpcs/{id}/subnets")) == (404, "NOT_FOUND")
        assert refusal(await bob.rest.post(f"/vpcs/{id}/subnets", json=body)) == (404, "NOT_FOUND")
    assert refusal(await ada.rest.get("/vpcs/*/subnets")) == (400, "INVALID_INPUT")
    assert refusal(await ada.rest.get("/subnets/no-such")) == (400, "INVALID_INPUT")
    await ada.rest.delete(f"/vpcs/{home['id']}")
    assert refusal(await ada.rest.post(f"/vpcs/{home['id']}/subnets", json=body)) == (404, "NOT_FOUND")


async def test_the_list_comes_in_pages_newest_first(ada: Person) -> None:
    home = await vpc(ada)
    ids = [(await subnet(ada, home["id"], f"10.0.{n}.0/24", f"s{n}"))["id"] for n in range(5)]
    assert await pages(ada, f"/vpcs/{home['id']}/subnets") == ids[::-1]


async def test_of_subnets_that_overlap_one_is_made(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    replies = await asyncio.gather(*(
        ada.rest.post(f"/vpcs/{home['id']}/subnets", json={"name": f"s{n}", "cidr_block": f"10.0.0.0/{17 + n}"})
        for n in range(10)
    ))  # fmt: skip
    assert sorted(reply.status_code for reply in replies) == [201, *[409] * 9]


# A range that was picked


async def test_a_range_that_was_picked_follows_the_first_subnet(cloud: Cloud, ada: Person) -> None:
    home = await made(ada, "/vpcs", name="net")
    await subnet(ada, home["id"], "192.168.7.0/24")
    assert (await got(ada, f"/vpcs/{home['id']}"))["cidr_block"] == "192.168.0.0/16"
    [local] = (await main_table(ada, home["id"]))["routes"]
    assert local["destination_cidr"] == "192.168.0.0/16"
    await cloud.settle()
    [programmed] = cloud.network.applied.values()
    assert programmed.cidrs == ("192.168.0.0/16",)
    late = await ada.rest.post(f"/vpcs/{home['id']}/subnets", json={"name": "b", "cidr_block": "172.16.0.0/24"})
    assert refusal(late) == (400, "INVALID_INPUT")


async def test_a_range_stays_once_it_was_asked_for_or_is_peered(ada: Person) -> None:
    asked, picked = await vpc(ada, "asked"), await made(ada, "/vpcs", name="picked")
    assert picked["cidr_block"] == "10.1.0.0/16"
    await made(ada, "/vpc-peerings", requester_vpc_id=asked["id"], accepter_vpc_id=picked["id"])
    for each in (asked, picked):
        reply = await ada.rest.post(f"/vpcs/{each['id']}/subnets", json={"name": "a", "cidr_block": "192.168.0.0/24"})
        assert refusal(reply) == (400, "INVALID_INPUT")
        assert each["cidr_block"] in message(reply)
        assert (await got(ada, f"/vpcs/{each['id']}"))["cidr_block"] == each["cidr_block"]


async def test_a_route_in_the_way_keeps_a_picked_range(ada: Person) -> None:
    home = await made(ada, "/vpcs", name="net")
    gateway = await made(ada, "/internet-gateways")
    await done(ada, f"/internet-gateways/{gateway['id']}/attach", vpc_id=home["id"])
    table = await main_table(ada, home["id"])
    await made(ada, f"/route-tables/{table['id']}/routes", destination_cidr="192.168.0.0/16", target_type="igw",
               target_id=gateway["id"])  # fmt: skip
    reply = await ada.rest.post(f"/vpcs/{home['id']}/subnets", json={"name": "a", "cidr_block": "192.168.0.0/24"})
    assert refusal(reply) == (409, "CONFLICT")
    assert "192.168.0.0/16" in message(reply)
    assert await got(ada, f"/vpcs/{home['id']}/subnets") == []


# Addresses


async def test_the_smallest_subnet_takes_thirteen_and_gives_back(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    room = await subnet(ada, home["id"], "10.0.1.16/28")
    instances = [await ada.launch(subnet_id=room["id"]) for _ in range(13)]
    assert [each["private_ip"] for each in instances] == [f"10.0.1.{number}" for number in range(18, 31)]
    full = await ada.rest.post("/instances", json={"name": "more", "image": "nginx", "subnet_id": room["id"]})
    assert refusal(full) == (409, "CONFLICT")
    assert "10.0.1.16/28" in message(full)
    address = await made(ada, "/elastic-ips")
    nat = await ada.rest.post("/nat-gateways", json={"subnet_id": room["id"], "eip_id": address["id"]})
    assert refusal(nat) == (409, "CONFLICT")
    assert (await got(ada, f"/elastic-ips/{address['id']}"))["status"] == "allocated"
    await cloud.settle()
    await ada.rest.delete(f"/instances/{instances[4]['id']}")
    await cloud.settle()
    assert (await ada.launch(subnet_id=room["id"]))["private_ip"] == instances[4]["private_ip"]


async def test_an_instance_of_a_vpc_is_in_the_first_subnet_with_room(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    none = await ada.rest.post("/instances", json={"name": "a", "image": "nginx", "vpc_id": home["id"]})
    assert refusal(none) == (400, "INVALID_INPUT")
    assert f"/vpcs/{home['id']}/subnets" in message(none)
    small = await subnet(ada, home["id"], "10.0.1.0/28", "small")
    large = await subnet(ada, home["id"], "10.0.2.0/24", "large")
    placed = [(await ada.launch(vpc_id=home["id"]))["subnet_id"] for _ in range(14)]
    assert placed == [small["id"]] * 13 + [large["id"]]
    both = await ada.launch(vpc_id=home["id"], subnet_id=large["id"])
    assert (both["vpc_id"], both["subnet_id"]) == (home["id"], large["id"])


async def test_launches_at_once_get_addresses_of_their_own(cloud: Cloud, ada: Person) -> None:
    await cloud.value("insert into quotas (tenant_id, name, most) values ($1, 'instances', 100)", ada.tenant_id)
    home = await vpc(ada)
    room = await subnet(ada, home["id"])
    body = {"image": "nginx", "subnet_id": room["id"], "instance_type": "basic-1"}
    replies = await asyncio.gather(*(ada.rest.post("/instances", json=body | {"name": f"i{n}"}) for n in range(30)))
    assert {reply.status_code for reply in replies} == {202}, [reply.text for reply in replies]
    found = {reply.json()["private_ip"] for reply in replies}
    assert found == {f"10.0.1.{number}" for number in range(2, 32)}
    await cloud.settle()
    ports = cloud.network.applied[UUID(home["id"])].ports
    assert {port.address for port in ports} == found
    assert len({port.mac for port in ports}) == 30
    assert all(IPv4Address(address) in IPv4Network("10.0.1.0/24") for address in found)


async def test_what_is_in_a_subnet_keeps_it_and_is_named(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    reply = await ada.rest.delete(f"/subnets/{net.subnet}")
    assert refusal(reply) == (409, "CONFLICT")
    assert f"instance/{net.instance}" in message(reply)
    assert f"nat_gateway/{net.nat_gateway}" in message(reply)
    await ada.rest.delete(f"/nat-gateways/{net.nat_gateway}")
    await ada.rest.delete(f"/instances/{net.instance}")
    assert refusal(await ada.rest.delete(f"/subnets/{net.subnet}")) == (409, "CONFLICT")
    await cloud.settle()
    assert (await ada.rest.delete(f"/subnets/{net.subnet}")).status_code == 200
    await cloud.settle()
    assert cloud.network.applied[UUID(net.vpc)].subnets == ()


# Effective routes


async def test_the_routes_of_a_subnet_are_the_most_specific_first(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    routes = await got(ada, f"/subnets/{net.subnet}/routes")
    assert routes["route_table_id"] == (await main_table(ada, net.vpc))["id"]
    found = [(each["destination_cidr"], each["target_type"], each["state"]) for each in routes["routes"]]
    assert set(found[:2]) == {("10.0.0.0/16", "local", "active"), ("10.1.0.0/16", "peering", "active")}
    assert found[2:] == [("0.0.0.0/0", "igw", "active")]
    await done(ada, f"/route-tables/{net.route_table}/associate", subnet_id=net.subnet)
    await made(ada, f"/route-tables/{net.route_table}/routes", destination_cidr="192.0.2.0/24",
               target_type="instance", target_id=net.instance)  # fmt: skip

    async def states() -> dict[str, str]:
        routes = (await got(ada, "/subnets/web/routes"))["routes"]
        return {each["destination_cidr"]: each["state"] for each in routes}

    assert await states() == {"192.0.2.0/24": "active", "10.0.0.0/16": "active", "0.0.0.0/0": "active"}
    await ada.rest.delete(f"/instances/{net.instance}")
    await cloud.settle()
    assert await states() == {"192.0.2.0/24": "blackhole", "10.0.0.0/16": "active", "0.0.0.0/0": "active"}
