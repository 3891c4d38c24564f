"""Object storage: buckets and what is in them.

The blob of an object is stored first, whole and durable; then one transaction has it seen in place of the one before.
"""

import ipaddress
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import storage_pb2 as pb

from server import (
    bucket_access,
    changes,
    db,
    object_encryption,
    object_lists,
    object_messages,
    object_rows,
    object_uploads,
    object_versions,
    pages,
    quota,
    rating,
)
from server.bucket_access import Question
from server.call import Call
from server.errors import ApiError, invalid, not_found
from server.object_downloads import PIECE, Plan, Unsatisfiable, described, plan
from server.object_lists import Asked
from server.object_lookups import ObjectLookups
from server.object_rows import (
    USAGE,
    B,
    Bucket,
    LifecycleRule,
    O,
    Object,
    Upload,
    entered_bucket,
    obey,
    own_bucket,
    readable_bucket,
    shown,
    shown_bucket,
)
from server.object_uploads import GIB, Received
from server.object_versions import Put
from server.services import storage_rules, storage_scrubber
from server.services.storage_parts import MultipartUploads
from server.work import wake

if TYPE_CHECKING:
    from server.app import App

RESERVED = ("buckets", "cluster", "lifecycle", "multipart", "presign", "presigned", "versions")  # segments of our paths
Uploaded = tuple[Received, dict[str, Any]]  # and the columns with what is told along with it
MOST_REMEMBERED = 10_000  # buckets
TRIES = 3  # to read an object that is just being overwritten

_tenant = B.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_there = B.deleted_at.is_(None)
_own = sa.and_(_there, _tenant)
_listed = sa.and_(_there, sa.or_(_tenant, B.is_public))
_bucket = sa.bindparam("bucket_id", type_=postgresql.UUID)
_seen = sa.and_(O.bucket_id == _bucket, O.is_latest, ~O.delete_marker)
_versions = sa.and_(O.bucket_id == _bucket, O.key == sa.bindparam("key", type_=sa.Text), ~O.delete_marker)
_rules = LifecycleRule.TABLE.c.bucket_id == _bucket
_IN_IT = sa.select(sa.or_(*(sa.exists().where(table.c.bucket_id == _bucket) for table in (Object.TABLE, Upload.TABLE))))
_RULE = sa.select(LifecycleRule.TABLE).where(_rules, LifecycleRule.TABLE.c.id == sa.bindparam("rule"))

_stored = sa.select(USAGE).where(USAGE.c.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)).subquery()


def _sum(column: Any) -> sa.Select[Any]:
    return sa.select(sa.cast(sa.func.coalesce(sa.select(column).scalar_subquery(), 0), sa.BigInteger))


quota.counted("buckets", 100, sa.select(sa.func.count()).select_from(Bucket.TABLE).where(_tenant, _there))
quota.counted("objects", 1_000_000, _sum(_stored.c.objects), kept=True)
quota.counted("object_gb", 100, _sum(sa.func.ceil(sa.cast(_stored.c.bytes, sa.Numeric) / GIB)), kept=True)
quota.counted("multipart_uploads", 10_000, sa.select(sa.func.count()).select_from(Upload.TABLE).where(
    Upload.TABLE.c.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
))  # fmt: skip
quota.counted("upload_parts", 100_000, _sum(_stored.c.parts), kept=True)
rating.metered("object", category="storage", size=lambda state: ("standard", Decimal(state["size_bytes"]) / GIB),
               billed=lambda state: not state["delete_marker"], unit="GB-second")  # fmt: skip


class StorageService(MultipartUploads):
    def __init__(self, app: "App") -> None:
        super().__init__(app)
        self._lookups = ObjectLookups(app.db, app.config.deadline_seconds)
        self._plain = set[str]()  # the names of buckets without a policy and without encryption, when last put into

    async def admits(self, call: Call, request: Any) -> bool:
        return await bucket_access.admits(self.app, call, request)

    async def ListBuckets(self, call: Call, request: pb.ListBucketsRequest) -> pb.ListBucketsResponse:
        found, token = await pages.page(
            call.tx, Bucket, _own if request.own else _listed, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id,
        )  # fmt: skip
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
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True, question=Question(call, request))
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
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True, question=Question(call, request))
        off = "OFF" if bucket.versioning == "OFF" else "SUSPENDED"
        await changes.update(call.tx, bucket, versioning="ENABLED" if request.enabled else off)
        return pb.SetBucketVersioningResponse(status="updated")

    async def ListObjects(self, call: Call, request: pb.ListObjectsRequest) -> pb.ListObjectsResponse:
        bucket = await readable_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        if request.prefix:
            found, token = await _by_key(call, bucket, request)
        else:
            found, token = await object_lists.newest(
                call.tx, _seen, size=request.page_size, token=request.page_token, bucket_id=bucket.id
            )
        response = pb.ListObjectsResponse(next_page_token=token)
        if request.as_columns:
            object_messages.tell_all(response.columns, bucket, bucket_access.open_records(call, bucket, found))
        else:
            object_messages.add(response.objects, bucket, found)
        return response

    async def prepare_UploadObject(
        self, call: Call, first: pb.UploadObjectRequest, more: AsyncIterator[pb.UploadObjectRequest]
    ) -> Uploaded:
        if not first.key or "\0" in first.key:
            raise invalid("key", "this wants 1 to 1,024 bytes, and none of them zero")
        told, bucket, small = object_rows.told(first.properties, first.tags), None, self.app.config.objects_small
        conditional = first.if_match or first.if_none_match
        if conditional or first.bucket not in self._plain or not object_uploads.at_hand(first, more, small):
            bucket = await self._lookups.bucket(first.bucket)
            if bucket is None or bucket.tenant_id != call.tenant_id:
                raise not_found("bucket", first.bucket)
            obey(bucket, Question(call, first))
        if bucket and conditional:
            async with self.app.db.reading() as tx:
                latest = await object_rows.version(tx, bucket, first.key)
            object_versions.judge(bucket, first.key, latest, first.if_match, first.if_none_match)
        return await object_uploads.prepared(self.app, call, bucket, first, more, small=small), told

    async def UploadObject(self, call: Call, request: pb.UploadObjectRequest) -> pb.Object:
        [added] = await self.together_UploadObject([call], [request])
        return added

    async def together_UploadObject(
        self, calls: Sequence[Call], requests: Sequence[pb.UploadObjectRequest]
    ) -> list[pb.Object]:
        tx, tenant_id, held, puts = calls[0].tx, calls[0].tenant_id, dict[str, Bucket](), list[Put]()
        for name in sorted({request.bucket for request in requests}):
            keys = {request.key for request in requests if request.bucket == name}
            self._plain.discard(name)
            bucket = held[name] = await entered_bucket(tx, name, tenant_id, keys)
            if bucket.policy is None and not bucket.encryption_enabled:
                if len(self._plain) >= MOST_REMEMBERED:
                    self._plain.clear()
                self._plain.add(name)
        for call, request in zip(calls, requests, strict=True):
            bucket, (received, told) = held[request.bucket], call.prepared
            obey(bucket, Question(call, request))
            if bucket.encryption_enabled and received.is_plain:  # as the bucket was not, when it came
                received = await object_uploads.encrypted(self.app, received)
            content_type = request.properties.content_type or request.content_type or received.content_type
            puts.append(Put(
                tx=call.tx, bucket=bucket, key=request.key, if_match=request.if_match, data=received.data,
                if_none_match=request.if_none_match, columns={
                    "user_id": call.principal.user_id, "host": object_uploads.host(self.app),
                    "is_public": request.is_public, "content_type": content_type, **received.columns(), **told,
                },
            ))  # fmt: skip
        return [shown(row) for row in await object_versions.put_in(*puts)]

    async def prepare_DownloadObject(
        self, call: Call, request: pb.DownloadObjectRequest
    ) -> HttpBody | tuple[Object, Plan]:
        """The whole answer where that is one piece, else what to send and how."""
        if request.part_number and request.range:
            raise invalid("part_number", "ask for a part or for a range")
        for _ in range(TRIES):
            row, planned, blob = await self._look_up(call, request)
            if request.only_head or planned.start == planned.end:
                return planned.head(b"")
            if planned.end - planned.start > PIECE:
                return row, planned
            try:
                data = await object_encryption.whole(self.app, row, planned.start, planned.end, blob)
            except LookupError:  # it was overwritten since we looked
                continue
            planned.check(row, len(data))
            return planned.head(data)
        raise object_encryption.damaged(row.id)

    async def DownloadObject(self, call: Call, request: pb.DownloadObjectRequest) -> AsyncGenerator[HttpBody]:
        row, planned = call.prepared
        for _ in range(TRIES):
            async with aclosing(object_encryption.plain(self.app, row, planned.start, planned.end)) as pieces:
                try:
                    piece = await anext(pieces, b"") if planned.end > planned.start else b""
                except LookupError:  # it was overwritten since we looked
                    row, planned, _ = await self._look_up(call, request)
                    continue
                sent = len(piece)
                yield planned.head(piece[:PIECE])
                while piece:
                    for at in range(PIECE if sent == len(piece) else 0, len(piece), PIECE):
                        yield HttpBody(data=piece[at : at + PIECE])
                    piece = await anext(pieces, b"")
                    sent += len(piece)
            planned.check(row, sent)
            return
        raise object_encryption.damaged(row.id)

    async def DeleteObject(self, call: Call, request: pb.DeleteObjectRequest) -> Empty:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        if request.version_id:
            done = await object_versions.remove(call.tx, bucket, request.key, request.version_id) is not None
        else:
            done = await object_versions.hide(call.tx, bucket, request.key, call.principal.user_id)
        if not done:
            raise not_found("object", f"{bucket.name}/{request.key}")
        return Empty()

    async def ListObjectVersions(
        self, call: Call, request: pb.ListObjectVersionsRequest
    ) -> pb.ListObjectVersionsResponse:
        bucket = await readable_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        found, token = await object_lists.newest(
            call.tx, _versions, size=request.page_size, token=request.page_token, bucket_id=bucket.id,
            key=request.key,
        )  # fmt: skip
        response = pb.ListObjectVersionsResponse(next_page_token=token)
        object_messages.add(response.objects, bucket, found)
        return response

    async def GetStorageCluster(self, call: Call, request: pb.GetStorageClusterRequest) -> pb.StorageCluster:
        nodes = await self.app.drivers.objects.nodes()
        async with self.app.db.reading() as tx:
            state = await storage_scrubber.state(tx, object_uploads.host(self.app))
        return pb.StorageCluster(nodes=(
            pb.StorageNode(id=node.id, address=node.address, data_dir=node.data_dir, status=node.status,
                           last_seen=node.last_seen, **state)
            for node in nodes
        ))  # fmt: skip

    async def ListLifecycleRules(
        self, call: Call, request: pb.ListLifecycleRulesRequest
    ) -> pb.ListLifecycleRulesResponse:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        found, token = await pages.page(
            call.tx, LifecycleRule, _rules, size=request.page_size, token=request.page_token, bucket_id=bucket.id
        )
        return pb.ListLifecycleRulesResponse(rules=map(db.to_message, found), next_page_token=token)

    async def CreateLifecycleRule(self, call: Call, request: pb.CreateLifecycleRuleRequest) -> pb.LifecycleRule:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True, question=Question(call, request))
        return db.to_message(await storage_rules.create(call, bucket, request))  # type: ignore[no-any-return]

    async def DeleteLifecycleRule(self, call: Call, request: pb.DeleteLifecycleRuleRequest) -> Empty:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        rule = await db.first(call.tx, LifecycleRule, _RULE, bucket_id=bucket.id, rule=UUID(request.id))
        if rule is None:
            raise not_found("lifecycle_rule", request.id)
        await changes.delete(call.tx, rule)
        return Empty()

    async def SetLifecycleRules(
        self, call: Call, request: pb.SetLifecycleRulesRequest
    ) -> pb.SetLifecycleRulesResponse:  # fmt: skip
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True, question=Question(call, request))
        rules = await storage_rules.replace(call, bucket, request.rules)
        return pb.SetLifecycleRulesResponse(rules=map(db.to_message, rules))

    async def PreviewLifecycle(self, call: Call, request: pb.PreviewLifecycleRequest) -> pb.PreviewLifecycleResponse:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        return await storage_rules.preview(call, bucket, request)

    async def _look_up(self, call: Call, request: pb.DownloadObjectRequest) -> tuple[Object, Plan, bytes | None]:
        """What is to be sent, how, and its blob if that has come along."""
        bucket, row, blob = await self._lookups.readable(Question(call, request))
        sizes: Sequence[int] = ()
        if request.part_number:
            async with self.app.db.reading() as tx:
                sizes = await object_rows.sizes(tx, row)
        object_uploads.need_here(self.app, row)
        checksums = call.metadata.get("x-amz-checksum-mode", "").upper() == "ENABLED"
        more = described(row, versions=bucket.versioning != "OFF", checksums=checksums)
        try:
            return row, plan(row, request, more, sizes), blob
        except Unsatisfiable:
            call.headers["content-range"] = f"bytes */{row.size_bytes}"
            raise ApiError("RANGE_NOT_SATISFIABLE", f"the object has {row.size_bytes} bytes",
                           size_bytes=str(row.size_bytes)) from None  # fmt: skip


async def _by_key(call: Call, bucket: Bucket, request: pb.ListObjectsRequest) -> tuple[Sequence[Any], str]:
    """A page of the objects whose keys begin so, in their order, and the token of the next one: the last key."""
    page = await object_lists.keys(call.tx, Asked(
        bucket_id=bucket.id, prefix=request.prefix, delimiter="", after=object_rows.read_key(request.page_token),
        size=min(request.page_size or db.MOST, db.MOST), sees=bucket_access.seen_of(call, bucket, Object.KIND),
    ))  # fmt: skip
    return page.records, object_rows.key_token(page.last[0]) if page.last else ""


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.IPv4Address(name))
    except ValueError:
        return False
