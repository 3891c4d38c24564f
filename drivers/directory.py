"""Volumes as files of this host: each a raw disk image with ext4 on it, as large as the volume and sparse.

A container is given the folder where the image is mounted through a loop device, so that the file
system's size is the limit; a virtual machine the image itself. What is made is made beside its place,
and renamed once it is whole. A volume that grows has a mark beside it until its file system has grown.
"""

import asyncio
import shutil
from pathlib import Path
from uuid import UUID

from drivers import ext4
from drivers.contracts import Refused
from drivers.volumes import VolumeSeen

GIB = 2**30
NEW, GROWING = ".new", ".growing"


class DirectoryVolumes:
    """See VolumeDriver. Everything is below `folder`."""

    one_host = True

    def __init__(self, folder: Path) -> None:
        self._volumes, self._snapshots, self._mounts = (folder / name for name in ("disks", "snapshots", "mounts"))

    async def apply(
        self, id: UUID, size_gb: int, snapshot_id: UUID | None = None, *, opaque: bool = False
    ) -> VolumeSeen:  # fmt: skip
        return await asyncio.to_thread(self._apply, id, size_gb, snapshot_id, opaque)

    async def observe(self, id: UUID) -> VolumeSeen | None:
        return await asyncio.to_thread(self._observe, id)

    async def delete(self, id: UUID) -> None:
        await asyncio.to_thread(self._delete, id)

    async def list(self) -> set[UUID]:
        return await asyncio.to_thread(ids, self._volumes)

    async def mount(self, id: UUID) -> str:
        return await asyncio.to_thread(self._mount, id)

    async def open(self, id: UUID) -> str:
        disk = self._volumes / f"{id}"
        if not await asyncio.to_thread(disk.exists):
            raise LookupError(f"volume {id} is not on this host")
        return str(disk)

    async def unmount(self, id: UUID) -> None:
        await asyncio.to_thread(self._unmount, id)

    async def snapshot(self, id: UUID, snapshot_id: UUID) -> None:
        await asyncio.to_thread(self._snapshot, id, snapshot_id)

    async def delete_snapshot(self, snapshot_id: UUID) -> None:
        await asyncio.to_thread(remove, self._snapshots / f"{snapshot_id}")

    async def list_snapshots(self) -> set[UUID]:
        return await asyncio.to_thread(ids, self._snapshots)

    def _apply(self, id: UUID, size_gb: int, snapshot_id: UUID | None, opaque: bool) -> VolumeSeen:
        disk = self._volumes / f"{id}"
        if not disk.exists():
            self._make(disk, size_gb, snapshot_id)
        mark = disk.with_suffix(GROWING)
        if disk.stat().st_size < size_gb * GIB or mark.exists():
            if ext4.device(self._mounts / f"{id}"):
                raise Refused(f"volume {id} is in use; it grows when it is not")
            mark.touch()
            ext4.run("truncate", "--size", f"{max(disk.stat().st_size, size_gb * GIB)}", str(disk))
            if not opaque:
                ext4.grow(str(disk))
            mark.unlink()
        seen = self._observe(id)
        assert seen is not None
        return seen

    def _make(self, disk: Path, size_gb: int, snapshot_id: UUID | None) -> None:
        disk.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = disk.with_suffix(NEW)
        new.unlink(missing_ok=True)
        if snapshot_id is None:
            ext4.run("truncate", "--size", f"{size_gb * GIB}", str(new))
            ext4.make(str(new))
        else:
            source = self._snapshots / f"{snapshot_id}"
            if not source.exists():
                raise Refused(f"snapshot {snapshot_id} is not on this host")
            copy(source, new)
        new.rename(disk)

    def _observe(self, id: UUID) -> VolumeSeen | None:
        disk, folder = self._volumes / f"{id}", self._mounts / f"{id}"
        try:
            size = disk.stat().st_size
        except FileNotFoundError:
            return None
        if disk.with_suffix(GROWING).exists():
            size = 0  # nobody knows: it is finished by the next apply
        return VolumeSeen(
            size_gb=size // GIB, folder=str(folder) if ext4.device(folder) else None
        )  # fmt: skip

    def _delete(self, id: UUID) -> None:
        self._unmount(id)
        remove(self._volumes / f"{id}")

    def _mount(self, id: UUID) -> str:
        disk, folder = self._volumes / f"{id}", self._mounts / f"{id}"
        if not disk.exists():
            raise LookupError(f"volume {id} is not on this host")
        if not ext4.device(folder):
            ext4.mount(str(disk), folder, options=f"loop,{ext4.OPTIONS}")
        return str(folder)

    def _unmount(self, id: UUID) -> None:
        ext4.unmount(self._mounts / f"{id}")

    def _snapshot(self, id: UUID, snapshot_id: UUID) -> None:
        kept, disk = self._snapshots / f"{snapshot_id}", self._volumes / f"{id}"
        if kept.exists():
            return
        if not disk.exists() or ext4.device(self._mounts / f"{id}"):
            raise Refused(f"volume {id} is in use, or not on this host")
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = kept.with_suffix(NEW)
        copy(disk, new)
        new.rename(kept)


def ids(folder: Path) -> set[UUID]:
    """Of the files there, whole or not, what they belong to."""
    return {UUID(file.name[:36]) for file in folder.glob("*")} if folder.exists() else set()


def remove(file: Path) -> None:
    """The file goes last, so that what is left after a crash is found again."""
    for beside in (file.with_suffix(NEW), file.with_suffix(GROWING), file):
        beside.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """A copy that takes no more room than what is in it. Raises Refused where that is not there."""
    target.unlink(missing_ok=True)
    used, free = source.stat().st_blocks * 512, shutil.disk_usage(target.parent).free
    if used > free:
        raise Refused(f"this host has {free // 2**20} MiB left, and {used // 2**20} MiB are needed")
    ext4.run("cp", "--sparse=always", "--reflink=auto", str(source), str(target))
