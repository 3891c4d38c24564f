"""Lists: of objects, versions and uploads, with pages and common prefixes."""

import base64
import binascii
from collections.abc import Callable
from urllib.parse import quote

from thecloud.v1 import objects_pb2, storage_pb2

from server.s3 import checksums
from server.s3.buckets import owner
from server.s3.errors import S3Error
from server.s3.request import Answer, Request, iso, iso_of
from server.s3.xml import element, escape, tag


def writer(request: Request) -> Callable[[str], str]:
    """How keys are written, which may have characters that XML does not."""
    said = request.query.get("encoding-type", "")
    if said not in ("", "url"):
        raise S3Error("InvalidArgument", "encoding-type has to be url")
    return _quoted if said else escape


def _quoted(key: str) -> str:
    return quote(key, safe="/-_.~*")


def _echo(request: Request, write: Callable[[str], str], *names: tuple[str, str]) -> str:
    """Elements that repeat what the query said."""
    said = [f"<{name}>{write(request.query.get(key, ''))}</{name}>" for key, name in names]
    if delimiter := request.query.get("delimiter", ""):
        said.append(f"<Delimiter>{write(delimiter)}</Delimiter>")
    if request.query.get("encoding-type"):
        said.append("<EncodingType>url</EncodingType>")
    return "".join(said)


async def list_objects(request: Request) -> Answer:
    kind = request.query.get("list-type", "")
    if kind not in ("", "2"):
        raise S3Error("InvalidArgument", "list-type has to be 2, or left out")
    write, most = writer(request), request.count("max-keys")
    token = request.query.get("continuation-token")
    after = request.query.get("start-after" if kind else "marker", "")
    if kind and token is not None:
        after = read_token(token)
    page = await request.call("ObjectService/ListObjectKeys", objects_pb2.ListObjectKeysRequest(
        bucket=request.bucket, prefix=request.query.get("prefix", ""), after=after,
        delimiter=request.query.get("delimiter", ""), page_size=most or 1, as_columns=True,
    ))  # fmt: skip
    if not most:
        page = objects_pb2.ListObjectKeysResponse()
    owned = not kind or request.query.get("fetch-owner") == "true"
    inside = [
        f"<Name>{request.bucket}</Name>", _echo(request, write, ("prefix", "Prefix")),
        f"<MaxKeys>{most}</MaxKeys><IsTruncated>{'true' if page.next_after else 'false'}</IsTruncated>",
    ]  # fmt: skip
    if kind:
        inside.append(f"<KeyCount>{len(page.columns.key) + len(page.common_prefixes)}</KeyCount>")
        inside.append(tag("ContinuationToken", token or ""))
        inside.append(tag("StartAfter", write(request.query.get("start-after", ""))))
        if page.next_after:
            inside.append(f"<NextContinuationToken>{token_of(page.next_after)}</NextContinuationToken>")
    else:
        inside.append(f"<Marker>{write(after)}</Marker>")
        if page.next_after:
            inside.append(f"<NextMarker>{write(page.next_after)}</NextMarker>")
    inside += _contents(page.columns, write, owned=owned)
    inside += _prefixes(page.common_prefixes, write)
    return Answer(body=element("ListBucketResult", "".join(inside)))


def _contents(of: storage_pb2.ObjectColumns, write: Callable[[str], str], *, owned: bool) -> list[str]:
    theirs = owner(of.tenant_id) if owned else ""
    columns = (of.key, of.created_at_us, of.etag, of.size_bytes, of.checksum_algorithm, of.checksum_value)
    return [
        f"<Contents><Key>{write(key)}</Key><LastModified>{iso_of(created_at)}</LastModified>"
        f"<ETag>&quot;{etag}&quot;</ETag>{_checksum(algorithm, value)}<Size>{size}</Size>"
        f"{theirs}<StorageClass>STANDARD</StorageClass></Contents>"
        for key, created_at, etag, size, algorithm, value in zip(*columns, strict=True)
    ]


def _checksum(algorithm: str, value: str) -> str:
    if not value:
        return ""
    kind = checksums.kind(value)
    return f"<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm><ChecksumType>{kind}</ChecksumType>"


def _prefixes(prefixes: object, write: Callable[[str], str]) -> list[str]:
    return [f"<CommonPrefixes><Prefix>{write(each)}</Prefix></CommonPrefixes>" for each in prefixes]  # type: ignore[attr-defined]


async def list_versions(request: Request) -> Answer:
    write, most = writer(request), request.count("max-keys")
    key_marker, version_marker = request.query.get("key-marker", ""), request.query.get("version-id-marker", "")
    if version_marker and not key_marker:
        raise S3Error("InvalidArgument", "version-id-marker needs a key-marker")
    page = await request.call("ObjectService/ListAllVersions", objects_pb2.ListAllVersionsRequest(
        bucket=request.bucket, prefix=request.query.get("prefix", ""), delimiter=request.query.get("delimiter", ""),
        after_key=key_marker, after_version_id=version_marker, page_size=most or 1,
    ))  # fmt: skip
    if not most:
        page = objects_pb2.ListAllVersionsResponse()
    inside = [
        f"<Name>{request.bucket}</Name>",
        _echo(request, write, ("prefix", "Prefix"), ("key-marker", "KeyMarker")),
        f"<VersionIdMarker>{escape(version_marker)}</VersionIdMarker>"
        f"<MaxKeys>{most}</MaxKeys><IsTruncated>{'true' if page.next_after_key else 'false'}</IsTruncated>",
    ]  # fmt: skip
    if page.next_after_key:
        inside.append(f"<NextKeyMarker>{write(page.next_after_key)}</NextKeyMarker>")
        inside.append(tag("NextVersionIdMarker", page.next_after_version_id))
    inside += [_version(each, write) for each in page.objects]
    inside += _prefixes(page.common_prefixes, write)
    return Answer(body=element("ListVersionsResult", "".join(inside)))


def _version(each: storage_pb2.Object, write: Callable[[str], str]) -> str:
    said = (
        f"<Key>{write(each.key)}</Key><VersionId>{escape(each.version_id)}</VersionId>"
        f"<IsLatest>{'true' if each.is_latest else 'false'}</IsLatest>"
        f"<LastModified>{iso(each.created_at)}</LastModified>{owner(each.tenant_id)}"
    )
    if each.delete_marker:
        return f"<DeleteMarker>{said}</DeleteMarker>"
    return (
        f"<Version>{said}<ETag>&quot;{each.etag}&quot;</ETag>{_checksum(each.checksum_algorithm, each.checksum_value)}"
        f"<Size>{each.size_bytes}</Size><StorageClass>STANDARD</StorageClass></Version>"
    )


async def list_uploads(request: Request) -> Answer:
    write, most = writer(request), request.count("max-uploads")
    key_marker, upload_marker = request.query.get("key-marker", ""), request.query.get("upload-id-marker", "")
    page = await request.call("ObjectService/ListMultipartUploads", objects_pb2.ListMultipartUploadsRequest(
        bucket=request.bucket, prefix=request.query.get("prefix", ""), delimiter=request.query.get("delimiter", ""),
        after_key=key_marker, after_id=upload_marker if key_marker else "", page_size=most or 1,
    ))  # fmt: skip
    if not most:
        page = objects_pb2.ListMultipartUploadsResponse()
    inside = [
        f"<Bucket>{request.bucket}</Bucket>", _echo(request, write, ("prefix", "Prefix"), ("key-marker", "KeyMarker")),
        f"<UploadIdMarker>{escape(upload_marker)}</UploadIdMarker><MaxUploads>{most}</MaxUploads>"
        f"<IsTruncated>{'true' if page.next_after_key else 'false'}</IsTruncated>",
    ]  # fmt: skip
    if page.next_after_key:
        inside.append(f"<NextKeyMarker>{write(page.next_after_key)}</NextKeyMarker>")
        inside.append(tag("NextUploadIdMarker", page.next_after_id))
    inside += [
        f"<Upload><Key>{write(each.key)}</Key><UploadId>{each.id}</UploadId>{owner(each.tenant_id, 'Initiator')}"
        f"{owner(each.tenant_id)}<StorageClass>STANDARD</StorageClass><Initiated>{iso(each.created_at)}</Initiated>"
        f"{tag('ChecksumAlgorithm', each.checksum_algorithm)}</Upload>"
        for each in page.uploads
    ]  # fmt: skip
    inside += _prefixes(page.common_prefixes, write)
    return Answer(body=element("ListMultipartUploadsResult", "".join(inside)))


def token_of(after: str) -> str:
    """The continuation token of the page that follows."""
    return base64.urlsafe_b64encode(after.encode()).decode()


def read_token(token: str) -> str:
    """What comes before the page. Raises S3Error."""
    try:
        after = base64.b64decode(token.replace(" ", "+"), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        after = "\0"
    if not after or "\0" in after:
        raise S3Error("InvalidArgument", "the continuation token is not one of this list; leave it out to start anew")
    return after
