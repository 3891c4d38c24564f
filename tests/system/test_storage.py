"""Objects of a whole cloud, on the disk: uploads while the server is killed, and what a restart leaves of them."""

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path

import httpx
import pytest

from server.services import storage_lives, storage_scrubber
from tests.conftest import until
from tests.system.process import Person, Thecloud

UPLOADS, ROUNDS = 200, 5
PIECE, LARGE = 2**16, 2**30
GROWTH = 64 * 2**20  # bytes of memory that a large object may take
SEED = int(os.environ.get("THECLOUD_TEST_SEED") or random.randrange(2**32))


class Upload:
    """A put of what nobody else puts, in pieces, and how far it came. One in four has its last piece still to send
    when the server dies."""

    def __init__(self, number: int, round: int, died: asyncio.Event) -> None:
        dice = random.Random(f"{SEED} {number} {round}")
        self.name = f"2026/{number % 7}/{number}.jpg"
        self.content = dice.randbytes(dice.choice([10, 5_000, 200_000, 1_000_000]))
        self._waits_for = died if dice.random() < 0.25 else None
        self.sent = self.answered = False

    async def run(self, person: Person) -> None:
        headers = {"content-length": str(len(self.content))}
        try:
            reply = await person.rest.put(f"/storage/photos/{self.name}", content=self._pieces(), headers=headers)
        except (httpx.TransportError, ConnectionResetError):
            return
        assert reply.status_code == 201, reply.text
        self.answered = True

    async def _pieces(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.content), PIECE):
            last = at + PIECE >= len(self.content)
            if last and self._waits_for:
                await self._waits_for.wait()
                raise ConnectionResetError
            self.sent = last
            yield self.content[at : at + PIECE]


async def killed_meanwhile(
    cloud: Thecloud, person: Person, uploads: list[Upload], answers: int, died: asyncio.Event
) -> None:
    """Have all of them under way at once, and the server killed when so many were answered."""
    tasks = [asyncio.create_task(upload.run(person)) for upload in uploads]
    for ended in islice(asyncio.as_completed(tasks), answers):
        await ended
    assert cloud.process
    await cloud.process.kill()
    died.set()
    await asyncio.gather(*tasks)


def files(cloud: Thecloud) -> list[Path]:
    return [file for file in (cloud.data / "objects").rglob("*") if file.is_file()]


async def stored(person: Person) -> dict[str, str]:
    """The SHA-256 of what comes of each object that is listed, which has to be what the list says."""
    listed = (await person.rest.get("/storage/photos")).json()
    found = {}
    for each in listed:
        body = (await person.rest.get(f"/storage/photos/{each['key']}")).content
        found[each["key"]] = hashlib.sha256(body).hexdigest()
        assert (each["checksum"], each["size_bytes"]) == (found[each["key"]], len(body))
    return found


@pytest.mark.timeout(300)
async def test_what_was_answered_is_whole_and_nothing_else_is_there_after_kills(cloud: Thecloud) -> None:
    """An upload that was sent to its end may have been stored though the server died before it could say so; one
    that was cut off leaves what was there before."""
    print("THECLOUD_TEST_SEED =", SEED)
    dice = random.Random(SEED)
    cloud.environment["THECLOUD_STREAMS"] = str(UPLOADS)
    await cloud.up()
    person = await cloud.person()
    await person.rest.aclose()
    person.rest = cloud.client(headers={"x-api-key": person.key}, limits=httpx.Limits(max_connections=UPLOADS))
    assert (await person.rest.post("/storage/buckets", json={"name": "photos"})).status_code == 201
    there: dict[str, str] = {}
    for round in range(ROUNDS):
        died = asyncio.Event()
        uploads = [Upload(number, round, died) for number in range(UPLOADS)]
        dice.shuffle(uploads)
        await killed_meanwhile(cloud, person, uploads, dice.randrange(UPLOADS // 2), died)
        await cloud.up()
        now = await stored(person)
        for upload in uploads:
            new, before = hashlib.sha256(upload.content).hexdigest(), there.get(upload.name)
            possible = {new} if upload.answered else {before, new} if upload.sent else {before}
            assert now.get(upload.name) in possible, upload.name
        there = now
        print(f"{sum(upload.answered for upload in uploads)} answered, {sum(upload.sent for upload in uploads)} sent, "
              f"{len(there)} there, {len(files(cloud))} files")  # fmt: skip

    for file in files(cloud):  # as if a day had passed
        os.utime(file, (0, 0))
    await cloud.value(f"update work set due_at = now() where kind = '{storage_lives.__name__}.collect'")
    ids = await cloud.value("select array_agg(id::text) from objects where not inline")
    small, blobs = "select count(*) from objects where inline", "select count(*) from small_blobs"
    assert await cloud.value(blobs) == await cloud.value(small) > 0

    async def collected() -> bool:
        return sorted(file.name for file in files(cloud)) == sorted(ids)

    await until(collected, 60)
    assert await stored(person) == there


async def sent(pieces: int, hash: "hashlib._Hash") -> AsyncIterator[bytes]:
    """So many pieces of a MiB, no two alike."""
    random_bytes = os.urandom(2**20)
    for number in range(pieces):
        piece = number.to_bytes(8, "big") + random_bytes[8:]
        hash.update(piece)
        yield piece


async def put(person: Person, name: str, pieces: int) -> str:
    """The SHA-256 of what was put there."""
    hash = hashlib.sha256()
    headers = {"content-length": str(pieces * 2**20)}
    reply = await person.rest.put(f"/storage/photos/{name}", content=sent(pieces, hash), headers=headers)
    assert reply.status_code == 201, reply.text
    assert reply.json()["checksum"] == hash.hexdigest()
    return hash.hexdigest()


async def got(person: Person, name: str) -> str:
    """The SHA-256 of what is there."""
    hash = hashlib.sha256()
    async with person.rest.stream("GET", f"/storage/photos/{name}") as reply:
        assert reply.status_code == 200
        async for piece in reply.aiter_raw():
            hash.update(piece)
    return hash.hexdigest()


@pytest.mark.timeout(180)
async def test_a_large_object_goes_through_little_memory(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    assert (await person.rest.post("/storage/buckets", json={"name": "photos"})).status_code == 201
    assert await put(person, "small", 16) == await got(person, "small")  # what the first ones take stays
    assert cloud.process
    cloud.process.forget_most()
    before = cloud.process.memory()
    hash = await put(person, "large", LARGE // 2**20)
    after_put = cloud.process.most_memory() - before
    cloud.process.forget_most()
    before = cloud.process.memory()
    assert await got(person, "large") == hash
    after_get = cloud.process.most_memory() - before
    print(f"put {after_put / 2**20:.1f} MiB, get {after_get / 2**20:.1f} MiB")
    assert max(after_put, after_get) <= GROWTH


@pytest.mark.timeout(120)
async def test_encrypted_objects_are_there_after_a_kill_and_damage_is_found(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    assert (await person.rest.post("/storage/buckets", json={"name": "photos"})).status_code == 201
    await cloud.value("update buckets set encryption_enabled = true")
    contents, made = {"whole": os.urandom(50_000), "flipped": os.urandom(50_000)}, {}
    for name, content in contents.items():
        made[name] = (await person.rest.put(f"/storage/photos/{name}", content=content)).json()
    assert cloud.process
    await cloud.process.kill()
    await cloud.up()
    for name, content in contents.items():
        assert (await person.rest.get(f"/storage/photos/{name}")).content == content
    assert not any(content[:10] in file.read_bytes() for file in files(cloud) for content in contents.values())

    [file] = [file for file in files(cloud) if file.name == made["flipped"]["id"]]
    damaged = bytearray(file.read_bytes())
    damaged[3] ^= 1
    file.write_bytes(damaged)
    assert (await person.rest.get("/storage/photos/flipped")).status_code == 503
    await cloud.value("update objects set created_at = created_at - interval '8 days'")
    await cloud.value(f"update work set due_at = now() where kind = '{storage_scrubber.__name__}.scrub_host'")
    async with asyncio.timeout(60):
        while True:
            [node] = (await person.rest.get("/storage/cluster/status")).json()["nodes"]
            if node["corrupt_objects"]:
                break
            await asyncio.sleep(0.1)
    assert (node["objects"], node["corrupt_objects"], node["missing_objects"]) == (2, 1, 0)
    assert (await person.rest.get("/storage/photos/whole")).content == contents["whole"]
