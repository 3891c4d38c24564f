"""Bodies that are sent on as they come: one file in a multipart/form-data body (RFC 7578), or the body itself.

A method with a stream of requests and one response gets them in pieces. Of a form only the part `file` counts; what
comes before it and after it is dropped. Nothing is kept but the piece in hand.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, MutableMapping
from typing import Any

from google.protobuf.message import Message

from rest_shim.streams import Receive, whole_body
from server.errors import ApiError, invalid

FIELD = "file"
PIECE = 2**20  # bytes of one request, or a little more
PROMPT = 2.0  # seconds after which a request has fewer
HEAD_BYTES = 16 * 1024  # the most that a part's headers may have
MOST_PARTS = 100
FORM = re.compile(r"\s*multipart/form-data\s*(?:;.*)?", re.ASCII | re.IGNORECASE)
BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.ASCII | re.IGNORECASE)
PARAMETER = re.compile(rb';\s*([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


def read_range(request: Any, headers: Mapping[bytes, bytes]) -> int | None:
    """Put what Content-Range says into the fields `offset` and `size_bytes`; how many bytes are to come."""
    text = headers.get(b"content-range")
    if text is None or "offset" not in request.DESCRIPTOR.fields_by_name:
        return None
    found = RANGE.fullmatch(text.decode("latin-1"))
    if found is None or not int(found[1]) <= int(found[2]) < int(found[3]):
        raise invalid("Content-Range", 'this wants the first and the last byte, and the size of the whole file: "bytes '
                                       '1000-1999/2000"')  # fmt: skip
    request.offset, request.size_bytes = int(found[1]), int(found[3])
    return int(found[2]) - int(found[1]) + 1


def take(request: Any, field: str, scope: MutableMapping[str, Any], *, form: bool) -> bool:
    """Put the body into this field, where all of it has come already, and is neither a form nor part of a file. Whether
    that was so."""
    headers, whole = dict(scope["headers"]), whole_body(scope)
    if whole is None or b"content-range" in headers or (form and FORM.fullmatch(content_type(headers))):
        return False
    setattr(request, field, whole)
    return True


async def requests(
    first: Any, field: str, headers: Mapping[bytes, bytes], receive: Receive, *, form: bool
) -> AsyncGenerator[Message]:  # fmt: skip
    """The first request, then as many as it takes with the pieces of the body in this field. `form`: the body may be
    a form with them."""
    announced = read_range(first, headers)
    boundary = boundary_of(content_type(headers)) if form else None
    data = body(receive)
    pieces = file_of_form(data, boundary) if boundary else data
    yield first
    clock = asyncio.get_running_loop().time
    sent, held, size, due = 0, list[bytes](), 0, clock() + PROMPT
    async for piece in pieces:
        sent += len(piece)
        if announced is not None and sent > announced:
            raise invalid("Content-Range", f"it announces {announced} bytes, and there are more")
        held.append(piece)
        size += len(piece)
        if size >= PIECE or clock() >= due:
            yield type(first)(**{field: b"".join(held)})
            held, size, due = [], 0, clock() + PROMPT
    if announced is not None and sent < announced:
        raise invalid("Content-Range", f"it announces {announced} bytes, and there are {sent}")
    if held:
        yield type(first)(**{field: b"".join(held)})


async def body(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it comes. Raises when the client leaves before its end."""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ApiError("REQUEST_TIMEOUT", "the connection was closed before the body was complete")
        if data := event.get("body"):
            yield data
        if not event.get("more_body"):
            return


def content_type(headers: Mapping[bytes, bytes]) -> str:
    return headers.get(b"content-type", b"").decode("latin-1")


def boundary_of(kind: str) -> bytes | None:
    """The boundary of a form; None for any other type."""
    if not FORM.fullmatch(kind):
        return None
    found = BOUNDARY.search(kind)
    if found is None:
        raise invalid("Content-Type", "multipart/form-data wants a boundary of 1 to 70 characters")
    return (found[1] or found[2]).encode("latin-1")


async def file_of_form(data: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[bytes]:
    """What is in the part `file`, in pieces. Raises when there is none, or the form breaks off."""
    form, found = _Form(data, b"\r\n--" + boundary), False
    async for _ in form.until_delimiter():  # a preamble
        pass
    for _ in range(MOST_PARTS):
        head = await form.head()
        if head is None:
            if not found:
                raise invalid(FIELD, f"the form has no field {FIELD!r} with the file")
            return
        wanted = _name(head) == FIELD.encode()
        if wanted and found:
            raise invalid(FIELD, f"the form has several fields {FIELD!r}; send one file")
        found = found or wanted
        async for piece in form.until_delimiter():
            if wanted:
                yield piece
    raise invalid("", f"the form has more than {MOST_PARTS} parts")


def _name(head: bytes) -> bytes | None:
    """The field's name, as the part's headers say."""
    for line in head.split(b"\r\n"):
        title, _, value = line.partition(b":")
        if title.strip().lower() == b"content-disposition":
            said = {name.lower(): quoted or plain for name, quoted, plain in PARAMETER.findall(value)}
            return said.get(b"name")
    return None


class _Form:
    """The bytes of a form, with as many held back as it takes to see a delimiter."""

    def __init__(self, data: AsyncIterator[bytes], delimiter: bytes) -> None:
        self._data, self._delimiter = data, delimiter
        self._held = b"\r\n"  # so that a delimiter at the very beginning is one

    async def _more(self) -> None:
        piece = await anext(self._data, None)
        if piece is None:
            raise invalid("", "the form ends before its last boundary; send all of it")
        self._held += piece

    async def until_delimiter(self) -> AsyncIterator[bytes]:
        """What comes before the next delimiter, which is taken away too."""
        keep = len(self._delimiter) - 1
        while (at := self._held.find(self._delimiter)) < 0:
            if len(self._held) > keep:
                yield self._held[:-keep]
                self._held = self._held[-keep:]
            await self._more()
        yield self._held[:at]
        self._held = self._held[at + len(self._delimiter) :]

    async def head(self) -> bytes | None:
        """The headers of the part that begins here; None after the last one."""
        while len(self._held) < 2:
            await self._more()
        if self._held.startswith(b"--"):
            async for _ in self._data:  # an epilogue
                pass
            return None
        while (at := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > HEAD_BYTES:
                raise invalid("", f"the headers of a part of the form have more than {HEAD_BYTES} bytes")
            await self._more()
        head, self._held = self._held[:at], self._held[at + 4 :]
        return head
