"""A watch that catches up over gRPC, against a plain `select` of the same changes on the same database.

Both read the tenant's whole change log in order, as a client does: the watch up to messages, the
select up to asyncpg's records, in pages of the same size. They take turns in one process, over one loop.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import grpc
import uvloop
from thecloud.v1 import watch_pb2 as pb
from thecloud.v1.watch_pb2_grpc import WatchServiceStub

from bench import cloud
from bench.cloud import Prepared
from bench.figure import figure
from server import app as server_app
from server import db
from server.services.watch import BATCH, token

CHANGES, ROUNDS = 10_000, 7
REASON = "each change becomes a message of its own, with the states as Struct; the select stops at records"
FILL = """
    insert into changes (tenant_id, sequence, kind, id, type, actor, request_id, before, after)
    select $1, n, 'instance', i.id, 'UPDATED', 'ada', 'r', to_jsonb(i) - 'env', to_jsonb(i) - 'env'
      from generate_series(1, $2) n, lateral (select * from instances order by id limit 1 offset n % 20) i
"""
SELECT = "select * from changes where tenant_id = $1 and sequence > $2 order by sequence limit $3"


def figures() -> Iterator[dict[str, Any]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        watched, selected = runner.run(measure())
    yield figure("watch", round(watched), "changes/s", "a plain select of the same rows", watched / selected, None,
                 reason=REASON)  # fmt: skip


async def measure() -> tuple[float, float]:
    """Changes a second of each."""
    async with cloud.prepared() as prepared:
        connection = await db.connect(prepared.url)
        await db._prepare(connection)
        await connection.execute(FILL, prepared.tenant_id, CHANGES)
        await connection.execute("insert into change_heads values ($1, $2, 0)", prepared.tenant_id, CHANGES)
        with TemporaryDirectory() as folder:
            async with cloud.app(prepared.url, Path(folder)) as app:
                http = server_app.listening("127.0.0.1:0")
                async with (
                    server_app.serving(app, http) as running, grpc.aio.insecure_channel(running.grpc) as channel
                ):  # fmt: skip
                    taken: list[tuple[float, float]] = []
                    for number in range(ROUNDS + 1):
                        each = await watch(channel, prepared), await select(connection, prepared)
                        if number:
                            taken.append(each)
        await connection.close()
    return median(each for each, _ in taken), median(each for _, each in taken)


async def watch(channel: grpc.aio.Channel, prepared: Prepared) -> float:
    request = pb.WatchRequest(resume_token=token(prepared.tenant_id, 0))
    call = WatchServiceStub(channel).Watch(  # type: ignore[no-untyped-call]
        request, metadata=[("x-api-key", prepared.key)]
    )
    began, seen = perf_counter(), 0
    async for event in call:
        seen += 1
        assert event.change.sequence == seen
        if seen == CHANGES:
            break
    seconds = perf_counter() - began
    call.cancel()
    return CHANGES / seconds


async def select(connection: Any, prepared: Prepared) -> float:
    began, position = perf_counter(), 0
    while rows := await connection.fetch(SELECT, prepared.tenant_id, position, BATCH):
        position = rows[-1]["sequence"]
    assert position == CHANGES
    return CHANGES / (perf_counter() - began)
