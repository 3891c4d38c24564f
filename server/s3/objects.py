"""Objects: stored, sent, copied and deleted, with what is told along with them."""

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

from google.api.httpbody_pb2 import HttpBody
from thecloud.v1 import objects_pb2, options_pb2, storage_pb2

from rest_shim import streams
from rest_shim.streams import ABORT, Headers, One
from server.errors import REASONS, ApiError
from server.object_downloads import disposition
from server.s3 import buckets, checksums, errors, uploads, xml
from server.s3.errors import S3Error, readable_xml
from server.s3.request import BODY, Answer, Request, encoded, http_date, iso
from server.s3.xml import element, escape, tag

OVERRIDES = {
    f"response-{name}": name
    for name in (
        "content-type", "content-language", "expires", "cache-control", "content-disposition", "content-encoding",
    )
}  # fmt: skip
CONDITIONS = ("if_match", "if_none_match", "if_modified_since", "if_unmodified_since")
ASKED = {name.replace("_", "-"): name for name in (*CONDITIONS, "range", "if_range")}
ATTRIBUTES = ("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize")


async def put_object(request: Request) -> Answer:
    if "x-amz-copy-source" in request.headers:
        return await copy_object(request)
    await uploads.check(request)
    headers = request.headers
    algorithm, value = checksums.asked(request.headers, request.payload.announced)
    check_size(request)
    first = storage_pb2.UploadObjectRequest(
        bucket=request.bucket, key=request.key, content_sha256=request.payload.sha256,
        content_md5=headers.get("content-md5", ""), content_type=request.header("content-type"),
        if_match=headers.get("if-match", ""), if_none_match=headers.get("if-none-match", ""),
        properties=uploads.properties(request), tags=uploads.tags(request), is_public=buckets.canned(request),
        checksum_algorithm=algorithm, checksum_value=value,
    )  # fmt: skip
    made = await request.push("StorageService/UploadObject", first)
    return Answer(headers=uploads.stored(made))


def check_size(request: Request) -> None:
    """Raise S3Error when more bytes are announced than there may be, before they are sent."""
    size, most = request.payload.size, request.front.app.config.object_bytes
    if size is None:
        raise S3Error("MissingContentLength", "send Content-Length, or x-amz-decoded-content-length with chunks")
    if size > most:
        raise S3Error("EntityTooLarge", f"an object, or a part of one, has at most {most} bytes")


async def get_object(request: Request) -> None:
    """Answers by itself."""
    headers, query, only_head = request.headers, request.query, request.method == "HEAD"
    if "partNumber" in query and "range" in headers:
        raise S3Error("InvalidRequest", "a range and partNumber cannot be asked for at once")
    overrides = {OVERRIDES[name]: value for name, value in query.items() if name in OVERRIDES} if query else {}
    if overrides and request.access is None:
        raise S3Error("InvalidRequest", "only signed requests may ask for other headers")
    if mode := headers.get("x-amz-checksum-mode"):
        request.metadata["x-amz-checksum-mode"] = mode
    message = storage_pb2.DownloadObjectRequest(
        bucket=request.bucket, key=request.key, version_id=query.get("versionId"), only_head=only_head,
        part_number=part_number(request, default=0) if "partNumber" in query else 0,
        **{field: headers[name] for name, field in ASKED.items() if name in headers},
    )  # fmt: skip

    def begin(first: HttpBody, head: options_pb2.Head) -> Headers:
        sent = {"content-type": first.content_type, **head.headers}
        if sent.get("content-disposition") == disposition(request.key):
            del sent["content-disposition"]  # which is that of the documented API, and not the object's own
        if head.status != 200:  # of which the checksums are not
            sent = {name: value for name, value in sent.items() if not name.startswith("x-amz-checksum-")}
        if head.status != 304:
            sent |= overrides
        return encoded([*sent.items(), *request.more])

    abort = (request.scope.get("extensions") or {}).get(ABORT, {}).get("abort")
    answer = streams.Answer(request.send, _start, request.front.app.config.slow_reader_seconds, abort)
    responses = request.stream("StorageService/DownloadObject", One(message))
    await streams.send_raw(answer, responses, begin, request.receive, only_head=only_head)


def _start(status: int, headers: Headers) -> MutableMapping[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def part_number(request: Request, *, default: int | None = None) -> int:
    """The number of a part that the query names. Raises S3Error."""
    said = request.query.get("partNumber", "" if default is None else str(default))
    if not re.fullmatch(r"[0-9]{1,5}", said, re.ASCII) or not (1 <= int(said) <= 10_000 or said == str(default)):
        raise S3Error("InvalidArgument", "partNumber has to be a number from 1 to 10000")
    return int(said)


async def copy_object(request: Request) -> Answer:
    await uploads.check(request)
    source = await copy_source(request)
    message = objects_pb2.CopyObjectRequest(
        bucket=request.bucket, key=request.key, is_public=buckets.canned(request),
        if_match=request.headers.get("if-match", ""), if_none_match=request.headers.get("if-none-match", ""),
        checksum_algorithm=checksums.algorithm_of(request.headers.get("x-amz-checksum-algorithm", "")), **source,
    )  # fmt: skip
    if _replaces(request, "x-amz-metadata-directive"):
        message.properties.CopyFrom(uploads.properties(request))
    if _replaces(request, "x-amz-tagging-directive"):
        message.tags.CopyFrom(uploads.tags(request) or storage_pb2.Tags())
    made = await request.call("ObjectService/CopyObject", message)
    headers = [*uploads.version_headers(made), *source_version(message)]
    return Answer(body=_copied("CopyObjectResult", made), headers=headers)


def _replaces(request: Request, name: str) -> bool:
    said = request.headers.get(name, "COPY")
    if said not in ("COPY", "REPLACE"):
        raise S3Error("InvalidArgument", f"{name} has to be COPY or REPLACE")
    return said == "REPLACE"


def _copied(root: str, made: Any) -> bytes:
    etag = getattr(made, "md5", "") or made.etag
    return element(
        root,
        f"<LastModified>{iso(made.created_at)}</LastModified><ETag>&quot;{etag}&quot;</ETag>{checksums.elements(made)}",
    )


def copied_part(made: Any) -> bytes:
    return _copied("CopyPartResult", made)


def source_version(message: Any) -> list[tuple[str, str]]:
    version = message.source_version_id
    return [("x-amz-copy-source-version-id", version)] if version and version != "null" else []


async def copy_source(request: Request) -> dict[str, Any]:
    """What is copied, and on which conditions, as CopyObject and CopyPart name them. Raises S3Error."""
    path, _, query = request.headers["x-amz-copy-source"].partition("?")
    try:
        bucket, _, key = unquote(path, errors="strict").removeprefix("/").partition("/")
        version = unquote(query.removeprefix("versionId="), errors="strict")
    except UnicodeDecodeError:
        bucket = key = version = ""
    if not bucket or not key or "\0" in key + bucket + version or (query and not query.startswith("versionId=")):
        raise S3Error("InvalidArgument", "x-amz-copy-source has to be bucket/key, or bucket/key?versionId=…, encoded "
                                         "as in a URL")  # fmt: skip
    if expected := request.headers.get("x-amz-source-expected-bucket-owner"):
        await buckets.check_owner(request, bucket, expected)
    conditions = {
        f"source_{name}": request.headers.get(f"x-amz-copy-source-{name.replace('_', '-')}", "") for name in CONDITIONS
    }
    return {"source_bucket": bucket, "source_key": key, "source_version_id": version, **conditions}


async def delete_object(request: Request) -> Answer:
    if "if-match" in request.headers:
        raise errors.not_implemented("condition on a deletion")
    wanted = objects_pb2.ObjectReference(key=request.key, version_id=request.query.get("versionId", ""))
    done = await _delete(request, [wanted])
    if done.errors:
        [error] = done.errors
        raise _undeleted(error)
    headers = []
    if done.deleted and done.deleted[0].delete_marker:
        headers = [("x-amz-delete-marker", "true"), ("x-amz-version-id", done.deleted[0].delete_marker_version_id)]
    elif wanted.version_id:
        headers = [("x-amz-version-id", wanted.version_id)]
    return Answer(204, headers=headers)


async def delete_objects(request: Request) -> Answer:
    body = await request.body(2 * BODY)
    root = request.parsed(body, "Delete")
    with readable_xml():
        wanted = [
            objects_pb2.ObjectReference(key=xml.text(each, "Key"), version_id=xml.text(each, "VersionId", default=""))
            for each in root.iterfind("Object")
        ]
        quiet = xml.text(root, "Quiet", default="false") == "true"
        xml.only(root, ("Object", "Quiet"))
    if not 1 <= len(wanted) <= 1000:
        raise S3Error("MalformedXML", "this wants 1 to 1,000 objects")
    done = await _delete(request, wanted)
    inside = [] if quiet else [_deleted(each) for each in done.deleted]
    inside += [
        f"<Error><Key>{escape(each.key)}</Key>{tag('VersionId', each.version_id)}"
        f"<Code>{_undeleted(each).code}</Code><Message>{escape(each.message)}</Message></Error>"
        for each in done.errors
    ]
    return Answer(body=element("DeleteResult", "".join(inside)))


async def _delete(request: Request, wanted: list[objects_pb2.ObjectReference]) -> objects_pb2.DeleteObjectsResponse:
    message = objects_pb2.DeleteObjectsRequest(bucket=request.bucket, objects=wanted)
    return await request.call("ObjectService/DeleteObjects", message)  # type: ignore[no-any-return]


def _undeleted(error: objects_pb2.UndeletedObject) -> S3Error:
    reason = error.reason if error.reason in REASONS else "INTERNAL"
    return errors.translated(ApiError(reason, error.message), version_id=error.version_id)


def _deleted(each: objects_pb2.DeletedObject) -> str:
    marker = f"<DeleteMarker>true</DeleteMarker>{tag('DeleteMarkerVersionId', each.delete_marker_version_id)}"
    return (
        f"<Deleted><Key>{escape(each.key)}</Key>{tag('VersionId', each.version_id)}"
        f"{marker if each.delete_marker else ''}</Deleted>"
    )


async def read(request: Request) -> storage_pb2.Object:
    """What is known of the object. Raises ApiError."""
    return await request.call("ObjectService/GetObject", objects_pb2.GetObjectRequest(  # type: ignore[no-any-return]
        bucket=request.bucket, key=request.key, version_id=request.query.get("versionId", ""),
    ))  # fmt: skip


async def get_attributes(request: Request) -> Answer:
    asked = [each.strip() for each in request.headers.get("x-amz-object-attributes", "").split(",")]
    if not set(asked) <= {*ATTRIBUTES}:
        raise S3Error("InvalidArgument", f"x-amz-object-attributes has to name some of {', '.join(ATTRIBUTES)}")
    seen = await read(request)
    checksum = f"<Checksum>{checksums.elements(seen)}</Checksum>" if seen.checksum_value else ""
    parts = f"<ObjectParts><PartsCount>{seen.parts_count}</PartsCount></ObjectParts>"
    shown = {
        "ETag": f"<ETag>{seen.etag}</ETag>", "Checksum": checksum, "ObjectParts": parts if seen.parts_count else "",
        "StorageClass": "<StorageClass>STANDARD</StorageClass>",
        "ObjectSize": f"<ObjectSize>{seen.size_bytes}</ObjectSize>",
    }  # fmt: skip
    inside = "".join([shown[name] for name in ATTRIBUTES if name in asked])
    return Answer(body=element("GetObjectAttributesResponse", inside), headers=[
        ("last-modified", http_date(seen.created_at)), *uploads.version_headers(seen),
    ])  # fmt: skip


async def get_tags(request: Request) -> Answer:
    seen = await read(request)
    return Answer(body=tagging(seen.tags.tags), headers=uploads.version_headers(seen))


def tagging(tags: Any) -> bytes:
    """Tags as XML."""
    listed = "".join([
        f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>" for name, value in sorted(tags.items())
    ])  # fmt: skip
    return element("Tagging", f"<TagSet>{listed}</TagSet>")


async def read_tags(request: Request, most: int) -> dict[str, str]:
    """The tags in the body. Raises S3Error."""
    root = await request.document("Tagging")
    found: dict[str, str] = {}
    with readable_xml():
        for each in root.iterfind("TagSet/Tag"):
            uploads.add_tag(found, each.findtext("Key") or "", each.findtext("Value") or "", most)
        if root.find("TagSet") is None:
            raise xml.Malformed("<Tagging> has no <TagSet>")
    return found


async def put_tags(request: Request) -> Answer:
    return await _set_tags(request, await read_tags(request, 10), 200)


async def delete_tags(request: Request) -> Answer:
    return await _set_tags(request, {}, 204)


async def _set_tags(request: Request, tags: dict[str, str], status: int) -> Answer:
    seen = await request.call("ObjectService/SetObjectTags", objects_pb2.SetObjectTagsRequest(
        bucket=request.bucket, key=request.key, version_id=request.query.get("versionId", ""),
        tags=storage_pb2.Tags(tags=tags),
    ))  # fmt: skip
    return Answer(status, headers=uploads.version_headers(seen))


async def get_acl(request: Request) -> Answer:
    seen = await read(request)
    return buckets.access_control(seen.tenant_id, is_public=seen.is_public)


async def put_acl(request: Request) -> Answer:
    is_public = await buckets.wanted_access(request, request.owner)
    seen = await request.call("ObjectService/SetObjectAccess", objects_pb2.SetObjectAccessRequest(
        bucket=request.bucket, key=request.key, version_id=request.query.get("versionId", ""), is_public=is_public,
    ))  # fmt: skip
    return Answer(headers=uploads.version_headers(seen))
