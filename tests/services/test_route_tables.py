"""Route tables, their routes, and the subnets that follow them."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Cloud, Person
from tests.networks import World, done, got, made, main_table, message, pages, refusal, subnet, vpc, world


async def rejected(person: Person, table_id: str, **body: Any) -> tuple[int, str]:
    """The status and the text of a refusal of a route, which changes nothing."""
    before = await got(person, f"/route-tables/{table_id}")
    reply = await person.rest.post(f"/route-tables/{table_id}/routes", json=body)
    assert reply.status_code in (400, 404, 409), reply.text
    assert await got(person, f"/route-tables/{table_id}") == before
    return reply.status_code, message(reply)


def programmed(cloud: Cloud, vpc_id: str, table_id: str) -> set[tuple[str, str, str | None]]:
    [table] = [each for each in cloud.network.applied[UUID(vpc_id)].route_tables if str(each.id) == table_id]
    return {
        (route.destination, route.target, str(route.target_id) if route.target_id else None)
        for route in table.routes
    }  # fmt: skip


async def test_a_route_table_lives_as_documented(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    born = await made(ada, "/route-tables", vpc_id=home["id"], name="custom-rt", is_main=False)
    assert set(born) == {"id", "vpc_id", "name", "is_main", "routes", "associations", "tenant_id", "created_at"}
    assert (born["vpc_id"], born["name"], born["is_main"], born["associations"]) == (
        home["id"], "custom-rt", False, []
    )  # fmt: skip
    [local] = born["routes"]
    assert set(local) == {
        "id", "route_table_id", "destination_cidr", "target_type", "origin", "tenant_id", "created_at"
    }  # fmt: skip
    assert (local["destination_cidr"], local["target_type"], local["origin"]) == ("10.0.0.0/16", "local", "auto")
    for reference in (born["id"], "custom-rt"):
        assert await got(ada, f"/route-tables/{reference}") == born
    assert born in await got(ada, f"/route-tables?vpc_id={home['id']}")
    assert await got(ada, f"/route-tables/{born['id']}/routes/{local['id']}") == local
    await cloud.settle()
    assert programmed(cloud, home["id"], born["id"]) == {("10.0.0.0/16", "local", None)}
    gone = await ada.rest.delete(f"/route-tables/{born['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert refusal(await ada.rest.get(f"/route-tables/{born['id']}")) == (404, "NOT_FOUND")
    await cloud.settle()
    assert len(cloud.network.applied[UUID(home["id"])].route_tables) == 1


async def test_the_list_needs_a_vpc_and_comes_in_pages(ada: Person, bob: Person) -> None:
    home = await vpc(ada)
    ids = [(await main_table(ada, home["id"]))["id"]]
    ids += [(await made(ada, "/route-tables", vpc_id=home["id"], name=f"t{n}"))["id"] for n in range(4)]
    assert await pages(ada, f"/route-tables?vpc_id={home['id']}") == ids[::-1]
    assert refusal(await ada.rest.get("/route-tables")) == (400, "INVALID_INPUT")
    assert refusal(await ada.rest.get("/route-tables?vpc_id=")) == (400, "INVALID_INPUT")
    for id in (home["id"], str(uuid4())):
        assert refusal(await bob.rest.get(f"/route-tables?vpc_id={id}")) == (404, "NOT_FOUND")


async def test_a_bad_table_is_refused(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    await made(ada, "/route-tables", vpc_id=home["id"], name="taken")
    for body, status in (
        ({"name": ""}, 400), ({"name": "x" * 65}, 400), ({"name": "a b"}, 400), ({"name": None}, 400),
        ({"name": "taken"}, 409), ({"name": "main"}, 409), ({"name": "taken", "is_main": True}, 409),
        ({"vpc_id": ""}, 400), ({"vpc_id": None}, 400), ({"vpc_id": str(uuid4())}, 404), ({"is_main": "yes"}, 400),
    ):  # fmt: skip
        reply = await ada.rest.post("/route-tables", json={"vpc_id": home["id"], "name": "a"} | body)
        assert reply.status_code == status, body
        assert message(reply)
    assert await cloud.value("select count(*) from route_tables") == 2
    assert (await main_table(ada, home["id"]))["name"] == "main"


async def test_a_new_main_table_takes_the_place_of_the_old(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    old = await main_table(ada, net.vpc)
    new = await made(ada, "/route-tables", id="", vpc_id=net.vpc, name="new", is_main=True)
    assert (await main_table(ada, net.vpc))["id"] == new["id"]
    assert (await got(ada, f"/route-tables/{old['id']}"))["is_main"] is False
    await cloud.settle()
    [room] = cloud.network.applied[UUID(net.vpc)].subnets
    assert str(room.route_table_id) == new["id"]
    refused = await ada.rest.delete(f"/route-tables/{new['id']}")
    assert refusal(refused) == (400, "INVALID_INPUT")
    assert "main" in message(refused)
    assert (await ada.rest.delete(f"/route-tables/{old['id']}")).status_code == 204


# Routes


async def test_a_route_is_added_and_removed_as_documented(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    path = f"/route-tables/{net.route_table}/routes"
    for remove in (f"{path}?route_id={{}}", f"{path}/{{}}"):
        body = {"destination_cidr": "192.0.2.0/24", "target_type": "igw", "target_id": net.internet_gateway}
        born = await made(ada, path, id="", target_name="x", **body)
        assert {name: born[name] for name in body} == body
        assert (born["route_table_id"], born["origin"]) == (net.route_table, "user")
        assert await got(ada, f"{path}/{born['id']}") == born
        await cloud.settle()
        route = ("192.0.2.0/24", "internet_gateway", net.internet_gateway)
        assert route in programmed(cloud, net.vpc, net.route_table)
        gone = await ada.rest.delete(remove.format(born["id"]))
        assert (gone.status_code, gone.content) == (204, b"")
        await cloud.settle()
        assert route not in programmed(cloud, net.vpc, net.route_table)
        assert refusal(await ada.rest.delete(remove.format(born["id"]))) == (404, "NOT_FOUND")


async def test_each_kind_of_target_is_programmed(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    for number, (kind, target) in enumerate({
        "igw": net.internet_gateway, "nat": net.nat_gateway, "peering": net.vpc_peering, "instance": net.instance,
    }.items()):  # fmt: skip
        await made(ada, f"/route-tables/{net.route_table}/routes", destination_cidr=f"192.0.{number}.0/24",
                   target_type=kind, target_id=target)  # fmt: skip
    await made(ada, f"/route-tables/{net.route_table}/routes", destination_cidr="10.0.4.0/24", target_type="local",
               target_id="")  # fmt: skip
    await cloud.settle()
    assert programmed(cloud, net.vpc, net.route_table) == {
        ("10.0.0.0/16", "local", None), ("10.0.4.0/24", "local", None), ("0.0.0.0/0", "nat_gateway", net.nat_gateway),
        ("192.0.0.0/24", "internet_gateway", net.internet_gateway), ("192.0.1.0/24", "nat_gateway", net.nat_gateway),
        ("192.0.2.0/24", "peering", net.vpc_peering), ("192.0.3.0/24", "instance", net.instance),
    }  # fmt: skip


@pytest.fixture
async def net(ada: Person) -> World:
    return await world(ada)


async def test_a_bad_destination_or_type_is_refused(ada: Person, net: World) -> None:
    good = {"destination_cidr": "192.0.2.0/24", "target_type": "igw", "target_id": net.internet_gateway}
    for body in (
        {"destination_cidr": ""}, {"destination_cidr": None}, {"destination_cidr": "192.0.2.1/24"},
        {"destination_cidr": "192.0.2.0"}, {"destination_cidr": "::/0"}, {"destination_cidr": "0.0.0.0/0.0.0.0"},
        {"destination_cidr": "\u0660.0.0.0/0"}, {"destination_cidr": "192.0.2.0/33"}, {"destination_cidr": 7},
        {"destination_cidr": "192.0.02.0/24"}, {"destination_cidr": " 192.0.2.0/24"}, {"target_type": ""},
        {"target_type": "vpn"}, {"target_type": None}, {"target_type": "blackhole"}, {"target_type": 99},
        {"target_type": "unspecified"}, {"target_id": ""}, {"target_id": None}, {"target_id": "x"},
        {"target_type": "local"}, {"target_type": "local", "target_id": ""},
        {"target_type": "local", "target_id": "", "destination_cidr": "10.0.0.0/15"},
    ):  # fmt: skip
        assert (await rejected(ada, net.route_table, **good | body))[0] == 400, body


async def test_a_target_must_be_there_and_of_the_vpc(cloud: Cloud, ada: Person, bob: Person, net: World) -> None:
    other, foreign = await world(ada, "other"), await world(bob)
    pending = await made(ada, "/vpc-peerings", requester_vpc_id=net.vpc, accepter_vpc_id=other.peer)
    loose = await made(ada, "/internet-gateways")
    await cloud.settle()
    applied = dict(cloud.network.applied)
    kinds = {"igw": "internet_gateway", "nat": "nat_gateway", "peering": "vpc_peering", "instance": "instance"}
    for kind, name in kinds.items():
        for id in (getattr(foreign, name), str(uuid4()), net.subnet):
            status, said = await rejected(ada, net.route_table, destination_cidr="192.0.2.0/24", target_type=kind,
                                          target_id=id)  # fmt: skip
            assert (status, id in said) == (404, True)
        status, said = await rejected(ada, net.route_table, destination_cidr="192.0.2.0/24", target_type=kind,
                                      target_id=getattr(other, name))  # fmt: skip
        assert (status, getattr(other, name) in said) == (400, True)
    for kind, id in (("igw", loose["id"]), ("peering", pending["id"])):
        status, said = await rejected(ada, net.route_table, destination_cidr="192.0.2.0/24", target_type=kind,
                                      target_id=id)  # fmt: skip
        assert (status, id in said) == (400, True)
    assert await cloud.settle() == 0
    assert cloud.network.applied == applied


async def test_a_table_has_one_route_for_each_destination(ada: Person, net: World) -> None:
    path = f"/route-tables/{net.route_table}/routes"
    same = {"destination_cidr": "0.0.0.0/0", "target_type": "nat", "target_id": net.nat_gateway}
    assert (await made(ada, path, **same))["id"] == net.route
    status, said = await rejected(ada, net.route_table, destination_cidr="0.0.0.0/0", target_type="igw",
                                  target_id=net.internet_gateway)  # fmt: skip
    assert status == 409
    assert net.nat_gateway in said


async def test_the_local_route_stays(ada: Person, net: World) -> None:
    table = await main_table(ada, net.vpc)
    [local] = [each for each in table["routes"] if each["target_type"] == "local"]
    for path in (f"/route-tables/{table['id']}/routes?route_id={local['id']}",
                 f"/route-tables/{table['id']}/routes/{local['id']}"):  # fmt: skip
        assert refusal(await ada.rest.delete(path)) == (400, "INVALID_INPUT")
    same = await made(ada, f"/route-tables/{table['id']}/routes", destination_cidr="10.0.0.0/16", target_type="local")
    assert same == local
    assert await main_table(ada, net.vpc) == table


async def test_a_route_is_removed_from_its_own_table_only(ada: Person, bob: Person, net: World) -> None:
    table = await main_table(ada, net.vpc)
    for path in (f"/route-tables/{table['id']}/routes?route_id={net.route}",
                 f"/route-tables/{net.route_table}/routes/{uuid4()}"):  # fmt: skip
        assert refusal(await ada.rest.delete(path)) == (404, "NOT_FOUND")
    for query in ("", "?route_id=", "?route_id=x"):
        assert refusal(await ada.rest.delete(f"/route-tables/{net.route_table}/routes{query}")) == (
            400, "INVALID_INPUT"
        )  # fmt: skip
    mine = await main_table(bob, (await vpc(bob))["id"])
    for path in (
        f"/route-tables/{net.route_table}/routes/{net.route}",
        f"/route-tables/{mine['id']}/routes/{net.route}",
    ):
        assert refusal(await bob.rest.delete(path)) == (404, "NOT_FOUND")
    assert await got(ada, f"/route-tables/{net.route_table}/routes/{net.route}")


# Associations


async def test_a_subnet_follows_the_table_it_is_associated_with(cloud: Cloud, ada: Person, net: World) -> None:
    other = await made(ada, "/route-tables", vpc_id=net.vpc, name="other")

    async def follows() -> str:
        await cloud.settle()
        [room] = cloud.network.applied[UUID(net.vpc)].subnets
        return str(room.route_table_id)

    for path in ("associate", "associations"):
        made_so = await done(ada, f"/route-tables/{net.route_table}/{path}", subnet_id=net.subnet)
        assert (made_so["route_table_id"], made_so["subnet_id"]) == (net.route_table, net.subnet)
        assert set(made_so) == {"id", "route_table_id", "subnet_id", "created_at"}
    assert (await got(ada, f"/route-tables/{net.route_table}"))["associations"] == [made_so]
    assert (await got(ada, f"/subnets/{net.subnet}"))["route_table_id"] == net.route_table
    assert await follows() == net.route_table
    kept = await ada.rest.delete(f"/route-tables/{net.route_table}")
    assert refusal(kept) == (409, "CONFLICT")
    assert f"subnet/{net.subnet}" in message(kept)

    await done(ada, f"/route-tables/{other['id']}/associate", subnet_id=net.subnet)
    assert await follows() == other["id"]
    assert (await got(ada, f"/route-tables/{net.route_table}"))["associations"] == []
    stayed = await done(ada, f"/route-tables/{net.route_table}/disassociate", subnet_id=net.subnet)
    assert (stayed["id"], await follows()) == (net.route_table, other["id"])
    loose = await done(ada, f"/route-tables/{other['id']}/disassociate", subnet_id=net.subnet)
    assert (loose["id"], loose["associations"]) == (other["id"], [])
    assert await follows() == (await main_table(ada, net.vpc))["id"]
    assert "route_table_id" not in await got(ada, f"/subnets/{net.subnet}")

    await done(ada, f"/route-tables/{other['id']}/associations", subnet_id=net.subnet)
    gone = await ada.rest.delete(f"/route-tables/{other['id']}/associations/{net.subnet}")
    assert (gone.status_code, gone.json()["associations"]) == (200, [])
    assert await follows() == (await main_table(ada, net.vpc))["id"]


async def test_only_a_subnet_of_the_vpc_is_associated(cloud: Cloud, ada: Person, bob: Person, net: World) -> None:
    elsewhere = await subnet(ada, net.peer, "10.1.1.0/24")
    foreign = await subnet(bob, (await vpc(bob))["id"])
    for verb in ("associate", "associations", "disassociate"):
        for id, status in ((elsewhere["id"], 400), (foreign["id"], 404), (str(uuid4()), 404), ("x", 400), ("", 400)):
            reply = await ada.rest.post(f"/route-tables/{net.route_table}/{verb}", json={"subnet_id": id})
            assert reply.status_code == status, (verb, id)
        reply = await bob.rest.post(f"/route-tables/{net.route_table}/{verb}", json={"subnet_id": foreign["id"]})
        assert reply.status_code == 404
    assert await cloud.value("select count(*) from subnets where route_table_id is not null") == 0


async def test_a_table_deleted_and_associated_at_once_ends_as_one_of_both(ada: Person, net: World) -> None:
    for number in range(6):
        table = await made(ada, "/route-tables", vpc_id=net.vpc, name=f"t{number}")
        associated, deleted = await asyncio.gather(
            ada.rest.post(f"/route-tables/{table['id']}/associate", json={"subnet_id": net.subnet}),
            ada.rest.delete(f"/route-tables/{table['id']}"),
        )
        assert (associated.status_code, deleted.status_code) in ((200, 409), (404, 204))
