"""Images: registered, uploaded, looked at, started from, deleted."""

import asyncio
import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from thecloud.v1 import images_pb2 as pb
from thecloud.v1 import images_pb2_grpc

from rest_shim import app as rest
from rest_shim import uploads
from rest_shim.channel import ChannelBackend
from server import app as server_app
from server import image_archive, image_files
from server.pipeline import Pipeline
from server.services import images
from tests import image_samples as samples
from tests.conftest import Cloud, Person, until
from tests.engines import require

DOCUMENTED = {
    "name": "my-custom-image",
    "description": "My custom OS image",
    "os": "linux",
    "version": "22.04",
    "is_public": False,
}


async def registered(person: Person, **fields: Any) -> str:
    reply = await person.rest.post("/images", json=DOCUMENTED | fields)
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]  # type: ignore[no-any-return]


async def upload(person: Person, id: str, data: bytes, **headers: str) -> httpx.Response:
    """As the field `file` of a form."""
    return await person.rest.post(f"/images/{id}/upload", files={"file": ("disk.img", data)}, headers=headers)


async def shown(person: Person, id: str) -> dict[str, Any]:
    reply = await person.rest.get(f"/images/{id}")
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


def files(cloud: Cloud) -> list[str]:
    """What is in the folder of images."""
    folder = cloud.app.config.data / "images"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["reason"]


# Registered


async def test_an_image_lives_as_documented(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    made = await ada.rest.post("/images", json=DOCUMENTED)
    assert made.status_code == 201
    body = made.json()
    assert DOCUMENTED.items() <= body.items()
    assert (body["status"], body["size_gb"], body["format"], body["received_bytes"]) == ("PENDING", 0, "", 0)
    assert "checksum" not in body
    data = samples.raw()
    reply = await upload(ada, body["id"], data)
    assert reply.status_code == 200, reply.text
    there = reply.json()
    assert (there["status"], there["format"], there["size_gb"]) == ("ACTIVE", "raw", 1)
    assert (there["size_bytes"], there["checksum"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert "received_bytes" not in there
    await cloud.settle()
    [listed] = (await ada.rest.get("/images")).json()
    assert listed["id"] == body["id"]
    assert (cloud.app.config.data / "images" / body["id"]).read_bytes() == data
    gone = await ada.rest.delete(f"/images/{body['id']}")
    assert (gone.status_code, gone.json()) == (200, {"message": "image deleted"})
    assert (await shown(ada, body["id"]))["status"] == "DELETING"
    await cloud.settle()
    assert (await ada.rest.get(f"/images/{body['id']}")).status_code == 404
    assert files(cloud) == []
    actions = [entry["action"] for entry in (await ada.rest.get("/audit")).json()]
    assert actions == ["IMAGE_DELETE", "IMAGE_UPLOAD", "IMAGE_CREATE"]


async def test_what_is_registered_keeps_the_rules(ada: Person) -> None:
    for wrong in ({"name": ""}, {"name": "a b"}, {"name": "x" * 65}, {"os": "x" * 51}, {"description": "x" * 1025}):
        assert refusal(await ada.rest.post("/images", json=DOCUMENTED | wrong)) == (400, "INVALID_ARGUMENT"), wrong
    tried = await ada.rest.post("/images?dry_run=true", json=DOCUMENTED)
    assert (tried.status_code, tried.json()["estimated_price_per_hour"]) == (200, 0)
    assert (await ada.rest.get("/images")).json() == []


async def test_the_enveloped_form_is_the_same(ada: Person) -> None:
    id = await registered(ada)
    assert (await ada.rest.get(f"/api/v1/images/{id}")).json()["data"] == await shown(ada, id)
    assert [each["id"] for each in (await ada.rest.get("/api/v1/images")).json()["data"]] == [id]


async def test_a_public_image_is_everybodys_to_see_and_its_tenants_to_change(ada: Person, bob: Person) -> None:
    own, public = await registered(ada, name="own"), await registered(ada, name="public", is_public=True)
    assert {each["id"] for each in (await ada.rest.get("/images")).json()} == {own, public}
    assert [each["id"] for each in (await bob.rest.get("/images")).json()] == [public]
    assert (await shown(bob, "public"))["id"] == public
    for id, status in ((own, 404), (public, 403), (str(uuid4()), 404)):
        assert (await bob.rest.delete(f"/images/{id}")).status_code == status
        assert (await upload(bob, id, b"x")).status_code == status
    assert (await bob.rest.get(f"/images/{own}")).status_code == 404
    assert (await ada.rest.get("/images")).json() == (await ada.rest.get("/images")).json()


async def test_a_name_means_ones_own_image_before_a_public_one(ada: Person, bob: Person) -> None:
    await registered(ada, name="ubuntu", is_public=True)
    own = await registered(bob, name="ubuntu")
    assert (await shown(bob, "ubuntu"))["id"] == own
    await registered(bob, name="ubuntu")
    assert refusal(await bob.rest.get("/images/ubuntu")) == (409, "IN_USE")
    assert refusal(await bob.rest.get("/images/debian")) == (400, "INVALID_ARGUMENT")


async def test_a_viewer_may_look_and_no_more(cloud: Cloud, ada: Person) -> None:
    viewer = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    id = await registered(ada)
    assert (await shown(viewer, id))["id"] == id
    for reply in (
        await viewer.rest.post("/images", json=DOCUMENTED), await upload(viewer, id, b"x" * 2**20),
        await viewer.rest.delete(f"/images/{id}"),
        await viewer.rest.post("/images/import", json={"name": "a", "url": "http://example.com/a"}),
    ):  # fmt: skip
        assert refusal(reply) == (403, "PERMISSION_DENIED")
    assert files(cloud) == []


async def test_there_are_as_many_as_the_quota_allows(cloud: Cloud, ada: Person) -> None:
    await cloud.value("insert into quotas values ($1, 'images', 1)", ada.tenant_id)
    id = await registered(ada)
    for reply in (
        await ada.rest.post("/images", json=DOCUMENTED),
        await ada.rest.post("/images/import", json={"name": "a", "url": "http://example.com/a"}),
    ):
        assert refusal(reply) == (403, "QUOTA_EXCEEDED")
    await ada.rest.delete(f"/images/{id}")
    await registered(ada)


# Uploaded


async def test_an_upload_may_be_the_whole_body(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    data = samples.raw()
    id = await registered(ada)
    reply = await ada.rest.post(
        f"/images/{id}/upload", content=data, headers={"content-type": "application/octet-stream"}
    )
    assert (reply.status_code, reply.json()["checksum"]) == (200, hashlib.sha256(data).hexdigest())
    again = await ada.rest.post(f"/images/{id}/upload", content=data)
    assert refusal(again) == (409, "ALREADY_EXISTS")


async def test_an_upload_over_grpc(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    data, id = samples.raw(), await registered(ada)
    pieces = [pb.UploadImageRequest(id=id)]
    pieces += [pb.UploadImageRequest(data=data[at : at + 300_000]) for at in range(0, len(data), 300_000)]
    image = await images_pb2_grpc.ImageServiceStub(cloud.channel).UploadImage(iter(pieces), metadata=ada.metadata)
    assert (image.status, image.checksum) == (pb.Image.STATE_ACTIVE, hashlib.sha256(data).hexdigest())


async def test_an_upload_is_audited_and_replayed(ada: Person) -> None:
    require("qemu-img")
    id, key = await registered(ada), uuid4().hex
    first = await upload(ada, id, samples.raw(), **{"idempotency-key": key})
    again = await upload(ada, id, samples.raw(), **{"idempotency-key": key})
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert (await upload(ada, id, b"x")).status_code == 409
    entries = [each for each in (await ada.rest.get("/audit")).json() if each["action"] == "IMAGE_UPLOAD"]
    assert [(each["status"], each["resource_id"]) for each in entries] == [("failure", id), ("success", id)]


async def test_an_upload_in_parts_goes_on_where_it_was(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    data, id = samples.raw(3), await registered(ada)
    total = len(data)
    for start, end in ((0, 1000), (1000, 2_000_000)):
        reply = await upload(ada, id, data[start:end], **{"content-range": f"bytes {start}-{end - 1}/{total}"})
        assert (reply.status_code, reply.json()["status"], reply.json()["received_bytes"]) == (200, "PENDING", end)
    for wrong in (0, 1999_999, 2_000_001):
        part = {"content-range": f"bytes {wrong}-{wrong}/{total}"}
        reply = await upload(ada, id, b"x", **part) if wrong else None
        if reply:
            assert refusal(reply) == (416, "WRONG_OFFSET")
            assert reply.json()["error"]["metadata"] == {"offset": "2000000"}
    assert (await shown(ada, id))["received_bytes"] == 2_000_000
    reply = await ada.rest.post(f"/images/{id}/upload?offset=2000000&size_bytes={total}", content=data[2_000_000:])
    assert (reply.status_code, reply.json()["checksum"]) == (200, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "text",
    ["bytes 0-1/1", "bytes 5-4/10", "bytes 0-1/*", "bytes */5", "items 0-1/5", "", "bytes 0-99999999999999999999/5"],
)
async def test_a_range_that_is_none_is_refused(cloud: Cloud, ada: Person, text: str) -> None:
    id = await registered(ada)
    assert refusal(await upload(ada, id, b"xx", **{"content-range": text})) == (400, "INVALID_ARGUMENT")
    assert files(cloud) == []


async def test_a_range_that_does_not_fit_what_comes_is_refused(ada: Person) -> None:
    id = await registered(ada)
    for sent in (b"x" * 99, b"x" * 101, b""):
        reply = await upload(ada, id, sent, **{"content-range": "bytes 0-99/1000"})
        assert refusal(reply) == (400, "INVALID_ARGUMENT")
    assert (await shown(ada, id))["status"] == "PENDING"


async def test_only_one_uploads_at_a_time(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    data, id, go_on = samples.raw(2), await registered(ada), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield data[: 2**20]
        await go_on.wait()
        yield data[2**20 :]

    first = asyncio.create_task(ada.rest.post(f"/images/{id}/upload", content=slowly()))

    async def begun() -> bool:
        return bool((await shown(ada, id))["received_bytes"])

    await until(begun)
    assert refusal(await upload(ada, id, data)) == (409, "IN_USE")
    go_on.set()
    assert (await first).json()["checksum"] == hashlib.sha256(data).hexdigest()


async def told(cloud: Cloud, path: str, headers: dict[str, str], events: Iterable[Any]) -> tuple[int, Any]:
    """What the server answers to a body in these pieces; one that is an Exception is the client leaving."""
    sent: list[Any] = []
    waiting = iter(events)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        piece = next(waiting, None)
        if piece is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        if isinstance(piece, Exception):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "client": ("127.0.0.1", 1), "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    await cloud.asgi(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(each.get("body", b"") for each in sent[1:]))


async def test_a_client_that_leaves_may_go_on_later(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    data, id = samples.raw(3), await registered(ada)
    pieces = [data[:1_500_000], data[1_500_000:2_500_000], ConnectionError()]
    status, _ = await told(cloud, f"/images/{id}/upload", {"x-api-key": ada.key}, pieces)
    assert status == 408
    seen = await shown(ada, id)
    assert seen["status"] == "PENDING"
    there = seen["received_bytes"]
    assert 2**20 <= there <= 2_500_000
    rest_of_it = {"content-range": f"bytes {there}-{len(data) - 1}/{len(data)}"}
    reply = await upload(ada, id, data[there:], **rest_of_it)
    assert (reply.status_code, reply.json()["checksum"]) == (200, hashlib.sha256(data).hexdigest())


async def test_a_client_that_leaves_over_grpc_may_go_on_later(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    data, id = samples.raw(2), await registered(ada)
    stub = images_pb2_grpc.ImageServiceStub(cloud.channel)
    call = stub.UploadImage(metadata=ada.metadata)
    await call.write(pb.UploadImageRequest(id=id, data=data[: 2**20]))

    async def there() -> bool:
        return (await shown(ada, id))["received_bytes"] == 2**20  # type: ignore[no-any-return]

    await until(there)
    call.cancel()
    await until(lambda: unlocked(cloud, id))
    last = pb.UploadImageRequest(id=id, offset=2**20, data=data[2**20 :])
    image = await stub.UploadImage(iter([last]), metadata=ada.metadata)
    assert image.checksum == hashlib.sha256(data).hexdigest()


async def unlocked(cloud: Cloud, id: str) -> bool:
    """Whether nobody is adding to the image's part."""
    try:
        image_files.Part.open(cloud.app.config, UUID(id), None).close()
    except image_files.Busy:
        return False
    return True


async def test_a_shim_on_its_own_passes_uploads_on(cloud: Cloud, ada: Person) -> None:
    """Over a gRPC channel, with what the server and the client have to say."""
    require("qemu-img")
    asgi = rest.create(ChannelBackend(cloud.channel), server_app.services(), rest.Settings())
    apart = replace_asgi(cloud, cloud.app, asgi)
    client, data, id = await apart.client(**{"x-api-key": ada.key}), samples.raw(2), await registered(ada)
    status, reply = await told(apart, f"/images/{id}/upload", {"x-api-key": ada.key}, [data[:1000], ConnectionError()])
    assert (status, reply["error"]["reason"]) == (408, "REQUEST_TIMEOUT")
    assert refusal(await client.post(f"/images/{id}/upload?offset=7", content=b"x")) == (416, "WRONG_OFFSET")
    await until(lambda: unlocked(cloud, id))
    reply = await client.post(f"/images/{id}/upload", files={"file": data})
    assert (reply.status_code, reply.json()["checksum"]) == (200, hashlib.sha256(data).hexdigest())
    assert refusal(await client.post(f"/images/{uuid4()}/upload", content=b"x")) == (404, "NOT_FOUND")


def reconfigured(cloud: Cloud, **settings: Any) -> tuple[Cloud, Pipeline]:
    """The same cloud with other settings."""
    app = replace(cloud.app, config=replace(cloud.app.config, **settings), stopping=asyncio.Event())
    pipeline = Pipeline(app, server_app.implemented(app))
    return replace_asgi(cloud, app, rest.create(pipeline, server_app.services(), rest.Settings())), pipeline


def replace_asgi(cloud: Cloud, app: server_app.App, asgi: Any) -> Cloud:
    made = replace(cloud, app=app, asgi=asgi)
    made.anonymous = cloud.anonymous
    return made


async def test_a_client_that_sends_nothing_is_told_so(cloud: Cloud, ada: Person) -> None:
    impatient, pipeline = reconfigured(cloud, idle_seconds=0.2)
    client, id = await impatient.client(**{"x-api-key": ada.key}), await registered(ada)

    async def never() -> AsyncIterator[bytes]:
        yield b"x" * uploads.PIECE
        await asyncio.Event().wait()

    reply = await client.post(f"/images/{id}/upload", content=never())
    assert refusal(reply) == (408, "REQUEST_TIMEOUT")
    assert (await shown(ada, id))["received_bytes"] == uploads.PIECE
    assert not pipeline.streams


async def test_a_stopping_server_ends_uploads(cloud: Cloud, ada: Person) -> None:
    stopping, _ = reconfigured(cloud)
    client, id = await stopping.client(**{"x-api-key": ada.key}), await registered(ada)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * uploads.PIECE
        stopping.app.stopping.set()
        await asyncio.Event().wait()

    assert refusal(await client.post(f"/images/{id}/upload", content=pieces())) == (503, "UNAVAILABLE")


async def test_a_revoked_key_ends_its_uploads(cloud: Cloud, ada: Person) -> None:
    id = await registered(ada)
    made = (await ada.rest.post("/auth/keys", json={"name": "a"})).json()
    client = await cloud.client(**{"x-api-key": made["key"]})

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * uploads.PIECE
        await ada.rest.delete(f"/auth/keys/{made['id']}")
        await asyncio.Event().wait()

    reply = await client.post(f"/images/{id}/upload", content=pieces())
    assert refusal(reply) == (401, "UNAUTHENTICATED")
    assert (await shown(ada, id))["status"] == "PENDING"


async def test_a_user_has_so_many_streams(cloud: Cloud, ada: Person) -> None:
    few, pipeline = reconfigured(cloud, streams=1)
    client = await few.client(**{"x-api-key": ada.key})
    ids, go_on = [await registered(ada) for _ in range(2)], asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield b"x" * uploads.PIECE
        await go_on.wait()

    first = asyncio.create_task(client.post(f"/images/{ids[0]}/upload", content=waiting()))

    async def is_open() -> bool:
        return bool(pipeline.streams)

    await until(is_open)
    assert refusal(await client.post(f"/images/{ids[1]}/upload", content=b"x")) == (429, "RATE_LIMITED")
    go_on.set()
    assert (await first).status_code == 400


async def test_an_image_that_is_deleted_takes_no_more(cloud: Cloud, ada: Person) -> None:
    id = await registered(ada)

    async def pieces() -> AsyncIterator[bytes]:
        yield samples.raw(2)
        assert (await ada.rest.delete(f"/images/{id}")).status_code == 200
        await cloud.settle()

    assert refusal(await ada.rest.post(f"/images/{id}/upload", content=pieces())) == (404, "NOT_FOUND")
    assert files(cloud) == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_that_is_too_large_leaves_nothing(cloud: Cloud, ada: Person, announced: bool) -> None:
    small, _ = reconfigured(cloud, image_bytes=3 * 2**20)
    client, id = await small.client(**{"x-api-key": ada.key}), await registered(ada)
    size = 4 * 2**20
    headers = {"content-range": f"bytes 0-{size - 1}/{size}"} if announced else {}
    reply = await client.post(f"/images/{id}/upload", content=b"x" * size, headers=headers)
    assert refusal(reply) == (413, "PAYLOAD_TOO_LARGE")
    assert reply.json()["error"]["metadata"] == {"limit_bytes": str(3 * 2**20)}
    assert files(cloud) == []
    assert (await shown(ada, id))["status"] == "PENDING"


async def test_a_file_beyond_the_quota_leaves_nothing(cloud: Cloud, ada: Person) -> None:
    await cloud.value("insert into quotas values ($1, 'image_gb', 0)", ada.tenant_id)
    id = await registered(ada)
    assert refusal(await upload(ada, id, samples.raw())) == (403, "QUOTA_EXCEEDED")
    assert files(cloud) == []


async def test_parts_of_other_images_count_too(cloud: Cloud, ada: Person) -> None:
    """Or many unfinished uploads would take more than the quota."""
    await cloud.value("insert into quotas values ($1, 'image_gb', 1)", ada.tenant_id)
    first, second = [await registered(ada) for _ in range(2)]
    image_files.folder(cloud.app.config)
    with image_files.part(cloud.app.config, UUID(first)).open("wb") as part:
        part.truncate(2**30)
    assert refusal(await upload(ada, second, b"x")) == (403, "QUOTA_EXCEEDED")


async def test_a_full_disk_leaves_nothing(cloud: Cloud, ada: Person) -> None:
    full, _ = reconfigured(cloud, image_spare_bytes=2**62)
    client, id = await full.client(**{"x-api-key": ada.key}), await registered(ada)
    reply = await client.post(f"/images/{id}/upload", content=samples.raw())
    assert refusal(reply) == (503, "UNAVAILABLE")
    assert "no room" in reply.json()["error"]["message"]
    assert files(cloud) == []


async def test_a_quota_that_shrinks_during_the_upload_is_kept(cloud: Cloud, ada: Person) -> None:
    """In the transaction at the end; the file that was there for a moment is swept."""
    require("qemu-img")
    id = await registered(ada)

    async def pieces() -> AsyncIterator[bytes]:
        yield samples.raw(2)
        await cloud.value("insert into quotas values ($1, 'image_gb', 0)", ada.tenant_id)

    reply = await ada.rest.post(f"/images/{id}/upload", content=pieces())
    assert refusal(reply) == (403, "QUOTA_EXCEEDED")
    assert (await shown(ada, id))["status"] == "PENDING"
    await images.sweep(cloud.app)
    assert files(cloud) == []


# Forms


async def form(
    cloud: Cloud, ada: Person, body: bytes, *, size: int = 7, kind: str = "multipart/form-data; boundary=b"
) -> Any:
    id = await registered(ada)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    headers = {"x-api-key": ada.key, "content-type": kind}
    status, reply = await told(cloud, f"/images/{id}/upload", headers, pieces)
    return status, reply["error"]["message"] if status >= 400 else reply


@pytest.mark.parametrize("size", [1, 2, 5, 64, 10_000])
async def test_a_form_is_read_whatever_its_pieces(cloud: Cloud, ada: Person, size: int) -> None:
    require("qemu-img")
    data = samples.boot_sector(2) + b"\r\n--c\r\n--\r\n-" * 40 + b"-" * 64
    data = data[:1024].ljust(1024, b"-")
    body = (
        b'preamble\r\n--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nx\r\n--b\r\n'
        b'content-disposition: form-data; filename="a;name=x"; name="file"\r\nContent-Type: x/y\r\n\r\n'
        + data
        + b"\r\n--b\r\nContent-Disposition: form-data; name=after\r\n\r\n\r\n--b--\r\nepilogue"
    )
    status, reply = await form(cloud, ada, body, size=size)
    assert (status, reply["checksum"]) == (200, hashlib.sha256(data).hexdigest())


FILE = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "ends before"), (b"--b--", "no field 'file'"), (FILE + b"abc", "ends before"),
        (b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nabc\r\n--b--', "no field 'file'"),
        (FILE + b"a\r\n" + FILE + b"b\r\n--b--", "several fields"), (b"--b\r\n" + b"x" * 20_000, "headers of a part"),
        (b"--b\r\n\r\n\r\n" * 101 + b"--b--", "more than 100 parts"), (b"no form at all", "ends before"),
        (b"--b\r\n\r\nabc\r\n--b--", "no field 'file'"),
    ],
)  # fmt: skip
async def test_a_form_that_is_none_is_refused(cloud: Cloud, ada: Person, body: bytes, said: str) -> None:
    status, message = await form(cloud, ada, body)
    assert status == 400
    assert said in message


@pytest.mark.parametrize("boundary", ["", "; boundary=", '; boundary=""', "; boundary=" + '"' + "b" * 71 + '"'])
async def test_a_form_without_a_boundary_is_refused(cloud: Cloud, ada: Person, boundary: str) -> None:
    status, message = await form(cloud, ada, FILE + b"abc\r\n--b--", kind=f"multipart/form-data{boundary}")
    assert (status, "wants a boundary" in message) == (400, True), message


# Looked at


@cache
def bomb() -> bytes:
    """Some kilobytes that unpack to 64 MiB."""
    return gzip.compress(bytes(64 * 2**20))


def sparse_layer() -> bytes:
    """A file of 8 EiB in 512 bytes, as extended headers can tell."""
    record = b"43 GNU.sparse.realsize=9223372036854775807\n"
    header = tarfile.TarInfo("x")
    header.type, header.size = b"x", len(record)
    return header.tobuf() + record.ljust(512, b"\0") + samples.layer(("big", b"x"))


def header_of(path: Path, **fields: tuple[int, bytes]) -> bytes:
    data = bytearray(path.read_bytes())
    for offset, value in fields.values():
        data[offset : offset + len(value)] = value
    return bytes(data)


def hostile(kind: str, folder: Path) -> bytes:
    """A file of this kind."""
    make = samples.qemu_img
    match kind:
        case "backing file":
            make("create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "a", folder=folder)
        case "another file":
            make(
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                f"data_file={folder}/data,data_file_raw=on",
                "a",
                "1M",
                folder=folder,
            )
        case "it may have":
            make("create", "-q", "-f", "qcow2", "a", "2T", folder=folder)
        case "damaged or truncated":
            return samples.qcow2(folder).read_bytes()[:1_000_000]
        case "its tables are not in it":
            return samples.qcow2(folder).read_bytes()[:100_000]
        case "ends within its header":
            return samples.qcow2(folder).read_bytes()[:80]
        case "says what cannot be":
            return header_of(samples.qcow2(folder), bits=(20, b"\0\0\0\x40"))
        case "extensions without an end":
            return header_of(samples.qcow2(folder), kind=(112, b"\x01\x02\x03\x04\x7f\xff\xff\xff"))
        case "encrypted":
            return header_of(samples.qcow2(folder), crypt=(32, b"\0\0\0\2"))
        case "features that are not known":
            return header_of(samples.qcow2(folder), incompatible=(72, b"\x80\0\0\0\0\0\0\0"))
        case "has snapshots":
            path = samples.qcow2(folder)
            make("snapshot", "-c", "s", path.name, folder=folder)
            return path.read_bytes()
        case "VMDK":
            make("create", "-q", "-f", "vmdk", "a", "1M", folder=folder)
        case "VHD disk":
            make("create", "-q", "-f", "vpc", "a", "1M", folder=folder)
        case "VHDX":
            make("create", "-q", "-f", "vhdx", "a", "1M", folder=folder)
        case "VDI":
            make("create", "-q", "-f", "vdi", "a", "1M", folder=folder)
        case "zip":
            return samples.zipped()
        case "gzip":
            return bomb()
        case "ISO 9660":
            return b"\0" * 0x8001 + b"CD001" + b"\0" * 4096
        case "no partition table":
            return b"A" * 4096
        case "whole sectors":
            return b"hello"
        case "empty":
            return b""
        case "partitions or file system end":
            return samples.boot_sector(4096) + b"\0" * 4096
    return (folder / "a").read_bytes()


HOSTILE = [
    "backing file", "another file", "it may have", "damaged or truncated", "its tables are not in it",
    "says what cannot be",
    "ends within its header", "extensions without an end", "encrypted", "features that are not known", "has snapshots",
    "VMDK", "VHD disk", "VHDX", "VDI", "zip", "gzip", "ISO 9660", "no partition table", "whole sectors", "empty",
    "partitions or file system end",
]  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_disk_is_refused_with_the_reason(cloud: Cloud, ada: Person, tmp_path: Path, kind: str) -> None:
    require("qemu-img")
    id = await registered(ada)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    reply = await upload(ada, id, hostile(kind, scratch))
    await is_refused(cloud, ada, id, reply, kind)


async def is_refused(cloud: Cloud, ada: Person, id: str, reply: httpx.Response, said: str) -> None:
    assert refusal(reply) == (400, "INVALID_ARGUMENT")
    assert said in reply.json()["error"]["message"]
    seen = await shown(ada, id)
    assert (seen["status"], seen["format"], seen["size_bytes"]) == ("ERROR", "", 0)
    assert said in seen["status_message"]
    assert files(cloud) == []
    await cloud.settle()
    require("qemu-img")
    assert (await upload(ada, id, samples.raw())).json()["status"] == "ACTIVE", "another file may be uploaded"


def archives() -> dict[str, bytes]:
    """By what is said of each."""
    layer = samples.layer(("hello", b"hi"))
    packed = gzip.compress(layer)
    device = tarfile.TarInfo("0/layer.tar")
    device.type = tarfile.BLKTYPE
    hard = samples.link("0/layer.tar", "/etc/passwd")
    hard.type = tarfile.LNKTYPE
    whole = samples.archive(layer)
    damaged = bytearray(whole)
    damaged[10] ^= 1
    long = tarfile.TarInfo("x")
    long.type, long.size = b"L", 2**40
    one = [{"Config": "config.json", "Layers": ["0/layer.tar"]}]
    return {
        "0/layer.tar' in the archive is a link": samples.archive(
            layer, extra=(samples.link("0/layer.tar", "/etc/passwd"),)
        ),
        "is a link or a device": samples.archive(layer, extra=(device,)),
        "layer.tar' in the archive is a link or": samples.archive(layer, extra=(hard,)),
        "leads out of it": samples.archive(layer, extra=(tarfile.TarInfo("../../etc/cron.d/x"),)),
        "leads out of it: '/etc": samples.archive(layer, extra=(tarfile.TarInfo("/etc/cron.d/x"),)),
        "twice": samples.archive(layer, extra=(tarfile.TarInfo("a"), tarfile.TarInfo("./a"))),
        "without manifest.json": samples.layer(("hello", b"hi")),
        "not about one image": samples.archive(layer, manifest=one * 2),
        "names no config": samples.archive(layer, manifest=[{"Config": 1}]),
        "is not JSON": samples.archive(layer, manifest=one, extra=()).replace(b'{"architecture', b"{{architecture"),
        "which is not in the archive": samples.archive(layer, manifest=[{"Config": "config.json", "Layers": ["../x"]}]),
        "has 128 layers": samples.archive(*[layer] * 128),
        "has 0 layers": samples.archive(),
        "not that of a Linux image": samples.archive(layer, os="windows"),
        "image with these layers": samples.archive(layer, rootfs={"diff_ids": []}),
        "unpack to more than": samples.archive(bomb()),
        "sparse files": samples.archive(sparse_layer()),
        "zstd": samples.archive(b"\x28\xb5\x2f\xfd" + b"\0" * 512),
        "gzip is truncated": samples.archive(packed[:-20], rootfs={"diff_ids": [""]}),
        "not the gzip that it seems": samples.archive(b"\x1f\x8b" + b"\xff" * 600, rootfs={"diff_ids": [""]}),
        "truncated": whole[: len(whole) // 2],
        "checksum is wrong": bytes(damaged),
        "absurd size": long.tobuf(tarfile.GNU_FORMAT) + whole,
        "is truncated": samples.archive(layer[:700]),
    }


@pytest.mark.parametrize("said", [*archives()])
async def test_a_hostile_archive_is_refused_with_the_reason(cloud: Cloud, ada: Person, said: str) -> None:
    small, _ = reconfigured(cloud, image_disk_gb=0) if said == "unpack to more than" else (cloud, None)
    client, id = await small.client(**{"x-api-key": ada.key}), await registered(ada)
    reply = await client.post(f"/images/{id}/upload", files={"file": ("a.tar", archives()[said])})
    await is_refused(cloud, ada, id, reply, said)


@pytest.mark.parametrize("how", ["a large file", "a second gzip", "after the end"])
def test_no_packing_hides_how_much_a_layer_is(tmp_path: Path, how: str) -> None:
    small, zeros = samples.layer(("a", b"b")), bytes(4 * 2**20)
    layer = {
        "a large file": gzip.compress(samples.layer(("a", zeros))),
        "a second gzip": gzip.compress(small) + gzip.compress(zeros),
        "after the end": gzip.compress(small + zeros),
    }[how]
    path = tmp_path / "archive.tar"
    path.write_bytes(samples.archive(layer))
    assert path.stat().st_size < 64 * 1024
    with path.open("rb") as file:
        with pytest.raises(image_archive.Refused, match="unpack to more than"):
            image_archive.examine(file.fileno(), 2**20)
        assert image_archive.examine(file.fileno(), 8 * 2**20)["layers"][0][1] == len(layer)


async def test_a_disk_is_taken_as_qcow2_whatever_its_name(cloud: Cloud, ada: Person, tmp_path: Path) -> None:
    require("qemu-img")
    path, id = samples.qcow2(tmp_path), await registered(ada)
    reply = await ada.rest.post(
        f"/images/{id}/upload", files={"file": ("holiday.jpg", path.read_bytes(), "image/jpeg")}
    )
    seen = reply.json()
    assert (seen["status"], seen["format"], seen["virtual_size_bytes"]) == ("ACTIVE", "qcow2", 64 * 2**20)


async def test_who_looks_at_a_disk_can_do_nothing_else(tmp_path: Path) -> None:
    """It has no network but its own loopback, is nobody, and cannot write."""
    from server import sandbox

    path = tmp_path / "file"
    path.write_bytes(b"x")
    path.chmod(0o644)
    file = os.open(path, os.O_RDONLY)
    script = "id -u; cat /dev/fd/{0}; wc -l < /proc/self/net/dev; echo x > /tmp/x.{0}"
    try:
        ended = await sandbox.run("sh", "-c", script.format(file), file=file, memory=2**28, seconds=5, as_nobody=True)
        if os.geteuid() == 0:
            assert ended.output.split() == [b"65534", b"x3"], "two lines of titles, and lo"
        assert ended.code != 0
        assert not Path(f"/tmp/x.{file}").exists() or not Path(f"/tmp/x.{file}").read_bytes()
        hungry = await sandbox.run(
            "python3", "-c", "x = b'a' * 2**30", file=file, memory=2**28, seconds=5, as_nobody=True
        )
        assert hungry.code != 0
        busy = await sandbox.run("sh", "-c", "while :; do :; done", file=file, memory=2**28, seconds=1, as_nobody=True)
        assert busy.code < 0
        with pytest.raises(sandbox.TooMuch):
            await sandbox.run("sleep", "60", file=file, memory=2**28, seconds=1, as_nobody=True)
        with pytest.raises(sandbox.TooMuch):
            await sandbox.run("yes", file=file, memory=2**28, seconds=5, as_nobody=True)
    finally:
        os.close(file)
        Path(f"/tmp/x.{file}").unlink(missing_ok=True)


# Started from


async def container(cloud: Cloud, person: Person, **fields: Any) -> str:
    """The id of an image of a container that is ACTIVE."""
    id = await registered(person, **fields)
    reply = await upload(person, id, samples.archive(samples.layer(("hello", b"hi"))))
    assert (reply.status_code, reply.json()["status"], reply.json()["format"]) == (200, "PENDING", "container")
    await cloud.settle()
    assert (await shown(person, id))["status"] == "ACTIVE"
    return id


async def test_an_instance_starts_from_an_image_which_then_stays(cloud: Cloud, ada: Person) -> None:
    id = await container(cloud, ada)
    made = await ada.running(image=id)
    assert (made["status"], made["image"]) == ("RUNNING", id)
    assert cloud.compute.machines[UUID(made["id"])].spec.image == cloud.compute.image_name(UUID(id))
    reply = await ada.rest.delete(f"/images/{id}")
    assert refusal(reply) == (409, "IN_USE")
    assert made["id"] in reply.json()["error"]["message"]
    await ada.rest.delete(f"/instances/{made['id']}")
    assert (await ada.rest.delete(f"/images/{id}")).status_code == 200, "the instance is on its way out"
    await cloud.value("update work set due_at = 'infinity' where kind = 'instance'")
    await cloud.settle()
    assert (await shown(ada, id))["status"] == "DELETING"
    await cloud.value("update work set due_at = now()")
    await cloud.settle()
    await cloud.value("update work set due_at = now()")
    await cloud.settle()
    assert (await ada.rest.get(f"/images/{id}")).status_code == 404
    assert cloud.compute.loaded == set()


async def test_only_who_sees_an_image_starts_from_it(cloud: Cloud, ada: Person, bob: Person) -> None:
    own, public = await container(cloud, ada), await container(cloud, ada, is_public=True)
    body = {"name": "a", "image": own}
    assert refusal(await bob.rest.post("/instances", json=body)) == (404, "NOT_FOUND")
    for name in (f"images.thecloud.internal/x:{own}", f"Images.TheCloud.internal/x:{own}", f"sha256:{'a' * 64}"):
        assert refusal(await bob.rest.post("/instances", json=body | {"image": name})) == (400, "INVALID_ARGUMENT")
    made = await bob.running(image=public)
    assert made["status"] == "RUNNING"
    reply = await ada.rest.delete(f"/images/{public}")
    assert refusal(reply) == (409, "IN_USE")
    assert made["id"] not in reply.text, "whose instances those are is none of Ada's business"


async def test_an_instance_does_not_start_from_what_is_not_ready(ada: Person) -> None:
    pending = await registered(ada)
    reply = await ada.rest.post("/instances", json={"name": "a", "image": pending})
    assert refusal(reply) == (400, "INVALID_ARGUMENT")
    assert "PENDING" in reply.json()["error"]["message"]
    assert (await ada.rest.get("/instances")).json() == []


async def test_an_archive_that_the_engine_cannot_load_is_an_error(cloud: Cloud, ada: Person) -> None:
    id = await registered(ada)
    cloud.compute.bad_archives.add(UUID(id))
    assert (await upload(ada, id, samples.archive(samples.layer(("a", b"b"))))).status_code == 200
    await cloud.settle()
    seen = await shown(ada, id)
    assert (seen["status"], seen["status_message"]) == ("ERROR", "the archive cannot be loaded")
    await images.sweep(cloud.app)
    assert files(cloud) == []


# Swept


async def test_files_that_no_row_knows_are_swept_and_others_stay(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    config = cloud.app.config
    whole, part, old = [await registered(ada) for _ in range(3)]
    await upload(ada, whole, samples.raw())
    for id in (part, old):
        await upload(ada, id, b"x" * 100, **{"content-range": "bytes 0-99/1000"})
    yesterday = image_files.part(config, UUID(old)).stat().st_mtime - image_files.PARTS_KEPT - 60
    os.utime(image_files.part(config, UUID(old)), (yesterday, yesterday))
    for name in (f"{uuid4()}", f"{uuid4()}.part", f"{uuid4()}.{uuid4().hex}.whole", f"{whole}.part", f"{part}"):
        (config.data / "images" / name).write_bytes(b"x")
    fresh = config.data / "images" / f"{whole}.{uuid4().hex}.whole"
    fresh.write_bytes(b"x")
    await images.sweep(cloud.app)
    assert files(cloud) == sorted([whole, f"{part}.part", fresh.name])
    os.utime(fresh, (yesterday, yesterday))
    await images.sweep(cloud.app)
    assert files(cloud) == sorted([whole, f"{part}.part"])
    assert (await shown(ada, old))["received_bytes"] == 0


async def test_the_engine_gets_back_what_it_lost_and_loses_what_no_row_knows(cloud: Cloud, ada: Person) -> None:
    id = await container(cloud, ada)
    cloud.compute.loaded = {uuid4()}
    await images.sweep(cloud.app)
    await cloud.settle()
    assert cloud.compute.loaded == {UUID(id)}
    assert (await shown(ada, id))["status"] == "ACTIVE"


async def test_a_sweep_leaves_a_part_that_is_being_added_to(cloud: Cloud, ada: Person) -> None:
    config, id = cloud.app.config, uuid4()
    part = image_files.Part.open(config, id, None)
    await images.sweep(cloud.app)
    assert files(cloud) == [f"{id}.part"]
    part.close()
    await images.sweep(cloud.app)
    assert files(cloud) == []
