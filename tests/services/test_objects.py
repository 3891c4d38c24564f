"""What S3 does with objects besides storing and sending them, over REST and gRPC."""

import asyncio
import base64
import hashlib
import json
import zlib
from collections.abc import Awaitable
from typing import Any
from urllib.parse import quote
from uuid import UUID

import grpc
import pytest
from awscrt import checksums
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status
from thecloud.v1 import objects_pb2 as pb
from thecloud.v1 import options_pb2, storage_pb2

from server import db, errors, object_lists
from server.errors import ApiError
from tests.conftest import Cloud, Person
from tests.services.test_storage import bucket, keys, put, text, versioned
from tests.services.test_storage_failures import limit, upload, used

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


def by_key(listed: tuple[str, str]) -> bytes:
    return listed[0].encode()


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


class TestParts:
    async def whole(
        self, cloud: Cloud, person: Person, parts: dict[int, bytes], named: list[dict[str, Any]] | None = None,
        **fields: Any,
    ) -> storage_pb2.Object:  # fmt: skip
        request = storage_pb2.BeginMultipartUploadRequest(bucket="assets", key="a", **fields)
        id = (await ask(cloud, person, "BeginMultipartUpload", request)).id
        for number, data in parts.items():
            await part(person, id, number, data)
        complete = storage_pb2.CompleteMultipartUploadRequest(id=id)
        for each in named or ():
            complete.parts.add(**each)
        return await ask(cloud, person, "CompleteMultipartUpload", complete)  # type: ignore[no-any-return]

    async def test_the_etag_is_that_of_the_parts(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        made = await self.whole(cloud, ada, {1: b"a", 2: b"b"})
        together = hashlib.md5(hashlib.md5(b"a").digest() + hashlib.md5(b"b").digest()).hexdigest()
        assert (made.etag, made.parts_count) == (f"{together}-2", 2)
        assert (await ada.rest.get("/storage/assets/a")).headers["etag"] == f'"{together}-2"'

    @pytest.mark.parametrize("algorithm", RAW)
    async def test_the_checksum_is_that_of_the_parts(self, cloud: Cloud, ada: Person, algorithm: str) -> None:
        await bucket(ada)
        made = await self.whole(cloud, ada, {1: b"1234", 2: b"5678", 7: b"9"}, checksum_algorithm=algorithm)
        raw = b"".join(RAW[algorithm](data) for data in (b"1234", b"5678", b"9"))
        expected = f"{checksum(algorithm, raw)}-3"
        if algorithm == "CRC64NVME":
            expected = base64_of(bytes.fromhex(KNOWN[algorithm]))
        assert (made.checksum_algorithm, made.checksum_value) == (algorithm, expected)

    async def test_a_part_has_the_checksum_of_its_upload(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        request = storage_pb2.BeginMultipartUploadRequest(bucket="assets", key="a", checksum_algorithm="SHA1")
        id = (await ask(cloud, ada, "BeginMultipartUpload", request)).id
        assert (await part(ada, id, 1, b"x"))["checksum_value"] == checksum("SHA1", b"x")
        for fields, reason in (
            ({"checksum_algorithm": "CRC32"}, "INVALID_ARGUMENT"), ({"content_md5": "x"}, "INVALID_ARGUMENT"),
            ({"checksum_value": checksum("SHA1", b"y")}, "CHECKSUM_MISMATCH"),
            ({"content_md5": base64_of(hashlib.md5(b"y").digest())}, "CHECKSUM_MISMATCH"),
        ):  # fmt: skip
            wrong = storage_pb2.UploadPartRequest(id=id, part=2, data=b"x", **fields)
            await refused(ask(cloud, ada, "UploadPart", wrong), reason)
        assert len(cloud.objects.blobs) == 1

    async def test_only_the_parts_that_are_named(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        large = b"l" * 5 * MIB
        parts = {1: large, 2: b"dropped", 3: b"x"}
        named = [{"part_number": 1, "etag": f'"{md5(large)}"'},
                 {"part_number": 3, "etag": hashlib.sha256(b"x").hexdigest()}]  # fmt: skip
        made = await self.whole(cloud, ada, parts, named)
        assert (made.size_bytes, made.parts_count) == (5 * MIB + 1, 2)
        await cloud.settle()
        assert list(cloud.objects.blobs.values()) == [large + b"x"]
        assert await used(cloud, ada) == (1, 5 * MIB + 1)

    @pytest.mark.parametrize(("named", "problem"), [
        ([{"part_number": 2}, {"part_number": 1}], "part_order"), ([{"part_number": 1}] * 2, "part_order"),
        ([{"part_number": 1}, {"part_number": 4}], "part_missing"),
        ([{"part_number": 1, "etag": md5(b"b")}], "part_missing"),
        ([{"part_number": 1, "checksum_value": "AAAAAA=="}], "part_missing"),
        ([{"part_number": 1}, {"part_number": 2}], "part_too_small"),
    ])  # fmt: skip
    async def test_what_does_not_fit(
        self, cloud: Cloud, ada: Person, named: list[dict[str, Any]], problem: str
    ) -> None:
        await bucket(ada)
        await refused(self.whole(cloud, ada, {1: b"a", 2: b"b"}, named), "INVALID_ARGUMENT", problem=problem)
        assert sorted(cloud.objects.blobs.values()) == [b"a", b"b"], "the upload goes on"

    async def test_completing_twice(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        id = await begun(ada)
        await part(ada, id, 1, b"a")
        request = storage_pb2.CompleteMultipartUploadRequest(id=id)
        request.parts.add(part_number=1)
        await ask(cloud, ada, "CompleteMultipartUpload", request)
        await refused(ask(cloud, ada, "CompleteMultipartUpload", request), "NOT_FOUND", kind="multipart_upload")
        assert (await ada.rest.post(f"/storage/multipart/complete/{id}?parts=1")).status_code in (400, 404)

    async def test_one_part_is_downloaded(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await self.whole(cloud, ada, {1: b"abc", 5: b"defg", 6: b"h"})
        for number, data, content_range in ((1, b"abc", "bytes 0-2/8"), (2, b"defg", "bytes 3-6/8"),
                                            (3, b"h", "bytes 7-7/8")):  # fmt: skip
            reply = await ada.rest.get(f"/storage/assets/a?part_number={number}")
            assert (reply.status_code, reply.content) == (206, data)
            assert reply.headers["content-range"] == content_range
            assert reply.headers["x-amz-mp-parts-count"] == "3"
        assert (await ada.rest.get("/storage/assets/a?part_number=4")).status_code == 416
        both = await ada.rest.get("/storage/assets/a?part_number=1", headers={"range": "bytes=0-1"})
        assert both.status_code == 400
        await put(ada, "assets/b", b"whole")
        assert (await ada.rest.get("/storage/assets/b?part_number=1")).content == b"whole"
        assert (await ada.rest.get("/storage/assets/b?part_number=2")).status_code == 416
        await put(ada, "assets/c", b"")
        assert (await ada.rest.get("/storage/assets/c?part_number=1")).status_code == 200

    async def test_they_are_listed(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        id = await begun(ada)
        for number in (3, 1, 2):
            await part(ada, id, number, b"x" * number)
        first = await get(ada, f"multipart/{id}/parts", page_size=2)
        assert [(each["part_number"], each["md5"]) for each in first["parts"]] == [(1, md5(b"x")), (2, md5(b"xx"))]
        assert (first["next_after"], first["upload"]["key"]) == (2, "a")
        last = await get(ada, f"multipart/{id}/parts", after=2)
        assert ([each["part_number"] for each in last["parts"]], last["next_after"]) == ([3], 0)
        await get(bob, f"multipart/{id}/parts", 404)

    async def test_uploads_are_listed_in_the_order_of_their_keys(self, ada: Person, bob: Person) -> None:
        await bucket(ada)
        ids = [await begun(ada, f"assets/{key}") for key in ("b/2", "a", "b/1", "a", "c")]
        whole = await get(ada, "buckets/assets/uploads")
        assert [each["key"] for each in whole["uploads"]] == ["a", "a", "b/1", "b/2", "c"]
        found: list[str] = []
        place: dict[str, Any] = {}
        while True:
            page = await get(ada, "buckets/assets/uploads", page_size=1, **place)
            found += [each["id"] for each in page["uploads"]]
            if not page["next_after_key"]:
                break
            place = {"after_key": page["next_after_key"], "after_id": page["next_after_id"]}
        assert found == [each["id"] for each in whole["uploads"]] and set(found) == set(ids)
        rolled = await get(ada, "buckets/assets/uploads", delimiter="/")
        assert ([each["key"] for each in rolled["uploads"]], rolled["common_prefixes"]) == (["a", "a", "c"], ["b/"])
        await get(ada, "buckets/assets/uploads", 400, after_key="a", after_id="x")
        await get(bob, "buckets/assets/uploads", 404)


class TestTold:
    """What is told along with an object."""

    PROPERTIES = storage_pb2.ObjectProperties(
        content_type="text/html", metadata={"color": "blau", "name": "räk", "line": "a\r\nb: c"},
        headers={"cache-control": "max-age=60", "content-disposition": "inline", "content-language": "de"},
    )  # fmt: skip

    async def test_it_comes_back(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        tags = storage_pb2.Tags(tags={"team": "a b", "ü": ""})
        made = await sent(cloud, ada, b"hello", properties=self.PROPERTIES, tags=tags, content_type="x/y")
        assert (made.content_type, made.HasField("tags"), made.HasField("properties")) == ("text/html", False, False)
        found = await ask(cloud, ada, "GetObject", pb.GetObjectRequest(bucket="assets", key="a"))
        assert (found.properties, found.tags) == (self.PROPERTIES, tags)
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
            bucket="assets", key="a", properties=self.PROPERTIES, tags={"tags": {"a": "b"}}, is_public=True
        )
        begun = await ask(cloud, ada, "BeginMultipartUpload", begin)
        assert (begun.properties, begun.tags.tags, begun.is_public) == (self.PROPERTIES, {"a": "b"}, True)
        await part(ada, begun.id, 1, b"x")
        await ask(cloud, ada, "CompleteMultipartUpload", storage_pb2.CompleteMultipartUploadRequest(id=begun.id))
        found = await ask(cloud, ada, "GetObject", pb.GetObjectRequest(bucket="assets", key="a"))
        assert (found.properties, found.tags.tags, found.is_public) == (self.PROPERTIES, {"a": "b"}, True)

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


class TestLists:
    async def listed(self, person: Person, path: str, place: dict[str, str], **query: Any) -> tuple[list[Any], int]:
        """What all pages have, in order, and how many pages there are. `place` says where a page's fields go."""
        found: list[Any] = []
        pages, more = 0, dict[str, Any]()
        while True:
            page = await get(person, f"buckets/assets/{path}", **(query | more))
            objects = [(each["key"], each["id"]) for each in page["objects"]]
            found += sorted([*objects, *((prefix, "") for prefix in page["common_prefixes"])], key=by_key)
            pages += 1
            more = {ours: page[theirs] for ours, theirs in place.items() if page[theirs]}
            if not more:
                return found, pages

    async def keys(self, person: Person, **query: Any) -> list[str]:
        found, _ = await self.listed(person, "keys", {"after": "next_after"}, **query)
        return [key for key, _ in found]

    async def test_folders_are_listed_once(self, ada: Person) -> None:
        await bucket(ada)
        last = "\U0010ffff"
        names = ["a", "a/", "a/1", "a/2/3", "a0", "b//c", "b/x", "c", "é/1", f"{last}/1", f"{last}{last}"]
        for name in names:
            await put(ada, f"assets/{quote(name)}")
        beyond_a = ["a0", "b/", "c", "é/", f"{last}/", f"{last}{last}"]
        expected: list[tuple[dict[str, str], list[str]]] = [
            ({}, names), ({"delimiter": "/"}, ["a", "a/", *beyond_a]), ({"prefix": "a"}, names[:5]),
            ({"prefix": "a/", "delimiter": "/"}, ["a/", "a/1", "a/2/"]), ({"prefix": "x"}, []),
            ({"prefix": "b/", "delimiter": "/"}, ["b//", "b/x"]), ({"after": "c"}, names[8:]),
            ({"delimiter": "/", "after": "a/"}, beyond_a), ({"delimiter": "/", "after": "a/1"}, beyond_a),
            ({"delimiter": last}, [*names[:9], last]), ({"delimiter": "//"}, [*names[:5], "b//", *names[6:]]),
            ({"prefix": last}, names[9:]), ({"prefix": "a", "after": "0"}, names[:5]),
            ({"prefix": "a", "after": "b"}, []), ({"delimiter": "none"}, names),
        ]  # fmt: skip
        for query, wanted in expected:
            for size in (0, 1, 2, 3):
                assert await self.keys(ada, page_size=size, **query) == wanted, (query, size)
        for query in ({"prefix": "\0"}, {"after": "\0"}, {"delimiter": "\0"}, {"prefix": "\0", "delimiter": "/"}):
            await get(ada, "buckets/assets/keys", 400, **query)

    async def test_versions_come_newest_first_with_markers(self, ada: Person) -> None:
        await bucket(ada)
        for name in ("a", "f/1"):
            await put(ada, f"assets/{name}")
        await versioned(ada)
        for name in ("a", "a", "f/1", "f/2", "b", "c"):
            await put(ada, f"assets/{name}")
        await ada.rest.delete("/storage/assets/a")
        whole = (await get(ada, "buckets/assets/versions"))["objects"]
        assert [each["key"] for each in whole] == ["a"] * 4 + ["b", "c", "f/1", "f/1", "f/2"]
        assert [each["delete_marker"] for each in whole] == [True] + [False] * 8
        assert [each["is_latest"] for each in whole[:5]] == [True, False, False, False, True]
        assert whole[3]["version_id"] == "null"
        place = {"after_key": "next_after_key", "after_version_id": "next_after_version_id"}
        ids = [(each["key"], each["id"]) for each in whole]
        for size in (1, 2, 3, 4, 5, 9, 10):
            assert [each[0] for each in ids] == sorted(each[0] for each in ids)
            found, pages = await self.listed(ada, "versions", place, page_size=size)
            assert (found, pages) == (ids, -(-len(ids) // size))
            found, _ = await self.listed(ada, "versions", place, page_size=size, delimiter="/")
            assert found == [*ids[:6], ("f/", "")]
        found, _ = await self.listed(ada, "versions", place, page_size=1, prefix="f/", delimiter="/")
        assert found == ids[6:]
        await get(ada, "buckets/assets/versions", 400, after_version_id="null")
        gone = await get(ada, "buckets/assets/versions", after_key="a", after_version_id="7")
        assert len(gone["objects"]) == len(whole), "after one that has gone, all of the key"
        after = await get(ada, "buckets/assets/versions", after_key="a")
        assert [each["key"] for each in after["objects"]] == [each["key"] for each in whole[4:]]
        assert await keys(ada) == ["c", "b", "f/2", "f/1"]
        assert len((await ada.rest.get("/storage/versions/assets/a")).json()) == 3, "documented without markers"

    async def test_only_what_the_caller_may_read(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        for name in ("logs/1", "secret/1", "top"):
            await put(ada, f"assets/{name}")
            await begun(ada, f"assets/{name}")
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        policy = await ada.rest.post("/iam/policies", json={"name": "p", "statements": [
            {"effect": "Deny", "action": ["storage:read"], "resource": [
                f"arn:thecloud:storage:local:*:{kind}/assets/secret*" for kind in ("object", "multipart-upload")
            ]},
        ]})  # fmt: skip
        assert policy.status_code == 201, policy.text
        await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{policy.json()['id']}")
        for path, field in (("keys", "objects"), ("versions", "objects"), ("uploads", "uploads")):
            page = await get(eve, f"buckets/assets/{path}")
            assert [each["key"] for each in page[field]] == ["logs/1", "top"], path
            page = await get(eve, f"buckets/assets/{path}", delimiter="/")
            assert ([each["key"] for each in page[field]], page["common_prefixes"]) == (["top"], ["logs/"])
            await get(bob, f"buckets/assets/{path}", 404)
        hidden = [each["id"] for each in (await get(ada, "buckets/assets/uploads"))["uploads"]][1]
        await get(eve, f"multipart/{hidden}/parts", 403)

    async def test_what_a_page_costs_does_not_grow_with_what_is_below_a_folder(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        await put(ada, "assets/template")
        await cloud.value(
            "insert into objects select (jsonb_populate_record(o, jsonb_build_object('id', gen_random_uuid(), "
            "'key', 'folder-' || n % 3 || '/' || n))).* from objects o, generate_series(1, 10000) n"
        )
        await cloud.value("analyze objects")
        for path in ("keys", "versions"):
            page = await get(ada, f"buckets/assets/{path}", delimiter="/")
            assert page["common_prefixes"] == ["folder-0/", "folder-1/", "folder-2/"]
            assert [each["key"] for each in page["objects"]] == ["template"]
        [made] = (await ada.rest.get("/storage/buckets")).json()
        asked = object_lists.Asked(bucket_id=UUID(made["id"]), prefix="", delimiter="/", after="", size=1000)
        for statement in (object_lists._KEYS, object_lists._VERSIONS):
            sql, arguments = db.sql(statement, object_lists._bound(asked))
            explained = await cloud.value(f"explain (analyze, buffers, format json) {sql}", *arguments)
            whole = json.loads(explained)[0]["Plan"]
            assert whole["Shared Hit Blocks"] + whole["Shared Read Blocks"] < 150, explained
            assert "Seq Scan" not in explained


class TestCopies:
    async def copied(self, person: Person, status: int = 200, **fields: Any) -> dict[str, Any]:
        body = {"key": "b", "source_bucket": "assets", "source_key": "a"} | fields
        return await post(person, f"buckets/{body.pop('bucket', 'assets')}/copy", status, **body)

    async def test_it_has_what_the_source_has(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await bucket(ada, "others")
        tags = storage_pb2.Tags(tags={"a": "b"})
        source = await sent(cloud, ada, b"hello", properties=TestTold.PROPERTIES, tags=tags,
                            checksum_algorithm="CRC32", is_public=True)  # fmt: skip
        made = await self.copied(ada, bucket="others", key="deep/b")
        assert made["id"] != source.id and made["is_public"] is False
        found = await ask(cloud, ada, "GetObject", pb.GetObjectRequest(bucket="others", key="deep/b"))
        assert (found.properties, found.tags) == (TestTold.PROPERTIES, tags)
        assert (found.etag, found.checksum, found.checksum_value) == (md5(b"hello"), source.checksum,
                                                                      checksum("CRC32", b"hello"))  # fmt: skip
        await ada.rest.delete("/storage/assets/a")
        await cloud.settle()
        assert await text(ada, "others/deep/b") == "hello"
        assert await used(cloud, ada) == (1, 5)

    async def test_it_has_what_was_asked_for(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await sent(cloud, ada, b"hello", properties=TestTold.PROPERTIES, tags=storage_pb2.Tags(tags={"a": "b"}))
        properties = {"content_type": "x/y", "metadata": {"k": "v"}, "headers": {}}
        await self.copied(ada, properties=properties, tags={"tags": {"c": "d"}}, is_public=True,
                          checksum_algorithm="SHA1")  # fmt: skip
        found = await get(ada, "buckets/assets/object", key="b")
        assert (found["properties"], found["tags"]) == (properties, {"tags": {"c": "d"}})
        assert (found["is_public"], found["checksum_value"]) == (True, checksum("SHA1", b"hello"))

    async def test_a_checksum_of_parts_becomes_one_of_the_whole(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await TestParts().whole(cloud, ada, {1: b"1234", 2: b"56789"}, checksum_algorithm="CRC32")
        made = await self.copied(ada)
        assert (made["checksum_value"], made["etag"]) == (checksum("CRC32", b"123456789"), md5(b"123456789"))
        assert made["parts_count"] == 0

    async def test_an_object_in_its_own_place(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        first, second = await put(ada, "assets/a", b"1"), await put(ada, "assets/a", b"2")
        assert (await self.copied(ada, 400, key="a"))["error"]["reason"] == "INVALID_ARGUMENT"
        await self.copied(ada, 400, key="a", source_version_id=second["version_id"])
        made = await self.copied(ada, key="a", properties={"content_type": "x/y"})
        assert (made["content_type"], await text(ada, "assets/a")) == ("x/y", "2")
        await self.copied(ada, key="a", source_version_id=first["version_id"])
        assert await text(ada, "assets/a") == "1"
        await cloud.settle()
        assert len(cloud.objects.blobs) == 4

    async def test_conditions(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        etag = (await put(ada, "assets/a"))["etag"]
        await put(ada, "assets/there", b"there")
        modified = (await ada.rest.get("/storage/assets/a")).headers["last-modified"]
        past = "Mon, 01 Jan 2001 00:00:00 GMT"
        for fields, status in (
            ({"source_if_match": etag}, 200), ({"source_if_match": "x"}, 412), ({"source_if_none_match": etag}, 412),
            ({"source_if_none_match": "x"}, 200), ({"source_if_modified_since": past}, 200),
            ({"source_if_modified_since": modified}, 412), ({"source_if_unmodified_since": past}, 412),
            ({"source_if_unmodified_since": past, "source_if_match": etag}, 200),
            ({"key": "there", "if_none_match": "*"}, 412), ({"key": "there", "if_match": "x"}, 412),
            ({"key": "none", "if_match": "*"}, 404), ({"key": "new", "if_none_match": "*"}, 200),
            ({"key": "there", "if_match": md5(b"there")}, 200),
        ):  # fmt: skip
            await self.copied(ada, status, **fields)
        await cloud.settle()
        assert len(cloud.objects.blobs) == len(await keys(ada)) == 4

    async def test_what_there_is_not(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        await put(ada, "assets/a")
        await bucket(bob, "bobs")
        await put(bob, "bobs/b", b"bob's")
        await put(ada, "assets/hidden")
        await ada.rest.delete("/storage/assets/hidden")
        for fields in (
            {"source_key": "none"}, {"source_bucket": "none"}, {"source_version_id": "7"}, {"bucket": "bobs"},
            {"source_bucket": "bobs", "source_key": "b"}, {"bucket": "none"},
        ):  # fmt: skip
            await self.copied(ada, 404, **fields)
        hidden = await self.copied(ada, 404, source_key="hidden")
        assert hidden["error"]["metadata"]["delete_marker"] == "true"
        assert len(cloud.objects.blobs) == 3

    async def test_out_of_what_is_public(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        await bucket(bob, "open", is_public=True)
        await put(bob, "open/a", b"open")
        await bucket(bob, "bobs")
        await put(bob, "bobs/a", b"one")
        await bob.rest.put("/storage/buckets/bobs/access", json={"key": "a", "is_public": True})
        for name, content in (("open", "open"), ("bobs", "one")):
            made = await self.copied(ada, source_bucket=name)
            assert (made["tenant_id"], await text(ada, "assets/b")) == (str(ada.tenant_id), content)

    async def test_only_by_who_may_read_the_source(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        for key in ("a", "secret"):
            await put(ada, f"assets/{key}")
        id = await begun(ada)
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="developer")
        policy = await ada.rest.post("/iam/policies", json={"name": "p", "statements": [
            {"effect": "Deny", "action": ["storage:read"],
             "resource": ["arn:thecloud:storage:local:*:object/assets/secret"]},
        ]})  # fmt: skip
        await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{policy.json()['id']}")
        await self.copied(eve)
        await self.copied(eve, 403, source_key="secret")
        await post(eve, f"multipart/{id}/copy", 403, part=1, source_bucket="assets", source_key="secret")
        assert len(cloud.objects.blobs) == 3

    async def test_the_quota_counts(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(bob, "open", is_public=True)
        await put(bob, "open/a", b"x" * MIB)
        await bucket(ada)
        id = await begun(ada)
        await limit(cloud, ada, "object_gb", 0)
        await self.copied(ada, 403, source_bucket="open")
        await post(ada, f"multipart/{id}/copy", 403, part=1, source_bucket="open", source_key="a")
        await limit(cloud, ada, "object_gb", 1)
        await limit(cloud, ada, "objects", 0)
        await self.copied(ada, 403, source_bucket="open")
        assert len(cloud.objects.blobs) == 1

    async def test_a_source_that_goes_meanwhile(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        id = await begun(ada)
        cloud.objects.blobs.clear()
        await self.copied(ada, 503)
        await self.copied(ada, 503, checksum_algorithm="CRC32")
        await post(ada, f"multipart/{id}/copy", 503, part=1, source_bucket="assets", source_key="a")
        assert cloud.objects.blobs == {}

    async def test_ranges_become_parts(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a", b"0123456789")
        request = storage_pb2.BeginMultipartUploadRequest(bucket="assets", key="b", checksum_algorithm="CRC32")
        id = (await ask(cloud, ada, "BeginMultipartUpload", request)).id
        source = {"source_bucket": "assets", "source_key": "a"}
        for number, (wanted, data) in enumerate(
            ((("bytes=0-0", b"0"), ("bytes=5-9", b"56789"), ("", b"0123456789"))), start=1
        ):
            made = await post(ada, f"multipart/{id}/copy", part=number, source_range=wanted, **source)
            assert (made["md5"], made["checksum_value"]) == (md5(data), checksum("CRC32", data))
        for wanted, status in (("bytes=5-10", 416), ("bytes=10-10", 416), ("bytes=5-", 400), ("bytes=-5", 400),
                               ("bytes=5-4", 400), ("lines=1-2", 400)):  # fmt: skip
            await post(ada, f"multipart/{id}/copy", status, part=9, source_range=wanted, **source)
        await post(ada, f"multipart/{id}/copy", 412, part=9, source_if_match="x", **source)
        assert (await ada.rest.post(f"/storage/multipart/complete/{id}")).status_code == 200
        assert await text(ada, "assets/b") == "0567890123456789"
        await cloud.settle()
        assert len(cloud.objects.blobs) == 2
        assert await used(cloud, ada) == (2, 26)
