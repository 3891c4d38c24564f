from uuid import uuid4

from thecloud.v1 import instances_pb2 as pb
from thecloud.v1 import instances_pb2_grpc

from tests.conftest import Cloud, Person


async def test_an_instance_lives_and_dies(cloud: Cloud, ada: Person) -> None:
    made = await ada.launch(instance_type="basic-2", ports="0:80", labels={"env": "prod"})
    assert made["status"] == "STARTING"
    assert made["reconciling"] is True

    await cloud.settle()
    seen = await ada.instance(made["id"])
    assert seen["status"] == "RUNNING"
    assert seen["reconciling"] is False
    assert seen["private_ip"]
    host_port, container_port = seen["ports"].split(":")
    assert 20000 <= int(host_port) < 32768
    assert container_port == "80"

    gone = await ada.rest.delete(f"/instances/{made['id']}")
    assert (gone.status_code, gone.json()) == (200, {"message": "instance terminated"})
    assert (await ada.instance(made["id"]))["status"] == "DELETING"
    await cloud.settle()
    assert (await ada.rest.get(f"/instances/{made['id']}")).status_code == 404
    assert cloud.compute.machines == {}


async def test_grpc_and_rest_see_the_same(cloud: Cloud, ada: Person) -> None:
    stub = instances_pb2_grpc.InstanceServiceStub(cloud.channel)
    made = await stub.CreateInstance(pb.CreateInstanceRequest(name="a", image="nginx"), metadata=ada.metadata)
    assert (await ada.instance(made.id))["name"] == "a"
    listed = await stub.ListInstances(pb.ListInstancesRequest(), metadata=ada.metadata)
    assert [each.id for each in listed.instances] == [made.id]


async def test_other_tenants_see_nothing(ada: Person, bob: Person) -> None:
    made = await ada.launch()
    assert (await bob.rest.get(f"/instances/{made['id']}")).status_code == 404
    assert (await bob.rest.delete(f"/instances/{made['id']}")).status_code == 404
    assert (await bob.rest.get("/instances")).json() == []


async def test_an_unknown_id_is_not_found(ada: Person) -> None:
    reply = await ada.rest.get(f"/instances/{uuid4()}")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "NOT_FOUND"
