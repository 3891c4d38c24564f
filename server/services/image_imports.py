"""Images that are fetched from a web server: for as long as it takes, in turns, and on from where a turn ended.

What has been received is in the image's part, on the disk; the row knows by which ETag or date its server would know
that it is the same file still. So a turn may end anywhere, by a lost connection or with its process.
"""

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import aiohttp

from server import db, egress, image_files, image_rows
from server.egress import Forbidden, Guard, Unreachable
from server.image_files import PIECE, Part, blocking
from server.image_formats import BadImage
from server.image_rows import Image, failed
from server.provision import pending
from server.work import NotYet

if TYPE_CHECKING:
    from server.app import App

AT_ONCE, AT_ONCE_OF_A_TENANT = 4, 2  # in one process
TURN = 60.0  # seconds, where the file can be gone on with
SLOWEST = 128 * 1024  # bytes a second over a turn, where it cannot
LOOK_AGAIN = 2.0  # seconds after which it is seen again whether it is still wanted, and fits
LATER = (408, 425, 429)  # of the statuses 4xx, those that may pass
RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")
BEYOND = re.compile(r"bytes \*/(\d{1,18})")

_running: Counter[UUID] = Counter()  # in this process, by tenant


class Ended(Exception):
    """The image cannot be had. The text says why."""


class Interrupted(Exception):
    """A turn ends here, and another may go on."""


async def fetch(app: "App", row: Image) -> timedelta | None:
    """Fetch an image's file, or more of it, unless too many are being fetched."""
    if _running.total() >= AT_ONCE or _running[row.tenant_id] >= AT_ONCE_OF_A_TENANT:
        await pending(app, row, "other images are being imported before it")
        return timedelta(seconds=2)
    _running[row.tenant_id] += 1
    part = None
    try:
        part = await blocking(Part.open, app.config, row.id, None)
        async with asyncio.timeout(_seconds_left(app, row)):
            await _fetch(app, row, part)
    except image_files.Busy:
        return timedelta(seconds=2)
    except Interrupted:
        return timedelta(0)
    except image_files.NoRoom:
        await give_up(app, row, part, "the cloud has no room left for images")
    except (Ended, Forbidden, BadImage) as reason:
        await give_up(app, row, part, str(reason))
    except TimeoutError:
        await give_up(app, row, part, f"it took more than {app.config.import_seconds / 60:g} minutes")
    except (Unreachable, aiohttp.ClientError) as error:
        text = f"the connection was lost: {error or type(error).__name__}; it is tried again"
        await pending(app, row, text)
        raise NotYet(text) from None
    finally:
        if part:
            part.close()
        _running[row.tenant_id] -= 1
        if not _running[row.tenant_id]:
            del _running[row.tenant_id]
    return None


def _seconds_left(app: "App", row: Image) -> float:
    return max(0.0, app.config.import_seconds - (datetime.now(UTC) - row.created_at).total_seconds())


async def give_up(app: "App", row: Image, part: Part | None, reason: str) -> None:
    """The image is in ERROR, and what there was of it is gone."""
    if part:
        part.remove()
    await failed(app, row, reason)


async def _fetch(app: "App", row: Image, part: Part) -> None:
    """One turn: receive, and when all is there keep it."""
    if not (row.expected_bytes and part.size == row.expected_bytes):
        await _receive(app, row, part)
    await keep(app, row, part)


async def keep(app: "App", row: Image, part: Part) -> None:
    """Have the part, of which all is there, be the image's file. Raises BadImage, and what still_wanted does."""
    await still_wanted(app, row, part, part.size)
    whole = await image_rows.look_at(app, part, await blocking(part.sync))
    async with app.db.transaction() as tx:
        now = await db.find(tx, Image, row.id, lock=True)
        if now is None or now.desired == "DELETED":
            whole.path.unlink()
            return
        await image_rows.store(app.config, tx, now, whole)


async def _receive(app: "App", row: Image, part: Part) -> None:
    """Have the part hold all of the file. Raises what `fetch` catches."""
    assert row.source_url
    headers = {}
    if part.size and row.validator:
        headers = {"Range": f"bytes={part.size}-", "If-Range": row.validator}
    async with egress.opened(Guard.of(app.config), row.source_url, headers) as response:
        total = _agree(part, response)
        await still_wanted(app, row, part, total)
        if total is not None and part.size == total:
            return
        validator = _validator(response)
        await _note(app, row, total, validator)
        await _read(app, row, part, response, total, resumable=validator is not None)
    if total is not None and part.size < total:
        raise Unreachable(f"{part.size} of {total} bytes came")


def _agree(part: Part, response: aiohttp.ClientResponse) -> int | None:
    """Have the part end where the response begins; the size of the whole file, if it is told."""
    status = response.status
    if status == 200:
        if part.size:
            part.restart()
        return response.content_length
    if status == 206 and (found := RANGE.fullmatch(response.headers.get("Content-Range", ""))):
        if int(found[1]) == part.size:
            return int(found[2])
        part.restart()
        raise Unreachable("the server sent another part than was asked for")
    if status == 416 and part.size:
        told = BEYOND.fullmatch(response.headers.get("Content-Range", ""))
        if told and int(told[1]) == part.size:
            return part.size
        part.restart()
        raise Unreachable("the file has changed on its server")
    if status >= 500 or status in LATER:
        raise Unreachable(f"the server answers {status} {response.reason}")
    raise Ended(f"the server answers {status} {response.reason}; see whether the URL is right")


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """By which the server knows the file again, if it would send a part of it."""
    if response.status != 206 and response.headers.get("Accept-Ranges", "").lower() != "bytes":
        return None
    tag = response.headers.get("ETag", "")
    found = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    return found if 0 < len(found) <= 1024 else None


async def _note(app: "App", row: Image, total: int | None, validator: str | None) -> None:
    if (total, validator) != (row.expected_bytes, row.validator):
        async with app.db.transaction() as tx:
            await db.update(tx, row, expected_bytes=total, validator=validator)


async def still_wanted(app: "App", row: Image, part: Part, size: int | None) -> None:
    """Raise when the file would have more bytes than it may, or the image is not wanted any longer."""
    async with app.db.reading() as tx:
        now = await db.find(tx, Image, row.id)
    if now is None or now.desired == "DELETED" or app.stopping.is_set():
        raise Interrupted
    limit = await image_rows.room(app, row)
    if max(part.size, size or 0) > limit.most:
        whose = "that the tenant's quota of image_gb leaves" if limit.by_quota else "that an image may have"
        raise Ended(f"the file has more than the {limit.most} bytes {whose}")


async def _read(
    app: "App", row: Image, part: Part, response: aiohttp.ClientResponse, total: int | None, *, resumable: bool
) -> None:
    """Add what the response brings to the part, until it or this turn ends."""
    clock = asyncio.get_running_loop().time
    began, looked, at_first = clock(), clock(), part.size
    held = bytearray()
    try:
        async for data in response.content.iter_any():
            held += data
            if len(held) >= PIECE:
                piece, held = bytes(held), bytearray()
                await blocking(part.append, piece)
            if total is not None and part.size + len(held) > total:
                raise Unreachable("the server sent more than it said")
            if clock() - looked > LOOK_AGAIN:
                looked = clock()
                await still_wanted(app, row, part, part.size + len(held))
            if clock() - began > TURN:
                if resumable:
                    raise Interrupted
                if part.size + len(held) - at_first < SLOWEST * TURN:
                    raise Ended("the server is too slow, and cannot go on where it stopped")
                began, at_first = clock(), part.size + len(held)
    finally:
        if held:
            await blocking(part.append, bytes(held))
