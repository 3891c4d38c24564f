"""The ordinary work of S3's clients, by boto3."""

import asyncio
import base64
import hashlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.conftest import Cloud, Person
from tests.s3.conftest import Port, opened

MIB = 2**20


class Boto:
    """A client whose methods can be awaited."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            return await asyncio.to_thread(getattr(self.client, name), *arguments, **named)

        return call

    async def refused(self, name: str, **named: Any) -> str:
        """The code of the error that the method answers."""
        with pytest.raises(ClientError) as caught:
            await getattr(self, name)(**named)
        return str(caught.value.response["Error"]["Code"])

    async def read(self, key: str, **named: Any) -> bytes:
        got = await self.get_object(Bucket="bucket", Key=key, **named)
        return await asyncio.to_thread(got["Body"].read)


@pytest.fixture
async def s3(port: Port) -> AsyncIterator[Boto]:
    s3 = Boto(port.boto())
    await s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield s3
    s3.client.close()


async def test_buckets_come_and_go(s3: Boto, cloud: Cloud, bob: Person) -> None:
    for name in ("c-bucket", "a-bucket"):
        await s3.create_bucket(Bucket=name)
    await bob.rest.post("/storage/buckets", json={"name": "bobs", "is_public": True})
    listed = await s3.list_buckets()
    assert [each["Name"] for each in listed["Buckets"]] == ["a-bucket", "bucket", "c-bucket"]
    page = await s3.list_buckets(MaxBuckets=2)
    assert [each["Name"] for each in page["Buckets"]] == ["a-bucket", "bucket"]
    page = await s3.list_buckets(MaxBuckets=2, ContinuationToken=page["ContinuationToken"])
    assert [each["Name"] for each in page["Buckets"]] == ["c-bucket"] and "ContinuationToken" not in page
    assert (await s3.head_bucket(Bucket="bucket"))["BucketRegion"] == "us-east-1"
    assert (await s3.get_bucket_location(Bucket="bucket"))["LocationConstraint"] is None
    await s3.delete_bucket(Bucket="c-bucket")
    assert await s3.refused("head_bucket", Bucket="c-bucket") == "404"


async def test_an_object_is_what_was_put(s3: Boto, ada: Person) -> None:
    put = await s3.put_object(
        Bucket="bucket", Key="a/b.txt", Body=b"hello", ContentType="text/plain", CacheControl="max-age=60",
        ContentDisposition="inline", Metadata={"colour": "blue"}, ContentEncoding="identity", Tagging="a=1&b=x%20y",
    )  # fmt: skip
    assert put["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"' and put["ChecksumCRC32"]
    for name in ("get_object", "head_object"):
        got = await getattr(s3, name)(Bucket="bucket", Key="a/b.txt", ChecksumMode="ENABLED")
        assert (got["ContentLength"], got["ContentType"], got["ETag"]) == (5, "text/plain", put["ETag"])
        assert (got["CacheControl"], got["ContentDisposition"]) == ("max-age=60", "inline")
        assert (got["ContentEncoding"], got["Metadata"]) == ("identity", {"colour": "blue"})
        assert got["ChecksumCRC32"] == put["ChecksumCRC32"] and "VersionId" not in got
    assert await s3.read("a/b.txt") == b"hello"
    assert (await ada.rest.get("/storage/bucket/a/b.txt")).content == b"hello"
    await s3.put_object(Bucket="bucket", Key="plain", Body=b"")
    assert "ContentDisposition" not in await s3.get_object(Bucket="bucket", Key="plain")
    attributes = await s3.get_object_attributes(
        Bucket="bucket", Key="a/b.txt", ObjectAttributes=["ETag", "Checksum", "ObjectSize", "StorageClass"]
    )
    assert attributes["ObjectSize"] == 5 and attributes["ETag"] == put["ETag"].strip('"')
    assert attributes["Checksum"]["ChecksumCRC32"] == put["ChecksumCRC32"]


async def test_ranges_and_conditions(s3: Boto) -> None:
    etag = (await s3.put_object(Bucket="bucket", Key="k", Body=b"0123456789"))["ETag"]
    assert await s3.read("k", Range="bytes=2-4") == b"234"
    assert await s3.read("k", Range="bytes=-3") == b"789"
    assert await s3.read("k", Range="bytes=8-100") == b"89"
    assert (await s3.get_object(Bucket="bucket", Key="k", Range="bytes=2-4"))["ContentRange"] == "bytes 2-4/10"
    assert await s3.refused("get_object", Bucket="bucket", Key="k", Range="bytes=10-") == "InvalidRange"
    assert await s3.refused("get_object", Bucket="bucket", Key="k", IfMatch='"0"') == "PreconditionFailed"
    assert await s3.refused("get_object", Bucket="bucket", Key="k", IfNoneMatch=etag) == "304"
    assert await s3.refused("head_object", Bucket="bucket", Key="k", IfNoneMatch=etag) == "304"
    assert await s3.refused("head_object", Bucket="bucket", Key="none") == "404"
    assert await s3.refused("put_object", Bucket="bucket", Key="k", IfNoneMatch="*") == "PreconditionFailed"
    assert await s3.refused("put_object", Bucket="bucket", Key="k", IfMatch='"0"') == "PreconditionFailed"
    await s3.put_object(Bucket="bucket", Key="k", Body=b"new", IfMatch=etag)
    got = await s3.get_object(Bucket="bucket", Key="k", ResponseContentType="text/x", ResponseCacheControl="no-store")
    assert (got["ContentType"], got["CacheControl"]) == ("text/x", "no-store")
    assert await s3.refused("get_object", Bucket="bucket", Key="none") == "NoSuchKey"
    assert await s3.refused("get_object", Bucket="nowhere", Key="none") == "NoSuchBucket"


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"])
async def test_checksums_are_kept(s3: Boto, algorithm: str) -> None:
    put = await s3.put_object(Bucket="bucket", Key="k", Body=b"hello", ChecksumAlgorithm=algorithm)
    assert put[f"Checksum{algorithm}"]
    got = await s3.head_object(Bucket="bucket", Key="k", ChecksumMode="ENABLED")
    assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"] and got["ChecksumType"] == "FULL_OBJECT"


async def test_lists_have_pages_and_prefixes(s3: Boto) -> None:
    keys = ["a/1", "a/2", "b", "c d/+1", "c d/2", "ü", "z"]
    for key in keys:
        await s3.put_object(Bucket="bucket", Key=key, Body=b"x")
    ordered = sorted(keys, key=str.encode)
    for name, place, following in (
        ("list_objects_v2", "ContinuationToken", "NextContinuationToken"), ("list_objects", "Marker", "NextMarker"),
    ):  # fmt: skip
        found, more = [], {}
        while True:
            page = await getattr(s3, name)(Bucket="bucket", MaxKeys=2, **more)
            found += [each["Key"] for each in page["Contents"]]
            assert len(page["Contents"]) <= 2
            if not page["IsTruncated"]:
                break
            more = {place: page[following]}
        assert found == ordered
        page = await getattr(s3, name)(Bucket="bucket", Delimiter="/")
        assert [each["Prefix"] for each in page["CommonPrefixes"]] == ["a/", "c d/"]
        assert [each["Key"] for each in page["Contents"]] == ["b", "z", "ü"]
        page = await getattr(s3, name)(Bucket="bucket", Prefix="c d/", Delimiter="/")
        assert [each["Key"] for each in page["Contents"]] == ["c d/+1", "c d/2"]
        assert "Contents" not in await getattr(s3, name)(Bucket="bucket", MaxKeys=0)
    page = await s3.list_objects_v2(Bucket="bucket", StartAfter="b", FetchOwner=True)
    assert [each["Key"] for each in page["Contents"]] == ["c d/+1", "c d/2", "z", "ü"]
    assert page["KeyCount"] == 4 and page["Contents"][0]["Owner"]["ID"]


async def test_versions_and_markers(s3: Boto) -> None:
    assert "Status" not in await s3.get_bucket_versioning(Bucket="bucket")
    await s3.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    assert (await s3.get_bucket_versioning(Bucket="bucket"))["Status"] == "Enabled"
    first = (await s3.put_object(Bucket="bucket", Key="k", Body=b"one"))["VersionId"]
    second = (await s3.put_object(Bucket="bucket", Key="k", Body=b"two"))["VersionId"]
    marker = await s3.delete_object(Bucket="bucket", Key="k")
    assert marker["DeleteMarker"] and marker["VersionId"]
    with pytest.raises(ClientError) as caught:
        await s3.get_object(Bucket="bucket", Key="k")
    assert caught.value.response["Error"]["Code"] == "NoSuchKey"
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    code = await s3.refused("get_object", Bucket="bucket", Key="k", VersionId=marker["VersionId"])
    assert code == "MethodNotAllowed"
    assert await s3.read("k", VersionId=first) == b"one"
    listed = await s3.list_object_versions(Bucket="bucket")
    assert [(each["VersionId"], each["IsLatest"]) for each in listed["Versions"]] == [(second, False), (first, False)]
    assert [each["VersionId"] for each in listed["DeleteMarkers"]] == [marker["VersionId"]]
    page = await s3.list_object_versions(Bucket="bucket", MaxKeys=1)
    assert page["IsTruncated"]
    rest = await s3.list_object_versions(
        Bucket="bucket", KeyMarker=page["NextKeyMarker"], VersionIdMarker=page["NextVersionIdMarker"]
    )
    assert [each["VersionId"] for each in rest["Versions"]] == [second, first]
    gone = await s3.delete_object(Bucket="bucket", Key="k", VersionId=marker["VersionId"])
    assert gone["DeleteMarker"] and gone["VersionId"] == marker["VersionId"]
    assert await s3.read("k") == b"two"
    assert await s3.refused("get_object", Bucket="bucket", Key="k", VersionId="0") == "NoSuchVersion"
    copied = await s3.copy_object(
        Bucket="bucket", Key="k", CopySource={"Bucket": "bucket", "Key": "k", "VersionId": first}
    )
    assert copied["CopySourceVersionId"] == first and await s3.read("k") == b"one"


async def test_many_are_deleted_at_once(s3: Boto) -> None:
    for key in ("a", "b <&>", "c"):
        await s3.put_object(Bucket="bucket", Key=key, Body=b"x")
    done = await s3.delete_objects(
        Bucket="bucket", Delete={"Objects": [{"Key": key} for key in ("a", "b <&>", "none")]}
    )
    assert {each["Key"] for each in done["Deleted"]} == {"a", "b <&>", "none"} and "Errors" not in done
    done = await s3.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": "c"}], "Quiet": True})
    assert "Deleted" not in done
    assert (await s3.list_objects_v2(Bucket="bucket"))["KeyCount"] == 0
    await s3.delete_object(Bucket="bucket", Key="none")


async def test_copies_keep_or_replace_what_is_told(s3: Boto) -> None:
    source = {"Bucket": "bucket", "Key": "a b/ü+"}
    await s3.put_object(
        Bucket="bucket", Key="a b/ü+", Body=b"x", Metadata={"a": "1"}, ContentType="text/a", Tagging="t=1"
    )
    copied = await s3.copy_object(Bucket="bucket", Key="copy", CopySource=source)
    assert copied["CopyObjectResult"]["ETag"] == f'"{hashlib.md5(b"x").hexdigest()}"'
    got = await s3.head_object(Bucket="bucket", Key="copy")
    assert (got["Metadata"], got["ContentType"]) == ({"a": "1"}, "text/a")
    assert (await s3.get_object_tagging(Bucket="bucket", Key="copy"))["TagSet"] == [{"Key": "t", "Value": "1"}]
    await s3.copy_object(
        Bucket="bucket", Key="copy", CopySource={"Bucket": "bucket", "Key": "copy"}, MetadataDirective="REPLACE",
        Metadata={"b": "2"}, ContentType="text/b", TaggingDirective="REPLACE", Tagging="u=2",
    )  # fmt: skip
    got = await s3.head_object(Bucket="bucket", Key="copy")
    assert (got["Metadata"], got["ContentType"]) == ({"b": "2"}, "text/b")
    assert (await s3.get_object_tagging(Bucket="bucket", Key="copy"))["TagSet"] == [{"Key": "u", "Value": "2"}]
    itself = {"Bucket": "bucket", "Key": "copy", "CopySource": {"Bucket": "bucket", "Key": "copy"}}
    assert await s3.refused("copy_object", **itself) == "InvalidRequest"
    other = {"Bucket": "bucket", "Key": "other", "CopySource": source, "CopySourceIfMatch": '"0"'}
    assert await s3.refused("copy_object", **other) == "PreconditionFailed"


async def test_objects_may_come_in_parts(s3: Boto, port: Port) -> None:
    data = bytes(range(256)) * 4096 * 17
    transfer = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=5 * MIB)
    extra = {"Metadata": {"a": "1"}, "ContentType": "text/a"}
    await s3.upload_fileobj(io.BytesIO(data), "bucket", "big", Config=transfer, ExtraArgs=extra)
    back = io.BytesIO()
    await s3.download_fileobj("bucket", "big", back, Config=transfer)
    assert back.getvalue() == data
    got = await s3.head_object(Bucket="bucket", Key="big")
    assert got["ETag"].endswith('-4"') and (got["Metadata"], got["ContentType"]) == ({"a": "1"}, "text/a")
    part = await s3.get_object(Bucket="bucket", Key="big", PartNumber=2)
    assert part["ContentLength"] == 5 * MIB and part["PartsCount"] == 4
    seen = await s3.get_object_attributes(Bucket="bucket", Key="big", ObjectAttributes=["ObjectParts"])
    assert seen["ObjectParts"]["TotalPartsCount"] == 4
    await asyncio.to_thread(part["Body"].read)
    id = (await s3.create_multipart_upload(Bucket="bucket", Key="copy", ChecksumAlgorithm="SHA256"))["UploadId"]
    assert [each["UploadId"] for each in (await s3.list_multipart_uploads(Bucket="bucket"))["Uploads"]] == [id]
    named = {"Bucket": "bucket", "Key": "copy", "UploadId": id}
    first = await s3.upload_part_copy(
        CopySource={"Bucket": "bucket", "Key": "big"}, CopySourceRange=f"bytes=0-{5 * MIB - 1}", PartNumber=1, **named
    )
    second = await s3.upload_part(Body=b"end", PartNumber=2, ChecksumAlgorithm="SHA256", **named)
    parts = await s3.list_parts(**named)
    assert [(each["PartNumber"], each["Size"]) for each in parts["Parts"]] == [(1, 5 * MIB), (2, 3)]
    assert (await s3.list_parts(MaxParts=1, **named))["NextPartNumberMarker"] == 1
    done = await s3.complete_multipart_upload(MultipartUpload={"Parts": [
        {"PartNumber": 1, "ETag": first["CopyPartResult"]["ETag"]},
        {"PartNumber": 2, "ETag": second["ETag"], "ChecksumSHA256": second["ChecksumSHA256"]},
    ]}, **named)  # fmt: skip
    assert done["ETag"].endswith('-2"') and done["ChecksumSHA256"].endswith("-2")
    assert await s3.read("copy") == data[: 5 * MIB] + b"end"
    id = (await s3.create_multipart_upload(Bucket="bucket", Key="none"))["UploadId"]
    await s3.abort_multipart_upload(Bucket="bucket", Key="none", UploadId=id)
    assert await s3.refused("list_parts", Bucket="bucket", Key="none", UploadId=id) == "NoSuchUpload"


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "SHA256"])
async def test_an_upload_is_completed_with_the_checksum_of_the_object(s3: Boto, algorithm: str) -> None:
    field = f"Checksum{algorithm}"
    begun = await s3.create_multipart_upload(Bucket="bucket", Key="k", ChecksumAlgorithm=algorithm)
    named = {"Bucket": "bucket", "Key": "k", "UploadId": begun["UploadId"]}
    part = await s3.upload_part(Body=b"all of it", PartNumber=1, ChecksumAlgorithm=algorithm, **named)
    parts = {"MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}}
    other = await s3.put_object(Bucket="bucket", Key="other", Body=b"other", ChecksumAlgorithm=algorithm)
    assert await s3.refused("complete_multipart_upload", **named, **parts, **{field: other[field]}) == "BadDigest"
    wrong = {"ChecksumCRC32": "AAAAAA=="}
    assert await s3.refused("complete_multipart_upload", **named, **parts, **wrong) == "InvalidArgument"
    assert await s3.refused("head_object", Bucket="bucket", Key="k") == "404"
    whole = part[field]
    if algorithm != "CRC64NVME":
        whole = base64.b64encode(hashlib.sha256(base64.b64decode(whole)).digest()).decode() + "-1"
    done = await s3.complete_multipart_upload(**named, **parts, **{field: whole})
    assert done[field] == whole and await s3.read("k") == b"all of it"


async def test_tags_of_objects_and_buckets(s3: Boto) -> None:
    await s3.put_object(Bucket="bucket", Key="k", Body=b"x")
    tags = [{"Key": "a", "Value": "1"}, {"Key": "ü <&>", "Value": ""}]
    await s3.put_object_tagging(Bucket="bucket", Key="k", Tagging={"TagSet": tags})
    assert (await s3.get_object_tagging(Bucket="bucket", Key="k"))["TagSet"] == tags
    assert (await s3.head_object(Bucket="bucket", Key="k"))["TagCount"] == 2
    await s3.delete_object_tagging(Bucket="bucket", Key="k")
    assert (await s3.get_object_tagging(Bucket="bucket", Key="k"))["TagSet"] == []
    assert await s3.refused("get_bucket_tagging", Bucket="bucket") == "NoSuchTagSet"
    await s3.put_bucket_tagging(Bucket="bucket", Tagging={"TagSet": tags})
    assert (await s3.get_bucket_tagging(Bucket="bucket"))["TagSet"] == tags
    await s3.delete_bucket_tagging(Bucket="bucket")
    assert await s3.refused("get_bucket_tagging", Bucket="bucket") == "NoSuchTagSet"


async def test_public_objects_and_buckets_are_read_by_everybody(s3: Boto, port: Port) -> None:
    await s3.put_object(Bucket="bucket", Key="open", Body=b"open", ACL="public-read")
    await s3.put_object(Bucket="bucket", Key="closed", Body=b"closed")
    assert len((await s3.get_object_acl(Bucket="bucket", Key="open"))["Grants"]) == 2
    assert len((await s3.get_object_acl(Bucket="bucket", Key="closed"))["Grants"]) == 1

    async def status(path: str) -> int:
        return (await port.http.get(f"{port.url}/{path}")).status_code

    assert [await status(path) for path in ("bucket/open", "bucket/closed", "bucket")] == [200, 403, 403]
    await s3.put_object_acl(Bucket="bucket", Key="open", ACL="private")
    assert await status("bucket/open") == 403
    await s3.put_bucket_acl(Bucket="bucket", ACL="public-read")
    assert [await status(path) for path in ("bucket/open", "bucket/closed", "bucket")] == [200, 200, 200]
    assert (await port.http.put(f"{port.url}/bucket/new", content=b"x")).status_code == 403
    acl = await s3.get_bucket_acl(Bucket="bucket")
    assert len(acl["Grants"]) == 2
    acl["Grants"].pop()
    await s3.put_bucket_acl(Bucket="bucket", AccessControlPolicy={"Grants": acl["Grants"], "Owner": acl["Owner"]})
    assert await status("bucket/closed") == 403


async def test_a_policy_opens_a_bucket_to_others(s3: Boto, port: Port, cloud: Cloud, bob: Person) -> None:
    await s3.put_object(Bucket="bucket", Key="a/1", Body=b"x")
    await s3.put_object(Bucket="bucket", Key="b/1", Body=b"x")
    assert await s3.refused("get_bucket_policy", Bucket="bucket") == "NoSuchBucketPolicy"
    policy = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/a/*"},
    ]}  # fmt: skip
    await s3.put_bucket_policy(Bucket="bucket", Policy=json.dumps(policy))
    assert json.loads((await s3.get_bucket_policy(Bucket="bucket"))["Policy"]) == policy
    assert (await s3.get_bucket_policy_status(Bucket="bucket"))["PolicyStatus"]["IsPublic"]
    other = Boto((await opened(cloud, bob, port.address)).boto())
    assert await other.read("a/1") == b"x"
    assert (await port.http.get(f"{port.url}/bucket/a/1")).content == b"x"
    assert await other.refused("get_object", Bucket="bucket", Key="b/1") in ("NoSuchBucket", "AccessDenied")
    for wrong in ("{", "[]", json.dumps(policy | {"Statement": [{"Effect": "Maybe"}]})):
        assert await s3.refused("put_bucket_policy", Bucket="bucket", Policy=wrong) == "MalformedPolicy"
    await s3.delete_bucket_policy(Bucket="bucket")
    assert (await port.http.get(f"{port.url}/bucket/a/1")).status_code == 403


async def test_tags_are_copied_by_who_may_read_and_write_them(
    s3: Boto, port: Port, cloud: Cloud, bob: Person
) -> None:  # fmt: skip
    await s3.put_object(Bucket="bucket", Key="k", Body=b"x", Tagging="secret=1")
    await s3.put_object(Bucket="bucket", Key="plain", Body=b"x")

    async def allow(*actions: str, effect: str = "Allow") -> None:
        statement = {"Effect": effect, "Principal": "*", "Action": actions, "Resource": "arn:aws:s3:::bucket/*"}
        await s3.put_bucket_policy(Bucket="bucket", Policy=json.dumps({"Version": "2012-10-17",
                                                                       "Statement": [statement]}))  # fmt: skip

    await allow("s3:GetObject")
    other = Boto((await opened(cloud, bob, port.address)).boto())
    await other.create_bucket(Bucket="bobs")
    copy = {"Bucket": "bobs", "Key": "k", "CopySource": "bucket/k"}
    assert await other.refused("copy_object", **copy) == "AccessDenied"
    assert await other.refused("head_object", Bucket="bobs", Key="k") == "404"
    await other.copy_object(**copy, TaggingDirective="REPLACE")
    assert (await other.get_object_tagging(Bucket="bobs", Key="k"))["TagSet"] == []
    await other.copy_object(**copy | {"CopySource": "bucket/plain"})
    await allow("s3:GetObject", "s3:GetObjectTagging")
    await other.copy_object(**copy)
    assert (await other.get_object_tagging(Bucket="bobs", Key="k"))["TagSet"] == [{"Key": "secret", "Value": "1"}]
    await allow("s3:PutObjectTagging", effect="Deny")
    copy = {"Bucket": "bucket", "Key": "new", "CopySource": "bucket/k"}
    assert await s3.refused("copy_object", **copy) == "AccessDenied"
    await s3.copy_object(**copy | {"CopySource": "bucket/plain"})


async def test_pages_of_other_origins(s3: Boto, port: Port) -> None:
    await s3.put_object(Bucket="bucket", Key="k", Body=b"x", ACL="public-read")
    assert await s3.refused("get_bucket_cors", Bucket="bucket") == "NoSuchCORSConfiguration"
    asked = {"origin": "https://a.example.com", "access-control-request-method": "GET",
             "access-control-request-headers": "X-Amz-Date, range"}  # fmt: skip
    url = f"{port.url}/bucket/k"
    assert (await port.http.options(url, headers=asked)).status_code == 403
    rules = [{"ID": "one", "AllowedOrigins": ["https://*.example.com"], "AllowedMethods": ["GET", "HEAD"],
              "AllowedHeaders": ["x-amz-*", "Range"], "ExposeHeaders": ["etag"], "MaxAgeSeconds": 60}]  # fmt: skip
    await s3.put_bucket_cors(Bucket="bucket", CORSConfiguration={"CORSRules": rules})
    assert (await s3.get_bucket_cors(Bucket="bucket"))["CORSRules"] == rules
    reply = await port.http.options(url, headers=asked)
    assert reply.status_code == 200, reply.text
    assert reply.headers["access-control-allow-origin"] == "https://a.example.com"
    assert reply.headers["access-control-allow-headers"] == "x-amz-date, range"
    assert reply.headers["access-control-max-age"] == "60"
    again = {"access-control-request-headers": ", ".join(["RANGE"] * 2000)}
    assert (await port.http.options(url, headers=asked | again)).headers["access-control-allow-headers"] == "range"
    many = ",".join(f"x-amz-{number}" for number in range(51))
    for wrong in ({"origin": "https://evil.com"}, {"access-control-request-method": "PUT"},
                  {"access-control-request-headers": "x-other"}, {"access-control-request-headers": many},
                  {"access-control-request-headers": "x-am"}):  # fmt: skip
        assert (await port.http.options(url, headers=asked | wrong)).status_code == 403
    got = await port.http.get(url, headers={"origin": "https://a.example.com"})
    assert got.headers["access-control-allow-origin"] == "https://a.example.com"
    assert got.headers["access-control-expose-headers"] == "etag" and got.content == b"x"
    got = await port.http.get(f"{url}e", headers={"origin": "https://a.example.com"})
    assert (got.status_code, got.headers["access-control-allow-origin"]) == (403, "https://a.example.com")
    got = await port.http.get(url, headers={"origin": "https://evil.com"})
    assert "access-control-allow-origin" not in got.headers
    await s3.delete_bucket_cors(Bucket="bucket")
    assert (await port.http.options(url, headers=asked)).status_code == 403


async def test_encryption_is_of_the_bucket(s3: Boto, cloud: Cloud) -> None:
    missing = "ServerSideEncryptionConfigurationNotFoundError"
    assert await s3.refused("get_bucket_encryption", Bucket="bucket") == missing
    put = {"Bucket": "bucket", "Key": "k", "Body": b"x", "ServerSideEncryption": "AES256"}
    assert await s3.refused("put_object", **put) == "InvalidRequest"
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    await s3.put_bucket_encryption(Bucket="bucket", ServerSideEncryptionConfiguration={"Rules": [rule]})
    seen = await s3.get_bucket_encryption(Bucket="bucket")
    [found] = seen["ServerSideEncryptionConfiguration"]["Rules"]
    assert found["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert (await s3.put_object(**put))["ServerSideEncryption"] == "AES256"
    assert (await s3.head_object(Bucket="bucket", Key="k"))["ServerSideEncryption"] == "AES256"
    assert await s3.read("k") == b"x"
    assert b"x" not in cloud.objects.blobs.values()
    await s3.delete_bucket_encryption(Bucket="bucket")
    assert await s3.refused("get_bucket_encryption", Bucket="bucket") == missing


async def test_rules_by_which_objects_go(s3: Boto) -> None:
    assert await s3.refused("get_bucket_lifecycle_configuration", Bucket="bucket") == "NoSuchLifecycleConfiguration"
    rules = [
        {"ID": "old", "Filter": {"Prefix": "tmp/"}, "Status": "Enabled", "Expiration": {"Days": 30}},
        {"ID": "all", "Filter": {"Prefix": ""}, "Status": "Disabled", "Expiration": {"ExpiredObjectDeleteMarker": True},
         "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
         "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2}},
    ]  # fmt: skip
    await s3.put_bucket_lifecycle_configuration(Bucket="bucket", LifecycleConfiguration={"Rules": rules})
    seen = (await s3.get_bucket_lifecycle_configuration(Bucket="bucket"))["Rules"]
    assert sorted(seen, key=lambda rule: rule["ID"]) == sorted(rules, key=lambda rule: rule["ID"])
    tagged = {"Rules": [rules[0] | {"Filter": {"Tag": {"Key": "a", "Value": "b"}}}]}
    refused = await s3.refused("put_bucket_lifecycle_configuration", Bucket="bucket", LifecycleConfiguration=tagged)
    assert refused == "NotImplemented"
    await s3.delete_bucket_lifecycle(Bucket="bucket")
    assert await s3.refused("get_bucket_lifecycle_configuration", Bucket="bucket") == "NoSuchLifecycleConfiguration"


async def test_what_is_not_set_is_said_to_be_not_set(s3: Boto) -> None:
    for name, code in (
        ("get_bucket_website", "NoSuchWebsiteConfiguration"),
        ("get_bucket_replication", "ReplicationConfigurationNotFoundError"),
        ("get_object_lock_configuration", "ObjectLockConfigurationNotFoundError"),
        ("get_public_access_block", "NoSuchPublicAccessBlockConfiguration"),
        ("get_bucket_ownership_controls", "OwnershipControlsNotFoundError"),
    ):
        assert await s3.refused(name, Bucket="bucket") == code
        assert await s3.refused(name, Bucket="nowhere") == "NoSuchBucket"
    assert "LoggingEnabled" not in await s3.get_bucket_logging(Bucket="bucket")
    assert "Status" not in await s3.get_bucket_accelerate_configuration(Bucket="bucket")
    assert "TopicConfigurations" not in await s3.get_bucket_notification_configuration(Bucket="bucket")
    assert (await s3.get_bucket_request_payment(Bucket="bucket"))["Payer"] == "BucketOwner"


@pytest.mark.parametrize("version", ["s3v4", "s3"])
async def test_addresses_that_open_one_object(s3: Boto, port: Port, version: str) -> None:
    client = port.boto(signature_version=version)

    def presigned(method: str, seconds: int = 60, **named: Any) -> str:
        return str(client.generate_presigned_url(method, Params={"Bucket": "bucket", "Key": "a b/ü", **named},
                                                    ExpiresIn=seconds))  # fmt: skip

    put = presigned("put_object", ContentType="text/plain")
    reply = await port.http.put(put, content=b"hello", headers={"content-type": "text/plain"})
    assert reply.status_code == 200, reply.text
    assert (await port.http.put(put, content=b"hello", headers={"content-type": "text/html"})).status_code == 403
    get = presigned("get_object", ResponseContentType="text/x")
    got = await port.http.get(get, headers={"range": "bytes=1-2"})
    assert (got.status_code, got.content, got.headers["content-type"]) == (206, b"el", "text/x")
    assert (await port.http.get(get.replace("%C3%BC", "x"))).status_code == 403
    for name in ("acl", "attributes", "tagging", "versionId=null", "response-expires=x"):
        assert (await port.http.get(f"{get}&{name}")).status_code == 403
    assert (await port.http.get(get, headers={"x-amz-checksum-mode": "ENABLED"})).status_code == 403
    assert (await port.http.delete(get)).status_code == 403
    assert (await port.http.head(presigned("head_object"))).status_code == 200


async def test_the_owner_of_a_bucket_may_be_expected(s3: Boto, ada: Person, bob: Person) -> None:
    await s3.put_object(Bucket="bucket", Key="k", Body=b"x", ExpectedBucketOwner=str(ada.tenant_id))
    wrong = {"Bucket": "bucket", "Key": "k", "ExpectedBucketOwner": str(bob.tenant_id)}
    assert await s3.refused("get_object", **wrong) == "AccessDenied"


async def test_a_large_object_is_sent_in_pieces(s3: Boto, port: Port) -> None:
    data = bytes(range(256)) * 4096 * 5
    await s3.put_object(Bucket="bucket", Key="big", Body=data)
    async with httpx.AsyncClient() as client:
        url = s3.client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "big"})
        async with client.stream("GET", url) as reply:
            assert int(reply.headers["content-length"]) == len(data)
            assert hashlib.sha256(await reply.aread()).digest() == hashlib.sha256(data).digest()
        async with client.stream("GET", url) as reply:
            await anext(reply.aiter_bytes(1000))  # and leave
    assert await s3.read("big", Range=f"bytes=-{3 * MIB}") == data[-3 * MIB :]
