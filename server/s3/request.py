"""One request of the S3 protocol: what it asks for, whose it is, and how it calls RPCs."""

import base64
import binascii
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, MutableMapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus
from xml.etree.ElementTree import Element

from google.protobuf.message import Message

from rest_shim.streams import Send
from server import auth
from server.auth import NOBODY, Principal
from server.object_checksums import Running
from server.s3 import checksums, xml
from server.s3.chunks import Payload, Receive
from server.s3.errors import S3Error, readable_xml

if TYPE_CHECKING:
    from server.s3.front import Front

PACKAGE = "/thecloud.v1."
BODY = 2**20  # bytes of an XML body
LONGEST_KEY = 1024  # bytes
MOST = 1000  # of what a page lists
CONTROL = re.compile("[\x00-\x1f\x7f]")
PAIRS = re.compile(r"[^&]+")

SUBRESOURCES = frozenset((
    "accelerate", "acl", "analytics", "attributes", "cors", "delete", "encryption", "intelligent-tiering", "inventory",
    "legal-hold", "lifecycle", "location", "logging", "metadataTable", "metrics", "notification", "object-lock",
    "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "renameObject", "replication", "requestPayment",
    "restore", "retention", "select", "session", "tagging", "torrent", "uploadId", "uploads", "versioning", "versions",
    "website",
))  # fmt: skip


@dataclass(slots=True)
class Answer:
    """What is sent back: XML, unless it is told otherwise."""

    status: int = 200
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str = "application/xml"


@dataclass(slots=True)
class Request:
    """A request whose signature, if it has one, is right."""

    front: "Front"
    scope: MutableMapping[str, Any]
    receive: Receive
    send: Send
    method: str
    bucket: str
    key: str
    pairs: Sequence[tuple[str, str]]  # of the query, decoded
    query: dict[str, str]
    headers: dict[str, str]
    address: str
    metadata: dict[str, str]
    access_key_id: str = ""
    access: auth.AccessKey | None = None  # None: nobody signed it
    payload: Payload = None  # type: ignore[assignment]
    more: list[tuple[str, str]] = field(default_factory=list)  # headers of every answer to it
    replied: dict[str, str] = field(default_factory=dict)  # headers that a call has set

    @property
    def owner(self) -> str:
        """The id of the tenant it acts in, which is the owner of its buckets."""
        return str(self.access.tenant_id) if self.access else ""

    async def identity(self) -> Principal:
        """Whose the request is, now."""
        if self.access is None:
            return NOBODY
        return (await self.front.pipeline.access_key(self.access_key_id, self.address)).principal

    async def call(self, method: str, message: Message) -> Any:
        """The response of an RPC, such as "StorageService/ListBuckets". Raises ApiError."""
        pipeline = self.front.pipeline
        return await pipeline.unary(
            pipeline.method(PACKAGE + method), message, self.metadata, self.address, self.replied,
            identity=self.identity,
        )  # fmt: skip

    def stream(self, method: str, requests: AsyncIterator[Message]) -> AsyncGenerator[Any]:
        """The responses of an RPC that has or takes many messages."""
        pipeline = self.front.pipeline
        return pipeline.stream(
            pipeline.method(PACKAGE + method), requests, self.metadata, self.address, self.replied,
            identity=self.identity,
        )  # fmt: skip

    async def push(self, method: str, first: Any) -> Any:
        """The response of an RPC that takes the body as a stream, or at once where it is all there."""
        if (whole := self.payload.at_hand(self.scope)) is not None:
            first.data = whole
            return await self.call(method, first)
        requests = self.payload.requests(first)
        async with aclosing(requests), aclosing(self.stream(method, requests)) as responses:
            return await anext(responses)

    async def document(self, root: str, most: int = BODY, *, checksum: bool = True) -> Element:
        """The XML in the body, of which this is the outermost element. Raises S3Error. `checksum`: one in the headers
        is that of the body."""
        return self.parsed(await self.body(most, checksum=checksum), root)

    def parsed(self, body: bytes, root: str) -> Element:
        with readable_xml():
            return xml.parse(body, root)

    async def body(self, most: int = BODY, *, checksum: bool = True) -> bytes:
        """The body, which is what its checksums say. Raises ApiError."""
        body = await self.payload.whole(most, self.front.app.config.deadline_seconds)
        if (said := self.headers.get("content-md5")) is not None:
            try:
                expected = base64.b64decode(said, validate=True)
            except binascii.Error:
                expected = b""
            if len(expected) != 16:
                raise S3Error("InvalidDigest", "Content-MD5 has to be 16 bytes in Base64")
            if hashlib.md5(body, usedforsecurity=False).digest() != expected:
                raise S3Error("BadDigest", "what came is not what Content-MD5 says; send it again")
        algorithm, value = checksums.asked(self.headers, self.payload.announced) if checksum else ("", "")
        if algorithm:
            running = Running(algorithm, value or self.payload.trailers.get(self.payload.announced, ""))
            await running.update(body)
            running.value(hashlib.sha256(body).hexdigest())
        return body

    def header(self, name: str) -> str:
        """The header as text: UTF-8, as clients send it, or Latin-1, as HTTP has it."""
        return readable(self.headers.get(name, ""))

    def flag(self, name: str) -> bool:
        return self.headers.get(name, "").lower() == "true"

    def count(self, name: str) -> int:
        """How many a page may have: 0 to 1,000. Raises S3Error."""
        said = self.query.get(name, "")
        if not said:
            return MOST
        if not re.fullmatch(r"[0-9]{1,10}", said, re.ASCII) or int(said) >= 2**31:
            raise S3Error("InvalidArgument", f"{name} has to be a number from 0 to 2147483647")
        return min(int(said), MOST)


def readable(text: str) -> str:
    if text.isascii():
        return text
    raw = text.encode("latin-1")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return text


def split_query(raw: bytes) -> list[tuple[str, str]]:
    """The query's names and values. Raises S3Error for one that is not UTF-8, or says something twice."""
    pairs, seen = [], set()
    try:
        for each in PAIRS.findall(raw.decode("ascii")):
            name, _, value = each.partition("=")
            if "%" in each or "+" in each:
                name, value = unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict")
            if name in seen or "\0" in name or "\0" in value:
                raise S3Error("InvalidArgument", f"the query says {name[:100]!r} twice, or has a zero byte")
            seen.add(name)
            pairs.append((name, value))
    except UnicodeError:
        raise S3Error("InvalidArgument", "the query is not UTF-8") from None
    return pairs


def split_path(raw_path: str, host: str, domain: str) -> tuple[str, str]:
    """The bucket and the key, of which either may be empty. Raises S3Error."""
    path = raw_path[1:]
    if "%" in path:
        try:
            path = unquote(path, errors="strict")
        except UnicodeDecodeError:
            raise S3Error("InvalidURI", "the path is not UTF-8") from None
    bucket, key = bucket_of_host(host, domain), path
    if not bucket:
        bucket, _, key = path.partition("/")
    if "\0" in path:
        raise S3Error("InvalidArgument", "a key has no zero bytes")
    if len(key) > LONGEST_KEY // 4 and len(key.encode()) > LONGEST_KEY:
        raise S3Error("KeyTooLongError", f"a key has at most {LONGEST_KEY} bytes")
    return bucket, key


def bucket_of_host(host: str, domain: str) -> str:
    """The bucket whose name is in the host; empty when there is none."""
    name = (host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host).lower()
    return name[: -len(domain) - 1] if domain and name.endswith(f".{domain}") else ""


def iso(moment: Any) -> str:
    """A timestamp as XML has it: "2009-10-12T17:50:30.000Z"."""
    return iso_of(moment.seconds * 1_000_000 + moment.nanos // 1000)


def iso_of(microseconds: int) -> str:
    """The same of a moment that is so many microseconds after 1970 began."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{rest // 1000:03d}Z"


@lru_cache(4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def http_date(moment: Any) -> str:
    """A timestamp as HTTP has it."""
    return format_datetime(moment.ToDatetime(UTC), usegmt=True)


def encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers as they are sent. A line break in a value would begin another header."""
    return [
        (name.encode("latin-1"), (value if value.isprintable() else CONTROL.sub(" ", value)).encode())
        for name, value in headers
    ]
