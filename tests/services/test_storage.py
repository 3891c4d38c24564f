"""Object storage over REST, with a store in memory."""

import hashlib
from typing import Any
from urllib.parse import quote

import pytest

from server import object_rows
from server.services import storage_lives, storage_rules
from tests.conftest import Cloud, Person


async def bucket(person: Person, name: str = "assets", **fields: Any) -> dict[str, Any]:
    reply = await person.rest.post("/storage/buckets", json={"name": name} | fields)
    assert reply.status_code == 201, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def put(person: Person, path: str, data: bytes = b"hello", **headers: str) -> dict[str, Any]:
    reply = await person.rest.put(f"/storage/{path}", content=data, headers=headers)
    assert reply.status_code == 201, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def versioned(person: Person, name: str = "assets", *, enabled: bool = True) -> None:
    reply = await person.rest.patch(f"/storage/buckets/{name}/versioning", json={"enabled": enabled})
    assert (reply.status_code, reply.json()) == (200, {"status": "updated"})


async def keys(person: Person, name: str = "assets", **query: Any) -> list[str]:
    reply = await person.rest.get(f"/storage/{name}", params=query)
    assert reply.status_code == 200, reply.text
    return [each["key"] for each in reply.json()]


async def text(person: Person, path: str) -> str:
    reply = await person.rest.get(f"/storage/{path}")
    return reply.text if reply.status_code == 200 else str(reply.status_code)


class TestBuckets:
    async def test_one_is_made_listed_and_deleted(self, ada: Person) -> None:
        made = await bucket(ada, "my-assets", is_public=False)
        assert made["name"] == "my-assets"
        assert made["is_public"] is made["versioning_enabled"] is made["encryption_enabled"] is False
        assert made["tenant_id"] == str(ada.tenant_id)
        assert (await ada.rest.get("/storage/buckets")).json() == [made]
        gone = await ada.rest.delete("/storage/buckets/my-assets")
        assert (gone.status_code, gone.content) == (204, b"")
        assert (await ada.rest.get("/storage/buckets")).json() == []
        assert (await ada.rest.delete("/storage/buckets/my-assets")).status_code == 404

    @pytest.mark.parametrize("name", [
        "ab", "a" * 64, "Upper", "under_score", "-a-", "a-", ".ab", "ab.", "a..b", "a.-b", "192.168.1.1", "a b", "ä-b",
        "a/b", "", "buckets", "cluster", "versions", "multipart", "presign", "presigned", "lifecycle",
    ])  # fmt: skip
    async def test_names_that_are_none(self, ada: Person, name: str) -> None:
        assert (await ada.rest.post("/storage/buckets", json={"name": name})).status_code == 400

    @pytest.mark.parametrize("name", ["abc", "a" * 63, "my.bucket-1", "1a2", "a--b", "256.1.1.1.example"])
    async def test_names_that_are(self, ada: Person, name: str) -> None:
        await bucket(ada, name)

    async def test_a_name_is_unique_in_the_cloud(self, ada: Person, bob: Person) -> None:
        await bucket(ada)
        reply = await bob.rest.post("/storage/buckets", json={"name": "assets"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "CONFLICT")

    async def test_one_that_is_not_empty_goes_only_by_force(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a.txt")
        for query in ("", "?force=false"):
            reply = await ada.rest.delete(f"/storage/buckets/assets{query}")
            assert (reply.status_code, reply.json()["error"]["code"]) == (409, "CONFLICT")
        upload = (await ada.rest.post("/storage/multipart/init/assets/b")).json()
        await ada.rest.put(f"/storage/multipart/upload/{upload['id']}/parts?part=1", content=b"x")
        await ada.rest.post("/storage/buckets/assets/lifecycle", json={"prefix": "a", "expiration_days": 1})
        assert (await ada.rest.delete("/storage/buckets/assets?force=true")).status_code == 204
        assert await text(ada, "assets/a.txt") == "404"
        await bucket(ada)  # the name is free at once
        assert await keys(ada) == []
        await cloud.settle()
        assert cloud.objects.blobs == {}
        assert await cloud.value("select count(*) from buckets") == 1
        assert await cloud.value("select (objects, bytes)::text from storage_usage") == "(0,0)"

    async def test_versioning_wants_an_answer(self, ada: Person) -> None:
        await bucket(ada)
        assert (await ada.rest.patch("/storage/buckets/assets/versioning", json={})).status_code == 400
        await versioned(ada)
        [shown] = (await ada.rest.get("/storage/buckets")).json()
        assert (shown["versioning_enabled"], shown["versioning"]) == (True, "ENABLED")
        await versioned(ada, enabled=False)
        [shown] = (await ada.rest.get("/storage/buckets")).json()
        assert (shown["versioning_enabled"], shown["versioning"]) == (False, "SUSPENDED")


class TestObjects:
    async def test_one_is_uploaded_as_documented(self, ada: Person) -> None:
        await bucket(ada)
        made = await put(ada, "assets/docs/test.txt", b"hello")
        assert made["id"] and made["created_at"].endswith("Z")
        expected = {
            "bucket": "assets", "key": "docs/test.txt", "size_bytes": 5, "content_type": "text/plain",
            "checksum": hashlib.sha256(b"hello").hexdigest(), "upload_status": "AVAILABLE", "version_id": "null",
            "is_latest": True, "etag": hashlib.md5(b"hello", usedforsecurity=False).hexdigest(),
            "arn": f"arn:thecloud:storage:local:{ada.tenant_id}:object/assets/docs/test.txt",
        }  # fmt: skip
        assert made | expected == made
        assert (await ada.rest.get("/storage/assets")).json() == [made]
        assert (await ada.rest.get("/storage/versions/assets/docs/test.txt")).json() == [made]

    async def test_one_is_downloaded_with_its_headers(self, ada: Person) -> None:
        await bucket(ada)
        path = "assets/" + quote('docs/räk"ning.html')
        made = await put(ada, path, b"<html>hello", **{"content-type": "text/html"})
        reply = await ada.rest.get(f"/storage/{path}")
        assert (reply.status_code, reply.content) == (200, b"<html>hello")
        headers = {
            "content-type": "text/html", "content-length": "11", "etag": f'"{made["etag"]}"', "accept-ranges": "bytes",
            "content-disposition": "attachment; filename=\"r_k_ning.html\"; filename*=UTF-8''r%C3%A4k%22ning.html",
            "x-content-type-options": "nosniff",
        }  # fmt: skip
        assert dict(reply.headers) | headers == dict(reply.headers)
        assert reply.headers["last-modified"].endswith(" GMT")
        assert len(reply.headers.get_list("x-content-type-options")) == 1
        head = await ada.rest.head(f"/storage/{path}")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "11")
        assert (await ada.rest.head("/storage/assets/none")).status_code == 404

    @pytest.mark.parametrize("key", [
        "a b", "a%2Fb", "%", "%00x", "ünï©ode/鍵", "a//b", "/leading", "trailing/", "//", "../../etc/passwd", "a/../b",
        ".", "..", "a?b#c", "a+b&c=d", "\n", "'; drop table objects; --", "\U0010ffff", "k" * 1024, "buckets",
    ])  # fmt: skip
    async def test_a_key_is_any_text(self, ada: Person, key: str) -> None:
        await bucket(ada)
        path = f"assets/{quote(key, safe='/').replace('.', '%2E')}"
        assert (await put(ada, path, key.encode()))["key"] == key
        assert await text(ada, path) == key
        assert await keys(ada) == [key]
        assert await keys(ada, prefix=key[:1]) == [key]
        assert (await ada.rest.delete(f"/storage/{path}")).status_code == 204
        assert await keys(ada) == []

    @pytest.mark.parametrize("path", ["assets/", "assets/%00", "assets/a%00b", f"assets/{'k' * 1025}", "assets/%ff"])
    async def test_what_is_no_key(self, cloud: Cloud, ada: Person, path: str) -> None:
        await bucket(ada)
        assert (await ada.rest.put(f"/storage/{path}", content=b"x")).status_code == 400
        assert cloud.objects.blobs == {}

    async def test_a_wrong_checksum_keeps_nothing(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        right = hashlib.sha256(b"hello").hexdigest()
        await put(ada, "assets/a", b"hello", **{"x-content-sha256": right.upper()})
        reply = await ada.rest.put("/storage/assets/a", content=b"hullo", headers={"x-content-sha256": right})
        assert (reply.status_code, reply.json()["error"]["reason"]) == (409, "CHECKSUM_MISMATCH")
        assert await text(ada, "assets/a") == "hello"
        assert list(cloud.objects.blobs.values()) == [b"hello"]
        reply = await ada.rest.put("/storage/assets/a", content=b"hello", headers={"x-content-sha256": "abc"})
        assert reply.status_code == 400

    @pytest.mark.parametrize(("data", "kind"), [
        (b"", "application/octet-stream"), (b"\x00\x01", "application/octet-stream"), (b"{}", "text/plain"),
        (b"\x89PNG\r\n\x1a\n...", "image/png"), (b" <!DOCTYPE HTML>", "text/html"), (b"%PDF-1.7", "application/pdf"),
        (b"RIFF....WEBPVP8 ", "image/webp"), ("é".encode(), "text/plain"),
    ])  # fmt: skip
    async def test_the_type_is_found_out(self, ada: Person, data: bytes, kind: str) -> None:
        await bucket(ada)
        assert (await put(ada, "assets/a", data))["content_type"] == kind
        assert (await put(ada, "assets/a", data, **{"content-type": "x/y; z=1"}))["content_type"] == "x/y; z=1"

    async def test_a_form_is_stored_as_it_is(self, ada: Person) -> None:
        await bucket(ada)
        form = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n'
        made = await put(ada, "assets/a", form, **{"content-type": "multipart/form-data; boundary=b"})
        assert (made["size_bytes"], await text(ada, "assets/a")) == (len(form), form.decode())

    async def test_overwriting_replaces_it(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        first, second = await put(ada, "assets/a", b"one"), await put(ada, "assets/a", b"two")
        assert first["id"] != second["id"]
        assert await text(ada, "assets/a") == "two"
        assert (await ada.rest.get("/storage/versions/assets/a")).json() == [second]
        await cloud.settle()
        assert list(cloud.objects.blobs.values()) == [b"two"]

    async def test_deleting_it_removes_it(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        gone = await ada.rest.delete("/storage/assets/a")
        assert (gone.status_code, gone.content) == (204, b"")
        assert await text(ada, "assets/a") == "404"
        assert (await ada.rest.delete("/storage/assets/a")).status_code == 404
        await cloud.settle()
        assert cloud.objects.blobs == {}

    async def test_a_bucket_that_is_none_is_not_found(self, cloud: Cloud, ada: Person) -> None:
        for verb, path in (("GET", "none"), ("PUT", "none/a"), ("GET", "none/a"), ("DELETE", "none/a"),
                           ("GET", "versions/none/a"), ("POST", "multipart/init/none/a"),
                           ("GET", "buckets/none/lifecycle")):  # fmt: skip
            assert (await ada.rest.request(verb, f"/storage/{path}")).status_code == 404, path
        assert cloud.objects.blobs == {}

    async def test_they_come_in_pages_newest_first_or_by_prefix(self, ada: Person) -> None:
        await bucket(ada)
        for key in ("logs/2", "logs/1", "logs/10", "log", "m", "é"):
            await put(ada, f"assets/{key}")
        assert await keys(ada) == ["é", "m", "log", "logs/10", "logs/1", "logs/2"]
        assert await keys(ada, prefix="logs/") == ["logs/1", "logs/10", "logs/2"]
        for query in ({}, {"prefix": "l"}):
            found, token = [], ""
            while True:
                reply = await ada.rest.get("/storage/assets", params=query | {"page_size": 2, "page_token": token})
                found += [each["key"] for each in reply.json()]
                if not (token := reply.headers.get("x-next-page-token", "")):
                    break
            assert found == await keys(ada, **query)
        assert (await ada.rest.get("/storage/assets?prefix=a&page_token=%25")).status_code == 400


@pytest.mark.parametrize(("prefix", "following"), [
    ("a", "b"), ("logs/", "logs0"), ("a\ud7ff", "a\ue000"), ("a\U0010ffff", "b"), ("\U0010ffff", None), ("", None),
])  # fmt: skip
def test_what_comes_after_a_prefix(prefix: str, following: str | None) -> None:
    assert object_rows.beyond(prefix) == following
    if following and prefix:
        assert f"{prefix}\U0010ffff\U0010ffff".encode() < following.encode()


class TestParts:
    """Of what is downloaded."""

    @pytest.mark.parametrize(("wanted", "status", "data", "content_range"), [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"), ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"), ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"), ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"), ("bytes=5-4", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None), ("lines=1-2", 200, b"0123456789", None),
    ])  # fmt: skip
    async def test_a_range(self, ada: Person, wanted: str, status: int, data: bytes, content_range: str) -> None:
        await bucket(ada)
        await put(ada, "assets/a", b"0123456789")
        reply = await ada.rest.get("/storage/assets/a", headers={"range": wanted})
        assert (reply.status_code, reply.headers.get("content-range")) == (status, content_range)
        if data is not None:
            assert (reply.content, reply.headers["content-length"]) == (data, str(len(data)))

    async def test_conditions(self, ada: Person) -> None:
        await bucket(ada)
        etag = f'"{(await put(ada, "assets/a"))["etag"]}"'
        modified = (await ada.rest.get("/storage/assets/a")).headers["last-modified"]
        for headers, status in (
            ({"if-none-match": etag}, 304), ({"if-none-match": f'"x", W/{etag}'}, 304), ({"if-none-match": "*"}, 304),
            ({"if-none-match": '"x"'}, 200), ({"if-match": etag}, 200), ({"if-match": '"x"'}, 412),
            ({"if-modified-since": modified}, 304), ({"if-modified-since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 200),
            ({"if-modified-since": "nonsense"}, 200), ({"if-modified-since": modified, "if-none-match": '"x"'}, 200),
            ({"range": "bytes=0-0", "if-range": etag}, 206), ({"range": "bytes=0-0", "if-range": '"x"'}, 200),
        ):  # fmt: skip
            reply = await ada.rest.get("/storage/assets/a", headers=headers)
            assert reply.status_code == status, headers
            if status == 304:
                assert (reply.content, reply.headers["etag"]) == (b"", etag)


class TestVersions:
    async def test_overwriting_keeps_the_one_before(self, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a", b"zero")
        await versioned(ada)
        first, second = await put(ada, "assets/a", b"one"), await put(ada, "assets/a", b"two")
        assert int(second["version_id"]) < int(first["version_id"]) < 2**62
        found = (await ada.rest.get("/storage/versions/assets/a")).json()
        assert [(each["version_id"], each["is_latest"]) for each in found] == [
            (second["version_id"], True), (first["version_id"], False), ("null", False)
        ]  # fmt: skip
        assert (await ada.rest.get("/storage/assets")).json() == [second]
        for version, data in (("null", "zero"), (first["version_id"], "one"), (second["version_id"], "two")):
            assert await text(ada, f"assets/a?versionId={version}") == data
        assert await text(ada, "assets/a") == "two"
        assert await text(ada, "assets/a?versionId=7") == "404"

    async def test_deleting_hides_it(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        made = await put(ada, "assets/a", b"one")
        assert (await ada.rest.delete("/storage/assets/a")).status_code == 204
        assert await text(ada, "assets/a") == "404"
        assert await keys(ada) == []
        assert (await ada.rest.delete("/storage/assets/a")).status_code == 404
        [kept] = (await ada.rest.get("/storage/versions/assets/a")).json()
        assert (kept["id"], kept["is_latest"]) == (made["id"], False)
        assert await text(ada, f"assets/a?versionId={made['version_id']}") == "one"
        again = await put(ada, "assets/a", b"two")
        assert await text(ada, "assets/a") == "two"
        assert [each["id"] for each in (await ada.rest.get("/storage/versions/assets/a")).json()] == [
            again["id"], made["id"]
        ]  # fmt: skip
        await cloud.settle()
        assert len(cloud.objects.blobs) == 2

    async def test_one_version_is_deleted_for_good(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        first, second = await put(ada, "assets/a", b"one"), await put(ada, "assets/a", b"two")
        path = "/storage/assets/a?versionId="
        assert (await ada.rest.delete(f"{path}{second['version_id']}")).status_code == 204
        assert await text(ada, "assets/a") == "one"
        assert (await ada.rest.delete(f"{path}{second['version_id']}")).status_code == 404
        assert (await ada.rest.delete("/storage/assets/a")).status_code == 204
        assert (await ada.rest.delete(f"{path}{first['version_id']}")).status_code == 204
        await cloud.settle()
        assert cloud.objects.blobs == {}
        assert await cloud.value("select count(*) from objects") == 0, "nor a marker with nothing to hide"

    async def test_suspended_they_stay_and_new_ones_replace_each_other(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        made = await put(ada, "assets/a", b"one")
        await versioned(ada, enabled=False)
        for data in (b"two", b"three"):
            assert (await put(ada, "assets/a", data))["version_id"] == "null"
        found = (await ada.rest.get("/storage/versions/assets/a")).json()
        assert [each["version_id"] for each in found] == ["null", made["version_id"]]
        assert (await ada.rest.delete("/storage/assets/a")).status_code == 204
        assert await text(ada, "assets/a") == "404"
        assert await text(ada, f"assets/a?versionId={made['version_id']}") == "one"
        await cloud.settle()
        assert list(cloud.objects.blobs.values()) == [b"one"]
        refused = await ada.rest.delete("/storage/buckets/assets")
        assert refused.status_code == 409, "a version that is hidden is there"


class TestMultipart:
    async def test_parts_become_an_object(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        begun = await ada.rest.post("/storage/multipart/init/assets/big/one")
        upload = begun.json()
        assert (begun.status_code, upload["bucket"], upload["key"]) == (201, "assets", "big/one")
        assert (await ada.rest.post(f"/storage/multipart/complete/{upload['id']}")).status_code == 400
        for number, data in ((10, b"c"), (2, b"x"), (1, b"a"), (2, b"b")):
            path = f"/storage/multipart/upload/{upload['id']}/parts?part={number}"
            digest = hashlib.sha256(data).hexdigest()
            part = await ada.rest.put(path, content=data, headers={"x-content-sha256": digest})
            expected = {"upload_id": upload["id"], "part_number": number, "size_bytes": 1, "etag": digest}
            assert (part.status_code, part.json() | expected) == (200, part.json())
        assert await keys(ada) == []
        made = await ada.rest.post(f"/storage/multipart/complete/{upload['id']}")
        expected = {"key": "big/one", "size_bytes": 3, "checksum": hashlib.sha256(b"abc").hexdigest(),
                    "version_id": "null", "content_type": "text/plain"}  # fmt: skip
        assert (made.status_code, made.json() | expected) == (200, made.json())
        assert await text(ada, "assets/big/one") == "abc"
        assert (await ada.rest.post(f"/storage/multipart/complete/{upload['id']}")).status_code == 404
        await cloud.settle()
        assert list(cloud.objects.blobs.values()) == [b"abc"]
        assert await cloud.value("select (objects, bytes)::text from storage_usage") == "(1,3)"

    async def test_it_is_aborted(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        id = (await ada.rest.post("/storage/multipart/init/assets/a")).json()["id"]
        await ada.rest.put(f"/storage/multipart/upload/{id}/parts?part=1", content=b"x")
        assert (await ada.rest.delete(f"/storage/multipart/abort/{id}")).status_code == 204
        assert (await ada.rest.delete(f"/storage/multipart/abort/{id}")).status_code == 404
        await cloud.settle()
        assert cloud.objects.blobs == {}

    async def test_wrong_parts(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        path = f"/storage/multipart/upload/{(await ada.rest.post('/storage/multipart/init/assets/a')).json()['id']}"
        for number in ("", "?part=0", "?part=-1", "?part=10001", "?part=x"):
            assert (await ada.rest.put(f"{path}/parts{number}", content=b"x")).status_code == 400, number
        headers = {"x-content-sha256": "0" * 64}
        assert (await ada.rest.put(f"{path}/parts?part=1", content=b"x", headers=headers)).status_code == 409
        assert (await bob.rest.put(f"{path}/parts?part=1", content=b"x")).status_code == 404
        assert (await ada.rest.put("/storage/multipart/upload/1/parts?part=1", content=b"x")).status_code == 400
        assert cloud.objects.blobs == {}

    async def test_after_a_week_it_is_forgotten(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        ids = [(await ada.rest.post(f"/storage/multipart/init/assets/{key}")).json()["id"] for key in "ab"]
        for id in ids:
            await ada.rest.put(f"/storage/multipart/upload/{id}/parts?part=1", content=b"x")
        await cloud.value("update multipart_uploads set created_at = now() - interval '8 days' where key = 'a'")
        await storage_lives.sweep(cloud.app)
        await cloud.settle()
        assert len(cloud.objects.blobs) == 1
        assert (await ada.rest.post(f"/storage/multipart/complete/{ids[0]}")).status_code == 404
        assert (await ada.rest.post(f"/storage/multipart/complete/{ids[1]}")).status_code == 200


class TestLifecycle:
    async def test_a_rule_is_made_listed_and_deleted(self, ada: Person) -> None:
        await bucket(ada)
        await bucket(ada, "others")
        path = "/storage/buckets/assets/lifecycle"
        made = await ada.rest.post(path, json={"prefix": "logs/", "expiration_days": 30})
        rule = made.json()
        assert (made.status_code, rule["prefix"], rule["expiration_days"]) == (201, "logs/", 30)
        assert (rule["enabled"], rule["bucket_name"]) == (True, "assets")
        assert (await ada.rest.get(path)).json() == [rule]
        assert (await ada.rest.post(path, json={"prefix": "logs/", "expiration_days": 1})).status_code == 409
        for wrong in ({}, {"expiration_days": 0}, {"expiration_days": -1}):
            assert (await ada.rest.post(path, json=wrong)).status_code == 400
        assert (await ada.rest.delete(f"/storage/buckets/others/lifecycle/{rule['id']}")).status_code == 404
        assert (await ada.rest.delete(f"{path}/1")).status_code == 400
        assert (await ada.rest.delete(f"{path}/{rule['id']}")).status_code == 204
        assert (await ada.rest.get(path)).json() == []

    @pytest.mark.parametrize("kept", [False, True])
    async def test_what_is_old_enough_expires(
        self, cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch, kept: bool
    ) -> None:
        monkeypatch.setattr(storage_rules, "BATCH", 2)
        await bucket(ada)
        if kept:
            await versioned(ada)
        for key in ("logs/1", "logs/2", "logs/3", "log", "other", "off/1"):
            await put(ada, f"assets/{key}")
        await cloud.value("update objects set created_at = now() - interval '31 days'")
        await put(ada, "assets/logs/new")
        path = "/storage/buckets/assets/lifecycle"
        await ada.rest.post(path, json={"prefix": "logs/", "expiration_days": 30})
        await ada.rest.post(path, json={"prefix": "off/", "expiration_days": 30, "enabled": False})
        await ada.rest.post(path, json={"prefix": "other", "expiration_days": 32})
        await storage_rules.expire(cloud.app)
        await cloud.settle()
        assert sorted(await keys(ada)) == ["log", "logs/new", "off/1", "other"]
        versions = (await ada.rest.get("/storage/versions/assets/logs/1")).json()
        assert len(versions) == len(cloud.objects.blobs) - 4 - 2 * kept == int(kept)


class TestOthers:
    async def test_other_tenants_see_nothing(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        made = await put(ada, "assets/a")
        upload = (await ada.rest.post("/storage/multipart/init/assets/b")).json()["id"]
        assert (await bob.rest.get("/storage/buckets")).json() == []
        for verb, path in (
            ("GET", "assets"), ("GET", "assets/a"), ("PUT", "assets/a"), ("DELETE", "assets/a"),
            ("DELETE", f"assets/a?versionId={made['version_id']}"), ("GET", "versions/assets/a"),
            ("DELETE", "buckets/assets?force=true"), ("POST", "multipart/init/assets/a"),
            ("POST", f"multipart/complete/{upload}"), ("DELETE", f"multipart/abort/{upload}"),
            ("GET", "buckets/assets/lifecycle"),
        ):  # fmt: skip
            assert (await bob.rest.request(verb, f"/storage/{path}")).status_code == 404, path
        assert await text(ada, "assets/a") == "hello"
        assert len(cloud.objects.blobs) == 1

    async def test_what_is_public_can_be_read_and_no_more(self, ada: Person, bob: Person, cloud: Cloud) -> None:
        made = await bucket(ada, is_public=True)
        await put(ada, "assets/a")
        assert (await bob.rest.get("/storage/buckets")).json() == [made]
        assert (await keys(bob), await text(bob, "assets/a")) == (["a"], "hello")
        assert len((await bob.rest.get("/storage/versions/assets/a")).json()) == 1
        for verb, path in (("PUT", "assets/a"), ("DELETE", "assets/a"), ("DELETE", "buckets/assets?force=true"),
                           ("POST", "multipart/init/assets/a"), ("GET", "buckets/assets/lifecycle")):  # fmt: skip
            assert (await bob.rest.request(verb, f"/storage/{path}")).status_code == 404, path
        assert (await cloud.anonymous.get("/storage/assets/a")).status_code == 401

    async def test_a_policy_may_name_keys_by_their_beginning(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        for key in ("logs/1", "secret"):
            await put(ada, f"assets/{key}")
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        arn = "arn:thecloud:storage:local:*:object/assets"
        policy = await ada.rest.post("/iam/policies", json={"name": "logs", "statements": [
            {"effect": "Allow", "action": ["storage:write", "storage:delete"], "resource": [f"{arn}/logs/*"]},
            {"effect": "Deny", "action": ["storage:*"], "resource": [f"{arn}/secret*"]},
        ]})  # fmt: skip
        await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{policy.json()['id']}")
        assert await keys(eve) == ["logs/1"]
        assert await text(eve, "assets/logs/1") == "hello"
        assert (await text(eve, "assets/secret"), await text(eve, "versions/assets/secret")) == ("403", "[]")
        inventory = (await eve.rest.get("/inventory?kind=object")).json()["resources"]
        assert [each["state"]["key"] for each in inventory] == ["logs/1"]
        await put(eve, "assets/logs/2")
        id = (await eve.rest.post("/storage/multipart/init/assets/logs/3")).json()["id"]
        for verb, path in (("PUT", "assets/log"), ("DELETE", "assets/secret"), ("DELETE", "buckets/assets"),
                           ("POST", "multipart/init/assets/secret"), ("POST", f"multipart/complete/{id}")):  # fmt: skip
            assert (await eve.rest.request(verb, f"/storage/{path}")).status_code == 403, path

    async def test_the_cluster_is_shown_to_who_may_do_everything(self, cloud: Cloud, ada: Person) -> None:
        [node] = (await ada.rest.get("/storage/cluster/status")).json()["nodes"]
        assert (node["id"], node["address"], node["status"]) == ("local-node", "localhost", "alive")
        for role in ("developer", "viewer"):
            other = await cloud.person("eve", tenant_id=ada.tenant_id, role=role)
            assert (await other.rest.get("/storage/cluster/status")).status_code == 403
