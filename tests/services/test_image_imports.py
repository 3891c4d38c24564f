"""Images fetched from a web server that does what real ones do, or worse."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from server import egress, image_files, image_rows
from server.config import Config
from server.services import image_imports
from server.work import RECONCILERS
from tests import crash
from tests import image_samples as samples
from tests.conftest import Cloud, Person, running_cloud
from tests.crash import Died
from tests.engines import require
from tests.file_server import FileServer, serving

DATA = samples.raw(4)
CHECKSUM = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
async def cloud(empty_database: str, tmp_path: Path) -> AsyncIterator[Cloud]:
    """One that may fetch from this machine's loopback address."""
    require("qemu-img")
    config = Config(data=tmp_path, grpc="127.0.0.1:0", lease_seconds=5, egress_allow="127.0.0.1/32")
    async with running_cloud(empty_database, tmp_path, config) as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    async with serving(FileServer(DATA)) as file_server:
        yield file_server


async def imported(person: Person, url: str, **fields: Any) -> str:
    reply = await person.rest.post("/images/import", json={"name": "ubuntu-22.04-cloud", "url": url} | fields)
    assert reply.status_code == 202, reply.text
    return reply.json()["id"]  # type: ignore[no-any-return]


async def shown(person: Person, id: str) -> dict[str, Any]:
    reply = await person.rest.get(f"/images/{id}")
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def is_whole(cloud: Cloud, person: Person, id: str) -> None:
    seen = await shown(person, id)
    assert (seen["status"], seen["checksum"], seen["size_bytes"]) == ("ACTIVE", CHECKSUM, len(DATA)), seen
    folder = cloud.app.config.data / "images"
    assert [path.name for path in folder.iterdir()] == [id]
    assert (folder / id).read_bytes() == DATA
    assert await cloud.value("select count(*) from work where kind = 'image'") == 0


async def error(cloud: Cloud, person: Person, id: str) -> str:
    """The reason of an import that has failed, and left nothing."""
    seen = await shown(person, id)
    assert seen["status"] == "ERROR", seen
    assert (seen["size_bytes"], seen["format"]) == (0, "")
    assert list((cloud.app.config.data / "images").iterdir()) == []
    return seen["status_message"]  # type: ignore[no-any-return]


async def again(cloud: Cloud) -> None:
    """Let what waits for another try have it."""
    await cloud.value("update work set due_at = now()")
    await cloud.settle()


async def test_an_import_ends_active(cloud: Cloud, ada: Person, bob: Person, server: FileServer) -> None:
    made = await ada.rest.post(
        "/images/import",
        json={"name": "ubuntu-22.04-cloud", "url": server.url, "description": "Ubuntu", "os": "linux",
              "version": "22.04", "is_public": True},
    )  # fmt: skip
    assert made.status_code == 202
    body = made.json()
    assert (body["status"], body["received_bytes"], body["source_url"]) == ("PENDING", 0, server.url)
    assert server.requests == []
    await cloud.settle()
    await is_whole(cloud, ada, body["id"])
    assert "source_url" not in await shown(bob, body["id"])
    assert await cloud.value("select count(*) from changes where after::text like '%disk.img%'") == 0


async def test_an_import_shows_how_far_it_is(cloud: Cloud, ada: Person, server: FileServer) -> None:
    server.pause_at = 2 * 2**20 + 4096
    id = await imported(ada, server.url)
    working = asyncio.create_task(cloud.settle())
    await server.paused.wait()

    async with asyncio.timeout(10):
        while (await shown(ada, id))["received_bytes"] < 2**20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    seen = await shown(ada, id)
    assert seen["status"] == "PENDING"
    assert 25 <= seen["progress_percent"] <= 50
    server.go_on.set()
    await working
    await is_whole(cloud, ada, id)


async def test_a_dry_run_fetches_nothing(cloud: Cloud, ada: Person, server: FileServer) -> None:
    reply = await ada.rest.post("/images/import?dry_run=true", json={"name": "a", "url": server.url})
    assert (reply.status_code, reply.json()["estimated_price_per_hour"]) == (200, 0)
    await cloud.settle()
    assert (await ada.rest.get("/images")).json() == []
    assert server.requests == []


@pytest.mark.parametrize(
    "url", ["ftp://example.com/a", "http://u:p@example.com/a", "nonsense", "http://", "file:///etc/passwd"]
)
async def test_a_url_that_cannot_be_fetched_is_refused_at_once(ada: Person, url: str) -> None:
    reply = await ada.rest.post("/images/import", json={"name": "a", "url": url})
    assert (reply.status_code, reply.json()["error"]["fields"][0]["field"]) == (400, "url")
    assert (await ada.rest.get("/images")).json() == []


@pytest.mark.parametrize("to", ["http://169.254.169.254/latest/", "http://127.0.0.2:{port}/", "http://10.0.0.1/"])
async def test_an_address_inside_is_an_error_with_the_reason(
    cloud: Cloud, ada: Person, server: FileServer, to: str
) -> None:
    server.locations["/disk.img"] = to.format(port=server.port)
    for url in (server.url, to.format(port=server.port)):
        id = await imported(ada, url)
        await cloud.settle()
        assert "THECLOUD_EGRESS_ALLOW" in await error(cloud, ada, id)


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "410 Gone", "204 No Content", "304 Not Modified"])
async def test_a_refusal_of_the_server_is_an_error(cloud: Cloud, ada: Person, server: FileServer, status: str) -> None:
    server.statuses = [status]
    id = await imported(ada, server.url)
    await cloud.settle()
    assert status in await error(cloud, ada, id)
    assert len(server.requests) == 1


async def test_a_server_in_trouble_is_asked_again(cloud: Cloud, ada: Person, server: FileServer) -> None:
    server.statuses = ["503 Service Unavailable", "429 Too Many Requests", "500 Oops"]
    id = await imported(ada, server.url)
    for said in ("503", "429", "500"):
        await again(cloud)
        seen = await shown(ada, id)
        assert seen["status"] == "PENDING"
        assert said in seen["status_message"]
        assert await cloud.value("select due_at > now() from work where kind = 'image'")
    await again(cloud)
    await is_whole(cloud, ada, id)
    assert "status_message" not in await shown(ada, id)


async def test_a_lost_connection_is_taken_up_where_it_was(cloud: Cloud, ada: Person, server: FileServer) -> None:
    server.break_after = [3_000_000, 500_000]
    id = await imported(ada, server.url)
    for _ in range(3):
        await again(cloud)
    await is_whole(cloud, ada, id)
    first, second, third = server.requests
    assert "range" not in first
    assert second["if-range"] == third["if-range"] == '"1"'
    begun = [int(request["range"].removeprefix("bytes=").removesuffix("-")) for request in (second, third)]
    assert 2 * 2**20 <= begun[0] <= 3_000_000, "what has come is kept, but for what the client library had in hand"
    assert begun[0] <= begun[1] <= begun[0] + 500_000


async def test_a_file_that_has_changed_is_fetched_anew(cloud: Cloud, ada: Person, server: FileServer) -> None:
    server.data, server.break_after = b"\0" * len(DATA), [3_000_000]
    id = await imported(ada, server.url)
    await again(cloud)
    server.data, server.etag = DATA, '"2"'
    await again(cloud)
    await is_whole(cloud, ada, id)


@pytest.mark.parametrize("etag", ["", 'W/"1"', '"1"'])
async def test_a_server_without_ranges_or_a_strong_tag_is_asked_for_all(
    cloud: Cloud, ada: Person, server: FileServer, etag: str
) -> None:
    server.etag, server.ranges, server.break_after = etag, etag != '"1"', [3_000_000]
    id = await imported(ada, server.url)
    await again(cloud)
    await again(cloud)
    await is_whole(cloud, ada, id)
    assert "range" not in server.requests[1]


async def test_a_file_that_is_too_large_is_an_error(cloud: Cloud, ada: Person, server: FileServer) -> None:
    small = replace(cloud.app, config=replace(cloud.app.config, image_bytes=2**20))
    for length in (True, False):
        server.length = length
        id = await imported(ada, server.url)
        await RECONCILERS["image"](small, UUID(id))
        assert "1048576 bytes" in await error(cloud, ada, id)


async def test_a_quota_is_the_most_there_may_be(cloud: Cloud, ada: Person, server: FileServer) -> None:
    await cloud.value("insert into quotas values ($1, 'image_gb', 0)", ada.tenant_id)
    id = await imported(ada, server.url)
    await cloud.settle()
    assert "quota of image_gb" in await error(cloud, ada, id)


async def test_an_import_that_takes_too_long_is_an_error(cloud: Cloud, ada: Person, server: FileServer) -> None:
    server.pause_at = 2**20
    id = await imported(ada, server.url)
    hasty = replace(cloud.app, config=replace(cloud.app.config, import_seconds=0.5))
    await RECONCILERS["image"](hasty, UUID(id))
    assert "minutes" in await error(cloud, ada, id)


async def test_a_full_disk_is_an_error_and_gives_back_what_it_took(
    cloud: Cloud, ada: Person, server: FileServer
) -> None:
    full = replace(cloud.app, config=replace(cloud.app.config, image_spare_bytes=2**62))
    id = await imported(ada, server.url)
    await RECONCILERS["image"](full, UUID(id))
    assert "no room" in await error(cloud, ada, id)


async def test_what_is_fetched_is_looked_at(cloud: Cloud, ada: Person, server: FileServer, tmp_path: Path) -> None:
    samples.qemu_img("create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "a", folder=tmp_path)
    server.data = (tmp_path / "a").read_bytes()
    id = await imported(ada, server.url)
    await cloud.settle()
    assert "backing file" in await error(cloud, ada, id)


async def test_what_is_deleted_meanwhile_goes(
    cloud: Cloud, ada: Person, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_imports, "LOOK_AGAIN", 0.0)
    server.pause_at = 2 * 2**20
    id = await imported(ada, server.url)
    working = asyncio.create_task(cloud.settle())
    await server.paused.wait()
    assert (await ada.rest.delete(f"/images/{id}")).status_code == 200
    server.go_on.set()
    await working
    await cloud.settle()
    assert (await ada.rest.get(f"/images/{id}")).status_code == 404
    assert list((cloud.app.config.data / "images").iterdir()) == []


async def test_so_many_are_imported_at_once_and_others_wait(cloud: Cloud, ada: Person, server: FileServer) -> None:
    server.pause_at = 2**20
    first = [await imported(ada, server.url) for _ in range(image_imports.AT_ONCE_OF_A_TENANT)]
    running = [asyncio.create_task(RECONCILERS["image"](cloud.app, UUID(id))) for id in first]
    async with asyncio.timeout(10):
        while len(server.requests) < len(first):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    waiting = await imported(ada, server.url)
    assert await RECONCILERS["image"](cloud.app, UUID(waiting)) is not None
    assert "before it" in (await shown(ada, waiting))["status_message"]
    server.go_on.set()
    await asyncio.gather(*running)
    await again(cloud)
    assert (await shown(ada, waiting))["status"] == "ACTIVE"


# Killed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("where", "name", "time"),
    [
        (egress, "opened", 1), (image_files.Part, "append", 1), (image_files.Part, "append", 3),
        (image_files.Part, "sync", 1), (image_rows, "look_at", 1), (image_files.Part, "become_whole", 1),
        (image_files, "place", 1),
    ],
)  # fmt: skip
async def test_a_death_at_any_step_is_survived(
    cloud: Cloud, ada: Person, server: FileServer, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, time: int,
    after: bool,
) -> None:  # fmt: skip
    id = await imported(ada, server.url)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, crash.dying(getattr(where, name), time, after=after))
        with pytest.raises(Died):
            await cloud.settle()
    await crash.expire(cloud)
    await cloud.settle()
    stray = [path for path in (cloud.app.config.data / "images").iterdir() if path.name != id]
    assert len(stray) <= 1, "a file that no row knows, for the sweep"
    for path in stray:
        path.unlink()
    await is_whole(cloud, ada, id)


@pytest.mark.parametrize("moment", crash.MOMENTS[:4], ids=str)
async def test_a_death_while_the_engine_loads_is_survived(
    cloud: Cloud, ada: Person, server: FileServer, moment: crash.Moment
) -> None:
    server.data = samples.archive(samples.layer(("hello", b"hi")))
    cloud.compute.slow_loads = 1
    id = await imported(ada, server.url)
    await crash.survive(cloud, "compute", moment)
    seen = await shown(ada, id)
    assert (seen["status"], seen["format"]) == ("ACTIVE", "container")
    assert cloud.compute.loaded == {UUID(id)}


@pytest.mark.parametrize("moment", crash.MOMENTS[:2], ids=str)
async def test_a_death_while_it_is_deleted_is_survived(
    cloud: Cloud, ada: Person, server: FileServer, moment: crash.Moment
) -> None:
    server.data = samples.archive(samples.layer(("hello", b"hi")))
    id = await imported(ada, server.url)
    await cloud.settle()
    await ada.rest.delete(f"/images/{id}")
    assert await crash.survive(cloud, "compute", moment)
    assert (await ada.rest.get(f"/images/{id}")).status_code == 404
    assert cloud.compute.loaded == set()
    assert list((cloud.app.config.data / "images").iterdir()) == []
