"""What instances are told about themselves, without the packets: tests/system/test_metadata.py has those."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import pytest
from thecloud.v1 import instances_pb2 as pb

from server.services.metadata import RATE, TOKEN, TTL, Metadata
from tests.conftest import Cloud, Person
from tests.networks import done, made, subnet, vpc
from tests.services.test_ssh_keys import ED25519

Ask = Callable[..., Awaitable[httpx.Response]]


class Guest:
    """An instance, and its requests."""

    def __init__(self, metadata: Metadata, instance: dict[str, Any]) -> None:
        self.instance = instance
        app = partial(metadata.answer, UUID(instance["vpc_id"]))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=(instance["private_ip"], 50000)),
            base_url="http://169.254.169.254",
        )

    async def token(self, seconds: object = 60, **headers: str) -> httpx.Response:
        return await self.http.put("/latest/api/token", headers={TTL: str(seconds)} | headers)

    async def read(self, path: str, token: str | None = None) -> httpx.Response:
        token = (await self.token()).text if token is None else token
        return await self.http.get(path, headers={TOKEN: token})

    async def text(self, path: str) -> str:
        reply = await self.read(path)
        assert reply.status_code == 200, reply.text
        return reply.text


@pytest.fixture
def metadata(cloud: Cloud) -> Metadata:
    return Metadata(cloud.app)


@pytest.fixture
async def guest(metadata: Metadata, ada: Person) -> Guest:
    await made(ada, "/ssh-keys", name="laptop", public_key=f"{ED25519} ada@example")
    net = await vpc(ada)
    await subnet(ada, net["id"])
    return Guest(metadata, await ada.running(
        vpc_id=net["id"], ssh_key_id="laptop", user_data="#!/bin/sh\nécho\n",
        labels={"role": "web", "a/b": "c", "empty": ""},
    ))  # fmt: skip


async def test_an_instance_reads_what_it_is(guest: Guest, ada: Person) -> None:
    instance = guest.instance
    expected = {
        "/": "latest/",
        "/latest/": "dynamic/\nmeta-data/\nuser-data",
        "/latest/meta-data/": "ami-id\nhostname\ninstance-id\ninstance-type\nlocal-hostname\nlocal-ipv4\nmac\n"
                              "public-keys/\ntags/",
        "/latest/meta-data": await guest.text("/latest/meta-data/"),
        "/latest/meta-data/ami-id": "nginx",
        "/latest/meta-data/hostname": "web-01.internal",
        "/latest/meta-data/local-hostname": "web-01.internal",
        "/latest/meta-data/instance-id": instance["id"],
        "/latest/meta-data/instance-type": "basic-2",
        "/latest/meta-data/local-ipv4": instance["private_ip"],
        "/latest/meta-data/public-keys/": "0=laptop",
        "/latest/meta-data/public-keys/0": "openssh-key",
        "/latest/meta-data/public-keys/0/openssh-key": f"{ED25519} laptop",
        "/latest/meta-data/tags/": "instance/",
        "/latest/meta-data/tags/instance/": "a/b\nempty\nrole",
        "/latest/meta-data/tags/instance/role": "web",
        "/latest/meta-data/tags/instance/a/b": "c",
        "/latest/meta-data/tags/instance/a%2Fb": "c",
        "/latest/meta-data/tags/instance/empty": "",
        "/latest/user-data": "#!/bin/sh\nécho\n",
        "/latest/dynamic/": "instance-identity/",
        "/latest/dynamic/instance-identity/": "document",
    }  # fmt: skip
    assert {path: await guest.text(path) for path in expected} == expected
    assert (await guest.text("/latest/meta-data/mac")).count(":") == 5
    assert (await guest.read("/latest/dynamic/instance-identity/document")).json() == {
        "accountId": str(ada.tenant_id), "imageId": "nginx", "instanceId": instance["id"],
        "instanceType": "basic-2", "pendingTime": f"{instance['created_at'][:19]}Z",
        "privateIp": instance["private_ip"],
    }  # fmt: skip
    for path in ("/latest/meta-data/public-ipv4", "/latest/meta-data/ami-id/x", "/latest/nothing", "/nothing",
                 "/latest/meta-data/public-keys/1", "/latest/meta-data/tags/instance/a"):  # fmt: skip
        assert (await guest.read(path)).status_code == 404, path


async def test_an_elastic_ip_is_seen(guest: Guest, ada: Person) -> None:
    igw = await made(ada, "/internet-gateways")
    await done(ada, f"/internet-gateways/{igw['id']}/attach", vpc_id=guest.instance["vpc_id"])
    elastic = await made(ada, "/elastic-ips")
    await done(ada, f"/elastic-ips/{elastic['id']}/associate", instance_id=guest.instance["id"])
    assert await guest.text("/latest/meta-data/public-ipv4") == elastic["public_ip"]


async def test_what_there_is_not_is_not_found(metadata: Metadata, guest: Guest, ada: Person) -> None:
    bare = Guest(metadata, await ada.running(name="été", vpc_id=guest.instance["vpc_id"]))
    names = (await bare.text("/latest/meta-data/")).split()
    assert names == ["ami-id", "instance-id", "instance-type", "local-ipv4", "mac"]
    for path in ("/latest/user-data", "/latest/meta-data/public-keys/", "/latest/meta-data/tags/"):
        assert (await bare.read(path)).status_code == 404


@pytest.mark.parametrize("seconds", ["", "0", "21601", "-1", "1.5", "x", "٣", "1" * 5000])
async def test_a_token_is_for_1_to_21600_seconds(guest: Guest, seconds: str) -> None:
    reply = await guest.http.put("/latest/api/token", headers=[(TTL.encode(), seconds.encode())])
    assert reply.status_code == 400
    assert (await guest.http.put("/latest/api/token")).status_code == 400
    for good in (1, 21600):
        assert (await guest.token(good)).headers[TTL] == str(good)


async def test_without_a_token_of_its_own_that_lasts_nothing_is_told(
    cloud: Cloud, metadata: Metadata, guest: Guest, ada: Person, bob: Person
) -> None:
    neighbour = Guest(metadata, await ada.running(name="b", vpc_id=guest.instance["vpc_id"]))
    net = await vpc(bob)
    await subnet(bob, net["id"])
    stranger = Guest(metadata, await bob.running(vpc_id=net["id"]))
    assert stranger.instance["private_ip"] == guest.instance["private_ip"]
    mine, key = (await guest.token()).text, cloud.app.cloud
    console = key.sign({"instance": guest.instance["id"], "tenant": "", "key": ""}, 60)
    hostile = (
        "", "x", "a.b", "ü.ü", mine[:-2], f"{mine}.x", (await neighbour.token()).text, (await stranger.token()).text,
        console, key.sign({"metadata": guest.instance["id"]}, -1),
    )  # fmt: skip
    for token in hostile:
        for path in ("/latest/meta-data/", "/latest/user-data", "/latest/nothing"):
            reply = await guest.http.get(path, headers=[(TOKEN.encode(), token.encode())])
            assert reply.status_code == 401, (path, token)
            assert guest.instance["id"] not in reply.text
    assert (await guest.http.get("/latest/user-data")).status_code == 401
    assert (await guest.read("/latest/user-data", mine)).status_code == 200


async def test_a_token_of_an_instance_opens_no_console(cloud: Cloud, guest: Guest) -> None:
    token = (await guest.token()).text
    path = "/thecloud.v1.InstanceService/AttachInstanceConsole"
    first = pb.AttachInstanceConsoleRequest(id=guest.instance["id"], token=token).SerializeToString()
    stream = cloud.channel.stream_stream(path)(iter([first]))
    assert (await stream.code()).name == "UNAUTHENTICATED"


async def test_what_was_passed_on_gets_no_token(guest: Guest) -> None:
    assert (await guest.token(**{"x-forwarded-for": "10.0.0.1"})).status_code == 403
    assert (await guest.token(**{"X-Forwarded-For": ""})).status_code == 403


async def test_other_methods_are_refused(guest: Guest) -> None:
    for verb, path in (("GET", "/latest/api/token"), ("POST", "/latest/api/token"), ("PUT", "/latest/user-data"),
                       ("POST", "/latest/meta-data/"), ("DELETE", "/"), ("OPTIONS", "/latest/")):  # fmt: skip
        reply = await guest.http.request(verb, path, headers={TTL: "60", TOKEN: (await guest.token()).text})
        assert reply.status_code == 405, (verb, path)
        assert reply.headers["allow"]


async def test_nobody_is_told_anything(metadata: Metadata, guest: Guest) -> None:
    for stranger in (guest.instance | {"private_ip": "10.0.1.99"},
                     guest.instance | {"vpc_id": guest.instance["id"]}):  # fmt: skip
        other = Guest(metadata, stranger)
        assert (await other.token()).status_code == 404
        assert (await other.read("/latest/user-data", (await guest.token()).text)).status_code == 404


async def test_one_that_asks_too_often_waits_and_others_do_not(metadata: Metadata, guest: Guest, ada: Person) -> None:
    neighbour = Guest(metadata, await ada.running(name="b", vpc_id=guest.instance["vpc_id"]))
    replies = await asyncio.gather(*(guest.token() for _ in range(4 * RATE)))
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= RATE
    assert (await neighbour.token()).status_code == 200
