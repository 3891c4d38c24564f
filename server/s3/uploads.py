"""What requests say of an object that they store: its type, metadata, tags, access and checksums, in headers."""

import re
from typing import Any
from urllib.parse import unquote_plus

from thecloud.v1 import storage_pb2

from server.s3 import buckets
from server.s3.errors import S3Error, not_implemented
from server.s3.request import Request, readable

METADATA = "x-amz-meta-"
KEPT = ("cache-control", "content-disposition", "content-encoding", "content-language", "expires")
ALGORITHMS = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")
CHECKSUMS = {f"x-amz-checksum-{name.lower()}": name for name in ALGORITHMS}
METADATA_BYTES = 2048
UNSUPPORTED = {
    "x-amz-object-lock-mode": "object lock",
    "x-amz-object-lock-retain-until-date": "object lock",
    "x-amz-object-lock-legal-hold": "object lock",
    "x-amz-website-redirect-location": "website",
    "x-amz-server-side-encryption-customer-algorithm": "encryption with keys that come with requests",
    "x-amz-server-side-encryption-customer-key": "encryption with keys that come with requests",
    "x-amz-copy-source-server-side-encryption-customer-algorithm": "encryption with keys that come with requests",
    "x-amz-server-side-encryption-aws-kms-key-id": "encryption with keys of a key service",
    "x-amz-server-side-encryption-context": "encryption with keys of a key service",
    "x-amz-write-offset-bytes": "appending to an object",
}
TAG = re.compile(r"[^&]+")


async def check(request: Request) -> None:
    """Raise S3Error for what the headers ask for and is not done here."""
    headers = request.headers
    for name in headers:
        if name in UNSUPPORTED:
            raise not_implemented(UNSUPPORTED[name])
    if headers.get("x-amz-storage-class", "STANDARD") != "STANDARD":
        raise S3Error("InvalidStorageClass", "the one storage class is STANDARD")
    if (encryption := headers.get("x-amz-server-side-encryption")) is not None:
        if encryption != "AES256":
            raise not_implemented(f"encryption called {encryption[:100]}, but AES256")
        if not (await buckets.read(request)).bucket.encryption_enabled:
            raise S3Error("InvalidRequest", "the bucket does not encrypt; have it do so with PutBucketEncryption, or "
                                            "leave x-amz-server-side-encryption out")  # fmt: skip


def properties(request: Request) -> storage_pb2.ObjectProperties:
    """What is kept with the object. Raises S3Error."""
    found, size = storage_pb2.ObjectProperties(content_type=request.header("content-type")), 0
    for name in request.headers:
        if name.startswith(METADATA):
            said = request.header(name)
            found.metadata[name.removeprefix(METADATA)] = said
            size += len(name) - len(METADATA) + len(said.encode())
        elif name in KEPT and (said := request.header(name)):
            if name == "content-encoding":
                said = ",".join([each.strip() for each in said.split(",") if each.strip() != "aws-chunked"])
            if said:
                found.headers[name] = said
    if size > METADATA_BYTES:
        raise S3Error("MetadataTooLarge", f"the metadata has {size} bytes; it may have {METADATA_BYTES}")
    return found


def tags(request: Request) -> storage_pb2.Tags | None:
    """The tags in x-amz-tagging; None without that header. Raises S3Error."""
    said = request.headers.get("x-amz-tagging")
    if said is None:
        return None
    found: dict[str, str] = {}
    for each in TAG.findall(readable(said)):
        name, _, value = each.partition("=")
        try:
            name, value = unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict")
        except UnicodeDecodeError:
            raise S3Error("InvalidTag", "x-amz-tagging is not UTF-8") from None
        add_tag(found, name, value, 10)
    return storage_pb2.Tags(tags=found)


def add_tag(found: dict[str, str], name: str, value: str, most: int) -> None:
    """Add one tag, if it is one. Raises S3Error."""
    if name in found:
        raise S3Error("InvalidTag", f"two tags have the key {name[:128]!r}")
    if not 1 <= len(name) <= 128 or len(value) > 256 or "\0" in name + value:
        raise S3Error("InvalidTag", "a tag has a key of 1 to 128 characters, and a value of at most 256")
    found[name] = value
    if len(found) > most:
        raise S3Error("InvalidTag", f"there may be at most {most} tags")


def checksum(request: Request) -> tuple[str, str]:
    """The checksum that is asked for, and what it has to be, which may be told only after the body. Raises S3Error."""
    headers, found = request.headers, ("", "")
    for name, algorithm in CHECKSUMS.items():
        if name in headers:
            if found[0]:
                raise S3Error("InvalidRequest", "only one checksum may be given")
            found = algorithm, headers[name]
    announced = request.payload.announced
    if announced:
        if announced not in CHECKSUMS or found[0]:
            raise S3Error("InvalidRequest", "x-amz-trailer has to name one checksum, and there may be no other")
        found = CHECKSUMS[announced], ""
    asked = algorithm_of(headers.get("x-amz-sdk-checksum-algorithm", ""))
    if found[0] and asked and found[0] != asked:
        raise S3Error("InvalidRequest", "x-amz-sdk-checksum-algorithm names another checksum than is given")
    return found if found[0] else (asked, "")


def algorithm_of(said: str) -> str:
    """The name of a checksum that we know. Raises S3Error."""
    if said and said.upper() not in ALGORITHMS:
        raise S3Error("InvalidRequest", f"a checksum has to be one of {', '.join(ALGORITHMS)}")
    return said.upper()


def stored(made: Any) -> list[tuple[str, str]]:
    """The headers that tell of an object that was stored."""
    return [("etag", f'"{made.etag}"'), *checksum_headers(made), *version_headers(made)]


def version_headers(made: Any) -> list[tuple[str, str]]:
    """The object's version, where there are several, and whether it is encrypted."""
    headers = []
    if made.version_id and made.version_id != "null":
        headers.append(("x-amz-version-id", made.version_id))
    if made.encrypted:
        headers.append(("x-amz-server-side-encryption", "AES256"))
    return headers


def checksum_headers(made: Any) -> list[tuple[str, str]]:
    if not made.checksum_value:
        return []
    kind = "COMPOSITE" if "-" in made.checksum_value else "FULL_OBJECT"
    return [(f"x-amz-checksum-{made.checksum_algorithm.lower()}", made.checksum_value), ("x-amz-checksum-type", kind)]


def checksum_elements(made: Any) -> str:
    """The same, in XML."""
    if not made.checksum_value:
        return ""
    kind = "COMPOSITE" if "-" in made.checksum_value else "FULL_OBJECT"
    name = f"Checksum{made.checksum_algorithm}"
    return f"<{name}>{made.checksum_value}</{name}><ChecksumType>{kind}</ChecksumType>"
