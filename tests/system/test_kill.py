"""Whenever the server is killed, the next start brings every instance to where it was asked to be."""

import asyncio
import os
import random
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import until
from tests.system.process import Person, Thecloud

ROUNDS = 20
SEED = int(os.environ.get("THECLOUD_TEST_SEED") or random.randrange(2**32))
MOST = 5  # instances at a time
MEMORY_MB = {"basic-1": 512, "basic-2": 1024, "basic-4": 2048}
QUOTA = 20  # instances of a tenant
HEARD = 0.8  # of the answers; the others are lost on their way


@dataclass
class Asked:
    """What was last asked of one instance, as far as that was answered."""

    power: str = "RUNNING"  # or PAUSED or GONE
    instance_type: str = "basic-2"
    lost: list["Change"] = field(default_factory=list)  # whose answer never came; at most one


@dataclass(frozen=True)
class Change:
    """One request, which may be sent again."""

    verb: str
    path: str
    body: dict[str, Any] | None
    outcome: dict[str, str]  # what it changes of Asked
    key: str = field(default_factory=lambda: str(uuid4()))

    async def send(self, rest: httpx.AsyncClient) -> httpx.Response:
        headers = {"idempotency-key": self.key}
        return await rest.request(self.verb, self.path, json=self.body, headers=headers)


def launching(instance_type: str) -> Change:
    body = {"name": "victim", "image": "busybox", "cmd": ["sleep", "100000"], "instance_type": instance_type}
    return Change("POST", "/instances", body, {"power": "RUNNING", "instance_type": instance_type})


def changing(id: str, dice: random.Random) -> Change:
    """Anything that may be asked of an instance."""
    instance_type = dice.choice(list(MEMORY_MB))
    return dice.choice([
        Change("POST", f"/instances/{id}/resize", {"instance_type": instance_type}, {"instance_type": instance_type}),
        Change("POST", f"/instances/{id}/resize", {"instance_type": instance_type}, {"instance_type": instance_type}),
        Change("POST", f"/instances/{id}/pause", None, {"power": "PAUSED"}),
        Change("POST", f"/instances/{id}/pause", None, {"power": "PAUSED"}),
        Change("POST", f"/instances/{id}/resume", None, {"power": "RUNNING"}),
        Change("POST", f"/instances/{id}/resume", None, {"power": "RUNNING"}),
        Change("DELETE", f"/instances/{id}", None, {"power": "GONE"}),
    ])  # fmt: skip


class World:
    """What was asked of all instances, to compare with what there is."""

    def __init__(self, cloud: Thecloud, person: Person) -> None:
        self.cloud, self.person = cloud, person
        self.instances: dict[str, Asked] = {}
        self.lost_launches: list[Change] = []
        self.accepted = self.refused = self.replayed = 0

    def staying(self) -> list[str]:
        return [id for id, asked in self.instances.items() if asked.power != "GONE"]

    async def launch(self, change: Change, *, heard: bool = True) -> None:
        """Ask for an instance. An answer that is not heard is as good as lost."""
        try:
            reply = await change.send(self.person.rest)
        except httpx.TransportError:
            heard = False
        else:
            heard = heard and reply.status_code != 503  # its database was killed first: done or not, like no answer
        if not heard:
            self.lost_launches.append(change)
            return
        assert reply.status_code == 202, reply.text
        self._answered(reply)
        assert reply.json()["id"] not in self.instances or "idempotency-replayed" in reply.headers
        self.instances.setdefault(reply.json()["id"], Asked(**change.outcome))

    async def change(self, id: str, change: Change, *, heard: bool = True) -> bool:
        """Send it; whether the answer came and was heard."""
        asked = self.instances[id]
        try:
            reply = await change.send(self.person.rest)
        except httpx.TransportError:
            heard = False
        else:
            heard = heard and reply.status_code != 503
        if not heard:
            asked.lost = [change]
            return False
        asked.lost = []
        if reply.status_code == 400:  # not in this state
            assert reply.json()["error"]["code"] == "CONFLICT", reply.text
            self.refused += 1
            return True
        assert reply.status_code == 200, reply.text
        self._answered(reply)
        for name, value in change.outcome.items():
            setattr(asked, name, value)
        return True

    def _answered(self, reply: httpx.Response) -> None:
        self.accepted += 1
        self.replayed += "idempotency-replayed" in reply.headers

    async def changes(self, id: str, dice: random.Random) -> None:
        """Change an instance a few times, until one answer does not come."""
        for _ in range(4):
            heard = dice.random() < HEARD
            if self.instances[id].power == "GONE" or not await self.change(id, changing(id, dice), heard=heard):
                return

    async def send_again(self) -> None:
        """Every request whose answer was lost, with its own key."""
        lost, self.lost_launches = self.lost_launches, []
        for change in lost:
            await self.launch(change)
        for id, asked in self.instances.items():
            for change in list(asked.lost):
                assert await self.change(id, change)

    async def as_asked(self) -> bool:
        return not await self.differences()

    async def differences(self) -> list[str]:
        """Where the engine has something else than was asked for."""
        there = await self.cloud.containers()
        found = [f"{id}: there, never asked for" for id in there.keys() - self.instances.keys()]
        for id, asked in self.instances.items():
            boxes = there.get(id, [])
            wanted = [] if asked.power == "GONE" else [(asked.power.lower(), MEMORY_MB[asked.instance_type])]
            seen = [(box["State"]["Status"], memory_mb(box)) for box in boxes]
            if seen != wanted:
                found.append(f"{id}: {seen} instead of {wanted}")
        return found


def memory_mb(box: dict[str, Any]) -> int:
    """The limit that the kernel holds the container to; 0 when it does not run."""
    try:
        groups = Path(f"/proc/{box['State']['Pid']}/cgroup").read_text().splitlines()
        for line in groups:
            _, controllers, path = line.split(":", 2)
            if controllers == "memory":
                return int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text()) >> 20
        return int(Path(f"/sys/fs/cgroup{groups[0].split(':', 2)[2]}/memory.max").read_text()) >> 20
    except (OSError, ValueError):
        return 0


@pytest.mark.timeout(600)
async def test_what_was_asked_for_survives_twenty_kills(cloud: Thecloud) -> None:
    print("THECLOUD_TEST_SEED =", SEED)
    dice = random.Random(SEED)
    await cloud.up()
    world = World(cloud, await cloud.person())
    for number in range(ROUNDS):
        await one_round(world, dice, number)
    try:
        await until(world.as_asked, 60)
    except TimeoutError:
        pytest.fail("\n".join(await world.differences()))
    print(f"{world.accepted} accepted, {world.refused} refused, {world.replayed} replayed")
    assert world.replayed

    for id, asked in world.instances.items():
        if asked.power == "GONE":
            await world.person.gone(id)
        else:
            seen = await world.person.becomes(id, asked.power)
            assert seen["instance_type"] == asked.instance_type
    listed = await world.person.rest.get("/instances")
    assert sorted(each["id"] for each in listed.json()) == sorted(world.staying())
    await until(lambda: no_work_is_left(cloud), 60)

    more = 0
    while (reply := await launching("basic-1").send(world.person.rest)).status_code == 202:
        more += 1
        assert more <= QUOTA
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "QUOTA_EXCEEDED")
    assert len(world.staying()) + more == QUOTA


async def one_round(world: World, dice: random.Random, number: int) -> None:
    """Ask for much at once, kill the server meanwhile, start it again, and repeat what was not answered."""
    cloud = world.cloud
    if number % 3:  # else it is killed while it still recovers
        try:
            await until(world.as_asked, 30)
        except TimeoutError:
            pytest.fail("\n".join(await world.differences()))
    moment, with_database = dice.choice([dice.uniform(0, 0.1), dice.uniform(0, 0.8)]), dice.random() < 0.3
    print(f"round {number}: killed after {moment:.3f} s{', with its database' if with_database else ''}")
    async with asyncio.TaskGroup() as group:
        for id in world.staying():
            group.create_task(world.changes(id, random.Random(dice.random())))
        for _ in range(min(2, MOST - len(world.staying()))):
            heard = dice.random() < HEARD
            group.create_task(world.launch(launching(dice.choice(list(MEMORY_MB))), heard=heard))
        with suppress(TimeoutError):
            async with asyncio.timeout(moment):
                await cloud.process.ended()
        if with_database:
            os.kill(cloud.database_server(), signal.SIGKILL)
        await cloud.process.kill()
    await cloud.up()
    await world.send_again()


async def no_work_is_left(cloud: Thecloud) -> bool:
    """Only work that comes back by itself, whose kinds are named after functions, is in the table."""
    return not await cloud.value("select count(*) from work where kind not like '%.%'")
