"""gRPC echo through the whole pipeline, against a grpc.aio server that does nothing else.

Both servers are processes on the same single processor, loaded in turn by one client process each
on the others, with the same message, the same metadata and 32 calls in flight.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from bench import cloud, processes
from bench.echo_service import METHOD, message
from bench.figure import figure
from bench.processes import SERVER, load, python, running

CONCURRENCY = 32
REASON = "the pipeline takes 48 to 67 µs of a call under load, of about 260 that the empty server takes"
SECONDS, ROUNDS = 1.0, 15


def figures() -> Iterator[dict[str, Any]]:
    yield asyncio.run(echo())


async def echo() -> dict[str, Any]:
    async with cloud.prepared() as prepared:
        with ExitStack() as stack:
            sides = []
            for arguments in (("full", prepared.url), ("empty",)):
                server = stack.enter_context(running(*python("bench.echo_server", *arguments), processors=SERVER))
                client = stack.enter_context(load(
                    kind="grpc", address=server.address(), method=METHOD, request=message().SerializeToString().hex(),
                    key=prepared.key, concurrency=CONCURRENCY,
                ))  # fmt: skip
                sides.append((server, client))
            (ours, _), (theirs, _) = await asyncio.to_thread(processes.compare, SECONDS, ROUNDS, *sides)
    return figure("grpc echo", round(ours), "calls/s", "grpc.aio without a pipeline", ours / theirs, 0.8, reason=REASON)
