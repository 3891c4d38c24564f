"""What S3 does with objects besides storing and sending them: lists of them, copies, tags, and deleting many."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import objects_pb2 as pb
from thecloud.v1 import storage_pb2

from server import (
    bucket_access,
    changes,
    db,
    object_downloads,
    object_lists,
    object_messages,
    object_rows,
    object_uploads,
    object_versions,
)
from server.bucket_access import Question
from server.call import Call
from server.errors import ApiError, invalid
from server.object_lists import Asked
from server.object_lookups import readable
from server.object_rows import (
    Bucket,
    Object,
    Part,
    Upload,
    own_bucket,
    readable_bucket,
    shown_upload,
    shown_whole,
)
from server.object_uploads import Received
from server.object_versions import Put
from server.services.storage_parts import add_part, the_upload

if TYPE_CHECKING:
    from server.app import App

NEVER = datetime(9999, 1, 1, tzinfo=UTC)  # when no version was made

_PARTS = (
    sa.select(Part.TABLE)
    .where(
        Part.TABLE.c.upload_id == sa.bindparam("upload", type_=postgresql.UUID),
        Part.TABLE.c.part_number > sa.bindparam("after", type_=sa.BigInteger),
    )
    .order_by(Part.TABLE.c.part_number)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


class ObjectService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def admits(self, call: Call, request: Any) -> bool:
        return await bucket_access.admits(self.app, call, request)

    async def ListObjectKeys(self, call: Call, request: pb.ListObjectKeysRequest) -> pb.ListObjectKeysResponse:
        bucket = await readable_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        page = await object_lists.keys(call.tx, asked(call, bucket, request, request.after))
        response = pb.ListObjectKeysResponse(
            common_prefixes=page.prefixes, next_after=page.last[0] if page.last else ""
        )  # fmt: skip
        if request.as_columns:
            object_messages.tell(response.columns, bucket, page.records)
        else:
            object_messages.add(response.objects, bucket, page.records)
        return response

    async def ListAllVersions(self, call: Call, request: pb.ListAllVersionsRequest) -> pb.ListAllVersionsResponse:
        bucket = await readable_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        after = None
        if request.after_version_id:
            if not request.after_key:
                raise invalid("after_key", "say of which key after_version_id is")
            after = await object_rows.version(call.tx, bucket, request.after_key, request.after_version_id)
        place: dict[str, Any] = {"after_id": after.id, "after_at": after.created_at} if after else {}
        if request.after_version_id and after is None:  # it has gone; better all of the key again than too few
            place = {"after_id": bucket.id, "after_at": NEVER}
        page = await object_lists.versions(call.tx, asked(call, bucket, request, request.after_key, **place))
        key, last = page.last or ("", None)
        response = pb.ListAllVersionsResponse(
            common_prefixes=page.prefixes, next_after_key=key,
            next_after_version_id=last["version_id"] if last else "",
        )  # fmt: skip
        object_messages.add(response.objects, bucket, page.records)
        return response

    async def prepare_CopyObject(self, call: Call, request: pb.CopyObjectRequest) -> tuple[Object, Received]:
        object_rows.told(request.properties, request.tags)
        async with self.app.db.reading() as tx:
            bucket = await own_bucket(tx, request.bucket, call.tenant_id, question=Question(call, request))
            latest = await object_rows.version(tx, bucket, request.key)
        object_versions.judge(bucket, request.key, latest, request.if_match, request.if_none_match)
        source = await self._source(call, request)
        if latest and latest.id == source.id and not _changes(source, request):
            raise invalid("properties", "a copy of an object in its own place needs other properties, tags or access")
        algorithm, value = request.checksum_algorithm or source.checksum_algorithm, ""
        if algorithm == source.checksum_algorithm and "-" not in source.checksum_value:
            value = source.checksum_value
        copied = await object_uploads.copy(
            self.app, bucket, source, end=source.size_bytes, algorithm="" if value else algorithm,
            small=self.app.config.objects_small,
        )  # fmt: skip
        object_uploads.undone_with(self.app, call, copied)
        return source, replace(copied, checksum_algorithm=algorithm, checksum_value=value or copied.checksum_value)

    async def CopyObject(self, call: Call, request: pb.CopyObjectRequest) -> storage_pb2.Object:
        source, copied = call.prepared
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        told = object_rows.told(request.properties, request.tags)
        if not request.HasField("properties"):
            told |= {"metadata": source.metadata, "headers": source.headers}
        if source.tags and not request.HasField("tags"):
            Question(call, request).obey(bucket, "s3:PutObjectTagging")
            told["tags"] = source.tags
        [added] = await object_versions.add(Put(
            tx=call.tx, bucket=bucket, key=request.key, if_match=request.if_match, if_none_match=request.if_none_match,
            data=copied.data, columns={
                "user_id": call.principal.user_id, "host": object_uploads.host(self.app),
                "is_public": request.is_public,
                "content_type": request.properties.content_type or source.content_type, **copied.columns(), **told,
            },
        ))  # fmt: skip
        return shown_whole(added)

    async def prepare_CopyPart(self, call: Call, request: pb.CopyPartRequest) -> Received:
        async with self.app.db.reading() as tx:
            upload = await the_upload(tx, call, request)
            bucket = await own_bucket(tx, upload.bucket, call.tenant_id, question=Question(call, request, upload.key))
        source = await self._source(call, request)
        start, end = _range(source, request.source_range)
        copied = await object_uploads.copy(
            self.app, bucket, source, start=start, end=end, algorithm=upload.checksum_algorithm
        )
        return object_uploads.undone_with(self.app, call, copied)

    async def CopyPart(self, call: Call, request: pb.CopyPartRequest) -> storage_pb2.Part:
        return await add_part(self.app, call, request.id, request.part)

    async def DeleteObjects(self, call: Call, request: pb.DeleteObjectsRequest) -> pb.DeleteObjectsResponse:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        if len(request.objects) == 1:
            await object_rows.alone(call.tx, (bucket, request.objects[0].key))
        else:
            await object_rows.whole(call.tx, bucket)  # a lock for each of 1,000 keys is more than the database has
        response = pb.DeleteObjectsResponse()
        for each in request.objects:
            wanted = storage_pb2.DeleteObjectRequest(bucket=bucket.name, key=each.key, version_id=each.version_id)
            if bucket_access.may("storage:delete", bucket, Question(call, wanted)):
                response.deleted.append(await _deleted(call, bucket, each))
            else:
                error = denied("storage:delete", f"object:{bucket.name}/{each.key}")
                response.errors.add(key=each.key, version_id=each.version_id, reason=error.reason,
                                    message=error.message)  # fmt: skip
        return response

    async def ListMultipartUploads(
        self, call: Call, request: pb.ListMultipartUploadsRequest
    ) -> pb.ListMultipartUploadsResponse:
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
        try:
            after_id = UUID(request.after_id) if request.after_id else None
        except ValueError:
            raise invalid("after_id", "this is not the id of an upload") from None
        place = asked(call, bucket, request, request.after_key, kind=Upload.KIND, after_id=after_id)
        page = await object_lists.uploads(call.tx, place)
        key, last = page.last or ("", None)
        return pb.ListMultipartUploadsResponse(
            uploads=[shown_upload(db.made(Upload, each)) for each in page.records],
            common_prefixes=page.prefixes, next_after_key=key, next_after_id=str(last["id"]) if last else "",
        )  # fmt: skip

    async def ListParts(self, call: Call, request: pb.ListPartsRequest) -> pb.ListPartsResponse:
        upload = await the_upload(call.tx, call, request)
        await own_bucket(call.tx, upload.bucket, call.tenant_id, question=Question(call, request, upload.key))
        if not (call.admitted or call.may("storage:read", Upload.KIND, request.id, upload.name)):
            raise denied("storage:read", f"{Upload.KIND}:{upload.name}")
        size = min(request.page_size or db.MOST, db.MOST)
        found = await db.rows(call.tx, Part, _PARTS, upload=upload.id, after=request.after, most=size + 1)
        return pb.ListPartsResponse(
            parts=map(db.to_message, found[:size]), upload=shown_upload(upload),
            next_after=found[size - 1].part_number if len(found) > size else 0,
        )  # fmt: skip

    async def SetObjectTags(self, call: Call, request: pb.SetObjectTagsRequest) -> storage_pb2.Object:
        return await _changed(call, request, tags=dict(request.tags.tags))

    async def SetObjectAccess(self, call: Call, request: pb.SetObjectAccessRequest) -> storage_pb2.Object:
        return await _changed(call, request, is_public=request.is_public)

    async def GetObject(self, call: Call, request: pb.GetObjectRequest) -> storage_pb2.Object:
        question = Question(call, request)
        bucket, row = await readable(call.tx, question)
        found = shown_whole(row)
        if not question.shows(bucket, "s3:GetObjectTagging"):
            found.ClearField("tags")
        return found

    async def _source(self, call: Call, request: pb.CopyObjectRequest | pb.CopyPartRequest) -> Object:
        """The object to copy, if the caller may read it and it is as the conditions want."""
        wanted = storage_pb2.DownloadObjectRequest(
            bucket=request.source_bucket, key=request.source_key, version_id=request.source_version_id
        )
        if not await bucket_access.may_read(self.app, call, wanted):
            raise denied("storage:read", f"object:{request.source_bucket}/{request.source_key}")
        question = Question(call, wanted)
        async with self.app.db.reading() as tx:
            bucket, row = await readable(tx, question)
        takes_tags = isinstance(request, pb.CopyObjectRequest) and not request.HasField("tags")
        if takes_tags and row.tags and not question.shows(bucket, "s3:GetObjectTagging"):
            raise ApiError("PERMISSION_DENIED", "the tags of what is copied are not yours to see; say which tags the "
                           "copy is to have", permission="storage:read")  # fmt: skip
        object_uploads.need_here(self.app, row)
        if object_downloads.unchanged(row, request, "source_"):
            raise object_downloads.changed(row)
        return row


def asked(call: Call, bucket: Bucket, request: Any, after: str, *, kind: str = Object.KIND, **place: Any) -> Asked:
    """The page that a request asks for."""
    return Asked(bucket_id=bucket.id, prefix=request.prefix, delimiter=request.delimiter, after=after,
                 size=min(request.page_size or db.MOST, db.MOST), sees=bucket_access.seen_of(call, bucket, kind),
                 **place)  # fmt: skip


def denied(permission: str, what: str) -> ApiError:
    return ApiError("PERMISSION_DENIED", f"this needs the permission {permission} on {what}; ask an administrator of "
                    "the tenant for it", permission=permission)  # fmt: skip


async def _deleted(call: Call, bucket: Bucket, wanted: pb.ObjectReference) -> pb.DeletedObject:
    """Delete one object or version, while nobody else changes the bucket's."""
    key, version_id = wanted.key, wanted.version_id
    if version_id:
        gone = await object_versions.take_out(call.tx, bucket, key, version_id)
        marker = gone if gone and gone.delete_marker else None
    else:
        marker = await object_versions.put_away(call.tx, bucket, key, call.principal.user_id)
    return pb.DeletedObject(key=key, version_id=version_id, delete_marker=marker is not None,
                            delete_marker_version_id=marker.version_id if marker else "")  # fmt: skip


async def _changed(
    call: Call, request: pb.SetObjectTagsRequest | pb.SetObjectAccessRequest, **columns: object
) -> storage_pb2.Object:  # fmt: skip
    bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, question=Question(call, request))
    await object_rows.alone(call.tx, (bucket, request.key))
    row = await object_rows.version(call.tx, bucket, request.key, request.version_id)
    if row is None or row.delete_marker:
        raise object_rows.absent(bucket, request.key, row)
    return shown_whole(await changes.update(call.tx, row, **columns))


def _changes(source: Object, request: pb.CopyObjectRequest) -> bool:
    """Whether the copy would be another object than its source."""
    return (
        request.HasField("properties") or request.HasField("tags") or request.is_public != source.is_public
        or request.checksum_algorithm not in ("", source.checksum_algorithm)
    )  # fmt: skip


def _range(source: Object, wanted: str) -> tuple[int, int]:
    """Where the range of the source begins and ends. Raises unless it is there as a whole."""
    if not wanted:
        return 0, source.size_bytes
    found = object_downloads.RANGE.fullmatch(wanted)
    if found is None or not (found[1] and found[2]) or int(found[1]) > int(found[2]):
        raise invalid("source_range", 'this wants a range such as "bytes=0-99"')
    if int(found[2]) >= source.size_bytes:
        raise ApiError("RANGE_NOT_SATISFIABLE", f"the object has {source.size_bytes} bytes",
                       size_bytes=str(source.size_bytes))  # fmt: skip
    return int(found[1]), int(found[2]) + 1
