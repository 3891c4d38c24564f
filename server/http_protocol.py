"""Uvicorn's HTTP/1.1 with limits on what comes before a body: uvicorn itself takes heads of any size, at any pace.

An answer's head is sent along with what follows it at once: each piece that is sent by itself costs as much as a
kilobyte.
"""

from asyncio import AbstractEventLoop, TimerHandle, Transport
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from rest_shim import streams

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 15.0


class BoundedHttp(HttpToolsProtocol):
    """Closes connections whose request line and headers are too long, or do not arrive."""

    _timer: TimerHandle | None = None  # of a head that did not come as a whole
    _answers: "Answers"
    _head_bytes: int | None  # of the head being received; None while there is none to come

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._answers = Answers(transport, self.loop)
        self._head_bytes = 0
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is None or self.transport.is_closing():
            return
        if self._head_bytes > HEAD_BYTES:
            self.send_400_response(f"The request line and headers have more than {HEAD_BYTES} bytes.")
        elif self._timer is None:
            self._wait_for_head()

    def on_message_begin(self) -> None:
        self._stop_waiting()
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {streams.ABORT: {"abort": self.transport.abort}}

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._head_bytes = None
        super().on_headers_complete()
        if cycle := self.cycle:  # there is none of a WebSocket
            cycle.transport = self._answers  # type: ignore[assignment]
            whole: Any = partial(_whole, cycle)
            self.scope["extensions"][streams.WHOLE] = whole

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def _whole(cycle: RequestResponseCycle) -> bytes | None:
    return None if cycle.more_body else bytes(cycle.body)


class Answers:
    """What uvicorn needs of a transport to answer. What is written is sent with the next, or when the loop turns."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            self._transport.writelines((self._held, data))
            self._held = b""
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._held and not self._transport.is_closing():
            self._transport.write(self._held)
        self._held = b""
