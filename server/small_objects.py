"""Small objects: their blobs are in the database, with the rows.

A small file costs two commits of the file system besides that of its row, a thread, and more room than its bytes: a
database keeps what is this small faster (Sears, van Ingen and Gray, "To BLOB or Not To BLOB", MSR-TR-2006-45). A blob
goes when its row does.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.db import METADATA, Database, Tx

BLOBS = sa.Table(
    "small_blobs",
    METADATA,
    sa.Column("id", postgresql.UUID, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
_given = db.together({"ids": postgresql.UUID, "blobs": sa.LargeBinary})
KEEP = sa.insert(BLOBS).from_select(["id", "data"], sa.select(*_given.c))
_DATA = sa.select(BLOBS.c.data).where(BLOBS.c.id == sa.bindparam("id", type_=postgresql.UUID))


async def find(tx: Tx, id: UUID) -> bytes | None:
    """The blob, if it is there."""
    return await db.value(tx, _DATA, id=id)  # type: ignore[no-any-return]


async def get(database: Database, id: UUID, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
    """What ObjectStore.get tells of a blob."""
    async with database.reading() as tx:
        data = await find(tx, id)
    if data is None:
        raise LookupError(f"object {id} is not there")
    yield data[start:end]


async def at_hand(data: bytes, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
    """The same of a blob that is here already."""
    yield data[start:end]


async def begun(data: AsyncIterator[bytes], most: int) -> tuple[bytes, bool]:
    """The beginning of what comes: all of it, if it has at most so many bytes, and whether that is so."""
    held = b""
    async for piece in data:
        held = held + piece if held else piece
        if len(held) > most:
            return held, False
    return held, True


async def resumed(beginning: bytes, data: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The beginning, and what follows on it."""
    yield beginning
    async for piece in data:
        yield piece
