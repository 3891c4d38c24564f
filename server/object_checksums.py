"""The checksums that S3's clients ask for, in Base64 as they write them. Docs:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from functools import reduce

from awscrt import checksums

from server.errors import ApiError, invalid

LARGE = 2**18  # bytes of a piece that a thread takes in, where that is slow
SIZES = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}  # bytes
_CRCS: dict[str, Callable[[bytes, int], int]] = {
    "CRC32": checksums.crc32, "CRC32C": checksums.crc32c, "CRC64NVME": checksums.crc64nvme,
}  # fmt: skip


class Running:
    """The checksum of what goes by, and what it has to be. Without an algorithm there is none."""

    def __init__(self, algorithm: str, expected: str = "") -> None:
        self.algorithm = algorithm
        self._crc, self._sha1 = 0, hashlib.sha1(usedforsecurity=False)
        self._expected = b""
        self.expect(expected)

    @property
    def reads(self) -> bool:
        """Whether it has to see what goes by. A SHA-256 is made anyway, of all that is stored."""
        return self.algorithm not in ("", "SHA256")

    def expect(self, value: str) -> None:
        """Say what it has to be. Raises INVALID_ARGUMENT for what is no such checksum."""
        if value and not self.algorithm:
            raise invalid("checksum_algorithm", "say which checksum checksum_value is")
        if value:
            self._expected = decoded("checksum_value", value, SIZES[self.algorithm])

    async def update(self, data: bytes) -> None:
        """Take the next piece in."""
        if self.algorithm in _CRCS:
            self._crc = _CRCS[self.algorithm](data, self._crc)
        elif self.algorithm == "SHA1" and len(data) > LARGE:
            await asyncio.to_thread(self._sha1.update, data)
        elif self.algorithm == "SHA1":
            self._sha1.update(data)

    def value(self, sha256: str) -> str:
        """The checksum of all that went by, whose SHA-256 is this. Raises CHECKSUM_MISMATCH."""
        if not self.algorithm:
            return ""
        if self.algorithm in _CRCS:
            raw = self._crc.to_bytes(SIZES[self.algorithm], "big")
        else:
            raw = self._sha1.digest() if self.algorithm == "SHA1" else bytes.fromhex(sha256)
        if self._expected and self._expected != raw:
            raise mismatch(self.algorithm, encoded(self._expected), encoded(raw))
        return encoded(raw)


def mismatch(name: str, expected: str, received: str) -> ApiError:
    return ApiError("CHECKSUM_MISMATCH", f"what came has the {name} {received}; send it again", expected=expected,
                    received=received)  # fmt: skip


def decoded(field: str, text: str, size: int) -> bytes:
    """The bytes of a checksum. Raises INVALID_ARGUMENT for what is not Base64 of so many bytes."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        raise invalid(field, f"this wants {size} bytes in Base64")
    return raw


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def of_parts(algorithm: str, values: Sequence[str], sizes: Sequence[int]) -> str:
    """The checksum of an object of parts that have these: a CRC64NVME is that of the whole, of others the checksum of
    the checksums, with the number of parts."""
    raw = [base64.b64decode(value) for value in values]
    if algorithm == "CRC64NVME":
        crcs = zip((int.from_bytes(each, "big") for each in raw), sizes, strict=True)
        whole = reduce(lambda crc, part: checksums.combine_crc64nvme(crc, *part), crcs, 0)
        return encoded(whole.to_bytes(8, "big"))
    together = b"".join(raw)
    if algorithm in _CRCS:
        digest = _CRCS[algorithm](together, 0).to_bytes(SIZES[algorithm], "big")
    else:
        digest = hashlib.new(algorithm, together, usedforsecurity=False).digest()
    return f"{encoded(digest)}-{len(raw)}"
