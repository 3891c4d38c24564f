"""What keeps an eye on the streams that are open."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from google.protobuf.message import Message

from server.errors import ApiError

EVERY = 1.0  # seconds
STOPPING = "the server is stopping; connect again, with the last resume_token or offset"


async def watched(
    responses: AsyncGenerator[Message], stopping: asyncio.Event, make_sure: Callable[[], Awaitable[None]]
) -> AsyncGenerator[Message]:
    """The responses, until the server stops or `make_sure` raises, which is asked every second. However it ends,
    `responses` is closed.

    Each response is pulled in a task of its own, so that waiting for one does not keep us from looking.
    """
    clock = asyncio.get_running_loop().time
    sure_until = clock() + EVERY
    try:
        while True:
            pulled = asyncio.ensure_future(anext(responses, None))
            try:
                await asyncio.sleep(0)  # after which what is at hand is there, and need not be waited for
                while True:
                    if stopping.is_set():
                        raise ApiError("UNAVAILABLE", STOPPING)
                    if sure_until <= clock():
                        await make_sure()
                        sure_until = clock() + EVERY
                    if pulled.done():
                        break
                    await asyncio.wait([pulled], timeout=max(0.0, sure_until - clock()))
            except BaseException:
                pulled.cancel()
                await asyncio.gather(pulled, return_exceptions=True)
                raise
            if (response := pulled.result()) is None:
                return
            yield response
    finally:
        await responses.aclose()
