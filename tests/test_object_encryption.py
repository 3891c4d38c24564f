"""Sealed blobs: whatever is done to one, no byte is read from it that was not put."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivers.objects import Hashes
from server.object_encryption import AT_ONCE, CHUNK, SEALED, TAG, Damaged, opened, sealed

KEY = bytes(range(32))
SIZES = st.one_of(
    st.integers(0, 100),
    st.builds(lambda chunks, by: max(0, chunks * CHUNK + by), st.integers(0, 2 * AT_ONCE + 1), st.integers(-2, 2)),
)


def content(size: int) -> bytes:
    return hashlib.shake_256(b"%d" % size).digest(size)


async def iterated(data: bytes, step: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


async def seal(data: bytes, step: int = 100_000, key: bytes = KEY) -> tuple[bytes, Hashes]:
    hashes = Hashes()
    async with aclosing(sealed(key, iterated(data, step), hashes)) as blob:
        return b"".join([piece async for piece in blob]), hashes


async def read(blob: bytes, size: int, start: int, end: int, key: bytes = KEY) -> tuple[bytes, int]:
    """What is there, and how many bytes of the blob were read for it."""
    taken = 0

    async def get(first: int, beyond: int) -> AsyncGenerator[bytes]:
        nonlocal taken
        for at in range(first, min(beyond, len(blob)), 50_000):
            piece = blob[at : min(at + 50_000, beyond)]
            taken += len(piece)
            yield piece

    async with aclosing(opened(key, size, start, end, get)) as data:
        return b"".join([piece async for piece in data]), taken


@given(size=SIZES, step=st.integers(1000, 3 * CHUNK), data=st.data())
@example(size=0, step=1000, data=None)
@settings(max_examples=60)
async def test_every_range_is_what_was_put(size: int, step: int, data: st.DataObject | None) -> None:
    put = content(size)
    blob, hashes = await seal(put, step)
    assert len(blob) == size + TAG * max(1, -(-size // CHUNK))
    stored = hashes.stored()
    assert (stored.size_bytes, stored.sha256) == (size, hashlib.sha256(put).hexdigest())
    assert stored.md5 == hashlib.md5(put, usedforsecurity=False).hexdigest()
    assert (await read(blob, size, 0, size))[0] == put
    if data:
        start, end = sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size))))
        found, taken = await read(blob, size, start, end)
        assert found == put[start:end]
        assert taken <= (end - start) // CHUNK * SEALED + 2 * SEALED, "only the chunks that have them"


async def tampered(blob: bytes, size: int, start: int, end: int) -> None:
    """Whatever is read is what was put, as far as it goes; and if something is not, it says so."""
    got, put = b"", content(size)

    async def get(first: int, beyond: int) -> AsyncGenerator[bytes]:
        yield blob[first:beyond]

    try:
        async with aclosing(opened(KEY, size, start, end, get)) as data:
            async for piece in data:
                got += piece
    except Damaged:
        assert put[start:end].startswith(got)
        return
    assert got == put[start:end]


@given(size=SIZES, data=st.data())
@settings(max_examples=150)
async def test_no_wrong_byte_is_read_from_what_was_tampered_with(size: int, data: st.DataObject) -> None:
    blob, _ = await seal(content(size))
    start, end = sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size))))
    chunks = [blob[at : at + SEALED] for at in range(0, len(blob), SEALED)]
    one, other = (data.draw(st.integers(0, len(chunks) - 1)) for _ in range(2))
    at = data.draw(st.integers(0, len(blob) - 1))
    swapped = [*chunks]
    swapped[one], swapped[other] = swapped[other], swapped[one]
    for changed in (
        blob[:at] + bytes([blob[at] ^ 1 << data.draw(st.integers(0, 7))]) + blob[at + 1 :], blob[:at],
        b"".join(chunks[:one]), b"".join(chunks[:one] + chunks[one + 1 :]), b"".join(swapped),
        b"".join([*chunks[:one], chunks[other], *chunks[one:]]), b"", blob + blob[-SEALED:], b"\0" * len(blob),
    ):  # fmt: skip
        await tampered(changed, size, start, end)
        if changed[: len(blob)] != blob and size:
            with pytest.raises(Damaged):
                await read(changed, size, 0, size)


@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 1, 3 * CHUNK, AT_ONCE * CHUNK, AT_ONCE * CHUNK + 1])
async def test_one_cut_off_between_chunks_is_no_shorter_object(size: int) -> None:
    """Not even for a reader who believes that it is as long as what is left."""
    blob, _ = await seal(content(size))
    for chunks in range(-(-size // CHUNK)):
        with pytest.raises(Damaged):
            await read(blob[: chunks * SEALED], size, 0, size)
        if chunks:
            with pytest.raises(Damaged):
                await read(blob[: chunks * SEALED], chunks * CHUNK, 0, chunks * CHUNK)


async def test_a_chunk_of_another_blob_or_under_another_key_is_none() -> None:
    size = 3 * CHUNK
    blob, _ = await seal(content(size))
    foreign, _ = await seal(content(size), key=b"k" * 32)
    with pytest.raises(Damaged):
        await read(blob[:SEALED] + foreign[SEALED:], size, 0, size)
    with pytest.raises(Damaged):
        await read(blob, size, 0, size, key=b"k" * 32)


async def test_the_form_is_that_of_the_documentation() -> None:
    """AES-256-GCM under the number of the chunk, and whether it is the last: so that others can read it."""
    put = content(CHUNK + 5)
    blob, _ = await seal(put)
    cipher = AESGCM(KEY)
    assert cipher.decrypt(bytes(12), blob[:SEALED], None) == put[:CHUNK]
    assert cipher.decrypt(bytes([0, 0, 0, 1] + [0] * 7 + [1]), blob[SEALED:], None) == put[CHUNK:]


async def test_one_piece_at_a_time_is_in_memory() -> None:
    made = 0

    async def much() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(64):
            made += 1
            yield bytes(2**20)

    async with aclosing(sealed(KEY, much(), Hashes())) as blob:
        for number in range(1, 10):
            await anext(blob)
            assert made <= number + 2
