"""How streams end that do not end by themselves: nobody reads, the server stops, the key is no longer good."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody
from thecloud.v1 import identity_pb2

from rest_shim.streams import One
from server.errors import ApiError
from server.streams import STOPPING
from tests.conftest import Cloud, Person, until
from tests.streaming_service import SERVICE, WATCH, Server, WatchRequest, change, event, forever, running, script
from tests.test_every_method import call

PIECE = 64 * 1024
MOST = 24 * 2**20  # bytes of an unread stream that the buffers of both ends may hold
GET_ME = "/thecloud.v1.IdentityService/GetMe"


@pytest.fixture
async def server(cloud: Cloud) -> AsyncIterator[Server]:
    async with running(cloud) as running_server:
        yield running_server


def endless(sent: list[int], make: Callable[[bytes], Any]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """Yields as fast as it may, and counts the bytes."""

    async def responses(call: Any, request: Any) -> AsyncIterator[Any]:
        while True:
            sent.append(PIECE)
            yield make(b"x" * PIECE)

    return responses


def named(data: bytes) -> Any:
    return change(1, name=data.decode())


@asynccontextmanager
async def events(server: Server, person: Person, path: str = "/follow") -> AsyncIterator[AsyncIterator[str]]:
    """The lines of an event stream."""
    async with (
        httpx.AsyncClient(base_url=f"http://{server.http}", headers={"x-api-key": person.key}) as client,
        client.stream("GET", path) as reply,
    ):
        assert reply.status_code == 200
        yield reply.aiter_lines()


async def ended_with(lines: AsyncIterator[str]) -> dict[str, Any]:
    """The error of the event with which the stream ends."""
    last = await event(lines)
    assert last["event"] == "error"
    assert [line async for line in lines] == []
    return json.loads(last["data"])["error"]  # type: ignore[no-any-return]


async def asked(server: Server, person: Person, path: str) -> socket.socket:
    """A connection that has asked for this and reads nothing, with next to no room for what comes."""
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    host, _, port = server.http.partition(":")
    await loop.sock_connect(connection, (host, int(port)))
    head = f"GET {path} HTTP/1.1\r\nHost: cloud\r\nX-API-Key: {person.key}\r\n\r\n"
    await loop.sock_sendall(connection, head.encode())
    return connection


@pytest.mark.parametrize(("path", "make"), [("/follow", named), ("/download/a", lambda data: HttpBody(data=data))])
async def test_who_does_not_read_loses_the_stream_over_http(cloud: Cloud, ada: Person, path: str, make: Any) -> None:
    """And its connection, which would keep the server from stopping."""
    sent: list[int] = []
    async with AsyncExitStack() as clients:
        async with running(cloud, slow_reader_seconds=2) as server:
            server.service.script = endless(sent, make)
            connection = clients.enter_context(await asked(server, ada, path))

            async def begun() -> bool:
                return bool(sent)

            await until(begun)
            async with httpx.AsyncClient(base_url=f"http://{server.http}", headers={"x-api-key": ada.key}) as client:
                assert (await client.get("/auth/me")).status_code == 200
            assert server.service.open == 1
            await server.closed()
            assert sum(sent) < MOST
            began = time.monotonic()
        assert time.monotonic() - began < 3
        received = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(5):
                while piece := await asyncio.get_running_loop().sock_recv(connection, PIECE):
                    received = received[-PIECE:] + piece
    assert received
    assert not received.endswith(b"0\r\n\r\n")


async def test_who_does_not_read_loses_the_stream_over_grpc(cloud: Cloud, ada: Person) -> None:
    sent: list[int] = []
    async with running(cloud, slow_reader_seconds=2) as server:
        server.service.script = endless(sent, named)
        stream = server.watch(ada)
        await stream.read()
        get_me = server.channel.unary_unary(GET_ME, response_deserializer=identity_pb2.User.FromString)
        assert (await get_me(b"", metadata=ada.metadata)).email == ada.email
        assert server.service.open == 1
        await server.closed()
        assert sum(sent) < MOST
        error = await until_it_fails(stream)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "connect again, with the last resume_token" in error.details()


async def until_it_fails(stream: Any) -> Any:
    """Read on; the error with which the stream ends."""
    try:
        async with asyncio.timeout(10):
            while await stream.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("it ended well")


async def test_a_connection_that_does_not_read_loses_its_grpc_streams(cloud: Cloud, ada: Person) -> None:
    """As when the network is too slow, or a proxy is stuck: nothing leaves the server's socket."""
    sent: list[int] = []
    stuck = asyncio.Event()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: asyncio.Event | None) -> None:
        with suppress(ConnectionError):
            while (until is None or not until.is_set()) and (data := await reader.read(4096)):
                writer.write(data)
                await writer.drain()

    async with running(cloud, slow_reader_seconds=2) as server, asyncio.TaskGroup() as group:

        async def proxied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            host, _, port = server.grpc.partition(":")
            onward, back = await asyncio.open_connection(host, int(port), limit=4096)
            carried.append(group.create_task(carry(reader, back, None)))
            carried.append(group.create_task(carry(onward, writer, stuck)))
            writers.extend((writer, back))

        carried: list[asyncio.Task[None]] = []
        writers: list[asyncio.StreamWriter] = []
        server.service.script = endless(sent, named)
        async with await asyncio.start_server(proxied, "127.0.0.1", 0) as proxy:
            host, port = proxy.sockets[0].getsockname()
            async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
                stream = server.watch(ada, channel)
                await stream.read()
                stuck.set()
                await server.closed()
                assert sum(sent) < MOST
                get_me = server.channel.unary_unary(GET_ME)
                assert await get_me(b"", metadata=ada.metadata)
                for writer in writers:
                    writer.close()
                stream.cancel()
        for task in carried:
            task.cancel()


async def test_a_server_that_stops_ends_its_streams(cloud: Cloud, ada: Person) -> None:
    async with AsyncExitStack() as clients, asyncio.TaskGroup() as group:
        async with running(cloud) as server:
            server.service.script = script(change(1), forever())
            lines = await clients.enter_async_context(events(server, ada))
            await event(lines)
            channel = await clients.enter_async_context(grpc.aio.insecure_channel(server.grpc))
            stream = server.watch(ada, channel)
            await stream.read()
            assert server.service.open == 2
            over_http, over_grpc = group.create_task(ended_with(lines)), group.create_task(until_it_fails(stream))
            began = time.monotonic()
        assert time.monotonic() - began < 3
        assert server.service.open == 0
        error, failed = await over_http, await over_grpc
    assert (error["reason"], error["message"]) == ("UNAVAILABLE", STOPPING)
    assert (failed.code(), failed.details()) == (grpc.StatusCode.UNAVAILABLE, STOPPING)


async def revoke(person: Person) -> None:
    [key] = (await person.rest.get("/auth/keys")).json()
    assert (await person.rest.delete(f"/auth/keys/{key['id']}")).status_code == 204


async def change_membership(cloud: Cloud, person: Person, statement: str) -> None:
    """As a call that changes it does."""
    async with cloud.app.db.transaction() as tx:
        await tx.connection.execute(f"{statement} where user_id = $1", person.user_id)
        await cloud.app.keys.forget(tx, person.user_id)


@pytest.mark.parametrize("flows", [False, True], ids=["idle", "flowing"])
async def test_a_stream_ends_with_its_key(server: Server, ada: Person, flows: bool) -> None:
    server.service.script = endless([], lambda data: change(1)) if flows else script(change(1), forever())
    stream = server.watch(ada)
    await stream.read()
    async with events(server, ada) as lines:
        await event(lines)
        await revoke(ada)
        began = time.monotonic()
        assert (await until_it_fails(stream)).code() == grpc.StatusCode.UNAUTHENTICATED
        async with asyncio.timeout(5):
            while "error" not in (last := await event(lines)).get("event", ""):
                pass
    assert json.loads(last["data"])["error"]["reason"] == "UNAUTHENTICATED"
    assert time.monotonic() - began < 5
    await server.closed(0.5)


async def test_a_stream_ends_with_the_permission(cloud: Cloud, server: Server, ada: Person) -> None:
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="member")
    server.service.script = script(change(1), forever())
    async with events(server, eve, "/follow/a/writer") as writes, events(server, eve) as reads:
        await event(writes)
        await event(reads)
        await change_membership(cloud, eve, "update members set role = 'viewer'")
        assert (await ended_with(writes))["metadata"] == {"permission": "instance:update"}
        assert server.service.open == 1
        await change_membership(cloud, eve, "delete from members")
        assert (await ended_with(reads))["reason"] == "PERMISSION_DENIED"
    await server.closed(0.5)


async def test_a_method_sees_who_its_caller_is_now(cloud: Cloud, server: Server, ada: Person) -> None:
    """And stays in the tenant it was opened in, whatever the caller's default one is by now."""
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="member")
    server.service.script = script(change(1), forever())
    stream = server.watch(eve)
    await stream.read()
    made = (await eve.rest.post("/tenants", json={"name": "eve's", "slug": "eves"})).json()
    assert (await eve.rest.post(f"/tenants/{made['id']}/switch")).is_success
    [opened] = server.service.calls

    async def switched() -> bool:
        return str(opened.principal.default_tenant_id) == made["id"]

    await until(switched, 5)
    assert opened.tenant == ada.tenant_id
    assert server.service.open == 1
    stream.cancel()
    await server.closed()


async def test_a_stream_that_is_closed_closes_its_method(server: Server, ada: Person) -> None:
    """Whether it waits for a response or has just given one."""
    method = server.pipeline.method(WATCH)
    before = len(asyncio.all_tasks())
    for steps in ([change(1)], [change(1), forever()]):
        server.service.script = script(*steps)
        responses = server.pipeline.stream(method, One(WatchRequest()), dict(ada.metadata), "127.0.0.1", {})
        await anext(responses)
        assert server.service.open == 1
        if len(steps) > 1:
            waiting = asyncio.ensure_future(anext(responses))

            async def pulled() -> bool:
                return len(asyncio.all_tasks()) > before

            await until(pulled)
            waiting.cancel()
            await asyncio.wait([waiting])
        await responses.aclose()
        assert server.service.open == 0
        assert len(asyncio.all_tasks()) == before


async def test_every_kind_of_end_is_a_status(cloud: Cloud, server: Server, ada: Person) -> None:
    """tests/test_every_method.py calls streams as it calls everything else."""
    watch = SERVICE.methods_by_name["Watch"]
    here = replace(cloud, channel=server.channel)
    for steps, status in (
        ([change(1), forever()], grpc.StatusCode.OK),
        ([], grpc.StatusCode.OK),
        ([ApiError("NOT_FOUND", "none")], grpc.StatusCode.NOT_FOUND),
    ):
        server.service.script = script(*steps)
        assert await call(here, watch, b"", ada.metadata) == status
        await server.closed()
    assert await call(here, watch, b"") == grpc.StatusCode.UNAUTHENTICATED
    assert await call(here, watch, b"\xff", ada.metadata) == grpc.StatusCode.INVALID_ARGUMENT
