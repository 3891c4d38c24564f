"""The rows of volumes and snapshots, and what instances do with volumes."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import instances_pb2
from thecloud.v1 import volumes_pb2 as pb

from drivers import contracts
from drivers.contracts import Mount
from server import changes, db
from server.db import Provisioned, Tx
from server.errors import ApiError, invalid, not_found, wrong_state

if TYPE_CHECKING:
    from server.app import App

LETTERS = "bcdefghijklmnopq"  # of the disks of a virtual machine: as many as an instance may have volumes
KEPT = ("/proc", "/sys", "/dev")  # of a container: nothing is mounted there, nor below


@db.row("volumes", "volume", pb.Volume)
class Volume(Provisioned):
    user_id: UUID
    host: str
    name: str
    size_gb: int
    instance_id: UUID | None
    mount_path: str | None  # as a container, or a virtual machine that began with it, has it
    device: str | None  # as a virtual machine has it
    detaching: bool  # the virtual machine is to let go of it
    opaque: bool  # a virtual machine has had it, and no host looks into it again
    snapshot_id: UUID | None


@db.row("snapshots", "snapshot", pb.Snapshot)
class Snapshot(Provisioned):
    user_id: UUID
    host: str
    volume_id: UUID
    description: str
    size_gb: int
    opaque: bool  # as the volume was


V, S = Volume.TABLE.c, Snapshot.TABLE.c
_OF_INSTANCE = (
    sa.select(Volume.TABLE)
    .where(V.instance_id == sa.bindparam("instance", type_=postgresql.UUID))
    .order_by(V.mount_path, V.device)
)
_OF_INSTANCE_LOCKED = _OF_INSTANCE.with_for_update()
_PENDING_SNAPSHOT = sa.select(S.id).where(S.volume_id == sa.bindparam("volume", type_=postgresql.UUID),
                                          S.status == "CREATING")  # fmt: skip


async def locate(tx: Tx, reference: str, tenant_id: UUID, *, lock: bool = False) -> Volume:
    """The tenant's volume with this id or name. Raises NOT_FOUND also for one on its way out."""
    volume = await db.locate(tx, Volume, reference, tenant_id, lock=lock)
    if volume.desired == "DELETED":
        raise not_found("volume", reference)
    return volume


async def need_no_snapshot_under_way(tx: Tx, volume: Volume) -> None:
    if snapshot := await db.value(tx, _PENDING_SNAPSHOT, volume=volume.id):
        raise ApiError("IN_USE", f"snapshot {snapshot} of volume {volume.name} is just being taken; try again",
                       kind="volume", id=str(volume.id), by=f"snapshot/{snapshot}")  # fmt: skip


Wanted = Sequence[instances_pb2.CreateInstanceRequest.Volume]


async def host_of(tx: Tx, wanted: Wanted, tenant_id: UUID) -> str | None:
    """The host that an instance with these volumes must be on. Raises INVALID_ARGUMENT when they are on several."""
    hosts = {(await locate(tx, each.volume_id, tenant_id)).host for each in wanted}
    if len(hosts) > 1:
        raise invalid("volumes", f"the volumes are on different hosts: {', '.join(sorted(hosts))}")
    return hosts.pop() if hosts else None


async def attach(tx: Tx, wanted: Wanted, tenant_id: UUID, instance_id: UUID, *, as_disks: bool) -> None:
    """Give the volumes to a new instance. Its row may come after this, in the same transaction."""
    check_paths([each.mount_path for each in wanted])
    letters = iter(LETTERS)
    for each in sorted(wanted, key=lambda each: each.volume_id):
        volume = await free(tx, each.volume_id, tenant_id)
        if as_disks:
            more = {"device": f"vd{next(letters)}", "opaque": True}
        elif volume.opaque:
            raise invalid("volumes", f"volume {volume.name} was a disk of a virtual machine, and what is on it is its: "
                                     "only virtual machines take it")  # fmt: skip
        else:
            more = {}
        await changes.update(
            tx, volume, status="IN-USE", instance_id=instance_id, mount_path=each.mount_path, **more
        )  # fmt: skip


async def attach_disk(tx: Tx, reference: str, tenant_id: UUID, instance_id: UUID) -> Volume:
    """Give a volume to a virtual machine that is there already."""
    volume = await free(tx, reference, tenant_id)
    taken = {each.device for each in await db.rows(tx, Volume, _OF_INSTANCE, instance=instance_id)}
    device = next((name for letter in LETTERS if (name := f"vd{letter}") not in taken), None)
    if device is None:
        raise invalid("instance_id", f"the instance has {len(taken)} volumes, and there may be no more")
    return await changes.update(tx, volume, status="IN-USE", instance_id=instance_id, device=device, opaque=True)


async def free(tx: Tx, reference: str, tenant_id: UUID) -> Volume:
    """The volume, locked. Raises WRONG_STATE for one that is in use or not well, IN_USE while a snapshot is taken."""
    volume = await locate(tx, reference, tenant_id, lock=True)
    if volume.status != "AVAILABLE":
        raise wrong_state("volume", volume.id, volume.status, "AVAILABLE")
    await need_no_snapshot_under_way(tx, volume)
    return volume


def check_paths(paths: Iterable[str]) -> None:
    """Raise INVALID_ARGUMENT for where nothing can, or should, be mounted."""
    seen = set[PurePosixPath]()
    for text in paths:
        path = PurePosixPath(text)
        plain = ".." not in path.parts and str(path) == text.rstrip("/") and path.root == "/"
        if not plain or any(path.is_relative_to(one) for one in KEPT):
            raise invalid("volumes", f"nothing is mounted at {text}; choose a path such as /data")
        if path in seen:
            raise invalid("volumes", f"two volumes would be mounted at {text}")
        seen.add(path)


async def of(app: "App", instance_id: UUID) -> list[Volume]:
    """The instance's volumes, there on this host, and those that it is to let go of."""
    async with app.db.reading() as tx:
        return await db.rows(tx, Volume, _OF_INSTANCE, instance=instance_id)


async def mounts(app: "App", attached: Iterable[Volume]) -> tuple[Mount, ...]:
    """The volumes, there and mounted on this host."""
    found = []
    for volume in attached:
        await app.drivers.volumes.apply(volume.id, volume.size_gb, volume.snapshot_id)
        found.append(Mount(await app.drivers.volumes.mount(volume.id), volume.mount_path or ""))
    return tuple(found)


async def disks(app: "App", attached: Iterable[Volume]) -> tuple[contracts.Volume, ...]:
    """The volumes that a virtual machine is to have, there on this host."""
    found = []
    for volume in attached:
        if volume.device and not volume.detaching:
            await app.drivers.volumes.apply(volume.id, volume.size_gb, volume.snapshot_id, opaque=True)
            path = await app.drivers.volumes.open(volume.id)
            found.append(contracts.Volume(id=volume.id, path=path, format="raw", device=volume.device))
    return tuple(found)


def paths(attached: Iterable[Volume]) -> tuple[tuple[UUID, str], ...]:
    """Where a virtual machine is to have which volumes."""
    return tuple((volume.id, volume.mount_path) for volume in attached if volume.mount_path)


async def let_go(app: "App", attached: Iterable[Volume]) -> None:
    """Those of the volumes are free that were on their way off when `attached` was read: the instance has none now."""
    leaving = [volume.id for volume in attached if volume.detaching]
    for id in leaving:
        await app.drivers.volumes.unmount(id)
    if leaving:
        async with app.db.transaction() as tx:
            for id in leaving:
                await _freed(tx, await db.find(tx, Volume, id, lock=True))


async def release(app: "App", instance_id: UUID) -> None:
    """Have the volumes of an instance that is no more written and free."""
    for volume in await of(app, instance_id):
        await app.drivers.volumes.unmount(volume.id)
    async with app.db.transaction() as tx:
        for volume in await db.rows(tx, Volume, _OF_INSTANCE_LOCKED, instance=instance_id):
            await _freed(tx, volume)


async def _freed(tx: Tx, volume: Volume | None) -> None:
    if volume is not None:
        nowhere = {"instance_id": None, "mount_path": None, "device": None, "detaching": False}
        await changes.update(tx, volume, status="AVAILABLE", status_message=None, **nowhere)
