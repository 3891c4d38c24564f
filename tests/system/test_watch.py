"""Watches of two server processes, one of which is killed again and again: every change once, in order."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import grpc
import httpx
import pytest
from aiodocker import Docker
from thecloud.v1 import watch_pb2 as pb
from thecloud.v1.watch_pb2_grpc import WatchServiceStub

from tests.conftest import until
from tests.system.conftest import folder_of_a_cloud
from tests.system.process import Person, Thecloud
from tests.system.test_workers import server_processes

WRITERS, MOST, KILLS, BETWEEN = 8, 2000, 3, 100
POLICY = {"statements": [{"effect": "Allow", "action": ["instance:read"], "resource": ["*"]}]}
Seen = list[tuple[int, str, str]]  # number, id and type of each change


class Reader:
    """Watches, leaves at random, and comes back with its last token."""

    def __init__(self, cloud: Thecloud, person: Person, dice: random.Random) -> None:
        self.cloud, self.person, self.dice = cloud, person, dice
        self.token, self.seen = "", Seen()
        self.streams = 0

    async def begin(self) -> None:
        async with aclosing(self.events()) as events:
            self.token, change = await anext(events)
            assert change is None, "a watch begins with a bookmark"

    async def read(self, last: asyncio.Future[int]) -> None:
        """Until the change with the last number."""
        while not (last.done() and self.seen and self.seen[-1][0] >= last.result()):
            leaves_after = self.dice.randint(1, 60)
            self.streams += 1
            try:
                async with aclosing(self.events()) as events:
                    async for token, change in events:
                        self.token = token
                        if change:
                            self.seen.append(change)
                        leaves_after -= 1
                        if not leaves_after or (last.done() and self.seen and self.seen[-1][0] >= last.result()):
                            break
            except (grpc.aio.AioRpcError, httpx.TransportError):
                await asyncio.sleep(0.05)

    def events(self) -> AsyncIterator[tuple[str, tuple[int, str, str] | None]]:
        raise NotImplementedError


class GrpcReader(Reader):
    async def events(self) -> AsyncIterator[tuple[str, tuple[int, str, str] | None]]:
        async with grpc.aio.insecure_channel(
            self.cloud.grpc, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call = WatchServiceStub(channel).Watch(
                pb.WatchRequest(resume_token=self.token), metadata=self.person.metadata, timeout=60
            )
            async for event in call:
                change = event.change
                seen = (change.sequence, change.id, pb.Change.Type.Name(change.type).removeprefix("TYPE_"))
                yield event.resume_token, seen if event.HasField("change") else None


class SseReader(Reader):
    async def events(self) -> AsyncIterator[tuple[str, tuple[int, str, str] | None]]:
        headers = {"x-api-key": self.person.key} | ({"last-event-id": self.token} if self.token else {})
        async with (
            httpx.AsyncClient(base_url=self.cloud.http, timeout=60, trust_env=False) as client,
            client.stream("GET", "/watch", headers=headers) as response,
        ):
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            event: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                elif "data" in event:
                    data = json.loads(event["data"])
                    assert event["event"] in ("change", "bookmark"), event
                    seen = (data["sequence"], data["id"], data["type"]) if event["event"] == "change" else None
                    yield event["id"], seen
                    event = {}


async def write(person: Person, number: int, enough: asyncio.Event) -> None:
    """Make policies, rename and delete some. What becomes of a call whose process is killed is not known."""
    for turn in range(MOST):
        if enough.is_set():
            return
        name = f"{number}/{turn}"
        try:
            made = await person.rest.post("/iam/policies", json=POLICY | {"name": name})
            if turn % 2:
                await person.rest.put(f"/iam/policies/{made.json()['id']}", json={"name": f"{name} renamed"})
            if turn % 3:
                await person.rest.delete(f"/iam/policies/{made.json()['id']}")
        except (httpx.TransportError, KeyError):
            await asyncio.sleep(0.05)


async def grown(cloud: Thecloud, tenant: str, sequence: int) -> bool:
    """Whether the tenant's log goes beyond this number."""
    return bool(await cloud.value("select sequence from change_heads where tenant_id = $1", tenant) > sequence)


async def all_serve(cloud: Thecloud) -> bool:
    """Whether both processes are there."""
    return len(server_processes(cloud)) == 2


@pytest.mark.timeout(240)
async def test_every_reader_sees_every_change_once_and_in_order_whoever_is_killed(docker: Docker) -> None:
    async with folder_of_a_cloud(docker) as cloud:
        await cloud.up("--workers", "2")
        person = await cloud.person()
        tenant = (await person.rest.get("/auth/me")).json()["default_tenant_id"]
        await cloud.value("insert into quotas values ($1, 'policies', 10000)", tenant)
        readers = [kind(cloud, person, random.Random(number)) for number, kind in
                   enumerate((GrpcReader, GrpcReader, SseReader, SseReader))]  # fmt: skip
        for reader in readers:
            await reader.begin()
        before: int = await cloud.value("select sequence from change_heads where tenant_id = $1", tenant)
        enough = asyncio.Event()
        last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(reader.read(last)) for reader in readers]
            writing = [group.create_task(write(person, number, enough)) for number in range(WRITERS)]
            for kill in range(KILLS + 1):
                await until(partial(grown, cloud, tenant, before + (kill + 1) * BETWEEN), 60)
                await until(partial(all_serve, cloud), 60)
                if kill < KILLS:
                    os.kill(server_processes(cloud)[kill % 2], signal.SIGKILL)
            enough.set()
            await asyncio.wait(writing)
            last.set_result(await cloud.value("select sequence from change_heads where tenant_id = $1", tenant))
            async with asyncio.timeout(60):
                await asyncio.wait(reading)
        expected = json.loads(await cloud.value(
            "select json_agg(json_build_array(sequence, id, type) order by sequence) from changes "
            "where tenant_id = $1 and sequence > $2", tenant, before,
        ))  # fmt: skip
        assert [each[0] for each in expected] == list(range(before + 1, last.result() + 1))
        assert len(expected) > KILLS * BETWEEN
        for reader in readers:
            assert [list(each) for each in reader.seen] == expected
            assert reader.streams > 3
        print(f"{len(expected)} changes, {[reader.streams for reader in readers]} streams, {KILLS} kills")
