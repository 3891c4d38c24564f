"""Volumes as images of a Ceph pool, which all hosts see: each with ext4 on it, as large as the volume.

A container is given the folder where the image is mounted through the kernel's rbd. An image is mapped only while
this host works on it, has it mounted or runs a machine with it, and for this host alone (`--exclusive`): no two hosts
write to one.

A snapshot is an image of its own, copied, so that it and its volume may go in any order. An image is whole when its
metadata says its own name: one that is half made has none, and one that is copied has its source's.
"""

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from drivers import ext4
from drivers.contracts import Refused
from drivers.volumes import VolumeSeen

GIB = 2**30
KEY = "thecloud"  # of the metadata that say how far an image is
GROWING = "{} growing"  # its file system may not be as large as it is
ABSENT = 2  # what rbd exits with


class RbdVolumes:
    """See VolumeDriver. Images of other clouds in the same pool are left alone; mounts are below `folder`.

    Raises LookupError where the programs are not installed.
    """

    one_host = False

    def __init__(self, cloud_id: str, folder: Path, *, pool: str, conf: str, id: str) -> None:
        if not shutil.which("rbd"):
            raise LookupError("the volumes driver 'rbd' needs the program rbd: install ceph-common")
        self._volume, self._snapshot_of = f"thecloud-{cloud_id}-volume-", f"thecloud-{cloud_id}-snapshot-"
        self._mounts, self._pool = folder / "mounts", pool
        self._command = ("rbd", "--conf", conf, "--id", id)

    async def apply(
        self, id: UUID, size_gb: int, snapshot_id: UUID | None = None, *, opaque: bool = False
    ) -> VolumeSeen:  # fmt: skip
        return await asyncio.to_thread(self._apply, id, size_gb, snapshot_id, opaque)

    async def observe(self, id: UUID) -> VolumeSeen | None:
        return await asyncio.to_thread(self._observe, id)

    async def delete(self, id: UUID) -> None:
        await asyncio.to_thread(self._delete, id)

    async def list(self) -> set[UUID]:
        return await asyncio.to_thread(self._ids, self._volume)

    async def mount(self, id: UUID) -> str:
        return await asyncio.to_thread(self._mount, id)

    async def open(self, id: UUID) -> str:
        return await asyncio.to_thread(self._open, id)

    async def unmount(self, id: UUID) -> None:
        await asyncio.to_thread(self._unmount, id)

    async def snapshot(self, id: UUID, snapshot_id: UUID) -> None:
        await asyncio.to_thread(self._snapshot, id, snapshot_id)

    async def delete_snapshot(self, snapshot_id: UUID) -> None:
        await asyncio.to_thread(self._remove, f"{self._snapshot_of}{snapshot_id}")

    async def list_snapshots(self) -> set[UUID]:
        return await asyncio.to_thread(self._ids, self._snapshot_of)

    def _apply(self, id: UUID, size_gb: int, snapshot_id: UUID | None, opaque: bool) -> VolumeSeen:
        name = f"{self._volume}{id}"
        if self._state(name) not in (name, GROWING.format(name)):
            self._make(id, size_gb, snapshot_id)
        if self._state(name) != name or self._size(name) < size_gb:
            self._grow(id, size_gb, opaque)
        seen = self._observe(id)
        assert seen is not None
        return seen

    def _make(self, id: UUID, size_gb: int, snapshot_id: UUID | None) -> None:
        name, source = f"{self._volume}{id}", f"{self._snapshot_of}{snapshot_id}"
        if snapshot_id and self._state(source) != source:
            raise Refused(f"snapshot {snapshot_id} is not there")
        self._remove(name)
        if snapshot_id:
            self._rbd("cp", "--no-progress", self._at(source), self._at(name))
        else:
            self._rbd("create", "--size", f"{size_gb}G", self._at(name))
            ext4.make(self._map(name))
            self._unmap(name)
        self._set_state(name, name)

    def _grow(self, id: UUID, size_gb: int, opaque: bool) -> None:
        name = f"{self._volume}{id}"
        if self._in_use(id):
            raise Refused(f"volume {id} is in use; it grows when it is not")
        self._set_state(name, GROWING.format(name))
        if self._size(name) < size_gb:
            self._rbd("resize", "--no-progress", "--size", f"{size_gb}G", self._at(name))
        if not opaque:
            ext4.grow(self._map(name))
            self._unmap(name)
        self._set_state(name, name)

    def _observe(self, id: UUID) -> VolumeSeen | None:
        name, folder = f"{self._volume}{id}", self._mounts / f"{id}"
        state = self._state(name)
        if state not in (name, GROWING.format(name)):
            return None
        return VolumeSeen(
            size_gb=self._size(name) if state == name else 0,  # nobody knows: it is finished by the next apply
            folder=str(folder) if ext4.device(folder) else None,
        )

    def _delete(self, id: UUID) -> None:
        self._unmount(id)
        self._remove(f"{self._volume}{id}")

    def _mount(self, id: UUID) -> str:
        name, folder = f"{self._volume}{id}", self._mounts / f"{id}"
        if self._state(name) != name:
            raise LookupError(f"volume {id} is not there")
        if not ext4.device(folder):
            ext4.mount(self._map(name), folder)
        return str(folder)

    def _open(self, id: UUID) -> str:
        name = f"{self._volume}{id}"
        if self._state(name) != name:
            raise LookupError(f"volume {id} is not there")
        return self._map(name)

    def _unmount(self, id: UUID) -> None:
        ext4.unmount(self._mounts / f"{id}")
        self._unmap(f"{self._volume}{id}")

    def _snapshot(self, id: UUID, snapshot_id: UUID) -> None:
        name, source = f"{self._snapshot_of}{snapshot_id}", f"{self._volume}{id}"
        if self._state(name) == name:
            return
        if self._state(source) != source or self._in_use(id):
            raise Refused(f"volume {id} is in use, or not there")
        self._remove(name)
        self._rbd("cp", "--no-progress", self._at(source), self._at(name))
        self._set_state(name, name)

    def _in_use(self, id: UUID) -> bool:
        """Whether this host has it mounted, or another has it mapped."""
        if ext4.device(self._mounts / f"{id}"):
            return True
        name = f"{self._volume}{id}"
        self._unmap(name)  # what a step that died has left
        return bool(json.loads(self._rbd("status", "--format", "json", self._at(name)))["watchers"])

    def _map(self, name: str) -> str:
        """The block device of the image, on this host."""
        for device in self._devices(name):
            return device
        return self._rbd("device", "map", "--exclusive", *waiting(), self._at(name)).strip()

    def _unmap(self, name: str) -> None:
        for device in self._devices(name):
            self._rbd("device", "unmap", *waiting(), device)

    def _devices(self, name: str) -> Sequence[str]:
        mapped = json.loads(self._rbd("device", "list", "--format", "json"))
        return [one["device"] for one in mapped if (one["pool"], one["name"]) == (self._pool, name)]

    def _names(self) -> Sequence[str]:
        return json.loads(self._rbd("ls", "--format", "json", self._pool))  # type: ignore[no-any-return]

    def _ids(self, prefix: str) -> set[UUID]:
        """Of the images there, whole or not, what they belong to."""
        return {UUID(name.removeprefix(prefix)) for name in self._names() if name.startswith(prefix)}

    def _size(self, name: str) -> int:
        """In GiB."""
        return int(json.loads(self._rbd("info", "--format", "json", self._at(name)))["size"]) // GIB

    def _state(self, name: str) -> str | None:
        """What the image's metadata say; None where there is none of them, or no image."""
        said = self._rbd("image-meta", "get", self._at(name), KEY, fine=(0, ABSENT)).strip()
        if not said:
            self._names()  # which raises where there is no pool
        return said or None

    def _set_state(self, name: str, state: str) -> None:
        self._rbd("image-meta", "set", self._at(name), KEY, state)

    def _remove(self, name: str) -> None:
        """Have the image gone, and what a kill has left of one that is not listed."""
        self._names()
        self._unmap(name)
        self._rbd("rm", "--no-progress", self._at(name), fine=(0, ABSENT))

    def _at(self, name: str) -> str:
        return f"{self._pool}/{name}"

    def _rbd(self, *command: str, fine: tuple[int, ...] = (0,)) -> str:
        return ext4.run(*self._command, *command, fine=fine)


def waiting() -> tuple[str, ...]:
    """Options for mapping: to wait for udev's links, but where there is no udev not to wait for ever."""
    return () if Path("/run/udev/control").exists() else ("--options", "noudev")
