"""VPCs for tests, with one of everything in them."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.conftest import Person


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def message(reply: httpx.Response) -> str:
    return reply.json()["error"]["message"]  # type: ignore[no-any-return]


async def made(person: Person, path: str, **body: Any) -> dict[str, Any]:
    """What a POST makes."""
    reply = await person.rest.post(path, json=body or None)
    assert reply.status_code == 201, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def got(person: Person, path: str) -> Any:
    """What a GET answers."""
    reply = await person.rest.get(path)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def done(person: Person, path: str, **body: Any) -> Any:
    """What a POST that makes nothing answers."""
    reply = await person.rest.post(path, json=body or None)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def pages(person: Person, path: str) -> list[str]:
    """The ids of a list that is read two at a time."""
    found: list[str] = []
    path = f"{path}{'&' if '?' in path else '?'}page_size=2"
    while path:
        reply = await person.rest.get(path)
        assert reply.status_code == 200, reply.text
        assert len(reply.json()) <= 2
        found += [each["id"] for each in reply.json()]
        path = reply.headers.get("link", "").removeprefix("<").partition(">")[0]
    return found


async def vpc(person: Person, name: str = "net", cidr_block: str = "10.0.0.0/16") -> dict[str, Any]:
    return await made(person, "/vpcs", name=name, cidr_block=cidr_block)


async def subnet(person: Person, vpc_id: str, cidr_block: str = "10.0.1.0/24", name: str = "web") -> dict[str, Any]:
    return await made(person, f"/vpcs/{vpc_id}/subnets", name=name, cidr_block=cidr_block)


async def main_table(person: Person, vpc_id: str) -> dict[str, Any]:
    [main] = [each for each in await got(person, f"/route-tables?vpc_id={vpc_id}") if each["is_main"]]
    return main  # type: ignore[no-any-return]


@dataclass(frozen=True)
class World:
    """The ids of one of everything: in `vpc`, but for `peer`, which it is peered with, and the elastic IP, which is
    free."""

    vpc: str
    peer: str
    subnet: str
    route_table: str
    route: str
    internet_gateway: str
    nat_gateway: str
    elastic_ip: str
    security_group: str
    security_rule: str
    vpc_peering: str
    instance: str


async def world(person: Person, name: str = "net") -> World:
    home, peer = await vpc(person, name), await vpc(person, f"{name}-peer", "10.1.0.0/16")
    room = await subnet(person, home["id"])
    gateway = await made(person, "/internet-gateways")
    await done(person, f"/internet-gateways/{gateway['id']}/attach", vpc_id=home["id"])
    taken, free = await made(person, "/elastic-ips"), await made(person, "/elastic-ips")
    nat = await made(person, "/nat-gateways", subnet_id=room["id"], eip_id=taken["id"])
    table = await made(person, "/route-tables", vpc_id=home["id"], name="custom")
    route = await made(person, f"/route-tables/{table['id']}/routes", destination_cidr="0.0.0.0/0",
                       target_type="nat", target_id=nat["id"])  # fmt: skip
    group = await made(person, "/security-groups", vpc_id=home["id"], name="open")
    rule = await made(person, f"/security-groups/{group['id']}/rules", direction="ingress", protocol="tcp",
                      port_min=80, port_max=80, cidr="0.0.0.0/0")  # fmt: skip
    peering = await made(person, "/vpc-peerings", requester_vpc_id=home["id"], accepter_vpc_id=peer["id"])
    await done(person, f"/vpc-peerings/{peering['id']}/accept")
    instance = await person.running(subnet_id=room["id"], security_groups=[group["id"]], labels={"some-key": "x"})
    return World(
        home["id"], peer["id"], room["id"], table["id"], route["id"], gateway["id"], nat["id"], free["id"],
        group["id"], rule["id"], peering["id"], instance["id"],
    )  # fmt: skip
