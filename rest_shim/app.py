"""The documented REST API: an ASGI application that turns HTTP requests into calls, and answers into JSON.

Bodies at the root are the documented ones; under /api/v1 the same handlers answer
{"data": …, "meta": …}. The shim holds no state and opens no database. Of the server it knows the
spelling of enums and the table of errors, and it is given the one thing that performs calls: in
the usual process the pipeline itself, for a shim deployed on its own a gRPC channel.
"""

import asyncio
import hmac
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import getrandbits
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
import structlog
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from starlette.middleware.cors import CORSMiddleware

from rest_shim import decoding, openapi, streams, uploads
from rest_shim.endpoint import Backend, Endpoint
from rest_shim.failures import JSON, body_of, meta
from rest_shim.routes import DRY_RUN, TOO_MANY_SEGMENTS, Router, bindings
from rest_shim.streams import Headers, Receive, Send
from server.errors import ApiError, invalid

log = structlog.get_logger()

Scope = MutableMapping[str, Any]

ENVELOPED = "/api/v1"
FORWARDED = {
    name.encode(): name
    for name in (
        "x-api-key", "authorization", "x-tenant-id", "x-request-id", "idempotency-key", "user-agent",
        "traceparent", "grpc-timeout", "accept", "x-forwarded-for",
    )
}  # fmt: skip
SECURE: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
API_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
PAGE_POLICY = (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'")
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
PAGES = {
    "/docs": ("docs.html", b"text/html; charset=utf-8"),
    "/docs.js": ("docs.js", b"text/javascript; charset=utf-8"),
    "/docs.css": ("docs.css", b"text/css; charset=utf-8"),
}
UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True)
class Settings:
    """What a deployment decides about its HTTP side."""

    body_bytes: int = 2**20
    deadline_seconds: float = 30.0
    slow_reader_seconds: float = 10.0
    cors_origins: tuple[str, ...] = ()
    tls: bool = False
    metrics: Callable[[], bytes] | None = None  # what /metrics answers
    metrics_token: str = ""  # lets scrapers beyond loopback read it


def create(backend: Backend, services: Iterable[ServiceDescriptor], settings: Settings) -> Any:
    """The ASGI application."""
    shim = Shim(backend, services, settings)
    if not settings.cors_origins:
        return shim
    return CORSMiddleware(
        shim, allow_origins=settings.cors_origins, allow_methods=["*"], max_age=600,
        allow_headers=["authorization", "content-range", "content-type", "idempotency-key", "last-event-id",
                       "x-api-key", "x-request-id", "x-tenant-id"],
        expose_headers=["link", "retry-after", "x-next-page-token", "x-request-id"],
    )  # fmt: skip


class Shim:
    """Finds the endpoint of a request, and answers."""

    def __init__(self, backend: Backend, services: Iterable[ServiceDescriptor], settings: Settings) -> None:
        self.backend, self.settings = backend, settings
        self.services = list(services)
        self.router = Router()
        for binding in bindings(self.services):
            self.router.add(binding.verb, binding.template, Endpoint(binding, backend))
        self.secure = [*SECURE, *([(b"strict-transport-security", b"max-age=31536000")] if settings.tls else [])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        metadata = forwarded(scope)
        headers: dict[str, str] = {}
        try:
            path, verb = scope["path"], scope["method"]
            if verb in ("GET", "HEAD") and (page := self._page(path, scope)):
                more = [(b"content-type", page[0]), PAGE_POLICY]
                return await self._send(send, 200, metadata, headers, page[1], more)
            endpoint, values, enveloped = self._find("GET" if verb == "HEAD" else verb, scope, headers)
            if endpoint.streams:
                raise ApiError("INVALID_ARGUMENT", "this is a WebSocket: connect with Upgrade: websocket")
            if endpoint.pushes and not endpoint.raw and verb == "HEAD":
                headers["allow"] = endpoint.binding.verb
                raise ApiError("METHOD_NOT_ALLOWED", f"{path} is a stream, which does not take HEAD")
            began = asyncio.get_running_loop().time()
            request = await self._read(endpoint, values, scope, receive)
            if endpoint.pushes:
                return await self._stream(endpoint, request, scope, receive, send, metadata, headers)
            address = scope["client"][0] if scope["client"] else ""
            form = endpoint.binding.takes_form
            if endpoint.takes and not uploads.take(request, endpoint.body, scope, form=form):
                sent = uploads.requests(request, endpoint.body, dict(scope["headers"]), receive, form=form)
                calling = self.backend.stream(endpoint.handle, sent, metadata, address, headers)
                async with aclosing(sent), aclosing(calling) as responses:
                    response = await anext(responses)
            else:
                spent = asyncio.get_running_loop().time() - began
                most = timeout_of(metadata, endpoint.deadline or self.settings.deadline_seconds) - spent
                response = await self.backend.unary(endpoint.handle, request, metadata, address, headers, most)
            await self._reply(endpoint, request, response, enveloped, scope, send, metadata, headers)
        except ApiError as error:
            await self._fail(error, scope, send, metadata, headers)
        except streams.Broken as broken:
            log.warning("stream_broken", request_id=metadata["x-request-id"], error=str(broken))
            raise
        except Exception:
            log.exception("shim_failed", request_id=metadata["x-request-id"])
            text = f"internal error; the server's log has the cause under request id {metadata['x-request-id']}"
            await self._fail(ApiError("INTERNAL", text), scope, send, metadata, headers)

    def _find(self, verb: str, scope: Scope, headers: dict[str, str]) -> tuple[Endpoint, list[str], bool]:
        """The endpoint, the values of its path, and whether the answer is enveloped."""
        try:
            path = (scope.get("raw_path") or scope["path"].encode()).decode("ascii")
            enveloped = path.startswith(ENVELOPED + "/")
            segments = path.removeprefix(ENVELOPED)[1:].split("/") if enveloped else path[1:].split("/")
            if "%" in path:
                segments = [unquote(segment, errors="strict") for segment in segments]
        except UnicodeDecodeError:
            raise invalid("", "the path is not UTF-8") from None
        allowed: set[str] = set()
        found = self.router.find(verb, segments, allowed) if len(segments) <= TOO_MANY_SEGMENTS else None
        if found is not None:
            return found[0], found[1], enveloped
        if allowed:
            headers["allow"] = ", ".join(sorted(allowed))
            raise ApiError("METHOD_NOT_ALLOWED", f"{path} does not take {verb}; it takes {headers['allow']}")
        raise ApiError("NOT_FOUND", f"there is nothing at {verb} {path[:200]}; /docs lists what there is")

    async def _read(self, endpoint: Endpoint, values: list[str], scope: Scope, receive: Receive) -> Any:
        """The request: the body, the query, the headers, the path. What names the resource has the last word."""
        try:
            message: Any = (
                self._parse(endpoint, await self._body(scope, receive))
                if endpoint.body and not endpoint.takes
                else endpoint.request()
            )
            if scope["query_string"]:
                for name, text in parse_qsl(scope["query_string"].decode("latin-1"), True, max_num_fields=200):
                    if field := endpoint.query_fields.get(name):
                        value = decoding.scalar(field, text)
                        if field.is_repeated:
                            getattr(message, name).append(value)
                        elif field is not endpoint.dry or value:  # a dry run asked for anywhere is one
                            setattr(message, field.name, value)
                    elif name == "dry_run":  # which must not be taken for granted
                        raise invalid(name, "this has no dry run, and would be done: leave dry_run out")
            if endpoint.header_fields:
                for header, raw in scope["headers"]:
                    if field := endpoint.header_fields.get(header):
                        setattr(message, field.name, decoding.scalar(field, raw.decode("latin-1")))
            for field, text in zip(endpoint.path_fields, values, strict=True):
                setattr(message, field.name, decoding.scalar(field, text))
            if endpoint.columns:
                message.as_columns = True
            if endpoint.resumes and not message.resume_token:
                message.resume_token = dict(scope["headers"]).get(b"last-event-id", b"").decode()
        except decoding.Malformed as malformed:
            raise invalid(malformed.path, malformed.message) from None
        except ValueError:
            raise invalid("", "the query has too many fields, or it or Last-Event-ID is not UTF-8") from None
        return message

    def _parse(self, endpoint: Endpoint, raw: bytes) -> Message:
        try:
            data = orjson.loads(raw) if raw.strip() else {}
        except orjson.JSONDecodeError as error:
            raise invalid("", f"the body is not JSON: {error}") from None
        if endpoint.body != "*":
            data = {endpoint.body: data}
        message: Any = endpoint.decode(data)
        if endpoint.masked and not message.HasField("update_mask"):
            known = message.DESCRIPTOR.fields_by_name
            names = [name for name, value in data.items() if name in known and value is not None]
            message.update_mask.paths.extend(sorted(set(names) - {*endpoint.names, DRY_RUN}))
        return message  # type: ignore[no-any-return]

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limit = self.settings.body_bytes
        too_large = ApiError("PAYLOAD_TOO_LARGE", f"the body has more than {limit} bytes; send less",
                             limit_bytes=str(limit))  # fmt: skip
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > limit:
                raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.deadline_seconds):
                while True:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        raise ApiError("REQUEST_TIMEOUT", "the connection was closed before the body was complete")
                    body += event.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not event.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise ApiError("REQUEST_TIMEOUT", "the body did not arrive in time; send it again") from None

    async def _reply(
        self, endpoint: Endpoint, request: Any, response: Message, enveloped: bool, scope: Scope, send: Send,
        metadata: Mapping[str, str], headers: dict[str, str],
    ) -> None:  # fmt: skip
        dry = bool(endpoint.dry and request.validate_only)
        status = 200 if dry else endpoint.status
        if isinstance(response, HttpBody):
            kind = (b"content-type", response.content_type.encode("latin-1", "replace") or b"application/octet-stream")
            return await self._send(send, status, metadata, headers, response.data, [kind])
        if endpoint.empty and not dry:
            return await self._send(send, status, metadata, headers, b"", [])
        if endpoint.rest.status_by and not dry:
            status = endpoint.rest.status_by.get(endpoint.encode(response)["status"], status)
        data = endpoint.answer(response, dry=dry)
        if enveloped and not endpoint.rest.bare:
            data = {"data": data, "meta": meta(metadata)}
        if endpoint.paged and (token := response.next_page_token):  # type: ignore[attr-defined]
            query = [pair for pair in scope["query_string"].decode("latin-1").split("&")
                     if pair and not pair.startswith("page_token=")]  # fmt: skip
            path = scope["raw_path"].decode("ascii") if scope.get("raw_path") else scope["path"]
            target = f"{path}?{'&'.join([*query, f'page_token={token}'])}"
            headers |= {"x-next-page-token": token, "link": f'<{target}>; rel="next"'}
        await self._send(send, status, metadata, headers, orjson.dumps(data), [JSON])

    async def _stream(
        self, endpoint: Endpoint, request: Message, scope: Scope, receive: Receive, send: Send,
        metadata: Mapping[str, str], headers: dict[str, str],
    ) -> None:  # fmt: skip
        address = scope["client"][0] if scope["client"] else ""
        if has_heads := "only_head" in request.DESCRIPTOR.fields_by_name:
            if request.only_head:  # type: ignore[attr-defined]
                raise invalid("only_head", "over HTTP this is the method HEAD; send that")
            request.only_head = scope["method"] == "HEAD"  # type: ignore[attr-defined]
        answer = streams.Answer(
            send, lambda status, more: self._head(status or endpoint.status, metadata, headers, more),
            self.settings.slow_reader_seconds,
            (scope.get("extensions") or {}).get(streams.ABORT, {}).get("abort"),
        )  # fmt: skip
        responses = self.backend.stream(endpoint.handle, streams.One(request), metadata, address, headers)
        if endpoint.raw:
            only_head = scope["method"] == "HEAD"
            sending = streams.send_raw(answer, responses, streams.raw_headers, receive, only_head=only_head)
            if has_heads:  # and so begins at once
                return await sending
        else:
            sending = streams.send_events(answer, responses, endpoint.event, lambda error: body_of(error, metadata)[0])
        await streams.run(sending, answer, receive, prompt=not endpoint.raw)

    async def _fail(
        self, error: ApiError, scope: Scope, send: Send, metadata: Mapping[str, str], headers: dict[str, str]
    ) -> None:  # fmt: skip
        if any(name == b"expect" for name, _ in scope["headers"]):  # the client may send the body now, or never
            headers["connection"] = "close"
        if (retry := error.detail(RetryInfo)) is not None:
            headers["retry-after"] = str(retry.retry_delay.seconds)  # type: ignore[attr-defined]
        if error.rule.http == 401:
            headers["www-authenticate"] = 'Bearer realm="thecloud"'
        body, kind = body_of(error, metadata)
        await self._send(send, error.rule.http, metadata, headers, body, [kind])

    async def _send(
        self, send: Send, status: int, metadata: Mapping[str, str], headers: Mapping[str, str], body: bytes,
        more: Headers,
    ) -> None:  # fmt: skip
        if status != 204:
            more = [*more, (b"content-length", str(len(body)).encode())]
        await send(self._head(status, metadata, headers, more))
        await send({"type": "http.response.body", "body": body})

    def _head(
        self, status: int, metadata: Mapping[str, str], headers: Mapping[str, str], more: Headers
    ) -> dict[str, Any]:
        all_headers = [*self.secure, *more, (b"x-request-id", metadata["x-request-id"].encode())]
        if PAGE_POLICY not in more:
            all_headers.append(API_POLICY)
        for name, value in headers.items():
            all_headers.append((name.encode(), value.encode("latin-1", "replace")))
        return {"type": "http.response.start", "status": status, "headers": all_headers}

    def _page(self, path: str, scope: Scope) -> tuple[bytes, bytes] | None:
        """The content type and bytes of what is not a call: the description of the API, its page, the metrics."""
        if path == "/openapi.json":
            return b"application/json", self._openapi
        if path in PAGES:
            name, kind = PAGES[path]
            return kind, (Path(__file__).parent / name).read_bytes()
        if path == "/metrics" and self.settings.metrics:
            address = scope["client"][0] if scope["client"] else ""
            token = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ").strip()
            wanted = self.settings.metrics_token.encode()
            if address not in ("127.0.0.1", "::1") and not (wanted and hmac.compare_digest(token, wanted)):
                raise ApiError("UNAUTHENTICATED", "beyond this machine /metrics wants Authorization: Bearer with the "
                                                  "token of THECLOUD_METRICS_TOKEN")  # fmt: skip
            return b"text/plain; version=0.0.4; charset=utf-8", self.settings.metrics()
        return None

    @cached_property
    def _openapi(self) -> bytes:
        settings = self.settings
        return orjson.dumps(openapi.document(
            self.services, body_limit=settings.body_bytes, deadline_seconds=settings.deadline_seconds,
        ))  # fmt: skip

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A bidirectional method: what the client sends is `data` of a request, `data` of a response is sent back."""
        metadata = forwarded(scope)
        await receive()
        try:
            endpoint, values, _ = self._find("GET", scope, {})
            if not endpoint.streams:
                raise ApiError("METHOD_NOT_ALLOWED", "this is not a WebSocket")
            first = await self._read(endpoint, values, scope, receive)
            # noVNC and others ask for this name of what everybody does anyway: to send what is binary as such
            subprotocol = "binary" if "binary" in scope["subprotocols"] else None
            await send({"type": "websocket.accept", "subprotocol": subprotocol,
                        "headers": [(b"x-request-id", metadata["x-request-id"].encode())]})  # fmt: skip
            address = scope["client"][0] if scope["client"] else ""
            requests = typed(endpoint.request, first, receive)
            async with aclosing(self.backend.stream(endpoint.handle, requests, metadata, address, {})) as responses:
                async for response in responses:
                    await send({"type": "websocket.send", "bytes": response.data})  # type: ignore[attr-defined]
            await send({"type": "websocket.close", "code": 1000})
        except ApiError as error:
            reason = error.message.encode()[:120].decode(errors="ignore")
            await send({"type": "websocket.close", "code": 4000 + error.rule.http, "reason": reason})


async def typed(kind: type[Message], first: Message, receive: Receive) -> AsyncIterator[Message]:
    """The first request, then what the client sends, until it leaves."""
    yield first
    while (event := await receive())["type"] == "websocket.receive":
        yield kind(data=event.get("bytes") or (event.get("text") or "").encode())


def forwarded(scope: Scope) -> dict[str, str]:
    """The headers that calls carry as metadata, and always a request id."""
    metadata = {FORWARDED[name]: value.decode("latin-1") for name, value in scope["headers"] if name in FORWARDED}
    if not REQUEST_ID.fullmatch(metadata.get("x-request-id", "")):
        metadata["x-request-id"] = f"{getrandbits(128):032x}"
    return metadata


def timeout_of(metadata: Mapping[str, str], most: float) -> float:
    """Seconds the client gives the call: `Grpc-Timeout: 5S`, as gRPC writes it."""
    text = metadata.get("grpc-timeout")
    if not text:
        return most
    if not re.fullmatch(r"[0-9]{1,8}[HMSmun]", text):
        raise invalid("Grpc-Timeout", "this wants up to eight digits and a unit of H, M, S, m, u or n, such as 5S")
    return min(int(text[:-1]) * UNITS[text[-1]], most)
