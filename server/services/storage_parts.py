"""Objects that come in parts: each part a blob, and all of them one when the upload is completed."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import storage_pb2 as pb

from drivers.objects import NoRoom
from server import changes, db, object_encryption, object_parts, object_rows, object_uploads, object_versions
from server.bucket_access import Question
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid, not_found
from server.object_checksums import mismatch
from server.object_rows import Part, Upload, own_bucket, shown, shown_upload
from server.object_uploads import Received
from server.object_versions import Put
from server.services import storage_lives

if TYPE_CHECKING:
    from server.app import App

_upload = Part.TABLE.c.upload_id == sa.bindparam("upload", type_=postgresql.UUID)
_PARTS = sa.select(Part.TABLE).where(_upload).order_by(Part.TABLE.c.part_number)
_PART = sa.delete(Part.TABLE).where(_upload, Part.TABLE.c.part_number == sa.bindparam("number")).returning(Part.TABLE)


@dataclass(frozen=True)
class Composed:
    """The whole, and the parts that it was made of."""

    received: Received
    parts: list[Part]


class MultipartUploads:
    """What StorageService does with uploads in parts."""

    def __init__(self, app: "App") -> None:
        self.app = app
        self._composed = set[UUID]()  # the uploads that this process is putting together

    async def BeginMultipartUpload(self, call: Call, request: pb.BeginMultipartUploadRequest) -> pb.MultipartUpload:
        told = object_rows.told(request.properties, request.tags)
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        return shown_upload(await changes.insert(
            call.tx, Upload, id=uuid4(), tenant_id=call.tenant_id, user_id=call.principal.user_id,
            bucket_id=bucket.id, bucket=bucket.name, key=request.key, name=f"{bucket.name}/{request.key}",
            content_type=request.properties.content_type, is_public=request.is_public,
            checksum_algorithm=request.checksum_algorithm, **told,
        ))  # fmt: skip

    async def prepare_UploadPart(
        self, call: Call, first: pb.UploadPartRequest, more: AsyncIterator[pb.UploadPartRequest]
    ) -> Received:
        try:
            UUID(first.id)
        except ValueError:
            raise invalid("id", "this is not the id of an upload") from None
        if not first.part:
            raise invalid("part", "this wants the number of the part, 1 to 10,000")
        async with self.app.db.reading() as tx:
            upload = await the_upload(tx, call, first)
            bucket = await own_bucket(tx, upload.bucket, call.tenant_id, question=Question(call, first, upload.key))
        algorithm = upload.checksum_algorithm
        if algorithm and first.checksum_algorithm not in ("", algorithm):
            raise invalid("checksum_algorithm", f"the upload was begun with {algorithm}; use that")
        return await object_uploads.prepared(self.app, call, bucket, first, more, algorithm)

    async def UploadPart(self, call: Call, request: pb.UploadPartRequest) -> pb.Part:
        return await add_part(self.app, call, request.id, request.part)

    async def prepare_CompleteMultipartUpload(self, call: Call, request: pb.CompleteMultipartUploadRequest) -> Composed:
        async with self.app.db.reading() as tx:
            upload = await the_upload(tx, call, request)
            bucket = await own_bucket(tx, upload.bucket, call.tenant_id, question=Question(call, request, upload.key))
            there = await db.rows(tx, Part, _PARTS, upload=upload.id)
        if not there:
            raise invalid("id", "the upload has no parts yet; upload at least one")
        parts = object_parts.chosen(there, request.parts)
        object_uploads.need_room(self.app, sum(part.size_bytes for part in parts))
        value = object_parts.checksum(upload.checksum_algorithm, parts)
        if request.checksum_value:
            if request.checksum_algorithm != upload.checksum_algorithm:
                raise invalid("checksum_algorithm", f"the upload was begun with {upload.checksum_algorithm or 'none'}")
            if request.checksum_value not in (value, value.partition("-")[0]):
                raise mismatch(upload.checksum_algorithm, request.checksum_value, value)
        for part in parts:
            object_uploads.need_here(self.app, part)
        if upload.id in self._composed:  # which takes the room of all its parts once more, and no quota counts it
            raise ApiError("IN_USE", "the upload is just being completed; wait for that", kind="multipart_upload",
                           id=request.id, by="parts")  # fmt: skip
        id = uuid4()
        self._composed.add(upload.id)
        try:
            kept = await object_encryption.compose(self.app, bucket, id, parts)
        except NoRoom:
            raise object_uploads.no_room() from None
        except LookupError:
            async with self.app.db.reading() as tx:
                await db.get(tx, Upload, request.id, call.tenant_id)  # which may have been aborted or completed
            raise ApiError("UNAVAILABLE", "a part was replaced meanwhile, or is lost; complete it again, or upload "
                                          "the parts anew") from None  # fmt: skip
        finally:
            self._composed.remove(upload.id)
        call.undo = partial(self.app.drivers.objects.delete, id)
        sniffed = min(kept.size_bytes, object_uploads.SNIFFED)
        async with aclosing(object_encryption.plain(self.app, kept, 0, sniffed)) as pieces:
            beginning = await anext(pieces, b"")
        stored = replace(kept.stored, md5=object_parts.etag(parts) or kept.stored.md5)
        kind = upload.content_type or object_uploads.looks_like(beginning)
        algorithm = upload.checksum_algorithm if value else ""
        received = Received(id, stored, kind, algorithm, value, kept.wrapped_key, kept.blob_checksum)
        return Composed(received, parts)

    async def CompleteMultipartUpload(self, call: Call, request: pb.CompleteMultipartUploadRequest) -> pb.Object:
        composed: Composed = call.prepared
        upload = await db.get(call.tx, Upload, request.id, call.tenant_id, lock=True)
        there = await db.rows(call.tx, Part, _PARTS, upload=upload.id)
        now = object_parts.chosen(there, request.parts)
        if [part.id for part in composed.parts] != [part.id for part in now]:
            raise ApiError("IN_USE", "parts were uploaded meanwhile; complete it again", kind="multipart_upload",
                           id=request.id, by="parts")  # fmt: skip
        question = Question(call, request, upload.key)
        bucket = await own_bucket(call.tx, upload.bucket, call.tenant_id, question=question)
        await object_rows.alone(call.tx, (bucket, upload.key))  # before sums are changed, as everybody does
        await storage_lives.forget(call.tx, upload)
        received = composed.received
        [added] = await object_versions.add(Put(
            tx=call.tx, bucket=bucket, key=upload.key, if_match=request.if_match, if_none_match=request.if_none_match,
            part_sizes=[part.size_bytes for part in now], columns={
                "user_id": call.principal.user_id, "host": object_uploads.host(self.app),
                "is_public": upload.is_public, "content_type": received.content_type, "metadata": upload.metadata,
                "headers": upload.headers, "tags": upload.tags, **received.columns(),
            },
        ))  # fmt: skip
        return shown(added)

    async def AbortMultipartUpload(self, call: Call, request: pb.AbortMultipartUploadRequest) -> Empty:
        upload = await the_upload(call.tx, call, request, lock=True)
        await own_bucket(call.tx, upload.bucket, call.tenant_id, question=Question(call, request, upload.key))
        await storage_lives.forget(call.tx, upload)
        return Empty()


async def the_upload(tx: Tx, call: Call, request: Any, *, lock: bool = False) -> Upload:
    """The upload that the request names, if it is one of the object that it may name."""
    upload = await db.get(tx, Upload, request.id, call.tenant_id, lock=lock)
    if request.object not in ("", upload.name):
        raise not_found(Upload.KIND, request.id)
    return upload


async def add_part(app: "App", call: Call, upload_id: str, number: int) -> pb.Part:
    """Make what was prepared the part of this number, in place of the one before."""
    received: Received = call.prepared
    upload = await db.get(call.tx, Upload, upload_id, call.tenant_id, lock=True)
    await object_versions.discard(call.tx, await db.rows(call.tx, Part, _PART, upload=upload.id, number=number))
    return db.to_message(await db.insert(  # type: ignore[no-any-return]
        call.tx, Part, id=received.id, tenant_id=upload.tenant_id, upload_id=upload.id, part_number=number,
        size_bytes=received.stored.size_bytes, etag=received.stored.sha256, host=object_uploads.host(app),
        md5=received.stored.md5, checksum_algorithm=received.checksum_algorithm,
        checksum_value=received.checksum_value, wrapped_key=received.wrapped_key,
    ))  # fmt: skip
