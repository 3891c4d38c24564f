"""Many who change networks at once; and that what is programmed is what the API says, whatever the order."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from uuid import UUID

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from drivers import network
from drivers.contracts import hostname
from server import hosts, topology
from server import ports as port_texts
from server.services import instance_lives, vpcs
from tests.conftest import Cloud, Person
from tests.networks import got, made, main_table, subnet, vpc, world

TARGETS = {"local": "local", "igw": "internet_gateway", "nat": "nat_gateway", "peering": "peering",
           "instance": "instance"}  # fmt: skip


async def limits(cloud: Cloud, person: Person) -> None:
    for name in ("instances", "vcpus", "elastic_ips", "internet_gateways", "nat_gateways"):
        statement = "insert into quotas (tenant_id, name, most) values ($1, $2, 1000)"
        await cloud.value(statement, person.tenant_id, name)


async def test_of_a_launch_and_the_deletion_of_its_vpc_at_once_one_wins(cloud: Cloud, ada: Person) -> None:
    for number in range(8):
        home = await vpc(ada, f"v{number}")
        room = await subnet(ada, home["id"], name=f"s{number}")
        where = {"vpc_id": home["id"]} if number % 2 else {"subnet_id": room["id"]}
        launched, deleted = await asyncio.gather(
            ada.rest.post("/instances", json={"name": f"i{number}", "image": "nginx"} | where),
            ada.rest.delete(f"/vpcs/{home['id']}"),
        )
        assert (launched.status_code, deleted.status_code) in ((202, 409), (404, 200), (400, 200)), launched.text
    await cloud.settle()
    assert set(cloud.network.applied) == {UUID(each["id"]) for each in await got(ada, "/vpcs")}


async def test_of_a_launch_and_the_deletion_of_its_subnet_at_once_one_wins(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    for number in range(8):
        room = await subnet(ada, home["id"], name=f"s{number}")
        launched, deleted = await asyncio.gather(
            ada.rest.post("/instances", json={"name": f"i{number}", "image": "nginx", "subnet_id": room["id"]}),
            ada.rest.delete(f"/subnets/{room['id']}"),
        )
        assert (launched.status_code, deleted.status_code) in ((202, 409), (404, 200)), launched.text
        await ada.rest.delete(f"/instances/i{number}")
        await cloud.settle()
        await ada.rest.delete(f"/subnets/{room['id']}")


async def test_a_launch_and_a_nat_gateway_at_once_get_addresses_of_their_own(cloud: Cloud, ada: Person) -> None:
    home = await vpc(ada)
    for number in range(8):
        room = await subnet(ada, home["id"], f"10.0.{number}.0/28", f"s{number}")
        address = await made(ada, "/elastic-ips")
        replies = await asyncio.gather(
            ada.rest.post("/instances", json={"name": "a", "image": "nginx", "subnet_id": room["id"]}),
            ada.rest.post("/nat-gateways", json={"subnet_id": room["id"], "eip_id": address["id"]}),
        )
        assert [reply.status_code for reply in replies] == [202, 201], [reply.text for reply in replies]
        assert {reply.json()["private_ip"] for reply in replies} == {f"10.0.{number}.2", f"10.0.{number}.3"}


async def test_a_storm_of_changes_ends_as_the_api_says(cloud: Cloud, ada: Person) -> None:
    """No deadlock reaches a client, and none keeps the work from being done."""
    net = await world(ada)
    await limits(cloud, ada)
    others = [await ada.running(subnet_id=net.subnet, name=f"i{n}") for n in range(4)]
    groups = [await made(ada, "/security-groups", vpc_id=net.vpc, name=f"g{n}") for n in range(3)]
    addresses = [await made(ada, "/elastic-ips") for _ in range(4)]
    table = await main_table(ada, net.vpc)

    async def one(number: int) -> list[int]:
        instance, group, address = others[number % 4], groups[number % 3], addresses[number % 4]
        both = {"instance_id": instance["id"], "group_id": group["id"]}
        replies = [
            await ada.rest.post("/security-groups/attach", json=both),
            await ada.rest.post(f"/elastic-ips/{address['id']}/associate", json={"instance_id": instance["id"]}),
            await ada.rest.post(f"/route-tables/{table['id']}/routes", json={
                "destination_cidr": f"192.0.{number}.0/24", "target_type": "igw", "target_id": net.internet_gateway}),
            await ada.rest.post(f"/instances/{instance['id']}/{('stop', 'pause', 'resume')[number % 3]}"),
            await ada.rest.post("/instances", json={"name": f"n{number}", "image": "nginx", "subnet_id": net.subnet}),
            await ada.rest.patch(f"/instances/{instance['id']}", json={"name": f"r{number}"}),
            await ada.rest.post(f"/route-tables/{net.route_table}/associate", json={"subnet_id": net.subnet}),
            await ada.rest.post(f"/elastic-ips/{address['id']}/disassociate"),
            await ada.rest.delete(f"/instances/n{number}"),
            await ada.rest.post(f"/security-groups/{group['id']}/rules", json={
                "direction": "ingress", "protocol": "tcp", "port_min": 1, "port_max": number + 1,
                "cidr": "0.0.0.0/0"}),
            await ada.rest.post("/security-groups/detach", json=both),
        ]  # fmt: skip
        return [reply.status_code for reply in replies]

    async def working() -> None:
        for _ in range(6):
            await asyncio.gather(cloud.settle(), vpcs.compare(cloud.app), instance_lives.compare(cloud.app))

    *statuses, _, _ = await asyncio.gather(*map(one, range(12)), working(), working())
    assert max(status for each in statuses for status in each) < 500
    for _ in range(20):
        await cloud.value("update work set due_at = now()")
        await cloud.settle()
    assert await cloud.value("select string_agg(last_error, ';') from work") is None
    assert cloud.network.applied == await topology.wanted(cloud.app, UUID(net.vpc), UUID(net.peer))
    assert in_order(cloud.network.applied[UUID(net.vpc)]) == in_order(await told(cloud, ada, net.vpc))


# What the API tells


def ends(peering: dict[str, Any]) -> tuple[str, str]:
    return peering["requester_vpc_id"], peering["accepter_vpc_id"]


async def told(cloud: Cloud, person: Person, vpc_id: str) -> network.Topology:
    """The topology that the API's own answers describe."""
    home = await got(person, f"/vpcs/{vpc_id}")
    tables = await got(person, f"/route-tables?vpc_id={vpc_id}")
    main = next(each["id"] for each in tables if each["is_main"])
    nats = await got(person, f"/nat-gateways?vpc_id={vpc_id}")
    public = {each["id"]: each for each in await got(person, "/elastic-ips")}
    types = {each["id"]: each["network_mbps"] for each in await got(person, "/instance-types")}
    here = [each for each in await got(person, "/instances") if each.get("vpc_id") == vpc_id]
    running = [each for each in here if each["status"] in ("RUNNING", "PAUSED")]
    gateways = [each["id"] for each in await got(person, "/internet-gateways") if each.get("vpc_id") == vpc_id]
    blocks = {each["id"]: each["cidr_block"] for each in await got(person, "/vpcs")}
    active = [each for each in await got(person, "/vpc-peerings")
              if each["status"] == "active" and vpc_id in ends(each)]  # fmt: skip
    peers = {each["id"]: next(id for id in ends(each) if id != vpc_id) for each in active}

    def ordered(each: Any) -> Any:
        return each.id

    return network.Topology(
        vpc_id=UUID(vpc_id), tenant_id=UUID(home["tenant_id"]), cidrs=(home["cidr_block"],),
        subnets=tuple(sorted((
            network.Subnet(id=UUID(each["id"]), cidr=each["cidr_block"], gateway_ip=each["gateway_ip"],
                           route_table_id=UUID(each.get("route_table_id", main)))
            for each in await got(person, f"/vpcs/{vpc_id}/subnets")
        ), key=ordered)),
        ports=tuple(sorted((
            network.Port(
                id=UUID(each["id"]), instance_id=UUID(each["id"]), subnet_id=UUID(each["subnet_id"]),
                address=each["private_ip"],
                mac="02:74:" + ":".join(f"{int(part):02x}" for part in each["private_ip"].split(".")),
                groups=tuple(map(UUID, each["security_groups"])), mbps=types[each["instance_type"]],
                netns=f"/nowhere/{each['id']}/{cloud.compute.machines[UUID(each['id'])].starts}",
                published=tuple(port_texts.parse(each.get("ports", ""))),
                hostnames=(hostname(each["name"]), f"{hostname(each['name'])}.internal"),
            )
            for each in running
        ), key=ordered)),
        groups=tuple(sorted((
            network.Group(id=UUID(group["id"]), rules=tuple(sorted((
                network.Rule(
                    id=UUID(each["id"]), direction=each["direction"], protocol=each["protocol"],
                    port_min=each.get("port_min", 1), port_max=each.get("port_max", 65535), cidr=each.get("cidr"),
                    group_id=UUID(each["referenced_group_id"]) if "referenced_group_id" in each else None,
                ) for each in group["rules"]), key=ordered)))
            for group in await got(person, f"/security-groups?vpc_id={vpc_id}")
        ), key=ordered)),
        route_tables=tuple(sorted((
            network.RouteTable(id=UUID(table["id"]), routes=tuple(
                network.Route(destination=each["destination_cidr"], target=TARGETS[each["target_type"]],  # type: ignore[arg-type]
                              target_id=UUID(each["target_id"]) if "target_id" in each else None)
                for each in table["routes"]
            )) for table in tables
        ), key=ordered)),
        internet_gateway=UUID(gateways[0]) if gateways else None,
        nat_gateways=tuple(sorted((
            network.NatGateway(id=UUID(each["id"]), subnet_id=UUID(each["subnet_id"]), private_ip=each["private_ip"],
                               public_ip=public[each["elastic_ip_id"]]["public_ip"])
            for each in nats
        ), key=ordered)),
        elastic_ips=tuple(sorted((
            network.ElasticIp(id=UUID(each["id"]), public_ip=each["public_ip"], port_id=UUID(each["instance_id"]))
            for each in public.values() if each.get("instance_id") in {one["id"] for one in running}
        ), key=ordered)),
        peerings=tuple(sorted((
            network.Peering(id=UUID(each["id"]), peer_vpc_id=UUID(peers[each["id"]]),
                            peer_cidrs=(blocks[peers[each["id"]]],))
            for each in active
        ), key=ordered)),
    )  # fmt: skip


def in_order(topology: network.Topology) -> network.Topology:
    """The same with the routes of each table in an order of ours: theirs says nothing."""
    tables = tuple(
        replace(table, routes=tuple(sorted(table.routes, key=lambda each: each.destination)))
        for table in topology.route_tables
    )
    return replace(topology, route_tables=tables)


class Tenant:
    """Changes that a tenant may make, each picked by a number; one that needs what is not there yet is passed by."""

    def __init__(self, person: Person) -> None:
        self.person, self.made = person, 0
        self.ids: dict[str, list[str]] = {}

    async def add(self, kind: str, path: str, **body: Any) -> None:
        self.made += 1
        reply = await self.person.rest.post(path, json=body)
        assert reply.status_code in (201, 202, 400, 404, 409), reply.text
        if reply.status_code < 300:
            self.ids.setdefault(kind, []).append(reply.json()["id"])

    async def act(self, verb: str, path: str, **body: Any) -> None:
        reply = await self.person.rest.request(verb, path, json=body or None)
        assert reply.status_code in (200, 204, 400, 404, 409), reply.text

    def pick(self, kind: str, number: int) -> str:
        known = self.ids.get(kind) or [str(UUID(int=number))]
        return known[number % len(known)]

    async def do(self, change: str, n: int) -> None:
        vpc_id, room, instance = self.pick("vpc", n), self.pick("subnet", n), self.pick("instance", n)
        table, group, gateway = self.pick("table", n), self.pick("group", n), self.pick("igw", n)
        address, nat, peering = self.pick("eip", n), self.pick("nat", n), self.pick("peering", n)
        name = f"n{self.made}"
        targets = {"igw": gateway, "nat": nat, "peering": peering, "instance": instance}
        target = list(targets)[n % 4]
        match change:
            case "subnet" if "vpc" in self.ids:
                await self.add("subnet", f"/vpcs/{vpc_id}/subnets", name=name,
                               cidr_block=f"10.{self.ids['vpc'].index(vpc_id)}.{n}.0/28")  # fmt: skip
            case "table" if "vpc" in self.ids:
                await self.add("table", "/route-tables", vpc_id=vpc_id, name=name, is_main=n % 3 == 0)
            case "group" if "vpc" in self.ids:
                await self.add("group", "/security-groups", vpc_id=vpc_id, name=name)
            case "rule" if "group" in self.ids:
                far = {"cidr": f"10.{n}.0.0/16"} if n % 2 else {"referenced_group_id": group}
                await self.add("rule", f"/security-groups/{group}/rules", direction=("ingress", "egress")[n % 2],
                               protocol=("tcp", "all")[n // 2 % 2], port_min=n + 1, port_max=n + 9, **far)  # fmt: skip
            case "launch" if "subnet" in self.ids:
                await self.add("instance", "/instances", name=name, image="nginx", subnet_id=room,
                               instance_type=("basic-1", "basic-2")[n % 2])  # fmt: skip
            case "nat" if "subnet" in self.ids and "eip" in self.ids:
                await self.add("nat", "/nat-gateways", subnet_id=room, eip_id=address)
            case "route" if "table" in self.ids and target in self.ids:
                await self.add("route", f"/route-tables/{table}/routes", destination_cidr=f"192.0.{n}.0/24",
                               target_type=target, target_id=targets[target])  # fmt: skip
            case "associate":
                await self.act("POST", f"/route-tables/{table}/associate", subnet_id=room)
            case "attach":
                await self.act("POST", "/security-groups/attach", instance_id=instance, group_id=group)
            case "detach":
                await self.act("POST", "/security-groups/detach", instance_id=instance, group_id=group)
            case "attach igw":
                await self.act("POST", f"/internet-gateways/{gateway}/attach", vpc_id=vpc_id)
            case "detach igw":
                await self.act("POST", f"/internet-gateways/{gateway}/detach")
            case "public":
                await self.act("POST", f"/elastic-ips/{address}/associate", instance_id=instance)
            case "private":
                await self.act("POST", f"/elastic-ips/{address}/disassociate")
            case "stop":
                await self.act("POST", f"/instances/{instance}/stop")
            case "start":
                await self.act("PUT", f"/instances/{instance}", status="RUNNING")
            case "delete":
                places = (f"/instances/{instance}", f"/nat-gateways/{nat}", f"/security-groups/{group}",
                          f"/subnets/{room}", f"/vpc-peerings/{peering}", f"/route-tables/{table}")  # fmt: skip
                await self.act("DELETE", places[n % len(places)])


CHANGES = ("subnet", "table", "group", "rule", "launch", "launch", "nat", "route", "associate", "attach", "detach",
           "attach igw", "detach igw", "public", "public", "private", "stop", "stop", "start", "delete",
           "settle")  # fmt: skip


@settings(phases=[Phase.generate], max_examples=30, derandomize=True, database=None)
@given(changes=st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 8)), min_size=5, max_size=30))
async def test_what_is_programmed_is_what_the_api_tells(cloud: Cloud, changes: list[tuple[str, int]]) -> None:
    """And no address is handed out twice, or outside of its subnet."""
    await hosts.beat(cloud.app)
    person = await cloud.person()
    tenant = Tenant(person)
    for number in range(2):
        await tenant.add("vpc", "/vpcs", name=f"v{number}", cidr_block=f"10.{number}.0.0/16")
        await tenant.add("subnet", f"/vpcs/v{number}/subnets", name=f"s{number}", cidr_block=f"10.{number}.200.0/28")
        await tenant.add("igw", "/internet-gateways")
        await tenant.add("eip", "/elastic-ips")
    for kind in ("launch", "launch", "group", "group", "table"):
        await tenant.do(kind, len(tenant.ids.get("instance", [])) + len(tenant.ids.get("group", [])))
    first, second = tenant.ids["vpc"]
    await tenant.add("peering", "/vpc-peerings", requester_vpc_id=first, accepter_vpc_id=second)
    await tenant.act("POST", f"/vpc-peerings/{tenant.ids['peering'][0]}/accept")
    for change, number in changes:
        if change == "settle":
            await cloud.settle()
        await tenant.do(change, number)
    await cloud.settle()
    for id in tenant.ids["vpc"]:
        programmed = cloud.network.applied[UUID(id)]
        assert programmed == (await topology.wanted(cloud.app, UUID(id)))[UUID(id)]
        assert in_order(programmed) == in_order(await told(cloud, person, id))
    taken = [(each["subnet_id"], each["private_ip"]) for each in await got(person, "/instances")]
    nats = [each for id in tenant.ids["vpc"] for each in await got(person, f"/nat-gateways?vpc_id={id}")]
    taken += [(each["subnet_id"], each["private_ip"]) for each in nats]
    assert len(set(taken)) == len(taken)
    for subnet_id, address in taken:
        room = await got(person, f"/subnets/{subnet_id}")
        assert IPv4Address(address) in list(IPv4Network(room["cidr_block"]).hosts())[1:]
