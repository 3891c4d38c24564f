"""Streams over REST, as events and as raw bytes: from a shim in the server's process and from one on its own."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
import uvicorn
from google.api.httpbody_pb2 import HttpBody
from thecloud.v1 import options_pb2

from rest_shim import app as rest
from rest_shim import streams
from rest_shim.channel import ChannelBackend
from server.app import HttpServer, listening
from server.errors import ApiError
from server.http_protocol import BoundedHttp
from tests.conftest import Cloud, Person, until
from tests.streaming_service import (
    SERVICE,
    Bookmark,
    Server,
    Tick,
    WatchResponse,
    change,
    event,
    forever,
    running,
    script,
)


@pytest.fixture
async def server(cloud: Cloud) -> AsyncIterator[Server]:
    async with running(cloud) as running_server:
        yield running_server


@asynccontextmanager
async def shim_on_its_own(channel: grpc.aio.Channel) -> AsyncIterator[str]:
    """The address of a shim that reaches its server over this channel."""
    asgi = rest.create(ChannelBackend(channel), [SERVICE], rest.Settings())
    http = listening("127.0.0.1:0")
    uvicorn_server = HttpServer(uvicorn.Config(asgi, http=BoundedHttp, lifespan="off", log_config=None))
    async with asyncio.TaskGroup() as group:
        group.create_task(uvicorn_server.serve(sockets=[http]))
        yield "{}:{}".format(*http.getsockname())
        uvicorn_server.should_exit = True


@pytest.fixture(params=["in process", "over a channel"])
async def api(request: pytest.FixtureRequest, server: Server, ada: Person) -> AsyncIterator[httpx.AsyncClient]:
    """Ada's client of a shim in the server's process, and of one on its own."""
    headers = {"x-api-key": ada.key}
    if request.param == "in process":
        async with httpx.AsyncClient(base_url=f"http://{server.http}", headers=headers) as client:
            yield client
        return
    async with (
        shim_on_its_own(server.channel) as address,
        httpx.AsyncClient(base_url=f"http://{address}", headers=headers) as client,
    ):
        yield client


def parsed(text: str) -> list[dict[str, str]]:
    """The events of a whole stream, field by field."""
    assert text == "" or text.endswith("\n\n")
    blocks = text.removesuffix("\n\n").split("\n\n") if text else []
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]  # type: ignore[misc]


async def test_each_message_is_an_event_with_the_documented_json(server: Server, api: httpx.AsyncClient) -> None:
    server.service.script = script(
        change(2**40, name="a\nb", token="t1"), WatchResponse(bookmark=Bookmark()), WatchResponse(resume_token="t3")
    )
    for path in ("/follow", "/api/v1/follow"):
        reply = await api.get(path, headers={"x-request-id": "abc"})
        assert reply.status_code == 200
        assert parsed(reply.text) == [
            {"id": "t1", "event": "change", "data": '{"name":"a\\nb","number":1099511627776}'},
            {"event": "bookmark", "data": "{}"},
            {"id": "t3", "data": '{"resume_token":"t3"}'},
        ]
        sent = reply.headers
        assert (sent["content-type"], sent["cache-control"]) == ("text/event-stream", "no-store")
        assert (sent["x-accel-buffering"], sent["x-request-id"]) == ("no", "abc")
        assert sent["x-content-type-options"] == "nosniff" and "frame-ancestors" in sent["content-security-policy"]


async def test_a_message_without_a_oneof_is_an_event_without_a_name(server: Server, api: httpx.AsyncClient) -> None:
    server.service.script = script(Tick(number=1, note="x"), Tick(number=2))
    reply = await api.get("/count")
    assert parsed(reply.text) == [{"data": '{"number":1,"note":"x"}'}, {"data": '{"number":2}'}]


async def test_a_stream_without_messages_is_empty(server: Server, api: httpx.AsyncClient) -> None:
    server.service.script = script()
    for path, kind in (("/follow", "text/event-stream"), ("/download/a", "application/octet-stream")):
        reply = await api.get(path)
        assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, b"", kind)


async def test_an_error_before_the_first_message_is_an_ordinary_one(server: Server, api: httpx.AsyncClient) -> None:
    server.service.script = script(ApiError("NOT_FOUND", "no such topic", kind="topic", id="a"))
    for path in ("/follow", "/download/a"):
        reply = await api.get(path)
        assert (reply.status_code, reply.headers["content-type"]) == (404, "application/json")
        assert reply.json()["error"]["message"] == "no such topic"
        assert (await api.get(path, headers={"x-api-key": "wrong"})).status_code == 401


async def test_an_error_after_the_first_message_is_the_last_event(server: Server, api: httpx.AsyncClient) -> None:
    server.service.script = script(change(1), ApiError("NOT_FOUND", "gone", kind="topic", id="a"))
    reply = await api.get("/follow")
    assert reply.status_code == 200
    first, last = parsed(reply.text)
    assert (first["event"], last["event"]) == ("change", "error")
    body = json.loads(last["data"])
    assert (body["error"]["code"], body["error"]["message"]) == ("NOT_FOUND", "gone")
    assert body["error"]["metadata"] == {"kind": "topic", "id": "a"}
    assert body["meta"]["request_id"] == reply.headers["x-request-id"]


async def test_an_idle_stream_opens_promptly_and_its_error_is_an_event(server: Server, api: httpx.AsyncClient) -> None:
    go = asyncio.Event()
    server.service.script = script(go, ApiError("NOT_FOUND", "gone"))
    began = time.monotonic()
    async with api.stream("GET", "/follow") as reply:
        assert reply.status_code == 200
        assert streams.PROMPT <= time.monotonic() - began < streams.PROMPT + 2
        go.set()
        assert (await event(reply.aiter_lines()))["event"] == "error"


async def test_an_event_is_there_as_soon_as_it_is_sent(server: Server, api: httpx.AsyncClient) -> None:
    go = asyncio.Event()
    server.service.script = script(change(1), go, change(2), forever())
    async with api.stream("GET", "/follow") as reply:
        lines = reply.aiter_lines()
        assert json.loads((await event(lines))["data"])["number"] == 1
        go.set()
        assert json.loads((await event(lines))["data"])["number"] == 2
    await server.closed()


@pytest.mark.parametrize("path", ["/follow", "/download/a"])
@pytest.mark.parametrize("steps", [[], [change(1)]], ids=["before a message", "after one"])
async def test_a_client_that_leaves_ends_the_call(
    server: Server, api: httpx.AsyncClient, path: str, steps: list[Any]
) -> None:
    if path != "/follow":
        steps = [HttpBody(data=b"x") for _ in steps]
    server.service.script = script(*steps, forever())
    host, port = api.base_url.host, api.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: cloud\r\nX-API-Key: {api.headers['x-api-key']}\r\n\r\n".encode())

    async def is_open() -> bool:
        return server.service.open == 1

    await until(is_open)
    if steps:
        await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await server.closed(2)


async def test_a_refusal_ends_the_connection_of_a_client_that_waits_to_send_its_body(api: httpx.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    writer.write(b"PUT /nothing HTTP/1.1\r\nHost: cloud\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 404") and b"connection: close" in answer.lower()
    writer.close()


async def test_a_stream_goes_on_after_the_last_event(server: Server, api: httpx.AsyncClient) -> None:
    server.service.script = script()
    for params, body, header, expected in (
        ({}, None, "t1", "t1"),
        ({"resume_token": "t2"}, None, "t1", "t2"),
        ({}, None, "t\u00e9", "t\u00e9"),
        ({}, {"topic": "a"}, "t1", "t1"),
        ({}, {"resume_token": "t2"}, "t1", "t2"),
    ):
        headers = {"last-event-id": header.encode()}
        if body is None:
            await api.get("/follow", params=params, headers=headers)
        else:
            await api.post("/search", json=body, headers=headers)
        assert server.service.requests[-1].resume_token == expected
    assert (await api.get("/follow", headers={"last-event-id": b"\xff"})).status_code == 400


async def test_a_head_of_a_stream_is_refused(server: Server, api: httpx.AsyncClient) -> None:
    reply = await api.head("/follow")
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET")
    assert server.service.requests == []


async def test_the_first_raw_bytes_say_how_the_answer_begins(server: Server, api: httpx.AsyncClient) -> None:
    first = HttpBody(content_type="text/csv", data=b"bc")
    first.extensions.add().Pack(
        options_pb2.Head(status=206, headers={"content-length": "3", "content-range": "bytes 1-3/9"})
    )
    server.service.script = script(first, HttpBody(data=b"d"))
    reply = await api.get("/download/a")
    assert (reply.status_code, reply.content, reply.headers["content-range"]) == (206, b"bcd", "bytes 1-3/9")
    server.service.script = script(first, forever())
    head = await api.head("/download/a")
    assert (head.status_code, head.content, head.headers["content-length"]) == (206, b"", "3")
    await server.closed()


async def test_raw_bytes_come_in_parts_of_the_first_ones_type(server: Server, api: httpx.AsyncClient) -> None:
    go = asyncio.Event()
    more = [HttpBody(data=b""), HttpBody(content_type="image/png", data=b"c")]
    server.service.script = script(HttpBody(content_type="text/csv", data=b"a"), go, HttpBody(data=b"b"), *more)
    async with api.stream("GET", "/download/a") as reply:
        assert (reply.status_code, reply.headers["content-type"]) == (200, "text/csv")
        parts = reply.aiter_raw()
        async with asyncio.timeout(5):
            assert await anext(parts) == b"a"
            go.set()
            assert b"".join([part async for part in parts]) == b"bc"
    assert server.service.requests[0].topic == "a"


async def test_what_is_prepared_is_the_whole_answer(server: Server, api: httpx.AsyncClient) -> None:
    async def prepare(call: Any, request: Any) -> Any:
        body = HttpBody(content_type="text/plain", data=b"all of it")
        body.extensions.add().Pack(options_pb2.Head(headers={"content-length": "9", "etag": '"1"'}))
        return body

    server.service.prepare = prepare
    server.service.script = script(RuntimeError("the method was called"))
    reply = await api.get("/download/a")
    assert (reply.status_code, reply.text, reply.headers["etag"]) == (200, "all of it", '"1"')
    assert (reply.headers["content-length"], "transfer-encoding" in reply.headers) == ("9", False)
    assert server.service.requests == []
    assert not server.pipeline.streams


async def test_what_a_stream_has_prepared_it_goes_on_with(server: Server, api: httpx.AsyncClient) -> None:
    async def prepare(call: Any, request: Any) -> Any:
        return f"about {request.topic}"

    async def responses(call: Any, request: Any) -> AsyncIterator[Any]:
        yield HttpBody(content_type="text/plain", data=call.prepared.encode())

    server.service.prepare, server.service.script = prepare, responses
    assert (await api.get("/download/a")).text == "about a"


async def test_a_stream_that_cannot_be_prepared_is_refused(server: Server, api: httpx.AsyncClient) -> None:
    async def prepare(call: Any, request: Any) -> Any:
        raise ApiError("NOT_FOUND", "there is no such topic")

    server.service.prepare = prepare
    assert (await api.get("/download/a")).status_code == 404
    assert not server.pipeline.streams


async def test_a_stream_is_prepared_before_the_deadline(cloud: Cloud) -> None:
    async with running(cloud, deadline_seconds=0.1) as server:
        person = await cloud.person()

        async def prepare(call: Any, request: Any) -> Any:
            await forever().wait()

        server.service.prepare = prepare
        async with httpx.AsyncClient(base_url=f"http://{server.http}", headers={"x-api-key": person.key}) as client:
            assert (await client.get("/download/a")).status_code == 504
        assert not server.pipeline.streams


async def test_raw_bytes_break_off_at_an_error(server: Server, api: httpx.AsyncClient) -> None:
    server.service.script = script(HttpBody(data=b"a"), ApiError("INTERNAL", "no more"))
    async with api.stream("GET", "/download/a") as reply:
        assert reply.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await reply.aread()


async def test_a_bug_in_a_stream_tells_only_the_request_id(server: Server, api: httpx.AsyncClient) -> None:
    server.service.script = script(change(1), RuntimeError("secret"))
    reply = await api.get("/follow")
    assert "secret" not in reply.text
    assert reply.headers["x-request-id"] in json.loads(parsed(reply.text)[-1]["data"])["error"]["message"]
