"""A terminal's session: what is typed goes in while what it prints comes out."""

import asyncio
from collections.abc import AsyncIterator

from thecloud.v1 import instances_pb2 as pb

from drivers.contracts import Terminal


async def session(
    terminal: Terminal, first: pb.AttachInstanceConsoleRequest, more: AsyncIterator[pb.AttachInstanceConsoleRequest]
) -> AsyncIterator[bytes]:
    """What the terminal prints, until it ends or the client leaves. Either way it is closed."""

    async def type_in() -> None:
        await _enter(terminal, first)
        async for request in more:
            await _enter(terminal, request)
        await terminal.close()

    typing = asyncio.ensure_future(type_in())
    try:
        async for data in terminal.output():
            yield data
    finally:
        typing.cancel()
        await asyncio.gather(typing, return_exceptions=True)
        await terminal.close()


async def _enter(terminal: Terminal, request: pb.AttachInstanceConsoleRequest) -> None:
    if request.columns and request.rows:
        await terminal.resize(request.columns, request.rows)
    if request.data:
        await terminal.write(request.data)
