"""Objects in memory, held to the same contract as the real drivers."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime
from uuid import UUID

from drivers.objects import Hashes, StorageNode, Stored

PIECE = 2**18


class FakeObjects:
    """See ObjectStore."""

    one_host = True

    def __init__(self) -> None:
        self.objects: dict[UUID, tuple[bytes, datetime]] = {}

    async def put(self, id: UUID, data: AsyncIterator[bytes]) -> Stored:
        received = bytearray()
        async for piece in data:
            received += piece
        return self._keep(id, bytes(received))

    async def compose(self, id: UUID, parts: Sequence[UUID]) -> Stored:
        return self._keep(id, b"".join(self._bytes(part) for part in parts))

    async def get(self, id: UUID, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        data = memoryview(self._bytes(id))[start:end]
        for at in range(0, len(data), PIECE):
            yield bytes(data[at : at + PIECE])

    async def delete(self, id: UUID) -> None:
        self.objects.pop(id, None)

    async def list(self) -> AsyncGenerator[tuple[UUID, datetime]]:
        for id, (_, moment) in list(self.objects.items()):
            yield id, moment

    async def verify(self, id: UUID) -> Stored | None:
        return hashed(self._bytes(id)) if id in self.objects else None

    async def nodes(self) -> Sequence[StorageNode]:
        return [StorageNode(id="memory", address="memory", data_dir="/nowhere", status="alive",
                            last_seen=datetime.now(UTC), total_bytes=2**40, free_bytes=2**39)]  # fmt: skip

    def _bytes(self, id: UUID) -> bytes:
        if id not in self.objects:
            raise LookupError(f"object {id} is not there")
        return self.objects[id][0]

    def _keep(self, id: UUID, data: bytes) -> Stored:
        self.objects[id] = (data, datetime.now(UTC))
        return hashed(data)


def hashed(data: bytes) -> Stored:
    hashes = Hashes()
    hashes.update(data)
    return hashes.stored()
