"""What holds for all services of networks alike."""

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import topology
from tests.conftest import Cloud, Person
from tests.networks import World, done, got, made, refusal, subnet, world
from tests.test_fuzz import BINDINGS, ask, check, requests

TABLES = ("vpcs", "subnets", "route_tables", "routes", "internet_gateways", "nat_gateways", "elastic_ips",
          "security_groups", "security_rules", "vpc_peerings", "subnet_addresses", "instances")  # fmt: skip
SERVICES = ("VpcService", "SubnetService", "RouteTableService", "InternetGatewayService", "NatGatewayService",
            "ElasticIpService", "SecurityGroupService", "VpcPeeringService", "ReachabilityService")  # fmt: skip
POSTS = [each for each in BINDINGS if each.method.containing_service.name in SERVICES and each.verb == "POST"]
ROUTE = {"destination_cidr": "192.0.2.0/24", "target_type": "igw"}
RULE = {"direction": "egress", "protocol": "udp", "port_min": 53, "port_max": 54, "cidr": "10.0.0.0/8"}


async def counted(cloud: Cloud) -> dict[str, int]:
    return {table: await cloud.value(f"select count(*) from {table}") for table in TABLES}


@pytest.fixture
async def net(ada: Person) -> World:
    return await world(ada)


async def creations(person: Person, net: World) -> dict[str, tuple[str, dict[str, Any]]]:
    """What makes one more of everything: the path and the body, by the table."""
    room = await subnet(person, net.vpc, "10.0.9.0/24", "spare")
    return {
        "vpcs": ("/vpcs", {"name": "new"}),
        "subnets": (f"/vpcs/{net.vpc}/subnets", {"name": "new", "cidr_block": "10.0.8.0/24"}),
        "route_tables": ("/route-tables", {"vpc_id": net.vpc, "name": "new", "is_main": True}),
        "routes": (f"/route-tables/{net.route_table}/routes", ROUTE | {"target_id": net.internet_gateway}),
        "internet_gateways": ("/internet-gateways", {}),
        "nat_gateways": ("/nat-gateways", {"subnet_id": room["id"], "eip_id": net.elastic_ip}),
        "elastic_ips": ("/elastic-ips", {}),
        "security_groups": ("/security-groups", {"vpc_id": net.vpc, "name": "new"}),
        "security_rules": (f"/security-groups/{net.security_group}/rules", RULE),
    }


async def test_each_is_tried_out_and_then_made_once_however_often_it_is_repeated(
    cloud: Cloud, ada: Person, net: World
) -> None:  # fmt: skip
    prices = {"nat_gateways": 0.045, "elastic_ips": 0.005}
    for table, (path, body) in (await creations(ada, net)).items():
        await cloud.settle()
        before = await counted(cloud)
        tried = await ada.rest.post(path, json=body | {"validate_only": True})
        assert (tried.status_code, tried.json()["estimated_price_per_hour"]) == (200, prices.get(table, 0.0)), table
        assert await counted(cloud) == before
        assert await cloud.settle() == 0
        headers = {"idempotency-key": f"key-{table}"}
        first, again = [await ada.rest.post(path, json=body, headers=headers) for _ in range(2)]
        assert (first.status_code, first.json()) == (201, again.json())
        assert (await counted(cloud))[table] == before[table] + 1, table


async def test_each_quota_holds(cloud: Cloud, ada: Person, net: World) -> None:
    for table, (path, body) in (await creations(ada, net)).items():
        used = await cloud.value(f"select count(*) from {table}")
        await cloud.value("insert into quotas (tenant_id, name, most) values ($1, $2, $3)", ada.tenant_id, table, used)
        assert refusal(await ada.rest.post(path, json=body)) == (403, "QUOTA_EXCEEDED"), table
        await cloud.value("delete from quotas where name = $1", table)
        assert (await ada.rest.post(path, json=body)).status_code == 201, table


async def test_a_policy_may_name_each_by_the_arn_it_shows(cloud: Cloud, ada: Person, net: World) -> None:
    paths = {
        "vpc": f"/vpcs/{net.vpc}", "subnet": f"/subnets/{net.subnet}", "eip": f"/elastic-ips/{net.elastic_ip}",
        "igw": f"/internet-gateways/{net.internet_gateway}", "nat-gateway": f"/nat-gateways/{net.nat_gateway}",
        "security-group": f"/security-groups/{net.security_group}", "peering": f"/vpc-peerings/{net.vpc_peering}",
    }  # fmt: skip
    for kind, path in paths.items():
        shown = (await got(ada, path))["arn"]
        assert shown.endswith(f":{kind}/{path.rpartition('/')[2]}")
        any_tenant = shown.replace(str(ada.tenant_id), "*")
        for pattern, denied in (
            (shown, True), (any_tenant, True), (shown.replace(str(ada.tenant_id), "tenant"), True),
            (shown.rpartition("/")[0] + "/*", True), (shown.replace(str(ada.tenant_id), str(uuid4())), False),
            (shown[:-12] + uuid4().hex[:12], False),
        ):  # fmt: skip
            statement = {"effect": "Deny", "action": ["*"], "resource": [pattern]}
            key = await ada.rest.post("/auth/keys", json={"name": "k", "policy": {"statements": [
                {"effect": "Allow", "action": ["*"], "resource": ["*"]}, statement]}})  # fmt: skip
            client = await cloud.client(**{"x-api-key": key.json()["key"]})
            assert (await client.get(path)).status_code == (403 if denied else 200), pattern
            await ada.rest.delete(f"/auth/keys/{key.json()['id']}")


async def test_every_change_is_audited_and_logged(cloud: Cloud, ada: Person, net: World) -> None:
    for path, body in (await creations(ada, net)).values():
        if path != "/nat-gateways":
            await made(ada, path, **body)
    await done(ada, f"/elastic-ips/{net.elastic_ip}/associate", instance_id=net.instance)
    await done(ada, f"/elastic-ips/{net.elastic_ip}/disassociate")
    await done(ada, f"/route-tables/{net.route_table}/associate", subnet_id=net.subnet)
    await done(ada, f"/route-tables/{net.route_table}/disassociate", subnet_id=net.subnet)
    attachment = {"instance_id": net.instance, "group_id": "new"}
    for verb in ("attach", "detach"):
        await done(ada, f"/security-groups/{verb}", **attachment)
    third = await made(ada, "/vpcs", name="third", cidr_block="10.5.0.0/16")
    peering = await made(ada, "/vpc-peerings", requester_vpc_id=net.vpc, accepter_vpc_id=third["id"])
    await done(ada, f"/vpc-peerings/{peering['id']}/reject")
    await ada.rest.patch("/vpcs/third", json={"name": "renamed"})
    by_hand = await got(ada, f"/route-tables/{net.route_table}")
    [mine] = [each["id"] for each in by_hand["routes"] if each["target_type"] == "igw"]
    for path in (
        f"/route-tables/{net.route_table}/routes/{mine}", f"/nat-gateways/{net.nat_gateway}", "/security-groups/new",
        f"/security-groups/rules/{net.security_rule}", f"/vpc-peerings/{net.vpc_peering}", "/subnets/spare",
        f"/route-tables/{net.route_table}", f"/elastic-ips/{net.elastic_ip}", "/vpcs/renamed",
    ):  # fmt: skip
        assert (await ada.rest.delete(path)).status_code in (200, 204), path
    await done(ada, f"/internet-gateways/{net.internet_gateway}/detach")
    assert (await ada.rest.delete(f"/internet-gateways/{net.internet_gateway}")).status_code == 204
    await cloud.settle()
    audited = {each["action"] for each in await got(ada, "/audit?limit=200") if each["status"] == "success"}
    assert audited >= {
        "VPC_CREATE", "VPC_UPDATE", "VPC_DELETE", "SUBNET_CREATE", "SUBNET_DELETE", "ROUTE_TABLE_CREATE",
        "ROUTE_TABLE_DELETE", "ROUTE_CREATE", "ROUTE_DELETE", "ROUTE_TABLE_ASSOCIATE", "ROUTE_TABLE_DISASSOCIATE",
        "IGW_CREATE", "IGW_ATTACH", "IGW_DETACH", "IGW_DELETE", "NAT_GATEWAY_CREATE", "NAT_GATEWAY_DELETE",
        "EIP_ALLOCATE", "EIP_RELEASE", "EIP_ASSOCIATE", "EIP_DISASSOCIATE", "SECURITY_GROUP_CREATE",
        "SECURITY_GROUP_DELETE", "SECURITY_RULE_CREATE", "SECURITY_RULE_DELETE", "SECURITY_GROUP_ATTACH",
        "SECURITY_GROUP_DETACH", "VPC_PEERING_CREATE", "VPC_PEERING_ACCEPT", "VPC_PEERING_REJECT", "VPC_PEERING_DELETE",
    }  # fmt: skip
    async with cloud.app.db.reading() as tx:
        log = {tuple(each.values()) for each in await tx.connection.fetch("select kind, type from changes")}
    kinds = ("vpc", "subnet", "route_table", "route", "internet_gateway", "nat_gateway", "elastic_ip", "security_group",
             "security_rule", "vpc_peering")  # fmt: skip
    assert log >= {(kind, type) for kind in kinds for type in ("CREATED", "DELETED")}


@pytest.mark.parametrize("binding", POSTS, ids=lambda each: each.template.replace("/", "-"))
@settings(max_examples=15, derandomize=True, database=None)
@given(data=st.data())
async def test_garbage_is_refused_and_changes_nothing(
    cloud: Cloud, ada: Person, net: World, binding: Any, data: st.DataObject
) -> None:
    known = [*vars(net).values(), "10.0.7.0/24", "0.0.0.0/0", "igw", "local", "tcp", "ingress", "web", "main"]
    request = data.draw(requests(binding, known))
    verb, path = request.pop("verb"), request.pop("path")
    request["headers"] = {"x-api-key": ada.key}
    before = await counted(cloud)
    status, headers, body = await ask(cloud, verb, path, **request)
    check(status, headers, body)
    if status >= 400:
        assert await counted(cloud) == before
    await cloud.settle()
    async with cloud.app.db.reading() as tx:
        ids = [each["id"] for each in await tx.connection.fetch("select id from vpcs")]
    assert cloud.network.applied == await topology.wanted(cloud.app, *ids)
