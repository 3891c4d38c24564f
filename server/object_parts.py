"""Putting the parts of an upload together: which of them, and what S3 calls the whole."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

from thecloud.v1 import storage_pb2 as pb

from server import object_checksums
from server.errors import invalid
from server.object_rows import Part

LEAST = 5 * 2**20  # bytes of a part that another follows


def chosen(parts: Sequence[Part], references: Sequence[pb.PartReference]) -> list[Part]:
    """The parts that are meant; all there are if none is named. Raises INVALID_ARGUMENT, with the `problem`."""
    if not references:
        return list(parts)
    if any(one.part_number >= following.part_number for one, following in pairwise(references)):
        raise invalid("parts", "the numbers of the parts have to rise", problem="part_order")
    there = {part.part_number: part for part in parts}
    found = [_meant(there.get(each.part_number), each) for each in references]
    for part in found[:-1]:
        if part.size_bytes < LEAST:
            raise invalid("parts", f"part {part.part_number} has {part.size_bytes} bytes; each but the last needs "
                          f"{LEAST}", problem="part_too_small")  # fmt: skip
    return found


def _meant(part: Part | None, reference: pb.PartReference) -> Part:
    etag, value = reference.etag.strip('"').lower(), reference.checksum_value
    if part is None or etag not in ("", part.md5, part.etag) or value not in ("", part.checksum_value):
        text = f"there is no part {reference.part_number} with this etag and checksum; upload it"
        raise invalid("parts", text, problem="part_missing")
    return part


def etag(parts: Sequence[Part]) -> str:
    """The MD5 of the parts' MD5s, with their number; empty where a part was stored without one."""
    if not all(part.md5 for part in parts):
        return ""
    together = b"".join(bytes.fromhex(part.md5) for part in parts)
    return f"{hashlib.md5(together, usedforsecurity=False).hexdigest()}-{len(parts)}"


def checksum(algorithm: str, parts: Sequence[Part]) -> str:
    """The checksum of the whole, as far as each part has one."""
    if not algorithm or not all(part.checksum_value for part in parts):
        return ""
    return object_checksums.of_parts(
        algorithm, [part.checksum_value for part in parts], [part.size_bytes for part in parts]
    )
