"""Objects in memory. See ObjectStore."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from drivers.objects import NoRoom, StorageNode, Stored

PIECE = 64 * 1024


class FakeObjects:
    """A dictionary. `room` is how many bytes it has left; None: any number."""

    one_host = True

    def __init__(self) -> None:
        self.blobs: dict[UUID, bytes] = {}
        self.since: dict[UUID, datetime] = {}
        self.room: int | None = None
        self.reading = 0

    async def put(self, id: UUID, data: AsyncIterator[bytes]) -> Stored:
        received = bytearray()
        async for piece in data:
            received += piece
            if self.room is not None and len(received) > self.room:
                raise NoRoom
        return self._store(id, bytes(received))

    async def compose(self, id: UUID, parts: Sequence[UUID]) -> Stored:
        return self._store(id, b"".join(self.blobs[part] for part in parts))

    async def get(self, id: UUID, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        data = self.blobs[id]
        end = len(data) if end is None else end
        self.reading += 1
        try:
            for at in range(start, end, PIECE):
                yield data[at : min(at + PIECE, end)]
        finally:
            self.reading -= 1

    async def delete(self, id: UUID) -> None:
        self.blobs.pop(id, None)
        self.since.pop(id, None)

    async def list(self) -> AsyncGenerator[tuple[UUID, datetime]]:
        for id, since in list(self.since.items()):
            yield id, since

    async def verify(self, id: UUID) -> Stored | None:
        return _stored(self.blobs[id]) if id in self.blobs else None

    async def nodes(self) -> Sequence[StorageNode]:
        now = datetime.now(UTC)
        return [StorageNode(id="local-node", address="localhost", data_dir="memory", status="alive", last_seen=now)]

    def age(self, time: timedelta) -> None:
        """Let all there is have been there for so much longer."""
        self.since = {id: since - time for id, since in self.since.items()}

    def _store(self, id: UUID, data: bytes) -> Stored:
        self.blobs[id], self.since[id] = data, datetime.now(UTC)
        return _stored(data)


def _stored(data: bytes) -> Stored:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return Stored(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), md5=md5)
