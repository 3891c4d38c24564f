"""Images: disks of virtual machines, and archives of container images.

An image is PENDING until its file is there, was looked at and, where it is a container's, is loaded into the engine.
The file is on one host, which `checksum` says it is on: the row is what counts, and files that no row knows are swept.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, get_args
from uuid import UUID, uuid4

import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import images_pb2 as pb

from drivers.contracts import BootDisk, DiskFormat, Refused, SupportsImageArchives
from server import changes, db, egress, image_files, image_formats, image_uploads, pages, quota
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid, not_found
from server.image_rows import GIB, Image, failed, store
from server.image_uploads import Received
from server.instances import Instance
from server.provision import ask, create, observed, pending, reconciles
from server.services import image_imports, image_snapshots
from server.work import NotYet, every, nudge

if TYPE_CHECKING:
    from server.app import App

RESERVED = ("images.thecloud.internal/", "sha256:")  # names of container images that nobody may give
LONGEST_RUN = 24 * 3600.0  # seconds; an import ends itself long before

I = Image.TABLE.c  # noqa: E741
_tenant = I.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_staying = I.desired != "DELETED"
_visible = sa.or_(_tenant, sa.and_(I.is_public, _staying))
_id = sa.bindparam("id", type_=postgresql.UUID)
_BY_ID = sa.select(Image.TABLE).where(_visible, I.id == _id)
_BY_NAME = (
    sa.select(Image.TABLE)
    .where(_visible, _staying, I.name == sa.bindparam("name", type_=sa.Text))
    .order_by(_tenant.desc())
    .limit(2)
)
_HELD = sa.select(Image.TABLE).where(_visible, _staying, I.id == _id).with_for_update(read=True)
_INSTANCES = sa.table("instances", *(sa.column(name) for name in ("id", "tenant_id", "image", "desired")))
_STARTED_FROM = sa.select(_INSTANCES.c.id, _INSTANCES.c.tenant_id).where(
    _INSTANCES.c.image == sa.bindparam("image", type_=sa.Text)
)
_IN_USE = _STARTED_FROM.where(_INSTANCES.c.desired != "DELETED").limit(1000)
_OF_HOST = sa.select(Image.TABLE).where(I.host == sa.bindparam("at_host", type_=sa.Text))

quota.counted("images", 50, sa.select(sa.func.count()).select_from(Image.TABLE).where(_tenant, _staying))
quota.counted("image_gb", 100, sa.select(sa.cast(sa.func.coalesce(sa.func.sum(I.size_gb), 0), sa.BigInteger))
              .where(_tenant, _staying))  # fmt: skip


class ImageService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListImages(self, call: Call, request: pb.ListImagesRequest) -> pb.ListImagesResponse:
        found, token = await pages.page(
            call.tx, Image, _visible, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListImagesResponse(images=(self._shown(call, row) for row in found), next_page_token=token)

    async def CreateImage(self, call: Call, request: pb.CreateImageRequest) -> pb.Image:
        return self._shown(call, await self._create(call, request))

    async def GetImage(self, call: Call, request: pb.GetImageRequest) -> pb.Image:
        return self._shown(call, await locate(call.tx, request.id, call.tenant_id))

    async def DeleteImage(self, call: Call, request: pb.DeleteImageRequest) -> Empty:
        row = await locate(call.tx, request.id, call.tenant_id)
        writable(row, call.tenant_id)
        row = await db.get(call.tx, Image, str(row.id), call.tenant_id, lock=True)
        users = await db.records(call.tx, _IN_USE, image=str(row.id))
        if users:
            own = [f"instance/{each['id']}" for each in users if each["tenant_id"] == call.tenant_id]
            said = [*own[:5], *([f"{len(users) - len(own)} of other tenants"] if len(users) > len(own) else [])]
            raise ApiError("IN_USE", f"image {row.name} is what {', '.join(said)} started from; terminate that first",
                           kind="image", id=str(row.id), by=",".join(own[:5]))  # fmt: skip
        if row.desired != "DELETED":
            await ask(call.tx, row, desired="DELETED")
        return Empty()

    async def prepare_UploadImage(
        self, call: Call, first: pb.UploadImageRequest, more: AsyncIterator[pb.UploadImageRequest]
    ) -> Received:
        async with self.app.db.reading() as tx:
            row = await locate(tx, first.id, call.tenant_id)
        self._take_upload(call, row)
        return await image_uploads.receive(self.app, row, first, more)

    async def UploadImage(self, call: Call, request: pb.UploadImageRequest) -> pb.Image:
        received: Received = call.prepared
        row = await db.get(call.tx, Image, str(received.id), call.tenant_id, lock=True)
        self._take_upload(call, row)
        if received.whole is not None:
            row = await store(self.app.config, call.tx, row, received.whole)
        elif row.status == "ERROR":
            row = await ask(call.tx, row, status="PENDING", source_url=None, instance_id=None)
        return self._shown(call, row)

    async def ImportImage(self, call: Call, request: pb.ImportImageRequest) -> pb.Image:
        try:
            egress.check(request.url)
        except egress.Forbidden as reason:
            raise invalid("url", str(reason)) from None
        return self._shown(call, await self._create(call, request, source_url=request.url))

    async def _create(self, call: Call, request: Any, **columns: object) -> Image:
        return await create(
            call.tx, Image, id=uuid4(), desired="ACTIVE", status="PENDING", tenant_id=call.tenant_id,
            user_id=call.principal.user_id, host=self.app.config.host, name=request.name,
            description=request.description, os=request.os or "linux", version=request.version, format="",
            is_public=request.is_public, **columns,
        )  # fmt: skip

    def _take_upload(self, call: Call, row: Image) -> None:
        """Raise unless the image may have a file uploaded, to this host."""
        writable(row, call.tenant_id)
        by_itself = row.status == "PENDING" and (row.source_url or row.instance_id)
        if row.desired == "DELETED" or row.checksum is not None or by_itself:
            state = "being made" if by_itself else row.status
            raise ApiError("ALREADY_EXISTS", f"image {row.id} is {state} and takes no file; register another image",
                           kind="image", id=str(row.id))  # fmt: skip
        if row.host != self.app.config.host:
            raise ApiError("UNAVAILABLE", f"image {row.id} is on host {row.host}; ask that host's server")

    def _shown(self, call: Call, row: Image) -> pb.Image:
        return to_message(self.app, row, call.tenant_id)


def to_message(app: "App", row: Image, tenant_id: UUID) -> pb.Image:
    """As somebody of this tenant sees it."""
    more: dict[str, Any] = {}
    if row.tenant_id != tenant_id:
        more["source_url"] = more["instance_id"] = None
    if row.status == "PENDING" and row.checksum is None and row.host == app.config.host:
        more["received_bytes"] = received = image_files.received_bytes(app.config, row.id)
        if row.expected_bytes:
            more["progress_percent"] = min(100, 100 * received // row.expected_bytes)
    return db.to_message(row, **more)  # type: ignore[no-any-return]


async def take(app: "App", tx: Tx, instance: Instance, user_id: UUID, name: str, description: str) -> pb.Image:
    """Ask for an image of an instance."""
    source = await started_from(tx, instance.image)
    row = await create(
        tx, Image, id=uuid4(), desired="ACTIVE", status="PENDING", tenant_id=instance.tenant_id, user_id=user_id,
        host=instance.host, name=name, description=description, os=source.os if source else "linux",
        version=source.version if source else "", format="", is_public=False, instance_id=instance.id,
    )  # fmt: skip
    return to_message(app, row, instance.tenant_id)


async def locate(tx: Tx, reference: str, tenant_id: UUID) -> Image:
    """The image that the tenant sees by this id, or the only one by this name: its own before public ones.

    One that may not be seen is as absent as one that never was.
    """
    try:
        id = UUID(reference)
    except ValueError:
        found = await db.rows(tx, Image, _BY_NAME, tenant_id=tenant_id, name=reference)
        if not found:
            raise invalid("id", f"{reference!r} is neither the id nor the name of an image") from None
        if len(found) > 1 and (found[0].tenant_id == tenant_id) == (found[1].tenant_id == tenant_id):
            raise ApiError("IN_USE", f"several images are called {reference}; use the id",
                           kind="image", id=reference) from None  # fmt: skip
        return found[0]
    row = await db.first(tx, Image, _BY_ID, tenant_id=tenant_id, id=id)
    if row is None:
        raise not_found("image", reference)
    return row


def writable(row: Image, tenant_id: UUID) -> None:
    """Raise PERMISSION_DENIED for an image of another tenant, which is public."""
    if row.tenant_id != tenant_id:
        raise ApiError("PERMISSION_DENIED", f"image {row.id} belongs to another tenant, which alone may change it")


async def to_start_from(tx: Tx, reference: str, tenant_id: UUID) -> Image | None:
    """The image of this id, or the tenant's own of this name, which stays until the transaction ends; None for what is
    the name of a container image.

    Raises NOT_FOUND, and INVALID_ARGUMENT for one that is not ready, a name that nobody may give, or several have.
    """
    if reference.lower().startswith(RESERVED):
        raise invalid("image", f"{reference} is no name of a container image; give an image by its id")
    try:
        id = UUID(reference)
    except ValueError:
        named = [row for row in await db.rows(tx, Image, _BY_NAME, tenant_id=tenant_id, name=reference)
                 if row.tenant_id == tenant_id]  # fmt: skip
        if not named:
            return None
        if len(named) > 1:
            raise invalid("image", f"several images are called {reference}; use the id") from None
        id = named[0].id
    row = await db.first(tx, Image, _HELD, tenant_id=tenant_id, id=id)
    if row is None:
        raise not_found("image", reference)
    if row.status != "ACTIVE":
        raise invalid("image", f"image {row.name} is {row.status}; wait until it is ACTIVE")
    return row


async def started_from(tx: Tx, image: str) -> Image | None:
    """The image of an instance, which stays as long as that; None for the name of a container image."""
    try:
        id = UUID(image)
    except ValueError:
        return None
    return await db.find(tx, Image, id)


def disk(app: "App", image: Image | None, size_gb: int) -> BootDisk | None:
    """What a virtual machine starts from: none, where the image is a container's."""
    if image is None or image.format not in get_args(DiskFormat):
        return None
    format: DiskFormat = image.format  # type: ignore[assignment]
    return BootDisk(path=str(image_files.stored(app.config, image.id)), format=format, size_gb=size_gb)


def name_in_engine(compute: object, image: str) -> str:
    """What the driver calls the image of an instance, which is an id or the name of a container image."""
    try:
        id = UUID(image)
    except ValueError:
        return image
    return compute.image_name(id) if isinstance(compute, SupportsImageArchives) else image


@reconciles(Image, longest=LONGEST_RUN)
async def reconcile(app: "App", row: Image) -> timedelta | None:
    """Have an image fetched, if it is imported, and loaded, if it is a container's; or gone."""
    if row.desired == "DELETED":
        await remove(app, row)
        return None
    if row.status not in ("PENDING", "ACTIVE"):
        return None
    if row.checksum is None:
        if row.instance_id:
            return await image_snapshots.take(app, row)
        return await image_imports.fetch(app, row) if row.source_url else None
    if row.format == "container":
        engine = app.drivers.archives
        try:
            assert engine
            archive = await image_formats.archive_of(
                image_files.stored(app.config, row.id), app.config.image_disk_gb * GIB
            )
            if not await engine.load_image(row.id, archive):
                await pending(app, row, "the engine is loading it")
                return timedelta(seconds=1)
        except (image_formats.BadImage, Refused) as refusal:
            await failed(app, row, str(refusal))
            return None
    await observed(app, row, "ACTIVE")
    return None


async def remove(app: "App", row: Image) -> None:
    """Have an image gone, once nothing that started from it is left."""
    async with app.db.reading() as tx:
        if await db.records(tx, _STARTED_FROM, image=str(row.id)):
            raise NotYet("instances that started from it are still going")
    if app.drivers.archives:
        await app.drivers.archives.remove_image(row.id)
    await asyncio.to_thread(image_files.remove, app.config, row.id)
    async with app.db.transaction() as tx:
        await changes.delete(tx, row)


@every(timedelta(minutes=1), each_host=True)
async def sweep(app: "App") -> None:
    """Remove files that no row of this host knows, and parts that nobody has gone on with for a day.

    A container's image that the engine has lost is loaded again; one that no row knows is removed from it.
    """
    engine = app.drivers.archives
    loaded = await engine.list_images() if engine else set()
    files = await asyncio.to_thread(image_files.listed, app.config)
    async with app.db.reading() as tx:
        rows = {row.id: row for row in await db.rows(tx, Image, _OF_HOST, at_host=app.config.host)}
    for id, kind, path in files:
        row = rows.get(id)
        if kind == "part":
            waiting = row is not None and row.checksum is None and row.desired != "DELETED"
            await asyncio.to_thread(image_files.remove_part, path, image_files.PARTS_KEPT if waiting else 0.0)
        elif kind == "whole":
            if row is None or image_files.age(path) > image_files.WHOLE_KEPT:
                path.unlink(missing_ok=True)
        elif row is None or row.checksum is None:
            async with app.db.transaction() as tx:
                now = await db.find(tx, Image, id, lock=True)
                if now is None or now.checksum is None:
                    path.unlink(missing_ok=True)
    async with app.db.transaction() as tx:
        for row in rows.values():
            if row.status == "ACTIVE" and row.format == "container" and row.id not in loaded:
                await nudge(tx, Image.KIND, row.id, row.host)
    if engine:
        for id in loaded - rows.keys():
            await engine.remove_image(id)
