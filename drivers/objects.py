"""What keeps the bytes of objects.

An object is one blob, named after our id, written once and never changed. What is not durable yet is not there: not in
`list`, and for nobody to read.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What was stored."""

    size_bytes: int
    sha256: str  # in hexadecimal
    md5: str


@dataclass(frozen=True, kw_only=True)
class StorageNode:
    """One node of what keeps the objects."""

    id: str
    address: str
    data_dir: str
    status: str
    last_seen: datetime


class NoRoom(Exception):
    """There is no room left for what is to be stored; nothing of it is kept."""


class ObjectStore(Protocol):
    """Keeps blobs."""

    one_host: bool  # what one host stores, no other host has

    async def put(self, id: UUID, data: AsyncIterator[bytes]) -> Stored:
        """Store what comes; durable when it returns. Cut off, or when `data` raises, it leaves nothing."""
        ...

    async def compose(self, id: UUID, parts: Sequence[UUID]) -> Stored:
        """Store the parts, one after the other, as a blob of its own. They stay."""
        ...

    def get(self, id: UUID, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes from `start` to before `end`, in pieces. Raises LookupError when there is no such blob."""
        ...

    async def delete(self, id: UUID) -> None:
        """Have it gone. Nothing there is success."""
        ...

    def list(self) -> AsyncGenerator[tuple[UUID, datetime]]:
        """All there is, and since when."""
        ...

    async def verify(self, id: UUID) -> Stored | None:
        """What is there, read again; None when nothing is."""
        ...

    async def nodes(self) -> Sequence[StorageNode]:
        """The nodes, and how they are."""
        ...
