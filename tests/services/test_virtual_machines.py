"""Instances that are virtual machines, and the volumes they are given while they run."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from server import hosts
from server.services import instance_lives
from tests import crash
from tests import image_samples as samples
from tests.conftest import Cloud, Person
from tests.crash import MOMENTS, Moment
from tests.drivers.fake import Machine
from tests.engines import require

TINY = "nano-vm"


async def disk_image(person: Person, name: str = TINY, **body: Any) -> str:
    """An image with a disk of a megabyte; its id."""
    require("qemu-img")
    made = await person.rest.post("/images", json={"name": name, "os": "linux", "version": "1", **body})
    id = made.json()["id"]
    sent = await person.rest.post(
        f"/images/{id}/upload", content=samples.raw(), headers={"content-type": "application/octet-stream"}
    )
    assert sent.json()["status"] == "ACTIVE", sent.text
    return id  # type: ignore[no-any-return]


async def machine(cloud: Cloud, person: Person, **body: Any) -> dict[str, Any]:
    """A virtual machine that runs."""
    body = {"name": "vm", "image": await disk_image(person), **body}
    reply = await person.rest.post("/instances", json=body)
    assert reply.status_code == 202, reply.text
    await cloud.settle()
    return await person.instance(reply.json()["id"])


async def volume(person: Person, name: str = "data") -> str:
    return (await person.rest.post("/volumes", json={"name": name, "size_gb": 1})).json()["id"]  # type: ignore[no-any-return]


def there(cloud: Cloud, instance: dict[str, Any]) -> Machine:
    return cloud.machines.machines[UUID(instance["id"])]


def refusal(reply: Any) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["reason"]


async def test_a_disk_image_starts_a_virtual_machine_and_a_name_a_container(cloud: Cloud, ada: Person) -> None:
    made = await machine(cloud, ada)
    assert (made["driver"], made["status"]) == ("libvirt", "RUNNING")
    spec = there(cloud, made).spec
    assert spec.disk
    assert (spec.disk.format, spec.disk.size_gb) == ("raw", 10)
    assert Path(spec.disk.path).read_bytes() == samples.raw()
    box = await ada.running()
    assert box["driver"] == "docker"
    assert UUID(box["id"]) in cloud.compute.machines


async def test_the_name_of_an_own_image_will_do_and_nobody_elses(cloud: Cloud, ada: Person, bob: Person) -> None:
    id = await disk_image(ada, is_public=True)
    reply = await ada.rest.post("/instances", json={"name": "a", "image": TINY})
    assert (reply.json()["driver"], reply.json()["image"]) == ("libvirt", id)
    reply = await bob.rest.post("/instances", json={"name": "a", "image": TINY})
    assert reply.json()["driver"] == "docker", "a stranger's image does not stand in for a container's"
    assert (await bob.rest.post("/instances", json={"name": "a", "image": id})).json()["driver"] == "libvirt"
    await disk_image(ada)
    reply = await ada.rest.post("/instances", json={"name": "a", "image": TINY})
    assert refusal(reply) == (400, "INVALID_ARGUMENT")
    assert "several" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"driver": "docker"}, "starts container images"),
        ({"driver": "vmware"}, "there is docker, libvirt"),
        ({"image": "nginx", "driver": "libvirt"}, "qcow2 and raw"),
    ],
)
async def test_what_no_virtual_machine_can_be_is_refused(cloud: Cloud, ada: Person, body: Any, said: str) -> None:
    reply = await ada.rest.post("/instances", json={"name": "a", "image": await disk_image(ada), **body})
    assert refusal(reply) == (400, "INVALID_ARGUMENT")
    assert said in reply.json()["error"]["message"]
    assert (await ada.rest.get("/instances")).json() == []


@pytest.mark.parametrize("body", [{"cmd": ["sh"]}, {"env": ["A=1"]}, {"ports": "0:80"}])
async def test_what_its_driver_cannot_do_is_not_implemented(cloud: Cloud, ada: Person, body: Any) -> None:
    reply = await ada.rest.post("/instances", json={"name": "a", "image": await disk_image(ada), **body})
    assert refusal(reply) == (501, "UNSUPPORTED")
    assert (await ada.rest.get("/instances")).json() == []


async def test_a_machine_of_a_vpc_is_told_its_whole_network(cloud: Cloud, ada: Person) -> None:
    vpc = (await ada.rest.post("/vpcs", json={"name": "net", "cidr_block": "10.1.0.0/16"})).json()["id"]
    body = {"name": "one", "cidr_block": "10.1.1.0/24"}
    subnet = (await ada.rest.post(f"/vpcs/{vpc}/subnets", json=body)).json()["id"]
    made = await machine(cloud, ada, subnet_id=subnet)
    told = there(cloud, made).spec.attachment
    assert told
    assert (told.address, told.gateway, told.prefix_length) == (made["private_ip"], "10.1.1.1", 24)
    [port] = cloud.network.applied[UUID(vpc)].ports
    assert (port.mac, port.netns) == (told.mac, None)
    assert port.tap
    await ada.rest.post(f"/instances/{made['id']}/stop")
    await cloud.settle()
    assert cloud.network.applied[UUID(vpc)].ports == ()


async def test_the_image_stays_as_long_as_a_machine_started_from_it(cloud: Cloud, ada: Person) -> None:
    made = await machine(cloud, ada)
    assert refusal(await ada.rest.delete(f"/images/{made['image']}")) == (409, "IN_USE")
    await ada.rest.delete(f"/instances/{made['id']}")
    assert (await ada.rest.delete(f"/images/{made['image']}")).status_code == 200
    await cloud.settle()
    assert (cloud.machines.machines, list((cloud.app.config.data / "images").iterdir())) == ({}, [])


# Volumes


async def test_a_volume_comes_and_goes_while_the_machine_runs(cloud: Cloud, ada: Person) -> None:
    one, two, id = await machine(cloud, ada), await machine(cloud, ada, name="other"), await volume(ada)
    reply = await ada.rest.post(f"/volumes/{id}/attach", json={"instance_id": one["id"]})
    assert reply.status_code == 200, reply.text
    assert {name: reply.json()[name] for name in ("status", "instance_id", "device", "opaque")} == {
        "status": "IN-USE", "instance_id": one["id"], "device": "vdb", "opaque": True,
    }  # fmt: skip
    assert refusal(await ada.rest.post(f"/volumes/{id}/attach", json={"instance_id": two["id"]})) == (
        400,
        "WRONG_STATE",
    )
    await cloud.settle()
    [disk] = there(cloud, one).spec.volumes
    assert (disk.id, disk.device, disk.format) == (UUID(id), "vdb", "raw")
    assert there(cloud, one).starts == 1

    reply = await ada.rest.post("/volumes/data/detach")
    assert (reply.json()["status"], reply.json()["reconciling"]) == ("IN-USE", True)
    assert (await ada.rest.post(f"/volumes/{id}/detach")).status_code == 200
    await cloud.settle()
    assert there(cloud, one).spec.volumes == ()
    free = (await ada.rest.get(f"/volumes/{id}")).json()
    assert (free["status"], free["reconciling"]) == ("AVAILABLE", False)
    assert not {"instance_id", "device", "mount_path"} & set(free)
    assert refusal(await ada.rest.post(f"/volumes/{id}/detach")) == (400, "WRONG_STATE")

    await ada.rest.post(f"/volumes/{id}/attach", json={"instance_id": two["id"]})
    await cloud.settle()
    assert [each.id for each in there(cloud, two).spec.volumes] == [UUID(id)]
    await ada.rest.delete(f"/instances/{two['id']}")
    await cloud.settle()
    assert (await ada.rest.get(f"/volumes/{id}")).json()["status"] == "AVAILABLE"


async def test_a_machine_may_begin_with_volumes(cloud: Cloud, ada: Person) -> None:
    first, second = await volume(ada, "first"), await volume(ada, "second")
    wanted = [{"volume_id": first, "mount_path": "/a"}, {"volume_id": second, "mount_path": "/b"}]
    made = await machine(cloud, ada, volumes=wanted)
    spec = there(cloud, made).spec
    assert sorted(each.device for each in spec.volumes) == ["vdb", "vdc"]
    assert spec.seed
    assert set(spec.seed.mounts) == {(UUID(first), "/a"), (UUID(second), "/b")}
    assert spec.mounts == ()
    assert not any(disk.mounted for disk in cloud.volumes.disks.values())


async def test_what_a_guest_does_not_let_go_of_stays_until_the_machine_is_stopped(cloud: Cloud, ada: Person) -> None:
    made, id = await machine(cloud, ada), await volume(ada)
    await ada.rest.post(f"/volumes/{id}/attach", json={"instance_id": made["id"]})
    await cloud.settle()
    cloud.machines.held.add(UUID(id))
    await ada.rest.post(f"/volumes/{id}/detach")
    await cloud.settle()
    assert (await ada.rest.get(f"/volumes/{id}")).json()["status"] == "IN-USE"
    assert "has not let go" in (await ada.instance(made["id"]))["status_message"]
    await ada.rest.post(f"/instances/{made['id']}/stop")
    await crash.expire(cloud)
    await cloud.settle()
    assert (await ada.rest.get(f"/volumes/{id}")).json()["status"] == "AVAILABLE"
    assert (await ada.instance(made["id"]))["status"] == "STOPPED"


async def test_a_volume_that_a_machine_has_had_goes_to_no_container(cloud: Cloud, ada: Person) -> None:
    made, id = await machine(cloud, ada), await volume(ada)
    await ada.rest.post(f"/volumes/{id}/attach", json={"instance_id": made["id"]})
    await cloud.settle()
    await ada.rest.post(f"/volumes/{id}/detach")
    await cloud.settle()
    snapshot = (await ada.rest.post("/snapshots", json={"volume_id": id})).json()
    assert snapshot["opaque"] is True
    await cloud.settle()
    body = {"name": "copy", "snapshot_id": snapshot["id"]}
    copy = (await ada.rest.post("/volumes", json=body)).json()
    assert copy["opaque"] is True
    for one in (id, copy["id"]):
        body = {"name": "box", "image": "nginx", "volumes": [{"volume_id": one, "mount_path": "/data"}]}
        reply = await ada.rest.post("/instances", json=body)
        assert refusal(reply) == (400, "INVALID_ARGUMENT")
        assert "virtual machine" in reply.json()["error"]["message"]


async def test_what_cannot_be_attached_is_refused(cloud: Cloud, ada: Person, bob: Person) -> None:
    box, made, id = await ada.running(), await machine(cloud, ada), await volume(ada)
    theirs = await volume(bob)
    attach = ada.rest.post
    assert refusal(await attach(f"/volumes/{id}/attach", json={"instance_id": box["id"]})) == (501, "UNSUPPORTED")
    assert refusal(await attach(f"/volumes/{theirs}/attach", json={"instance_id": made["id"]})) == (404, "NOT_FOUND")
    assert refusal(await bob.rest.post(f"/volumes/{theirs}/attach", json={"instance_id": made["id"]}))[0] == 404
    reply = await attach(f"/volumes/{id}/attach", json={"instance_id": str(UUID(int=1))})
    assert refusal(reply) == (404, "NOT_FOUND")
    assert refusal(await attach(f"/volumes/{id}/attach", json={})) == (400, "INVALID_ARGUMENT")
    for number in range(16):
        other = await volume(ada, f"many-{number}")
        assert (await attach(f"/volumes/{other}/attach", json={"instance_id": made["id"]})).status_code == 200
    reply = await attach(f"/volumes/{id}/attach", json={"instance_id": made["id"]})
    assert refusal(reply) == (400, "INVALID_ARGUMENT")
    assert "16 volumes" in reply.json()["error"]["message"]
    await ada.rest.delete(f"/instances/{made['id']}")
    assert refusal(await attach(f"/volumes/{id}/attach", json={"instance_id": made["id"]})) == (400, "WRONG_STATE")


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
async def test_a_server_that_dies_attaches_and_detaches_in_the_end(cloud: Cloud, ada: Person, moment: Moment) -> None:
    made, id = await machine(cloud, ada), await volume(ada)
    await cloud.settle()
    await ada.rest.post(f"/volumes/{id}/attach", json={"instance_id": made["id"]})
    await crash.survive(cloud, "compute", moment)
    assert [each.id for each in there(cloud, made).spec.volumes] == [UUID(id)]
    await ada.rest.post(f"/volumes/{id}/detach")
    await crash.survive(cloud, "compute", moment)
    assert there(cloud, made).spec.volumes == ()
    assert (await ada.rest.get(f"/volumes/{id}")).json()["status"] == "AVAILABLE"


# Drivers


async def test_a_host_of_which_one_engine_is_away_goes_on_with_the_other(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, box = await disk_image(ada), await ada.running()

    async def away() -> Any:
        raise ConnectionError("the engine is away")

    monkeypatch.setattr(cloud.machines, "capacity", away)
    monkeypatch.setattr(cloud.machines, "list", away)
    await hosts.beat(cloud.app)
    assert refusal(await ada.rest.post("/instances", json={"name": "a", "image": image})) == (503, "UNAVAILABLE")
    cloud.compute.crash(UUID(box["id"]))
    with pytest.raises(ConnectionError):
        await instance_lives.compare(cloud.app)
    await cloud.settle()
    assert cloud.compute.machines[UUID(box["id"])].power == "RUNNING"
    assert (await ada.rest.post("/instances", json={"name": "b", "image": "nginx"})).status_code == 202
    monkeypatch.undo()
    await hosts.beat(cloud.app)
    assert (await ada.rest.post("/instances", json={"name": "c", "image": image})).status_code == 202


async def test_an_instance_of_a_driver_that_is_configured_no_more_waits(cloud: Cloud, ada: Person) -> None:
    made = await machine(cloud, ada)
    cloud.app.drivers.compute.pop("libvirt")  # type: ignore[attr-defined]
    reply = await ada.rest.get(f"/instances/{made['id']}/stats")
    assert refusal(reply) == (503, "UNAVAILABLE")
    assert "THECLOUD_COMPUTE" in reply.json()["error"]["message"]
    assert (await ada.rest.delete(f"/instances/{made['id']}")).status_code == 200
    await cloud.settle()
    assert (await ada.instance(made["id"]))["status"] == "DELETING"


# Images taken of instances


async def test_an_image_taken_of_a_machine_starts_another(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    made = await machine(cloud, ada)
    reply = await ada.rest.post(f"/instances/{made['id']}/snapshot", json={"name": "golden", "description": "as it is"})
    taken = reply.json()
    assert (reply.status_code, taken["status"], taken["instance_id"]) == (202, "PENDING", made["id"])
    await cloud.settle()
    taken = (await ada.rest.get(f"/images/{taken['id']}")).json()
    assert (taken["status"], taken["format"], taken["name"], taken["is_public"]) == ("ACTIVE", "raw", "golden", False)
    await ada.rest.delete(f"/instances/{made['id']}")
    await cloud.settle()
    other = (await ada.rest.post("/instances", json={"name": "clone", "image": taken["id"]})).json()
    await cloud.settle()
    assert (await ada.instance(other["id"]))["status"] == "RUNNING"


async def test_an_image_of_a_machine_that_goes_first_is_an_error(cloud: Cloud, ada: Person, bob: Person) -> None:
    made = await machine(cloud, ada)
    path = f"/instances/{made['id']}/snapshot"
    assert refusal(await bob.rest.post(path, json={"name": "mine"})) == (404, "NOT_FOUND")
    assert refusal(await ada.rest.post(path, json={})) == (400, "INVALID_ARGUMENT")
    taken = (await ada.rest.post(path, json={"name": "late"})).json()
    await ada.rest.delete(f"/instances/{made['id']}")
    await cloud.settle()
    seen = (await ada.rest.get(f"/images/{taken['id']}")).json()
    assert seen["status"] == "ERROR"
    assert "terminated" in seen["status_message"]
    folder = cloud.app.config.data / "images"
    assert [file.name for file in folder.iterdir()] == [made["image"]]


@pytest.mark.parametrize("moment", MOMENTS[:4], ids=str)
async def test_a_server_that_dies_takes_the_image_in_the_end(cloud: Cloud, ada: Person, moment: Moment) -> None:
    made = await machine(cloud, ada)
    taken = (await ada.rest.post(f"/instances/{made['id']}/snapshot", json={"name": "golden"})).json()
    await crash.survive(cloud, "compute", moment)
    assert (await ada.rest.get(f"/images/{taken['id']}")).json()["status"] == "ACTIVE"
