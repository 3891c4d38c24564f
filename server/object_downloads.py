"""How an object is sent: which part of it, with which headers, or not at all (RFC 9110, sections 13 and 14)."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from google.api.httpbody_pb2 import HttpBody
from thecloud.v1 import options_pb2

from server.errors import ApiError
from server.object_rows import Object, named

PIECE = 2**17  # bytes of one response, which a slow reader has to take within `slow_reader_seconds`
HEAD = f"type.googleapis.com/{options_pb2.Head.DESCRIPTOR.full_name}"
PLAIN = re.compile(r"[A-Za-z0-9._~-]+")
CONDITION_NAMES = ("match", "none_match", "modified_since", "unmodified_since")
CONDITIONS = {  # by the prefix of their fields
    prefix: attrgetter(*(f"{prefix}if_{name}" for name in CONDITION_NAMES)) for prefix in ("", "source_")
}
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
    """There is nothing in the range."""


@dataclass(slots=True)
class Plan:
    """What of an object is sent, and how the answer begins."""

    status: int
    start: int
    end: int
    headers: dict[str, str]
    content_type: str

    def head(self, data: bytes) -> HttpBody:
        """The first response."""
        body = HttpBody(content_type=self.content_type, data=data)
        head = options_pb2.Head(status=self.status, headers=self.headers)
        body.extensions.add(type_url=HEAD, value=head.SerializeToString())  # which Pack() takes twice as long for
        return body

    def check(self, row: Object, sent: int) -> None:
        """Raise unless so many bytes are all of it."""
        if sent != self.end - self.start:
            raise RuntimeError(f"of blob {row.id} there are {sent} bytes of {self.end - self.start}")


def plan(row: Object, request: Any, more: Mapping[str, str], sizes: Sequence[int]) -> Plan:
    """How to answer, with more headers, of an object with parts of these sizes. Raises PRECONDITION_FAILED and
    Unsatisfiable."""
    etag, size = f'"{row.etag}"', row.size_bytes
    headers = {"etag": etag, "last-modified": http_date(row.created_at), **more}
    if unchanged(row, request):
        return Plan(304, 0, 0, headers, row.content_type)
    headers = {"content-disposition": disposition(row.key), **headers, "accept-ranges": "bytes"}
    wanted = request.range if request.if_range in ("", etag) else ""
    if request.part_number:
        headers["x-amz-mp-parts-count"] = str(len(sizes))
        part = numbered(sizes, request.part_number)
    else:
        part = part_of(size, wanted)
    if part is None:
        headers["content-length"] = str(size)
        return Plan(200, 0, size, headers, row.content_type)
    start, end = part
    headers |= {"content-length": str(end - start), "content-range": f"bytes {start}-{end - 1}/{size}"}
    return Plan(206, start, end, headers, row.content_type)


def unchanged(row: Object, request: Any, prefix: str = "") -> bool:
    """Whether the object is what the client has. Raises PRECONDITION_FAILED when it is not what the client wants. The
    conditions are in fields with this prefix."""
    match, none_match, since, until = CONDITIONS[prefix](request)
    if not (match or none_match or since or until):
        return False
    modified, moment = row.created_at.replace(microsecond=0), _moment(until)
    if (match and not named(row, match)) or (not match and moment and modified > moment):
        raise changed(row)
    if none_match:
        return named(row, none_match)
    moment = _moment(since)
    return moment is not None and modified <= moment


def changed(row: Object) -> ApiError:
    return ApiError("PRECONDITION_FAILED", f'the object\'s ETag is "{row.etag}"', etag=row.etag)


def described(row: Object, *, versions: bool, checksums: bool) -> dict[str, str]:
    """The headers that tell what is known of an object besides its bytes, as S3 calls them."""
    headers = dict(row.headers) | {f"x-amz-meta-{name}": text(value) for name, value in row.metadata.items()}
    if versions:
        headers["x-amz-version-id"] = row.version_id
    if row.wrapped_key is not None:
        headers["x-amz-server-side-encryption"] = "AES256"
    if row.tags:
        headers["x-amz-tagging-count"] = str(len(row.tags))
    if checksums and row.checksum_value:
        headers[f"x-amz-checksum-{row.checksum_algorithm.lower()}"] = row.checksum_value
        headers["x-amz-checksum-type"] = "COMPOSITE" if "-" in row.checksum_value else "FULL_OBJECT"
    return headers


def http_date(moment: datetime) -> str:
    """A moment as HTTP has it: "Sun, 06 Nov 1994 08:49:37 GMT"."""
    return _http_date(int(moment.timestamp()))


@lru_cache(4096)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def text(value: str) -> str:
    """What a header says for this; what cannot be in one, as RFC 2047 writes it."""
    if re.fullmatch(r"[ -~]*", value):
        return value
    return f"=?UTF-8?B?{base64.b64encode(value.encode()).decode()}?="


def numbered(sizes: Sequence[int], number: int) -> tuple[int, int] | None:
    """Where the part of this number begins and ends; None for all of an object that is empty. Raises Unsatisfiable."""
    start, size = sum(sizes[: number - 1]), sum(sizes[number - 1 : number])
    if number > len(sizes) or (size == 0 and len(sizes) > 1):
        raise Unsatisfiable
    return (start, start + size) if size else None


def part_of(size: int, wanted: str) -> tuple[int, int] | None:
    """Where the range begins and ends; None for all. Raises Unsatisfiable."""
    found = RANGE.fullmatch(wanted.strip()) if wanted else None
    if found is None or found[0] == "bytes=-":
        return None
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= end:
        raise Unsatisfiable
    return start, end


def disposition(key: str) -> str:
    """What makes browsers save the object, under the last part of its key."""
    name = key.rstrip("/").rpartition("/")[2] or "object"
    if PLAIN.fullmatch(name):
        return f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}"
    plain = re.sub(r'[^ -~]|["\\%]', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text) if text else None
    except (ValueError, OverflowError):
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
