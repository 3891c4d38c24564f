"""Objects on the disk: encrypted if the bucket says so, and read again to see whether they are whole."""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog

from drivers import files
from drivers.files import FileObjects
from drivers.objects import Stored
from server import work
from server.config import Config
from server.services import storage_lives, storage_scrubber
from tests import crash
from tests.conftest import Cloud, Person, running_cloud, until
from tests.services.test_storage import bucket, put, text, versioned
from tests.services.test_storage_failures import limit, used

SECRET = b"the plain text of it, which nobody reads off the disk"


@pytest.fixture
async def cloud(empty_database: str, tmp_path: Path) -> AsyncIterator[Cloud]:
    """One whose objects are files."""
    config = Config(data=tmp_path, grpc="127.0.0.1:0", scrub_days=7, scrub_bytes=0, objects_small=0)
    async with running_cloud(empty_database, tmp_path, config) as cloud:
        drivers = replace(cloud.app.drivers, objects=FileObjects(tmp_path / "objects"))
        object.__setattr__(cloud.app, "drivers", drivers)
        yield cloud


def on_disk(cloud: Cloud) -> dict[UUID, Path]:
    folder = cloud.app.config.data / "objects"
    return {UUID(file.name[:36]): file for file in folder.rglob("*") if file.is_file()}


async def encrypted(person: Person, *, enabled: bool = True, name: str = "assets") -> None:
    await person.cloud.value("update buckets set encryption_enabled = $1 where name = $2", enabled, name)


class TestEncryption:
    async def test_nobody_reads_an_object_off_the_disk(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await encrypted(ada)
        made = await put(ada, "assets/a", SECRET)
        assert made["encrypted"] is True
        assert (made["size_bytes"], made["checksum"]) == (len(SECRET), hashlib.sha256(SECRET).hexdigest())
        assert made["etag"] == hashlib.md5(SECRET, usedforsecurity=False).hexdigest()
        [file] = on_disk(cloud).values()
        assert SECRET[:8] not in (stored := file.read_bytes())
        assert len(stored) == len(SECRET) + 16
        assert await text(ada, "assets/a") == SECRET.decode()
        wrapped = await cloud.value("select wrapped_key from objects")
        assert len(wrapped) > 32 and wrapped[-48:-16] not in stored
        assert (await ada.rest.get("/storage/buckets")).json()[0]["encryption_enabled"] is True
        assert await used(cloud, ada) == (1, len(SECRET))

    async def test_every_one_has_another_key(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await encrypted(ada)
        for key in "ab":
            await put(ada, f"assets/{key}", SECRET)
        first, second = (file.read_bytes() for file in on_disk(cloud).values())
        assert first != second

    async def test_what_was_stored_before_it_was_turned_on_or_off_stays_readable(
        self, cloud: Cloud, ada: Person
    ) -> None:
        await bucket(ada)
        await versioned(ada)
        made = []
        for number, enabled in enumerate((False, True, False, True)):
            await encrypted(ada, enabled=enabled)
            made.append(await put(ada, "assets/a", b"%d" % number))
        assert [each["encrypted"] for each in made] == [False, True, False, True]
        for number, each in enumerate(made):
            assert await text(ada, f"assets/a?versionId={each['version_id']}") == str(number)

    @pytest.mark.parametrize(
        "wanted", ["bytes=0-0", "bytes=65530-65545", "bytes=-7", "bytes=131072-", "bytes=5-199999"]
    )
    async def test_ranges(self, cloud: Cloud, ada: Person, wanted: str) -> None:
        data = os.urandom(200_000)
        await bucket(ada)
        await put(ada, "assets/plain", data)
        await encrypted(ada)
        await put(ada, "assets/encrypted", data)
        plain, encoded = [
            await ada.rest.get(f"/storage/assets/{key}", headers={"range": wanted}) for key in ("plain", "encrypted")
        ]
        assert (encoded.status_code, encoded.content) == (206, plain.content)
        assert encoded.headers["content-range"] == plain.headers["content-range"]

    async def test_one_without_bytes(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await encrypted(ada)
        made = await put(ada, "assets/a", b"")
        assert (made["size_bytes"], made["checksum"]) == (0, hashlib.sha256(b"").hexdigest())
        reply = await ada.rest.get("/storage/assets/a")
        assert (reply.status_code, reply.content) == (200, b"")

    @pytest.mark.parametrize("turned", ["on", "off", "on meanwhile", "off meanwhile"])
    async def test_parts_become_an_object(self, cloud: Cloud, ada: Person, turned: str) -> None:
        await bucket(ada)
        await encrypted(ada, enabled=turned in ("on", "off meanwhile"))
        parts = [os.urandom(100_000), os.urandom(70_000), b"end"]
        id = (await ada.rest.post("/storage/multipart/init/assets/a")).json()["id"]
        for number, data in enumerate(parts, 1):
            if number == 2 and "meanwhile" in turned:
                await encrypted(ada, enabled=turned == "on meanwhile")
            path = f"/storage/multipart/upload/{id}/parts?part={number}"
            reply = await ada.rest.put(path, content=data)
            assert (reply.status_code, reply.json()["etag"]) == (200, hashlib.sha256(data).hexdigest())
        whole = b"".join(parts)
        made = await ada.rest.post(f"/storage/multipart/complete/{id}")
        assert made.status_code == 200, made.text
        assert made.json()["encrypted"] is (turned in ("on", "on meanwhile"))
        assert (made.json()["size_bytes"], made.json()["checksum"]) == (len(whole), hashlib.sha256(whole).hexdigest())
        assert (await ada.rest.get("/storage/assets/a")).content == whole
        await cloud.settle()
        [file] = on_disk(cloud).values()
        assert (whole[:1000] in file.read_bytes()) is (turned in ("off", "off meanwhile"))

    async def test_a_wrong_checksum_keeps_nothing(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await encrypted(ada)
        right = hashlib.sha256(SECRET).hexdigest()
        await put(ada, "assets/a", SECRET, **{"x-content-sha256": right})
        reply = await ada.rest.put("/storage/assets/a", content=b"x", headers={"x-content-sha256": right})
        assert (reply.status_code, len(on_disk(cloud))) == (409, 1)

    async def test_the_quota_is_of_what_was_put(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await encrypted(ada)
        await limit(cloud, ada, "object_gb", 0)
        assert (await ada.rest.put("/storage/assets/a", content=b"x")).status_code == 403
        assert on_disk(cloud) == {}
        await put(ada, "assets/empty", b"")
        assert await used(cloud, ada) == (1, 0)

    async def test_what_was_tampered_with_is_not_sent(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await encrypted(ada)
        for key in "ab":
            await put(ada, f"assets/{key}", key.encode() * 1000)
        one, other = on_disk(cloud).values()
        before = one.read_bytes()
        for changed in (before[:-1], bytes([before[0] ^ 1]) + before[1:], other.read_bytes(), b""):
            one.write_bytes(changed)
            replies = [await ada.rest.get(f"/storage/assets/{key}") for key in "ab"]
            assert sorted(reply.status_code for reply in replies) == [200, 503]
            assert "damaged" in next(reply.text for reply in replies if reply.status_code == 503)

    async def test_a_key_of_another_object_opens_nothing(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await encrypted(ada)
        first, second = [await put(ada, f"assets/{key}", SECRET) for key in "ab"]
        files = on_disk(cloud)
        files[UUID(first["id"])].write_bytes(files[UUID(second["id"])].read_bytes())
        await cloud.value("update objects set wrapped_key = (select wrapped_key from objects where key = 'b')")
        assert await text(ada, "assets/a") == "503", "whoever has database and disk cannot have one pass for another"
        assert await text(ada, "assets/b") == SECRET.decode()

    async def test_without_the_key_that_wrapped_it_there_is_no_reading(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await encrypted(ada)
        await put(ada, "assets/a", SECRET)
        await cloud.value("update objects set wrapped_key = '\\x00'::bytea || substr(wrapped_key, 2)")
        with structlog.testing.capture_logs() as logged:
            reply = await ada.rest.get("/storage/assets/a")
        assert reply.status_code == 503 and "operator" in reply.text and "sealing" not in reply.text
        assert "object_key_missing" in {each["event"] for each in logged}

    @pytest.mark.parametrize("source", [False, True])
    @pytest.mark.parametrize("target", [False, True])
    async def test_a_copy_is_of_the_plain_bytes_and_as_its_bucket_says(
        self, cloud: Cloud, ada: Person, source: bool, target: bool
    ) -> None:
        data = os.urandom(150_000)
        for name, enabled in (("first", source), ("second", target)):
            await bucket(ada, name)
            await encrypted(ada, enabled=enabled, name=name)
        await put(ada, "first/a", data)
        copy = {"source_bucket": "first", "source_key": "a"}
        made = await ada.rest.post("/storage/buckets/second/copy", json=copy | {"key": "b"})
        assert made.status_code == 200, made.text
        assert made.json()["encrypted"] is target
        assert (made.json()["size_bytes"], made.json()["checksum"]) == (len(data), hashlib.sha256(data).hexdigest())
        id = (await ada.rest.post("/storage/multipart/init/second/c")).json()["id"]
        part = await ada.rest.post(
            f"/storage/multipart/{id}/copy", json=copy | {"part": 1, "source_range": "bytes=70000-139999"}
        )
        assert (part.status_code, part.json()["etag"]) == (200, hashlib.sha256(data[70_000:140_000]).hexdigest())
        assert (await ada.rest.post(f"/storage/multipart/complete/{id}")).json()["encrypted"] is target
        await ada.rest.delete("/storage/first/a")
        await cloud.settle()
        assert (await ada.rest.get("/storage/second/b")).content == data
        assert (await ada.rest.get("/storage/second/c")).content == data[70_000:140_000]
        for file in on_disk(cloud).values():
            assert (data[80_000:80_100] in file.read_bytes()) is not target

    async def test_of_a_damaged_one_there_is_no_copy(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        for enabled in (False, True):
            await encrypted(ada, enabled=enabled)
            made = await put(ada, f"assets/{enabled}", SECRET)
            file = on_disk(cloud)[UUID(made["id"])]
            file.write_bytes(file.read_bytes()[:-1])
            copy = {"source_bucket": "assets", "source_key": f"{enabled}", "key": "b"}
            reply = await ada.rest.post("/storage/buckets/assets/copy", json=copy)
            assert reply.status_code == 503 and "damaged" in reply.text
        assert await text(ada, "assets/b") == "404"

    async def test_one_that_ends_in_the_middle_is_never_there(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await encrypted(ada)
        await put(ada, "assets/a", SECRET)
        store = cloud.app.drivers.objects
        for after in (False, True):
            mortal = replace(cloud.app.drivers, objects=crash.Mortal(store, crash.Moment(1, after)))
            object.__setattr__(cloud.app, "drivers", mortal)
            with pytest.raises(crash.Died):
                await ada.rest.put("/storage/assets/a", content=b"after")
            object.__setattr__(cloud.app, "drivers", replace(mortal, objects=store))
            assert await text(ada, "assets/a") == SECRET.decode()
        for file in on_disk(cloud).values():
            os.utime(file, (0, 0))
        await storage_lives.collect(cloud.app)
        assert len(on_disk(cloud)) == 1


async def scrubbed(cloud: Cloud, person: Person) -> dict[str, Any]:
    """What the cluster shows once all there is has been read."""
    await storage_scrubber.scrub_host(cloud.app)
    [node] = (await person.rest.get("/storage/cluster/status")).json()["nodes"]
    return node  # type: ignore[no-any-return]


async def age(cloud: Cloud, days: int = 8) -> None:
    await cloud.value("update objects set created_at = created_at - make_interval(days => $1), "
                      "verified_at = verified_at - make_interval(days => $1)", days)  # fmt: skip


def found(node: dict[str, Any]) -> tuple[int, int, int]:
    return node["objects"], node["corrupt_objects"], node["missing_objects"]


class TestScrubber:
    async def test_what_is_corrupt_or_missing_is_shown_until_it_is_uploaded_again(
        self, cloud: Cloud, ada: Person
    ) -> None:
        await bucket(ada)
        made = {}
        for key in ("whole", "flipped", "gone", "cut", "encrypted"):
            await encrypted(ada, enabled=key == "encrypted")
            made[key] = UUID((await put(ada, f"assets/{key}", key.encode() * 1000))["id"])
        await encrypted(ada, enabled=False)
        await age(cloud)
        assert found(await scrubbed(cloud, ada)) == (5, 0, 0)
        assert [await text(ada, f"assets/{key}") for key in made] == [key * 1000 for key in made]

        paths = on_disk(cloud)
        before = paths[made["flipped"]].read_bytes()
        paths[made["flipped"]].write_bytes(before[:500] + bytes([before[500] ^ 1]) + before[501:])
        sealed = paths[made["encrypted"]].read_bytes()
        paths[made["encrypted"]].write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
        paths[made["cut"]].write_bytes(b"cut")
        paths[made["gone"]].unlink()
        assert found(await scrubbed(cloud, ada)) == (5, 0, 0), "they were read just now"
        await age(cloud)
        with structlog.testing.capture_logs() as logged:
            assert found(await scrubbed(cloud, ada)) == (5, 3, 1)
        assert {(each["key"], each["damage"]) for each in logged if each["event"] == "object_damaged"} == {
            ("flipped", "CORRUPT"), ("cut", "CORRUPT"), ("encrypted", "CORRUPT"), ("gone", "MISSING")
        }  # fmt: skip
        assert await text(ada, "assets/whole") == "whole" * 1000
        for key in ("flipped", "cut", "gone", "encrypted"):
            reply = await ada.rest.get(f"/storage/assets/{key}")
            assert (reply.status_code, reply.json()["error"]["reason"]) == (503, "UNAVAILABLE")
            assert "damaged" in reply.text

        for key in made:
            await put(ada, f"assets/{key}", b"again")
            assert await text(ada, f"assets/{key}") == "again"
        assert found(await scrubbed(cloud, ada)) == (5, 0, 0)
        await cloud.settle()
        assert len(on_disk(cloud)) == 5

    async def test_what_is_put_back_on_the_disk_is_whole_again(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a", b"hello")
        [file] = on_disk(cloud).values()
        file.rename(file.with_name("kept"))
        await age(cloud)
        assert found(await scrubbed(cloud, ada)) == (1, 0, 1)
        assert await text(ada, "assets/a") == "503"
        file.with_name("kept").rename(file)
        assert await text(ada, "assets/a") == "hello", "a disk that is back is used at once"
        assert found(await scrubbed(cloud, ada)) == (1, 0, 1)
        await cloud.value("update objects set verified_at = verified_at - interval '61 minutes'")
        with structlog.testing.capture_logs() as logged:
            assert found(await scrubbed(cloud, ada)) == (1, 0, 0)
        assert "object_damaged" not in {each["event"] for each in logged}

    async def test_the_one_that_was_not_read_for_longest_is_next_and_a_death_costs_one(
        self, cloud: Cloud, ada: Person
    ) -> None:
        await bucket(ada)
        for key in "abc":
            await put(ada, f"assets/{key}")
            await age(cloud)
        store = cloud.app.drivers.objects
        mortal = replace(
            cloud.app, drivers=replace(cloud.app.drivers, objects=crash.Mortal(store, crash.Moment(2, False)))
        )
        with pytest.raises(crash.Died):
            await storage_scrubber.scrub_host(mortal)
        assert await cloud.value("select array_agg(key) from objects where verified_at is not null") == ["a"]
        read: list[UUID] = []

        class Noting(FileObjects):
            async def verify(self, id: UUID) -> Stored | None:
                read.append(id)
                return await super().verify(id)

        noting = replace(cloud.app.drivers, objects=Noting(cloud.app.config.data / "objects"))
        await storage_scrubber.scrub_host(replace(cloud.app, drivers=noting))
        assert read == await cloud.value("select array_agg(id order by key) from objects where key <> 'a'")

    async def test_it_reads_no_more_in_a_second_than_it_may(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        for key in "abc":
            await put(ada, f"assets/{key}", bytes(100_000))
        await age(cloud)
        slow = replace(cloud.app, config=replace(cloud.app.config, scrub_bytes=1_000_000))
        began = asyncio.get_running_loop().time()
        await storage_scrubber.scrub_host(slow)
        assert asyncio.get_running_loop().time() - began >= 0.3
        assert await cloud.value("select count(*) from objects where verified_at is not null") == 3

    async def test_it_does_not_keep_a_server_from_stopping(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        for key in "ab":
            await put(ada, f"assets/{key}", bytes(100_000))
        await age(cloud)
        stopping = asyncio.Event()
        slow = replace(cloud.app, config=replace(cloud.app.config, scrub_bytes=1000), stopping=stopping)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(storage_scrubber.scrub_host(slow))

            async def begun() -> bool:
                return await cloud.value("select count(*) from objects where verified_at is not null") == 1

            await until(begun)
            stopping.set()
        assert await cloud.value("select count(*) from objects where verified_at is not null") == 1

    async def test_a_disk_that_cannot_read_it_is_damage_too(
        self, cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        await age(cloud)

        def broken(*_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(files.os, "pread", broken)
        assert found(await scrubbed(cloud, ada)) == (1, 1, 0)

    async def test_one_that_is_deleted_while_it_is_read_is_no_damage(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        await age(cloud)

        class Late(FileObjects):
            async def verify(self, id: UUID) -> Stored | None:
                await ada.rest.delete("/storage/assets/a")
                await work.drain(cloud.app)
                return await super().verify(id)

        late = replace(cloud.app.drivers, objects=Late(cloud.app.config.data / "objects"))
        with structlog.testing.capture_logs() as logged:
            await storage_scrubber.scrub_host(replace(cloud.app, drivers=late))
        assert "object_damaged" not in {each["event"] for each in logged}
        assert on_disk(cloud) == {}

    async def test_each_host_reads_its_own_and_one_of_all_what_all_see(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        for key in ("here", "there", "shared"):
            await put(ada, f"assets/{key}")
        await cloud.value("update objects set host = 'other' where key = 'there'")
        await cloud.value("update objects set host = '' where key = 'shared'")
        await age(cloud)
        await storage_scrubber.scrub_shared(cloud.app)
        verified = "select array_agg(key order by key) from objects where verified_at is not null"
        assert await cloud.value(verified) is None
        assert found(await scrubbed(cloud, ada)) == (1, 0, 0)
        assert await cloud.value(verified) == ["here"]
        shared = FileObjects(cloud.app.config.data / "objects")
        shared.one_host = False
        app = replace(cloud.app, drivers=replace(cloud.app.drivers, objects=shared))
        await storage_scrubber.scrub_host(app)
        assert await cloud.value(verified) == ["here"]
        await storage_scrubber.scrub_shared(app)
        assert await cloud.value(verified) == ["here", "shared"]

    async def test_it_tells_since_when_all_are_known_to_be_whole(self, cloud: Cloud, ada: Person) -> None:
        assert (await scrubbed(cloud, ada)).get("scrubbed_at") is None
        await bucket(ada)
        made = await put(ada, "assets/a")
        assert (await scrubbed(cloud, ada))["scrubbed_at"] == made["created_at"]
        await age(cloud)
        assert (await scrubbed(cloud, ada))["scrubbed_at"] > made["created_at"]

    async def test_it_can_be_turned_off(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        await age(cloud, 10_000)
        off = replace(cloud.app, config=replace(cloud.app.config, scrub_days=0))
        await storage_scrubber.scrub_host(off)
        assert await cloud.value("select count(*) from objects where verified_at is not null") == 0
