"""Volumes of real containers: what is written, how much, and what a killed server leaves of it."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.conftest import until
from tests.engines import require
from tests.system.process import Thecloud


async def execute(cloud: Thecloud, instance: str, command: str) -> str:
    """What a command run in the instance says, as a user without privileges."""
    container = (await cloud.container(instance))["Id"]
    done = await asyncio.to_thread(
        subprocess.run, ["docker", "exec", "--user", "65534", container, "sh", "-c", command],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.timeout(180)
async def test_what_is_in_a_volume_outlives_instances_and_kills_and_no_more_goes_in(cloud: Thecloud) -> None:
    require("loop devices")
    await cloud.up()
    person = await cloud.person()
    made = (await person.rest.post("/volumes", json={"name": "data", "size_gb": 1})).json()
    attached = [{"volume_id": "data", "mount_path": "/data"}]
    first = (await person.running(volumes=attached))["id"]
    await execute(cloud, first, "echo kept > /data/file && sync")
    assert cloud.process
    await cloud.process.kill()
    await cloud.up()
    assert await execute(cloud, first, "cat /data/file") == "kept\n"
    assert "No space left" in await execute(cloud, first, "dd if=/dev/zero of=/data/large bs=1M count=1100")
    await execute(cloud, first, "rm /data/large")

    assert (await person.rest.delete(f"/instances/{first}")).status_code == 200
    await cloud.process.kill()
    await cloud.up()
    await person.gone(first)
    assert (await person.rest.get("/volumes/data")).json()["status"] == "AVAILABLE"
    taken = (await person.rest.post("/snapshots", json={"volume_id": "data"})).json()["id"]

    async def is_taken() -> bool:
        return bool((await person.rest.get(f"/snapshots/{taken}")).json()["status"] == "AVAILABLE")

    await until(is_taken)
    assert (await person.rest.post("/volumes/data/resize", json={"size_gb": 2})).status_code == 200
    again = {"name": "again", "snapshot_id": taken}
    assert (await person.rest.post("/volumes", json=again)).status_code == 201
    both = [*attached, {"volume_id": "again", "mount_path": "/again"}]
    second = (await person.running(volumes=both))["id"]
    assert await execute(cloud, second, "cat /data/file /again/file") == "kept\nkept\n"
    assert int((await execute(cloud, second, "df -m /data | tail -1 | awk '{print $2}'")).strip()) > 1900

    assert (await person.rest.delete(f"/instances/{second}")).status_code == 200
    await person.gone(second)
    for path in ("/volumes/data", "/volumes/again", f"/snapshots/{taken}"):
        assert (await person.rest.delete(path)).status_code == 200
    folder = cloud.data / "volumes"

    async def empty() -> bool:
        return not [file for file in folder.rglob("*") if file.is_file()]

    await until(empty)
    assert made["id"] not in Path("/proc/self/mountinfo").read_text()
