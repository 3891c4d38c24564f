"""Volumes and their snapshots."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import volumes_pb2 as pb

from drivers.contracts import SupportsVolumes
from server import changes, db, instances, pages, quota, rating
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid, not_found, unsupported, wrong_state
from server.provision import ask, create, gone, observed, reconciles, reconciling
from server.volumes import S, Snapshot, V, Volume, attach_disk, locate, need_no_snapshot_under_way
from server.work import every, nudge

if TYPE_CHECKING:
    from server.app import App


_listed, _listed_snapshots = (
    sa.and_(columns.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID), columns.desired != "DELETED")
    for columns in (V, S)
)
_BEGINNING_AS = sa.select(V.id).where(V.snapshot_id == sa.bindparam("snapshot", type_=postgresql.UUID),
                                      V.observed_generation == 0)  # fmt: skip
_KNOWN, _KNOWN_SNAPSHOTS = (
    sa.select(columns.id, columns.host).where(sa.or_(columns.host == sa.bindparam("at_host"), sa.bindparam("anywhere")))
    for columns in (V, S)
)


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
        found, token = await pages.page(
            call.tx, Volume, _listed, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListVolumesResponse(volumes=map(to_message, found), next_page_token=token)

    async def CreateVolume(self, call: Call, request: pb.CreateVolumeRequest) -> pb.Volume:
        host, size_gb, snapshot_id, opaque = self.app.config.host, request.size_gb, None, False
        if request.snapshot_id:
            snapshot = await locate_snapshot(call.tx, request.snapshot_id, call.tenant_id)
            if snapshot.status != "AVAILABLE":
                raise wrong_state("snapshot", snapshot.id, snapshot.status, "AVAILABLE")
            host, size_gb, snapshot_id = snapshot.host, size_gb or snapshot.size_gb, snapshot.id
            opaque = snapshot.opaque
            if size_gb < snapshot.size_gb:
                raise invalid("size_gb", f"the snapshot has {snapshot.size_gb} GiB; ask for as many, or more")
        if not size_gb:
            raise invalid("size_gb", "a volume has 1 to 16000 GiB")
        try:
            return to_message(await create(
                call.tx, Volume, id=uuid4(), desired="AVAILABLE", status="AVAILABLE", tenant_id=call.tenant_id,
                user_id=call.principal.user_id, host=host, name=request.name, size_gb=size_gb, snapshot_id=snapshot_id,
                detaching=False, opaque=opaque,
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

    async def AttachVolume(self, call: Call, request: pb.AttachVolumeRequest) -> pb.Volume:
        instance = await instances.locked(call.tx, request.instance_id, call.tenant_id)
        compute = self.app.drivers.compute.get(instance.driver)
        if not isinstance(compute, SupportsVolumes):
            raise unsupported("volumes for an instance that is there already: launch it with them", compute)
        instances.need(instance, "RUNNING", "PAUSED", "STOPPED")
        volume = await locate(call.tx, request.id, call.tenant_id)
        if volume.host != instance.host:
            raise invalid("instance_id", f"the volume is on host {volume.host}, and the instance on {instance.host}")
        volume = await attach_disk(call.tx, request.id, call.tenant_id, instance.id)
        await ask(call.tx, instance)
        return to_message(volume)

    async def DetachVolume(self, call: Call, request: pb.DetachVolumeRequest) -> pb.Volume:
        volume = await locate(call.tx, request.id, call.tenant_id)
        if volume.instance_id is None:
            raise wrong_state("volume", volume.id, volume.status, "IN-USE")
        instance = await instances.locked(call.tx, str(volume.instance_id), call.tenant_id)
        volume = await locate(call.tx, request.id, call.tenant_id, lock=True)
        compute = self.app.drivers.compute.get(instance.driver)
        if not isinstance(compute, SupportsVolumes):
            raise unsupported("way to take a volume from an instance: terminate that", compute)
        instances.need(instance, "RUNNING", "STOPPED")
        if volume.instance_id != instance.id or volume.detaching:
            return to_message(volume)
        volume = await changes.update(call.tx, volume, detaching=True, mount_path=None)
        await ask(call.tx, instance)
        return to_message(volume)

    async def ListSnapshots(self, call: Call, request: pb.ListSnapshotsRequest) -> pb.ListSnapshotsResponse:
        found, token = await pages.page(
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
            size_gb=volume.size_gb, opaque=volume.opaque,
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
    return db.to_message(row, reconciling=reconciling(row) or row.detaching)  # type: ignore[no-any-return]


def to_snapshot(row: Snapshot) -> pb.Snapshot:
    return db.to_message(row, reconciling=reconciling(row))  # type: ignore[no-any-return]


async def locate_snapshot(tx: Tx, id: str, tenant_id: UUID) -> Snapshot:
    snapshot = await db.get(tx, Snapshot, id, tenant_id, lock=True)
    if snapshot.desired == "DELETED":
        raise not_found("snapshot", id)
    return snapshot


@reconciles(Volume)
async def reconcile(app: "App", row: Volume) -> timedelta | None:
    """Have the volume there, of its size; or gone."""
    if row.desired == "DELETED":
        await app.drivers.volumes.delete(row.id)
        await gone(app, row)
        return None
    await app.drivers.volumes.apply(row.id, row.size_gb, row.snapshot_id, opaque=row.opaque)
    await observed(app, row, lambda now: "IN-USE" if now.instance_id else "AVAILABLE")
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
        whose = {"at_host": app.config.host, "anywhere": not driver.one_host}
        rows = {each["id"]: each["host"] for each in await db.records(tx, _KNOWN, **whose)}
        snapshots = {each["id"] for each in await db.records(tx, _KNOWN_SNAPSHOTS, **whose)}
        for id in rows.keys() - there:
            if rows[id] == app.config.host:
                await nudge(tx, Volume.KIND, id, app.config.host)
    for id in there - rows.keys():
        await driver.delete(id)
    for id in kept - snapshots:
        await driver.delete_snapshot(id)
