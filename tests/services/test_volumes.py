"""Volumes and snapshots through the front door."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from server.services import volumes
from tests import crash
from tests.conftest import Cloud, Person
from tests.crash import MOMENTS, Moment


async def make(person: Person, name: str = "data", size_gb: int = 10, **more: Any) -> dict[str, Any]:
    reply = await person.rest.post("/volumes", json={"name": name, "size_gb": size_gb} | more)
    assert reply.status_code == 201, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def get(person: Person, path: str) -> dict[str, Any]:
    reply = await person.rest.get(path)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def refused(person: Person, status: int, path: str, body: dict[str, Any] | None, why: str) -> None:
    reply = await person.rest.post(path, json=body)
    assert reply.status_code == status, reply.text
    assert why in reply.json()["error"]["message"]


async def test_a_volume_is_made_listed_and_deleted(cloud: Cloud, ada: Person, bob: Person) -> None:
    made = await make(ada)
    id = UUID(made["id"])
    assert (made["name"], made["size_gb"], made["status"], made["reconciling"]) == ("data", 10, "AVAILABLE", True)
    await cloud.settle()
    assert cloud.volumes.disks[id].size_gb == 10
    assert not (await get(ada, "/volumes/data"))["reconciling"]
    assert [each["id"] for each in (await ada.rest.get("/volumes")).json()] == [made["id"]]
    assert (await bob.rest.get("/volumes")).json() == []
    assert (await bob.rest.get(f"/volumes/{id}")).status_code == 404
    assert (await bob.rest.delete(f"/volumes/{id}")).status_code == 404
    assert (await ada.rest.delete("/volumes/data")).json() == {"message": "volume deleted"}
    assert (await ada.rest.get(f"/volumes/{id}")).status_code == 404
    await make(ada)  # the name is free at once
    await cloud.settle()
    assert id not in cloud.volumes.disks
    assert len(cloud.volumes.disks) == 1


async def test_a_launched_instance_has_its_volumes_and_gives_them_back(cloud: Cloud, ada: Person) -> None:
    made = await make(ada)
    attached = [{"volume_id": "data", "mount_path": "/data"}]
    instance = await ada.running(volumes=attached)
    volume = await get(ada, f"/volumes/{made['id']}")
    assert (volume["status"], volume["instance_id"], volume["mount_path"]) == ("IN-USE", instance["id"], "/data")
    [mount] = cloud.compute.machines[UUID(instance["id"])].spec.mounts
    assert (mount.folder, mount.path) == (f"/nowhere/{made['id']}", "/data")
    assert cloud.volumes.disks[UUID(made["id"])].mounted

    await refused(ada, 400, "/instances", {"name": "b", "image": "nginx", "volumes": attached}, "IN-USE")
    assert (await ada.rest.delete("/volumes/data")).status_code == 409
    await refused(ada, 400, "/volumes/data/resize", {"size_gb": 20}, "IN-USE")
    await refused(ada, 400, "/snapshots", {"volume_id": "data"}, "IN-USE")

    await ada.rest.post(f"/instances/{instance['id']}/stop")
    await cloud.settle()
    assert (await get(ada, "/volumes/data"))["status"] == "IN-USE"
    await ada.rest.delete(f"/instances/{instance['id']}")
    await cloud.settle()
    volume = await get(ada, "/volumes/data")
    assert volume["status"] == "AVAILABLE"
    assert "instance_id" not in volume
    assert not cloud.volumes.disks[UUID(made["id"])].mounted
    await ada.running(volumes=attached)


async def test_a_volume_grows_and_never_shrinks(cloud: Cloud, ada: Person) -> None:
    made = await make(ada)
    grown = await ada.rest.post("/volumes/data/resize", json={"size_gb": 20})
    assert grown.status_code == 200
    assert grown.json()["size_gb"] == 20
    await cloud.settle()
    assert cloud.volumes.disks[UUID(made["id"])].size_gb == 20
    await refused(ada, 400, "/volumes/data/resize", {"size_gb": 19}, "never shrink")


async def test_a_snapshot_outlives_its_volume_and_begins_another(cloud: Cloud, ada: Person, bob: Person) -> None:
    made = await make(ada)
    await cloud.settle()
    cloud.volumes.disks[UUID(made["id"])].text = "then"
    taken = (await ada.rest.post("/snapshots", json={"volume_id": "data", "description": "before"})).json()
    assert (taken["status"], taken["size_gb"]) == ("CREATING", 10)
    for verb, path, body in (
        ("DELETE", "/volumes/data", None),
        ("POST", "/volumes/data/resize", {"size_gb": 11}),
        ("POST", "/instances", {"name": "a", "image": "nginx", "volumes": [{"volume_id": "data", "mount_path": "/a"}]}),
    ):
        assert (await ada.rest.request(verb, path, json=body)).status_code == 409, "it is just being taken"
    await cloud.settle()
    assert (await get(ada, f"/snapshots/{taken['id']}"))["status"] == "AVAILABLE"
    assert (await bob.rest.get(f"/snapshots/{taken['id']}")).status_code == 404
    assert (await ada.rest.delete("/volumes/data")).status_code == 200
    await cloud.settle()

    await refused(ada, 400, "/volumes", {"name": "small", "size_gb": 9, "snapshot_id": taken["id"]}, "has 10 GiB")
    again = await make(ada, "again", 0, snapshot_id=taken["id"])
    assert again["size_gb"] == 10
    assert (await ada.rest.delete(f"/snapshots/{taken['id']}")).status_code == 409
    await cloud.settle()
    assert cloud.volumes.disks[UUID(again["id"])].text == "then"
    assert (await ada.rest.delete(f"/snapshots/{taken['id']}")).json() == {"message": "snapshot deleted"}
    await cloud.settle()
    assert cloud.volumes.snapshots == {}
    assert (await ada.rest.get("/snapshots")).json() == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"name": "data"}, "1 to 16000"),
        ({"name": "data", "size_gb": -1}, "size_gb"),
        ({"name": "data", "size_gb": 16001}, "size_gb"),
        ({"name": "ab", "size_gb": 1}, "name"),
        ({"name": "a/b", "size_gb": 1}, "name"),
        ({"name": "x" * 65, "size_gb": 1}, "name"),
        ({"name": "data", "size_gb": 1, "snapshot_id": "nonsense"}, "snapshot_id"),
    ],
)
async def test_what_can_be_no_volume_is_refused(cloud: Cloud, ada: Person, body: dict[str, Any], why: str) -> None:
    await refused(ada, 400, "/volumes", body, why)
    assert await cloud.value("select count(*) from volumes") == 0


async def test_names_are_unique_and_quotas_hold(cloud: Cloud, ada: Person, bob: Person) -> None:
    await make(ada, size_gb=400)
    await refused(ada, 409, "/volumes", {"name": "data", "size_gb": 1}, "already")
    await make(bob)
    reply = await ada.rest.post("/volumes", json={"name": "more", "size_gb": 101})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "QUOTA_EXCEEDED")
    reply = await ada.rest.post("/volumes/data/resize", json={"size_gb": 501})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "QUOTA_EXCEEDED")
    tried = await ada.rest.post("/volumes?dry_run=true", json={"name": "more", "size_gb": 100})
    assert tried.json()["estimated_price_per_hour"] == pytest.approx(0.011)
    assert await cloud.value("select count(*) from volumes") == 2


@pytest.mark.parametrize(
    ("attached", "status"),
    [
        ([{"volume_id": "data", "mount_path": "/proc/x"}], 400),
        ([{"volume_id": "data", "mount_path": "/"}], 400),
        ([{"volume_id": "data", "mount_path": "/a/../proc"}], 400),
        ([{"volume_id": "data", "mount_path": "//sys"}], 400),
        ([{"volume_id": "data", "mount_path": "data"}], 400),
        ([{"volume_id": "data", "mount_path": "/a:b"}], 400),
        ([{"volume_id": "data", "mount_path": "/a"}, {"volume_id": "data", "mount_path": "/b"}], 400),
        ([{"volume_id": "data", "mount_path": "/a"}, {"volume_id": "logs", "mount_path": "/a/"}], 400),
        ([{"volume_id": str(uuid4()), "mount_path": "/a"}], 404),
        ([{"volume_id": "foreign", "mount_path": "/a"}], 400),
    ],
)
async def test_volumes_that_cannot_be_attached_leave_nothing(
    cloud: Cloud, ada: Person, bob: Person, attached: list[dict[str, str]], status: int
) -> None:
    for name in ("data", "logs"):
        await make(ada, name)
    await make(bob, "foreign")
    reply = await ada.rest.post("/instances", json={"name": "a", "image": "nginx", "volumes": attached})
    assert reply.status_code == status, reply.text
    assert await cloud.value("select count(*) from instances") == 0
    assert await cloud.value("select count(*) from volumes where status <> 'AVAILABLE'") == 0


async def test_another_tenants_volume_is_not_there(ada: Person, bob: Person) -> None:
    made = await make(bob, "foreign")
    body = {"name": "a", "image": "nginx", "volumes": [{"volume_id": made["id"], "mount_path": "/a"}]}
    await refused(ada, 404, "/instances", body, "not found")
    await refused(ada, 404, "/snapshots", {"volume_id": made["id"]}, "not found")


@pytest.mark.parametrize("moment", MOMENTS[:6], ids=str)
@pytest.mark.parametrize("driver", ["volumes", "compute"])
async def test_a_death_at_a_driver_call_is_survived(cloud: Cloud, ada: Person, driver: str, moment: Moment) -> None:
    made, instance = await make(ada), None
    for step in ("make", "launch", "terminate", "snapshot", "delete"):
        match step:
            case "launch":
                instance = (await ada.launch(volumes=[{"volume_id": "data", "mount_path": "/data"}]))["id"]
            case "terminate":
                assert (await ada.rest.delete(f"/instances/{instance}")).status_code == 200
            case "snapshot":
                assert (await ada.rest.post("/snapshots", json={"volume_id": "data"})).status_code == 201
            case "delete":
                assert (await ada.rest.delete("/volumes/data")).status_code == 200
        await crash.survive(cloud, driver, moment)
        if step == "launch":
            assert cloud.volumes.disks[UUID(made["id"])].mounted
            assert (await ada.instance(str(instance)))["status"] == "RUNNING"
        elif step != "delete":
            assert (await get(ada, "/volumes/data"))["status"] == "AVAILABLE"
            assert not cloud.volumes.disks[UUID(made["id"])].mounted
    assert cloud.volumes.disks == {}
    assert len(cloud.volumes.snapshots) == 1


async def test_what_was_lost_is_made_again_and_leftovers_go(cloud: Cloud, ada: Person) -> None:
    made = UUID((await make(ada))["id"])
    await cloud.settle()
    stray = uuid4()
    cloud.volumes.disks[stray] = cloud.volumes.disks.pop(made)
    cloud.volumes.snapshots[stray] = cloud.volumes.disks[stray]
    await volumes.compare(cloud.app)
    await cloud.settle()
    assert list(cloud.volumes.disks) == [made]
    assert cloud.volumes.snapshots == {}
