"""The S3 protocol (Amazon S3 API Reference, 2006-03-01): an ASGI application that makes calls of its requests.

A request's signature is judged here, on the request as it came; what it asks for is done by the pipeline, as for every
other client. Of the database this reads nothing but whose an access key is, and what a bucket says of CORS.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import structlog

from rest_shim.streams import Broken, Send
from server.errors import ApiError
from server.log import REQUEST_ID, new_request_id
from server.pipeline import Pipeline
from server.s3 import buckets, cors, errors, listing, multipart, objects, settings, signature, signature_v2
from server.s3.chunks import Payload, Receive
from server.s3.errors import S3Error, not_implemented
from server.s3.request import SUBRESOURCES, Answer, Request, bucket_of_host, encoded, split_path, split_query

if TYPE_CHECKING:
    from server.app import App

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Handler = Callable[[Request], Awaitable[Answer | None]]  # None: it has answered by itself

OPERATIONS: dict[tuple[str, str, str], Handler] = {
    ("service", "GET", ""): buckets.list_buckets,
    ("bucket", "PUT", ""): buckets.create_bucket,
    ("bucket", "DELETE", ""): buckets.delete_bucket,
    ("bucket", "HEAD", ""): buckets.head_bucket,
    ("bucket", "GET", ""): listing.list_objects,
    ("bucket", "GET", "versions"): listing.list_versions,
    ("bucket", "GET", "uploads"): listing.list_uploads,
    ("bucket", "POST", "delete"): objects.delete_objects,
    ("object", "GET", ""): objects.get_object,
    ("object", "HEAD", ""): objects.get_object,
    ("object", "PUT", ""): objects.put_object,
    ("object", "DELETE", ""): objects.delete_object,
    ("object", "GET", "attributes"): objects.get_attributes,
    ("object", "GET", "tagging"): objects.get_tags,
    ("object", "PUT", "tagging"): objects.put_tags,
    ("object", "DELETE", "tagging"): objects.delete_tags,
    ("object", "GET", "acl"): objects.get_acl,
    ("object", "PUT", "acl"): objects.put_acl,
    ("object", "POST", "uploads"): multipart.create_upload,
    ("object", "PUT", "uploadId"): multipart.upload_part,
    ("object", "POST", "uploadId"): multipart.complete_upload,
    ("object", "DELETE", "uploadId"): multipart.abort_upload,
    ("object", "GET", "uploadId"): multipart.list_parts,
    **{("object", *key): handler for key, handler in settings.OF_OBJECTS.items()},
    **{("bucket", *key): handler for key, handler in settings.OF_BUCKETS.items()},
}


class Front:
    """Answers the requests of S3's clients."""

    def __init__(self, app: "App", pipeline: Pipeline) -> None:
        self.app, self.pipeline = app, pipeline
        self.domain = app.config.s3_domain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = new_request_id()
        REQUEST_ID.set(request_id)
        more: list[tuple[str, str]] = [("x-amz-request-id", request_id)]
        try:
            answer = await self._answer(scope, receive, send, request_id, more)
        except ApiError as error:
            answer = self._failed(error, scope, request_id)
        except Broken as broken:
            log.warning("stream_broken", error=str(broken))
            raise
        except Exception:
            log.exception("s3_failed")
            text = f"internal error; the server's log has the cause under request id {request_id}"
            answer = self._failed(S3Error("InternalError", text), scope, request_id)
        if answer is not None:
            await respond(send, answer, more, head=scope["method"] == "HEAD")

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, more: list[tuple[str, str]]
    ) -> Answer | None:
        headers = headers_of(scope)
        method = scope["method"]
        raw_path = scope["raw_path"].decode("ascii")
        address = scope["client"][0] if scope["client"] else ""
        pairs = split_query(scope["query_string"]) if scope["query_string"] else []
        bucket, key = split_path(raw_path, headers.get("host", ""), self.domain)
        if bucket and (origin := headers.get("origin")):
            if method == "OPTIONS":
                return await cors.preflight(self, bucket, origin, headers, address)
            more += await cors.allowed(self, bucket, origin, method, address)
        request = Request(
            self, scope, receive, send, method, bucket, key, pairs, dict(pairs), headers, address,
            {"x-request-id": request_id, "user-agent": headers.get("user-agent", "")}, more=more,
        )  # fmt: skip
        if "x-forwarded-for" in headers:
            request.metadata["x-forwarded-for"] = headers["x-forwarded-for"]
        await self._identify(request, raw_path)
        try:
            if "x-amz-expected-bucket-owner" in headers:
                await buckets.check_owner(request, bucket, headers["x-amz-expected-bucket-owner"])
            return await self._operation(request)(request)
        except ApiError as error:
            version_id, sha256 = request.query.get("versionId", ""), request.payload.sha256
            translated = errors.translated(error, version_id=version_id, sha256=sha256)
            translated.headers |= request.replied
            raise translated from None

    async def _identify(self, request: Request, raw_path: str) -> None:
        """Whose the request is. Raises S3Error."""
        headers, query, key = request.headers, request.query, b""
        claim = signature.read(headers, query) or signature_v2.read(query)
        if claim:
            access = request.access = await self.pipeline.access_key(claim.access_key_id, request.address)
            request.access_key_id, secret = claim.access_key_id, access.secret_access_key
            if isinstance(claim, signature_v2.Claim):
                hosted = bucket_of_host(headers.get("host", ""), self.domain)
                resource = f"/{hosted}{raw_path}" if hosted else raw_path
                signature_v2.verify(claim, secret, request.method, resource, request.pairs, headers)
            else:
                key = signature.verify(claim, secret, request.method, raw_path, request.pairs, headers)
            request.metadata["x-tenant-id"] = request.owner
            if (
                isinstance(claim, signature_v2.Claim) or claim.presigned
            ):  # headers may be said in the query, which is signed too
                headers |= {name: value for name, value in request.pairs if name.startswith("x-amz-")}
        if "x-amz-security-token" in request.headers or "X-Amz-Security-Token" in request.query:
            raise S3Error("InvalidToken", "there are no session tokens here; leave x-amz-security-token out")
        signs_body = claim if isinstance(claim, signature.Claim) else None
        request.payload = Payload(request.receive, headers, signs_body, key)

    def _operation(self, request: Request) -> Handler:
        level = "object" if request.key else "bucket" if request.bucket else "service"
        asked = [name for name in request.query if name in SUBRESOURCES] if request.query else []
        name = asked[0] if asked else ""
        if len(asked) > 1:
            raise S3Error("InvalidArgument", f"the query asks for several things at once: {', '.join(asked)}")
        handler = OPERATIONS.get((level, request.method, name))
        if handler is not None:
            return handler
        if name or (level != "service" and request.method == "POST"):
            raise not_implemented(f"{request.method} of ?{name}" if name else "upload by a form")
        raise S3Error("MethodNotAllowed", f"this does not take {request.method[:20]}")

    def _failed(self, error: ApiError, scope: Scope, request_id: str) -> Answer:
        error = errors.translated(error)
        resource = scope["raw_path"].decode("ascii", "replace")
        body = b"" if error.status == 304 else errors.document(error, resource, request_id)
        headers = [*error.headers.items()]
        if any(name == b"expect" for name, _ in scope["headers"]):  # the client may send the body now, or never
            headers.append(("connection", "close"))
        return Answer(error.status, body, headers)


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers by their names; those that come several times, as one."""
    raw = scope["headers"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    if len(headers) < len(raw):
        headers = {}
        for name, value in raw:
            name, value = name.decode("latin-1"), value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


async def respond(send: Send, answer: Answer, more: list[tuple[str, str]], *, head: bool) -> None:
    """Send the answer as a whole."""
    headers = encoded(answer.headers + more)
    if answer.body:
        headers.append((b"content-type", answer.content_type.encode("latin-1", "replace")))
    if answer.status not in (204, 304) and not (head and answer.status >= 400):
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})
