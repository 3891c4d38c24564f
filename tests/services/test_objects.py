"""What S3 does with objects besides storing and sending them, over REST and gRPC."""

import asyncio
import base64
import hashlib
import zlib
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from awscrt import checksums
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status
from thecloud.v1 import objects_pb2 as pb
from thecloud.v1 import options_pb2, storage_pb2

from server import errors
from server.errors import ApiError
from tests.conftest import Cloud, Person
from tests.services.test_storage import bucket, keys, put, text, versioned
from tests.services.test_storage_failures import upload, used

MIB = 2**20
RAW = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: checksums.crc32c(data).to_bytes(4, "big"),
    "CRC64NVME": lambda data: checksums.crc64nvme(data).to_bytes(8, "big"),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}
KNOWN = {  # of b"123456789", as the catalogue of CRCs and FIPS 180 have them
    "CRC32": "cbf43926", "CRC32C": "e3069283", "CRC64NVME": "ae8b14860a799888",
    "SHA1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "SHA256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}  # fmt: skip


PROPERTIES = storage_pb2.ObjectProperties(
    content_type="text/html", metadata={"color": "blau", "name": "räk", "line": "a\r\nb: c"},
    headers={"cache-control": "max-age=60", "content-disposition": "inline", "content-language": "de"},
)  # fmt: skip


def base64_of(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def checksum(algorithm: str, data: bytes) -> str:
    return base64_of(RAW[algorithm](data))


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


async def ask(cloud: Cloud, person: Person, method: str, request: Message) -> Any:
    """The response to one call over gRPC, a list of them if they are streamed. Raises ApiError."""
    [descriptor] = [
        service.methods_by_name[method]
        for module in (pb, storage_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        if method in service.methods_by_name
    ]
    path = f"/{descriptor.containing_service.full_name}/{method}"
    read = GetMessageClass(descriptor.output_type).FromString
    try:
        if descriptor.server_streaming:
            stub = cloud.channel.unary_stream(path, type(request).SerializeToString, read)
            return [each async for each in stub(request, metadata=person.metadata)]
        if descriptor.client_streaming:
            stub = cloud.channel.stream_unary(path, type(request).SerializeToString, read)
            return await stub(iter([request]), metadata=person.metadata)
        return await cloud.channel.unary_unary(path, type(request).SerializeToString, read)(
            request, metadata=person.metadata
        )
    except grpc.aio.AioRpcError as error:
        raise errors.from_status(rpc_status.from_call(error)) from None


async def refused(call: Awaitable[Any], reason: str, **metadata: str) -> None:
    with pytest.raises(ApiError) as caught:
        await call
    assert (caught.value.reason, caught.value.metadata | metadata) == (reason, caught.value.metadata), caught.value


async def sent(cloud: Cloud, person: Person, *pieces: bytes, key: str = "a", **fields: Any) -> storage_pb2.Object:
    """An object that is uploaded over gRPC. Raises ApiError."""
    requests = [storage_pb2.UploadObjectRequest(data=piece) for piece in pieces]
    requests[0].MergeFrom(storage_pb2.UploadObjectRequest(bucket="assets", key=key, **fields))
    try:
        return await upload(cloud, person, *requests)  # type: ignore[no-any-return]
    except grpc.aio.AioRpcError as error:
        raise errors.from_status(rpc_status.from_call(error)) from None


async def head(cloud: Cloud, person: Person, key: str = "a", **fields: Any) -> options_pb2.Head:
    """How the download of an object begins."""
    request = storage_pb2.DownloadObjectRequest(bucket="assets", key=key, only_head=True, **fields)
    [only] = await ask(cloud, person, "DownloadObject", request)
    assert only.data == b""
    found = options_pb2.Head()
    assert only.extensions[0].Unpack(found)
    return found


class Asking(Person):
    """Somebody whose client asks for checksums."""

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [*super().metadata, ("x-amz-checksum-mode", "ENABLED")]


async def begun(person: Person, path: str = "assets/a", **fields: Any) -> str:
    reply = await person.rest.post(f"/storage/multipart/init/{path}", params=fields)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


async def part(person: Person, id: str, number: int, data: bytes) -> dict[str, Any]:
    reply = await person.rest.put(f"/storage/multipart/upload/{id}/parts?part={number}", content=data)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def post(person: Person, path: str, status: int = 200, **fields: Any) -> dict[str, Any]:
    reply = await person.rest.post(f"/storage/{path}", json=fields)
    assert reply.status_code == status, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def get(person: Person, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
    reply = await person.rest.get(f"/storage/{path}", params=query)
    assert reply.status_code == status, reply.text
    return reply.json()  # type: ignore[no-any-return]


class TestConditions:
    async def test_of_many_who_want_nothing_there_one_wins(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        for turn, enabled in enumerate((False, True)):
            if enabled:
                await versioned(ada)
            replies = await asyncio.gather(*(
                ada.rest.put(f"/storage/assets/{turn}", content=b"%d" % number, headers={"if-none-match": "*"})
                for number in range(12)
            ))  # fmt: skip
            assert sorted(reply.status_code for reply in replies) == [201] + 11 * [412]
            [winner] = [number for number, reply in enumerate(replies) if reply.status_code == 201]
            assert await text(ada, f"assets/{turn}") == str(winner)
        assert await used(cloud, ada) == (2, sum(len(data) for data in cloud.objects.blobs.values()))
        assert len(cloud.objects.blobs) == 2

    async def test_what_is_replaced_is_what_is_meant(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        etag = (await put(ada, "assets/a", b"one"))["etag"]
        for headers, status in (
            ({"if-match": '"x"'}, 412), ({"if-none-match": "*"}, 412), ({"if-none-match": f'"{etag}"'}, 412),
            ({"if-match": f'"{etag}"'}, 201), ({"if-match": f'"{etag}"'}, 412), ({"if-match": "*"}, 201),
            ({"if-match": md5(b"two")}, 201), ({"if-none-match": '"x"'}, 201),
        ):  # fmt: skip
            reply = await ada.rest.put("/storage/assets/a", content=b"two", headers=headers)
            assert reply.status_code == status, headers
        for none in ("b", "gone"):
            if none == "gone":
                await versioned(ada)
                await put(ada, "assets/gone")
                await ada.rest.delete("/storage/assets/gone")
            reply = await ada.rest.put(f"/storage/assets/{none}", content=b"x", headers={"if-match": "*"})
            assert (reply.status_code, reply.json()["error"]["metadata"]["kind"]) == (404, "object")
        await put(ada, "assets/gone", **{"if-none-match": "*"})

    async def test_a_condition_that_cannot_hold_is_told_before_the_body_is_read(
        self, cloud: Cloud, ada: Person
    ) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        cloud.objects.room = 0
        await refused(sent(cloud, ada, b"x", if_none_match="*"), "PRECONDITION_FAILED")

    async def test_an_upload_in_parts_has_them_too(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        id = await begun(ada)
        await part(ada, id, 1, b"x")
        for fields, reason in (
            ({"if_none_match": "*"}, "PRECONDITION_FAILED"),
            ({"if_match": "x"}, "PRECONDITION_FAILED"),
        ):
            request = storage_pb2.CompleteMultipartUploadRequest(id=id, **fields)
            await refused(ask(cloud, ada, "CompleteMultipartUpload", request), reason)
        assert await text(ada, "assets/a") == "hello"
        assert len(cloud.objects.blobs) == 2
        request = storage_pb2.CompleteMultipartUploadRequest(id=id, if_match=md5(b"hello"))
        await ask(cloud, ada, "CompleteMultipartUpload", request)
        assert await text(ada, "assets/a") == "x"


class TestChecksums:
    @pytest.mark.parametrize("algorithm", RAW)
    async def test_one_is_made_and_kept(self, cloud: Cloud, ada: Person, algorithm: str) -> None:
        await bucket(ada)
        known = base64_of(bytes.fromhex(KNOWN[algorithm]))
        made = await sent(cloud, ada, b"1234", b"", b"56789", checksum_algorithm=algorithm)
        assert (made.checksum_algorithm, made.checksum_value) == (algorithm, known)
        large = b"x" * 3 * MIB
        made = await sent(cloud, ada, large, large, checksum_algorithm=algorithm)
        assert made.checksum_value == checksum(algorithm, large + large)
        assert (await sent(cloud, ada, b"", checksum_algorithm=algorithm)).checksum_value == checksum(algorithm, b"")

    @pytest.mark.parametrize("algorithm", RAW)
    async def test_one_that_is_wrong_keeps_nothing(self, cloud: Cloud, ada: Person, algorithm: str) -> None:
        await bucket(ada)
        right, wrong = checksum(algorithm, b"hello"), checksum(algorithm, b"hullo")
        await sent(cloud, ada, b"hel", b"lo", checksum_algorithm=algorithm, checksum_value=right)
        again = sent(cloud, ada, b"hel", b"lo", checksum_algorithm=algorithm, checksum_value=wrong)
        await refused(again, "CHECKSUM_MISMATCH", expected=wrong, received=right)
        assert await text(ada, "assets/a") == "hello"
        assert len(cloud.objects.blobs) == 1

    async def test_it_may_come_last(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        first = storage_pb2.UploadObjectRequest(bucket="assets", key="a", data=b"hel", checksum_algorithm="CRC32")
        for data, right in ((b"lo", True), (b"lu", False)):
            last = storage_pb2.UploadObjectRequest(data=data, checksum_value=checksum("CRC32", b"hello"))
            if right:
                await upload(cloud, ada, first, last)
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await upload(cloud, ada, first, last)
        assert await text(ada, "assets/a") == "hello"
        assert len(cloud.objects.blobs) == 1

    @pytest.mark.parametrize(("fields", "field"), [
        ({"checksum_algorithm": "CRC32", "checksum_value": "AAAA"}, "checksum_value"),
        ({"checksum_algorithm": "CRC32", "checksum_value": "!!!!"}, "checksum_value"),
        ({"checksum_algorithm": "SHA1", "checksum_value": "é"}, "checksum_value"),
        ({"checksum_value": "AAAAAA=="}, "checksum_algorithm"), ({"checksum_algorithm": "MD5"}, "checksum_algorithm"),
        ({"content_md5": "AAAA"}, "content_md5"), ({"content_md5": "nonsense"}, "content_md5"),
    ])  # fmt: skip
    async def test_what_is_none(self, cloud: Cloud, ada: Person, fields: dict[str, str], field: str) -> None:
        await bucket(ada)
        await refused(sent(cloud, ada, b"x", **fields), "INVALID_ARGUMENT", field=field)
        assert cloud.objects.blobs == {}

    async def test_an_md5(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        right = base64_of(hashlib.md5(b"hello").digest())
        await put(ada, "assets/a", b"hello", **{"content-md5": right})
        reply = await ada.rest.put("/storage/assets/a", content=b"hullo", headers={"content-md5": right})
        assert (reply.status_code, reply.json()["error"]["reason"]) == (409, "CHECKSUM_MISMATCH")
        reply = await ada.rest.put("/storage/assets/a", content=b"hello", headers={"content-md5": "x"})
        assert reply.status_code == 400
        assert list(cloud.objects.blobs.values()) == [b"hello"]

    async def test_it_is_told_to_who_asks(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await sent(cloud, ada, b"hello", checksum_algorithm="CRC32C")
        assert not [name for name in (await head(cloud, ada)).headers if "checksum" in name]
        headers = (await head(cloud, Asking(**vars(ada)))).headers
        assert headers["x-amz-checksum-crc32c"] == checksum("CRC32C", b"hello")
        assert headers["x-amz-checksum-type"] == "FULL_OBJECT"


class TestTold:
    """What is told along with an object."""

    async def test_it_comes_back(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        tags = storage_pb2.Tags(tags={"team": "a b", "ü": ""})
        made = await sent(cloud, ada, b"hello", properties=PROPERTIES, tags=tags, content_type="x/y")
        assert (made.content_type, made.HasField("tags"), made.HasField("properties")) == ("text/html", False, False)
        found = await ask(cloud, ada, "GetObject", pb.GetObjectRequest(bucket="assets", key="a"))
        assert (found.properties, found.tags) == (PROPERTIES, tags)
        reply = await ada.rest.get("/storage/assets/a")
        headers = {
            "content-type": "text/html", "content-disposition": "inline",
            "content-language": "de", "x-amz-meta-color": "blau", "x-amz-tagging-count": "2",
            "x-amz-meta-name": f"=?UTF-8?B?{base64_of('räk'.encode())}?=",
            "x-amz-meta-line": f"=?UTF-8?B?{base64_of(b'a' + bytes([13, 10]) + b'b: c')}?=",
        }  # fmt: skip
        assert dict(reply.headers) | headers == dict(reply.headers)
        assert "x-amz-version-id" not in reply.headers
        assert reply.headers["cache-control"] == "no-store, max-age=60", "ours and theirs"
        del headers["content-type"]
        assert (await head(cloud, ada)).headers.items() >= headers.items()

    async def test_an_upload_in_parts_keeps_it(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        begin = storage_pb2.BeginMultipartUploadRequest(
            bucket="assets", key="a", properties=PROPERTIES, tags={"tags": {"a": "b"}}, is_public=True
        )
        begun = await ask(cloud, ada, "BeginMultipartUpload", begin)
        assert (begun.properties, begun.tags.tags, begun.is_public) == (PROPERTIES, {"a": "b"}, True)
        await part(ada, begun.id, 1, b"x")
        await ask(cloud, ada, "CompleteMultipartUpload", storage_pb2.CompleteMultipartUploadRequest(id=begun.id))
        found = await ask(cloud, ada, "GetObject", pb.GetObjectRequest(bucket="assets", key="a"))
        assert (found.properties, found.tags.tags, found.is_public) == (PROPERTIES, {"a": "b"}, True)

    @pytest.mark.parametrize(("properties", "tags"), [
        ({"metadata": {"A": "b"}}, {}), ({"metadata": {"a\r\nb": "b"}}, {}), ({"metadata": {"a": "b" * 2048}}, {}),
        ({"metadata": {"a": "b" * 1500, "b": "b" * 1500}}, {}), ({"metadata": {"a": "\0"}}, {}),
        ({"headers": {"x-frame-options": "a"}}, {}), ({"headers": {"expires": "a\r\nb: c"}}, {}),
        ({"headers": {"expires": "é"}}, {}), ({"content_type": "a\nb"}, {}), ({}, {"a" * 129: ""}),
        ({}, {"a": "b" * 257}), ({}, {"": "b"}), ({}, {str(number): "" for number in range(11)}), ({}, {"a": "\0"}),
    ])  # fmt: skip
    async def test_what_is_too_much(
        self, cloud: Cloud, ada: Person, properties: dict[str, Any], tags: dict[str, str]
    ) -> None:
        await bucket(ada)
        asked = {"properties": storage_pb2.ObjectProperties(**properties), "tags": storage_pb2.Tags(tags=tags)}
        await refused(sent(cloud, ada, b"x", **asked), "INVALID_ARGUMENT")
        begin = storage_pb2.BeginMultipartUploadRequest(bucket="assets", key="a", **asked)
        await refused(ask(cloud, ada, "BeginMultipartUpload", begin), "INVALID_ARGUMENT")
        assert cloud.objects.blobs == {}
        await put(ada, "assets/a")
        copy = pb.CopyObjectRequest(bucket="assets", key="b", source_bucket="assets", source_key="a", **asked)
        await refused(ask(cloud, ada, "CopyObject", copy), "INVALID_ARGUMENT")
        assert len(cloud.objects.blobs) == 1

    async def test_the_head_alone_opens_no_blob(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a", b"0123456789")
        cloud.objects.blobs.clear()
        found = await head(cloud, ada, range="bytes=2-3")
        assert (found.status, found.headers["content-range"]) == (206, "bytes 2-3/10")
        assert (await head(cloud, ada)).headers["content-length"] == "10"
        reply = await ada.rest.head("/storage/assets/a")
        assert (reply.status_code, reply.headers["content-length"]) == (200, "10")
        assert (await ada.rest.get("/storage/assets/a?only_head=true")).status_code == 400

    async def test_unmodified_since(self, ada: Person) -> None:
        await bucket(ada)
        etag = f'"{(await put(ada, "assets/a"))["etag"]}"'
        modified = (await ada.rest.get("/storage/assets/a")).headers["last-modified"]
        past = "Mon, 01 Jan 2001 00:00:00 GMT"
        for headers, status in (
            ({"if-unmodified-since": modified}, 200), ({"if-unmodified-since": past}, 412),
            ({"if-unmodified-since": past, "if-match": etag}, 200), ({"if-unmodified-since": "nonsense"}, 200),
        ):  # fmt: skip
            assert (await ada.rest.get("/storage/assets/a", headers=headers)).status_code == status, headers

    async def test_tags_are_put_in_place_of_the_others(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        first, second = await put(ada, "assets/a", b"1"), await put(ada, "assets/a", b"2")
        for version, tags in ((first["version_id"], {"a": "1"}), ("", {"b": "2", "c": "3"}), ("", {"d": "4"})):
            body = {"key": "a", "version_id": version, "tags": {"tags": tags}}
            reply = await ada.rest.put("/storage/buckets/assets/tags", json=body)
            assert (reply.status_code, reply.json()["tags"]) == (200, {"tags": tags})
        for version, tags in ((first["version_id"], {"a": "1"}), (second["version_id"], {"d": "4"})):
            found = await get(ada, "buckets/assets/object", key="a", versionId=version)
            assert found["tags"] == {"tags": tags}
        for person, key, version in ((ada, "b", ""), (ada, "a", "7"), (bob, "a", "")):
            body = {"key": key, "version_id": version, "tags": {"tags": {}}}
            reply = await person.rest.put("/storage/buckets/assets/tags", json=body)
            assert reply.status_code == 404
        changed = await cloud.value("select after->'tags' from changes where type = 'UPDATED' and id = $1 "
                                    "order by sequence desc limit 1", second["id"])  # fmt: skip
        assert changed == {"d": "4"}

    async def test_everybody_may_read_what_is_public(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        assert await text(bob, "assets/a") == "404"
        body = {"key": "a", "is_public": True}
        assert (await bob.rest.put("/storage/buckets/assets/access", json=body)).status_code == 404
        assert (await ada.rest.put("/storage/buckets/assets/access", json=body)).json()["is_public"] is True
        assert await text(bob, "assets/a") == "hello"
        await get(bob, "buckets/assets/object", key="a")
        await get(bob, "buckets/assets/keys", 404)
        assert (await bob.rest.delete("/storage/assets/a")).status_code == 404
        await ada.rest.put("/storage/buckets/assets/access", json=body | {"is_public": False})
        assert await text(bob, "assets/a") == "404"
        assert (await ada.rest.put("/storage/buckets/assets/access", json={"key": "a"})).status_code == 400


class TestMarkers:
    async def test_what_is_hidden_says_so(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        made = await put(ada, "assets/a")
        reply = await ada.rest.get("/storage/assets/a")
        assert reply.headers["x-amz-version-id"] == made["version_id"]
        await ada.rest.delete("/storage/assets/a")
        marker = (await get(ada, "buckets/assets/versions"))["objects"][0]
        for query in ("", f"?versionId={marker['version_id']}"):
            reply = await ada.rest.get(f"/storage/assets/a{query}")
            metadata = reply.json()["error"]["metadata"]
            assert (reply.status_code, metadata["delete_marker"]) == (404, "true")
            assert metadata["version_id"] == marker["version_id"]
        absent = (await ada.rest.get("/storage/assets/b")).json()["error"]["metadata"]
        assert "delete_marker" not in absent
        await get(ada, "buckets/assets/object", 404, key="a")

    async def test_deleting_one_shows_what_it_hid(self, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        made = await put(ada, "assets/a")
        await ada.rest.delete("/storage/assets/a")
        marker = (await get(ada, "buckets/assets/versions"))["objects"][0]
        assert marker["delete_marker"] is True
        path = f"/storage/assets/a?versionId={marker['version_id']}"
        assert (await ada.rest.delete(path)).status_code == 204
        assert (await ada.rest.delete(path)).status_code == 404
        assert await text(ada, "assets/a") == "hello"
        [left] = (await get(ada, "buckets/assets/versions"))["objects"]
        assert (left["id"], left["is_latest"]) == (made["id"], True)


class TestDeletingMany:
    async def delete(self, person: Person, *wanted: Any) -> dict[str, Any]:
        objects = [each if isinstance(each, dict) else {"key": each} for each in wanted]
        return await post(person, "buckets/assets/delete", objects=objects)

    async def test_what_is_not_there_counts_as_deleted(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        for key in ("a", "b", "c"):
            await put(ada, f"assets/{key}")
        done = await self.delete(ada, "b", "none", "a", "a", {"key": "c", "version_id": "7"})
        assert [each["key"] for each in done["deleted"]] == ["b", "none", "a", "a", "c"]
        assert not any(each["delete_marker"] for each in done["deleted"]) and done["errors"] == []
        assert await keys(ada) == ["c"]
        await cloud.settle()
        assert len(cloud.objects.blobs) == 1
        assert await used(cloud, ada) == (1, 5)

    async def test_with_versions_they_are_hidden(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        made = await put(ada, "assets/a")
        done = (await self.delete(ada, "a", "none"))["deleted"]
        markers = {each["key"]: each["delete_marker_version_id"] for each in done}
        assert all(each["delete_marker"] for each in done) and len(set(markers.values())) == 2
        found = (await get(ada, "buckets/assets/versions"))["objects"]
        assert [(each["key"], each["version_id"], each["delete_marker"]) for each in found] == [
            ("a", markers["a"], True), ("a", made["version_id"], False), ("none", markers["none"], True)
        ]  # fmt: skip
        done = (await self.delete(ada, {"key": "a", "version_id": markers["a"]}))["deleted"]
        assert done == [{"key": "a", "version_id": markers["a"], "delete_marker": True,
                         "delete_marker_version_id": markers["a"]}]  # fmt: skip
        assert await text(ada, "assets/a") == "hello"
        everything = [{"key": each["key"], "version_id": each["version_id"]} for each in found]
        assert (await self.delete(ada, *everything))["errors"] == []
        await cloud.settle()
        assert cloud.objects.blobs == {}
        assert (await ada.rest.delete("/storage/buckets/assets")).status_code == 204

    async def test_suspended_the_one_without_a_version_goes(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        kept = await put(ada, "assets/a", b"kept")
        await versioned(ada, enabled=False)
        await put(ada, "assets/a", b"gone")
        [done] = (await self.delete(ada, "a"))["deleted"]
        assert (done["delete_marker"], done["delete_marker_version_id"]) == (True, "null")
        found = (await get(ada, "buckets/assets/versions"))["objects"]
        assert [each["version_id"] for each in found] == ["null", kept["version_id"]]
        await cloud.settle()
        assert list(cloud.objects.blobs.values()) == [b"kept"]

    async def test_what_the_caller_may_not_stays(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        for key in ("logs/1", "logs/secret", "other"):
            await put(ada, f"assets/{key}")
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        refused = await eve.rest.post("/storage/buckets/assets/delete", json={"objects": [{"key": "logs/1"}]})
        assert refused.status_code == 403
        arn = "arn:thecloud:storage:local:*:object/assets"
        policy = await ada.rest.post("/iam/policies", json={"name": "logs", "statements": [
            {"effect": "Allow", "action": ["storage:delete"], "resource": [f"{arn}/logs/*"]},
            {"effect": "Deny", "action": ["storage:delete"], "resource": [f"{arn}/logs/secret"]},
        ]})  # fmt: skip
        await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{policy.json()['id']}")
        done = await self.delete(eve, "logs/1", "logs/secret", "other")
        assert [each["key"] for each in done["deleted"]] == ["logs/1"]
        assert [(each["key"], each["reason"]) for each in done["errors"]] == [
            ("logs/secret", "PERMISSION_DENIED"), ("other", "PERMISSION_DENIED")
        ]  # fmt: skip
        assert sorted(await keys(ada)) == ["logs/secret", "other"]
        await post(bob, "buckets/assets/delete", 404, objects=[{"key": "other"}])

    async def test_two_at_once_and_who_puts_do_not_wait_for_each_other_forever(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        names = [f"{number:03}" for number in range(1000)]
        async with asyncio.timeout(60):
            await asyncio.gather(
                self.delete(ada, *names), self.delete(ada, *reversed(names)),
                *(put(ada, f"assets/{name}") for name in names[::20]),
            )  # fmt: skip
        assert (await used(cloud, ada))[0] == len(await keys(ada))

    async def test_at_most_a_thousand(self, ada: Person) -> None:
        await bucket(ada)
        await post(ada, "buckets/assets/delete", 400, objects=[])
        await post(ada, "buckets/assets/delete", 400, objects=[{"key": "a"}] * 1001)
