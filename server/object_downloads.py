"""How an object is sent: which part of it, with which headers, or not at all (RFC 9110, sections 13 and 14)."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from google.api.httpbody_pb2 import HttpBody
from thecloud.v1 import options_pb2

from server.errors import ApiError
from server.object_rows import Object

PIECE = 2**17  # bytes of one response, which a slow reader has to take within `slow_reader_seconds`
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
    """There is nothing in the range."""


@dataclass(frozen=True)
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
        body.extensions.add().Pack(options_pb2.Head(status=self.status, headers=self.headers))
        return body


def plan(row: Object, request: Any) -> Plan:
    """How to answer. Raises PRECONDITION_FAILED and RANGE_NOT_SATISFIABLE."""
    etag, size = f'"{row.etag}"', row.size_bytes
    headers = {"etag": etag, "last-modified": format_datetime(row.created_at.astimezone(UTC), usegmt=True)}
    if request.if_match and not _named(etag, request.if_match):
        raise ApiError("PRECONDITION_FAILED", f"the object's ETag is {etag}", etag=row.etag)
    if request.if_none_match:
        unchanged = _named(etag, request.if_none_match)
    else:
        since = _moment(request.if_modified_since)
        unchanged = since is not None and row.created_at.replace(microsecond=0) <= since
    if unchanged:
        return Plan(304, 0, 0, headers, row.content_type)
    headers |= {"accept-ranges": "bytes", "content-disposition": disposition(row.key)}
    wanted = request.range if request.if_range in ("", etag) else ""
    part = part_of(size, wanted)
    if part is None:
        return Plan(200, 0, size, headers | {"content-length": str(size)}, row.content_type)
    start, end = part
    headers |= {"content-length": str(end - start), "content-range": f"bytes {start}-{end - 1}/{size}"}
    return Plan(206, start, end, headers, row.content_type)


def part_of(size: int, wanted: str) -> tuple[int, int] | None:
    """Where the range begins and ends; None for all. Raises Unsatisfiable."""
    found = RANGE.fullmatch(wanted.strip())
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
    name = next((part for part in reversed(key.split("/")) if part), "object")
    plain = re.sub(r'[^ -~]|["\\%]', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _named(etag: str, list: str) -> bool:
    """Whether the ETag is in a list of them."""
    return "*" in (each := [one.strip().removeprefix("W/") for one in list.split(",")]) or etag in each


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
