"""The pipeline alone: Pipeline.unary on a live method in process, without validation and without a network.

Who is calling, the rate limit, the permission, the deadline, the request's id and the metrics are
all there; the key is in the cache, as the second call's is.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import uvloop

from bench import cloud
from bench.echo_service import METHOD, SERVICE, EchoService, message
from bench.figure import figure
from server import validation
from server.pipeline import Pipeline

GOAL = 30.0  # microseconds
ROUNDS, CALLS = 30, 2000


class NoRules:
    """A validator that finds nothing, because it does not look."""

    def collect_violations(self, request: object) -> list[Any]:
        return []


def figures() -> Iterator[dict[str, Any]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        without, with_rules = runner.run(measure())
    yield figure("pipeline without validation", round(without, 1), "µs/call", "goal", GOAL / without, 1.0)
    yield figure("pipeline with validation", round(with_rules, 1), "µs/call", "without", with_rules / without, None)


async def measure() -> tuple[float, float]:
    """Microseconds a call, without and with validation, in turn."""
    with TemporaryDirectory() as folder:
        async with cloud.prepared() as prepared, cloud.app(prepared.url, Path(folder)) as app:
            pipeline = Pipeline(app, {SERVICE.full_name: (SERVICE, EchoService())})
            metadata = {"x-api-key": prepared.key, "user-agent": "bench"}
            real: Any = validation._validator
            validator: Any
            taken: dict[bool, list[float]] = {False: [], True: []}
            for number in range(ROUNDS):
                for validator, times in ((NoRules(), taken[False]), (real, taken[True])):
                    validation._validator = validator
                    seconds = await calls(pipeline, metadata)
                    if number:
                        times.append(seconds / CALLS * 1e6)
                await asyncio.sleep(0.01)  # the listener needs a turn to keep the cache believed
            validation._validator = real
    return median(taken[False]), median(taken[True])


async def calls(pipeline: Pipeline, metadata: dict[str, str]) -> float:
    method, request = pipeline.method(METHOD), message()
    began = perf_counter()
    for _ in range(CALLS):
        await pipeline.unary(method, request, metadata, "127.0.0.1", {}, 30.0)
    return perf_counter() - began
