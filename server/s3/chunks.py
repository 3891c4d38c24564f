"""Bodies as S3's clients send them: as they are, or in chunks that have signatures, and with trailers ("aws-chunked").

Nothing is held but the piece in hand. What is passed on before its chunk's signature is seen to be right is the
beginning of an upload that is then not completed, so nothing of it is kept.
"""

import asyncio
import hashlib
import hmac
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing
from typing import Any

from rest_shim.streams import whole_body
from server.errors import ApiError
from server.s3.errors import S3Error, not_implemented
from server.s3.signature import ALGORITHM, UNSIGNED, Claim, sign

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

STREAMING = "STREAMING-"
SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
CHUNKED = (SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER)
SHA256 = re.compile(r"[0-9a-f]{64}")
CHUNK = re.compile(rb"([0-9a-fA-F]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?")
TRAILER = re.compile(rb"([A-Za-z0-9-]{1,100}):[ \t]*([!-~]{0,200})[ \t]*")
SMALLEST = 8192  # bytes of a chunk, but for the last one
LONGEST_LINE = 512
MOST_TRAILERS = 10
EMPTY = hashlib.sha256().hexdigest()
PIECE = 2**19  # bytes of one request, as many as drivers take at once, who then need not put it together anew
PROMPT = 2.0  # seconds after which a request has fewer


class Payload:
    """The body of one request. Once it is read, `trailers` has what came after it."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], claim: Claim | None, key: bytes) -> None:
        """`key`: what the claim's signature was made with. Raises S3Error for a body that cannot be read."""
        self._receive, self._claim, self._key = receive, claim, key
        said = claim.payload if claim else headers.get("x-amz-content-sha256", UNSIGNED)
        self.sha256 = said if SHA256.fullmatch(said) else ""  # of all of it, in hexadecimal
        self.kind = said if said in CHUNKED else ""
        self.trailers: dict[str, str] = {}
        self.announced = headers.get("x-amz-trailer", "").strip().lower()
        if not self.sha256 and not self.kind and said != UNSIGNED:
            if said.startswith(STREAMING):
                raise not_implemented(f"way to sign a body called {said[:100]}")
            raise S3Error("InvalidArgument", "x-amz-content-sha256 has to be UNSIGNED-PAYLOAD, a way to sign chunks, "
                                             "or a SHA-256 in hexadecimal")  # fmt: skip
        if self.kind in (SIGNED, SIGNED_TRAILER) and claim is None:
            raise S3Error("InvalidRequest", f"{said} needs a signed request")
        if self.announced and self.kind not in (SIGNED_TRAILER, UNSIGNED_TRAILER):
            raise S3Error("InvalidRequest", "only a body in chunks has what x-amz-trailer says after it; see "
                                            "x-amz-content-sha256")  # fmt: skip
        self.size = self._size(headers)

    def _size(self, headers: Mapping[str, str]) -> int | None:
        """The bytes that are announced of what is to be stored."""
        said = headers.get("x-amz-decoded-content-length" if self.kind else "content-length")
        if said is None:
            return None
        if not re.fullmatch(r"[0-9]{1,18}", said, re.ASCII):
            raise S3Error("InvalidArgument", "the length of the body has to be a number")
        return int(said)

    def at_hand(self, scope: MutableMapping[str, Any]) -> bytes | None:
        """What is to be stored, if all of it has come already and is not in chunks."""
        return None if self.kind or self.announced or self.size is None else whole_body(scope)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """What is to be stored, as it comes."""
        if self.size is None:
            raise S3Error("MissingContentLength", "send Content-Length, or x-amz-decoded-content-length with chunks")
        raw = body(self._receive)
        async with aclosing(self._decoded(raw) if self.kind else raw) as pieces:
            async for piece in pieces:
                yield piece

    async def requests(self, first: Any) -> AsyncGenerator[Any]:
        """The first request, and as many more as it takes with the pieces in `data`. A checksum that comes after them
        is in the last one."""
        request, held, room, clock = first, list[bytes](), PIECE, asyncio.get_running_loop().time
        due = clock() + PROMPT
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                while piece:
                    held.append(piece[:room])
                    room, piece = room - len(held[-1]), piece[room:]
                    if not room or clock() >= due:
                        request.data = b"".join(held)
                        yield request
                        request, held, room, due = type(first)(), [], PIECE, clock() + PROMPT
        request.data = b"".join(held)
        if self.announced:
            request.checksum_value = self.trailers[self.announced]
        if held or self.announced or request is first:
            yield request

    async def whole(self, most: int, seconds: float) -> bytes:
        """All of it, which has to be what it is signed as. Raises S3Error when it has more bytes than that."""
        if self.size is not None and self.size > most:
            raise S3Error("MaxMessageLengthExceeded", f"this takes at most {most} bytes")
        held = bytearray()
        try:
            raw = body(self._receive)
            async with asyncio.timeout(seconds), aclosing(self._decoded(raw) if self.kind else raw) as pieces:
                async for piece in pieces:
                    held += piece
                    if len(held) > most:
                        raise S3Error("MaxMessageLengthExceeded", f"this takes at most {most} bytes")
        except TimeoutError:
            raise S3Error("RequestTimeout", "the body did not arrive in time; send it again") from None
        if self.sha256 and hashlib.sha256(held).hexdigest() != self.sha256:
            raise S3Error("XAmzContentSHA256Mismatch", "what came is not what x-amz-content-sha256 says; send it again")
        return bytes(held)

    async def _decoded(self, raw: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """The data of the chunks."""
        lines = _Reader(raw)
        signature, left, small = self._claim.signature if self._claim else "", self.size or 0, False
        while True:
            found = CHUNK.fullmatch(await lines.line())
            if found is None or (self.kind != UNSIGNED_TRAILER and found[2] is None):
                raise S3Error("InvalidRequest", "the body is not in chunks as x-amz-content-sha256 says")
            size = int(found[1], 16)
            if size > left:
                raise _incomplete("more")
            if small and size:
                raise S3Error("InvalidChunkSizeError", f"only the last chunk may have less than {SMALLEST} bytes")
            small, left = size < SMALLEST, left - size
            hashed = hashlib.sha256()
            async for piece in lines.exactly(size):
                if self.kind != UNSIGNED_TRAILER:
                    hashed.update(piece)
                yield piece
            if self.kind != UNSIGNED_TRAILER:
                signature = self._verified(found[2].decode(), "PAYLOAD", signature, f"{EMPTY}\n{hashed.hexdigest()}")
            if not size:
                break
            await lines.end()
        if left:
            raise _incomplete("less")
        await self._read_trailers(lines, signature)

    async def _read_trailers(self, lines: "_Reader", signature: str) -> None:
        """What comes after the last chunk: the checksum that was announced, signed like the rest."""
        said = ""
        found: dict[str, str] = {}
        while line := await lines.line(optional=True):
            trailer = TRAILER.fullmatch(line)
            name, value = (trailer[1].decode().lower(), trailer[2].decode()) if trailer else ("", "")
            if not name or name in found or len(found) == MOST_TRAILERS:
                raise S3Error("MalformedTrailerError", "what comes after the last chunk is not a few lines name:value, "
                                                       "each with another name")  # fmt: skip
            found[name] = value
            if name != "x-amz-trailer-signature":
                said += f"{name}:{value}\n"
        signed = found.pop("x-amz-trailer-signature", "")
        if [*found] != ([self.announced] if self.announced else []):
            raise S3Error("MalformedTrailerError", "what comes after the last chunk is not what x-amz-trailer says")
        if self.kind == SIGNED_TRAILER:
            self._verified(signed, "TRAILER", signature, hashlib.sha256(said.encode()).hexdigest())
        self.trailers = found

    def _verified(self, said: str, what: str, before: str, hashes: str) -> str:
        """The signature, if it is that of this chunk or trailer after the one before."""
        assert self._claim is not None
        made = sign(self._key, f"{ALGORITHM}-{what}\n{self._claim.moment}\n{self._claim.scope}\n{before}\n{hashes}")
        if not hmac.compare_digest(made, said):
            raise S3Error("SignatureDoesNotMatch", "a chunk of the body has another signature than it should")
        return made


class _Reader:
    """Lines and runs of bytes out of what comes in pieces."""

    def __init__(self, raw: AsyncGenerator[bytes]) -> None:
        self._raw, self._held = raw, b""
        self._at = 0  # what is held before this has been read

    async def _more(self) -> bool:
        piece = await anext(self._raw, None)
        self._held, self._at = self._held[self._at :] + (piece or b""), 0
        return piece is not None

    async def line(self, *, optional: bool = False) -> bytes:
        """What is before the next line break. `optional`: nothing when the body ends here."""
        while (end := self._held.find(b"\r\n", self._at)) < 0:
            if len(self._held) - self._at > LONGEST_LINE:
                raise S3Error("InvalidRequest", "the body is not in chunks as x-amz-content-sha256 says")
            if not await self._more():
                if optional and not self._held:
                    return b""
                raise _incomplete("less")
        line, self._at = self._held[self._at : end], end + 2
        return line

    async def exactly(self, size: int) -> AsyncIterator[bytes]:
        while size:
            if self._at == len(self._held) and not await self._more():
                raise _incomplete("less")
            piece = self._held[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    async def end(self) -> None:
        """The line break after a chunk."""
        if await self.line():
            raise S3Error("InvalidRequest", "a chunk of the body is longer than it says")


def _incomplete(than: str) -> S3Error:
    return S3Error("IncompleteBody", f"the body has {than} bytes than it announces; send all of it")


async def body(receive: Receive) -> AsyncGenerator[bytes]:
    """The body as it comes. Raises when the client leaves before its end."""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ApiError("REQUEST_TIMEOUT", "the connection was closed before the body was complete")
        if data := event.get("body"):
            yield data
        if not event.get("more_body"):
            return
