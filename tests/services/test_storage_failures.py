"""Object storage when things go wrong: cut off, over the quota, overtaken, killed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from thecloud.v1 import storage_pb2 as pb

from drivers.objects import Stored
from rest_shim import streams
from server import app as server_app
from server import object_uploads, quota
from server.config import Config
from server.services import storage_lives
from tests import crash
from tests.conftest import Cloud, Person, running_cloud, until
from tests.services.test_storage import bucket, keys, put, text, versioned

UPLOAD = "/thecloud.v1.StorageService/UploadObject"
DOWNLOAD = "/thecloud.v1.StorageService/DownloadObject"


def upload(cloud: Cloud, person: Person, *requests: pb.UploadObjectRequest) -> Any:
    """An upload over gRPC."""
    stub = cloud.channel.stream_unary(UPLOAD, pb.UploadObjectRequest.SerializeToString, pb.Object.FromString)

    async def sent() -> AsyncIterator[pb.UploadObjectRequest]:
        for request in requests:
            yield request

    return stub(sent(), metadata=person.metadata)


async def limit(cloud: Cloud, person: Person, name: str, most: int) -> None:
    async with cloud.app.db.transaction() as tx:
        await quota.set_limit(tx, person.tenant_id, name, most)


async def used(cloud: Cloud, person: Person) -> tuple[int, int]:
    """What the sums say, which is what is there."""
    record = await cloud.value(
        "select array[(select coalesce(sum(objects), 0) from storage_usage), "
        "(select coalesce(sum(bytes), 0) from storage_usage), (select count(*) from objects where not delete_marker), "
        "(select coalesce(sum(size_bytes), 0) from (select size_bytes from objects union all "
        "select size_bytes from upload_parts) as each)]"
    )
    assert record[:2] == record[2:]
    parts = "select coalesce(sum(parts), 0) = (select count(*) from upload_parts) from storage_usage"
    assert await cloud.value(parts)
    return int(record[0]), int(record[1])


async def test_over_grpc(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    first = pb.UploadObjectRequest(bucket="assets", key="a", data=b"hel")
    made = await upload(cloud, ada, first, pb.UploadObjectRequest(data=b"lo"))
    assert (made.size_bytes, made.content_type) == (5, "text/plain")
    stub = cloud.channel.unary_stream(DOWNLOAD, pb.DownloadObjectRequest.SerializeToString)

    request = pb.DownloadObjectRequest(bucket="assets", key="a", range="bytes=1-3")
    pieces = [HttpBody.FromString(each) async for each in stub(request, metadata=ada.metadata)]
    assert b"".join(piece.data for piece in pieces) == b"ell"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await upload(cloud, ada, pb.UploadObjectRequest(bucket="assets", data=b"x"))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_body_that_breaks_off_leaves_nothing(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/a", b"whole")
    sent: list[Any] = []
    events = [{"type": "http.request", "body": b"x" * 2**21, "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return events.pop(0)

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "method": "PUT", "path": "/storage/assets/a", "client": ("127.0.0.1", 1),
             "query_string": b"", "headers": [(b"x-api-key", ada.key.encode())]}  # fmt: skip
    await cloud.asgi(scope, receive, send)
    assert sent[0]["status"] == 408
    assert await text(ada, "assets/a") == "whole"
    assert list(cloud.objects.blobs.values()) == [b"whole"]


async def test_more_than_an_object_may_have(empty_database: str, tmp_path: Path) -> None:
    config = Config(data=tmp_path, grpc="127.0.0.1:0", object_bytes=1000, objects_small=0)
    async with running_cloud(empty_database, tmp_path, config) as cloud:
        ada = await cloud.person()
        await bucket(ada)
        await put(ada, "assets/a", b"x" * 1000)
        reply = await ada.rest.put("/storage/assets/b", content=b"x" * 1001)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
        id = (await ada.rest.post("/storage/multipart/init/assets/c")).json()["id"]
        for part in (1, 2):
            await ada.rest.put(f"/storage/multipart/upload/{id}/parts?part={part}", content=b"x" * 600)
        assert (await ada.rest.post(f"/storage/multipart/complete/{id}")).status_code == 413
        assert len(cloud.objects.blobs) == 3


async def test_over_the_quota_it_is_cut_off_and_nothing_kept(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await limit(cloud, ada, "object_gb", 0)
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b"x" * 2**20

    reply = await ada.rest.put("/storage/assets/a", content=body())
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "QUOTA_EXCEEDED")
    assert taken < 5
    assert cloud.objects.blobs == {}
    assert await used(cloud, ada) == (0, 0)
    await put(ada, "assets/empty", b"")


async def test_what_is_just_coming_counts(cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    await bucket(ada)
    await limit(cloud, ada, "object_gb", 1)
    monkeypatch.setattr(object_uploads, "GIB", 4 * 2**20)
    monkeypatch.setattr(object_uploads, "LOOK", 2**16)
    coming, enough = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 2**20
        coming.set()
        await enough.wait()
        raise ConnectionError

    first = asyncio.create_task(ada.rest.put("/storage/assets/a", content=body()))
    await coming.wait()
    assert (await ada.rest.put("/storage/assets/b", content=b"x" * 2 * 2**20)).status_code == 403
    enough.set()
    await asyncio.wait([first])
    await until(lambda: asyncio.sleep(0, not cloud.pipeline.streams))
    await put(ada, "assets/b", b"x" * 2 * 2**20)


async def test_an_upload_is_put_together_once_at_a_time(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bucket(ada)
    id = (await ada.rest.post("/storage/multipart/init/assets/a")).json()["id"]
    assert (await ada.rest.put(f"/storage/multipart/upload/{id}/parts?part=1", content=b"part")).status_code == 200
    begun, enough, compose = asyncio.Event(), asyncio.Event(), cloud.objects.compose

    async def slowly(id: UUID, parts: Sequence[UUID]) -> Stored:
        begun.set()
        await enough.wait()
        return await compose(id, parts)

    monkeypatch.setattr(cloud.objects, "compose", slowly)
    first = asyncio.create_task(ada.rest.post(f"/storage/multipart/complete/{id}"))
    await begun.wait()
    assert (await ada.rest.post(f"/storage/multipart/complete/{id}")).status_code == 409
    enough.set()
    assert (await first).status_code == 200
    assert await text(ada, "assets/a") == "part"


async def test_as_many_objects_as_the_quota_allows(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await limit(cloud, ada, "objects", 2)
    await put(ada, "assets/a")
    await put(ada, "assets/b")
    await put(ada, "assets/b", b"longer than it was")
    assert (await ada.rest.put("/storage/assets/c", content=b"x")).status_code == 403
    await versioned(ada)
    assert (await ada.rest.put("/storage/assets/b", content=b"x")).status_code == 403
    assert (await ada.rest.delete("/storage/assets/a")).status_code == 204
    assert await used(cloud, ada) == (2, 23)
    assert len(cloud.objects.blobs) == 3, "nothing of what was refused; the one overwritten waits to be deleted"
    await cloud.settle()
    assert len(cloud.objects.blobs) == 2
    await limit(cloud, ada, "buckets", 1)
    assert (await ada.rest.post("/storage/buckets", json={"name": "second"})).status_code == 403


async def test_as_many_uploads_and_parts_as_the_quota_allows(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await limit(cloud, ada, "multipart_uploads", 1)
    await limit(cloud, ada, "upload_parts", 2)
    begin = "/storage/multipart/init/assets/a"
    id = (await ada.rest.post(begin)).json()["id"]
    assert (await ada.rest.post(begin)).status_code == 403
    part = f"/storage/multipart/upload/{id}/parts?part="
    sent = [(await ada.rest.put(f"{part}{number}", content=b"")).status_code for number in (1, 2, 2, 3)]
    assert sent == [200, 200, 200, 403]
    await cloud.settle()
    assert len(cloud.objects.blobs) == 2
    assert (await ada.rest.post(f"/storage/multipart/complete/{id}")).status_code == 200
    again = (await ada.rest.post(begin)).json()["id"]
    assert (await ada.rest.put(f"/storage/multipart/upload/{again}/parts?part=1", content=b"x")).status_code == 200
    assert await used(cloud, ada) == (1, 1)


async def test_a_repeated_upload_keeps_no_second_blob(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    headers = {"idempotency-key": "k"}
    made = [await put(ada, "assets/a", b"x", **headers) for _ in range(2)]
    assert made[0] == made[1]
    assert len(cloud.objects.blobs) == 1
    assert await text(ada, "assets/a") == "x"


async def test_what_was_stored_and_never_said_is_collected(cloud: Cloud, ada: Person) -> None:
    """A process that dies between the blob and its row."""
    await bucket(ada)
    await put(ada, "assets/a", b"before")
    store = cloud.app.drivers.objects
    for after in (False, True):
        mortal = replace(cloud.app.drivers, objects=crash.Mortal(store, crash.Moment(1, after)))
        object.__setattr__(cloud.app, "drivers", mortal)
        with pytest.raises(crash.Died):
            await ada.rest.put("/storage/assets/a", content=b"after")
        object.__setattr__(cloud.app, "drivers", replace(mortal, objects=store))
        assert await text(ada, "assets/a") == "before"
    assert len(cloud.objects.blobs) == 2
    await storage_lives.collect(cloud.app)
    assert len(cloud.objects.blobs) == 2, "it may just be about to be said"
    cloud.objects.age(timedelta(hours=25))
    await storage_lives.collect(cloud.app)
    assert list(cloud.objects.blobs.values()) == [b"before"]
    assert await text(ada, "assets/a") == "before"


@pytest.mark.parametrize("after", [False, True])
async def test_a_death_while_blobs_are_deleted_is_survived(cloud: Cloud, ada: Person, after: bool) -> None:
    await bucket(ada)
    for key in "abc":
        await put(ada, f"assets/{key}", key.encode())
    await ada.rest.delete("/storage/buckets/assets?force=true")
    assert await crash.die(cloud, "objects", crash.Moment(2, after))
    await crash.expire(cloud)
    await cloud.settle()
    assert cloud.objects.blobs == {}
    assert await cloud.value("select count(*) from buckets") == 0


async def test_of_two_who_overwrite_at_once_one_is_last(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    for enabled in (False, True):
        if enabled:
            await versioned(ada)
        made = await asyncio.gather(*(put(ada, "assets/a", b"%d" % number * 10) for number in range(8)))
        [latest] = (await ada.rest.get("/storage/assets")).json()
        assert latest["id"] in {each["id"] for each in made}
        content = await text(ada, "assets/a")
        assert len(content) == 10 and len(set(content)) == 1
    versions = (await ada.rest.get("/storage/versions/assets/a")).json()
    assert len(versions) == 9 and sum(each["is_latest"] for each in versions) == 1
    await cloud.settle()
    assert len(cloud.objects.blobs) == 9
    assert await used(cloud, ada) == (9, 90)


async def test_deleting_and_overwriting_at_once(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/a")
    replies = await asyncio.gather(*(
        ada.rest.delete("/storage/assets/a") if number % 2 else ada.rest.put("/storage/assets/a", content=b"x")
        for number in range(10)
    ))  # fmt: skip
    assert {reply.status_code for reply in replies} <= {201, 204, 404}
    await cloud.settle()
    assert len(cloud.objects.blobs) == len(await keys(ada)) == (await used(cloud, ada))[0]


async def test_a_reader_who_leaves_ends_the_reading(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/a", b"x" * 2**24)
    app = replace(cloud.app, stopping=asyncio.Event())
    async with server_app.serving(app, server_app.listening("127.0.0.1:0")) as at:
        reader, writer = await asyncio.open_connection(*at.http.rsplit(":", 1))
        writer.write(f"GET /storage/assets/a HTTP/1.1\r\nhost: a\r\nx-api-key: {ada.key}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert cloud.objects.reading == 1
        writer.close()

        async def ended() -> bool:
            return cloud.objects.reading == 0

        await until(ended)


async def test_a_blob_that_lost_its_end_breaks_the_answer_off(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    made = await put(ada, "assets/a", b"x" * 2**20)
    blobs = cloud.objects.blobs
    blobs[UUID(made["id"])] = b"x" * 1000
    with pytest.raises(streams.Broken):
        await ada.rest.get("/storage/assets/a")


async def test_what_is_overwritten_while_it_is_looked_up_is_looked_up_again(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    made = await put(ada, "assets/a", b"old")
    get = cloud.objects.get

    async def late(id: UUID, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        if str(id) == made["id"]:
            await put(ada, "assets/a", b"newer")
            await cloud.settle()
        async for piece in get(id, start, end):
            yield piece

    cloud.objects.get = late  # type: ignore[method-assign]
    reply = await ada.rest.get("/storage/assets/a")
    assert (reply.content, reply.headers["content-length"]) == (b"newer", "5")


async def test_putting_parts_together_may_take_long(empty_database: str, tmp_path: Path) -> None:
    config = Config(data=tmp_path, grpc="127.0.0.1:0", deadline_seconds=0.5, objects_small=0)
    async with running_cloud(empty_database, tmp_path, config) as cloud:
        ada = await cloud.person()
        await bucket(ada)
        id = (await ada.rest.post("/storage/multipart/init/assets/a")).json()["id"]
        await ada.rest.put(f"/storage/multipart/upload/{id}/parts?part=1", content=b"x")
        compose = cloud.objects.compose

        async def slow(*arguments: Any) -> Stored:
            await asyncio.sleep(1)  # longer than any other call may take
            return await compose(*arguments)

        cloud.objects.compose = slow  # type: ignore[method-assign]
        assert (await ada.rest.post(f"/storage/multipart/complete/{id}")).status_code == 200
        assert await text(ada, "assets/a") == "x"


async def test_what_comes_and_goes_is_in_the_change_log(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    made = await put(ada, "assets/a")
    await put(ada, "assets/a", b"again")
    await ada.rest.delete("/storage/assets/a")
    found = await cloud.value(
        "select array_agg(type || ' ' || (coalesce(after, before)->>'key') order by sequence) from changes "
        "where kind = 'object'"
    )
    assert found == ["CREATED a", "DELETED a", "CREATED a", "DELETED a"]
    entry = await cloud.value("select after::text from changes where id = $1 and type = 'CREATED'", made["id"])
    assert '"bucket": "assets"' in entry and '"checksum"' in entry


async def test_no_room(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    cloud.objects.room = 3
    reply = await ada.rest.put("/storage/assets/a", content=b"hello")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert await keys(ada) == []


@pytest.mark.parametrize(("aborted", "status"), [(False, 503), (True, 404)])
async def test_parts_that_go_while_they_become_one(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch, aborted: bool, status: int
) -> None:
    await bucket(ada)
    id = (await ada.rest.post("/storage/multipart/init/assets/a")).json()["id"]
    assert (await ada.rest.put(f"/storage/multipart/upload/{id}/parts?part=1", content=b"a")).status_code == 200
    compose = cloud.objects.compose

    async def lose(blob: UUID, parts: list[UUID]) -> Stored:
        if aborted:
            assert (await ada.rest.delete(f"/storage/multipart/abort/{id}")).status_code == 204
        await cloud.objects.delete(parts[0])
        return await compose(blob, parts)

    monkeypatch.setattr(cloud.objects, "compose", lose)
    assert (await ada.rest.post(f"/storage/multipart/complete/{id}")).status_code == status
    assert await text(ada, "assets/a") == "404"
    assert not cloud.objects.blobs


async def test_of_many_puts_at_once_only_as_many_fit_as_the_quota_has_room_for(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await limit(cloud, ada, "objects", 5)
    replies = await asyncio.gather(*(ada.rest.put(f"/storage/assets/{n}", content=b"x") for n in range(20)))
    assert sorted(reply.status_code for reply in replies) == [201] * 5 + [403] * 15
    assert await used(cloud, ada) == (5, 5)
    assert len(cloud.objects.blobs) == 5


async def test_one_key_put_completed_and_deleted_at_once(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    ids = []
    for _ in range(6):
        ids.append((await ada.rest.post("/storage/multipart/init/assets/a")).json()["id"])
        path = f"/storage/multipart/upload/{ids[-1]}/parts?part=1"
        assert (await ada.rest.put(path, content=b"part")).status_code == 200
    replies = await asyncio.gather(
        *(ada.rest.post(f"/storage/multipart/complete/{id}") for id in ids),
        *(ada.rest.put("/storage/assets/a", content=b"put") for _ in range(6)),
        *(ada.rest.delete("/storage/assets/a") for _ in range(6)),
    )
    assert {reply.status_code for reply in replies} <= {200, 201, 204, 404}
    count, size = await used(cloud, ada)
    assert (count, size) in [(0, 0), (1, 3), (1, 4)]
