"""Objects that are made of parts, and of other objects."""

import hashlib
from typing import Any

import pytest
from thecloud.v1 import objects_pb2 as pb
from thecloud.v1 import storage_pb2

from tests.conftest import Cloud, Person
from tests.services.test_objects import (
    KNOWN,
    MIB,
    PROPERTIES,
    RAW,
    ask,
    base64_of,
    begun,
    checksum,
    get,
    md5,
    part,
    post,
    refused,
    sent,
)
from tests.services.test_storage import bucket, keys, put, text, versioned
from tests.services.test_storage_failures import limit, used


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


class TestCopies:
    async def copied(self, person: Person, status: int = 200, **fields: Any) -> dict[str, Any]:
        body = {"key": "b", "source_bucket": "assets", "source_key": "a"} | fields
        return await post(person, f"buckets/{body.pop('bucket', 'assets')}/copy", status, **body)

    async def test_it_has_what_the_source_has(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await bucket(ada, "others")
        tags = storage_pb2.Tags(tags={"a": "b"})
        source = await sent(cloud, ada, b"hello", properties=PROPERTIES, tags=tags,
                            checksum_algorithm="CRC32", is_public=True)  # fmt: skip
        made = await self.copied(ada, bucket="others", key="deep/b")
        assert made["id"] != source.id and made["is_public"] is False
        found = await ask(cloud, ada, "GetObject", pb.GetObjectRequest(bucket="others", key="deep/b"))
        assert (found.properties, found.tags) == (PROPERTIES, tags)
        assert (found.etag, found.checksum, found.checksum_value) == (md5(b"hello"), source.checksum,
                                                                      checksum("CRC32", b"hello"))  # fmt: skip
        await ada.rest.delete("/storage/assets/a")
        await cloud.settle()
        assert await text(ada, "others/deep/b") == "hello"
        assert await used(cloud, ada) == (1, 5)

    async def test_it_has_what_was_asked_for(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await sent(cloud, ada, b"hello", properties=PROPERTIES, tags=storage_pb2.Tags(tags={"a": "b"}))
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
