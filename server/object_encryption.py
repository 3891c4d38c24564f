"""Objects that are encrypted where they are kept.

Each blob has a key of its own, 32 random bytes, which the secret store wraps; its row has the wrapped key. The blob is
the object in chunks of 64 KiB, each sealed with AES-256-GCM (RFC 5116) and longer by its tag of 16 bytes. A chunk's
nonce is its number, and whether it is the last: the construction STREAM of Hoang, Reyhanitabar, Rogaway and Vizár,
"Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance" (CRYPTO 2015). So a chunk that is changed, left
out, moved, cut off or another blob's is noticed, and each can be opened without the others. A key seals one blob once,
so that no nonce comes twice. An object without bytes is one chunk without bytes.
"""

import asyncio
import hashlib
import secrets
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar
from uuid import UUID

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from drivers.objects import Hashes, Stored, pieces
from server import small_objects
from server.errors import ApiError
from server.object_rows import Bucket, Object

if TYPE_CHECKING:
    from server.app import App

log = structlog.get_logger()

KEY, CHUNK, TAG = 32, 64 * 1024, 16  # bytes
SEALED = CHUNK + TAG
AT_ONCE = 16  # chunks that a thread seals or opens
T = TypeVar("T")
Get = Callable[[int, int | None], AsyncGenerator[bytes]]  # ObjectStore.get, of a blob


class Damaged(Exception):
    """The blob is not what was sealed with its key."""


class Blob(Protocol):
    """What has bytes: a version of an object, a part of an upload, or what is just stored."""

    @property
    def id(self) -> UUID: ...
    @property
    def size_bytes(self) -> int:
        """Of what was put."""
        ...

    @property
    def wrapped_key(self) -> bytes | None:
        """None: the blob is as it was put."""
        ...


@dataclass(frozen=True)
class Kept:
    """A blob that is all there. Size and hashes in `stored` are those of what was put."""

    id: UUID
    stored: Stored
    wrapped_key: bytes | None = None
    blob_checksum: str | None = None  # SHA-256 of the blob, where that is not what was put
    data: bytes | None = None  # the blob, where it is not stored

    @property
    def size_bytes(self) -> int:
        return self.stored.size_bytes


async def put(app: "App", bucket: Bucket, id: UUID, data: AsyncIterator[bytes], small: int = 0) -> Kept:
    """Store it as ObjectStore.put does, encrypted if the bucket says so. Up to so many bytes are not stored, but in
    what is returned."""
    store = app.drivers.objects
    if small:
        beginning, all_of_it = await small_objects.begun(data, small)
        if all_of_it:
            return await small_blob(app, id, beginning, encrypted=bucket.encryption_enabled)
        data = small_objects.resumed(beginning, data)
    if not bucket.encryption_enabled:
        return Kept(id, await store.put(id, data))
    key, hashes = secrets.token_bytes(KEY), Hashes()
    wrapped = await app.drivers.secrets.wrap(key, context(id))
    async with aclosing(sealed(key, data, hashes)) as blob:
        stored = await store.put(id, blob)
    return Kept(id, hashes.stored(), wrapped, stored.sha256)


async def small_blob(app: "App", id: UUID, data: bytes, *, encrypted: bool) -> Kept:
    """What put() gives of data that are to be kept in the database."""
    hashes = Hashes()
    if not encrypted:
        hashes.update(data)
        return Kept(id, hashes.stored(), data=data)
    key = secrets.token_bytes(KEY)
    wrapped = await app.drivers.secrets.wrap(key, context(id))
    blob = _seal(AESGCM(key), 0, data, True, hashes)
    return Kept(id, hashes.stored(), wrapped, hashlib.sha256(blob).hexdigest(), blob)


async def compose(app: "App", bucket: Bucket, id: UUID, blobs: Sequence[Blob]) -> Kept:
    """Store what the blobs are of, one after the other, as one: as ObjectStore.compose does, encrypted if the bucket
    says so."""
    if not bucket.encryption_enabled and all(blob.wrapped_key is None and not is_inline(blob) for blob in blobs):
        return Kept(id, await app.drivers.objects.compose(id, [blob.id for blob in blobs]))
    async with aclosing(_one_by_one(app, blobs)) as data:
        return await put(app, bucket, id, data)


def is_inline(blob: Blob) -> bool:
    """Whether it is in the database."""
    return isinstance(blob, Object) and blob.inline


async def whole(app: "App", blob: Blob, start: int, end: int, data: bytes | None = None) -> bytes:
    """What plain() tells, in one piece."""
    if data is not None and blob.wrapped_key is None:
        return data[start:end]
    async with aclosing(plain(app, blob, start, end, data)) as pieces:
        return b"".join([piece async for piece in pieces])


def plain(
    app: "App", blob: Blob, start: int = 0, end: int | None = None, data: bytes | None = None
) -> AsyncGenerator[bytes]:
    """What was put, as ObjectStore.get tells it. Raises UNAVAILABLE for what cannot be decrypted. `data`: the blob,
    where it is at hand."""
    get: Get = partial(app.drivers.objects.get, blob.id)
    if data is not None:
        get = partial(small_objects.at_hand, data)
    elif is_inline(blob):
        get = partial(small_objects.get, app.db, blob.id)
    if blob.wrapped_key is None:
        return get(start, end)
    return _decrypted(app, blob, blob.wrapped_key, get, start, blob.size_bytes if end is None else end)


def damaged(id: UUID) -> ApiError:
    return ApiError("UNAVAILABLE", f"what is stored as {id} is damaged; upload it again, or tell the cloud's operator")


async def sealed(key: bytes, data: AsyncIterator[bytes], hashes: Hashes) -> AsyncGenerator[bytes]:
    """The blob of this data, which the hashes take in on the way."""
    cipher, number = AESGCM(key), 0
    async with aclosing(pieces(data, AT_ONCE * CHUNK)) as cut:
        piece = await anext(cut, b"")
        while True:
            following = await anext(cut, None)
            yield await _aside(len(piece), partial(_seal, cipher, number, piece, following is None, hashes))
            if following is None:
                return
            number, piece = number + AT_ONCE, following


async def opened(key: bytes, size: int, start: int, end: int, get: Get) -> AsyncGenerator[bytes]:
    """The bytes from `start` up to but not including `end` of the object of `size` bytes, whose blob `get` reads.

    Raises Damaged instead of any byte that is not the object's.
    """
    start, end = max(start, 0), min(end, size)
    if start >= end:
        return
    cipher, last = AESGCM(key), max(size - 1, 0) // CHUNK
    number, beyond = start // CHUNK, (end - 1) // CHUNK + 1
    blob = get(number * SEALED, min(beyond * SEALED, size + (last + 1) * TAG))
    async with aclosing(blob), aclosing(pieces(blob, AT_ONCE * SEALED)) as cut:
        async for piece in cut:
            data = await _aside(len(piece), partial(_open, cipher, number, piece, last))
            at = number * CHUNK
            yield data[max(start - at, 0) : end - at]
            number += -(-len(piece) // SEALED)
    if number < beyond:
        raise Damaged


def context(id: UUID) -> bytes:
    """What a key is bound to: the one blob that it is of."""
    return b"object " + id.bytes


def _nonce(number: int, last: bool) -> bytes:
    return struct.pack(">IQ", last, number)


def _seal(cipher: AESGCM, number: int, data: bytes, ends: bool, hashes: Hashes) -> bytes:
    """The chunks from this number on; the last of them is the last of all if it `ends`."""
    hashes.update(data)
    view, starts = memoryview(data), range(0, max(len(data), 1), CHUNK)
    return b"".join(
        cipher.encrypt(_nonce(number + each, ends and at == starts[-1]), view[at : at + CHUNK], None)
        for each, at in enumerate(starts)
    )


def _open(cipher: AESGCM, number: int, blob: bytes, last: int) -> bytes:
    """What is in the chunks from this number on."""
    view = memoryview(blob)
    try:
        return b"".join(
            cipher.decrypt(_nonce(number + each, number + each == last), view[at : at + SEALED], None)
            for each, at in enumerate(range(0, len(blob), SEALED))
        )
    except InvalidTag:
        raise Damaged from None


async def _aside(size: int, function: Callable[[], T]) -> T:
    """Have it done; what takes long, in a thread."""
    return await asyncio.to_thread(function) if size > SEALED else function()


async def _decrypted(
    app: "App", blob: Blob, wrapped: bytes, get: Get, start: int, end: int
) -> AsyncGenerator[bytes]:  # fmt: skip
    try:
        key = await app.drivers.secrets.unwrap(wrapped, context(blob.id))
    except LookupError as error:
        log.error("object_key_missing", id=str(blob.id), error=str(error))
        raise ApiError("UNAVAILABLE", "the key that the object is encrypted with is not here; tell the cloud's "
                       "operator") from None  # fmt: skip
    except ValueError:
        raise damaged(blob.id) from None
    try:
        async with aclosing(opened(key, blob.size_bytes, start, end, get)) as data:
            async for piece in data:
                yield piece
    except Damaged:
        raise damaged(blob.id) from None


async def _one_by_one(app: "App", blobs: Sequence[Blob]) -> AsyncGenerator[bytes]:
    for blob in blobs:
        async with aclosing(plain(app, blob)) as data:
            async for piece in data:
                yield piece
