"""What the control plane asks of the storage of objects: bytes under an id, and nothing else.

Which objects there are, what they are called and whose they are is in the database. An id is written once by whoever
made it up; what is here and in no row is an orphan, found by `list` and removed.

tests/drivers/object_contract.py is this text as tests; every driver passes it.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID


class NoRoom(Exception):
    """There is no room for what was to be stored, and nothing of it is left."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What is stored under an id; the hashes are hexadecimal."""

    size_bytes: int
    sha256: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class StorageNode:
    """One of the places that objects are in."""

    id: str
    address: str
    data_dir: str
    status: Literal["alive", "suspect", "dead"]  # suspect: it answers, but takes nothing new
    last_seen: datetime  # when it last answered
    total_bytes: int | None = None  # None: it does not tell
    free_bytes: int | None = None


class ObjectStore(Protocol):
    """Keeps the bytes of objects."""

    one_host: bool  # objects are on the host that they were put on; else all hosts see the same

    async def put(self, id: UUID, data: AsyncIterator[bytes]) -> Stored:
        """Store all that comes; it is on the disk when this returns. What was there is replaced, in one step.

        Where `data` raises, or there is an error before its end, it is as if nothing had been put. A put that is
        cancelled as it ends may have stored everything, but never a part. Raises NoRoom.
        """
        ...

    async def compose(self, id: UUID, parts: Sequence[UUID]) -> Stored:
        """Store the parts, one after the other, as one. They stay until they are deleted.

        Raises LookupError when one is not there. Else as put().
        """
        ...

    def get(self, id: UUID, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to but not including `end`, as far as there are any.

        Raises LookupError before the first when there is no such object. One that is replaced or deleted meanwhile
        is read to its end, or the reading fails: bytes of two are never mixed.
        """
        ...

    async def delete(self, id: UUID) -> None:
        """Have it gone, with what puts that died have left. Nothing there is success."""
        ...

    def list(self) -> AsyncGenerator[tuple[UUID, datetime]]:
        """All that there is anything of, and when that was last written: what is whole, and what puts have left.

        An id may come twice.
        """
        ...

    async def verify(self, id: UUID) -> Stored | None:
        """What is really there, read anew from the disk; None when there is nothing."""
        ...

    async def nodes(self) -> Sequence[StorageNode]:
        """Where objects are, each asked now."""
        ...


class Hashes:
    """The running hashes and size of what goes by."""

    def __init__(self) -> None:
        self._size, self._sha256, self._md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Blocks, unless `data` is small."""
        self._size += len(data)
        self._sha256.update(data)
        self._md5.update(data)

    def stored(self) -> Stored:
        return Stored(size_bytes=self._size, sha256=self._sha256.hexdigest(), md5=self._md5.hexdigest())


async def pieces(data: AsyncIterator[bytes], size: int) -> AsyncGenerator[bytes]:
    """The same bytes, in pieces of exactly this size but for the last."""
    kept: list[bytes] = []
    length = 0
    async for more in data:
        while length + len(more) >= size:
            head, more = more[: size - length], more[size - length :]
            yield b"".join((*kept, head))
            kept, length = [], 0
        if more:
            kept.append(more)
            length += len(more)
    if kept:
        yield b"".join(kept)


async def settled(running: asyncio.Future[Any]) -> None:
    """Wait until it has ended, however often this is cancelled meanwhile."""
    while not running.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([running])
    if not running.cancelled():
        running.exception()  # which has been heard of
