"""Addresses that open one object for a while, over REST."""

import time
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from server import object_uploads
from server.services import presign as service
from tests.conftest import Cloud, Person
from tests.services.test_bucket_policies import allow, deny, set_policy
from tests.services.test_storage import bucket, put


async def presign(person: Person, path: str, **fields: Any) -> dict[str, Any]:
    reply = await person.rest.post(f"/storage/presign/{path}", json=fields)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def address(person: Person, path: str, **fields: Any) -> str:
    return str((await presign(person, path, **fields))["url"])


def changed(url: str, **query: str) -> str:
    parts = urlsplit(url)
    values = {name: value for name, [value] in parse_qs(parts.query).items()} | query
    return f"{parts.scheme}://{parts.netloc}{parts.path}?" + "&".join(f"{name}={quote(value)}"
                                                                        for name, value in values.items())  # fmt: skip


def refused(reply: httpx.Response) -> bool:
    return reply.status_code == 403 and reply.json()["error"]["code"] == "FORBIDDEN"


async def test_one_downloads_without_a_key(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    made = await put(ada, "assets/docs/a.txt")
    before = int(time.time())
    given = await presign(ada, "assets/docs/a.txt")
    assert given["method"] == "GET"
    assert given["url"].startswith("http://cloud/storage/presigned/assets/docs/a.txt?expires=")
    assert before + 900 <= int(parse_qs(urlsplit(given["url"]).query)["expires"][0]) <= time.time() + 900
    assert given["expires_at"].endswith("Z")
    reply = await cloud.anonymous.get(given["url"])
    assert (reply.status_code, reply.text, reply.headers["etag"]) == (200, "hello", f'"{made["etag"]}"')
    part = await cloud.anonymous.get(given["url"], headers={"range": "bytes=1-2"})
    assert (part.status_code, part.text, part.headers["content-range"]) == (206, "el", "bytes 1-2/5")
    same = await cloud.anonymous.get(given["url"], headers={"if-none-match": f'"{made["etag"]}"'})
    assert same.status_code == 304
    head = await cloud.anonymous.head(given["url"])
    assert (head.status_code, head.headers["content-length"]) == (200, "5")


async def test_one_uploads_without_a_key_and_as_its_maker(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    given = await presign(ada, "assets/b.txt", method="PUT", expiry_seconds=60)
    assert given["method"] == "PUT"
    reply = await cloud.anonymous.put(given["url"], content=b"hello", headers={"content-type": "text/x-own"})
    assert reply.status_code == 201, reply.text
    shown = reply.json()
    assert (shown["user_id"], shown["tenant_id"]) == (str(ada.user_id), str(ada.tenant_id))
    assert (shown["content_type"], shown["size_bytes"]) == ("text/x-own", 5)
    assert (await ada.rest.get("/storage/assets/b.txt")).text == "hello"
    [entry] = [each for each in (await ada.rest.get("/audit")).json() if each["action"] == "STORAGE_PRESIGNED_UPLOAD"]
    assert (entry["user_id"], entry["resource_id"]) == (str(ada.user_id), "assets/b.txt")
    wrong = await cloud.anonymous.put(given["url"], content=b"other", headers={"x-content-sha256": "0" * 64})
    assert wrong.json()["error"]["reason"] == "CHECKSUM_MISMATCH"
    assert (await ada.rest.get("/storage/assets/b.txt")).text == "hello"
    assert len(cloud.objects.blobs) == 1


async def test_it_opens_nothing_else(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/a.txt")
    await put(ada, "assets/b.txt")
    url, upload = await address(ada, "assets/a.txt"), await address(ada, "assets/c.txt", method="PUT")
    signature = parse_qs(urlsplit(url).query)["signature"][0]
    console = cloud.app.cloud.sign({"instance": "a"}, 60)
    for wrong in (
        url.replace("a.txt", "b.txt"), url.replace("/assets/", "/other/"), changed(url, expires="99999999999"),
        changed(url, expires="0"), changed(url, signature=""), changed(url, signature=signature[:-1]),
        changed(url, signature=signature + "A"), changed(url, signature="a.b"), changed(url, signature="ä.€"),
        changed(url, signature=console), changed(upload.replace("c.txt", "a.txt")), url.split("?")[0],
        url.replace("a.txt", "c.txt"),
    ):  # fmt: skip
        assert refused(await cloud.anonymous.get(wrong)), wrong
    for wrong in (url, upload.replace("c.txt", "a.txt"), changed(upload, expires="1"), upload.split("?")[0]):
        assert refused(await cloud.anonymous.put(wrong, content=b"x")), wrong
    assert (await cloud.anonymous.delete(url)).status_code == 401
    assert (await ada.rest.get("/storage/assets/a.txt")).text == "hello"
    assert len(cloud.objects.blobs) == 2


async def test_it_ends_with_its_time(cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    await bucket(ada)
    await put(ada, "assets/a.txt")
    url = await address(ada, "assets/a.txt", expiry_seconds=30)
    assert (await cloud.anonymous.get(url)).status_code == 200
    now = time.time
    monkeypatch.setattr("server.cloud.time.time", lambda: now() + 31)
    assert refused(await cloud.anonymous.get(url))


@pytest.mark.parametrize("fields", [{"expiry_seconds": 604801}, {"expiry_seconds": -1}, {"method": "DELETE"}])
async def test_it_is_for_a_week_at_most_and_for_two_methods(ada: Person, fields: dict[str, Any]) -> None:
    await bucket(ada)
    assert (await ada.rest.post("/storage/presign/assets/a", json=fields)).status_code == 400


async def test_it_ends_with_the_key_it_was_made_with(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/a.txt")
    key = (await ada.rest.post("/auth/keys", json={"name": "for addresses"})).json()
    made = await ada.rest.post("/storage/presign/assets/a.txt", json={}, headers={"x-api-key": key["key"]})
    upload = await ada.rest.post("/storage/presign/assets/b", json={"method": "PUT"}, headers={"x-api-key": key["key"]})
    assert (await cloud.anonymous.get(made.json()["url"])).status_code == 200
    assert (await ada.rest.delete(f"/auth/keys/{key['id']}")).status_code < 300
    assert refused(await cloud.anonymous.get(made.json()["url"]))
    assert refused(await cloud.anonymous.put(upload.json()["url"], content=b"x"))
    assert len(cloud.objects.blobs) == 1


async def test_it_ends_with_its_makers_rights(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/a.txt")
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="member")
    url, upload = await address(eve, "assets/a.txt"), await address(eve, "assets/b", method="PUT")
    await cloud.value("update members set role = 'viewer' where user_id = $1", eve.user_id)
    assert (await cloud.anonymous.get(url)).status_code == 200
    assert refused(await cloud.anonymous.put(upload, content=b"x"))
    await set_policy(ada, deny("s3:GetObject", "assets/*", principal=str(eve.user_id)))
    assert refused(await cloud.anonymous.get(url))
    await ada.rest.delete("/storage/buckets/assets/policy")
    assert (await cloud.anonymous.get(url)).status_code == 200
    await cloud.value("delete from members where user_id = $1", eve.user_id)
    assert refused(await cloud.anonymous.get(url))


async def test_a_download_ends_within_a_second_of_its_makers_rights(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SURE", 0.0)
    await bucket(ada)
    await put(ada, "assets/a", b"x" * 2**20)
    url = urlsplit(await address(ada, "assets/a"))
    query = {name: value for name, [value] in parse_qs(url.query).items()}
    method = cloud.pipeline.method("/thecloud.v1.PresignService/DownloadPresigned")
    request = method.request(bucket="assets", key="a", signature=query["signature"], expires=int(query["expires"]))

    async def one() -> Any:
        yield request

    responses = cloud.pipeline.stream(method, one(), {}, "127.0.0.1", {})
    assert len((await anext(responses)).data) > 0  # type: ignore[attr-defined]
    await cloud.value("delete from api_keys where user_id = $1", ada.user_id)
    with pytest.raises(Exception, match="ask for a new one"):
        async for _ in responses:
            pass


async def test_who_may_only_read_gives_no_address_to_write(cloud: Cloud, ada: Person, bob: Person) -> None:
    await bucket(ada)
    viewer = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    assert (await viewer.rest.post("/storage/presign/assets/a", json={})).status_code == 200
    reply = await viewer.rest.post("/storage/presign/assets/a", json={"method": "PUT"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "FORBIDDEN")
    for method in ("GET", "PUT"):
        assert (await bob.rest.post("/storage/presign/assets/a", json={"method": method})).status_code == 404
    assert (await cloud.anonymous.post("/storage/presign/assets/a", json={})).status_code == 401
    await set_policy(ada, allow("s3:PutObject", "assets/*", principal=f"arn:aws:iam::{ada.tenant_id}:root"))
    upload = await address(viewer, "assets/a", method="PUT")
    assert (await cloud.anonymous.put(upload, content=b"x")).status_code == 201


async def test_uploads_stay_within_the_makers_quota(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    await bucket(ada)
    url = await address(ada, "assets/a", method="PUT")
    monkeypatch.setattr(object_uploads, "GIB", 4)
    monkeypatch.setattr(object_uploads, "LOOK", 0)
    await cloud.value("insert into quotas values ($1, 'object_gb', 1)", ada.tenant_id)
    reply = await cloud.anonymous.put(url, content=b"hello")
    assert reply.json()["error"]["code"] == "QUOTA_EXCEEDED", reply.text
    assert cloud.objects.blobs == {}


@pytest.mark.parametrize("key", ["a b", "%2F", "ünï/鍵", "//", "../x", "a/../b", ".", "..", "a?b#c&d=e", "k" * 1024])
async def test_any_key_has_an_address(cloud: Cloud, ada: Person, key: str) -> None:
    await bucket(ada)
    path = f"assets/{quote(key, safe='/').replace('.', '%2E')}"
    upload = await address(ada, path, method="PUT")
    assert (await cloud.anonymous.put(upload, content=key.encode())).json()["key"] == key
    assert (await cloud.anonymous.get(await address(ada, path))).text == key


async def test_guesses_are_not_in_the_audit_log(cloud: Cloud) -> None:
    assert refused(await cloud.anonymous.get("/storage/presigned/assets/a?expires=1&signature=a.b"))
    assert await cloud.value("select count(*) from audit_log") == 0
