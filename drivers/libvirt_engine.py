"""The way to one libvirtd: a connection that is opened anew once it is lost, what its errors mean, what it tells.

All that waits here is called in threads. libvirt's own event loop runs in one more, for the whole process:
it notices a libvirtd that hangs or is gone, and brings what happens to domains and what consoles print.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Any

import libvirt

KEEP_ALIVE = (5, 3)  # seconds between questions, and how many without an answer end a connection
NOT_THERE = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_ERR_DEVICE_MISSING)
CHANGES = (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_CRASHED)

_events = Lock()
_running: list[Thread] = []


def run_events() -> None:
    """Have libvirt's event loop run. Only connections opened after that have one."""
    with _events:
        if not _running:
            libvirt.registerErrorHandler(lambda *_: None, None)  # it would print what is raised too
            libvirt.virEventRegisterDefaultImpl()
            _running.append(Thread(target=_turn, name="libvirt events", daemon=True))
            _running[0].start()


def _turn() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class LibvirtLost(ConnectionError):
    """libvirtd does not answer, or ended before it did. It is worth another try."""


def lost(error: libvirt.libvirtError) -> bool:
    return bool(error.get_error_domain() == libvirt.VIR_FROM_RPC)


def not_there(error: libvirt.libvirtError) -> bool:
    return error.get_error_code() in NOT_THERE


def wrong_state(error: libvirt.libvirtError) -> bool:
    """It is in that state already, or just left the one that this needs."""
    return bool(error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID)


@contextmanager
def forgiving(*forgiven: Callable[[libvirt.libvirtError], bool]) -> Iterator[None]:
    """Errors of these kinds are none."""
    try:
        yield
    except libvirt.libvirtError as error:
        if not any(kind(error) for kind in forgiven):
            raise


class Engine:
    """One libvirtd, called by a URI. Any thread may use it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = Lock()
        self._connection: libvirt.virConnect | None = None

    def connection(self) -> Any:
        """A connection that lives, as far as is known. Raises LibvirtLost."""
        with self._lock:
            if self._connection is None or not self._connection.isAlive():
                self._drop()
                self._connection = self.open()
            return self._connection

    def open(self) -> Any:
        """A connection of one's own."""
        run_events()
        try:
            connection = libvirt.open(self._uri)
            connection.setKeepAlive(*KEEP_ALIVE)
        except libvirt.libvirtError as error:
            raise LibvirtLost(f"libvirtd does not answer: {error}") from error
        return connection

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            with forgiving(lost):
                self._connection.close()
        self._connection = None

    async def changes(self) -> AsyncGenerator[str]:
        """The names of domains as they start and end. Raises LibvirtLost when the connection is."""
        loop, told = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def tell(name: str | None) -> None:  # in the thread of libvirt's events
            if not loop.is_closed():
                loop.call_soon_threadsafe(told.put_nowait, name)

        def changed(_connection: Any, domain: Any, event: int, _detail: int, _opaque: None) -> None:
            if event in CHANGES:
                tell(domain.name())

        def closed(_connection: Any, _reason: int, _opaque: None) -> None:
            tell(None)

        def listen() -> tuple[Any, int]:
            connection = self.open()
            connection.registerCloseCallback(closed, None)
            lifecycle = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
            return connection, connection.domainEventRegisterAny(None, lifecycle, changed, None)

        def leave() -> None:
            with forgiving(lost):
                connection.domainEventDeregisterAny(number)
            with forgiving(lost):
                connection.unregisterCloseCallback()
            with forgiving(lost):
                connection.close()

        connection, number = await asyncio.to_thread(listen)
        try:
            while (name := await told.get()) is not None:
                yield name
        finally:
            await asyncio.to_thread(leave)
        raise LibvirtLost("libvirtd went away")
