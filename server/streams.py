"""What keeps an eye on the streams that are open."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Self

from google.protobuf.message import Message

from server.errors import ApiError

EVERY = 1.0  # seconds
STOPPING = "the server is stopping; connect again, with the last resume_token or offset"


class Nothing:
    """What follows on a stream's only request."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        raise StopAsyncIteration


async def watched(
    responses: AsyncGenerator[Message], stopping: asyncio.Event, make_sure: Callable[[], Awaitable[None]]
) -> AsyncGenerator[Message]:
    """The responses, until the server stops or `make_sure` raises, which is asked every second. However it ends,
    `responses` is closed."""
    watch = _Watch(stopping, make_sure)
    try:
        while (response := await watch.over(responses)) is not None:
            yield response
    finally:
        await watch.end()
        await responses.aclose()


class _Watch:
    """Looks every second, and interrupts who waits for a response when it sees a reason to: as asyncio.timeout does."""

    def __init__(self, stopping: asyncio.Event, make_sure: Callable[[], Awaitable[None]]) -> None:
        self._stopping, self._make_sure = stopping, make_sure
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(EVERY, self._look)
        self._looking: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._reason: Exception | None = None

    async def over(self, responses: AsyncGenerator[Message]) -> Message | None:
        """The next response, or None when there is none. Raises what ended the watch."""
        if self._stopping.is_set():
            raise ApiError("UNAVAILABLE", STOPPING)
        if self._reason:
            raise self._reason
        waiting = self._waiting = asyncio.current_task()
        assert waiting is not None
        before = waiting.cancelling()
        try:
            return await anext(responses, None)
        except asyncio.CancelledError:
            if self._reason and waiting.uncancel() <= before:
                raise self._reason from None
            raise
        finally:
            self._waiting = None

    async def end(self) -> None:
        self._timer.cancel()
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def _look(self) -> None:
        if self._stopping.is_set():
            self._interrupt(ApiError("UNAVAILABLE", STOPPING))
        else:
            self._looking = self._loop.create_task(self._made_sure())

    async def _made_sure(self) -> None:
        try:
            await self._make_sure()
        except Exception as reason:
            self._interrupt(reason)
        else:
            self._timer = self._loop.call_later(EVERY, self._look)

    def _interrupt(self, reason: Exception) -> None:
        self._reason = reason
        if self._waiting:
            self._waiting.cancel()
