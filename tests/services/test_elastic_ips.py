"""Elastic IPs: allocated, associated with instances, and given back to the pool."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from server.config import Config
from tests.conftest import Cloud, Person, running_cloud
from tests.networks import done, got, made, message, pages, refusal, subnet, vpc, world

POOL = IPv4Network("100.64.0.0/16")


async def limit(cloud: Cloud, person: Person, most: int) -> None:
    await cloud.value(
        "insert into quotas (tenant_id, name, most) values ($1, 'elastic_ips', $2)", person.tenant_id, most
    )


async def in_vpc(person: Person, name: str = "net") -> dict[str, Any]:
    """An instance that runs in a VPC of its own."""
    home = await vpc(person, name)
    return await person.running(subnet_id=(await subnet(person, home["id"], name=name))["id"])


async def test_an_elastic_ip_lives_as_documented(cloud: Cloud, ada: Person) -> None:
    reply = await ada.rest.post("/elastic-ips")  # without a body, and without saying of what kind
    born = reply.json()
    assert (reply.status_code, reply.request.headers.get("content-type")) == (201, None)
    assert set(born) == {"id", "public_ip", "status", "arn", "user_id", "tenant_id", "created_at", "updated_at"}
    assert born["status"] == "allocated"
    assert IPv4Address(born["public_ip"]) in POOL
    assert born["arn"] == f"arn:thecloud:vpc:local:{ada.tenant_id}:eip/{born['id']}"
    path = f"/elastic-ips/{born['id']}"
    assert await got(ada, path) == born
    assert await got(ada, "/elastic-ips") == [born]

    instance = await in_vpc(ada)
    there = await done(ada, f"{path}/associate", instance_id=instance["id"])
    assert there | {"updated_at": ""} == born | {
        "status": "associated", "instance_id": instance["id"], "vpc_id": instance["vpc_id"], "updated_at": "",
    }  # fmt: skip
    assert there["updated_at"] > born["updated_at"]
    assert await done(ada, f"{path}/associate", instance_id=instance["name"]) == there
    await cloud.settle()
    [programmed] = cloud.network.applied[UUID(instance["vpc_id"])].elastic_ips
    assert (programmed.public_ip, str(programmed.port_id)) == (born["public_ip"], instance["id"])
    kept = await ada.rest.delete(path)
    assert refusal(kept) == (409, "CONFLICT")
    assert f"instance/{instance['id']}" in message(kept)

    loose = await done(ada, f"{path}/disassociate")
    assert loose | {"updated_at": ""} == born | {"updated_at": ""}
    await cloud.settle()
    assert cloud.network.applied[UUID(instance["vpc_id"])].elastic_ips == ()
    gone = await ada.rest.delete(path)
    assert (gone.status_code, gone.json()) == (200, {"message": "elastic ip released"})
    for reply in (await ada.rest.get(path), await ada.rest.delete(path), await ada.rest.post(f"{path}/disassociate")):
        assert refusal(reply) == (404, "NOT_FOUND")


async def test_a_body_is_ignored(ada: Person) -> None:
    born = await made(ada, "/elastic-ips", id="", public_ip="8.8.8.8", status="associated")
    assert (born["status"], IPv4Address(born["public_ip"]) in POOL) == ("allocated", True)


async def test_the_list_comes_in_pages_newest_first(ada: Person) -> None:
    ids = [(await made(ada, "/elastic-ips"))["id"] for _ in range(5)]
    assert await pages(ada, "/elastic-ips") == ids[::-1]


async def test_an_instance_has_one_elastic_ip_and_an_elastic_ip_one_holder(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    other = await ada.running(subnet_id=net.subnet, name="other")
    await done(ada, f"/elastic-ips/{net.elastic_ip}/associate", instance_id=net.instance)
    busy = await ada.rest.post(f"/elastic-ips/{net.elastic_ip}/associate", json={"instance_id": other["id"]})
    assert refusal(busy) == (409, "CONFLICT")
    assert f"instance/{net.instance}" in message(busy)
    second = await made(ada, "/elastic-ips")
    has = await ada.rest.post(f"/elastic-ips/{second['id']}/associate", json={"instance_id": net.instance})
    assert refusal(has) == (409, "CONFLICT")
    assert net.elastic_ip in message(has)
    assert await got(ada, f"/elastic-ips/{second['id']}") == second


async def test_that_of_a_nat_gateway_stays_with_it(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    id = (await got(ada, f"/nat-gateways/{net.nat_gateway}"))["elastic_ip_id"]
    for reply in (
        await ada.rest.post(f"/elastic-ips/{id}/associate", json={"instance_id": net.instance}),
        await ada.rest.post(f"/elastic-ips/{id}/disassociate"), await ada.rest.delete(f"/elastic-ips/{id}"),
    ):  # fmt: skip
        assert refusal(reply) == (409, "CONFLICT")
        assert f"nat_gateway/{net.nat_gateway}" in message(reply)
    assert (await got(ada, f"/elastic-ips/{id}"))["nat_gateway_id"] == net.nat_gateway


async def test_a_bad_association_is_refused_and_changes_nothing(cloud: Cloud, ada: Person, bob: Person) -> None:
    net, foreign = await world(ada), await world(bob)
    outside = await ada.running(name="outside")
    doomed = await ada.running(name="doomed", subnet_id=net.subnet)
    await ada.rest.delete(f"/instances/{doomed['id']}")
    path = f"/elastic-ips/{net.elastic_ip}"
    bodies: list[tuple[Any, int]] = [
        ({}, 400), ({"instance_id": ""}, 400), ({"instance_id": None}, 400), ({"instance_id": "no-such"}, 400),
        ({"instance_id": "x" * 65}, 400), ({"instance_id": outside["id"]}, 400), ({"instance_id": doomed["id"]}, 400),
        ({"instance_id": foreign.instance}, 404), ({"instance_id": str(uuid4())}, 404), ({"instance_id": net.vpc}, 404),
    ]  # fmt: skip
    for body, status in bodies:
        reply = await ada.rest.post(f"{path}/associate", json=body)
        assert reply.status_code == status, (body, reply.text)
        assert message(reply)
    assert (await ada.rest.post(f"{path}/associate")).status_code == 400
    for verb, body in (("associate", {"instance_id": foreign.instance}), ("disassociate", None)):
        assert (await bob.rest.post(f"{path}/{verb}", json=body)).status_code == 404
    assert refusal(await ada.rest.post(f"{path}/disassociate")) == (400, "CONFLICT")
    assert (await got(ada, path))["status"] == "allocated"
    await cloud.settle()
    assert refusal(await ada.rest.post(f"{path}/associate", json={"instance_id": doomed["id"]})) == (404, "NOT_FOUND")


async def test_it_stays_while_its_instance_stops_and_leaves_it_when_that_is_terminated(
    cloud: Cloud, ada: Person
) -> None:  # fmt: skip
    net = await world(ada)
    path, home = f"/elastic-ips/{net.elastic_ip}", UUID(net.vpc)
    there = await done(ada, f"{path}/associate", instance_id=net.instance)
    await done(ada, f"/instances/{net.instance}/stop")
    await cloud.settle()
    assert await got(ada, path) == there
    assert cloud.network.applied[home].elastic_ips == ()
    await ada.rest.put(f"/instances/{net.instance}", json={"status": "RUNNING"})
    await cloud.settle()
    assert [each.public_ip for each in cloud.network.applied[home].elastic_ips] == [there["public_ip"]]
    await ada.rest.delete(f"/instances/{net.instance}")
    freed = await got(ada, path)
    assert (freed["status"], "instance_id" in freed, "vpc_id" in freed) == ("allocated", False, False)
    await cloud.settle()
    assert cloud.network.applied[home].elastic_ips == ()
    log = "select count(*) from changes where kind = 'elastic_ip' and id = $1"
    assert await cloud.value(log, UUID(net.elastic_ip)) == 3  # allocated, associated, given back


async def test_fifty_allocations_at_once_never_double(cloud: Cloud, ada: Person, bob: Person) -> None:
    for person in (ada, bob):
        await limit(cloud, person, 50)
    people = [ada, bob] * 25
    replies = await asyncio.gather(*(person.rest.post("/elastic-ips") for person in people))
    assert {reply.status_code for reply in replies} == {201}, [reply.text for reply in replies]
    assert len({reply.json()["public_ip"] for reply in replies}) == 50
    releases = [person.rest.delete(f"/elastic-ips/{reply.json()['id']}")
                for person, reply in zip(people, replies, strict=True)]  # fmt: skip
    more, *_ = await asyncio.gather(asyncio.gather(*(ada.rest.post("/elastic-ips") for _ in range(20))), *releases)
    assert {reply.status_code for reply in more} <= {201, 403}  # 403: before enough had been given back
    held = await cloud.value("select count(*) from public_addresses where elastic_ip_id is not null")
    assert held == await cloud.value("select count(*) from elastic_ips")
    assert held == sum(reply.status_code == 201 for reply in more)


async def test_what_was_given_back_last_is_handed_out_last(cloud: Cloud, ada: Person) -> None:
    first = await made(ada, "/elastic-ips")
    await ada.rest.delete(f"/elastic-ips/{first['id']}")
    assert (await made(ada, "/elastic-ips"))["public_ip"] != first["public_ip"]


async def test_a_pool_that_is_used_up_says_so_and_refills(empty_database: str, tmp_path: Path) -> None:
    config = Config(data=tmp_path, grpc="127.0.0.1:0", external_network="100.64.0.0/28")
    async with running_cloud(empty_database, tmp_path, config) as cloud:
        ada = await cloud.person("ada")
        replies = [await ada.rest.post("/elastic-ips") for _ in range(12)]
        assert [reply.status_code for reply in replies] == [201] * 11 + [409]
        assert {reply.json()["public_ip"] for reply in replies[:11]} == {f"100.64.0.{n}" for n in range(2, 13)}
        assert "100.64.0.0/28" in message(replies[11])
        await ada.rest.delete(f"/elastic-ips/{replies[4].json()['id']}")
        assert (await made(ada, "/elastic-ips"))["public_ip"] == replies[4].json()["public_ip"]


async def test_a_pool_may_be_exchanged(cloud: Cloud, ada: Person, tmp_path: Path) -> None:
    before = await made(ada, "/elastic-ips")
    config = replace(cloud.app.config, external_network="100.99.0.0/24")
    async with running_cloud(cloud.app.db.url, tmp_path, config) as other:
        client = await other.client(**{"x-api-key": ada.key})
        assert (await client.post("/elastic-ips")).json()["public_ip"] == "100.99.0.2"
        assert before in (await client.get("/elastic-ips")).json()
        assert (await client.delete(f"/elastic-ips/{before['id']}")).status_code == 200


async def test_many_associate_at_once_and_one_has_it(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    others = [await ada.running(subnet_id=net.subnet, name=f"i{n}") for n in range(5)]
    replies = await asyncio.gather(*(
        ada.rest.post(f"/elastic-ips/{net.elastic_ip}/associate", json={"instance_id": each["id"]}) for each in others
    ))  # fmt: skip
    assert sorted(reply.status_code for reply in replies) == [200, *[409] * 4]


async def test_of_an_association_and_a_termination_at_once_nothing_is_left_dangling(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    for number in range(6):
        instance = await ada.running(subnet_id=net.subnet, name=f"i{number}")
        associated, deleted = await asyncio.gather(
            ada.rest.post(f"/elastic-ips/{net.elastic_ip}/associate", json={"instance_id": instance["id"]}),
            ada.rest.delete(f"/instances/{instance['id']}"),
        )
        assert (associated.status_code in (200, 400), deleted.status_code) == (True, 200), associated.text
        await cloud.settle()
        assert (await got(ada, f"/elastic-ips/{net.elastic_ip}"))["status"] == "allocated"


async def test_an_elastic_ip_costs_by_the_hour(cloud: Cloud, ada: Person) -> None:
    tried = await ada.rest.post("/elastic-ips?dry_run=true")
    assert (tried.status_code, tried.json()["estimated_price_per_hour"]) == (200, 0.005)
    assert await got(ada, "/elastic-ips") == []


async def test_an_elastic_ip_too_many_is_over_quota(cloud: Cloud, ada: Person) -> None:
    await limit(cloud, ada, 1)
    await made(ada, "/elastic-ips")
    assert refusal(await ada.rest.post("/elastic-ips")) == (403, "QUOTA_EXCEEDED")
