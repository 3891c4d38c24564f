"""The log of a real container, with the server killed while it is taken: each line once, in order, and kept."""

import asyncio
import json
from functools import partial

import httpx
import pytest

from tests.conftest import until
from tests.system.process import Person, Thecloud

LINES, KILLS = 300, 3
COUNT = f"""
    i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i + 1)); sleep 0.02; done
    echo warning: done >&2; sleep 1000
"""


async def messages(person: Person, id: str) -> list[str]:
    """Oldest first."""
    reply = await person.rest.get(f"/logs/{id}", params={"limit": 1000})
    assert reply.status_code == 200, reply.text
    return [entry["message"] for entry in reversed(reply.json()["entries"])]


async def taken(person: Person, id: str, many: int) -> bool:
    return len(await messages(person, id)) >= many


@pytest.mark.timeout(180)
async def test_every_line_is_taken_once_though_the_server_is_killed(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    made = await person.running(cmd=["sh", "-c", COUNT])
    for kill in range(1, KILLS + 1):
        await until(partial(taken, person, made["id"], kill * 40), 30)
        assert cloud.process
        await cloud.process.kill()
        await cloud.up()
    await until(partial(taken, person, made["id"], LINES + 1), 60)
    found = await messages(person, made["id"])
    assert [each for each in found if each.startswith("line")] == [f"line {number}" for number in range(LINES)]
    assert len(found) == LINES + 1
    [warned] = (await person.rest.get("/logs", params={"level": "WARN"})).json()["entries"]
    assert warned["message"] == "warning: done"
    assert (await person.rest.delete(f"/instances/{made['id']}")).status_code == 200
    await person.gone(made["id"])
    assert len(await messages(person, made["id"])) == LINES + 1


async def test_a_tail_over_http_sends_lines_as_they_are_written(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    made = await person.running(cmd=["sh", "-c", "i=0; while true; do echo tick $i; i=$((i + 1)); sleep 0.2; done"])
    seen: list[str] = []
    path = f"/logs/{made['id']}/tail"
    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(base_url=cloud.http, trust_env=False, timeout=30) as client,
        client.stream("GET", path, headers={"x-api-key": person.key}) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        event = ""
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            event = value if name == "event" else event
            if name == "data" and event == "entry":
                seen.append(json.loads(value)["message"])
                if len(seen) == 15:
                    break
    first = int(seen[0].split()[1])
    assert seen == [f"tick {first + number}" for number in range(15)]
