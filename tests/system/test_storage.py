"""Objects of a whole cloud, on the disk: uploads while the server is killed, and what a restart leaves of them."""

import asyncio
import hashlib
import os
import random
from pathlib import Path

import httpx
import pytest

from server.services import storage_lives, storage_scrubber
from tests.system.process import Person, Thecloud

UPLOADS, ROUNDS = 200, 5
SEED = int(os.environ.get("THECLOUD_TEST_SEED") or random.randrange(2**32))


def content(name: str, round: int) -> bytes:
    """What is uploaded there: from a few bytes to a megabyte."""
    dice = random.Random(f"{name} {round}")
    return dice.randbytes(dice.choice([10, 5_000, 200_000, 1_000_000]))


async def upload(person: Person, name: str, round: int) -> str | None:
    """The name, once the upload was answered; None when it never was."""
    try:
        reply = await person.rest.put(f"/storage/photos/{name}", content=content(name, round))
    except httpx.TransportError:
        return None
    assert reply.status_code in (201, 503), reply.text
    return name if reply.status_code == 201 else None


def files(cloud: Thecloud) -> list[Path]:
    return [file for file in (cloud.data / "objects").rglob("*") if file.is_file()]


@pytest.mark.timeout(300)
async def test_what_was_answered_is_whole_and_nothing_else_is_there_after_kills(cloud: Thecloud) -> None:
    print("THECLOUD_TEST_SEED =", SEED)
    dice = random.Random(SEED)
    await cloud.up()
    person = await cloud.person()
    assert (await person.rest.post("/storage/buckets", json={"name": "photos"})).status_code == 201
    answered: dict[str, set[int]] = {}  # by name, the rounds of which one must be there
    lost: dict[str, set[int]] = {}  # and those that may be
    for round in range(ROUNDS):
        names = [f"2026/{number % 7}/{number}.jpg" for number in range(UPLOADS // ROUNDS * round // 2, UPLOADS)]
        dice.shuffle(names)
        tasks = [asyncio.create_task(upload(person, name, round)) for name in names[: UPLOADS // ROUNDS * 2]]
        await asyncio.sleep(dice.uniform(0.05, 1.5))
        assert cloud.process
        await cloud.process.kill()
        for name, done in zip(names, await asyncio.gather(*tasks), strict=False):
            if done:
                answered[name], lost[name] = {round}, set()
            else:
                lost.setdefault(name, set()).add(round)
        await cloud.up()

    listed = {each["key"]: each for each in (await person.rest.get("/storage/photos")).json()}
    assert answered.keys() <= listed.keys() <= answered.keys() | lost.keys()
    for name, seen in listed.items():
        body = (await person.rest.get(f"/storage/photos/{name}")).content
        possible = answered.get(name, set()) | lost.get(name, set())
        assert body in [content(name, round) for round in possible], name
        assert seen["checksum"] == hashlib.sha256(body).hexdigest()
    print(f"{len(answered)} answered, {len(listed)} there, {len(files(cloud))} files")

    for file in files(cloud):  # as if a day had passed
        os.utime(file, (0, 0))
    await cloud.value(f"update work set due_at = now() where kind = '{storage_lives.__name__}.collect'")
    async with asyncio.timeout(60):
        while len(files(cloud)) != len(listed):  # noqa: ASYNC110 - the server collects
            await asyncio.sleep(0.1)
    for name in listed:
        assert (await person.rest.get(f"/storage/photos/{name}")).status_code == 200


@pytest.mark.timeout(120)
async def test_encrypted_objects_are_there_after_a_kill_and_damage_is_found(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    assert (await person.rest.post("/storage/buckets", json={"name": "photos"})).status_code == 201
    await cloud.value("update buckets set encryption_enabled = true")
    made = {}
    for name in ("whole", "flipped"):
        made[name] = (await person.rest.put(f"/storage/photos/{name}", content=content(name, 0))).json()
    assert cloud.process
    await cloud.process.kill()
    await cloud.up()
    for name in made:
        assert (await person.rest.get(f"/storage/photos/{name}")).content == content(name, 0)
    assert not any(content(name, 0)[:10] in file.read_bytes() for file in files(cloud) for name in made)

    [file] = [file for file in files(cloud) if file.name == made["flipped"]["id"]]
    stored = bytearray(file.read_bytes())
    stored[3] ^= 1
    file.write_bytes(stored)
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
    assert (await person.rest.get("/storage/photos/whole")).content == content("whole", 0)
