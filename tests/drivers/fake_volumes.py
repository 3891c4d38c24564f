"""Volumes in memory, held to the same contract as the real drivers. What is in one is a text."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

from drivers.contracts import Refused
from drivers.volumes import VolumeSeen


@dataclass
class Disk:
    """One fake volume, as it is now."""

    size_gb: int
    text: str = ""
    mounted: bool = False


class FakeVolumes:
    """See VolumeDriver."""

    one_host = True

    def __init__(self) -> None:
        self.disks: dict[UUID, Disk] = {}
        self.snapshots: dict[UUID, Disk] = {}

    async def apply(
        self, id: UUID, size_gb: int, snapshot_id: UUID | None = None, *, opaque: bool = False
    ) -> VolumeSeen:  # fmt: skip
        await asyncio.sleep(0)
        if id not in self.disks:
            if snapshot_id and snapshot_id not in self.snapshots:
                raise Refused(f"snapshot {snapshot_id} is not there")
            self.disks[id] = Disk(size_gb, self.snapshots[snapshot_id].text if snapshot_id else "")
        disk = self.disks[id]
        if disk.mounted and disk.size_gb < size_gb:
            raise Refused(f"volume {id} is in use; it grows when it is not")
        disk.size_gb = max(disk.size_gb, size_gb)
        return self._seen(id)

    async def observe(self, id: UUID) -> VolumeSeen | None:
        return self._seen(id) if id in self.disks else None

    async def delete(self, id: UUID) -> None:
        await asyncio.sleep(0)
        self.disks.pop(id, None)

    async def list(self) -> set[UUID]:
        return set(self.disks)

    async def mount(self, id: UUID) -> str:
        await asyncio.sleep(0)
        if id not in self.disks:
            raise LookupError(f"volume {id} is not there")
        self.disks[id].mounted = True
        return f"/nowhere/{id}"

    async def open(self, id: UUID) -> str:
        await asyncio.sleep(0)
        if id not in self.disks:
            raise LookupError(f"volume {id} is not there")
        return f"/nowhere/{id}.raw"

    async def unmount(self, id: UUID) -> None:
        await asyncio.sleep(0)
        if id in self.disks:
            self.disks[id].mounted = False

    async def snapshot(self, id: UUID, snapshot_id: UUID) -> None:
        await asyncio.sleep(0)
        if snapshot_id in self.snapshots:
            return
        if id not in self.disks or self.disks[id].mounted:
            raise Refused(f"volume {id} is in use, or not there")
        self.snapshots[snapshot_id] = Disk(self.disks[id].size_gb, self.disks[id].text)

    async def delete_snapshot(self, snapshot_id: UUID) -> None:
        await asyncio.sleep(0)
        self.snapshots.pop(snapshot_id, None)

    async def list_snapshots(self) -> set[UUID]:
        return set(self.snapshots)

    async def write(self, id: UUID, text: str) -> None:
        self.disks[id].text = text

    async def read(self, id: UUID) -> str:
        return self.disks[id].text

    def _seen(self, id: UUID) -> VolumeSeen:
        disk = self.disks[id]
        return VolumeSeen(size_gb=disk.size_gb, folder=f"/nowhere/{id}" if disk.mounted else None)
