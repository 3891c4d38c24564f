"""What the control plane asks of the storage of volumes.

The three verbs of drivers/contracts.py, and snapshots. A volume is one disk: a file or a block device
with a file system on it, so that it may be given to a virtual machine, or mounted for a container.

tests/drivers/volume_contract.py is this text as tests; every driver passes it.
"""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, kw_only=True)
class VolumeSeen:
    """A volume that is there."""

    size_gb: int

    folder: str | None = None  # where what is in it is mounted, if it is


class VolumeDriver(Protocol):
    """Keeps the volumes of one host, or of all."""

    one_host: bool  # a volume is on the host that made it; else all hosts see the same volumes, and one uses it

    async def apply(
        self, id: UUID, size_gb: int, snapshot_id: UUID | None = None, *, opaque: bool = False
    ) -> VolumeSeen:  # fmt: skip
        """Have the volume there, of this size in GiB: a new one is empty, or as the snapshot.

        One that is there grows, with the file system on it unless that is `opaque`: a virtual machine has written
        there, and what it wrote is not looked into. It never shrinks. Raises Refused to let one grow that is
        mounted, for a snapshot that is not there, and where there is no room.
        """
        ...

    async def observe(self, id: UUID) -> VolumeSeen | None:
        """What is there now; None when there is nothing."""
        ...

    async def delete(self, id: UUID) -> None:
        """Have it gone with what is in it, mounted or not. Nothing there is success. Snapshots of it stay."""
        ...

    async def list(self) -> set[UUID]:
        """The volumes that there is anything of."""
        ...

    async def mount(self, id: UUID) -> str:
        """A folder with what is in the volume, which takes no more than its size. May be repeated.

        Raises LookupError when there is no such volume.
        """
        ...

    async def open(self, id: UUID) -> str:
        """The path of the disk, for a virtual machine of this host. May be repeated.

        Raises LookupError when there is no such volume.
        """
        ...

    async def unmount(self, id: UUID) -> None:
        """Have it mounted no longer, nor open, with everything written. Neither is success.

        A virtual machine that has it has let go of it before.
        """
        ...

    async def snapshot(self, id: UUID, snapshot_id: UUID) -> None:
        """Keep what is in a volume that is not mounted. One that is there stays as it is.

        Raises Refused for a volume that is mounted or not there.
        """
        ...

    async def delete_snapshot(self, snapshot_id: UUID) -> None:
        """Have it gone. Nothing there is success."""
        ...

    async def list_snapshots(self) -> set[UUID]:
        """The snapshots that there is anything of."""
        ...
