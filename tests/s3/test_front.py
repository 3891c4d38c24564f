"""The S3 port against those who send what they should not: S3's own errors, and nothing kept."""

import asyncio
import base64
import hashlib
import re
import time
import zlib
from itertools import product
from urllib.parse import quote
from uuid import uuid4
from xml.etree import ElementTree

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import db, object_lists
from server.s3 import chunks, errors, signature
from server.s3.front import SUBRESOURCES
from tests.conftest import Cloud, Person, until
from tests.s3.conftest import Port, opened, raw

DATA = b"hello" * 20
FIVE = 5 * 2**20


def code(reply: httpx.Response) -> str:
    """The code of an error, which is well made."""
    root = ElementTree.fromstring(reply.content)
    assert root.tag == "Error" and reply.headers["content-type"] == "application/xml"
    assert root.findtext("RequestId") == reply.headers["x-amz-request-id"]
    assert root.findtext("Message")
    found = root.findtext("Code") or ""
    assert errors.STATUSES[found] == reply.status_code
    return found


@pytest.fixture
async def bucket(port: Port) -> str:
    reply = await port.send("PUT", "/bucket")
    assert reply.status_code == 200, reply.text
    return "/bucket"


async def kept_nothing(port: Port) -> None:
    """No row and no blob, once what runs has ended."""
    await until(lambda: no_rows(port))
    await port.cloud.settle()
    assert await port.kept() == (0, 0)


async def no_rows(port: Port) -> bool:
    return not port.cloud.pipeline.streams and (await port.kept())[0] == 0


async def test_who_signs_nothing_gets_nothing(port: Port, bucket: str) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", bucket),
        ("PUT", f"{bucket}/key"),
        ("DELETE", bucket),
        ("PUT", "/another"),
    ):
        reply = await port.http.send(raw(port.url, method, path, b"", {}))
        assert code(reply) == "AccessDenied", (method, path)
    await kept_nothing(port)


async def test_wrong_keys_are_told_apart(port: Port, bucket: str) -> None:
    stranger = Port(port.cloud, port.address, "TCAAAAAAAAAAAAAAAAAA", port.secret_access_key, port.http)
    assert code(await stranger.send("PUT", f"{bucket}/key", DATA)) == "InvalidAccessKeyId"
    forger = Port(port.cloud, port.address, port.access_key_id, "wrong", port.http)
    assert code(await forger.send("PUT", f"{bucket}/key", DATA)) == "SignatureDoesNotMatch"
    await kept_nothing(port)


async def test_a_signed_request_opens_nothing_else(port: Port, bucket: str) -> None:
    signed = port.signed("PUT", f"{bucket}/key", DATA)
    for method, path, body, more in (
        ("PUT", f"{bucket}/other", DATA, {}), ("DELETE", bucket, b"", {}), ("PUT", f"{bucket}/key?acl", DATA, {}),
        ("PUT", f"{bucket}/key", DATA, {"x-amz-acl": "public-read"}), ("PUT", f"{bucket}/key", DATA[:-1] + b"x", {}),
    ):  # fmt: skip
        headers = {**signed.headers, "content-length": str(len(body)), **more}
        reply = await port.http.send(raw(port.url, method, path, body, headers))
        expected = {"x-amz-acl": "AccessDenied"}.get([*more, ""][0], "SignatureDoesNotMatch")
        assert code(reply) == (expected if body[-1:] != b"x" else "XAmzContentSHA256Mismatch")
    await kept_nothing(port)


async def test_a_clock_that_is_wrong_is_told_so(port: Port, bucket: str) -> None:
    request = port.signed("PUT", f"{bucket}/key", DATA)
    real = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 16 * 60)
        assert code(await port.http.send(request)) == "RequestTimeTooSkewed"
    await kept_nothing(port)


async def test_a_key_that_is_revoked_ends_at_once(port: Port, ada: Person, bucket: str) -> None:
    listed = {each["name"]: each["id"] for each in (await ada.rest.get("/auth/keys")).json()}
    assert (await ada.rest.delete(f"/auth/keys/{listed['s3']}")).status_code == 204
    assert code(await port.send("GET", "/")) == "InvalidAccessKeyId"


async def test_what_a_member_may_not_they_may_not_here(port: Port, cloud: Cloud, ada: Person, bucket: str) -> None:
    viewer = await opened(cloud, await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer"), port.address)
    assert code(await viewer.send("PUT", f"{bucket}/key", DATA)) == "AccessDenied"
    assert (await viewer.send("GET", "/")).status_code == 200
    await kept_nothing(port)


async def test_a_key_that_may_only_write_only_writes(port: Port, cloud: Cloud, ada: Person, bucket: str) -> None:
    policy = {"statements": [{"effect": "Allow", "action": ["storage:write"], "resource": ["*"]}]}
    writer = await opened(cloud, ada, port.address, policy=policy)
    assert (await writer.send("PUT", f"{bucket}/other", DATA)).status_code == 200
    id, [first, second] = await begun(writer, FIVE, 10)
    body = completion((1, first), (2, second))
    assert code(await writer.send("GET", f"{bucket}/key?uploadId={id}")) == "AccessDenied"
    assert (await writer.send("POST", f"{bucket}/key?uploadId={id}", body)).status_code == 200
    for method, path in (("GET", f"{bucket}/key"), ("GET", bucket), ("DELETE", f"{bucket}/key")):
        assert code(await writer.send(method, path)) == "AccessDenied"


async def test_a_limited_key_is_told_of_nothing_that_it_may_not_see(
    port: Port, cloud: Cloud, ada: Person, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "MOST", 2)  # so that what is hidden is pages long
    hidden = [f"a/secret{number}" for number in range(5)] + ["q/secret"]
    for key in (*hidden, "pub/1", "pub/2", "z-pub/1"):
        assert (await port.send("PUT", f"{bucket}/{key}", DATA)).status_code == 200
        assert (await port.send("POST", f"{bucket}/{key}?uploads")).status_code == 200
    names = [f"arn:thecloud:storage:local:*:{kind}/bucket/*pub/*" for kind in ("object", "multipart-upload")]
    policy = {"statements": [{"effect": "Allow", "action": ["storage:read"], "resource": names}]}
    limited = await opened(cloud, ada, port.address, policy=policy)

    async def listed(query: str, tag: str, *following: tuple[str, str]) -> list[str]:
        """What pages of one show, each begun after what the one before has told."""
        found, more = [], ""
        for _ in range(5):
            reply = await limited.send("GET", f"{bucket}?{query}{more}")
            assert reply.status_code == 200, reply.text
            root = ElementTree.fromstring(re.sub(rb' xmlns="[^"]*"', b"", reply.content))
            assert "secret" not in reply.text
            found += [each.text or "" for each in root.iterfind(tag)]
            if root.findtext("IsTruncated") == "false":
                return found
            told = {name: root.findtext(element) or "" for name, element in following}
            assert "secret" not in b64decode_any(told.get("continuation-token", ""))
            more = "".join(f"&{name}={quote(value, safe='')}" for name, value in told.items())
        raise AssertionError(found)

    both = [("key-marker", "NextKeyMarker"), ("version-id-marker", "NextVersionIdMarker")]
    uploads = [("key-marker", "NextKeyMarker"), ("upload-id-marker", "NextUploadIdMarker")]
    keys = ["pub/1", "pub/2", "z-pub/1"]
    assert await listed("max-keys=1", "Contents/Key", ("marker", "Contents/Key")) == keys
    token = ("continuation-token", "NextContinuationToken")
    assert await listed("list-type=2&max-keys=1", "Contents/Key", token) == keys
    assert await listed("versions&max-keys=1", "Version/Key", *both) == keys
    assert await listed("uploads&max-uploads=1", "Upload/Key", *uploads) == keys
    folders = ("marker", "NextMarker")
    assert await listed("delimiter=%2F&max-keys=1", "CommonPrefixes/Prefix", folders) == ["pub/", "z-pub/"]
    monkeypatch.setattr(object_lists, "READS", 2)
    assert code(await limited.send("GET", f"{bucket}?max-keys=1")) == "AccessDenied"


def b64decode_any(text: str) -> str:
    return base64.urlsafe_b64decode(text + "==").decode(errors="replace")


async def test_other_tenants_see_nothing(port: Port, cloud: Cloud, bob: Person, bucket: str) -> None:
    await port.send("PUT", f"{bucket}/key", DATA)
    other = await opened(cloud, bob, port.address)
    for method, path in (("GET", f"{bucket}/key"), ("PUT", f"{bucket}/key"), ("GET", bucket), ("DELETE", bucket),
                         ("POST", f"{bucket}/key?uploads")):  # fmt: skip
        assert code(await other.send(method, path)) == "NoSuchBucket"
    assert b"bucket" not in (await other.send("GET", "/")).content.replace(b"Bucket", b"")
    assert code(await other.send("PUT", bucket)) == "BucketAlreadyExists"


REFUSED: list[tuple[dict[str, str], str]] = [
    ({"content-md5": base64.b64encode(bytes(16)).decode()}, "BadDigest"),
    ({"content-md5": "x"}, "InvalidDigest"),
    ({"x-amz-checksum-crc32": "AAAAAA=="}, "BadDigest"),
    ({"x-amz-checksum-sha256": base64.b64encode(bytes(32)).decode()}, "BadDigest"),
    ({"x-amz-checksum-crc32": "AAAA"}, "InvalidArgument"),
    ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-sha1": "AAAA"}, "InvalidRequest"),
    ({"x-amz-sdk-checksum-algorithm": "MD4"}, "InvalidRequest"),
    ({"x-amz-storage-class": "GLACIER"}, "InvalidStorageClass"),
    ({"x-amz-server-side-encryption": "aws:kms"}, "NotImplemented"),
    ({"x-amz-server-side-encryption-customer-key": "x"}, "NotImplemented"),
    ({"x-amz-object-lock-mode": "GOVERNANCE"}, "NotImplemented"),
    ({"x-amz-acl": "public-read-write"}, "NotImplemented"),
    ({"x-amz-grant-read": "id=x"}, "NotImplemented"),
    ({"x-amz-tagging": "a=1&a=2"}, "InvalidTag"),
    ({"x-amz-tagging": "a=%00"}, "InvalidTag"),
    ({"x-amz-tagging": "a=%ff"}, "InvalidTag"),
    ({"x-amz-meta-a": "x" * 2048}, "MetadataTooLarge"),
    ({"x-amz-security-token": "x"}, "InvalidToken"),
    ({"x-amz-expected-bucket-owner": "x"}, "InvalidArgument"),
    ({"if-match": '"0"'}, "NoSuchKey"),
    ({"x-amz-copy-source": "bucket"}, "InvalidArgument"),
    ({"x-amz-copy-source": "/bucket/%ff"}, "InvalidArgument"),
    ({"x-amz-copy-source": "/bucket/a%00"}, "InvalidArgument"),
    ({"x-amz-copy-source": "/bucket/none"}, "NoSuchKey"),
    ({"x-amz-copy-source": "/nowhere/none"}, "NoSuchBucket"),
]  # fmt: skip


async def test_what_a_put_may_not_say_is_refused(port: Port, bucket: str) -> None:
    for headers, expected in REFUSED:
        assert code(await port.http.send(port.signed("PUT", f"{bucket}/key", DATA, headers))) == expected, headers
    await kept_nothing(port)


async def test_a_list_of_deletions_is_what_its_checksums_say(port: Port, bucket: str) -> None:
    await port.send("PUT", f"{bucket}/key", DATA)
    body = b"<Delete><Object><Key>key</Key></Object></Delete>"
    for headers, expected in (
        ({"content-md5": base64.b64encode(bytes(16)).decode()}, "BadDigest"), ({"content-md5": "x"}, "InvalidDigest"),
        ({"x-amz-checksum-crc32": "AAAAAA=="}, "BadDigest"), ({"x-amz-checksum-crc32c": "x"}, "InvalidArgument"),
    ):  # fmt: skip
        reply = await port.http.send(port.signed("POST", f"{bucket}?delete", body, headers))
        assert code(reply) == expected
    assert (await port.send("GET", f"{bucket}/key")).content == DATA
    right = {"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()}
    assert (await port.http.send(port.signed("POST", f"{bucket}?delete", body, right))).status_code == 200
    await kept_nothing(port)


async def test_a_body_that_is_not_what_was_signed_is_refused(port: Port, bucket: str) -> None:
    request = port.signed_as("0" * 64, "PUT", f"{bucket}/key", DATA, {})
    assert code(await port.http.send(request)) == "XAmzContentSHA256Mismatch"
    request = port.signed_as("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "PUT", f"{bucket}/key", DATA, {})
    assert code(await port.http.send(request)) == "NotImplemented"
    await kept_nothing(port)


async def test_a_body_without_a_length_is_refused(port: Port, bucket: str) -> None:
    async def pieces():  # type: ignore[no-untyped-def]
        yield DATA

    signed = port.signed_as("UNSIGNED-PAYLOAD", "PUT", f"{bucket}/key", b"", {})
    headers = {name: value for name, value in signed.headers.items() if name != "content-length"}
    reply = await port.http.put(f"{port.url}{bucket}/key", content=pieces(), headers=headers)
    assert code(reply) == "MissingContentLength"
    await kept_nothing(port)


async def test_what_is_no_text_of_http_is_no_failure_of_ours(port: Port, bucket: str) -> None:
    reply = await port.send("PUT", f"{bucket}/key", DATA, x_amz_trailer="x-amz-checksum-crc32")
    assert code(reply) == "InvalidRequest"
    await kept_nothing(port)
    await port.send("PUT", f"{bucket}/key", DATA)
    for name in ("if-modified-since", "if-unmodified-since"):
        for moment in ("Sun, 06 Nov 99999999999 08:49:37 GMT", "Sun, 06 Nov 1994 99:49:37 GMT", "yesterday"):
            assert (await port.send("GET", f"{bucket}/key", **{name: moment})).content == DATA
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for names, payload in (("host;%E2%82%AC", "UNSIGNED-PAYLOAD"), ("host", "%E2%82%AC")):
        query = (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={at}&X-Amz-Expires=60&X-Amz-SignedHeaders={names}"
            f"&X-Amz-Credential={port.access_key_id}/{at[:8]}/us-east-1/s3/aws4_request&X-Amz-Signature={'0' * 64}"
            f"&X-Amz-Content-Sha256={payload}"
        )
        reply = await port.http.send(raw(port.url, "GET", f"{bucket}/key?{query}", b"", {}))
        assert code(reply) == "AuthorizationQueryParametersError"


async def at_once(address: str, request: httpx.Request, path: str) -> bytes:
    """The answer to a request that comes in one piece, its body with its head."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    lines = [f"{request.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    writer.write("\r\n".join((*lines, "connection: close", "", "")).encode() + request.content)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_body_that_comes_with_its_head_is_as_any_other(port: Port, bucket: str) -> None:
    path, data = f"{bucket}/key", b"all at once"
    assert b" 200 OK" in await at_once(port.address, port.signed("PUT", path, data), path)
    assert (await port.send("GET", path)).content == data
    wrong = port.signed("PUT", path, data)
    wrong.headers["content-md5"] = base64.b64encode(bytes(16)).decode()
    assert b"BadDigest" in await at_once(port.address, wrong, path)
    other = port.signed("PUT", path, b"another one")
    other = httpx.Request("PUT", other.url, headers=other.headers, content=data)
    assert b"XAmzContentSHA256Mismatch" in await at_once(port.address, other, path)
    assert b" 200 OK" in await at_once(port.address, in_chunks(port, bytes(2000)), path)
    assert (await port.send("GET", path)).content == bytes(2000)
    await port.cloud.settle()
    assert await port.kept() == (1, 1)


async def test_a_body_that_breaks_off_leaves_nothing(port: Port, bucket: str) -> None:
    request = port.signed_as("UNSIGNED-PAYLOAD", "PUT", f"{bucket}/key", b"", {"content-length": str(2**21)})
    _, writer = await asyncio.open_connection(*port.address.split(":"))
    lines = [f"PUT {bucket}/key HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + bytes(2**20 + 2**19))
    await writer.drain()
    await until(lambda: asyncio.sleep(0, bool(port.cloud.pipeline.streams)))
    writer.close()
    await kept_nothing(port)


def in_chunks(port: Port, data: bytes, *, size: int = 65_536, trailer: str = "", wrong: int = -1) -> httpx.Request:
    """A put in signed chunks, of which one may have a wrong signature."""
    kind = chunks.SIGNED_TRAILER if trailer else chunks.SIGNED
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(data))}
    if trailer:
        headers["x-amz-trailer"] = "x-amz-checksum-crc32"
    request = port.signed_as(kind, "PUT", "/bucket/key", b"", headers)
    before = request.headers["authorization"].rpartition("=")[2]
    moment = request.headers["x-amz-date"]
    scope = f"{moment}\n{moment[:8]}/us-east-1/s3/aws4_request"
    key = signature.signing_key(port.secret_access_key, moment[:8], "us-east-1")
    body = b""
    for number, each in enumerate([*(data[at : at + size] for at in range(0, len(data), size)), b""]):
        hashes = f"{chunks.EMPTY}\n{hashlib.sha256(each).hexdigest()}"
        before = signature.sign(key, f"AWS4-HMAC-SHA256-PAYLOAD\n{scope}\n{before}\n{hashes}")
        shown = "0" * 64 if number == wrong else before
        body += f"{len(each):x};chunk-signature={shown}\r\n".encode() + each + (b"\r\n" if each else b"")
    if trailer:
        line = f"x-amz-checksum-crc32:{trailer}\n"
        last = f"AWS4-HMAC-SHA256-TRAILER\n{scope}\n{before}\n{hashlib.sha256(line.encode()).hexdigest()}"
        body += f"x-amz-checksum-crc32:{trailer}\r\nx-amz-trailer-signature:{signature.sign(key, last)}\r\n".encode()
    sent = {**request.headers, "content-length": str(len(body) + 2)}
    return raw(port.url, "PUT", "/bucket/key", body + b"\r\n", sent)


async def test_signed_chunks_are_taken_only_if_all_are_right(port: Port, bucket: str) -> None:
    data = bytes(range(256)) * 8192
    right = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    for wrong in (0, 20, 32):
        assert code(await port.http.send(in_chunks(port, data, wrong=wrong))) == "SignatureDoesNotMatch"
    assert code(await port.http.send(in_chunks(port, data, trailer="AAAAAA=="))) == "BadDigest"
    cut = in_chunks(port, data)
    cut = raw(
        port.url,
        "PUT",
        "/bucket/key",
        cut.content[:-200],
        {**cut.headers, "content-length": str(len(cut.content) - 200)},
    )
    assert code(await port.http.send(cut)) == "IncompleteBody"
    await kept_nothing(port)
    for request in (in_chunks(port, data), in_chunks(port, data, trailer=right)):
        reply = await port.http.send(request)
        assert reply.status_code == 200, reply.text
        assert reply.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'
    got = await port.send("GET", f"{bucket}/key")
    assert got.content == data and "content-encoding" not in got.headers


KEYS = [
    "..", "../..", "a/../b", "//", "/", "a//b", "./a", "a/", "a b", "a+b", "a%2Fb", "%", "a?b=c", "a#b", "\\..\\a", "~",
    "*", "a&b<c>\"'", "\x01\x7f\r\n", "ü/日本語/🙂", "e\u0301", "\u202e", "\ufffe", "k" * 1024, "日" * 341, "versions",
    "?acl",
]  # fmt: skip


async def test_a_key_is_any_text(port: Port, bucket: str) -> None:
    for key in KEYS:
        path = f"{bucket}/{quote(key, safe='/~')}"
        reply = await port.send("PUT", path, key.encode())
        assert reply.status_code == 200, (key, reply.text)
    for key in KEYS:
        reply = await port.send("GET", f"{bucket}/{quote(key, safe='/~')}")
        assert reply.content == key.encode(), key
    listed = ElementTree.fromstring((await port.send("GET", f"{bucket}?list-type=2&encoding-type=url")).content)
    space = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}
    found = [each.text or "" for each in listed.iterfind("s3:Contents/s3:Key", space)]
    assert found == [quote(key, safe="/-_.~*") for key in sorted(KEYS, key=str.encode)]
    assert len(port.cloud.objects.blobs) == len(KEYS)


NO_KEYS = [
    ("k" * 1025, "KeyTooLongError"), ("%E6%97%A5" * 342, "KeyTooLongError"), ("a%00b", "InvalidArgument"),
    ("a%ff", "InvalidURI"), ("a%ed%a0%80", "InvalidURI"),
]  # fmt: skip


async def test_what_is_no_text_is_no_key(port: Port, bucket: str) -> None:
    for key, expected in NO_KEYS:
        for method in ("PUT", "GET", "DELETE"):
            assert code(await port.send(method, f"{bucket}/{key}", DATA if method == "PUT" else b"")) == expected
    await kept_nothing(port)


async def begun(port: Port, *sizes: int) -> tuple[str, list[str]]:
    """An upload with parts of these sizes; its id, and their ETags."""
    reply = await port.send("POST", "/bucket/key?uploads")
    id = reply.text.partition("<UploadId>")[2].partition("<")[0]
    etags = []
    for number, size in enumerate(sizes, 1):
        part = await port.send("PUT", f"/bucket/key?partNumber={number}&uploadId={id}", bytes([number]) * size)
        assert part.status_code == 200, part.text
        etags.append(part.headers["etag"])
    return id, etags


def completion(*parts: tuple[object, str]) -> bytes:
    listed = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


async def test_parts_are_completed_as_s3_wants_it(port: Port, bucket: str) -> None:
    id, (first, second) = await begun(port, FIVE, 10)
    path = f"{bucket}/key?uploadId={id}"
    for body, expected in (
        (completion((2, second), (1, first)), "InvalidPartOrder"),
        (completion((1, first), (1, first)), "InvalidPartOrder"),
        (completion((1, first), (3, second)), "InvalidPart"),
        (completion((1, second)), "InvalidPart"),
        (completion((0, first)), "InvalidArgument"),
        (completion((10_001, first)), "InvalidArgument"),
        (completion(("x", first)), "MalformedXML"),
        (completion(), "MalformedXML"),
        (b"<CompleteMultipartUpload><Part/></CompleteMultipartUpload>", "MalformedXML"),
        (b"", "MalformedXML"),
    ):  # fmt: skip
        assert code(await port.send("POST", path, body)) == expected, body
    assert code(await port.send("POST", path, completion((1, first)), x_amz_mp_object_size="1")) == "InvalidRequest"
    reply = await port.send("POST", path, completion((1, first), (2, second)), x_amz_mp_object_size=str(FIVE + 10))
    assert reply.status_code == 200, reply.text
    assert code(await port.send("POST", path, completion((1, first), (2, second)))) == "NoSuchUpload"
    assert (await port.send("GET", f"{bucket}/key")).content == b"\1" * FIVE + b"\2" * 10
    await port.send("DELETE", f"{bucket}/key")
    await kept_nothing(port)


async def test_parts_that_are_too_small_are_refused(port: Port, bucket: str) -> None:
    id, (first, second) = await begun(port, 10, 10)
    path = f"{bucket}/key?uploadId={id}"
    assert code(await port.send("POST", path, completion((1, first), (2, second)))) == "EntityTooSmall"
    assert (await port.send("DELETE", path)).status_code == 204
    assert code(await port.send("DELETE", path)) == "NoSuchUpload"
    await kept_nothing(port)


async def test_an_upload_is_of_one_object(port: Port, cloud: Cloud, bob: Person, bucket: str) -> None:
    id, [etag] = await begun(port, 10)
    other = await opened(cloud, bob, port.address)
    await other.send("PUT", "/bobs")
    for method, path, body in (
        ("PUT", f"{bucket}/other?partNumber=2&uploadId={id}", DATA), ("GET", f"{bucket}/other?uploadId={id}", b""),
        ("POST", f"{bucket}/other?uploadId={id}", completion((1, etag))), ("DELETE", f"{bucket}/o?uploadId={id}", b""),
    ):  # fmt: skip
        assert code(await port.send(method, path, body)) == "NoSuchUpload"
        assert code(await other.send(method, path.replace(bucket, "/bobs"), body)) == "NoSuchUpload"
    for wrong in ("x", str(uuid4())):
        assert code(await port.send("PUT", f"{bucket}/key?partNumber=1&uploadId={wrong}", DATA)) == "NoSuchUpload"
    for number in ("0", "10001", "x", ""):
        path = f"{bucket}/key?partNumber={number}&uploadId={id}"
        assert code(await port.send("PUT", path, DATA)) == "InvalidArgument"
    assert (await port.kept())[0] == 1
    await port.send("DELETE", f"{bucket}/key?uploadId={id}")
    await kept_nothing(port)


UNREADABLE: list[tuple[str, bytes, str]] = [
    ("?delete", b"", "MalformedXML"),
    ("?delete", b"<Delete></Delete>", "MalformedXML"),
    ("?delete", b"<Delete>" + b"<Object><Key>a</Key></Object>" * 1001 + b"</Delete>", "MalformedXML"),
    ("?delete", b"<Delete><Object><Key></Key></Object></Delete>", "InvalidArgument"),
    ("?delete", b"<!DOCTYPE a [<!ENTITY b 'c'>]><Delete><Object><Key>&b;</Key></Object></Delete>", "MalformedXML"),
    ("?delete", b"<Delete>" + bytes(2**21) + b"</Delete>", "MaxMessageLengthExceeded"),
    ("?versioning", b"<VersioningConfiguration><Status>On</Status></VersioningConfiguration>", "MalformedXML"),
    ("?versioning", b"<" * 2**20 + b"x", "MaxMessageLengthExceeded"),
    ("", b"<x/>", "MalformedXML"),
    ("?policy", b"\xff", "MalformedPolicy"),
    ("?lifecycle", b"<LifecycleConfiguration/>", "MalformedXML"),
    ("?lifecycle", b"<LifecycleConfiguration><Rule><Status>Enabled</Status><Transition/></Rule>"
                   b"</LifecycleConfiguration>", "NotImplemented"),
    ("?encryption", b"<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>"
                    b"<SSEAlgorithm>aws:kms</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule>"
                    b"</ServerSideEncryptionConfiguration>", "NotImplemented"),
    ("?cors", b"<CORSConfiguration/>", "MalformedXML"),
    ("?tagging", b"<Tagging/>", "MalformedXML"),
    ("?acl", b"<AccessControlPolicy><AccessControlList><Grant/></AccessControlList></AccessControlPolicy>",
     "MalformedACLError"),
    ("?object-lock", b"<ObjectLockConfiguration/>", "NotImplemented"),
    ("?website", b"<WebsiteConfiguration/>", "NotImplemented"),
]  # fmt: skip


async def test_bodies_that_cannot_be_read_are_refused(port: Port, bucket: str) -> None:
    for path, body, expected in UNREADABLE:
        method, where = "POST" if path == "?delete" else "PUT", bucket if path else "/another"
        assert code(await port.send(method, f"{where}{path}", body)) == expected, (path, body[:100])


@pytest.mark.parametrize(
    "name", ["A", "ab", "Upper", "under_score", "a..b", "127.0.0.1", "buckets", "-ab", "x" * 64, "..."]
)
async def test_a_name_that_no_bucket_can_have_is_refused(port: Port, name: str) -> None:
    assert code(await port.send("PUT", f"/{name}")) == "InvalidBucketName"


async def test_a_bucket_that_is_there_is_told_so(port: Port, bucket: str) -> None:
    assert code(await port.send("PUT", bucket)) == "BucketAlreadyOwnedByYou"
    await port.send("PUT", f"{bucket}/key", DATA)
    assert code(await port.send("DELETE", bucket)) == "BucketNotEmpty"
    await port.send("DELETE", f"{bucket}/key")
    assert (await port.send("DELETE", bucket)).status_code == 204
    assert code(await port.send("DELETE", bucket)) == "NoSuchBucket"
    locked = await port.send("PUT", "/locked", x_amz_bucket_object_lock_enabled="true")
    assert code(locked) == "NotImplemented"


async def test_a_head_that_fails_has_no_body(port: Port, bucket: str) -> None:
    for path, status in ((f"{bucket}/none", 404), ("/nowhere", 404)):
        reply = await port.send("HEAD", path)
        assert (reply.status_code, reply.content) == (status, b"")
    signed = port.signed("GET", "/")
    reply = await port.http.send(raw(port.url, "HEAD", "/", b"", dict(signed.headers)))
    assert (reply.status_code, reply.content) == (403, b"")


NO_LISTS = [
    "max-keys=x", "max-keys=-1", "max-keys=99999999999", "list-type=3", "encoding-type=x", "prefix=%ff", "prefix=%00",
    "list-type=2&continuation-token=x", "prefix=a&prefix=b", "versions&version-id-marker=x", "acl&policy",
    "list-type=2&continuation-token=AA%3D%3D",
]  # fmt: skip


async def test_lists_that_cannot_be_are_refused(port: Port, bucket: str) -> None:
    for query in NO_LISTS:
        assert code(await port.send("GET", f"{bucket}?{query}")) == "InvalidArgument", query


async def test_every_combination_has_an_answer_of_s3(port: Port, bucket: str) -> None:
    await port.send("PUT", f"{bucket}/key", DATA)
    usual = product(("GET", "PUT", "POST", "DELETE", "HEAD"), ["", *sorted(SUBRESOURCES), "nonsense"])
    for method, name in (*usual, ("OPTIONS", ""), ("PATCH", ""), ("TRACE", ""), ("PATCH", "acl")):
        for path in ("/", bucket, f"{bucket}/key"):
            reply = await port.send(method, f"{path}?{name}" if name else path)
            assert reply.status_code in {*errors.STATUSES.values(), 200, 204} - {500}, (method, path, name, reply.text)
            if reply.status_code >= 400 and method != "HEAD":
                code(reply)


headers = st.dictionaries(
    st.sampled_from([
        "range", "if-match", "if-none-match", "if-modified-since", "if-range", "x-amz-checksum-mode", "x-amz-acl",
        "x-amz-copy-source", "x-amz-copy-source-range", "x-amz-metadata-directive", "x-amz-decoded-content-length",
        "x-amz-trailer", "x-amz-tagging", "content-type", "expires", "content-encoding", "x-amz-meta-a", "host",
        "origin", "x-amz-object-attributes", "content-md5", "x-amz-checksum-sha1", "x-forwarded-for",
    ]),
    st.one_of(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip),
              st.sampled_from(["bytes=0-1", "bytes=5-", "bytes=-0", "*", "COPY", "bucket/key", "0",
                               "x-amz-checksum-crc32"])),
    max_size=4,
)  # fmt: skip
queries = st.dictionaries(
    st.sampled_from([*sorted(SUBRESOURCES), "versionId", "partNumber", "list-type", "prefix", "delimiter", "marker",
                     "max-keys", "key-marker", "response-expires", "uploadId", "X-Amz-Signature", "x-amz-acl"]),
    st.one_of(st.text(max_size=20), st.sampled_from(["1", "0", "null", "2", "a/b"])), max_size=3,
)  # fmt: skip
targets = st.sampled_from(
    ["/", "/bucket", "/bucket/key", "/bucket/none", "/%00", "/bucket/%ff", "//", "/..", "/bucket//"]
)


async def test_nothing_that_is_sent_is_a_failure_of_ours(port: Port, bucket: str) -> None:
    await port.send("PUT", f"{bucket}/key", DATA)
    loop = asyncio.get_running_loop()

    @settings(max_examples=150)
    @given(st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS"]), targets, queries, headers,
           st.one_of(st.binary(max_size=100), st.sampled_from([b"<Delete/>", b"0\r\n\r\n"])),
           st.sampled_from(["", "UNSIGNED-PAYLOAD", *chunks.CHUNKED]))  # fmt: skip
    def send(method: str, path: str, query: dict[str, str], sent: dict[str, str], body: bytes, payload: str) -> None:
        if query:
            path += "?" + "&".join(f"{name}={quote(value, errors='replace')}" for name, value in query.items())
        payload = payload or hashlib.sha256(body).hexdigest()
        request = port.signed_as(payload, method, quote(path, safe="/?&=%") if path.isascii() else path, body, sent)
        reply = asyncio.run_coroutine_threadsafe(port.http.send(request), loop).result(20)
        assert reply.status_code < 500 or reply.status_code == 501, reply.text

    await asyncio.to_thread(send)


async def test_a_request_that_is_not_http_is_refused(port: Port) -> None:
    for line in (b"GET /bucket/\xc3\xa9 HTTP/1.1\r\nhost: x\r\n\r\n", b"GET\r\n\r\n", b"\0\0\0\r\n\r\n"):
        reader, writer = await asyncio.open_connection(*port.address.split(":"))
        writer.write(line)
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_buckets_may_be_in_the_host(port: Port, bucket: str) -> None:
    await port.send("PUT", f"{bucket}/a/b", DATA)
    host = f"bucket.localhost:{port.address.rpartition(':')[2]}"
    request = port.signed_as("UNSIGNED-PAYLOAD", "GET", "/a/b", b"", {})
    wrong = raw(port.url, "GET", "/a/b", b"", {**request.headers, "host": host})
    assert code(await port.http.send(wrong)) == "SignatureDoesNotMatch"
    other = Port(port.cloud, host, port.access_key_id, port.secret_access_key, port.http)
    signed = other.signed_as("UNSIGNED-PAYLOAD", "GET", "/a/b", b"", {})
    assert (await port.http.send(raw(port.url, "GET", "/a/b", b"", dict(signed.headers)))).content == DATA
    listed = other.signed_as("UNSIGNED-PAYLOAD", "GET", "/", b"", {})
    assert b"<Key>a/b</Key>" in (await port.http.send(raw(port.url, "GET", "/", b"", dict(listed.headers)))).content
