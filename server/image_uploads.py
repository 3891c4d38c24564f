"""A file that a client sends, received in one pass: to the disk, with its checksum, and never more than a piece of it
in memory. What breaks off stays, to be gone on with; what is refused goes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from thecloud.v1 import images_pb2 as pb

from server import image_files, image_rows
from server.errors import ApiError, invalid, quota_exceeded
from server.image_files import Part
from server.image_formats import BadImage
from server.image_rows import GIB, Image, Room, Whole

if TYPE_CHECKING:
    from server.app import App

LOOK_AGAIN = 64 * 2**20  # bytes after which it is seen again how many there may be
LONGEST = 6 * 3600.0  # seconds of one upload


@dataclass(frozen=True)
class Received:
    """What came of an upload. `whole` is None while more is to come."""

    id: UUID
    whole: Whole | None


async def receive(
    app: "App", row: Image, first: pb.UploadImageRequest, more: AsyncIterator[pb.UploadImageRequest]
) -> Received:
    """Receive what a client sends of an image's file, and once it is all there look at it."""
    part = await _opened(app, row, first.offset)
    try:
        async with asyncio.timeout(LONGEST):
            await _append_all(app, row, part, first, more)
        if first.size_bytes and part.size < first.size_bytes:
            return Received(row.id, None)
        await image_rows.room(app, row)
        whole = await image_rows.look_at(app, part, await image_files.blocking(part.sync))
    except TimeoutError:
        raise ApiError(
            "REQUEST_TIMEOUT", f"this took more than {LONGEST / 3600:g} hours; go on at {part.size}"
        ) from None
    except image_files.NoRoom:
        part.remove()
        raise image_files.no_room() from None
    except BadImage as reason:
        part.remove()
        await image_rows.failed(app, row, str(reason))
        raise invalid("file", str(reason)) from None
    finally:
        part.close()
    return Received(row.id, whole)


async def _opened(app: "App", row: Image, offset: int) -> Part:
    try:
        return await image_files.blocking(Part.open, app.config, row.id, offset)
    except image_files.Busy:
        raise ApiError("IN_USE", f"image {row.id} is being uploaded already; wait until that has ended",
                       kind="image", id=str(row.id)) from None  # fmt: skip
    except image_files.WrongOffset as wrong:
        raise image_files.wrong_offset(wrong.size) from None


async def _append_all(
    app: "App", row: Image, part: Part, first: pb.UploadImageRequest, more: AsyncIterator[pb.UploadImageRequest]
) -> None:
    """Write what comes, as long as there may be more."""
    limit = await image_rows.room(app, row)
    _fits(part, limit, first.size_bytes)
    look_again, data = part.size + LOOK_AGAIN, first.data
    while True:
        if first.size_bytes and part.size + len(data) > first.size_bytes:
            part.remove()
            raise invalid("size_bytes", f"the file was to have {first.size_bytes} bytes, and has more")
        if part.size >= look_again:
            limit, look_again = await image_rows.room(app, row), part.size + LOOK_AGAIN
        _fits(part, limit, part.size + len(data))
        if data:
            await image_files.blocking(part.append, data)
        following = await anext(more, None)
        if following is None:
            return
        data = following.data


def _fits(part: Part, limit: Room, size: int) -> None:
    """Raise, and remove the part, when the file has more bytes than it may."""
    if size <= limit.most:
        return
    part.remove()
    if limit.by_quota:
        standing, whole = limit.by_quota, -(-size // GIB)
        raise quota_exceeded(standing.name, standing.limit, standing.used, whole)
    raise ApiError("PAYLOAD_TOO_LARGE", f"the file has more than {limit.most} bytes, which is the most",
                   limit_bytes=str(limit.most))  # fmt: skip
