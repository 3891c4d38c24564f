"""Objects that come in parts."""

import re
from urllib.parse import quote
from uuid import UUID

from thecloud.v1 import objects_pb2, storage_pb2

from server.s3 import buckets, checksums, objects, uploads, xml
from server.s3.buckets import owner
from server.s3.errors import S3Error, not_implemented, readable_xml
from server.s3.request import MOST, Answer, Request, iso
from server.s3.xml import element, escape, tag

COMPLETED = ("PartNumber", "ETag", *(f"Checksum{name}" for name in checksums.ALGORITHMS))


async def create_upload(request: Request) -> Answer:
    await uploads.check(request)
    algorithm = checksums.algorithm_of(request.headers.get("x-amz-checksum-algorithm", ""))
    kind = request.headers.get("x-amz-checksum-type", "")
    wanted = "FULL_OBJECT" if algorithm == "CRC64NVME" else "COMPOSITE"
    if kind and (not algorithm or kind != wanted):
        raise not_implemented(f"checksum {algorithm} of type {kind[:100]}; {algorithm or 'it'} is {wanted}")
    made = await request.call("StorageService/BeginMultipartUpload", storage_pb2.BeginMultipartUploadRequest(
        bucket=request.bucket, key=request.key, properties=uploads.properties(request), tags=uploads.tags(request),
        is_public=buckets.canned(request), checksum_algorithm=algorithm,
    ))  # fmt: skip
    headers = [("x-amz-checksum-algorithm", algorithm), ("x-amz-checksum-type", wanted)] if algorithm else []
    return Answer(headers=headers, body=element(
        "InitiateMultipartUploadResult",
        f"<Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key><UploadId>{made.id}</UploadId>",
    ))  # fmt: skip


def upload_id(request: Request) -> str:
    """The upload that the query names. Raises S3Error for what is no id of one."""
    try:
        return str(UUID(request.query["uploadId"]))
    except ValueError:
        raise S3Error("NoSuchUpload", "there is no such upload of this object; it may have ended") from None


async def parts_of(request: Request, after: int = 0, most: int = MOST) -> objects_pb2.ListPartsResponse:
    """A page of the parts of the upload. Raises ApiError."""
    message = objects_pb2.ListPartsRequest(id=upload_id(request), object=name(request), after=after, page_size=most)
    return await request.call("ObjectService/ListParts", message)  # type: ignore[no-any-return]


def name(request: Request) -> str:
    """What the upload has to be of."""
    return f"{request.bucket}/{request.key}"


async def upload_part(request: Request) -> Answer:
    number = objects.part_number(request)
    if "x-amz-copy-source" in request.headers:
        return await _copy_part(request, number)
    await uploads.check(request)
    objects.check_size(request)
    algorithm, value = checksums.asked(request.headers, request.payload.announced)
    made = await request.push("StorageService/UploadPart", storage_pb2.UploadPartRequest(
        id=upload_id(request), object=name(request), part=number, content_sha256=request.payload.sha256,
        content_md5=request.headers.get("content-md5", ""), checksum_algorithm=algorithm, checksum_value=value,
    ))  # fmt: skip
    return Answer(headers=[("etag", f'"{made.md5}"'), *checksums.headers(made)[:1]])


async def _copy_part(request: Request, number: int) -> Answer:
    source = await objects.copy_source(request)
    message = objects_pb2.CopyPartRequest(
        id=upload_id(request), object=name(request), part=number,
        source_range=request.headers.get("x-amz-copy-source-range", ""), **source,
    )  # fmt: skip
    made = await request.call("ObjectService/CopyPart", message)
    return Answer(body=objects.copied_part(made), headers=objects.source_version(message))


async def complete_upload(request: Request) -> Answer:
    root = await request.document("CompleteMultipartUpload", checksum=False)
    algorithm, value = checksums.asked(request.headers, "")  # which is the object's
    parts = []
    with readable_xml():
        xml.only(root, ("Part",))
        for each in root:
            xml.only(each, COMPLETED)
            values = [xml.text(each, name) for name in COMPLETED[2:] if each.find(name) is not None]
            parts.append(storage_pb2.PartReference(
                part_number=xml.number(each, "PartNumber"), etag=xml.text(each, "ETag").strip('"'),
                checksum_value=values[0] if values else "",
            ))  # fmt: skip
    if not 1 <= len(parts) <= 10_000:
        raise S3Error("MalformedXML", "this wants 1 to 10,000 parts")
    if any(not 1 <= each.part_number <= 10_000 for each in parts):
        raise S3Error("InvalidArgument", "a <PartNumber> has to be from 1 to 10000")
    if size := request.headers.get("x-amz-mp-object-size"):
        await _check_size(request, {each.part_number for each in parts}, size)
    made = await request.call("StorageService/CompleteMultipartUpload", storage_pb2.CompleteMultipartUploadRequest(
        id=upload_id(request), object=name(request), parts=parts, if_match=request.headers.get("if-match", ""),
        if_none_match=request.headers.get("if-none-match", ""), checksum_algorithm=algorithm, checksum_value=value,
    ))  # fmt: skip
    where = f"/{request.bucket}/{quote(request.key)}"
    return Answer(
        headers=uploads.version_headers(made),
        body=element(
            "CompleteMultipartUploadResult",
            f"<Location>{where}</Location><Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key>"
            f"<ETag>&quot;{made.etag}&quot;</ETag>{checksums.elements(made)}",
        ),
    )  # fmt: skip


async def _check_size(request: Request, numbers: set[int], said: str) -> None:
    """Raise S3Error unless these parts have so many bytes together."""
    size, after, more = 0, 0, True
    while more:
        page = await parts_of(request, after)
        size += sum(part.size_bytes for part in page.parts if part.part_number in numbers)
        after, more = page.next_after, bool(page.next_after)
    if said != str(size):
        raise S3Error("InvalidRequest", f"the parts have {size} bytes, and x-amz-mp-object-size says {said[:20]}")


async def abort_upload(request: Request) -> Answer:
    message = storage_pb2.AbortMultipartUploadRequest(id=upload_id(request), object=name(request))
    await request.call("StorageService/AbortMultipartUpload", message)
    return Answer(204)


async def list_parts(request: Request) -> Answer:
    said = request.query.get("part-number-marker") or "0"
    if not re.fullmatch(r"[0-9]{1,9}", said, re.ASCII):
        raise S3Error("InvalidArgument", "part-number-marker has to be a number")
    most = request.count("max-parts")
    page = await parts_of(request, int(said), most or 1)
    if not most:
        page = objects_pb2.ListPartsResponse(upload=page.upload)
    listed = "".join([
        f"<Part><PartNumber>{part.part_number}</PartNumber><LastModified>{iso(part.created_at)}</LastModified>"
        f"<ETag>&quot;{part.md5}&quot;</ETag>{_checksum(part)}<Size>{part.size_bytes}</Size></Part>"
        for part in page.parts
    ])  # fmt: skip
    following = f"<NextPartNumberMarker>{page.next_after}</NextPartNumberMarker>" if page.next_after else ""
    tenant = page.upload.tenant_id
    return Answer(body=element(
        "ListPartsResult",
        f"<Bucket>{request.bucket}</Bucket><Key>{escape(request.key)}</Key><UploadId>{page.upload.id}</UploadId>"
        f"{owner(tenant, 'Initiator')}{owner(tenant)}<StorageClass>STANDARD</StorageClass>"
        f"<PartNumberMarker>{int(said)}</PartNumberMarker>{following}<MaxParts>{most}</MaxParts>"
        f"<IsTruncated>{'true' if page.next_after else 'false'}</IsTruncated>"
        f"{tag('ChecksumAlgorithm', page.upload.checksum_algorithm)}{listed}",
    ))  # fmt: skip


def _checksum(part: storage_pb2.Part) -> str:
    name = f"Checksum{part.checksum_algorithm}"
    return tag(name, part.checksum_value) if part.checksum_value else ""
