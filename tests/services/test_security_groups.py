"""Security groups, their rules, and the instances that have them."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Cloud, Person
from tests.networks import World, done, got, made, message, pages, refusal, subnet, vpc, world

HTTP = {"direction": "ingress", "protocol": "tcp", "port_min": 80, "port_max": 80, "cidr": "0.0.0.0/0"}


@pytest.fixture
async def net(ada: Person) -> World:
    return await world(ada)


def groups_of(cloud: Cloud, vpc_id: str, instance_id: str) -> set[str]:
    """The groups that the driver was told the instance has."""
    [port] = [each for each in cloud.network.applied[UUID(vpc_id)].ports if str(each.id) == instance_id]
    return {str(id) for id in port.groups}


async def test_a_group_lives_as_documented(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    body = {"vpc_id": home["id"], "name": "web-tier", "description": "Port 80 and 443 allowed"}
    born = await made(ada, "/security-groups", id="", **body)
    assert {name: born[name] for name in body} == body
    assert set(born) - set(body) == {"id", "rules", "arn", "user_id", "tenant_id", "created_at"}
    assert born["rules"] == []
    assert born["arn"] == f"arn:thecloud:vpc:local:{ada.tenant_id}:security-group/{born['id']}"
    rule_body = HTTP | {"priority": 100}
    rule = await made(ada, f"/security-groups/{born['id']}/rules", **rule_body)
    assert {name: rule[name] for name in rule_body} == rule_body
    assert set(rule) - set(rule_body) == {"id", "group_id", "tenant_id", "created_at"}
    assert rule["group_id"] == born["id"]
    for reference in (born["id"], "web-tier"):
        assert await got(ada, f"/security-groups/{reference}") == born | {"rules": [rule]}
    assert await got(ada, f"/security-groups?vpc_id={home['id']}") == [born | {"rules": [rule]}]
    assert await got(ada, f"/security-groups/rules/{rule['id']}") == rule

    await cloud.settle()
    [group] = cloud.network.applied[UUID(home["id"])].groups
    [programmed] = group.rules
    assert (programmed.direction, programmed.protocol, programmed.port_min, programmed.port_max, programmed.cidr) == (
        "ingress", "tcp", 80, 80, "0.0.0.0/0",
    )  # fmt: skip
    gone = await ada.rest.delete(f"/security-groups/rules/{rule['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert refusal(await ada.rest.delete(f"/security-groups/rules/{rule['id']}")) == (404, "NOT_FOUND")
    await cloud.settle()
    assert cloud.network.applied[UUID(home["id"])].groups[0].rules == ()
    gone = await ada.rest.delete(f"/security-groups/{born['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert refusal(await ada.rest.delete(f"/security-groups/{born['id']}")) == (404, "NOT_FOUND")
    await cloud.settle()
    assert cloud.network.applied[UUID(home["id"])].groups == ()


async def test_the_list_needs_a_vpc_and_comes_in_pages(ada: Person, bob: Person) -> None:
    home = await vpc(ada)
    ids = [(await made(ada, "/security-groups", vpc_id=home["id"], name=f"g{n}"))["id"] for n in range(5)]
    assert await pages(ada, f"/security-groups?vpc_id={home['id']}") == ids[::-1]
    assert refusal(await ada.rest.get("/security-groups")) == (400, "INVALID_INPUT")
    assert refusal(await bob.rest.get(f"/security-groups?vpc_id={home['id']}")) == (404, "NOT_FOUND")


async def test_a_bad_group_is_refused(cloud: Cloud, ada: Person, bob: Person, net: World) -> None:
    foreign = await vpc(bob)
    for body, status in (
        ({"name": ""}, 400), ({"name": "x" * 65}, 400), ({"name": "a b"}, 400), ({"name": None}, 400),
        ({"name": "open"}, 409), ({"vpc_id": ""}, 400), ({"vpc_id": None}, 400), ({"vpc_id": str(uuid4())}, 404),
        ({"vpc_id": foreign["id"]}, 404), ({"description": "x" * 257}, 400), ({"description": "a\nb"}, 400),
    ):  # fmt: skip
        reply = await ada.rest.post("/security-groups", json={"vpc_id": net.vpc, "name": "a"} | body)
        assert reply.status_code == status, body
        assert message(reply)
    assert await cloud.value("select count(*) from security_groups") == 1
    await made(ada, "/security-groups", vpc_id=net.peer, name="open")
    assert refusal(await ada.rest.get("/security-groups/open")) == (409, "CONFLICT")  # there are two: use the id


# Rules


async def test_each_form_of_a_rule_is_taken_and_programmed(cloud: Cloud, ada: Person, net: World) -> None:
    other = await made(ada, "/security-groups", vpc_id=net.vpc, name="other")
    path = f"/security-groups/{other['id']}/rules"
    whole = await made(ada, path, **HTTP | {"port_min": 1, "port_max": 65535, "id": "", "group_id": "x"})
    assert (whole["priority"], whole["group_id"]) == (100, other["id"])
    ping = await made(ada, path, direction="ingress", protocol="icmp", port_min=-1, port_max=8, cidr="10.0.0.0/8")
    assert not {"port_min", "port_max"} & set(ping)
    alone = await made(ada, path, direction="egress", protocol="all", cidr="192.0.2.7", priority=7)
    assert (alone["cidr"], alone["priority"]) == ("192.0.2.7/32", 7)
    own = await made(ada, path, direction="ingress", protocol="udp", port_min=53, port_max=53,
                     referenced_group_id=other["id"])  # fmt: skip
    assert "cidr" not in own
    await made(ada, path, direction="INGRESS", protocol="UDP", port_min=53, port_max=54,
               referenced_group_id=net.security_group)  # fmt: skip
    await cloud.settle()
    [group] = [each for each in cloud.network.applied[UUID(net.vpc)].groups if str(each.id) == other["id"]]
    assert {(each.direction, each.protocol, each.port_min, each.port_max, each.cidr, each.group_id)
            for each in group.rules} == {
        ("ingress", "tcp", 1, 65535, "0.0.0.0/0", None), ("ingress", "icmp", 1, 65535, "10.0.0.0/8", None),
        ("egress", "all", 1, 65535, "192.0.2.7/32", None), ("ingress", "udp", 53, 53, None, UUID(other["id"])),
        ("ingress", "udp", 53, 54, None, UUID(net.security_group)),
    }  # fmt: skip


async def test_a_bad_rule_is_refused_and_changes_nothing(
    cloud: Cloud, ada: Person, bob: Person, net: World
) -> None:  # fmt: skip
    foreign = await world(bob)
    elsewhere = await made(ada, "/security-groups", vpc_id=net.peer, name="elsewhere")
    await cloud.settle()
    applied = dict(cloud.network.applied)
    bodies: list[tuple[dict[str, Any], int]] = [
        *(({"direction": each}, 400) for each in ("", None, "in", "both", 0, 3, "unspecified")),
        *(({"protocol": each}, 400) for each in ("", None, "arp", "TCP ", 0, 99, "6")),
        *(({"port_min": each}, 400) for each in (0, -1, 81, 65536, 2**31, -(2**63), None, "x", 1.5)),
        *(({"port_max": each}, 400) for each in (0, -1, 79, 65536, 2**31, 10**30, None, "x", [80])),
        *(({"cidr": each}, 400) for each in ("", None, "10.0.0.1/8", "x", "::/0", "10.0.0.0/33", "0.0.0.0/0.0.0.0",
                                             "\u0661.0.0.0/8", "01.0.0.0/8", "10.0.0.0/8 ", "10.0.0", "1", 7)),
        *(({"priority": each}, 400) for each in (-1, 65536, 2**40, "x")),
        ({"referenced_group_id": net.security_group}, 400), ({"cidr": "", "referenced_group_id": "x"}, 400),
        ({"cidr": "", "referenced_group_id": "open"}, 400), ({"cidr": "", "referenced_group_id": elsewhere["id"]}, 400),
        ({"cidr": "", "referenced_group_id": foreign.security_group}, 404),
        ({"cidr": "", "referenced_group_id": str(uuid4())}, 404), ({"cidr": "", "referenced_group_id": net.vpc}, 404),
        ({}, 409), ({"priority": 7}, 409), ({"cidr": "0.0.0.0/00"}, 409),
    ]  # fmt: skip
    for body, status in bodies:
        reply = await ada.rest.post(f"/security-groups/{net.security_group}/rules", json=HTTP | body)
        assert reply.status_code == status, (body, reply.text)
        assert message(reply)
    assert await cloud.value("select count(*) from security_rules where tenant_id = $1", ada.tenant_id) == 1
    assert await cloud.settle() == 0
    assert cloud.network.applied == applied


async def test_a_stranger_sees_and_changes_no_rule(ada: Person, bob: Person, net: World) -> None:
    for reply in (
        await bob.rest.get(f"/security-groups/rules/{net.security_rule}"),
        await bob.rest.delete(f"/security-groups/rules/{net.security_rule}"),
        await bob.rest.post(f"/security-groups/{net.security_group}/rules", json=HTTP),
    ):
        assert refusal(reply) == (404, "NOT_FOUND")
    assert await got(ada, f"/security-groups/rules/{net.security_rule}")


# Attached


async def test_a_group_is_attached_and_detached_live(cloud: Cloud, ada: Person, net: World) -> None:
    other = await made(ada, "/security-groups", vpc_id=net.vpc, name="other")
    for body in (
        {"instance_id": net.instance, "group_id": other["id"]},
        {"instance_id": "web-01", "group_id": "other"},
    ):
        for _ in range(2):  # attaching again succeeds
            assert await done(ada, "/security-groups/attach", **body) == {"message": "security group attached"}
        assert (await ada.instance(net.instance))["security_groups"] == [net.security_group, other["id"]]
        await cloud.settle()
        assert groups_of(cloud, net.vpc, net.instance) == {net.security_group, other["id"]}
        kept = await ada.rest.delete(f"/security-groups/{other['id']}")
        assert refusal(kept) == (409, "CONFLICT")
        assert f"instance/{net.instance}" in message(kept)
        for _ in range(2):
            assert await done(ada, "/security-groups/detach", **body) == {"message": "security group detached"}
        await cloud.settle()
        assert groups_of(cloud, net.vpc, net.instance) == {net.security_group}
    assert (await ada.rest.delete(f"/security-groups/{other['id']}")).status_code == 204


async def test_a_rule_that_names_a_group_keeps_it_unless_it_is_the_groups_own(ada: Person, net: World) -> None:
    other = await made(ada, "/security-groups", vpc_id=net.vpc, name="other")
    rule = {"direction": "ingress", "protocol": "all", "referenced_group_id": other["id"]}
    naming = await made(ada, f"/security-groups/{net.security_group}/rules", **rule)
    await made(ada, f"/security-groups/{other['id']}/rules", **rule)
    kept = await ada.rest.delete(f"/security-groups/{other['id']}")
    assert refusal(kept) == (409, "CONFLICT")
    assert f"security_group/{net.security_group}" in message(kept)
    await ada.rest.delete(f"/security-groups/rules/{naming['id']}")
    assert (await ada.rest.delete(f"/security-groups/{other['id']}")).status_code == 204


async def test_only_a_group_of_the_instances_vpc_is_attached(
    cloud: Cloud, ada: Person, bob: Person, net: World
) -> None:  # fmt: skip
    foreign = await world(bob)
    elsewhere = await made(ada, "/security-groups", vpc_id=net.peer, name="elsewhere")
    outside = await ada.running(name="outside")
    doomed = await ada.running(name="doomed", subnet_id=net.subnet)
    await ada.rest.delete(f"/instances/{doomed['id']}")
    good: dict[str, Any] = {"instance_id": net.instance, "group_id": net.security_group}
    for body, status in (
        ({"group_id": elsewhere["id"]}, 400), ({"instance_id": outside["id"]}, 400), ({"group_id": ""}, 400),
        ({"instance_id": doomed["id"]}, 400), ({"instance_id": None}, 400), ({"group_id": "no-such"}, 400),
        ({"group_id": foreign.security_group}, 404), ({"instance_id": foreign.instance}, 404),
        ({"group_id": str(uuid4())}, 404), ({"instance_id": str(uuid4())}, 404),
    ):  # fmt: skip
        reply = await ada.rest.post("/security-groups/attach", json=good | body)
        assert reply.status_code == status, (body, reply.text)
        if body.get("group_id") != elsewhere["id"]:  # which is not attached: fine
            assert (await ada.rest.post("/security-groups/detach", json=good | body)).status_code == status, body
    for verb in ("attach", "detach"):
        assert (await bob.rest.post(f"/security-groups/{verb}", json=good)).status_code == 404
        assert (await bob.rest.post(f"/security-groups/{verb}", json=good | {"group_id": foreign.security_group})
                ).status_code == 404  # fmt: skip
        assert (await ada.rest.post(f"/security-groups/{verb}")).status_code == 400
    assert (await ada.instance(net.instance))["security_groups"] == [net.security_group]
    assert (await ada.instance(outside["id"]))["security_groups"] == []


async def test_groups_are_given_at_launch_by_id_or_name(cloud: Cloud, ada: Person, bob: Person, net: World) -> None:
    lower = await made(ada, "/security-groups", vpc_id=net.vpc, name="web")
    upper = await made(ada, "/security-groups", vpc_id=net.vpc, name="WEB")
    elsewhere = await made(ada, "/security-groups", vpc_id=net.peer, name="elsewhere")
    foreign = await world(bob)
    both = await ada.running(subnet_id=net.subnet, security_groups=["WEB", lower["id"].upper(), "web"])
    assert both["security_groups"] == [upper["id"], lower["id"]]
    assert groups_of(cloud, net.vpc, both["id"]) == {upper["id"], lower["id"]}
    launched = await cloud.value("select count(*) from instances")
    for references, more, status in (
        (["Web"], {}, 404), ([elsewhere["id"]], {}, 404), ([foreign.security_group], {}, 404),
        ([str(uuid4())], {}, 404),
        ([""], {}, 400), (["x" * 65], {}, 400), (["web", "web"], {}, 400), (["web"] * 17, {}, 400),
        (["web"], {"subnet_id": ""}, 400), ("web", {}, 400), ([None], {}, 400),
    ):  # fmt: skip
        body = {"name": "a", "image": "nginx", "subnet_id": net.subnet, "security_groups": references} | more
        reply = await ada.rest.post("/instances", json=body)
        assert reply.status_code == status, (references, reply.text)
    assert await cloud.value("select count(*) from instances") == launched
    assert await cloud.value("select count(*) from subnet_addresses where instance_id is not null") == 3


async def test_an_instance_has_sixteen_groups_at_most(ada: Person, net: World) -> None:
    ids = [(await made(ada, "/security-groups", vpc_id=net.vpc, name=f"g{n}"))["id"] for n in range(16)]
    replies = await asyncio.gather(*(
        ada.rest.post("/security-groups/attach", json={"instance_id": net.instance, "group_id": id}) for id in ids
    ))  # fmt: skip
    assert sorted(reply.status_code for reply in replies) == [200] * 15 + [400]
    assert len((await ada.instance(net.instance))["security_groups"]) == 16


async def test_of_a_deletion_and_an_attachment_at_once_one_wins(cloud: Cloud, ada: Person, net: World) -> None:
    for number in range(6):
        group = await made(ada, "/security-groups", vpc_id=net.vpc, name=f"g{number}")
        attached, deleted = await asyncio.gather(
            ada.rest.post("/security-groups/attach", json={"instance_id": net.instance, "group_id": group["id"]}),
            ada.rest.delete(f"/security-groups/{group['id']}"),
        )
        assert (attached.status_code, deleted.status_code) in ((200, 409), (404, 204))
    ids = {each["id"] for each in await got(ada, f"/security-groups?vpc_id={net.vpc}")}
    assert set((await ada.instance(net.instance))["security_groups"]) <= ids


async def test_a_rule_too_many_is_over_quota(cloud: Cloud, ada: Person, net: World) -> None:
    await cloud.value("insert into quotas (tenant_id, name, most) values ($1, 'security_rules', 1)", ada.tenant_id)
    reply = await ada.rest.post(f"/security-groups/{net.security_group}/rules", json=HTTP | {"port_max": 81})
    assert refusal(reply) == (403, "QUOTA_EXCEEDED")


async def test_an_instance_without_a_group_has_none_in_the_topology(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    instance = await ada.running(subnet_id=(await subnet(ada, home["id"]))["id"], security_groups=None)
    assert instance["security_groups"] == []
    assert groups_of(cloud, home["id"], instance["id"]) == set()
