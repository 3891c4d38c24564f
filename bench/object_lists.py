"""A page of 1,000 of a bucket's objects, over the documented API and over S3, of buckets of 1,000, 10,000 and 100,000.

The rows are copied into the table: a list does not look at what is stored. Each bucket has the same keys but for their
number, all with one prefix. The ratio is the time of a page, as a share of what the bucket of 1,000 takes for it.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

from bench import cloud
from bench.cloud import Prepared
from bench.figure import figure
from bench.object_servers import ONE_PROCESSOR, Side, served
from bench.processes import Load, load
from server import db, object_rows
from server.db import Database
from server.object_rows import Bucket

SIZES = (1_000, 10_000, 100_000)
PREFIX = "photos/2026/"
SECONDS, ROUNDS, GOAL = 1.0, 5, 1.25


@dataclass(frozen=True)
class Page:
    """What is asked for of a bucket of this many."""

    name: str
    size: int
    rest: str  # the path, over the documented API
    s3: str

    def load(self, side: Side) -> Any:
        """A client that asks for it, once at a time."""
        path = self.rest if side.headers else self.s3
        return load(kind="objects", concurrency=1, **side.get(path))


def figures() -> Iterator[dict[str, Any]]:
    yield from asyncio.run(measure())


async def measure() -> list[dict[str, Any]]:
    async with cloud.prepared() as prepared:
        await fill(prepared)
        return await asyncio.to_thread(measured, prepared)


def pages(size: int) -> list[Page]:
    """The first page, that of a prefix, and the last page of the prefix."""
    rest, s3 = f"/storage/bucket-{size}", f"/bucket-{size}?list-type=2"
    of_prefix, before_last = f"prefix={quote(PREFIX, safe='')}", key(size - 1001) if size > SIZES[0] else ""
    token, after = object_rows.key_token(before_last), quote(before_last, safe="")
    return [
        Page("a page", size, rest, s3), Page("a page of a prefix", size, f"{rest}?{of_prefix}", f"{s3}&{of_prefix}"),
        Page("the last page of a prefix", size, f"{rest}?{of_prefix}&page_token={token}",
             f"{s3}&{of_prefix}&start-after={after}"),
    ]  # fmt: skip


def measured(prepared: Prepared) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        sides = served(stack, prepared, ONE_PROCESSOR)
        asked = [(side, page) for side in sides for size in SIZES for page in pages(size)]
        clients: list[Load] = [stack.enter_context(page.load(side)) for side, page in asked]
        taken: list[list[float]] = [[] for _ in asked]
        for number in range(ROUNDS + 1):
            for client, times_of in zip(clients, taken, strict=True):
                milliseconds = 1000 / client.rate(SECONDS)
                if number:
                    times_of.append(milliseconds)
    times = {
        (f"{side.name}, {page.name}", page.size): median(each) for (side, page), each in zip(asked, taken, strict=True)
    }
    sys.stderr.write(f"  milliseconds: { ({f'{n} of {s}': round(t, 1) for (n, s), t in times.items()}) }\n")
    return [
        figure(f"object list, {name} of {size:,}", round(time, 1), "ms", f"of {SIZES[0]:,}",
               time / times[name, SIZES[0]], GOAL, at_most=True)
        for (name, size), time in times.items() if size > SIZES[0]
    ]  # fmt: skip


def key(number: int) -> str:
    return f"{PREFIX}{number:06}.jpg"


async def fill(prepared: Prepared) -> None:
    """Buckets with so many rows of objects each, in the order of no index."""
    async with Database(prepared.url, 1) as database, database.transaction() as tx:
        user_id: UUID = await tx.connection.fetchval("select id from users")
        for size in SIZES:
            bucket = await db.insert(
                tx, Bucket, id=uuid4(), tenant_id=prepared.tenant_id, user_id=user_id, name=f"bucket-{size}",
                is_public=False, versioning="OFF", deleted_at=None,
            )  # fmt: skip
            await tx.connection.execute(
                "insert into objects (id, tenant_id, user_id, bucket_id, bucket, key, version_id, is_latest,"
                " delete_marker, size_bytes, content_type, checksum, etag, host, created_at)"
                " select gen_random_uuid(), $1, $2, $3, $4, $5 || lpad(number::text, 6, '0') || '.jpg', 'null', true,"
                " false, 1024, 'image/jpeg', repeat('0', 64), md5(number::text), 'local',"
                " now() - number * interval '1 second'"
                " from generate_series(0, $6::int - 1) as number order by md5(number::text)",
                prepared.tenant_id, user_id, bucket.id, bucket.name, PREFIX, size,
            )  # fmt: skip
    async with Database(prepared.url, 1) as database, database.reading() as tx:
        await tx.connection.execute("vacuum analyze objects")
