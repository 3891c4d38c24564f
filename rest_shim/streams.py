"""Methods with many responses over HTTP: events (WHATWG HTML, "Server-sent events"), or raw bytes in parts.

The answer begins with the first response, so that an error before it is an ordinary one; events begin
without it when none comes for a second. A later error is an event `error`; raw bytes break off, so that
the client notices. A client that leaves, or lets a part wait too long, ends the call.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import aclosing
from typing import Any, Self

import orjson
import structlog
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto
from google.protobuf.message import Message
from thecloud.v1 import options_pb2

from rest_shim import encoding
from server.errors import ApiError

log = structlog.get_logger()

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

PROMPT = 1.0  # seconds without an event after which the answer begins
ABORT = "thecloud.abort"  # the ASGI extension that drops a connection with what is still to be sent
WHOLE = "thecloud.whole"  # the ASGI extension that gives the body, or None while there is more to come
UNBUFFERED = (b"x-accel-buffering", b"no")
OCTETS = "application/octet-stream"
EVENTS: Headers = [(b"content-type", b"text/event-stream"), UNBUFFERED]


class Broken(Exception):
    """An answer has begun and cannot be finished: the connection has to break, so that the client notices."""


class Answer:
    """A response in parts, to a client that takes each of them within so many seconds."""

    def __init__(
        self, send: Send, start: Callable[[int, Headers], MutableMapping[str, Any]], seconds: float,
        abort: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self._send, self._start, self._seconds, self._abort = send, start, seconds, abort
        self._beginning = asyncio.Lock()
        self.begun = self.aborted = False

    async def begin(self, headers: Headers, status: int = 0) -> None:
        """Send the head, of the usual status if of no other, unless that was done."""
        async with self._beginning:
            if not self.begun:
                self.begun = True
                await self._send(self._start(status, headers))

    async def whole(self, headers: Headers, status: int, body: bytes) -> None:
        """Send all there is, which is so little that the client need not take it now."""
        self.begun = True
        await self._send(self._start(status, headers))
        await self._send({"type": "http.response.body", "body": body})

    async def part(self, body: bytes, *, last: bool = False) -> None:
        """Send a piece of the body. A client that does not take it in time is cut off."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._send({"type": "http.response.body", "body": body, "more_body": not last})
        except TimeoutError:
            log.info("slow_reader", seconds=self._seconds)
            if self._abort:
                self._abort()
                self.aborted = True
            raise


async def send_events(
    answer: Answer, responses: AsyncGenerator[Message], event: Callable[[Any], bytes],
    failure: Callable[[ApiError], bytes],
) -> None:  # fmt: skip
    """Each response as an event. An error after the head is the last one, with what `failure` says of it."""
    try:
        async with aclosing(responses):
            async for response in responses:
                await answer.begin(EVENTS)
                await answer.part(event(response))
    except ApiError as error:
        if not answer.begun:
            raise
        await answer.begin(EVENTS)  # which may be under way
        await answer.part(b"event: error\ndata: %b\n\n" % failure(error))
    await answer.begin(EVENTS)
    await answer.part(b"", last=True)


async def send_raw(
    answer: Answer, responses: AsyncGenerator[Any], headers: Callable[[Any, options_pb2.Head], Headers],
    receive: Receive, *, only_head: bool,
) -> None:  # fmt: skip
    """The data of each google.api.HttpBody, after what `headers` makes of the first one and the Head that is in it.

    What the first one has all of is sent without an eye on the client, and the call ends with it. With `only_head` so
    it does always, and no data are sent.
    """
    async with aclosing(responses):
        first = await anext(responses, None) or HttpBody()
        head = head_of(first)
        begin = headers(first, head)
        if only_head or head.status == 304:
            await answer.whole(begin, head.status, b"")
        elif len(first.data) == int(head.headers.get("content-length", -1)):
            await answer.whole(begin, head.status, first.data)
        else:
            await answer.begin(begin, head.status)
            await run(_send_parts(answer, first.data, responses), answer, receive, prompt=False)


async def _send_parts(answer: Answer, data: bytes, responses: AsyncGenerator[Any]) -> None:
    if data:
        await answer.part(data)
    async for response in responses:
        if response.data:
            await answer.part(response.data)
    await answer.part(b"", last=True)


def raw_headers(first: HttpBody, head: options_pb2.Head) -> Headers:
    """Those of an answer that begins so."""
    content_type = first.content_type or OCTETS
    said = [("content-type", content_type), *head.headers.items()]
    return [*((name.encode(), value.encode("latin-1", "replace")) for name, value in said), UNBUFFERED]


def head_of(response: Any) -> options_pb2.Head:
    """What the first response says of how the answer begins."""
    return options_pb2.Head.FromString(response.extensions[0].value) if response.extensions else options_pb2.Head()


def event_encoder(descriptor: Descriptor) -> Callable[[Any], bytes]:
    """What makes an event of such a message: named after the field that is set of its first oneof, else without a
    name; with its `resume_token`, if it has one, as the id."""
    choice, encode = first_oneof(descriptor), encoding.encoder(descriptor)
    resumes = "resume_token" in descriptor.fields_by_name

    def event(message: Any) -> bytes:
        name = message.WhichOneof(choice) if choice else None
        data = encode(message)
        lines = [b"data: " + orjson.dumps(data[name] if name else data)]
        if name:
            lines.insert(0, b"event: " + name.encode())
        if resumes and message.resume_token:
            lines.insert(0, b"id: " + message.resume_token.encode())
        return b"\n".join(lines) + b"\n\n"

    return event


def first_oneof(descriptor: Descriptor) -> str | None:
    """Its name. Those that stand for `optional` do not count."""
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    optional = {field.oneof_index for field in proto.field if field.proto3_optional}
    return next((oneof.name for index, oneof in enumerate(proto.oneof_decl) if index not in optional), None)


def whole_body(scope: MutableMapping[str, Any]) -> bytes | None:
    """The body of a request, if all of it has come already."""
    whole = (scope.get("extensions") or {}).get(WHOLE)
    return whole and whole()


class One:
    """The one request of a call, as an iterator. A generator that nobody exhausts is closed in a task of its own."""

    def __init__(self, request: Message) -> None:
        self._left = [request]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


async def run(sending: Coroutine[Any, Any, None], answer: Answer, receive: Receive, *, prompt: bool) -> None:
    """Send until all is sent or the client leaves. Raises what happens before the answer has begun, and then Broken."""
    task, leaving = asyncio.ensure_future(sending), asyncio.ensure_future(_left(receive))
    try:
        done, _ = await asyncio.wait((task, leaving), timeout=PROMPT if prompt else None, return_when="FIRST_COMPLETED")
        if not done:
            await answer.begin(EVENTS)
            await asyncio.wait((task, leaving), return_when="FIRST_COMPLETED")
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)
    if task.cancelled() or (error := task.exception()) is None or answer.aborted:
        return
    if not answer.begun or isinstance(error, Broken):
        raise error
    raise Broken(f"an answer broke off: {error!r}") from error


async def _left(receive: Receive) -> None:
    """Return when the client has left; what it sends until then is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass
