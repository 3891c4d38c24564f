"""What a client sends of an object, stored as it comes: never more than a piece of it in memory, and all of it or
nothing. What is stored is a blob that nobody sees yet."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from drivers.objects import NoRoom, Stored
from server import db, object_encryption, quota
from server.call import Call
from server.errors import ApiError, quota_exceeded
from server.object_checksums import Running, decoded, mismatch
from server.object_rows import USAGE, Bucket, Object, Part
from server.streams import Nothing

if TYPE_CHECKING:
    from server.app import App

GIB = 2**30
LOOK, LOOK_AGAIN = 2**20, 64 * 2**20  # bytes after which it is seen, and seen again, how many there may be
LONGEST = 6 * 3600.0  # seconds of one upload
SNIFFED = 512  # bytes that tell a type
OCTETS = "application/octet-stream"
BEGINNINGS = (
    (b"%PDF-", "application/pdf"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"), (b"GIF89a", "image/gif"), (b"BM", "image/bmp"), (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b\x08", "application/x-gzip"), (b"OggS\x00", "application/ogg"), (b"\x1aE\xdf\xa3", "video/webm"),
    (b"ID3", "audio/mpeg"), (b"wOFF", "font/woff"), (b"wOF2", "font/woff2"), (b"\x00asm", "application/wasm"),
    (b"<?xml", "text/xml"), (b"%!PS-Adobe-", "application/postscript"),
)  # fmt: skip
HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<title", b"<!--")
SIGNATURES = tuple(signature for signature, _ in BEGINNINGS)
BINARY = bytes((*range(9), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20)))

_COMING = Counter[UUID]()  # bytes of each tenant that this process is storing, and no row tells of yet
_BYTES = sa.select(USAGE.c.bytes).where(USAGE.c.tenant_id == sa.bindparam("tenant_id"))


@dataclass(frozen=True)
class Received:
    """A blob that is all there."""

    id: UUID
    stored: Stored
    content_type: str  # what its beginning looks like
    checksum_algorithm: str = ""
    checksum_value: str = ""
    wrapped_key: bytes | None = None  # as of object_encryption.Kept
    blob_checksum: str | None = None
    data: bytes | None = None  # the blob, if it is to be kept in the database

    @property
    def is_plain(self) -> bool:
        """Whether it can still be encrypted."""
        return self.data is not None and self.wrapped_key is None

    def columns(self) -> dict[str, Any]:
        """What an object's row says of it, but for its type and what it is called."""
        return {"id": self.id, "size_bytes": self.stored.size_bytes, "checksum": self.stored.sha256,
                "etag": self.stored.md5, "checksum_algorithm": self.checksum_algorithm,
                "checksum_value": self.checksum_value, "wrapped_key": self.wrapped_key,
                "blob_checksum": self.blob_checksum, "inline": self.data is not None}  # fmt: skip


def at_hand(first: Any, more: AsyncIterator[Any], small: int) -> bool:
    """Whether all of it has come in the first request, and is to be kept in the database."""
    return small > 0 and isinstance(more, Nothing) and len(first.data) <= small


async def prepared(
    app: "App", call: Call, bucket: Bucket | None, first: Any, more: AsyncIterator[Any], algorithm: str = "",
    small: int = 0,
) -> Received:  # fmt: skip
    """receive(), for a call whose failure takes it back."""
    return undone_with(app, call, await receive(app, bucket, first, more, algorithm, small))


def undone_with(app: "App", call: Call, received: Received) -> Received:
    """Have what is stored deleted, should the call fail."""
    if received.data is None:
        call.undo = partial(app.drivers.objects.delete, received.id)
    return received


async def receive(
    app: "App", bucket: Bucket | None, first: Any, more: AsyncIterator[Any], algorithm: str = "", small: int = 0
) -> Received:  # fmt: skip
    """Store what comes in `data` of these requests, for this bucket; up to so many bytes are but received. Raises, and
    keeps nothing, when it is not what `content_sha256` and `content_md5` of the first one and `checksum_value` of the
    last one say, or more than may be. What is at hand may be received without a bucket, and is not encrypted then.
    """
    id, beginning = db.new_id(), bytearray()
    checksum = Running(algorithm or first.checksum_algorithm, first.checksum_value)
    md5 = decoded("content_md5", first.content_md5, 16).hex() if first.content_md5 else ""
    if at_hand(first, more, small):
        need_room(app, len(first.data))
        beginning += first.data[:SNIFFED]
        await checksum.update(first.data)
        secret = bucket is not None and bucket.encryption_enabled
        kept = await object_encryption.small_blob(app, id, first.data, encrypted=secret)
    else:
        assert bucket
        sent = _pieces(app, bucket.tenant_id, first, more, beginning, checksum)
        try:
            async with asyncio.timeout(LONGEST), aclosing(sent) as data:
                kept = await object_encryption.put(app, bucket, id, data, small)
        except TimeoutError:
            text = f"this took more than {LONGEST / 3600:g} hours; send it in parts"
            raise ApiError("REQUEST_TIMEOUT", text) from None
        except NoRoom:
            raise no_room() from None
    stored = kept.stored
    try:
        for name, expected, received in (("SHA-256", first.content_sha256.lower(), stored.sha256),
                                         ("MD5", md5, stored.md5)):  # fmt: skip
            if expected not in ("", received):
                raise mismatch(name, expected, received)
        value = checksum.value(stored.sha256)
    except ApiError:
        if kept.data is None:
            await app.drivers.objects.delete(id)
        raise
    kind = looks_like(bytes(beginning))
    return Received(id, stored, kind, checksum.algorithm, value, kept.wrapped_key, kept.blob_checksum, kept.data)


async def encrypted(app: "App", received: Received) -> Received:
    """The same, encrypted. It is plain."""
    assert received.data is not None
    kept = await object_encryption.small_blob(app, received.id, received.data, encrypted=True)
    return replace(received, wrapped_key=kept.wrapped_key, blob_checksum=kept.blob_checksum, data=kept.data)


async def copy(
    app: "App", bucket: Bucket, row: Object, *, start: int = 0, end: int, algorithm: str = "", small: int = 0
) -> Received:  # fmt: skip
    """Store these bytes of an object anew, for this bucket, as receive() does; of all of it the store makes a copy
    itself, if there is no encryption. Raises UNAVAILABLE when the object has just gone."""
    id, checksum = db.new_id(), Running(algorithm)
    need_room(app, end - start)
    standing, left = await _left(app, bucket.tenant_id)
    if end - start > left:
        raise quota_exceeded(standing.name, standing.limit, standing.used, -(-(end - start) // GIB))
    whole = (start, end) == (0, row.size_bytes) and not checksum.reads and end > small
    _COMING[bucket.tenant_id] += end - start
    try:
        if whole:
            kept = await object_encryption.compose(app, bucket, id, [row])
        else:
            async with aclosing(_read(app, row, start, end, checksum)) as data:
                kept = await object_encryption.put(app, bucket, id, data, small)
    except LookupError:
        raise ApiError("UNAVAILABLE", "the object was just replaced; try again") from None
    except NoRoom:
        raise no_room() from None
    finally:
        _came(bucket.tenant_id, end - start)
    if kept.size_bytes != end - start:
        if kept.data is None:
            await app.drivers.objects.delete(id)
        raise object_encryption.damaged(row.id)
    value = checksum.value(kept.stored.sha256)
    return Received(
        id, kept.stored, row.content_type, algorithm, value, kept.wrapped_key, kept.blob_checksum, kept.data
    )


async def _read(app: "App", row: Object, start: int, end: int, checksum: Running) -> AsyncGenerator[bytes]:
    async with aclosing(object_encryption.plain(app, row, start, end)) as pieces:
        async for piece in pieces:
            await checksum.update(piece)
            yield piece


def host(app: "App") -> str:
    """Where what this process stores is to be found."""
    return app.config.host if app.drivers.objects.one_host else ""


def need_here(app: "App", row: Object | Part) -> None:
    """Raise UNAVAILABLE for what another host has, or what is known to be corrupt."""
    if row.host != host(app) and not (isinstance(row, Object) and row.inline):
        raise ApiError("UNAVAILABLE", f"this is on host {row.host}; ask that host's server")
    if isinstance(row, Object) and row.damage == "CORRUPT":
        raise object_encryption.damaged(row.id)


async def _pieces(
    app: "App", tenant_id: UUID, first: Any, more: AsyncIterator[Any], beginning: bytearray, checksum: Running
) -> AsyncGenerator[bytes]:
    """The data, as long as there may be more. `beginning` gets the first bytes."""
    size, left, look, piece = 0, 0, LOOK, first.data
    try:
        while True:
            size += len(piece)
            _COMING[tenant_id] += len(piece)
            need_room(app, size)
            if size > look:
                standing, left = await _left(app, tenant_id, size)
                look = size + LOOK_AGAIN
            if size > max(left, LOOK):
                raise quota_exceeded(standing.name, standing.limit, standing.used, -(-size // GIB))
            beginning += piece[: SNIFFED - len(beginning)]
            if piece:
                await checksum.update(piece)
                yield piece
            following = await anext(more, None)
            if following is None:
                return
            piece = following.data
            checksum.expect(following.checksum_value)
    finally:
        _came(tenant_id, size)


def need_room(app: "App", size: int) -> None:
    """Raise PAYLOAD_TOO_LARGE for an object that is too large."""
    most = app.config.object_bytes
    if size > most:
        raise ApiError("PAYLOAD_TOO_LARGE", f"an object has at most {most} bytes", limit_bytes=str(most))


def no_room() -> ApiError:
    return ApiError("UNAVAILABLE", "the cloud has no room left for objects; try again later, or tell its operator")


async def _left(app: "App", tenant_id: UUID, own: int = 0) -> tuple[quota.Standing, int]:
    """How the tenant stands, and how many bytes it may have more, less what is coming of it besides. `own`: what is
    coming of who asks."""
    async with app.db.reading() as tx:
        [standing] = await quota.standings(tx, tenant_id, ["object_gb"])
        there = await db.value(tx, _BYTES, tenant_id=tenant_id) or 0
    return standing, standing.limit * GIB - there - (_COMING[tenant_id] - own)


def _came(tenant_id: UUID, size: int) -> None:
    _COMING[tenant_id] -= size
    if not _COMING[tenant_id]:
        del _COMING[tenant_id]


def looks_like(beginning: bytes) -> str:
    """The content type of what begins so."""
    if beginning.startswith(SIGNATURES):
        return next(kind for signature, kind in BEGINNINGS if beginning.startswith(signature))
    if beginning[:4] == b"RIFF" and beginning[8:12] in (b"WEBP", b"WAVE", b"AVI "):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wave", b"AVI ": "video/avi"}[beginning[8:12]]
    if beginning[4:8] == b"ftyp":
        return "video/mp4"
    if beginning.lstrip(b"\t\n\x0c\r ").lower().startswith(HTML):
        return "text/html"
    return "text/plain" if beginning and beginning == beginning.translate(None, BINARY) else OCTETS
