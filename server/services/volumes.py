"""Volumes and their snapshots."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import instances_pb2
from thecloud.v1 import volumes_pb2 as pb

from drivers.contracts import Mount
from server import changes, db, quota, rating
from server.call import Call
from server.db import Provisioned, Tx
from server.errors import ApiError, invalid, not_found, wrong_state
from server.provision import ask, create, gone, observed, reconciles, reconciling
from server.work import every, nudge

if TYPE_CHECKING:
    from server.app import App

KEPT = ("/proc", "/sys", "/dev")  # of a container: nothing is mounted there, nor below


@db.row("volumes", "volume", pb.Volume)
class Volume(Provisioned):
    user_id: UUID
    host: str
    name: str
    size_gb: int
    instance_id: UUID | None
    mount_path: str | None
    snapshot_id: UUID | None


@db.row("snapshots", "snapshot", pb.Snapshot)
class Snapshot(Provisioned):
    user_id: UUID
    host: str
    volume_id: UUID
    description: str
    size_gb: int


V, S = Volume.TABLE.c, Snapshot.TABLE.c
_listed, _listed_snapshots = (
    sa.and_(columns.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID), columns.desired != "DELETED")
    for columns in (V, S)
)
_OF_INSTANCE = (
    sa.select(Volume.TABLE)
    .where(V.instance_id == sa.bindparam("instance", type_=postgresql.UUID))
    .order_by(V.mount_path)
    .with_for_update()
)
_PENDING_SNAPSHOT = sa.select(S.id).where(S.volume_id == sa.bindparam("volume", type_=postgresql.UUID),
                                          S.status == "CREATING")  # fmt: skip
_BEGINNING_AS = sa.select(V.id).where(V.snapshot_id == sa.bindparam("snapshot", type_=postgresql.UUID),
                                      V.observed_generation == 0)  # fmt: skip
_HERE, _SNAPSHOTS_HERE = (
    sa.select(columns.id).where(columns.host == sa.bindparam("at_host")) for columns in (V, S)
)  # fmt: skip


def _sum(columns: Any, condition: Any) -> Any:
    return sa.select(sa.func.coalesce(sa.func.sum(columns.size_gb), 0)).where(condition).scalar_subquery()


quota.counted("volumes", 100, sa.select(sa.func.count()).select_from(Volume.TABLE).where(_listed))
quota.counted("snapshots", 100, sa.select(sa.func.count()).select_from(Snapshot.TABLE).where(_listed_snapshots))
quota.counted("storage_gb", 500, sa.select(sa.cast(_sum(V, _listed) + _sum(S, _listed_snapshots), sa.BigInteger)))
for kind in ("volume", "snapshot"):
    rating.metered(kind, category="storage", size=lambda state: ("standard", state["size_gb"]),
                   billed=lambda state: True, unit="GB-second")  # fmt: skip


class VolumeService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListVolumes(self, call: Call, request: pb.ListVolumesRequest) -> pb.ListVolumesResponse:
        found, token = await db.page(
            call.tx, Volume, _listed, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListVolumesResponse(volumes=map(to_message, found), next_page_token=token)

    async def CreateVolume(self, call: Call, request: pb.CreateVolumeRequest) -> pb.Volume:
        host, size_gb, snapshot_id = self.app.config.host, request.size_gb, None
        if request.snapshot_id:
            snapshot = await locate_snapshot(call.tx, request.snapshot_id, call.tenant_id)
            if snapshot.status != "AVAILABLE":
                raise wrong_state("snapshot", snapshot.id, snapshot.status, "AVAILABLE")
            host, size_gb, snapshot_id = snapshot.host, size_gb or snapshot.size_gb, snapshot.id
            if size_gb < snapshot.size_gb:
                raise invalid("size_gb", f"the snapshot has {snapshot.size_gb} GiB; ask for as many, or more")
        if not size_gb:
            raise invalid("size_gb", "a volume has 1 to 16000 GiB")
        try:
            return to_message(await create(
                call.tx, Volume, id=uuid4(), desired="AVAILABLE", status="AVAILABLE", tenant_id=call.tenant_id,
                user_id=call.principal.user_id, host=host, name=request.name, size_gb=size_gb, snapshot_id=snapshot_id,
            ))  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise ApiError("ALREADY_EXISTS", f"a volume {request.name!r} is there already; choose another name",
                           kind="volume", name=request.name) from None  # fmt: skip

    async def GetVolume(self, call: Call, request: pb.GetVolumeRequest) -> pb.Volume:
        return to_message(await locate(call.tx, request.id, call.tenant_id))

    async def DeleteVolume(self, call: Call, request: pb.DeleteVolumeRequest) -> Empty:
        volume = await locate(call.tx, request.id, call.tenant_id, lock=True)
        if volume.instance_id:
            raise ApiError("IN_USE", f"volume {volume.name} is in use by instance {volume.instance_id}; terminate that "
                           "first", kind="volume", id=str(volume.id), by=f"instance/{volume.instance_id}")  # fmt: skip
        await need_no_snapshot_under_way(call.tx, volume)
        await ask(call.tx, volume, desired="DELETED")
        return Empty()

    async def ResizeVolume(self, call: Call, request: pb.ResizeVolumeRequest) -> pb.Volume:
        volume = await locate(call.tx, request.id, call.tenant_id, lock=True)
        if request.size_gb < volume.size_gb:
            raise invalid("size_gb", f"volume {volume.name} has {volume.size_gb} GiB, and volumes never shrink")
        if request.size_gb == volume.size_gb:
            return to_message(volume)
        if volume.instance_id:
            raise wrong_state("volume", volume.id, volume.status, "AVAILABLE")
        await need_no_snapshot_under_way(call.tx, volume)
        return to_message(await ask(call.tx, volume, size_gb=request.size_gb))

    async def ListSnapshots(self, call: Call, request: pb.ListSnapshotsRequest) -> pb.ListSnapshotsResponse:
        found, token = await db.page(
            call.tx, Snapshot, _listed_snapshots, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id,
        )  # fmt: skip
        return pb.ListSnapshotsResponse(snapshots=map(to_snapshot, found), next_page_token=token)

    async def CreateSnapshot(self, call: Call, request: pb.CreateSnapshotRequest) -> pb.Snapshot:
        volume = await locate(call.tx, request.volume_id, call.tenant_id, lock=True)
        if volume.status != "AVAILABLE":
            raise wrong_state("volume", volume.id, volume.status, "AVAILABLE")
        return to_snapshot(await create(
            call.tx, Snapshot, id=uuid4(), desired="AVAILABLE", status="CREATING", tenant_id=call.tenant_id,
            user_id=call.principal.user_id, host=volume.host, volume_id=volume.id, description=request.description,
            size_gb=volume.size_gb,
        ))  # fmt: skip

    async def GetSnapshot(self, call: Call, request: pb.GetSnapshotRequest) -> pb.Snapshot:
        return to_snapshot(await locate_snapshot(call.tx, request.id, call.tenant_id))

    async def DeleteSnapshot(self, call: Call, request: pb.DeleteSnapshotRequest) -> Empty:
        snapshot = await locate_snapshot(call.tx, request.id, call.tenant_id)
        if beginning := await db.value(call.tx, _BEGINNING_AS, snapshot=snapshot.id):
            raise ApiError("IN_USE", f"volume {beginning} is just being made of snapshot {snapshot.id}; try again",
                           kind="snapshot", id=str(snapshot.id), by=f"volume/{beginning}")  # fmt: skip
        await ask(call.tx, snapshot, desired="DELETED")
        return Empty()


def to_message(row: Volume) -> pb.Volume:
    return db.to_message(row, reconciling=reconciling(row))  # type: ignore[no-any-return]


def to_snapshot(row: Snapshot) -> pb.Snapshot:
    return db.to_message(row, reconciling=reconciling(row))  # type: ignore[no-any-return]


async def locate(tx: Tx, reference: str, tenant_id: UUID, *, lock: bool = False) -> Volume:
    """The tenant's volume with this id or name. Raises NOT_FOUND also for one on its way out."""
    volume = await db.locate(tx, Volume, reference, tenant_id, lock=lock)
    if volume.desired == "DELETED":
        raise not_found("volume", reference)
    return volume


async def locate_snapshot(tx: Tx, id: str, tenant_id: UUID) -> Snapshot:
    snapshot = await db.get(tx, Snapshot, id, tenant_id, lock=True)
    if snapshot.desired == "DELETED":
        raise not_found("snapshot", id)
    return snapshot


async def need_no_snapshot_under_way(tx: Tx, volume: Volume) -> None:
    if snapshot := await db.value(tx, _PENDING_SNAPSHOT, volume=volume.id):
        raise ApiError("IN_USE", f"snapshot {snapshot} of volume {volume.name} is just being taken; try again",
                       kind="volume", id=str(volume.id), by=f"snapshot/{snapshot}")  # fmt: skip


# What instances do with volumes


Wanted = Sequence[instances_pb2.CreateInstanceRequest.Volume]


async def host_of(tx: Tx, wanted: Wanted, tenant_id: UUID) -> str | None:
    """The host that an instance with these volumes must be on. Raises INVALID_ARGUMENT when they are on several."""
    hosts = {(await locate(tx, each.volume_id, tenant_id)).host for each in wanted}
    if len(hosts) > 1:
        raise invalid("volumes", f"the volumes are on different hosts: {', '.join(sorted(hosts))}")
    return hosts.pop() if hosts else None


async def attach(tx: Tx, wanted: Wanted, tenant_id: UUID, instance_id: UUID) -> None:
    """Give the volumes to a new instance. Its row may come after this, in the same transaction."""
    check_paths([each.mount_path for each in wanted])
    for each in sorted(wanted, key=lambda each: each.volume_id):
        volume = await locate(tx, each.volume_id, tenant_id, lock=True)
        if volume.status != "AVAILABLE":
            raise wrong_state("volume", volume.id, volume.status, "AVAILABLE")
        await need_no_snapshot_under_way(tx, volume)
        await changes.update(tx, volume, status="IN-USE", instance_id=instance_id, mount_path=each.mount_path)


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


async def mounts(app: "App", instance_id: UUID) -> tuple[Mount, ...]:
    """The instance's volumes, there and mounted on this host."""
    async with app.db.transaction() as tx:
        volumes = await db.rows(tx, Volume, _OF_INSTANCE, instance=instance_id)
    found = []
    for volume in volumes:
        await app.drivers.volumes.apply(volume.id, volume.size_gb, volume.snapshot_id)
        found.append(Mount(await app.drivers.volumes.mount(volume.id), volume.mount_path or ""))
    return tuple(found)


async def release(app: "App", instance_id: UUID) -> None:
    """Have the volumes of an instance that is no more written and free."""
    async with app.db.transaction() as tx:
        volumes = await db.rows(tx, Volume, _OF_INSTANCE, instance=instance_id)
    for volume in volumes:
        await app.drivers.volumes.unmount(volume.id)
    async with app.db.transaction() as tx:
        for volume in await db.rows(tx, Volume, _OF_INSTANCE, instance=instance_id):
            await changes.update(tx, volume, status="AVAILABLE", instance_id=None, mount_path=None)


# Reconcilers


@reconciles(Volume)
async def reconcile(app: "App", row: Volume) -> timedelta | None:
    """Have the volume there, of its size; or gone."""
    if row.desired == "DELETED":
        await app.drivers.volumes.delete(row.id)
        await gone(app, row)
        return None
    await app.drivers.volumes.apply(row.id, row.size_gb, row.snapshot_id)
    await observed(app, row, "IN-USE" if row.instance_id else "AVAILABLE")
    return None


@reconciles(Snapshot)
async def reconcile_snapshot(app: "App", row: Snapshot) -> timedelta | None:
    """Have the snapshot there, or gone."""
    if row.desired == "DELETED":
        await app.drivers.volumes.delete_snapshot(row.id)
        await gone(app, row)
        return None
    await app.drivers.volumes.snapshot(row.volume_id, row.id)
    await observed(app, row, "AVAILABLE")
    return None


@every(timedelta(minutes=1), each_host=True)
async def compare(app: "App") -> None:
    """Look for volumes of this host that are not there, and for leftovers that no row knows."""
    driver = app.drivers.volumes
    there, kept = await driver.list(), await driver.list_snapshots()
    async with app.db.transaction() as tx:
        rows = {each["id"] for each in await db.records(tx, _HERE, at_host=app.config.host)}
        snapshots = {each["id"] for each in await db.records(tx, _SNAPSHOTS_HERE, at_host=app.config.host)}
        for id in rows - there:
            await nudge(tx, Volume.KIND, id, app.config.host)
    for id in there - rows:
        await driver.delete(id)
    for id in kept - snapshots:
        await driver.delete_snapshot(id)
