"""Objects that are small enough to be kept in the database."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from thecloud.v1 import objects_pb2 as pb

from server.config import Config
from server.services import storage_scrubber
from tests.conftest import Cloud, Person, running_cloud
from tests.services.test_objects import ask
from tests.services.test_objects_at_rest import encrypted
from tests.services.test_storage import bucket, put, text, versioned

SMALL = 4096
DATA = b"a small object, " * 100


@pytest.fixture
async def cloud(empty_database: str, tmp_path: Path) -> AsyncIterator[Cloud]:
    config = Config(data=tmp_path, grpc="127.0.0.1:0", scrub_days=7, scrub_bytes=0, objects_small=SMALL)
    async with running_cloud(empty_database, tmp_path, config) as cloud:
        yield cloud


async def kept(cloud: Cloud) -> tuple[int, int]:
    """How many blobs the database has, and how many the store, once all work is done."""
    await cloud.settle()
    assert await cloud.value("select count(*) from small_blobs") == await cloud.value(
        "select count(*) from objects where inline"
    )
    return await cloud.value("select count(*) from small_blobs"), len(cloud.objects.blobs)


async def read(person: Person, path: str, **headers: str) -> bytes:
    reply = await person.rest.get(f"/storage/{path}", headers=headers)
    assert reply.status_code in (200, 206), reply.text
    return reply.content


@pytest.mark.parametrize("secret", [False, True])
async def test_up_to_so_many_bytes(cloud: Cloud, ada: Person, secret: bool) -> None:
    await bucket(ada)
    await encrypted(ada, enabled=secret)
    for number, size in enumerate((0, 1, SMALL, SMALL + 1), 1):
        data = bytes(range(256)) * 17
        made = await put(ada, f"assets/{size}", data[:size])
        assert (made["size_bytes"], made["checksum"]) == (size, hashlib.sha256(data[:size]).hexdigest())
        assert made["encrypted"] is secret
        assert await read(ada, f"assets/{size}") == data[:size]
        assert await kept(cloud) == (min(number, 3), max(0, number - 3))
    assert await read(ada, f"assets/{SMALL}", range="bytes=250-259") == (bytes(range(256)) * 2)[250:260]
    head = await ada.rest.head(f"/storage/assets/{SMALL}")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(SMALL), b"")


async def test_it_may_come_in_pieces(cloud: Cloud, ada: Person) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(DATA), 100):
            yield DATA[at : at + 100]
            await asyncio.sleep(0)

    await bucket(ada)
    reply = await ada.rest.put("/storage/assets/a", content=pieces())
    assert reply.status_code == 201, reply.text
    assert await read(ada, "assets/a") == DATA
    assert await kept(cloud) == (1, 0)


async def test_it_goes_with_its_row(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    for number in range(3):
        await put(ada, "assets/a", DATA[number:])
        assert await cloud.value("select count(*) from work where kind = 'blob'") == 0
    assert await kept(cloud) == (1, 0)
    await put(ada, "assets/a", bytes(SMALL + 1))
    assert await kept(cloud) == (0, 1)
    await put(ada, "assets/a", DATA)
    assert await kept(cloud) == (1, 0)
    await versioned(ada)
    for number in range(3):
        await put(ada, "assets/a", DATA[number:])
    assert await kept(cloud) == (4, 0)
    assert (await ada.rest.delete("/storage/assets/a")).status_code == 204
    assert (await kept(cloud), await text(ada, "assets/a")) == ((4, 0), "404")
    assert (await ada.rest.delete("/storage/buckets/assets?force=true")).status_code in (200, 204)
    assert await kept(cloud) == (0, 0)


async def test_what_is_refused_leaves_nothing(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/a", DATA)
    for headers in ({"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, {"if-none-match": "*"}, {"if-match": "other"}):
        reply = await ada.rest.put("/storage/assets/a", content=b"other", headers=headers)
        assert reply.status_code in (409, 412), reply.text
    await cloud.value("insert into quotas (tenant_id, name, most) values ($1, 'objects', 1)", ada.tenant_id)
    replies = await asyncio.gather(*(ada.rest.put(f"/storage/assets/{n}", content=DATA) for n in range(5)))
    assert {reply.status_code for reply in replies} == {403}
    assert await read(ada, "assets/a") == DATA
    assert await kept(cloud) == (1, 0)


async def test_copies_are_small_or_large_by_themselves(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await bucket(ada, "secrets")
    await encrypted(ada, name="secrets")
    await put(ada, "assets/small", DATA)
    await put(ada, "assets/large", bytes(SMALL + 1))

    async def copy(source: str, target: str, data: bytes) -> None:
        name, _, key = source.partition("/")
        where, _, to = target.partition("/")
        await ask(cloud, ada, "CopyObject", pb.CopyObjectRequest(
            bucket=where, key=to, source_bucket=name, source_key=key
        ))  # fmt: skip
        assert await read(ada, target) == data

    await copy("assets/small", "assets/again", DATA)
    await copy("assets/small", "secrets/small", DATA)
    await copy("secrets/small", "assets/open", DATA)
    await copy("assets/large", "secrets/large", bytes(SMALL + 1))
    assert await kept(cloud) == (4, 2)


async def test_every_host_reads_it_and_the_setting_is_for_what_is_new(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/a", DATA)
    await cloud.value("update objects set host = 'elsewhere'")
    object.__setattr__(cloud.app, "config", replace(cloud.app.config, objects_small=0))
    assert await read(ada, "assets/a") == DATA
    await put(ada, "assets/b", DATA)
    assert (await read(ada, "assets/a"), await read(ada, "assets/b")) == (DATA, DATA)
    assert await kept(cloud) == (1, 1)


async def test_nobody_reads_an_encrypted_one_out_of_the_database(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await encrypted(ada)
    await put(ada, "assets/a", DATA)
    blob = await cloud.value("select data from small_blobs")
    assert len(blob) == len(DATA) + 16 and DATA[:8] not in blob
    await cloud.value("update small_blobs set data = set_byte(data, 5, get_byte(data, 5) # 1)")
    reply = await ada.rest.get("/storage/assets/a")
    assert reply.status_code == 503 and "damaged" in reply.text


@pytest.mark.parametrize("secret", [False, True])
async def test_the_scrubber_reads_it_too(cloud: Cloud, ada: Person, secret: bool) -> None:
    async def scrubbed() -> Any:
        await cloud.value("update objects set created_at = now() - interval '8 days', verified_at = null")
        await storage_scrubber.scrub(cloud.app, storage_host)
        return await cloud.value("select string_agg(damage, ',' order by key) from objects")

    await bucket(ada)
    await encrypted(ada, enabled=secret)
    for key in "abc":
        await put(ada, f"assets/{key}", DATA)
    storage_host = await cloud.value("select host from objects limit 1")
    assert await scrubbed() == ",,"
    ids = [await cloud.value("select id from objects where key = $1", key) for key in "bc"]
    await cloud.value("update small_blobs set data = set_byte(data, 5, get_byte(data, 5) # 1) where id = $1", ids[0])
    await cloud.value("delete from small_blobs where id = $1", ids[1])
    assert await scrubbed() == ",CORRUPT,MISSING"
    for key in "bc":
        assert (await ada.rest.get(f"/storage/assets/{key}")).status_code == 503


async def test_what_is_put_right_after_the_bucket_has_changed(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/before", DATA)
    await encrypted(ada)
    assert (await put(ada, "assets/after", DATA))["encrypted"] is True
    blob = await cloud.value("select b.data from small_blobs b join objects o using (id) where o.key = 'after'")
    assert DATA[:16] not in blob
    assert await read(ada, "assets/before") == await read(ada, "assets/after") == DATA
    await encrypted(ada, enabled=False)
    assert (await put(ada, "assets/again", DATA))["encrypted"] is False
    for key in ("before", "after", "again"):
        assert (await ada.rest.delete(f"/storage/assets/{key}")).status_code < 300
    assert (await ada.rest.delete("/storage/buckets/assets")).status_code < 300
    reply = await ada.rest.put("/storage/assets/late", content=DATA)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "NOT_FOUND"), reply.text
