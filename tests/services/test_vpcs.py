"""VPCs through the front door, and what the network driver is given."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from thecloud.v1 import vpcs_pb2 as pb
from thecloud.v1 import vpcs_pb2_grpc

from server import topology
from server.services import vpcs
from tests.conftest import Cloud, Person
from tests.networks import done, got, made, main_table, message, pages, refusal, subnet, vpc, world


def stub(cloud: Cloud) -> Any:
    return vpcs_pb2_grpc.VpcServiceStub(cloud.channel)  # type: ignore[no-untyped-call]


async def rows(cloud: Cloud) -> list[int]:
    tables = ("vpcs", "route_tables", "routes", "subnets", "security_groups", "vpc_peerings", "work", "changes")
    return [await cloud.value(f"select count(*) from {table}") for table in tables]


# Made


async def test_a_vpc_lives_and_dies(cloud: Cloud, ada: Person) -> None:
    reply = await ada.rest.post("/vpcs", json={"name": "prod-vpc"})
    born = reply.json()
    assert reply.status_code == 201
    assert set(born) == {
        "id", "name", "cidr_block", "status", "reconciling", "arn", "user_id", "tenant_id", "created_at",
    }  # fmt: skip
    assert (born["name"], born["cidr_block"], born["status"]) == ("prod-vpc", "10.0.0.0/16", "active")
    assert (born["user_id"], born["tenant_id"]) == (str(ada.user_id), str(ada.tenant_id))
    assert born["arn"] == f"arn:thecloud:vpc:local:{ada.tenant_id}:vpc/{born['id']}"
    assert born["reconciling"] is True
    assert datetime.now(UTC) - datetime.fromisoformat(born["created_at"]) < timedelta(seconds=5)
    assert cloud.network.applied == {}

    await cloud.settle()
    assert await got(ada, f"/vpcs/{born['id']}") == born | {"reconciling": False}
    assert await got(ada, "/vpcs") == [born | {"reconciling": False}]
    [programmed] = cloud.network.applied.values()
    assert (str(programmed.vpc_id), programmed.cidrs) == (born["id"], ("10.0.0.0/16",))
    assert programmed.tenant_id == ada.tenant_id

    gone = await ada.rest.delete(f"/vpcs/{born['id']}")
    assert (gone.status_code, gone.json()) == (200, {"message": "vpc deleted"})
    assert (await ada.rest.get(f"/vpcs/{born['id']}")).status_code == 404
    assert await got(ada, "/vpcs") == []
    await cloud.settle()
    assert cloud.network.applied == {}
    assert (await rows(cloud))[:7] == [0] * 7


async def test_a_vpc_comes_with_its_main_route_table(ada: Person) -> None:
    home = await vpc(ada, cidr_block="10.9.0.0/20")
    [table] = await got(ada, f"/route-tables?vpc_id={home['id']}")
    assert (table["name"], table["is_main"], table["associations"]) == ("main", True, [])
    [local] = table["routes"]
    assert (local["destination_cidr"], local["target_type"], local["origin"]) == ("10.9.0.0/20", "local", "auto")
    assert "target_id" not in local


async def test_each_vpc_without_a_range_gets_the_next_one(ada: Person, bob: Person) -> None:
    await vpc(ada, "asked", "10.1.0.0/24")
    picked = [(await made(ada, "/vpcs", name=f"v{number}", cidr_block=""))["cidr_block"] for number in range(3)]
    assert picked == ["10.0.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]
    assert (await made(bob, "/vpcs", name="v"))["cidr_block"] == "10.0.0.0/16"
    await ada.rest.delete("/vpcs/v0")
    assert (await made(ada, "/vpcs", name="again", cidr_block=None))["cidr_block"] == "10.0.0.0/16"


async def test_many_vpcs_at_once_get_ranges_of_their_own(ada: Person) -> None:
    replies = await asyncio.gather(*(ada.rest.post("/vpcs", json={"name": f"v{number}"}) for number in range(10)))
    assert {reply.status_code for reply in replies} == {201}
    assert len({reply.json()["cidr_block"] for reply in replies}) == 10


async def test_two_vpcs_may_have_the_same_range_when_asked(ada: Person) -> None:
    first, second = await vpc(ada, "a"), await vpc(ada, "b")
    assert first["cidr_block"] == second["cidr_block"]


@pytest.mark.parametrize("block", ["10.0.0.0/16", "192.168.4.0/22", "172.16.0.0/28", "8.8.8.0/24", "10.0.0.0/028"])
async def test_a_good_range_is_taken(ada: Person, block: str) -> None:
    home = await vpc(ada, cidr_block=block)
    assert home["cidr_block"] == block.replace("/0", "/")


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("10.0.0.1/16", "the range is 10.0.0.0/16"), ("10.0.1.0/16", "the range is 10.0.0.0/16"),
        ("10.0.0.0/15", "too large"), ("0.0.0.0/0", "too large"), ("10.0.0.0/29", "too small"),
        ("10.0.0.0/32", "too small"), ("10.0.0.0", "no IPv4 range"), ("10.0.0.0/", "no IPv4 range"),
        ("10.0.0.0/33", "no IPv4 range"), ("10.0.0.0/-1", "no IPv4 range"), ("10.0.0.0/x", "no IPv4 range"),
        ("10.0.0.0/255.255", "no IPv4 range"), ("10.0/255.255.0.0", "no IPv4 range"), ("10.0.0/24", "no IPv4 range"),
        ("010.0.0.0/16", "no IPv4 range"), ("10.0.0.0/ 16", "no IPv4 range"), (" 10.0.0.0/16", "no IPv4 range"),
        ("10.0.0.0/16\n", "no IPv4 range"), ("10.0.0.0/\u0661\u0666", "no IPv4 range"),
        ("\u0661\u0660.0.0.0/16", "no IPv4 range"), ("10.0.0.0/16/16", "no IPv4 range"), ("fd00::/64", "no IPv4 range"),
        ("::ffff:10.0.0.0/112", "18"), ("10.0.0.0/255.255.0.0", "18"), ("everything", "no IPv4 range"),
        ("167772160/16", "no IPv4 range"), ("0x0a000000/16", "no IPv4 range"), ("10.0.0.0/1e1", "no IPv4 range"),
        ("8.0.0.0/255.0.0.0", "prefix as a number"),
        ("127.0.0.0/16", "127.0.0.0/8"), ("169.254.0.0/16", "169.254.0.0/16"), ("169.254.169.0/24", "169.254.0.0/16"),
        ("224.0.0.0/16", "224.0.0.0/3"), ("255.255.0.0/16", "224.0.0.0/3"), ("0.0.0.0/16", "0.0.0.0/8"),
        ("100.64.0.0/16", "100.64.0.0/16"), ("100.64.7.0/24", "100.64.0.0/16"),
    ],
)  # fmt: skip
async def test_a_bad_range_is_refused_and_leaves_nothing(cloud: Cloud, ada: Person, block: str, says: str) -> None:
    reply = await ada.rest.post("/vpcs", json={"name": "net", "cidr_block": block})
    assert refusal(reply) == (400, "INVALID_INPUT")
    assert reply.json()["error"]["fields"][0]["field"] == "cidr_block"
    assert says in message(reply)
    assert await rows(cloud) == [0] * 8


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "🚀", "a\x00", "../x", "a\n", None, 7, {}, ["a"]])
async def test_a_bad_name_is_refused(cloud: Cloud, ada: Person, name: Any) -> None:
    reply = await ada.rest.post("/vpcs", json={"name": name})
    assert refusal(reply) == (400, "INVALID_INPUT")
    assert await rows(cloud) == [0] * 8


async def test_a_name_of_64_characters_is_taken_once(cloud: Cloud, ada: Person, bob: Person) -> None:
    name = "ä" * 63 + "."
    await vpc(ada, name)
    before = await rows(cloud)
    again = await ada.rest.post("/vpcs", json={"name": name, "cidr_block": "10.7.0.0/16"})
    assert refusal(again) == (409, "CONFLICT")
    assert name in message(again)
    assert await rows(cloud) == before
    await vpc(bob, name)


async def test_fields_that_are_not_known_are_ignored(ada: Person) -> None:
    other = str(uuid4())
    home = await made(ada, "/vpcs", id="", name="net", tenant_id=other, status="deleting", arn="arn", vxlan_id=7)
    assert home["id"] not in ("", other)
    assert (home["tenant_id"], home["status"]) == (str(ada.tenant_id), "active")


async def test_a_vpc_answers_to_its_name(ada: Person, bob: Person) -> None:
    home = await vpc(ada, "prod")
    assert await got(ada, "/vpcs/prod") == home
    assert (await got(ada, f"/vpcs/{home['id'].upper()}"))["id"] == home["id"]
    assert refusal(await bob.rest.get("/vpcs/prod")) == (400, "INVALID_INPUT")
    for path in ("/vpcs/prod/subnets", "/route-tables?vpc_id=prod", "/security-groups?vpc_id=prod",
                 "/nat-gateways?vpc_id=prod"):  # fmt: skip
        await got(ada, path)
        assert refusal(await bob.rest.get(path)) == (400, "INVALID_INPUT")
    assert (await made(ada, "/security-groups", vpc_id="prod", name="g"))["vpc_id"] == home["id"]
    assert (await ada.rest.delete("/vpcs/prod")).status_code == 200
    assert refusal(await ada.rest.get("/vpcs/prod")) == (400, "INVALID_INPUT")
    assert refusal(await ada.rest.delete(f"/vpcs/{home['id']}")) == (404, "NOT_FOUND")


async def test_the_list_comes_in_pages_newest_first(ada: Person) -> None:
    ids = [(await vpc(ada, f"v{number}"))["id"] for number in range(5)]
    assert [each["id"] for each in await got(ada, "/vpcs")] == ids[::-1]
    assert await pages(ada, "/vpcs") == ids[::-1]


async def test_grpc_and_rest_see_the_same(cloud: Cloud, ada: Person) -> None:
    born = await stub(cloud).CreateVpc(pb.CreateVpcRequest(name="net"), metadata=ada.metadata)
    assert born.status == pb.Vpc.STATE_ACTIVE
    assert (await got(ada, f"/vpcs/{born.id}"))["cidr_block"] == born.cidr_block
    first = await stub(cloud).ListVpcs(pb.ListVpcsRequest(page_size=1), metadata=ada.metadata)
    assert ([each.id for each in first.vpcs], first.next_page_token) == ([born.id], "")


async def test_under_api_v1_answers_are_enveloped(ada: Person) -> None:
    reply = await ada.rest.post("/api/v1/vpcs", json={"name": "net"})
    assert (reply.status_code, set(reply.json())) == (201, {"data", "meta"})
    id = reply.json()["data"]["id"]
    assert (await got(ada, "/api/v1/vpcs"))["data"] == [reply.json()["data"]]
    gone = await ada.rest.delete(f"/api/v1/vpcs/{id}")
    assert gone.json()["data"] == {"message": "vpc deleted"}


async def test_a_vpc_is_tried_out(cloud: Cloud, ada: Person) -> None:
    for _ in range(2):
        reply = await ada.rest.post("/vpcs?dry_run=true", json={"name": "net"})
        assert (reply.status_code, reply.json()["name"], reply.json()["estimated_price_per_hour"]) == (200, "net", 0.0)
    assert await rows(cloud) == [0] * 8


async def test_a_repeat_with_the_same_key_gets_the_same_vpc(cloud: Cloud, ada: Person) -> None:
    headers = {"idempotency-key": "once"}
    replies = [await ada.rest.post("/vpcs", json={"name": "net"}, headers=headers) for _ in range(2)]
    assert replies[0].json() == replies[1].json()
    assert {reply.status_code for reply in replies} == {201}
    assert await cloud.value("select count(*) from vpcs") == 1


async def test_a_vpc_too_many_is_over_quota(cloud: Cloud, ada: Person) -> None:
    await cloud.value("insert into quotas (tenant_id, name, most) values ($1, 'vpcs', 1)", ada.tenant_id)
    await vpc(ada, "first")
    assert refusal(await ada.rest.post("/vpcs", json={"name": "second"})) == (403, "QUOTA_EXCEEDED")
    await ada.rest.delete("/vpcs/first")
    await vpc(ada, "second")  # although the first may be there for a moment yet


# Changed


@pytest.mark.parametrize("verb", ["PATCH", "PUT"])
async def test_a_vpc_is_renamed_and_nothing_else(cloud: Cloud, ada: Person, verb: str) -> None:
    home = await vpc(ada, "old")
    await cloud.settle()
    body = {"id": "", "name": "new", "cidr_block": "10.7.0.0/16", "status": "error"}
    reply = await ada.rest.request(verb, f"/vpcs/{home['id']}", json=body)
    assert (reply.status_code, reply.json()) == (200, home | {"name": "new", "reconciling": False})
    assert (await ada.rest.request(verb, "/vpcs/new", json={})).json()["name"] == "new"
    assert await cloud.settle() == 0


async def test_a_bad_name_changes_nothing(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada, "old")
    await vpc(ada, "taken", "10.1.0.0/16")
    for name, status in (("", 400), ("x" * 65, 400), ("a b", 400), ("taken", 409)):
        reply = await ada.rest.patch(f"/vpcs/{home['id']}", json={"name": name})
        assert (reply.status_code, bool(message(reply))) == (status, True)
    request = pb.UpdateVpcRequest(id=home["id"], update_mask=FieldMask(paths=["cidr_block"]))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub(cloud).UpdateVpc(request, metadata=ada.metadata)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert await got(ada, f"/vpcs/{home['id']}") == home


# Deleted


async def test_what_is_in_it_keeps_a_vpc_and_is_named(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    await cloud.settle()
    applied = dict(cloud.network.applied)

    async def held() -> str:
        reply = await ada.rest.delete(f"/vpcs/{net.vpc}?force=true")
        assert refusal(reply) == (409, "CONFLICT")
        assert "net" in message(reply)
        by: str = reply.json()["error"]["metadata"]["by"]
        assert all(each in message(reply) for each in by.split(","))
        return by

    holders = [f"instance/{net.instance}", f"nat_gateway/{net.nat_gateway}",
               f"internet_gateway/{net.internet_gateway}", f"vpc_peering/{net.vpc_peering}"]  # fmt: skip
    assert set((await held()).split(",")) == set(holders)
    await cloud.settle()
    assert cloud.network.applied == applied

    await ada.rest.delete(f"/instances/{net.instance}")
    assert holders[0] in await held()  # until it is gone
    await cloud.settle()
    await ada.rest.delete(f"/nat-gateways/{net.nat_gateway}")
    assert set((await held()).split(",")) == set(holders[2:])
    await ada.rest.post(f"/internet-gateways/{net.internet_gateway}/detach")
    assert await held() == holders[3]
    assert f"vpc_peering/{net.vpc_peering}" in message(await ada.rest.delete(f"/vpcs/{net.peer}"))
    await ada.rest.delete(f"/vpc-peerings/{net.vpc_peering}")
    for id in (net.vpc, net.peer):
        assert (await ada.rest.delete(f"/vpcs/{id}")).status_code == 200
    await cloud.settle()
    assert cloud.network.applied == {}
    assert (await rows(cloud))[:7] == [0] * 7
    assert await cloud.value("select count(*) from subnet_addresses") == 0


async def test_a_pending_peering_keeps_both_vpcs_and_a_rejected_one_falls_with_either(
    cloud: Cloud, ada: Person
) -> None:  # fmt: skip
    first, second = await vpc(ada, "a"), await vpc(ada, "b", "10.1.0.0/16")
    peering = await made(ada, "/vpc-peerings", requester_vpc_id=first["id"], accepter_vpc_id=second["id"])
    for id in (first["id"], second["id"]):
        assert refusal(await ada.rest.delete(f"/vpcs/{id}")) == (409, "CONFLICT")
    await done(ada, f"/vpc-peerings/{peering['id']}/reject")
    assert (await ada.rest.delete(f"/vpcs/{second['id']}")).status_code == 200
    assert await got(ada, "/vpc-peerings") == []
    await cloud.settle()
    assert [str(id) for id in cloud.network.applied] == [first["id"]]


async def test_the_log_and_the_audit_tell_all_that_falls_with_a_vpc(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    await subnet(ada, home["id"])
    group = await made(ada, "/security-groups", vpc_id=home["id"], name="g")
    await made(ada, f"/security-groups/{group['id']}/rules", direction="egress", protocol="all", cidr="0.0.0.0/0")
    await cloud.settle()
    await ada.rest.delete(f"/vpcs/{home['id']}", headers={"x-request-id": "the-end"})
    await cloud.settle()
    async with cloud.app.db.reading() as tx:
        found = await tx.connection.fetch("select kind, type from changes where request_id = 'the-end' or id = $1",
                                          UUID(home["id"]))  # fmt: skip
        audited = await tx.connection.fetch("select action, status from audit_log where request_id = 'the-end'")
    told = {(each["kind"], each["type"]) for each in found}
    for kind in ("subnet", "route", "route_table", "security_group", "security_rule", "vpc"):
        assert (kind, "DELETED") in told
    assert [tuple(each.values()) for each in audited] == [("VPC_DELETE", "success")]


async def test_a_policy_may_name_one_vpc(cloud: Cloud, ada: Person) -> None:
    kept, other = await vpc(ada, "kept"), await vpc(ada, "other", "10.1.0.0/16")
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="developer")
    policy = await made(ada, "/iam/policies", name="p", statements=[
        {"effect": "Deny", "action": ["vpc:delete"], "resource": [kept["arn"]]}])  # fmt: skip
    await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{policy['id']}")
    for reference in (kept["id"], "kept"):
        assert refusal(await eve.rest.delete(f"/vpcs/{reference}")) == (403, "FORBIDDEN")
    assert (await eve.rest.delete(f"/vpcs/{other['id']}")).status_code == 200


# Compared


async def sweep(cloud: Cloud) -> int:
    """Let the comparison of what is with what is wanted run, and do what it asks for."""
    await vpcs.compare(cloud.app)
    return await cloud.settle()


async def test_the_sweep_leaves_what_is_right_alone(cloud: Cloud, ada: Person) -> None:
    await world(ada)
    await cloud.settle()
    assert await sweep(cloud) == 0


async def test_the_sweep_mends_what_drifted_was_lost_or_is_unknown(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    await cloud.settle()
    right = dict(cloud.network.applied)
    drifted, lost, unknown = UUID(net.vpc), UUID(net.peer), uuid4()
    del cloud.network.applied[lost]
    cloud.network.applied[unknown] = topology.Topology(vpc_id=unknown, tenant_id=uuid4(), cidrs=("10.0.0.0/16",))
    cloud.network.applied[drifted] = topology.Topology(vpc_id=drifted, tenant_id=ada.tenant_id, cidrs=("10.0.0.0/16",))
    assert await sweep(cloud) > 0
    assert cloud.network.applied == right
    assert await sweep(cloud) == 0


async def test_the_sweep_gives_an_instance_that_was_started_anew_its_interface(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    await cloud.settle()
    vpc_id, id = UUID(net.vpc), UUID(net.instance)
    machine = cloud.compute.machines[id]
    machine.starts += 1  # by its engine, in another namespace
    there = cloud.network.applied[vpc_id]
    cloud.network.applied[vpc_id] = topology.Topology(**vars(there) | {"ports": ()})
    await sweep(cloud)
    [port] = cloud.network.applied[vpc_id].ports
    assert port.netns == f"/nowhere/{id}/{machine.starts}"


async def test_main_table_is_the_only_one_of_its_vpc(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    replies = await asyncio.gather(*(
        ada.rest.post("/route-tables", json={"vpc_id": home["id"], "name": f"t{number}", "is_main": True})
        for number in range(8)
    ))  # fmt: skip
    assert {reply.status_code for reply in replies} == {201}
    assert (await main_table(ada, home["id"]))["name"].startswith("t")
