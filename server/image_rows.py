"""The row of an image, and how its file comes and goes: what uploads, imports and the service share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import images_pb2 as pb

from server import db, image_files, image_formats, quota
from server.config import Config
from server.db import Provisioned, Tx
from server.errors import not_found
from server.image_files import Part
from server.image_formats import BadImage, Facts
from server.provision import ask, observed

if TYPE_CHECKING:
    from server.app import App

GIB = 2**30


@db.row("images", "image", pb.Image)
class Image(Provisioned):
    user_id: UUID
    host: str  # whose data folder has the file
    name: str
    description: str
    os: str
    version: str
    format: str  # empty as long as there is no file
    is_public: bool
    size_gb: int
    size_bytes: int
    virtual_size_bytes: int
    checksum: str | None  # of the file, which is there when this is
    source_url: str | None  # of an import
    instance_id: UUID | None  # that it is taken of; it may be gone by now
    expected_bytes: int | None  # of an import, as its server says
    validator: str | None  # ETag or Last-Modified of what was received so far


_others = sa.select(Image.TABLE.c.id).where(
    Image.TABLE.c.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID),
    Image.TABLE.c.checksum.is_(None),
    Image.TABLE.c.id != sa.bindparam("id", type_=postgresql.UUID),
)


@dataclass(frozen=True)
class Whole:
    """A file that is all there, was looked at, and waits to become an image's."""

    path: Path
    size_bytes: int
    checksum: str
    facts: Facts


@dataclass(frozen=True)
class Room:
    """How many bytes a file may have, and whether the tenant's quota is what says so."""

    most: int
    by_quota: quota.Standing | None


async def room(app: "App", row: Image) -> Room:
    """What an image's file may have now, with all that is there of the tenant's other ones.

    Raises NoRoom when the disk itself has none, and NOT_FOUND when the image is no more.
    """
    image_files.check_room(app.config)
    async with app.db.reading() as tx:
        now = await db.find(tx, Image, row.id)
        if now is None or now.desired == "DELETED":
            raise not_found("image", row.id)
        [standing] = await quota.standings(tx, row.tenant_id, ["image_gb"])
        others = [each["id"] for each in await db.records(tx, _others, tenant_id=row.tenant_id, id=row.id)]
    parts = sum(image_files.received_bytes(app.config, id) for id in others)
    left = max(0, (standing.limit - standing.used) * GIB - parts)
    return Room(left, standing) if left < app.config.image_bytes else Room(app.config.image_bytes, None)


async def look_at(app: "App", part: Part, checksum: str) -> Whole:
    """Find out what a file is that is all there, and keep it. Raises BadImage."""
    facts = await image_formats.examine(part.path, app.config.image_disk_gb * GIB)
    if facts.format == "container" and app.drivers.archives is None:
        raise BadImage("the file is an archive of a container image, and this host starts no containers")
    return Whole(part.become_whole(), part.size, checksum, facts)


async def store(config: Config, tx: Tx, row: Image, whole: Whole) -> Image:
    """Make the file that of the image, whose row is locked. A container's image then has to be loaded."""
    image_files.place(config, whole.path, row.id)
    return await ask(
        tx, row, desired="ACTIVE", status="PENDING" if whole.facts.format == "container" else "ACTIVE",
        format=whole.facts.format, size_bytes=whole.size_bytes, size_gb=-(-whole.size_bytes // GIB),
        virtual_size_bytes=whole.facts.virtual_size_bytes, checksum=whole.checksum,
    )  # fmt: skip


async def failed(app: "App", row: Image, reason: str) -> None:
    """The image is in ERROR, and has no file."""
    await observed(app, row, "ERROR", reason, format="", size_bytes=0, size_gb=0, virtual_size_bytes=0, checksum=None,
                   expected_bytes=None, validator=None)  # fmt: skip
