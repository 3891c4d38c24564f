"""Object storage: buckets and what is in them.

The blob of an object is stored first, whole and durable; then one transaction has it seen in place of the one before.
"""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import storage_pb2 as pb

from drivers.objects import NoRoom
from server import changes, db, object_encryption, object_rows, object_uploads, quota, rating
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid, not_found
from server.object_downloads import PIECE, Unsatisfiable, plan
from server.object_rows import (
    USAGE,
    B,
    Bucket,
    LifecycleRule,
    O,
    Object,
    Part,
    Upload,
    own_bucket,
    readable_bucket,
    shown,
    shown_bucket,
)
from server.object_uploads import GIB, Received
from server.services import storage_lives, storage_rules, storage_scrubber
from server.work import wake

if TYPE_CHECKING:
    from server.app import App

RESERVED = ("buckets", "cluster", "lifecycle", "multipart", "presign", "presigned", "versions")  # segments of our paths
TRIES = 3  # to read an object that is just being overwritten

_tenant = B.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_there = B.deleted_at.is_(None)
_listed = sa.and_(_there, sa.or_(_tenant, B.is_public))
_bucket = sa.bindparam("bucket_id", type_=postgresql.UUID)
_seen = sa.and_(O.bucket_id == _bucket, O.is_latest, ~O.delete_marker)
_versions = sa.and_(O.bucket_id == _bucket, O.key == sa.bindparam("key", type_=sa.Text), ~O.delete_marker)
_rules = LifecycleRule.TABLE.c.bucket_id == _bucket
_limit = sa.bindparam("most", type_=sa.Integer)
_from = sa.select(Object.TABLE).where(_seen, O.key > sa.bindparam("after", type_=sa.Text),
                                      O.key >= sa.bindparam("prefix", type_=sa.Text))  # fmt: skip
_FROM = _from.order_by(O.key).limit(_limit)
_BETWEEN = _from.where(O.key < sa.bindparam("beyond", type_=sa.Text)).order_by(O.key).limit(_limit)
_IN_IT = sa.select(sa.or_(*(sa.exists().where(table.c.bucket_id == _bucket) for table in (Object.TABLE, Upload.TABLE))))
_upload = Part.TABLE.c.upload_id == sa.bindparam("upload", type_=postgresql.UUID)
_PARTS = sa.select(Part.TABLE).where(_upload).order_by(Part.TABLE.c.part_number)
_PART = sa.delete(Part.TABLE).where(_upload, Part.TABLE.c.part_number == sa.bindparam("number")).returning(Part.TABLE)
_RULE = sa.select(LifecycleRule.TABLE).where(_rules, LifecycleRule.TABLE.c.id == sa.bindparam("rule"))

_stored = sa.select(USAGE).where(USAGE.c.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)).subquery()


def _sum(column: Any) -> sa.Select[Any]:
    return sa.select(sa.cast(sa.func.coalesce(sa.select(column).scalar_subquery(), 0), sa.BigInteger))


quota.counted("buckets", 100, sa.select(sa.func.count()).select_from(Bucket.TABLE).where(_tenant, _there))
quota.counted("objects", 1_000_000, _sum(_stored.c.objects))
quota.counted("object_gb", 100, _sum(sa.func.ceil(sa.cast(_stored.c.bytes, sa.Numeric) / GIB)))
rating.metered("object", category="storage", size=lambda state: ("standard", Decimal(state["size_bytes"]) / GIB),
               billed=lambda state: not state["delete_marker"], unit="GB-second")  # fmt: skip


class StorageService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListBuckets(self, call: Call, request: pb.ListBucketsRequest) -> pb.ListBucketsResponse:
        found, token = await db.page(
            call.tx, Bucket, _listed, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListBucketsResponse(buckets=map(shown_bucket, found), next_page_token=token)

    async def CreateBucket(self, call: Call, request: pb.CreateBucketRequest) -> pb.Bucket:
        if request.name in RESERVED or _is_address(request.name):
            raise invalid("name", f"no bucket can be called {request.name}; choose another name")
        try:
            return shown_bucket(await changes.insert(
                call.tx, Bucket, id=uuid4(), tenant_id=call.tenant_id, user_id=call.principal.user_id,
                name=request.name, is_public=request.is_public, versioning="OFF", deleted_at=None,
            ))  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise ApiError("ALREADY_EXISTS", f"a bucket {request.name!r} is there already; choose another name",
                           kind="bucket", name=request.name) from None  # fmt: skip

    async def DeleteBucket(self, call: Call, request: pb.DeleteBucketRequest) -> Empty:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True)
        if not request.force and await db.value(call.tx, _IN_IT, bucket_id=bucket.id):
            raise ApiError("IN_USE", f"bucket {bucket.name} is not empty; empty it, or say force=true", kind="bucket",
                           id=str(bucket.id), by="objects")  # fmt: skip
        await db.update(call.tx, bucket, deleted_at=sa.func.clock_timestamp())
        changes.append(call.tx, bucket, None)
        await wake(call.tx, Bucket.KIND, bucket.id)
        return Empty()

    async def SetBucketVersioning(
        self, call: Call, request: pb.SetBucketVersioningRequest
    ) -> pb.SetBucketVersioningResponse:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True)
        off = "OFF" if bucket.versioning == "OFF" else "SUSPENDED"
        await changes.update(call.tx, bucket, versioning="ENABLED" if request.enabled else off)
        return pb.SetBucketVersioningResponse(status="updated")

    async def ListObjects(self, call: Call, request: pb.ListObjectsRequest) -> pb.ListObjectsResponse:
        bucket = await readable_bucket(call.tx, request.bucket, call.tenant_id)
        if request.prefix:
            found, token = await _by_key(call.tx, bucket, request)
        else:
            found, token = await db.page(
                call.tx, Object, _seen, size=request.page_size, token=request.page_token, bucket_id=bucket.id
            )
        return pb.ListObjectsResponse(objects=map(shown, found), next_page_token=token)

    async def prepare_UploadObject(
        self, call: Call, first: pb.UploadObjectRequest, more: AsyncIterator[pb.UploadObjectRequest]
    ) -> Received:
        if not first.key or "\0" in first.key:
            raise invalid("key", "this wants 1 to 1,024 bytes, and none of them zero")
        async with self.app.db.reading() as tx:
            bucket = await own_bucket(tx, first.bucket, call.tenant_id)
        return await self._receive(call, bucket, first, more)

    async def UploadObject(self, call: Call, request: pb.UploadObjectRequest) -> pb.Object:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id)
        return shown(await self._store(call, bucket, request.key, call.prepared, request.content_type))

    async def DownloadObject(self, call: Call, request: pb.DownloadObjectRequest) -> AsyncIterator[HttpBody]:
        for attempt in range(1, TRIES + 1):
            row = await self._read(call, request)
            try:
                planned = plan(row, request)
            except Unsatisfiable:
                call.headers["content-range"] = f"bytes */{row.size_bytes}"
                raise ApiError("RANGE_NOT_SATISFIABLE", f"the object has {row.size_bytes} bytes",
                               size_bytes=str(row.size_bytes)) from None  # fmt: skip
            async with aclosing(object_encryption.plain(self.app, row, planned.start, planned.end)) as pieces:
                try:
                    piece = await anext(pieces, b"") if planned.end > planned.start else b""
                except LookupError:  # it was overwritten since we looked
                    if attempt == TRIES:
                        raise object_encryption.damaged(row.id) from None
                    continue
                sent = len(piece)
                yield planned.head(piece[:PIECE])
                while piece:
                    for at in range(PIECE if sent == len(piece) else 0, len(piece), PIECE):
                        yield HttpBody(data=piece[at : at + PIECE])
                    piece = await anext(pieces, b"")
                    sent += len(piece)
            if sent != planned.end - planned.start:
                raise RuntimeError(f"of blob {row.id} there are {sent} bytes of {planned.end - planned.start}")
            return

    async def DeleteObject(self, call: Call, request: pb.DeleteObjectRequest) -> Empty:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id)
        if request.version_id:
            done = await object_rows.remove(call.tx, bucket, request.key, request.version_id)
        else:
            done = await object_rows.hide(call.tx, bucket, request.key, call.principal.user_id)
        if not done:
            raise not_found("object", f"{bucket.name}/{request.key}")
        return Empty()

    async def ListObjectVersions(
        self, call: Call, request: pb.ListObjectVersionsRequest
    ) -> pb.ListObjectVersionsResponse:
        bucket = await readable_bucket(call.tx, request.bucket, call.tenant_id)
        found, token = await db.page(
            call.tx, Object, _versions, size=request.page_size, token=request.page_token, bucket_id=bucket.id,
            key=request.key,
        )  # fmt: skip
        return pb.ListObjectVersionsResponse(objects=map(shown, found), next_page_token=token)

    async def GetStorageCluster(self, call: Call, request: pb.GetStorageClusterRequest) -> pb.StorageCluster:
        nodes = await self.app.drivers.objects.nodes()
        async with self.app.db.reading() as tx:
            state = await storage_scrubber.state(tx, self._host)
        return pb.StorageCluster(nodes=(
            pb.StorageNode(id=node.id, address=node.address, data_dir=node.data_dir, status=node.status,
                           last_seen=node.last_seen, **state)
            for node in nodes
        ))  # fmt: skip

    async def BeginMultipartUpload(self, call: Call, request: pb.BeginMultipartUploadRequest) -> pb.MultipartUpload:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id)
        return db.to_message(await changes.insert(  # type: ignore[no-any-return]
            call.tx, Upload, id=uuid4(), tenant_id=call.tenant_id, user_id=call.principal.user_id,
            bucket_id=bucket.id, bucket=bucket.name, key=request.key, name=f"{bucket.name}/{request.key}",
        ))  # fmt: skip

    async def prepare_UploadPart(
        self, call: Call, first: pb.UploadPartRequest, more: AsyncIterator[pb.UploadPartRequest]
    ) -> Received:
        try:
            id = str(UUID(first.id))
        except ValueError:
            raise invalid("id", "this is not the id of an upload") from None
        if not first.part:
            raise invalid("part", "this wants the number of the part, 1 to 10,000")
        async with self.app.db.reading() as tx:
            upload = await db.get(tx, Upload, id, call.tenant_id)
            bucket = await own_bucket(tx, upload.bucket, call.tenant_id)
        return await self._receive(call, bucket, first, more)

    async def UploadPart(self, call: Call, request: pb.UploadPartRequest) -> pb.Part:
        received: Received = call.prepared
        upload = await db.get(call.tx, Upload, request.id, call.tenant_id, lock=True)
        await object_rows.discard(call.tx, await db.rows(call.tx, Part, _PART, upload=upload.id, number=request.part))
        return db.to_message(await db.insert(  # type: ignore[no-any-return]
            call.tx, Part, id=received.id, tenant_id=upload.tenant_id, upload_id=upload.id, part_number=request.part,
            size_bytes=received.stored.size_bytes, etag=received.stored.sha256, host=self._host,
            wrapped_key=received.wrapped_key,
        ))  # fmt: skip

    async def prepare_CompleteMultipartUpload(
        self, call: Call, request: pb.CompleteMultipartUploadRequest
    ) -> tuple[Received, list[UUID]]:
        store = self.app.drivers.objects
        async with self.app.db.reading() as tx:
            upload = await db.get(tx, Upload, request.id, call.tenant_id)
            bucket = await own_bucket(tx, upload.bucket, call.tenant_id)
            parts = await db.rows(tx, Part, _PARTS, upload=UUID(request.id))
        if not parts:
            raise invalid("id", "the upload has no parts yet; upload at least one")
        object_uploads.need_room(self.app, sum(part.size_bytes for part in parts))
        for part in parts:
            self._need_here(part)
        id, ids = uuid4(), [part.id for part in parts]
        try:
            kept = await object_encryption.compose(self.app, bucket, id, parts)
        except NoRoom:
            raise object_uploads.no_room() from None
        call.undo = partial(store.delete, id)
        sniffed = min(kept.size_bytes, object_uploads.SNIFFED)
        async with aclosing(object_encryption.plain(self.app, kept, 0, sniffed)) as pieces:
            beginning = await anext(pieces, b"")
        kind = object_uploads.looks_like(beginning)
        return Received(id, kept.stored, kind, kept.wrapped_key, kept.blob_checksum), ids

    async def CompleteMultipartUpload(self, call: Call, request: pb.CompleteMultipartUploadRequest) -> pb.Object:
        received, ids = call.prepared
        upload = await db.get(call.tx, Upload, request.id, call.tenant_id, lock=True)
        parts = await db.rows(call.tx, Part, _PARTS, upload=upload.id)
        if ids != [part.id for part in parts]:
            raise ApiError("IN_USE", "parts were uploaded meanwhile; complete it again", kind="multipart_upload",
                           id=request.id, by="parts")  # fmt: skip
        await storage_lives.forget(call.tx, upload)
        bucket = await own_bucket(call.tx, upload.bucket, call.tenant_id)
        return shown(await self._store(call, bucket, upload.key, received, ""))

    async def AbortMultipartUpload(self, call: Call, request: pb.AbortMultipartUploadRequest) -> Empty:
        await storage_lives.forget(call.tx, await db.get(call.tx, Upload, request.id, call.tenant_id, lock=True))
        return Empty()

    async def ListLifecycleRules(
        self, call: Call, request: pb.ListLifecycleRulesRequest
    ) -> pb.ListLifecycleRulesResponse:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id)
        found, token = await db.page(
            call.tx, LifecycleRule, _rules, size=request.page_size, token=request.page_token, bucket_id=bucket.id
        )
        return pb.ListLifecycleRulesResponse(rules=map(db.to_message, found), next_page_token=token)

    async def CreateLifecycleRule(self, call: Call, request: pb.CreateLifecycleRuleRequest) -> pb.LifecycleRule:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True)
        return db.to_message(await storage_rules.create(call, bucket, request))  # type: ignore[no-any-return]

    async def DeleteLifecycleRule(self, call: Call, request: pb.DeleteLifecycleRuleRequest) -> Empty:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id)
        rule = await db.first(call.tx, LifecycleRule, _RULE, bucket_id=bucket.id, rule=UUID(request.id))
        if rule is None:
            raise not_found("lifecycle_rule", request.id)
        await changes.delete(call.tx, rule)
        return Empty()

    async def SetLifecycleRules(
        self, call: Call, request: pb.SetLifecycleRulesRequest
    ) -> pb.SetLifecycleRulesResponse:  # fmt: skip
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True)
        rules = await storage_rules.replace(call, bucket, request.rules)
        return pb.SetLifecycleRulesResponse(rules=map(db.to_message, rules))

    async def PreviewLifecycle(self, call: Call, request: pb.PreviewLifecycleRequest) -> pb.PreviewLifecycleResponse:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id)
        return await storage_rules.preview(call, bucket, request)

    @property
    def _host(self) -> str:
        """Where what this process stores is to be found."""
        return self.app.config.host if self.app.drivers.objects.one_host else ""

    def _need_here(self, row: Object | Part) -> None:
        if row.host != self._host:
            raise ApiError("UNAVAILABLE", f"this is on host {row.host}; ask that host's server")

    async def _receive(self, call: Call, bucket: Bucket, first: Any, more: AsyncIterator[Any]) -> Received:
        received = await object_uploads.receive(self.app, bucket, first, more)
        call.undo = partial(self.app.drivers.objects.delete, received.id)
        return received

    async def _store(self, call: Call, bucket: Bucket, key: str, received: Received, content_type: str) -> Object:
        stored = received.stored
        return await object_rows.add(
            call.tx, bucket, key, user_id=call.principal.user_id, id=received.id, size_bytes=stored.size_bytes,
            content_type=content_type or received.content_type, checksum=stored.sha256, etag=stored.md5,
            host=self._host, wrapped_key=received.wrapped_key, blob_checksum=received.blob_checksum,
        )  # fmt: skip

    async def _read(self, call: Call, request: pb.DownloadObjectRequest) -> Object:
        async with self.app.db.reading() as tx:
            bucket = await readable_bucket(tx, request.bucket, call.tenant_id)
            row = await object_rows.find(tx, bucket, request.key, request.version_id)
        if row is None:
            raise not_found("object", f"{request.bucket}/{request.key}")
        self._need_here(row)
        if row.damage == "CORRUPT":
            raise object_encryption.damaged(row.id)
        return row


async def _by_key(tx: Tx, bucket: Bucket, request: pb.ListObjectsRequest) -> tuple[list[Object], str]:
    """A page of the objects whose keys begin so, in their order, and the token of the next one: the last key."""
    size, beyond = min(request.page_size or db.MOST, db.MOST), object_rows.beyond(request.prefix)
    found = await db.rows(
        tx, Object, _BETWEEN if beyond else _FROM, bucket_id=bucket.id, prefix=request.prefix, beyond=beyond,
        after=object_rows.read_key(request.page_token), most=size + 1,
    )  # fmt: skip
    return found[:size], object_rows.key_token(found[size - 1].key) if len(found) > size else ""


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.IPv4Address(name))
    except ValueError:
        return False
