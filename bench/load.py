"""A client process: `python -m bench.load '{"kind": "http" | "objects" | "grpc", …}'`.

It says "ready"; then for each line on stdin, a number of seconds, it calls that long and says
"rate N", the calls a second. All kinds hold `concurrency` calls in flight and look at the
answers as little as can be: HTTP over keep-alive sockets that write bytes prepared beforehand
and read as many as Content-Length says, or up to the last chunk, gRPC over one grpc.aio channel
without parsing. "objects" are HTTP too, one request after the other of many: see bench/object_requests.py.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from typing import Any

import grpc
import orjson
import uvloop

from bench import object_requests

TRIES = 5  # of a call whose connection ends under it
LAST_CHUNK = b"0\r\n\r\n"
Call = Callable[[], Awaitable[None]]


class Http(asyncio.Protocol):
    """One keep-alive connection. Answers that are no success end the program."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._wanted = 0
        self._chunked = False
        self._answer: asyncio.Future[bool] | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[bool]":
        """Whether the connection stays open, once the answer is complete."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server ended the connection without an answer"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._wanted:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            if head[8:11] != b" 20":
                sys.exit(f"answer: {bytes(self._received[:500])!r}")
            self._chunked = b"\r\ntransfer-encoding: chunked" in head
            length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            self._wanted = end + 4 + (len(LAST_CHUNK) if self._chunked else int(length))
            self._stays = b"\r\nconnection: close" not in head
        if len(self._received) >= self._wanted and (not self._chunked or self._received.endswith(LAST_CHUNK)):
            self._received.clear()
            self._wanted = 0
            assert self._answer is not None
            self._answer.set_result(self._stays)


async def http_caller(address: str, requests: Iterator[bytes]) -> Call:
    host, _, port = address.rpartition(":")

    async def connect() -> tuple[Any, Http]:
        return await asyncio.get_running_loop().create_connection(Http, host, int(port))

    _, connection = await connect()

    async def call() -> None:
        nonlocal connection
        request = next(requests)
        for _ in range(TRIES):
            if connection.transport.is_closing():  # a server ends connections that were idle between two rounds
                _, connection = await connect()
            try:
                stays = await connection.ask(request)
            except ConnectionResetError:
                continue
            if not stays:
                connection.transport.close()
            return
        sys.exit(f"{address} does not answer")

    return call


async def callers(what: dict[str, Any]) -> list[Call]:
    """As many as the concurrency, each for one call at a time."""
    if what["kind"] in ("http", "objects"):
        made = object_requests.made(what) if what["kind"] == "objects" else [what["request"].encode()]
        requests = cycle(made)
        return [await http_caller(what["address"], requests) for _ in range(what["concurrency"])]
    channel = grpc.aio.insecure_channel(what["address"])
    method = channel.unary_unary(what["method"])
    request, metadata = bytes.fromhex(what["request"]), (("x-api-key", what["key"]),)

    async def call() -> None:
        await method(request, metadata=metadata)

    return [call] * what["concurrency"]


async def rate(calls: list[Call], seconds: float) -> float:
    began = time.perf_counter()
    end, done = began + seconds, 0

    async def repeat(call: Call) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call()
            done += 1

    await asyncio.gather(*map(repeat, calls))
    return done / (time.perf_counter() - began)


async def main(what: dict[str, Any]) -> None:
    calls = await callers(what)
    await asyncio.gather(*(call() for call in calls))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await asyncio.to_thread(sys.stdin.readline):
        sys.stdout.write(f"rate {await rate(calls, float(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(orjson.loads(sys.argv[1])))
