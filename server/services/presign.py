"""Addresses that open one object for a while, without a key.

An address says what it opens, until when, and who made it with which key, under the cloud's signature. It gives no
rights: whoever uses it is taken for its maker, as they stand then.
"""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote
from uuid import UUID

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from thecloud.v1 import presign_pb2 as pb
from thecloud.v1 import storage_pb2

from server import auth, bucket_access, object_rows
from server.bucket_access import Question
from server.call import Call
from server.errors import ApiError
from server.object_downloads import Plan
from server.object_rows import Object
from server.services.storage import StorageService, Uploaded

if TYPE_CHECKING:
    from server.app import App

M = TypeVar("M", bound=Message)
LASTS = 900  # seconds, where nothing else is asked for
SURE = 1.0  # seconds after which it is made sure of again that a download may go on
OPENED = {"GET": (storage_pb2.DownloadObjectRequest, "storage:read"),
          "PUT": (storage_pb2.UploadObjectRequest, "storage:write")}  # fmt: skip


class PresignService:
    def __init__(self, app: "App") -> None:
        self.app, self.storage = app, StorageService(app)

    async def PresignObject(self, call: Call, request: pb.PresignObjectRequest) -> pb.PresignedObject:
        method = request.method or "GET"
        kind, permission = OPENED[method]
        question = Question(call, kind(bucket=request.bucket, key=request.key))
        find = object_rows.readable_bucket if method == "GET" else object_rows.own_bucket
        bucket = await find(call.tx, request.bucket, call.tenant_id, question=question)
        if not bucket_access.may(permission, bucket, question):
            raise ApiError("PERMISSION_DENIED", f"this needs the permission {permission} on the object",
                           permission=permission)  # fmt: skip
        until = int(time.time()) + (request.expiry_seconds or LASTS)
        signature = self.app.cloud.sign({
            "presigned": _what(method, request), "expires": until, "tenant": str(call.tenant),
            "user": str(call.principal.user_id), "key": str(call.principal.key_id),
        }, request.expiry_seconds or LASTS)  # fmt: skip
        return pb.PresignedObject(
            url=f"{self.app.public_url}/storage/presigned/{request.bucket}/{_path(request.key)}"
                f"?expires={until}&signature={signature}",
            method=method, expires_at=datetime.fromtimestamp(until, UTC).isoformat().replace("+00:00", "Z"),
        )  # fmt: skip

    async def prepare_DownloadPresigned(
        self, call: Call, request: pb.DownloadPresignedRequest
    ) -> HttpBody | tuple[Object, Plan]:
        wanted = _alike(storage_pb2.DownloadObjectRequest, request)
        await self._stand_in(call, self._claims("GET", request), wanted)
        return await self.storage.prepare_DownloadObject(call, wanted)

    async def DownloadPresigned(self, call: Call, request: pb.DownloadPresignedRequest) -> AsyncIterator[HttpBody]:
        wanted = _alike(storage_pb2.DownloadObjectRequest, request)
        claims = self._claims("GET", request)
        sure_until = time.monotonic() + SURE
        async with aclosing(self.storage.DownloadObject(call, wanted)) as pieces:
            async for piece in pieces:
                if sure_until <= time.monotonic():
                    await self._stand_in(call, claims, wanted)
                    sure_until = time.monotonic() + SURE
                yield piece

    async def prepare_UploadPresigned(
        self, call: Call, first: pb.UploadPresignedRequest, more: AsyncIterator[pb.UploadPresignedRequest]
    ) -> Uploaded:
        wanted = _alike(storage_pb2.UploadObjectRequest, first)
        await self._stand_in(call, self._claims("PUT", first), wanted)
        following = (_alike(storage_pb2.UploadObjectRequest, each) async for each in more)
        return await self.storage.prepare_UploadObject(call, wanted, following)

    async def UploadPresigned(self, call: Call, request: pb.UploadPresignedRequest) -> storage_pb2.Object:
        wanted = _alike(storage_pb2.UploadObjectRequest, request)
        await self._stand_in(call, self._claims("PUT", request), wanted)
        return await self.storage.UploadObject(call, wanted)

    def _claims(self, method: str, request: Any) -> dict[str, Any]:
        """What an address says of its maker."""
        claims = self.app.cloud.verify(request.signature)
        said = None if claims is None else (claims.get("presigned"), claims.get("expires"))
        if claims is None or said != (_what(method, request), request.expires):
            raise dead()
        return claims

    async def _stand_in(self, call: Call, claims: dict[str, Any], wanted: Any) -> None:
        """Have the call be its maker's, if they may still do what they made the address for."""
        tenant_id = UUID(claims["tenant"])
        async with self.app.db.reading() as tx:
            maker = await auth.holder(tx, UUID(claims["user"]), UUID(claims["key"]))
            bucket = await object_rows.named_bucket(tx, wanted.bucket)
        if maker is None or tenant_id not in maker.roles or bucket is None:
            raise dead()
        call.principal, call.tenant = maker, tenant_id
        [permission] = [permission for kind, permission in OPENED.values() if isinstance(wanted, kind)]
        if not bucket_access.may(permission, bucket, Question(call, wanted)):
            raise dead()


def dead() -> ApiError:
    return ApiError("PERMISSION_DENIED", "this address is not right, or its time or its maker's rights are over; ask "
                                         "for a new one")  # fmt: skip


def _what(method: str, request: Any) -> str:
    """What an address opens. A bucket's name has neither a space nor a slash."""
    return f"{method} {request.bucket}/{request.key}"


def _path(key: str) -> str:
    """The key in an address. Clients would take segments of dots for steps."""
    if {".", ".."}.isdisjoint(key.split("/")):
        return quote(key, safe="/")
    return quote(key, safe="").replace(".", "%2E")


def _alike(kind: type[M], request: Message) -> M:
    """A request of this type, with what it has in common with the other."""
    known = kind.DESCRIPTOR.fields_by_name
    return kind(**{each.name: value for each, value in request.ListFields() if each.name in known})
