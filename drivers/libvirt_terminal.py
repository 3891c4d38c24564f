"""The serial console and the screen of a virtual machine.

libvirt lets one at a time have the console: the last who asks.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import libvirt

from drivers.libvirt_engine import forgiving

READ_BYTES = 65536
AHEAD_BYTES = 2**20  # that are read before anybody takes them
PATIENCE = 10.0  # seconds for the machine to take what was typed
NOT_NOW = -2
ENDS = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
ALL = libvirt.VIR_STREAM_EVENT_READABLE | ENDS


class SerialTerminal:
    """See Terminal."""

    def __init__(self, connection: Any) -> None:
        """On a connection of its own, which it closes: a stream is not told that its connection was lost."""
        self._connection = connection
        self._stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._loop = asyncio.get_running_loop()
        self._printed: asyncio.Queue[bytes] = asyncio.Queue()  # nothing: the end
        self._ahead = 0
        self._ended = False

    def open(self, name: str) -> None:
        """Take the console of that domain, in a thread. Raises libvirtError."""
        self._connection.registerCloseCallback(self._lost, None)
        domain = self._connection.lookupByName(name)
        domain.openConsole(None, self._stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        self._stream.eventAddCallback(ALL, self._happened, None)

    async def output(self) -> AsyncIterator[bytes]:
        while data := await self._printed.get():
            full = self._ahead >= AHEAD_BYTES
            self._ahead -= len(data)
            if full and self._ahead < AHEAD_BYTES and not self._ended:
                self._stream.eventUpdateCallback(ALL)
            yield data

    async def write(self, data: bytes) -> None:
        if self._ended:
            raise ConnectionError("the console has ended")
        try:
            await asyncio.to_thread(self._send, data)
        except libvirt.libvirtError as error:
            raise ConnectionError(f"the console has ended: {error}") from error

    async def resize(self, columns: int, rows: int) -> None:
        """A serial line has no size: whoever is at it tells the machine, with `stty`."""

    async def close(self) -> None:
        self._end()
        await asyncio.to_thread(self._leave)

    def _send(self, data: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while data:
            sent = self._stream.send(data)
            if sent == NOT_NOW:
                if time.monotonic() > deadline:
                    raise TimeoutError("the virtual machine does not take what is typed")
                time.sleep(0.02)
                continue
            data = data[sent:]

    def _leave(self) -> None:
        with forgiving(lambda error: True):  # it may have ended by itself, or with libvirtd
            self._stream.eventRemoveCallback()
        with forgiving(lambda error: True):
            self._stream.abort()
        with forgiving(lambda error: True):
            self._connection.unregisterCloseCallback()
        with forgiving(lambda error: True):
            self._connection.close()

    def _happened(self, stream: Any, events: int, _opaque: None) -> None:
        """In the thread of libvirt's events: something is there to read, or it is over."""
        try:
            data = stream.recv(READ_BYTES) if events & libvirt.VIR_STREAM_EVENT_READABLE else b""
        except libvirt.libvirtError:
            data = b""
        if data == NOT_NOW:
            return
        if not data:
            with forgiving(lambda error: True):
                stream.eventRemoveCallback()
        self._tell(data)

    def _lost(self, _connection: Any, _reason: int, _opaque: None) -> None:
        self._tell(b"")

    def _tell(self, data: bytes) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._received, data)

    def _received(self, data: bytes) -> None:
        if self._ended:
            return
        if not data:
            self._end()
            return
        self._ahead += len(data)
        self._printed.put_nowait(data)
        if self._ahead >= AHEAD_BYTES:
            self._stream.eventUpdateCallback(ENDS)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._printed.put_nowait(b"")


class Screen:
    """The screen of a virtual machine, as VNC has it: see SupportsScreen."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def output(self) -> AsyncIterator[bytes]:
        with suppress(ConnectionError):
            while data := await self._reader.read(READ_BYTES):
                yield data

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self._writer.drain()

    async def resize(self, columns: int, rows: int) -> None:
        """The machine decides on the size of its screen."""

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
