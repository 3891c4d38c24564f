"""One connection that hears what other processes notify: work to do, keys to forget."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog

from server import db

log = structlog.get_logger()

PING = 0.25  # seconds


async def listen(
    url: str, channels: Mapping[str, Callable[[str], None]], ping: Callable[[Any], Awaitable[None]],
    alive: Callable[[float], None],
) -> None:  # fmt: skip
    """Call each channel's function with the payloads notified on it, until cancelled.

    `ping(connection)` asks the database something now and then.

    `alive(t)` says that everything notified before the moment t of the monotonic clock has been
    handed over: notifications and the answer to a ping arrive in the order they were sent.
    Connects again, a second later, when the connection is lost; every new connection begins
    with "*" on each channel, for what may have been missed.
    """

    def heard(_: Any, __: int, channel: str, payload: str) -> None:
        channels[channel](payload)

    while True:
        connection = None
        try:
            connection = await db.connect(url)
            for channel in channels:
                await connection.add_listener(channel, heard)
            for missed in channels.values():
                missed("*")
            while True:
                asked_at = time.monotonic()
                async with asyncio.timeout(5):
                    await ping(connection)
                alive(asked_at)
                await asyncio.sleep(PING)
        except db.LOST as exception:
            log.warning("listener_lost", error=str(exception))
            await asyncio.sleep(1)
        finally:
            if connection is not None:
                with suppress(*db.LOST):
                    connection.terminate()
