"""Several processes on one database: behind one port, and as workers of several hosts."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiodocker import Docker

from server import postgres
from tests.conftest import until
from tests.system.conftest import folder_of_a_cloud
from tests.system.process import PASSWORD, Person, Process, Thecloud, command

CONNECTIONS = 24  # chances are one in eight million that one of two processes gets none of them
A_MINUTE = 5


@pytest.fixture(scope="module")
async def two(docker: Docker) -> AsyncIterator[Thecloud]:
    """A cloud of two processes."""
    async with folder_of_a_cloud(docker) as cloud:
        yield await cloud.up("--workers", "2")


@pytest.fixture
async def clients(two: Thecloud) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Each with a connection of its own."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(two.client()) for _ in range(CONNECTIONS)]


def servers_of(connections: list[httpx.AsyncClient], processes: list[int]) -> set[int]:
    """Which of these processes have the other ends of the connections of these clients."""
    ports = set()
    for client in connections:
        (connection,) = client._transport._pool.connections  # type: ignore[attr-defined]
        stream = connection._connection._network_stream
        ports.add(stream.get_extra_info("client_addr")[1])
    inodes = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, *_, inode = line.split()[:10]
        inodes[f"socket:[{inode}]"] = int(remote.partition(":")[2], 16)
    found = set()
    for pid in processes:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if inodes.get(str(descriptor.readlink())) in ports:
                    found.add(pid)
            except FileNotFoundError:
                continue
    return found


def server_processes(cloud: Thecloud) -> list[int]:
    """The processes that serve, not the one that keeps them."""
    assert cloud.process
    found = []
    for pid in cloud.process.children():
        with suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended serves no more
            if b"server\0process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


async def test_both_processes_answer_on_one_port(two: Thecloud, clients: list[httpx.AsyncClient]) -> None:
    replies = await asyncio.gather(*(client.get("/health") for client in clients))
    assert {reply.status_code for reply in replies} == {200}
    processes = server_processes(two)
    assert len(processes) == 2
    assert servers_of(clients, processes) == set(processes)


async def test_an_instance_runs_whichever_process_has_the_work(two: Thecloud) -> None:
    person = await two.person()
    made = await asyncio.gather(*(person.running(instance_type="basic-1") for _ in range(4)))
    assert set(await two.containers()) >= {each["id"] for each in made}
    await asyncio.gather(*(person.rest.delete(f"/instances/{each['id']}") for each in made))
    await asyncio.gather(*(person.gone(each["id"]) for each in made))


async def test_a_revoked_key_is_refused_by_every_process_within_a_second(
    two: Thecloud, clients: list[httpx.AsyncClient]
) -> None:
    person = await two.person()
    made = (await person.rest.post("/auth/keys", json={"name": "leaked"})).json()
    for client in clients:
        client.headers["x-api-key"] = made["key"]
    for _ in range(3):
        replies = await asyncio.gather(*(client.get("/auth/me") for client in clients))
        assert {reply.status_code for reply in replies} == {200}
    assert (await person.rest.delete(f"/auth/keys/{made['id']}")).is_success
    revoked = time.monotonic()

    async def refused() -> bool:
        replies = await asyncio.gather(*(client.get("/auth/me") for client in clients))
        return {reply.status_code for reply in replies} == {401}

    await until(refused)
    print(f"refused everywhere after {time.monotonic() - revoked:.3f} s")
    assert time.monotonic() - revoked < 1


async def test_metrics_are_those_of_all_processes(two: Thecloud, clients: list[httpx.AsyncClient]) -> None:
    def health_calls(text: str) -> int:
        name = 'thecloud_calls_seconds_count{method="/thecloud.v1.HealthService/'
        return sum(int(float(line.rpartition(" ")[2])) for line in text.splitlines() if line.startswith(name))

    before = health_calls((await clients[0].get("/metrics")).text)
    await asyncio.gather(*(client.get("/health") for client in clients))
    after = [health_calls((await client.get("/metrics")).text) for client in clients]
    assert set(after) == {before + len(clients)}


async def test_a_process_that_is_killed_is_started_again_and_the_service_keeps_answering(two: Thecloud) -> None:
    person = await two.person()
    killed, other = server_processes(two)
    os.kill(killed, signal.SIGKILL)
    failures = 0

    async def both_again() -> bool:
        nonlocal failures
        async with two.client(headers={"x-api-key": person.key}) as client:
            try:
                assert (await client.get("/auth/me")).status_code == 200
            except httpx.TransportError:
                failures += 1  # the connection that the killed process had not taken yet
        return len(server_processes(two)) == 2 and killed not in server_processes(two)

    await until(both_again, 30)
    assert failures <= 1
    assert other in server_processes(two)

    async def both_answer() -> bool:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(two.client()) for _ in range(CONNECTIONS)]
            await asyncio.gather(*(client.get("/health") for client in clients))
            return servers_of(clients, server_processes(two)) == set(server_processes(two))

    await until(both_answer, 30)


async def test_ctrl_c_ends_all_processes(cloud: Thecloud) -> None:
    await cloud.up("--workers", "2")
    assert cloud.process
    children = cloud.process.children()
    assert await cloud.process.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert cloud.database_processes() == []
    assert "Traceback" not in cloud.log.read_text()


async def test_a_killed_keeper_takes_all_processes_along(cloud: Thecloud) -> None:
    await cloud.up("--workers", "2")
    person = await cloud.person()
    assert cloud.process
    children = cloud.process.children()
    await cloud.process.kill()

    async def gone() -> bool:
        return not any(alive(pid) for pid in children)

    await until(gone, 30)
    await cloud.up("--workers", "2")
    assert (await person.rest.get("/auth/me")).status_code == 200


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_the_limit_of_the_auth_routes_counts_over_all_processes(docker: Docker) -> None:
    async with folder_of_a_cloud(docker, THECLOUD_AUTH_RATE_LIMIT=str(A_MINUTE)) as cloud, AsyncExitStack() as stack:
        began = time.monotonic()
        await cloud.up("--workers", "2")
        person = await cloud.person()  # two calls of the five
        clients = [await stack.enter_async_context(cloud.client()) for _ in range(CONNECTIONS)]
        await asyncio.gather(*(client.get("/health") for client in clients))
        body = {"email": person.email, "password": PASSWORD}
        replies = await asyncio.gather(*(client.post("/auth/login", json=body) for client in clients))
        refilled = (time.monotonic() - began) / 60 * A_MINUTE
        accepted = [reply.status_code for reply in replies].count(200)
        assert A_MINUTE - 2 <= accepted <= A_MINUTE - 2 + refilled
        refused = [reply for reply in replies if reply.status_code != 200]
        assert {reply.status_code for reply in refused} == {429}
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)


# Hosts


class Apart:
    """An API and the workers of two hosts, each a process of its own on one database."""

    def __init__(self, cloud: Thecloud, url: str) -> None:
        self.cloud, self._url = cloud, url
        self.processes: dict[str, Process] = {}

    async def serve(self) -> None:
        addresses = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
        process = await self.cloud.start("serve", "--database-url", self._url, "--host", "front", *addresses)
        self.processes["front"] = process
        await process.until_printed("ready")
        self.cloud.http = process.printed[0].split()[1]

    async def work(self, host: str) -> None:
        process = await self.cloud.start("work", "--database-url", self._url, "--host", host)
        self.processes[host] = process
        await process.until_printed(f"works for host {host}")

    async def wait_for(self, statement: str, *arguments: Any, is_so: Callable[[Any], bool] = bool) -> None:
        async def so() -> bool:
            return is_so(await self.cloud.value(statement, *arguments, url=self._url))

        await until(so, 30)

    async def forget(self, host: str) -> None:
        """As if the host had been silent for long."""
        changed = "update hosts set heartbeat_at = now() - interval '1 hour' where name = $1"
        await self.cloud.value(changed, host, url=self._url)


@pytest.fixture
async def apart(cloud: Thecloud, tmp_path: Path) -> AsyncIterator[Apart]:
    cloud.environment["THECLOUD_DATA"] = str(cloud.data)
    async with postgres.embedded(tmp_path, durable=False) as url:
        assert (await command("migrate", "--database-url", url)).code == 0
        cloud.id = str(await cloud.value("select id from cloud", url=url))
        apart = Apart(cloud, url)
        try:
            yield apart
        finally:
            for process in apart.processes.values():
                await process.kill()


async def test_a_worker_does_what_is_asked_of_its_own_host_only(apart: Apart) -> None:
    await apart.serve()
    person = await apart.cloud.person()
    refused = await person.rest.post("/instances", json={"name": "nowhere", "image": "busybox"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "UNAVAILABLE")

    await apart.work("b")
    on_b = await launched(apart, person)
    assert on_b["host"] == "b"
    await apart.work("a")
    on_a = await launched(apart, person)
    assert on_a["host"] == "a"  # which has more room

    await apart.processes["a"].kill()
    for each in (on_a, on_b):
        assert (await person.rest.post(f"/instances/{each['id']}/pause")).status_code == 200
    await person.becomes(on_b["id"], "PAUSED")
    waiting = "select count(*) from work where kind = 'instance' and host = 'a' and attempts = 0"
    assert await apart.cloud.value(waiting, url=apart._url) == 1
    assert (await apart.cloud.container(on_a["id"]))["State"]["Status"] == "running"
    await apart.work("a")
    await person.becomes(on_a["id"], "PAUSED")


async def launched(apart: Apart, person: Person) -> dict[str, Any]:
    """A new instance that runs, on whichever host."""
    return await person.running(name=f"web-{uuid4().hex[:6]}", instance_type="basic-1")


async def test_a_host_that_is_silent_gets_nothing_new(apart: Apart) -> None:
    await apart.serve()
    person = await apart.cloud.person()
    await apart.work("a")
    await apart.work("b")
    await apart.processes["a"].kill()
    await apart.forget("a")
    made = [await launched(apart, person) for _ in range(2)]
    assert {each["host"] for each in made} == {"b"}


async def test_what_is_on_another_host_is_told_with_its_name(apart: Apart) -> None:
    await apart.serve()
    person = await apart.cloud.person()
    await apart.work("b")
    made = await launched(apart, person)
    reply = await person.rest.get(f"/instances/{made['id']}/stats")
    assert reply.status_code == 503
    assert "is on host b" in reply.json()["error"]["message"]


async def test_two_workers_of_one_host_share_its_work(apart: Apart) -> None:
    await apart.serve()
    person = await apart.cloud.person()
    await apart.work("a")
    first = apart.processes.pop("a")
    await apart.work("a")
    try:
        made = await asyncio.gather(*(launched(apart, person) for _ in range(3)))
        await first.kill()
        made.append(await launched(apart, person))
    finally:
        await first.kill()
    assert {id: len(boxes) for id, boxes in (await apart.cloud.containers()).items()} == {
        each["id"]: 1 for each in made
    }
