"""Images of two gigabytes, sent to and fetched by a real `thecloud up`: what they do to its memory."""

import asyncio
import hashlib
import json
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiodocker import Docker

from tests.conftest import until
from tests.engines import require
from tests.image_samples import boot_sector
from tests.system.process import Person, Thecloud

SIZE = 2 * 2**30
GROWTH = 64  # MiB
PIECE = 2**20
FIRST = boot_sector(SIZE // 512).ljust(PIECE, b"\1")
OTHER = bytes(range(256)) * (PIECE // 256)


def checksum() -> str:
    digest = hashlib.sha256(FIRST)
    for _ in range(SIZE // PIECE - 1):
        digest.update(OTHER)
    return digest.hexdigest()


async def pieces(start: int = 0) -> AsyncIterator[bytes]:
    """The file from this piece on, of which only one is ever in memory."""
    for number in range(start, SIZE // PIECE):
        yield OTHER if number else FIRST


def resident(cloud: Thecloud) -> float:
    """MiB of the server's process, at its highest since `forget`."""
    assert cloud.process
    status = Path(f"/proc/{cloud.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def forget(cloud: Thecloud) -> float:
    """Begin to measure the highest anew; MiB resident now."""
    assert cloud.process
    Path(f"/proc/{cloud.process.pid}/clear_refs").write_text("5")
    return resident(cloud)


async def registered(person: Person) -> str:
    reply = await person.rest.post("/images", json={"name": "large"})
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]  # type: ignore[no-any-return]


async def shown(person: Person, id: str) -> dict[str, Any]:
    reply = await person.rest.get(f"/images/{id}")
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def deleted(person: Person, id: str) -> None:
    assert (await person.rest.delete(f"/images/{id}")).status_code == 200

    async def gone() -> bool:
        return (await person.rest.get(f"/images/{id}")).status_code == 404

    await until(gone, 30)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The file over HTTP, with ranges."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        start = int(head.partition("range: bytes=")[2].partition("-")[0] or 0)
        status = f"206 Partial Content\r\nContent-Range: bytes {start}-{SIZE - 1}/{SIZE}" if start else "200 OK"
        writer.write(
            f'HTTP/1.1 {status}\r\nETag: "1"\r\nAccept-Ranges: bytes\r\nContent-Length: {SIZE - start}\r\n\r\n'.encode()
        )
        skip = start % PIECE
        async for piece in pieces(start // PIECE):
            writer.write(piece[skip:])
            skip = 0
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


@pytest.fixture
async def person(cloud: Thecloud) -> Person:
    require("qemu-img")
    await cloud.up(THECLOUD_EGRESS_ALLOW="127.0.0.1/32")
    return await cloud.person()


@pytest.mark.timeout(180)
async def test_an_upload_of_two_gigabytes_takes_little_memory(cloud: Thecloud, person: Person) -> None:
    id = await registered(person)
    before = forget(cloud)
    reply = await person.rest.post(
        f"/images/{id}/upload", content=pieces(), timeout=120,
        headers={"content-type": "application/octet-stream", "content-length": str(SIZE)},
    )  # fmt: skip
    assert reply.status_code == 200, reply.text
    seen = reply.json()
    assert (seen["status"], seen["size_bytes"], seen["size_gb"]) == ("ACTIVE", SIZE, 2)
    grown = resident(cloud) - before
    assert grown < GROWTH, f"{grown:.0f} MiB"
    assert seen["checksum"] == checksum()
    print(f"grown by {grown:.1f} MiB")
    await deleted(person, id)


@pytest.mark.timeout(240)
async def test_an_import_of_two_gigabytes_takes_little_memory_and_survives_a_kill(
    cloud: Thecloud, person: Person
) -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        url = "http://127.0.0.1:{1}/disk.img".format(*listening.sockets[0].getsockname())
        before = forget(cloud)
        reply = await person.rest.post("/images/import", json={"name": "large", "url": url})
        assert reply.status_code == 202, reply.text
        id = reply.json()["id"]

        async def halfway() -> bool:
            return (await shown(person, id)).get("progress_percent", 0) >= 50  # type: ignore[no-any-return]

        await until(halfway, 60)
        grown = resident(cloud) - before
        assert grown < GROWTH, f"{grown:.0f} MiB"
        print(f"grown by {grown:.1f} MiB")
        assert cloud.process
        await cloud.process.kill()
        there = (cloud.data / "images" / f"{id}.part").stat().st_size
        await cloud.up(THECLOUD_EGRESS_ALLOW="127.0.0.1/32")
        before = forget(cloud)

        async def ended() -> bool:
            return (await shown(person, id))["status"] != "PENDING"  # type: ignore[no-any-return]

        assert (await shown(person, id))["received_bytes"] >= there or await ended()
        await until(ended, 120)
    seen = await shown(person, id)
    assert (seen["status"], seen["checksum"]) == ("ACTIVE", checksum()), seen
    grown = resident(cloud) - before
    assert grown < GROWTH, f"{grown:.0f} MiB"
    await deleted(person, id)
    assert os.listdir(cloud.data / "images") == []


async def test_an_upload_cut_off_by_a_kill_goes_on(cloud: Thecloud, person: Person) -> None:
    data = struct.pack("446s", b"") + boot_sector(16384)[446:] + b"x" * (8 * 2**20 - 512)
    id = await registered(person)

    async def half() -> AsyncIterator[bytes]:
        yield data[: 5 * 2**20]
        await asyncio.Event().wait()

    sending = asyncio.ensure_future(person.rest.post(f"/images/{id}/upload", content=half()))

    async def received() -> bool:
        return (await shown(person, id))["received_bytes"] >= 4 * 2**20  # type: ignore[no-any-return]

    async with cloud.client(headers={"x-api-key": person.key}) as other:
        person.rest, sender = other, person.rest
        await until(received, 30)
        assert cloud.process
        await cloud.process.kill()
        sending.cancel()  # it waits for its own file, and does not notice
        await asyncio.gather(sending, return_exceptions=True)
        person.rest = sender
    await cloud.up()
    there = (await shown(person, id))["received_bytes"]
    assert 4 * 2**20 <= there <= 5 * 2**20
    part = {"content-range": f"bytes {there}-{len(data) - 1}/{len(data)}"}
    reply = await person.rest.post(f"/images/{id}/upload", content=data[there:], headers=part)
    assert (reply.status_code, reply.json()["checksum"]) == (200, hashlib.sha256(data).hexdigest())


@pytest.mark.timeout(120)
async def test_a_saved_container_image_is_uploaded_and_runs(cloud: Thecloud, docker: Docker) -> None:
    """Under the name of the image that it was saved from it would be everybody's."""
    before = (await docker.images.inspect("busybox:latest"))["Id"]
    async with docker.images.export_image("busybox:latest") as exported:
        data = await exported.read()
    await cloud.up()
    person = await cloud.person()
    id = await registered(person)
    reply = await person.rest.post(f"/images/{id}/upload", files={"file": ("busybox.tar", data)})
    assert (reply.status_code, reply.json()["format"]) == (200, "container"), reply.text

    async def active() -> bool:
        return (await shown(person, id))["status"] == "ACTIVE"  # type: ignore[no-any-return]

    await until(active, 60)
    made = await person.running(image=id)
    box = await cloud.container(made["id"])
    assert box["Config"]["Image"] == f"images.thecloud.internal/{cloud.id}:{id}"
    assert (await person.rest.delete(f"/images/{id}")).status_code == 409
    await person.rest.delete(f"/instances/{made['id']}")
    await person.gone(made["id"])
    await deleted(person, id)
    left = json.dumps({"reference": [f"images.thecloud.internal/{cloud.id}"]})
    assert await docker._query_json("images/json", params={"filters": left}) == []
    assert (await docker.images.inspect("busybox:latest"))["Id"] == before
