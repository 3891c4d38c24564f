"""Internet gateways and NAT gateways."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

from tests.conftest import Cloud, Person
from tests.networks import World, done, got, made, main_table, message, pages, refusal, subnet, vpc, world

# Internet gateways


async def attached(person: Person, vpc_id: str) -> str:
    """The id of a new gateway of this VPC."""
    gateway = await made(person, "/internet-gateways")
    await done(person, f"/internet-gateways/{gateway['id']}/attach", vpc_id=vpc_id)
    return gateway["id"]  # type: ignore[no-any-return]


async def test_an_internet_gateway_lives_as_documented(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    reply = await ada.rest.post("/internet-gateways")  # without a body, and without saying of what kind
    born = reply.json()
    assert (reply.status_code, reply.request.headers.get("content-type")) == (201, None)
    assert set(born) == {"id", "status", "arn", "user_id", "tenant_id", "created_at"}
    assert born["status"] == "detached"
    assert born["arn"] == f"arn:thecloud:vpc:local:{ada.tenant_id}:igw/{born['id']}"
    path = f"/internet-gateways/{born['id']}"
    assert await got(ada, path) == born
    assert await got(ada, "/internet-gateways") == [born]

    there = await done(ada, f"{path}/attach", vpc_id=home["id"])
    assert there == born | {"status": "attached", "vpc_id": home["id"]}
    [_, default] = (await main_table(ada, home["id"]))["routes"]
    assert (default["destination_cidr"], default["target_type"], default["target_id"], default["origin"]) == (
        "0.0.0.0/0", "igw", born["id"], "auto",
    )  # fmt: skip
    await cloud.settle()
    assert str(cloud.network.applied[UUID(home["id"])].internet_gateway) == born["id"]
    assert refusal(await ada.rest.delete(path)) == (400, "CONFLICT")

    assert await done(ada, f"{path}/detach") == born
    assert len((await main_table(ada, home["id"]))["routes"]) == 1
    await cloud.settle()
    assert cloud.network.applied[UUID(home["id"])].internet_gateway is None
    gone = await ada.rest.delete(path)
    assert (gone.status_code, gone.content) == (204, b"")
    assert refusal(await ada.rest.get(path)) == (404, "NOT_FOUND")


async def test_a_vpc_has_one_internet_gateway_and_a_gateway_one_vpc(cloud: Cloud, ada: Person) -> None:
    first, second = await vpc(ada, "a"), await vpc(ada, "b")
    gateway, spare = await attached(ada, first["id"]), await made(ada, "/internet-gateways")
    for vpc_id in (first["id"], second["id"]):
        reply = await ada.rest.post(f"/internet-gateways/{gateway}/attach", json={"vpc_id": vpc_id})
        assert refusal(reply) == (400, "CONFLICT")
        assert "attached" in message(reply)
    reply = await ada.rest.post(f"/internet-gateways/{spare['id']}/attach", json={"vpc_id": first["id"]})
    assert refusal(reply) == (409, "CONFLICT")
    assert gateway in message(reply)
    reply = await ada.rest.post(f"/internet-gateways/{spare['id']}/detach")
    assert refusal(reply) == (400, "CONFLICT")
    assert (await got(ada, f"/internet-gateways/{spare['id']}")) == spare


async def test_a_default_route_that_leads_elsewhere_stays(ada: Person) -> None:
    net = await world(ada)
    await done(ada, f"/internet-gateways/{net.internet_gateway}/detach")
    table = await main_table(ada, net.vpc)
    route = await made(ada, f"/route-tables/{table['id']}/routes", destination_cidr="0.0.0.0/0", target_type="nat",
                       target_id=net.nat_gateway)  # fmt: skip
    await done(ada, f"/internet-gateways/{net.internet_gateway}/attach", vpc_id=net.vpc)
    assert route in (await main_table(ada, net.vpc))["routes"]
    await done(ada, f"/internet-gateways/{net.internet_gateway}/detach")
    assert route in (await main_table(ada, net.vpc))["routes"]


async def test_a_route_added_by_hand_keeps_the_gateway_attached(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    route = await made(ada, f"/route-tables/{net.route_table}/routes", destination_cidr="192.0.2.0/24",
                       target_type="igw", target_id=net.internet_gateway)  # fmt: skip
    table = await main_table(ada, net.vpc)
    reply = await ada.rest.post(f"/internet-gateways/{net.internet_gateway}/detach")
    assert refusal(reply) == (409, "CONFLICT")
    assert f"route/{route['id']}" in message(reply)
    assert await main_table(ada, net.vpc) == table
    await ada.rest.delete(f"/route-tables/{net.route_table}/routes/{route['id']}")
    # the one that came with the gateway, added by hand again, is one that was added by hand
    by_hand = await made(ada, f"/route-tables/{table['id']}/routes", destination_cidr="0.0.0.0/0", target_type="igw",
                         target_id=net.internet_gateway)  # fmt: skip
    assert by_hand["origin"] == "user"
    reply = await ada.rest.post(f"/internet-gateways/{net.internet_gateway}/detach")
    assert (reply.status_code, f"route/{by_hand['id']}" in message(reply)) == (409, True)
    await ada.rest.delete(f"/route-tables/{table['id']}/routes?route_id={by_hand['id']}")
    assert (await done(ada, f"/internet-gateways/{net.internet_gateway}/detach"))["status"] == "detached"


async def test_a_gateway_is_attached_to_a_vpc_of_the_tenant_only(cloud: Cloud, ada: Person, bob: Person) -> None:
    gateway, foreign = await made(ada, "/internet-gateways"), await vpc(bob)
    gone = await vpc(ada, "gone")
    await ada.rest.delete(f"/vpcs/{gone['id']}")
    bodies: list[tuple[Any, int]] = [
        ({"vpc_id": foreign["id"]}, 404), ({"vpc_id": str(uuid4())}, 404), ({"vpc_id": gone["id"]}, 404),
        ({"vpc_id": "x"}, 400), ({"vpc_id": ""}, 400), ({"vpc_id": None}, 400), ({}, 400), ({"vpc_id": 7}, 400),
    ]  # fmt: skip
    for body, status in bodies:
        reply = await ada.rest.post(f"/internet-gateways/{gateway['id']}/attach", json=body)
        assert reply.status_code == status, body
    assert (await ada.rest.post(f"/internet-gateways/{gateway['id']}/attach")).status_code == 400
    assert await got(ada, f"/internet-gateways/{gateway['id']}") == gateway


async def test_of_many_who_attach_and_detach_a_gateway_each_is_told_the_truth(cloud: Cloud, ada: Person) -> None:
    gateway = await made(ada, "/internet-gateways")
    vpcs = [await vpc(ada, f"v{number}") for number in range(4)]
    path = f"/internet-gateways/{gateway['id']}"
    attaching = [ada.rest.post(f"{path}/attach", json={"vpc_id": vpcs[n % 4]["id"]}) for n in range(12)]
    detaching = [ada.rest.post(f"{path}/detach") for _ in range(12)]
    replies = await asyncio.gather(*(each for pair in zip(attaching, detaching, strict=True) for each in pair))
    assert {reply.status_code for reply in replies} <= {200, 400}, [reply.text for reply in replies]
    ins = sum(reply.status_code == 200 for reply in replies[::2])
    outs = sum(reply.status_code == 200 for reply in replies[1::2])
    now = await got(ada, path)
    assert ins - outs == (now["status"] == "attached")
    assert ins > 0
    defaults = await cloud.value("select count(*) from routes where target_type = 'igw'")
    assert defaults == ins - outs


async def test_of_many_gateways_one_is_attached(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    ids = [(await made(ada, "/internet-gateways"))["id"] for _ in range(8)]
    replies = await asyncio.gather(*(
        ada.rest.post(f"/internet-gateways/{id}/attach", json={"vpc_id": home["id"]}) for id in ids
    ))  # fmt: skip
    assert sorted(reply.status_code for reply in replies) == [200, *[409] * 7]


async def test_both_lists_come_in_pages_newest_first(ada: Person) -> None:
    ids = [(await made(ada, "/internet-gateways"))["id"] for _ in range(5)]
    assert await pages(ada, "/internet-gateways") == ids[::-1]
    home, nats = await vpc(ada), []
    for number in range(3):
        room, address = (
            await subnet(ada, home["id"], f"10.0.{number}.0/24", f"s{number}"),
            await made(ada, "/elastic-ips"),
        )
        nats.append((await made(ada, "/nat-gateways", subnet_id=room["id"], eip_id=address["id"]))["id"])
    assert await pages(ada, f"/nat-gateways?vpc_id={home['id']}") == nats[::-1]
    assert refusal(await ada.rest.get("/nat-gateways")) == (400, "INVALID_INPUT")


# NAT gateways


async def test_a_nat_gateway_lives_as_documented(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    room, address = await subnet(ada, home["id"]), await made(ada, "/elastic-ips")
    first = await ada.launch(subnet_id=room["id"])
    for name in ("eip_id", "elastic_ip_id"):
        born = await made(ada, "/nat-gateways", id="", subnet_id=room["id"], **{name: address["id"]})
        assert set(born) == {
            "id", "vpc_id", "subnet_id", "elastic_ip_id", "status", "private_ip", "arn", "user_id", "tenant_id",
            "created_at",
        }  # fmt: skip
        assert (born["vpc_id"], born["subnet_id"], born["elastic_ip_id"]) == (home["id"], room["id"], address["id"])
        assert (first["private_ip"], born["private_ip"], born["status"]) == ("10.0.1.2", "10.0.1.3", "active")
        assert born["arn"] == f"arn:thecloud:vpc:local:{ada.tenant_id}:nat-gateway/{born['id']}"
        taken = await got(ada, f"/elastic-ips/{address['id']}")
        assert (taken["status"], taken["nat_gateway_id"], taken["vpc_id"]) == ("associated", born["id"], home["id"])
        assert "instance_id" not in taken
        assert await got(ada, f"/nat-gateways/{born['id']}") == born
        assert await got(ada, f"/nat-gateways?vpc_id={home['id']}") == [born]
        await cloud.settle()
        [programmed] = cloud.network.applied[UUID(home["id"])].nat_gateways
        assert (str(programmed.id), programmed.public_ip, programmed.private_ip) == (
            born["id"], address["public_ip"], "10.0.1.3"
        )  # fmt: skip
        gone = await ada.rest.delete(f"/nat-gateways/{born['id']}")
        assert (gone.status_code, gone.content) == (204, b"")
        freed = await got(ada, f"/elastic-ips/{address['id']}")
        assert freed | {"updated_at": ""} == address | {"updated_at": ""}
        await cloud.settle()
        assert cloud.network.applied[UUID(home["id"])].nat_gateways == ()
    assert await cloud.value("select count(*) from subnet_addresses") == 1


async def test_a_nat_gateway_takes_the_routes_to_it_along(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    table = await main_table(ada, net.vpc)
    await made(ada, f"/route-tables/{table['id']}/routes", destination_cidr="192.0.2.0/24", target_type="nat",
               target_id=net.nat_gateway)  # fmt: skip
    assert (await ada.rest.delete(f"/nat-gateways/{net.nat_gateway}")).status_code == 204
    assert await cloud.value("select count(*) from routes where target_type = 'nat'") == 0
    await cloud.settle()
    routes = [each for table in cloud.network.applied[UUID(net.vpc)].route_tables for each in table.routes]
    assert "nat_gateway" not in {route.target for route in routes}


async def test_a_bad_nat_gateway_is_refused_and_takes_nothing(cloud: Cloud, ada: Person, bob: Person) -> None:
    net, foreign = await world(ada), await world(bob)
    room = await subnet(ada, net.vpc, "10.0.2.0/24", "free")
    busy, held = await made(ada, "/elastic-ips"), (await got(ada, f"/nat-gateways/{net.nat_gateway}"))["elastic_ip_id"]
    await done(ada, f"/elastic-ips/{busy['id']}/associate", instance_id=net.instance)
    await cloud.settle()
    applied, addresses = dict(cloud.network.applied), await cloud.value("select count(*) from subnet_addresses")
    good: dict[str, Any] = {"subnet_id": room["id"], "eip_id": net.elastic_ip}
    for body, status in (
        ({"eip_id": busy["id"]}, 400), ({"eip_id": held}, 400), ({"subnet_id": net.subnet}, 400),
        ({"eip_id": ""}, 400), ({"eip_id": None}, 400), ({"elastic_ip_id": net.elastic_ip}, 400),
        ({"eip_id": "x"}, 400), ({"subnet_id": "x"}, 400), ({"subnet_id": None}, 400), ({"subnet_id": "free"}, 400),
        ({"eip_id": foreign.elastic_ip}, 404), ({"subnet_id": foreign.subnet}, 404), ({"eip_id": str(uuid4())}, 404),
        ({"subnet_id": str(uuid4())}, 404), ({"subnet_id": net.elastic_ip}, 404), ({"eip_id": net.subnet}, 404),
    ):  # fmt: skip
        reply = await ada.rest.post("/nat-gateways", json=good | body)
        assert reply.status_code == status, (body, reply.text)
        assert message(reply)
    assert (await got(ada, f"/elastic-ips/{net.elastic_ip}"))["status"] == "allocated"
    assert await cloud.value("select count(*) from subnet_addresses") == addresses
    assert await cloud.settle() == 0
    assert cloud.network.applied == applied


async def test_of_many_nat_gateways_with_one_elastic_ip_one_is_made(cloud: Cloud, ada: Person) -> None:
    home, address = await vpc(ada), await made(ada, "/elastic-ips")
    rooms = [await subnet(ada, home["id"], f"10.0.{n}.0/24", f"s{n}") for n in range(6)]
    replies = await asyncio.gather(*(
        ada.rest.post("/nat-gateways", json={"subnet_id": room["id"], "eip_id": address["id"]}) for room in rooms
    ))  # fmt: skip
    assert sorted(reply.status_code for reply in replies) == [201, *[400] * 5]


async def test_a_dry_run_tells_the_price_and_takes_nothing(cloud: Cloud, ada: Person) -> None:
    net: World = await world(ada)
    room = await subnet(ada, net.vpc, "10.0.2.0/24", "free")
    tried = await ada.rest.post("/nat-gateways?dry_run=true", json={"subnet_id": room["id"], "eip_id": net.elastic_ip})
    assert (tried.status_code, tried.json()["estimated_price_per_hour"]) == (200, 0.045)
    assert (await got(ada, f"/elastic-ips/{net.elastic_ip}"))["status"] == "allocated"
    assert await cloud.value("select count(*) from nat_gateways") == 1
