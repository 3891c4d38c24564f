"""A process that dies at any driver call leaves nothing that another does not put right."""

from uuid import UUID

import pytest

from server import quota
from server.services import instance_lives
from server.work import RECONCILERS
from tests import crash
from tests.conftest import Cloud, Person, with_compute
from tests.crash import MOMENTS, Moment

LIFE = ("launch", "pause", "resume", "resize", "stop", "start", "delete")
BASIC_2, BASIC_4 = {"instances": 1, "vcpus": 1, "memory_mb": 1024}, {"instances": 1, "vcpus": 2, "memory_mb": 2048}
NONE = {"instances": 0, "vcpus": 0, "memory_mb": 0}


async def usage(cloud: Cloud, person: Person) -> dict[str, int]:
    async with cloud.app.db.transaction() as tx:
        used, _ = await quota.usage(tx, person.tenant_id, ("instances", "vcpus", "memory_mb"))
        return used


async def ask(person: Person, id: str, step: str) -> None:
    """One change of an instance's life, asked for over REST."""
    verb, path, body = {
        "pause": ("POST", "/pause", None),
        "resume": ("POST", "/resume", None),
        "resize": ("POST", "/resize", {"instance_type": "basic-4"}),
        "stop": ("POST", "/stop", None),
        "start": ("PUT", "", {"status": "RUNNING"}),
        "delete": ("DELETE", "", None),
    }[step]
    reply = await person.rest.request(verb, f"/instances/{id}{path}", json=body)
    assert reply.status_code == 200, reply.text


BEFORE = {"resume": ("pause",), "start": ("stop",)}  # what a step needs to have happened
POWER = {"launch": "RUNNING", "pause": "PAUSED", "resume": "RUNNING", "resize": "RUNNING", "stop": "STOPPED",
         "start": "RUNNING"}  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS[:2], ids=str)
@pytest.mark.parametrize("step", LIFE)
async def test_a_death_at_a_driver_call_is_survived(cloud: Cloud, ada: Person, step: str, moment: Moment) -> None:
    """Each step makes one driver call, so the first is the only one to die at."""
    id = (await ada.launch(ports="0:80"))["id"]
    if step != "launch":
        await cloud.settle()
        for earlier in BEFORE.get(step, ()):
            await ask(ada, id, earlier)
            await cloud.settle()
        await ask(ada, id, step)
    assert await crash.survive(cloud, "compute", moment)
    machines = cloud.compute.machines
    if step == "delete":
        assert machines == {}
        assert (await ada.rest.get(f"/instances/{id}")).status_code == 404
        assert await cloud.value("select count(*) from instance_ports") == 0
        assert await usage(cloud, ada) == NONE
        return
    seen = await ada.instance(id)
    assert (seen["status"], seen["reconciling"]) == (POWER[step], False)
    assert list(machines) == [UUID(id)]
    assert machines[UUID(id)].power == POWER[step]
    assert machines[UUID(id)].spec.vcpus == (2 if step == "resize" else 1)
    assert await usage(cloud, ada) == (BASIC_4 if step == "resize" else BASIC_2)


@pytest.mark.parametrize("moment", MOMENTS[:6], ids=str)
async def test_a_death_while_waiting_for_an_image_is_survived(cloud: Cloud, ada: Person, moment: Moment) -> None:
    cloud.compute.slow_images.add("slow")
    id = (await ada.launch(image="slow"))["id"]
    await crash.survive(cloud, "compute", moment)
    assert (await ada.instance(id))["status"] == "RUNNING"
    assert list(cloud.compute.machines) == [UUID(id)]


@pytest.mark.parametrize("moment", MOMENTS[:2], ids=str)
@pytest.mark.parametrize(
    ("first", "then"), [("launch", "delete"), ("launch", "stop"), ("pause", "delete"), ("pause", "resume"),
                        ("stop", "start"), ("resize", "stop"), ("resize", "delete")]
)  # fmt: skip
async def test_what_is_asked_between_a_death_and_the_takeover_wins(
    cloud: Cloud, ada: Person, first: str, then: str, moment: Moment
) -> None:
    id = (await ada.launch())["id"]
    if first != "launch":
        await cloud.settle()
        await ask(ada, id, first)
    assert await crash.die(cloud, "compute", moment)
    await ask(ada, id, then)
    assert await cloud.settle() == 0, "the wake does not break the lease"
    await crash.expire(cloud)
    await cloud.settle()
    assert await cloud.value("select count(*) from work") == 0
    if then == "delete":
        assert cloud.compute.machines == {}
        assert await usage(cloud, ada) == NONE
    else:
        assert cloud.compute.machines[UUID(id)].power == POWER[then]
        assert (await ada.instance(id))["status"] == POWER[then]


@pytest.mark.parametrize("step", LIFE)
async def test_a_death_after_everything_but_giving_the_lease_back_is_survived(
    cloud: Cloud, ada: Person, step: str
) -> None:
    id = (await ada.launch())["id"]
    if step != "launch":
        await cloud.settle()
        for earlier in BEFORE.get(step, ()):
            await ask(ada, id, earlier)
            await cloud.settle()
        await ask(ada, id, step)
    await RECONCILERS["instance"](cloud.app, UUID(id))
    before = (await ada.rest.get("/instances")).json()
    changes = await cloud.value("select count(*) from changes")
    assert await cloud.settle() == 1
    assert (await ada.rest.get("/instances")).json() == before
    assert await cloud.value("select count(*) from changes") == changes, "the second run changed nothing"


@pytest.mark.parametrize("moment", MOMENTS[:4], ids=str)
async def test_a_sweep_that_dies_is_done_again(cloud: Cloud, ada: Person, moment: Moment) -> None:
    kept, gone = [UUID((await ada.running())["id"]) for _ in range(2)]
    stray = cloud.compute.machines[gone]
    await ada.rest.delete(f"/instances/{gone}")
    await cloud.settle()
    cloud.compute.machines[gone] = stray
    mortal = crash.Mortal(cloud.compute, moment)
    with pytest.raises(crash.Died):
        await instance_lives.compare(with_compute(cloud.app, mortal))
    await instance_lives.compare(cloud.app)
    await cloud.settle()
    assert list(cloud.compute.machines) == [kept]
