"""Peerings of VPCs, and the routes that come and go with them."""

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from server import hosts
from tests.conftest import Cloud, Person
from tests.networks import done, got, made, main_table, message, pages, refusal, vpc, world

Pair = tuple[str, str]


@pytest.fixture
async def pair(ada: Person) -> Pair:
    """The ids of two VPCs whose ranges do not overlap."""
    return (await vpc(ada, "a"))["id"], (await vpc(ada, "b", "10.1.0.0/16"))["id"]


async def requested(person: Person, pair: Pair) -> str:
    made_so = await made(person, "/vpc-peerings", requester_vpc_id=pair[0], accepter_vpc_id=pair[1])
    return made_so["id"]  # type: ignore[no-any-return]


async def peering_routes(person: Person, vpc_id: str) -> list[tuple[str, str, str]]:
    return [
        (each["destination_cidr"], each["target_id"], each["origin"])
        for table in await got(person, f"/route-tables?vpc_id={vpc_id}")
        for each in table["routes"]
        if each["target_type"] == "peering"
    ]


async def test_a_peering_lives_as_documented(cloud: Cloud, ada: Person, pair: Pair) -> None:
    born = await made(ada, "/vpc-peerings", id="", requester_vpc_id=pair[0], accepter_vpc_id=pair[1])
    assert set(born) == {
        "id", "status", "requester_vpc_id", "accepter_vpc_id", "arn", "tenant_id", "created_at", "updated_at",
    }  # fmt: skip
    assert (born["status"], born["requester_vpc_id"], born["accepter_vpc_id"]) == ("pending-acceptance", *pair)
    assert born["arn"] == f"arn:thecloud:vpc-peering:local:{ada.tenant_id}:peering/{born['id']}"
    path = f"/vpc-peerings/{born['id']}"
    assert await got(ada, path) == born
    assert await got(ada, "/vpc-peerings") == [born]
    await cloud.settle()
    assert all(each.peerings == () for each in cloud.network.applied.values())
    assert await peering_routes(ada, pair[0]) == []

    accepted = await done(ada, f"{path}/accept")
    assert accepted | {"updated_at": ""} == born | {"status": "active", "updated_at": ""}
    assert await peering_routes(ada, pair[0]) == [("10.1.0.0/16", born["id"], "auto")]
    assert await peering_routes(ada, pair[1]) == [("10.0.0.0/16", born["id"], "auto")]
    await cloud.settle()
    for own, other, block in ((*pair, "10.1.0.0/16"), (*pair[::-1], "10.0.0.0/16")):
        [programmed] = cloud.network.applied[UUID(own)].peerings
        assert (str(programmed.id), str(programmed.peer_vpc_id), programmed.peer_cidrs) == (born["id"], other, (block,))

    gone = await ada.rest.delete(path)
    assert (gone.status_code, gone.json()) == (200, {"message": "peering deleted"})
    assert refusal(await ada.rest.get(path)) == (404, "NOT_FOUND")
    assert [await peering_routes(ada, id) for id in pair] == [[], []]
    await cloud.settle()
    assert all(each.peerings == () for each in cloud.network.applied.values())


async def test_a_rejected_peering_stays_rejected_and_may_be_asked_for_again(ada: Person, pair: Pair) -> None:
    id = await requested(ada, pair)
    rejected = await done(ada, f"/vpc-peerings/{id}/reject")
    assert (rejected["id"], rejected["status"], rejected["message"]) == (id, "rejected", "peering rejected")
    for verb in ("accept", "reject"):
        reply = await ada.rest.post(f"/vpc-peerings/{id}/{verb}")
        assert refusal(reply) == (400, "CONFLICT")
        assert "rejected" in message(reply)
    again = await requested(ada, pair[::-1])
    await done(ada, f"/vpc-peerings/{again}/accept")
    reply = await ada.rest.post(f"/vpc-peerings/{again}/accept")
    assert (refusal(reply), "active" in message(reply)) == ((400, "CONFLICT"), True)
    assert (await ada.rest.delete(f"/vpc-peerings/{id}")).status_code == 200
    assert len(await peering_routes(ada, pair[0])) == 1


async def test_two_vpcs_have_one_peering_in_either_direction(ada: Person, pair: Pair) -> None:
    id = await requested(ada, pair)
    for accepted in (False, True):
        if accepted:
            await done(ada, f"/vpc-peerings/{id}/accept")
        for first, second in (pair, pair[::-1]):
            reply = await ada.rest.post(
                "/vpc-peerings", json={"requester_vpc_id": first, "accepter_vpc_id": second}
            )  # fmt: skip
            assert refusal(reply) == (409, "CONFLICT")
    assert len(await got(ada, "/vpc-peerings")) == 1


async def test_a_bad_peering_is_refused(cloud: Cloud, ada: Person, bob: Person, pair: Pair) -> None:
    same, inside = await vpc(ada, "same"), await vpc(ada, "inside", "10.0.128.0/20")
    foreign = await vpc(bob, "foreign", "10.9.0.0/16")
    for body, status in (
        ({"accepter_vpc_id": pair[0]}, 400), ({"accepter_vpc_id": pair[0].upper()}, 400),
        ({"accepter_vpc_id": same["id"]}, 400), ({"accepter_vpc_id": inside["id"]}, 400),
        ({"accepter_vpc_id": foreign["id"]}, 404), ({"requester_vpc_id": foreign["id"]}, 404),
        ({"accepter_vpc_id": str(uuid4())}, 404), ({"accepter_vpc_id": "b"}, 400), ({"accepter_vpc_id": ""}, 400),
        ({"requester_vpc_id": None}, 400), ({"requester_vpc_id": 7}, 400),
    ):  # fmt: skip
        reply = await ada.rest.post(
            "/vpc-peerings", json={"requester_vpc_id": pair[0], "accepter_vpc_id": pair[1]} | body
        )
        assert reply.status_code == status, (body, reply.text)
        assert message(reply)
    assert await cloud.value("select count(*) from vpc_peerings") == 0


async def test_vpcs_of_hosts_that_no_network_spans_are_not_peered(cloud: Cloud, ada: Person, pair: Pair) -> None:
    await hosts.beat(replace(cloud.app, config=replace(cloud.app.config, host="elsewhere")))
    await cloud.value("update vpcs set host = 'elsewhere' where id = $1", UUID(pair[1]))
    reply = await ada.rest.post("/vpc-peerings", json={"requester_vpc_id": pair[0], "accepter_vpc_id": pair[1]})
    assert refusal(reply) == (400, "INVALID_INPUT")
    assert "elsewhere" in message(reply)


async def test_a_stranger_neither_sees_nor_decides(ada: Person, bob: Person, pair: Pair) -> None:
    id = await requested(ada, pair)
    for reply in (
        await bob.rest.get(f"/vpc-peerings/{id}"), await bob.rest.post(f"/vpc-peerings/{id}/accept"),
        await bob.rest.post(f"/vpc-peerings/{id}/reject"), await bob.rest.delete(f"/vpc-peerings/{id}"),
    ):  # fmt: skip
        assert refusal(reply) == (404, "NOT_FOUND")
    assert (await got(ada, f"/vpc-peerings/{id}"))["status"] == "pending-acceptance"


async def test_a_route_in_the_way_keeps_a_peering_pending(cloud: Cloud, ada: Person, pair: Pair) -> None:
    gateway = await made(ada, "/internet-gateways")
    await done(ada, f"/internet-gateways/{gateway['id']}/attach", vpc_id=pair[1])
    table = await main_table(ada, pair[1])
    await made(ada, f"/route-tables/{table['id']}/routes", destination_cidr="10.0.0.0/16", target_type="igw",
               target_id=gateway["id"])  # fmt: skip
    id = await requested(ada, pair)
    reply = await ada.rest.post(f"/vpc-peerings/{id}/accept")
    assert refusal(reply) == (409, "CONFLICT")
    assert "10.0.0.0/16" in message(reply)
    assert (await got(ada, f"/vpc-peerings/{id}"))["status"] == "pending-acceptance"
    assert await peering_routes(ada, pair[0]) == []


async def test_a_deleted_peering_takes_every_route_to_it_along(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    await made(ada, f"/route-tables/{net.route_table}/routes", destination_cidr="10.1.4.0/24", target_type="peering",
               target_id=net.vpc_peering)  # fmt: skip
    await ada.rest.delete(f"/vpc-peerings/{net.vpc_peering}")
    assert await cloud.value("select count(*) from routes where target_type = 'peering'") == 0
    await cloud.settle()
    left = [route for each in cloud.network.applied.values() for table in each.route_tables for route in table.routes]
    assert "peering" not in {route.target for route in left}


async def test_the_list_comes_in_pages_newest_first(ada: Person) -> None:
    vpcs = [(await vpc(ada, f"v{n}", f"10.{n}.0.0/16"))["id"] for n in range(6)]
    ids = [await requested(ada, (vpcs[0], each)) for each in vpcs[1:]]
    assert await pages(ada, "/vpc-peerings") == ids[::-1]


async def test_of_many_peerings_at_once_one_is_made(ada: Person, pair: Pair) -> None:
    bodies = [dict(zip(("requester_vpc_id", "accepter_vpc_id"), ids, strict=True)) for ids in (pair, pair[::-1])] * 4
    replies = await asyncio.gather(*(ada.rest.post("/vpc-peerings", json=body) for body in bodies))
    assert sorted(reply.status_code for reply in replies) == [201, *[409] * 7]


async def test_accepted_rejected_and_deleted_at_once_it_leaves_no_route_behind(
    cloud: Cloud, ada: Person, pair: Pair
) -> None:  # fmt: skip
    for _ in range(5):
        id = await requested(ada, pair)
        path = f"/vpc-peerings/{id}"
        accepted, rejected, deleted = await asyncio.gather(
            ada.rest.post(f"{path}/accept"), ada.rest.post(f"{path}/reject"), ada.rest.delete(path)
        )
        assert deleted.status_code == 200
        assert {accepted.status_code, rejected.status_code} <= {200, 400, 404}
        assert (accepted.status_code, rejected.status_code) != (200, 200)
        assert await cloud.value("select count(*) from routes where target_type = 'peering'") == 0
    await cloud.settle()
    assert all(each.peerings == () for each in cloud.network.applied.values())


async def test_of_a_peering_and_the_deletion_of_its_vpc_at_once_one_wins(cloud: Cloud, ada: Person) -> None:
    first = await vpc(ada, "first")
    for number in range(5):
        second = await vpc(ada, f"v{number}", "10.1.0.0/16")
        asked, deleted = await asyncio.gather(
            ada.rest.post("/vpc-peerings", json={"requester_vpc_id": first["id"], "accepter_vpc_id": second["id"]}),
            ada.rest.delete(f"/vpcs/{second['id']}"),
        )
        assert (asked.status_code, deleted.status_code) in ((201, 409), (404, 200))
        await cloud.settle()
        left = [each["accepter_vpc_id"] for each in await got(ada, "/vpc-peerings")]
        assert set(left) <= {each["id"] for each in await got(ada, "/vpcs")}
