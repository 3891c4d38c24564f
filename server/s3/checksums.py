"""Checksums, as requests ask for them and answers tell them."""

from collections.abc import Mapping
from typing import Any

from server.s3.errors import S3Error

ALGORITHMS = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")
CHECKSUMS = {f"x-amz-checksum-{name.lower()}": name for name in ALGORITHMS}


def asked(headers: Mapping[str, str], announced: str) -> tuple[str, str]:
    """The checksum that is asked for, and what it has to be; of one that is announced that comes after the body. Raises
    S3Error."""
    found = ("", "")
    for name, algorithm in CHECKSUMS.items():
        if name in headers:
            if found[0]:
                raise S3Error("InvalidRequest", "only one checksum may be given")
            found = algorithm, headers[name]
    if announced:
        if announced not in CHECKSUMS or found[0]:
            raise S3Error("InvalidRequest", "x-amz-trailer has to name one checksum, and there may be no other")
        found = CHECKSUMS[announced], ""
    said = algorithm_of(headers.get("x-amz-sdk-checksum-algorithm", ""))
    if found[0] and said and found[0] != said:
        raise S3Error("InvalidRequest", "x-amz-sdk-checksum-algorithm names another checksum than is given")
    return found if found[0] else (said, "")


def algorithm_of(said: str) -> str:
    """The name of a checksum that we know. Raises S3Error."""
    if said and said.upper() not in ALGORITHMS:
        raise S3Error("InvalidRequest", f"a checksum has to be one of {', '.join(ALGORITHMS)}")
    return said.upper()


def kind(value: str) -> str:
    """Whether it is that of the object, or of its parts' checksums."""
    return "COMPOSITE" if "-" in value else "FULL_OBJECT"


def headers(made: Any) -> list[tuple[str, str]]:
    """Those that tell the checksum of an object or a part."""
    if not made.checksum_value:
        return []
    name = f"x-amz-checksum-{made.checksum_algorithm.lower()}"
    return [(name, made.checksum_value), ("x-amz-checksum-type", kind(made.checksum_value))]


def elements(made: Any) -> str:
    """The same, in XML."""
    if not made.checksum_value:
        return ""
    name = f"Checksum{made.checksum_algorithm}"
    return f"<{name}>{made.checksum_value}</{name}><ChecksumType>{kind(made.checksum_value)}</ChecksumType>"
