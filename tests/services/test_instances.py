"""Instances through the front door: what each endpoint answers, and what becomes of the machine."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import grpc
import httpx
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure
from grpc_status import rpc_status
from thecloud.v1 import instances_pb2 as pb
from thecloud.v1 import instances_pb2_grpc

from drivers.contracts import InstanceSpec
from server.services import instance_lives
from tests.conftest import Cloud, Person

WRITTEN = ("sh", "-c", "echo one; echo two; echo three; serve")
ENDS = ("sh", "-c", "echo hello; exit 3")


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def fields(reply: httpx.Response) -> list[str]:
    return [each["field"] for each in reply.json()["error"].get("fields", [])]


async def post(person: Person, path: str, **body: Any) -> httpx.Response:
    return await person.rest.post(f"/instances{path}", json=body or None)


async def try_launch(person: Person, **body: Any) -> httpx.Response:
    return await person.rest.post("/instances", json={"name": "web-01", "image": "nginx"} | body)


async def due(cloud: Cloud) -> None:
    """Do all work there is, also what waits for a later try."""
    await cloud.value("update work set due_at = now()")
    await cloud.settle()


async def limit(cloud: Cloud, person: Person, quota: str, most: int) -> None:
    await cloud.value("insert into quotas (tenant_id, name, most) values ($1, $2, $3)", person.tenant_id, quota, most)


async def nothing_left(cloud: Cloud) -> bool:
    counts = [await cloud.value(f"select count(*) from {table}") for table in ("instances", "instance_ports", "work")]
    return counts == [0, 0, 0] and cloud.compute.machines == {}


def stub(cloud: Cloud) -> Any:
    return instances_pb2_grpc.InstanceServiceStub(cloud.channel)  # type: ignore[no-untyped-call]


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
    assert await nothing_left(cloud)


async def test_grpc_and_rest_see_the_same(cloud: Cloud, ada: Person) -> None:
    request = pb.CreateInstanceRequest(name="a", image="nginx")
    made = await stub(cloud).CreateInstance(request, metadata=ada.metadata)
    assert (await ada.instance(made.id))["name"] == "a"
    listed = await stub(cloud).ListInstances(pb.ListInstancesRequest(), metadata=ada.metadata)
    assert [each.id for each in listed.instances] == [made.id]


async def test_other_tenants_see_nothing(ada: Person, bob: Person) -> None:
    made = await ada.launch()
    assert (await bob.rest.get(f"/instances/{made['id']}")).status_code == 404
    assert (await bob.rest.delete(f"/instances/{made['id']}")).status_code == 404
    assert (await bob.rest.get("/instances")).json() == []


# Types


async def test_the_types_have_the_documented_form(ada: Person) -> None:
    types = (await ada.rest.get("/instance-types")).json()
    assert {
        "id": "basic-2", "name": "Basic 2", "vcpus": 1, "memory_mb": 1024, "disk_gb": 10, "network_mbps": 1000,
        "price_per_hour": 0.02, "category": "general-purpose",
    } in types  # fmt: skip
    assert "basic-4" in [each["id"] for each in types]
    assert types == sorted(types, key=lambda each: (each["vcpus"], each["memory_mb"]))
    assert (await ada.rest.get("/api/v1/instance-types")).json()["data"] == types


# Launching


async def test_a_launch_answers_with_the_whole_instance(ada: Person) -> None:
    body = {
        "name": "web-01", "image": "nginx", "instance_type": "basic-2", "ports": "8080:80,8443:443",
        "env": ["A=1", "B=x=y"], "cmd": ["sh", "-c", "serve"], "labels": {"env": "prod"}, "metadata": {"owner": "ada"},
    }  # fmt: skip
    reply = await ada.rest.post("/instances", json=body)
    made = reply.json()
    assert reply.status_code == 202
    assert {name: made[name] for name in body} == body
    assert set(made) - set(body) == {
        "id", "status", "reconciling", "user_id", "tenant_id", "host", "version", "created_at", "updated_at",
        "security_groups", "driver",
    }  # fmt: skip
    assert (made["user_id"], made["tenant_id"]) == (str(ada.user_id), str(ada.tenant_id))
    assert (made["status"], made["reconciling"], made["version"]) == ("STARTING", True, 1)
    assert datetime.now(UTC) - datetime.fromisoformat(made["created_at"]) < timedelta(seconds=5)
    assert await ada.instance(made["id"]) == made


async def test_under_api_v1_answers_are_enveloped(cloud: Cloud, ada: Person) -> None:
    reply = await ada.rest.post("/api/v1/instances", json={"name": "a", "image": "nginx"})
    assert reply.status_code == 202
    made = reply.json()["data"]
    await cloud.settle()
    path = f"/api/v1/instances/{made['id']}"
    one = (await ada.rest.get(path)).json()
    assert set(one) == {"data", "meta"}
    assert set(one["meta"]) == {"request_id", "timestamp"}
    assert one["data"] == await ada.instance(made["id"])
    assert (await ada.rest.get("/api/v1/instances")).json()["data"] == [one["data"]]
    for verb, action, message in (
        ("POST", "/pause", "instance paused"), ("POST", "/resume", "instance resumed"),
        ("POST", "/stop", "instance stopped"), ("DELETE", "", "instance terminated"),
    ):  # fmt: skip
        reply = await ada.rest.request(verb, f"{path}{action}")
        assert (reply.status_code, reply.json()["data"]) == (200, {"message": message})
    assert refusal(await ada.rest.post(f"{path}/pause")) == (400, "CONFLICT")


async def test_what_is_left_out_has_its_default(cloud: Cloud, ada: Person) -> None:
    made = await ada.launch()
    assert (made["instance_type"], made["ports"], made["env"], made["cmd"]) == ("basic-2", "", [], [])
    assert (made["labels"], made["metadata"]) == ({}, {})
    assert not {"vpc_id", "subnet_id", "private_ip", "container_id", "status_message"} & set(made)
    await cloud.settle()
    machine = cloud.compute.machines[UUID(made["id"])]
    assert (machine.spec.vcpus, machine.spec.memory_mb, machine.spec.cmd) == (1, 1024, ())


async def test_empty_and_null_fields_count_as_absent(ada: Person) -> None:
    """The SDK sends every field it knows."""
    made = await ada.launch(
        ports="", instance_type="", vpc_id="", subnet_id="", ssh_key_id="", volumes=None, metadata=None, labels=None,
        cmd=None, env=None, cpu_limit=None,
    )  # fmt: skip
    assert made["instance_type"] == "basic-2"
    assert "vpc_id" not in made
    nulls = dict.fromkeys(("ports", "instance_type", "vpc_id", "subnet_id", "volumes", "env", "no_such_field"))
    assert (await ada.launch(**nulls))["instance_type"] == "basic-2"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", ["", "x" * 65, "a b", "a.b", "🚀", "a\u0000", "a\n", None, 7, ["a"], {}, True]),
        ("image", ["", "x" * 257, "a b", "/nginx", "nginx:", "UPPER@x", "a\u0000", "../../etc", None, 1]),
        ("instance_type", ["basic-3", "x" * 65, "basic-2 ", "é", 2]),
        ("vpc_id", ["vpc-1", "0", 5]),
        ("subnet_id", ["subnet-1", "\u0000"]),
        ("ports", ["80", "80:", ":80", "80:80,", "a:b", "80:80/udp", "1.2.3.4:80:80", "-1:80", "65536:80", "80:65536",
                   "80:0", "999999:80", ",".join(f"{9000 + n}:80" for n in range(11)), "80:80,80:81", " 80:80", 80]),
        ("env", [["A"], ["=x"], ["1A=x"], ["A B=x"], ["A=\u0000"], [7], "A=1", {"A": "1"}, ["A=1"] * 257]),
        ("cmd", ["serve", [1], ["a\u0000"], ["x" * 32769], ["a"] * 257]),
        ("labels", [["a"], {"": "x"}, {"a": 1}, {"a": "x" * 257}, {"k" * 129: "x"}, {"a\n": "x"}, {"a": "\u0000"},
                    {f"k{n}": "x" for n in range(65)}]),
        ("metadata", [{"": "x"}, {"a": None}, "x"]),
        ("volumes", [[{"mount_path": "/data"}], [{"volume_id": "v", "mount_path": "data"}], ["v"], {},
                     [{"volume_id": "v", "mount_path": "/a:b"}], [{"volume_id": "v", "mount_path": ""}],
                     [{"volume_id": "v", "mount_path": "/data"}] * 17]),
    ],
)  # fmt: skip
async def test_a_bad_field_is_refused_by_name_and_leaves_nothing(
    cloud: Cloud, ada: Person, field: str, values: list[Any]
) -> None:
    for value in values:
        reply = await try_launch(ada, **{field: value})
        assert refusal(reply) == (400, "INVALID_INPUT"), f"{field}={value!r}: {reply.text}"
        named = fields(reply)
        assert named, value
        assert all(each.startswith(field) for each in named), f"{value!r}: {named}"
    assert await nothing_left(cloud)


async def test_all_that_is_wrong_is_told_at_once(ada: Person) -> None:
    reply = await try_launch(ada, name="", image="a b", vpc_id="x")
    assert fields(reply) == ["name", "image", "vpc_id"]


async def test_good_fields_are_taken_as_they_are(cloud: Cloud, ada: Person) -> None:
    for body in (
        {"name": "x" * 64}, {"name": "ünïcödé_名前-1"}, {"image": "registry.example:5000/team/app:1.2"},
        {"image": f"nginx@sha256:{'0' * 64}"}, {"env": ["A=", "B=multi\nline"], "cmd": ["sh", "-c", "é\n"]},
        {"labels": {"a/b": "ü", "🚀": "x"}}, {"ports": "0:80,0:80,0:443"},
    ):  # fmt: skip
        made = await ada.launch(**body)
        assert {name: made[name] for name in body if name != "ports"} == {k: v for k, v in body.items() if k != "ports"}
    await cloud.settle()
    assert {each["status"] for each in (await ada.rest.get("/instances")).json()} == {"RUNNING"}


async def test_names_may_repeat(ada: Person) -> None:
    assert (await ada.launch())["id"] != (await ada.launch())["id"]


async def test_a_type_larger_than_every_host_is_refused(cloud: Cloud, ada: Person) -> None:
    await cloud.value("update hosts set vcpus = 1")
    reply = await try_launch(ada, instance_type="standard-2")
    assert (refusal(reply), fields(reply)) == ((400, "INVALID_INPUT"), ["instance_type"])
    assert (await try_launch(ada, instance_type="basic-2")).status_code == 202


async def test_without_a_host_nothing_is_launched(cloud: Cloud, ada: Person) -> None:
    await cloud.value("update hosts set heartbeat_at = now() - interval '1 minute'")
    assert refusal(await try_launch(ada)) == (503, "UNAVAILABLE")
    assert await nothing_left(cloud)


async def test_an_image_that_is_not_there_is_refused_and_leaves_nothing(cloud: Cloud, ada: Person) -> None:
    reply = await try_launch(ada, image="no-such-image", ports="8080:80")
    assert refusal(reply) == (400, "INVALID_INPUT")
    assert "no-such-image" in reply.json()["error"]["message"]
    assert await nothing_left(cloud)


async def test_networks_and_volumes_that_do_not_exist_are_not_found(cloud: Cloud, ada: Person) -> None:
    for kind, body in (
        ("vpc", {"vpc_id": str(uuid4())}), ("subnet", {"subnet_id": str(uuid4())}),
        ("volume", {"volumes": [{"volume_id": str(uuid4()), "mount_path": "/data"}]}),
    ):  # fmt: skip
        reply = await try_launch(ada, **body)
        assert refusal(reply) == (404, "NOT_FOUND")
        assert reply.json()["error"]["metadata"]["kind"] == kind
    assert await nothing_left(cloud)


# Ports


@pytest.mark.parametrize("settled", [False, True])
async def test_a_port_another_instance_has_is_a_conflict(cloud: Cloud, ada: Person, bob: Person, settled: bool) -> None:
    made = await ada.launch(ports="8080:80")
    if settled:
        await cloud.settle()
    for person in (ada, bob):
        reply = await try_launch(person, ports="0:81,8080:81")
        assert refusal(reply) == (409, "PORT_CONFLICT")
        assert reply.json()["error"]["metadata"] == {"port": "8080"}
    assert await cloud.value("select count(*) from instances") == 1
    await ada.rest.delete(f"/instances/{made['id']}")
    await cloud.settle()
    assert (await try_launch(bob, ports="8080:80")).status_code == 202


async def test_of_many_who_want_a_port_at_once_one_gets_it(cloud: Cloud, ada: Person) -> None:
    replies = await asyncio.gather(*(try_launch(ada, ports="8080:80") for _ in range(10)))
    assert sorted(reply.status_code for reply in replies) == [202, *[409] * 9]
    assert await cloud.value("select count(*) from instances") == 1


async def test_picked_ports_are_all_different(cloud: Cloud, ada: Person) -> None:
    made = await asyncio.gather(*(ada.launch(ports=",".join(["0:80"] * 10)) for _ in range(10)))
    picked = [int(pair.split(":")[0]) for each in made for pair in each["ports"].split(",")]
    assert len(picked) == len(set(picked)) == 100
    assert all(20000 <= port < 32768 for port in picked)


# Quotas


async def test_an_instance_too_many_is_over_quota(cloud: Cloud, ada: Person, bob: Person) -> None:
    await limit(cloud, ada, "instances", 2)
    for _ in range(2):
        await ada.launch()
    reply = await try_launch(ada, ports="0:80")
    assert refusal(reply) == (403, "QUOTA_EXCEEDED")
    assert reply.json()["error"]["metadata"] == {"quota": "instances", "limit": "2", "used": "2", "asked": "1"}
    assert await cloud.value("select count(*) from instances") == 2
    assert await cloud.value("select count(*) from instance_ports") == 0
    await bob.launch()


@pytest.mark.parametrize(
    ("quota", "most", "used", "asked"),
    [("instances", 1, "1", "1"), ("vcpus", 4, "2", "4"), ("memory_mb", 8192, "2048", "8192")],
)
async def test_grpc_tells_which_quota_failed(
    cloud: Cloud, ada: Person, quota: str, most: int, used: str, asked: str
) -> None:
    await limit(cloud, ada, quota, most)
    await ada.launch(instance_type="basic-4")
    request = pb.CreateInstanceRequest(name="b", image="nginx", instance_type="standard-2")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub(cloud).CreateInstance(request, metadata=ada.metadata)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    [packed_info, packed_failure] = rpc_status.from_call(refused.value).details
    info, failure = ErrorInfo(), QuotaFailure()
    assert packed_info.Unpack(info)
    assert packed_failure.Unpack(failure)
    assert info.reason == "QUOTA_EXCEEDED"
    assert dict(info.metadata) == {"quota": quota, "limit": str(most), "used": used, "asked": asked}
    assert [violation.subject for violation in failure.violations] == [quota]


async def test_what_is_terminated_is_free_again_at_once(cloud: Cloud, ada: Person) -> None:
    await limit(cloud, ada, "instances", 1)
    made = await ada.launch()
    assert (await try_launch(ada)).status_code == 403
    await ada.rest.delete(f"/instances/{made['id']}")
    assert (await try_launch(ada)).status_code == 202


async def test_two_hundred_launches_at_once_do_not_pass_a_quota_of_twenty(cloud: Cloud, ada: Person) -> None:
    replies = await asyncio.gather(*(try_launch(ada, ports="0:80") for _ in range(200)))
    statuses = [reply.status_code for reply in replies]
    assert (statuses.count(202), statuses.count(403)) == (20, 180)
    assert {reply.json()["error"]["code"] for reply in replies if reply.status_code == 403} == {"QUOTA_EXCEEDED"}
    for table in ("instances", "instance_ports", "work"):
        assert await cloud.value(f"select count(*) from {table}") == 20
    assert await cloud.settle() == 20
    assert len(cloud.compute.machines) == 20


# Reading


async def test_the_list_is_newest_first_and_kept_by_tags(ada: Person) -> None:
    assert (await ada.rest.get("/instances")).json() == []
    labels: list[dict[str, str]] = [{}, {"env": "prod"}, {"env": "test", "team": "web"}, {"env": "prod", "team": "db"}]
    made = [await ada.launch(labels=each) for each in labels]
    assert (await ada.rest.get("/instances")).json() == made[::-1]
    for query, expected in (
        ("tag=env", [3, 2, 1]), ("tag=env:prod", [3, 1]), ("tag=env:prod&tag=team", [3]), ("tag=team&tag=env", [3, 2]),
        ("tag=env%3Atest", [2]), ("tag=env:", []), ("tag=en", []), ("tag=env:prod&tag=env:test", []), ("tag=nope", []),
    ):  # fmt: skip
        listed = (await ada.rest.get(f"/instances?{query}")).json()
        assert [each["id"] for each in listed] == [made[number]["id"] for number in expected], query
    assert fields(await ada.rest.get("/instances?tag=")) == ["tag[0]"]


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_the_list_comes_in_pages_that_lead_to_each_other(ada: Person, prefix: str) -> None:
    made = [(await ada.launch(labels={"a": "b"}))["id"] for _ in range(5)]
    await ada.launch()
    seen: list[str] = []
    path, pages = f"{prefix}/instances?tag=a&page_size=2", 0
    while path:
        reply = await ada.rest.get(path)
        page = reply.json()["data"] if prefix else reply.json()
        seen, pages, path = [*seen, *(each["id"] for each in page)], pages + 1, ""
        if link := reply.headers.get("link"):
            path, relation = link.removeprefix("<").split(">; ")
            assert relation == 'rel="next"'
            assert path.startswith(f"{prefix}/instances?tag=a&page_size=2&page_token=")
            assert reply.headers["x-next-page-token"] == path.rpartition("=")[2] or path.endswith("=")
    assert (seen, pages) == (made[::-1], 3)


async def test_a_page_token_that_is_none_is_refused(ada: Person) -> None:
    for query in ("page_token=x", "page_token=%00", "page_token=" + "x" * 201, "page_size=-1", "page_size=x",
                  "page_size=99999999999", "page_token=MTIzIDQ1Ng%3D%3D"):  # fmt: skip
        assert refusal(await ada.rest.get(f"/instances?{query}")) == (400, "INVALID_INPUT"), query


async def test_an_instance_answers_to_its_name_while_only_one_has_it(cloud: Cloud, ada: Person, bob: Person) -> None:
    made = await ada.launch(name="web-01")
    assert (await ada.rest.get("/instances/web-01")).json() == made
    assert (await ada.rest.get(f"/instances/{made['id'].upper()}")).json() == made
    assert refusal(await bob.rest.get("/instances/web-01")) == (400, "INVALID_INPUT")
    other = await ada.launch(name="web-01")
    assert refusal(await ada.rest.get("/instances/web-01")) == (409, "CONFLICT")
    assert refusal(await ada.rest.delete("/instances/web-01")) == (409, "CONFLICT")
    await ada.rest.delete(f"/instances/{other['id']}")
    assert (await ada.rest.get("/instances/web-01")).json()["id"] == made["id"]
    assert (await ada.rest.delete("/instances/web-01")).status_code == 200
    await cloud.settle()
    assert await nothing_left(cloud)


@pytest.mark.parametrize(
    ("verb", "path"),
    [("GET", ""), ("PUT", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"),
     ("POST", "/stop"), ("POST", "/resize"), ("GET", "/stats"), ("GET", "/logs"), ("GET", "/console"), ("GET", "/tags"),
     ("POST", "/tags"), ("DELETE", "/tags/a")],
)  # fmt: skip
async def test_an_unknown_id_is_not_found_and_a_bad_one_is_bad(ada: Person, verb: str, path: str) -> None:
    body = {"instance_type": "basic-4"} if path == "/resize" else {} if verb in ("PUT", "PATCH") else None
    for id, expected in (
        (uuid4(), (404, "NOT_FOUND")), ("no-such-name", (400, "INVALID_INPUT")), ("x" * 65, (400, "INVALID_INPUT")),
        ("%00", (400, "INVALID_INPUT")),
    ):  # fmt: skip
        assert refusal(await ada.rest.request(verb, f"/instances/{id}{path}", json=body)) == expected


# Pausing, stopping, starting

STATES = ("STARTING", "RUNNING", "PAUSED", "STOPPED", "ERROR", "DELETING")
ACTIONS: dict[str, tuple[str, dict[str, str] | None]] = {
    "pause": ("/pause", None), "resume": ("/resume", None), "stop": ("/stop", None),
    "run": ("", {"status": "RUNNING"}), "freeze": ("", {"status": "PAUSED"}), "halt": ("", {"status": "STOPPED"}),
}  # fmt: skip
ALLOWED = {
    "pause": {"RUNNING"},
    "resume": {"PAUSED"},
    "stop": {"STARTING", "RUNNING", "PAUSED", "STOPPED", "ERROR"},
    "run": {"STARTING", "RUNNING", "PAUSED", "STOPPED", "ERROR"},
    "freeze": {"RUNNING", "PAUSED"},
    "halt": {"STARTING", "RUNNING", "PAUSED", "STOPPED", "ERROR"},
}
BECOMES = {"pause": "PAUSED", "resume": "RUNNING", "stop": "STOPPED", "run": "RUNNING", "freeze": "PAUSED",
           "halt": "STOPPED"}  # fmt: skip


async def in_state(cloud: Cloud, person: Person, state: str) -> str:
    """The id of an instance in this state."""
    made = await person.launch()
    id: str = made["id"]
    if state == "ERROR":
        cloud.compute.missing_images.add("nginx")
    if state != "STARTING":
        await cloud.settle()
    cloud.compute.missing_images.discard("nginx")
    if state in ("PAUSED", "STOPPED"):
        await person.rest.put(f"/instances/{id}", json={"status": state})
        await cloud.settle()
    if state == "DELETING":
        await person.rest.delete(f"/instances/{id}")
    assert (await person.instance(id))["status"] == state
    return id


@pytest.mark.parametrize("state", STATES)
async def test_what_a_state_allows(cloud: Cloud, ada: Person, state: str) -> None:
    for action, (path, body) in ACTIONS.items():
        id = await in_state(cloud, ada, state)
        before = await ada.instance(id)
        verb = "PUT" if body else "POST"
        reply = await ada.rest.request(verb, f"/instances/{id}{path}", json=body)
        if state in ALLOWED[action]:
            assert reply.status_code == 200, f"{action}: {reply.text}"
            await cloud.settle()
            assert (await ada.instance(id))["status"] == BECOMES[action]
            assert cloud.compute.machines[UUID(id)].power == BECOMES[action]
        else:
            assert refusal(reply) == (400, "CONFLICT"), action
            metadata = reply.json()["error"]["metadata"]
            assert (metadata["kind"], metadata["id"], metadata["state"]) == ("instance", id, state)
            assert await ada.instance(id) == before


async def test_pausing_and_resuming_answer_as_documented(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    reply = await ada.rest.post(f"/instances/{id}/pause")
    assert (reply.status_code, reply.json()) == (200, {"message": "instance paused"})
    assert (await ada.instance(id))["reconciling"] is True
    await cloud.settle()
    assert (await ada.instance(id))["status"] == "PAUSED"
    reply = await ada.rest.post(f"/instances/{id}/resume")
    assert (reply.status_code, reply.json()) == (200, {"message": "instance resumed"})
    reply = await ada.rest.post(f"/instances/{id}/stop")
    assert (reply.status_code, reply.json()) == (200, {"message": "instance stopped"})


async def test_a_client_need_not_wait_between_pause_and_resume(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    for action, expected in (("pause", 200), ("pause", 400), ("resume", 200), ("resume", 400), ("pause", 200)):
        assert (await ada.rest.post(f"/instances/{id}/{action}")).status_code == expected
    await cloud.settle()
    seen = await ada.instance(id)
    assert (seen["status"], seen["reconciling"], seen["version"]) == ("PAUSED", False, 4)


async def test_the_address_is_gone_while_stopped(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    await ada.rest.post(f"/instances/{id}/stop")
    await cloud.settle()
    assert "private_ip" not in await ada.instance(id)
    started = await ada.rest.put(f"/instances/{id}", json={"status": "RUNNING"})
    assert started.json()["status"] == "STARTING"
    await cloud.settle()
    assert (await ada.instance(id))["private_ip"]


# Changing


@pytest.mark.parametrize("verb", ["PUT", "PATCH"])
async def test_an_update_changes_what_it_names(cloud: Cloud, ada: Person, verb: str) -> None:
    made = await ada.running(labels={"a": "1", "b": "2"}, metadata={"m": "1"})

    async def change(body: Any, **expected: Any) -> None:
        nonlocal made
        reply = await ada.rest.request(verb, f"/instances/{made['id']}", json=body)
        assert reply.status_code == 200, reply.text
        await cloud.settle()
        now = await ada.instance(made["id"])
        moved = {"updated_at", "version"}
        left = {name: value for name, value in made.items() if name not in moved}
        assert {name: value for name, value in now.items() if name not in moved} == left | expected
        made = now

    await change({"name": "web-02"}, name="web-02")
    await change({"labels": {"b": "3", "c": "4"}}, labels={"a": "1", "b": "3", "c": "4"})
    await change(
        {"labels": {"a": "", "nope": ""}, "metadata": {"m": "2"}}, labels={"b": "3", "c": "4"}, metadata={"m": "2"}
    )
    await change({"metadata": {"m": ""}, "name": "web-03"}, metadata={}, name="web-03")
    await change({"update_mask": "name", "name": "web-04", "labels": {"x": "y"}}, name="web-04")
    version = made["version"]
    for nothing in ({}, {"name": None}, {"labels": None}, {"unknown": 1, "id": str(uuid4())}, {"status": "RUNNING"}):
        await change(nothing)
    assert made["version"] == version


async def test_a_status_is_taken_in_any_case(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    for status in ("paused", "Running", "STOPPED"):
        reply = await ada.rest.put(f"/instances/{id}", json={"status": status})
        assert reply.status_code == 200, reply.text
        await cloud.settle()
        assert (await ada.instance(id))["status"] == status.upper()


async def test_a_bad_update_changes_nothing(ada: Person) -> None:
    made = await ada.launch(labels={f"k{number}": "x" for number in range(60)})
    for body, field in (
        ({"status": "SLEEPING"}, "status"), ({"status": "DELETING"}, "status"), ({"status": "ERROR"}, "status"),
        ({"status": "STARTING"}, "status"), ({"status": 99}, "status"), ({"status": {}}, "status"),
        ({"name": ""}, "name"), ({"name": "a b"}, "name"), ({"name": 5}, "name"), ({"labels": {"": "x"}}, "labels"),
        ({"labels": {f"n{number}": "x" for number in range(5)}}, "labels"), ({"labels": []}, "labels"),
        ({"update_mask": "image", "name": "new"}, "update_mask"), ({"update_mask": 7}, "update_mask"),
        ({"name": "good", "metadata": {"a": "\u0000"}}, "metadata"),
    ):  # fmt: skip
        reply = await ada.rest.put(f"/instances/{made['id']}", json=body)
        assert refusal(reply) == (400, "INVALID_INPUT"), f"{body}: {reply.text}"
        assert fields(reply)[0].startswith(field)
    assert await ada.instance(made["id"]) == made


async def test_over_grpc_the_mask_says_what_changes(cloud: Cloud, ada: Person) -> None:
    made = await ada.launch(labels={"a": "b"})

    async def update(*paths: str, **fields: Any) -> Any:
        request = pb.UpdateInstanceRequest(id=made["id"], update_mask=FieldMask(paths=paths), **fields)
        return await stub(cloud).UpdateInstance(request, metadata=ada.metadata)

    assert (await update(name="new")).name == "web-01"
    assert (await update("name", name="new", labels={"a": ""})).name == "new"
    assert (await update("labels", labels={"a": "", "c": "d"})).labels == {"c": "d"}
    for paths in (["id"], ["image"], ["nope"], ["name", "tenant_id"]):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await update(*paths, name="newer")
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (await ada.instance(made["id"]))["name"] == "new"


# Resizing


@pytest.mark.parametrize("state", ["RUNNING", "PAUSED", "STOPPED"])
async def test_a_resize_changes_the_limits_of_the_same_machine(cloud: Cloud, ada: Person, state: str) -> None:
    id = await in_state(cloud, ada, state)
    machine = cloud.compute.machines[UUID(id)]
    reply = await post(ada, f"/{id}/resize", instance_type="basic-4")
    assert (reply.status_code, reply.json()) == (200, {"message": "instance resized"})
    await cloud.settle()
    assert cloud.compute.machines[UUID(id)] is machine
    assert (machine.spec.vcpus, machine.spec.memory_mb, machine.power) == (2, 2048, state)
    seen = await ada.instance(id)
    assert (seen["instance_type"], seen["status"], seen["reconciling"]) == ("basic-4", state, False)


async def test_a_resize_to_the_same_type_does_nothing(cloud: Cloud, ada: Person) -> None:
    made = await ada.running()
    assert (await post(ada, f"/{made['id']}/resize", instance_type="basic-2")).status_code == 200
    assert await cloud.settle() == 0
    assert await ada.instance(made["id"]) == made


async def test_a_bad_resize_is_refused(cloud: Cloud, ada: Person) -> None:
    made = await ada.running()
    for value in ("", "basic-3", None, 4, "x" * 65):
        reply = await ada.rest.post(f"/instances/{made['id']}/resize", json={"instance_type": value})
        assert (refusal(reply), fields(reply)) == ((400, "INVALID_INPUT"), ["instance_type"]), value
    await cloud.value("update hosts set memory_mb = 2048")
    assert fields(await post(ada, f"/{made['id']}/resize", instance_type="standard-2")) == ["instance_type"]
    assert await ada.instance(made["id"]) == made


@pytest.mark.parametrize("state", ["STARTING", "ERROR", "DELETING"])
async def test_only_what_is_there_is_resized(cloud: Cloud, ada: Person, state: str) -> None:
    id = await in_state(cloud, ada, state)
    assert refusal(await post(ada, f"/{id}/resize", instance_type="basic-4")) == (400, "CONFLICT")


@pytest.mark.parametrize(("quota", "most"), [("vcpus", 3), ("memory_mb", 4096)])
async def test_a_resize_counts_against_the_quota(cloud: Cloud, ada: Person, quota: str, most: int) -> None:
    id = (await ada.running())["id"]
    await limit(cloud, ada, quota, most)
    assert refusal(await post(ada, f"/{id}/resize", instance_type="standard-2")) == (403, "QUOTA_EXCEEDED")
    assert (await ada.instance(id))["instance_type"] == "basic-2"
    assert (await post(ada, f"/{id}/resize", instance_type="basic-4")).status_code == 200
    await cloud.value("update quotas set most = 0")
    assert (await post(ada, f"/{id}/resize", instance_type="basic-1")).status_code == 200, "less is always fine"


# Tags, logs, stats


async def test_tags_are_the_labels(ada: Person) -> None:
    id = (await ada.launch(labels={"env": "prod"}))["id"]
    assert (await ada.rest.get(f"/instances/{id}/tags")).json() == {"env": "prod"}
    assert (await ada.rest.get(f"/api/v1/instances/{id}/tags")).json()["data"] == {"env": "prod"}
    added = await post(ada, f"/{id}/tags", tags={"team": "web", "a/b c": "ü", "env": "test"})
    assert (added.status_code, added.json()) == (200, {"message": "tags updated"})
    assert (await ada.instance(id))["labels"] == {"team": "web", "a/b c": "ü", "env": "test"}
    for key in ("team", "a%2Fb%20c"):
        removed = await ada.rest.delete(f"/instances/{id}/tags/{key}")
        assert (removed.status_code, removed.json()) == (200, {"message": "tag removed"})
    assert (await ada.rest.get(f"/instances/{id}/tags")).json() == {"env": "test"}
    assert refusal(await ada.rest.delete(f"/instances/{id}/tags/team")) == (404, "NOT_FOUND")
    for tags in ({"": "x"}, {"a": 1}, ["a"], {"a": "\u0000"}, {"a": "x" * 257}, {f"k{n}": "x" for n in range(64)}):
        assert refusal(await ada.rest.post(f"/instances/{id}/tags", json={"tags": tags})) == (400, "INVALID_INPUT")


async def test_logs_are_plain_text(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running(cmd=WRITTEN))["id"]
    for prefix in ("", "/api/v1"):
        reply = await ada.rest.get(f"{prefix}/instances/{id}/logs")
        assert (reply.status_code, reply.text) == (200, "one\ntwo\nthree\n")
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await ada.rest.get(f"/instances/{id}/logs?tail=2")).text == "two\nthree\n"
    for tail in ("-1", "x", "10001", "1.5"):
        assert refusal(await ada.rest.get(f"/instances/{id}/logs?tail={tail}")) == (400, "INVALID_INPUT")
    await ada.rest.post(f"/instances/{id}/stop")
    await cloud.settle()
    assert (await ada.rest.get(f"/instances/{id}/logs")).status_code == 200, "they outlive the command"
    unmade = await ada.launch()
    assert refusal(await ada.rest.get(f"/instances/{unmade['id']}/logs")) == (400, "CONFLICT")


async def test_stats_are_those_of_the_driver(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    assert (await ada.rest.get(f"/instances/{id}/stats")).json() == {
        "cpu_percentage": 10.0, "memory_usage_bytes": 256 * 2**20, "memory_limit_bytes": 2**30,
        "memory_percentage": 25.0, "network_rx_bytes": 0, "network_tx_bytes": 0, "disk_read_bytes": 0,
        "disk_write_bytes": 0, "cpu_time_nanoseconds": 10**9,
    }  # fmt: skip
    await ada.rest.post(f"/instances/{id}/stop")
    await cloud.settle()
    assert refusal(await ada.rest.get(f"/instances/{id}/stats")) == (400, "CONFLICT")


# The console


async def console_token(person: Person, id: str) -> str:
    reply = await person.rest.get(f"/instances/{id}/console")
    assert reply.status_code == 200, reply.text
    url: str = reply.json()["console_url"]
    return parse_qs(urlsplit(url).query)["token"][0]


async def attached(cloud: Cloud, **first: Any) -> Any:
    """The open stream of a terminal."""
    call = stub(cloud).AttachInstanceConsole()
    await call.write(pb.AttachInstanceConsoleRequest(**first))
    return call


async def refused_console(cloud: Cloud, **first: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await (await attached(cloud, **first)).read()
    return refused.value.code()


async def test_a_console_is_a_websocket_for_a_minute(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    body = (await ada.rest.get(f"/instances/{id}/console")).json()
    assert set(body) == {"console_url", "url", "expires_at"}
    assert body["url"] == body["console_url"]
    url = urlsplit(body["url"])
    assert (url.scheme, url.netloc, url.path) == ("ws", "cloud", f"/instances/{id}/console/attach")
    left = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    assert not await cloud.value(
        "select count(*) from audit_log a where strpos(a::text, $1) > 0", parse_qs(url.query)["token"][0]
    )


async def test_what_is_typed_comes_back_from_the_terminal(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    token = await console_token(ada, id)
    call = await attached(cloud, id=id, token=token, data=b"hello", columns=132, rows=50)
    assert (await call.read()).data == b"hello"
    [terminal] = cloud.compute.machines[UUID(id)].terminals
    assert (terminal.columns, terminal.rows) == (132, 50)
    await call.write(pb.AttachInstanceConsoleRequest(data=b"\xff\x00"))
    assert (await call.read()).data == b"\xff\x00"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_a_session_ends_with_its_instance(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    call = await attached(cloud, id=id, token=await console_token(ada, id), data=b"x")
    assert (await call.read()).data == b"x"
    await ada.rest.post(f"/instances/{id}/stop")
    await cloud.settle()
    assert await call.read() is grpc.aio.EOF


async def test_only_the_token_opens_a_console(cloud: Cloud, ada: Person, bob: Person) -> None:
    id, other = (await ada.running())["id"], (await ada.running())["id"]
    token = await console_token(ada, id)
    payload, mac = token.split(".")
    expired = cloud.app.cloud.sign({"instance": id, "tenant": str(ada.tenant_id), "key": str(uuid4())}, -1)
    for first in (
        {"id": id}, {"id": id, "token": "x"}, {"id": id, "token": "a.b"}, {"id": id, "token": f"{payload}."},
        {"id": id, "token": f"{payload}.{mac[:-2]}AA"}, {"id": id, "token": expired}, {"id": other, "token": token},
        {"id": "", "token": token}, {"id": id, "token": "é.é"}, {"id": id, "token": f"{token}.{mac}"},
    ):  # fmt: skip
        assert await refused_console(cloud, **first) == grpc.StatusCode.UNAUTHENTICATED, first
    assert cloud.compute.machines[UUID(id)].terminals == []


async def test_a_console_does_not_outlive_the_key_that_asked_for_it(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    token = await console_token(ada, id)
    [key] = (await ada.rest.get("/auth/keys")).json()
    await ada.rest.delete(f"/auth/keys/{key['id']}")
    assert await refused_console(cloud, id=id, token=token) == grpc.StatusCode.UNAUTHENTICATED


async def test_only_what_runs_has_a_console(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    token = await console_token(ada, id)
    await ada.rest.post(f"/instances/{id}/stop")
    assert refusal(await ada.rest.get(f"/instances/{id}/console")) == (400, "CONFLICT")
    await cloud.settle()
    assert await refused_console(cloud, id=id, token=token) == grpc.StatusCode.FAILED_PRECONDITION
    await ada.rest.delete(f"/instances/{id}")
    await cloud.settle()
    assert await refused_console(cloud, id=id, token=token) == grpc.StatusCode.NOT_FOUND


# Idempotency


async def keyed(person: Person, key: str, path: str = "/instances", **body: Any) -> httpx.Response:
    body = body or {"name": "web-01", "image": "nginx"}
    return await person.rest.post(path, json=body, headers={"Idempotency-Key": key})


async def test_a_repeat_with_the_same_key_gets_the_same_reply(cloud: Cloud, ada: Person) -> None:
    first = await keyed(ada, "k")
    await cloud.settle()
    again = await keyed(ada, "k")
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len(cloud.compute.machines) == 1
    assert (await keyed(ada, "other")).json()["id"] != first.json()["id"]


async def test_a_repeat_is_answered_although_the_first_call_took_its_port(cloud: Cloud, ada: Person) -> None:
    body = {"name": "web-01", "image": "nginx", "ports": "8080:80"}
    first = await keyed(ada, "k", **body)
    await cloud.settle()
    again = await keyed(ada, "k", **body)
    assert (again.status_code, again.json()) == (202, first.json())


async def test_a_repeat_is_answered_although_the_quota_is_used_up(cloud: Cloud, ada: Person) -> None:
    await limit(cloud, ada, "instances", 1)
    first = await keyed(ada, "k")
    again = await keyed(ada, "k")
    assert (again.status_code, again.json()) == (202, first.json())


async def test_another_request_with_the_same_key_is_refused(cloud: Cloud, ada: Person) -> None:
    await keyed(ada, "k")
    for path, body in (("/instances", {"name": "web-02", "image": "nginx"}), ("/auth/keys", {"name": "web-01"})):
        reply = await keyed(ada, "k", path, **body)
        assert refusal(reply) == (400, "INVALID_INPUT")
        assert reply.json()["error"]["reason"] == "IDEMPOTENCY_KEY_REUSED"
    assert await cloud.value("select count(*) from instances") == 1


async def test_many_with_the_same_key_at_once_make_one_instance(cloud: Cloud, ada: Person) -> None:
    replies = await asyncio.gather(*(keyed(ada, "k", name="a", image="nginx", ports="8080:80") for _ in range(20)))
    assert {reply.status_code for reply in replies} == {202}
    assert len({reply.text for reply in replies}) == 1
    assert await cloud.value("select count(*) from instances") == 1


async def test_a_refused_call_leaves_its_key_free(cloud: Cloud, ada: Person) -> None:
    assert (await keyed(ada, "k", name="", image="nginx")).status_code == 400
    assert (await keyed(ada, "k", name="a", image="no-such-image")).status_code == 400
    assert (await keyed(ada, "k", name="a", image="nginx")).status_code == 202


async def test_two_people_may_use_the_same_key(ada: Person, bob: Person) -> None:
    assert (await keyed(ada, "k")).json()["id"] != (await keyed(bob, "k")).json()["id"]


async def test_a_repeated_new_key_has_the_same_text_although_it_is_stored_nowhere(cloud: Cloud, ada: Person) -> None:
    first = await keyed(ada, "k", "/auth/keys", name="ci")
    again = await keyed(ada, "k", "/auth/keys", name="ci")
    assert again.json() == first.json()
    secret = first.json()["key"]
    assert secret.startswith("thecloud_")
    kept = await cloud.value("select response from idempotency_keys")
    assert secret.encode() not in kept
    assert not await cloud.value("select count(*) from idempotency_keys k where strpos(k::text, $1) > 0", secret[9:])
    assert len((await ada.rest.get("/auth/keys")).json()) == 2
    other = await cloud.client(**{"x-api-key": secret})
    reply = await other.post("/auth/keys", json={"name": "ci"}, headers={"Idempotency-Key": "k"})
    assert refusal(reply) == (400, "INVALID_INPUT")


async def test_an_idempotency_key_has_1_to_255_printable_characters(ada: Person) -> None:
    assert (await keyed(ada, "x" * 255)).status_code == 202
    for key in ("x" * 256, "a\tb", "a\x7f"):
        assert refusal(await keyed(ada, key)) == (400, "INVALID_INPUT")


async def test_every_change_honours_the_key(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    headers = {"Idempotency-Key": "p"}
    for _ in range(3):
        assert (await ada.rest.post(f"/instances/{id}/pause", headers=headers)).status_code == 200
    await ada.rest.delete(f"/instances/{id}", headers={"Idempotency-Key": "d"})
    await cloud.settle()
    assert (await ada.rest.delete(f"/instances/{id}", headers={"Idempotency-Key": "d"})).status_code == 200


# What happens to the machine


async def test_a_command_that_ends_is_an_error_and_is_started_again(cloud: Cloud, ada: Person) -> None:
    made = await ada.running(cmd=ENDS)
    assert made["status"] == "ERROR"
    assert "exit code 3" in made["status_message"]
    assert cloud.compute.machines[UUID(made["id"])].log == [b"hello\n"]
    assert await cloud.value("select due_at > now() from work"), "it waits before it tries again"
    await due(cloud)
    assert cloud.compute.machines[UUID(made["id"])].log == [b"hello\n", b"hello\n"]
    assert await cloud.value("select attempts from work") == 2
    await ada.rest.post(f"/instances/{made['id']}/stop")
    await cloud.settle()
    seen = await ada.instance(made["id"])
    assert seen["status"] == "STOPPED"
    assert "status_message" not in seen
    assert await cloud.value("select count(*) from work") == 0


async def test_an_image_refused_later_is_an_error_until_tried_again(cloud: Cloud, ada: Person) -> None:
    id = await in_state(cloud, ada, "ERROR")
    seen = await ada.instance(id)
    assert seen["status_message"] == "image nginx is not there"
    assert seen["reconciling"] is False
    assert await cloud.value("select count(*) from work") == 0
    again = await ada.rest.put(f"/instances/{id}", json={"status": "RUNNING"})
    assert (again.json()["status"], "status_message" in again.json()) == ("STARTING", False)
    await cloud.settle()
    assert (await ada.instance(id))["status"] == "RUNNING"


async def test_an_image_that_takes_long_is_waited_for(cloud: Cloud, ada: Person) -> None:
    cloud.compute.slow_images.add("slow")
    made = await ada.running(image="slow")
    assert (made["status"], made["status_message"], made["reconciling"]) == ("STARTING", "pulling slow", True)
    await due(cloud)
    assert (await ada.instance(made["id"]))["status"] == "STARTING"
    await due(cloud)
    seen = await ada.instance(made["id"])
    assert (seen["status"], seen["reconciling"], "status_message" in seen) == ("RUNNING", False, False)


@pytest.mark.parametrize("image", ["nginx", "slow"])
async def test_an_instance_can_be_deleted_while_it_is_made(cloud: Cloud, ada: Person, image: str) -> None:
    cloud.compute.slow_images.add("slow")
    made = await ada.launch(image=image, ports="8080:80")
    if image == "slow":
        await cloud.settle()
    assert (await ada.rest.delete(f"/instances/{made['id']}")).status_code == 200
    assert (await ada.instance(made["id"]))["status"] == "DELETING"
    await cloud.settle()
    assert await nothing_left(cloud)


async def test_an_instance_can_be_terminated_twice_until_it_is_gone(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    for _ in range(2):
        reply = await ada.rest.delete(f"/instances/{id}")
        assert (reply.status_code, reply.json()) == (200, {"message": "instance terminated"})
    await cloud.settle()
    assert refusal(await ada.rest.delete(f"/instances/{id}")) == (404, "NOT_FOUND")
    assert await cloud.value("select count(*) from changes where id = $1 and type = 'DELETED'", UUID(id)) == 1


async def test_an_instance_on_its_way_out_stays_on_it(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    await ada.rest.delete(f"/instances/{id}")
    for verb, path, body in (
        ("POST", "/pause", None), ("POST", "/stop", None), ("PUT", "", {"status": "RUNNING"}), ("GET", "/console", None)
    ):  # fmt: skip
        assert refusal(await ada.rest.request(verb, f"/instances/{id}{path}", json=body)) == (400, "CONFLICT")
    await ada.rest.put(f"/instances/{id}", json={"name": "late"})
    assert (await ada.instance(id))["status"] == "DELETING"
    await cloud.settle()
    assert await nothing_left(cloud)


# The sweep


async def sweep(cloud: Cloud) -> int:
    await instance_lives.compare(cloud.app)
    return await cloud.settle()


async def test_the_sweep_leaves_what_is_right_alone(cloud: Cloud, ada: Person) -> None:
    for state in ("RUNNING", "PAUSED", "STOPPED", "ERROR"):
        await in_state(cloud, ada, state)
    before = (await ada.rest.get("/instances")).json()
    assert await sweep(cloud) == 0
    assert (await ada.rest.get("/instances")).json() == before


async def test_the_sweep_starts_what_ended_by_itself(cloud: Cloud, ada: Person) -> None:
    id = UUID((await ada.running())["id"])
    cloud.compute.crash(id)
    assert await sweep(cloud) == 1
    assert cloud.compute.machines[id].power == "RUNNING"
    assert (await ada.instance(str(id)))["status"] == "RUNNING"


async def test_the_sweep_makes_anew_what_is_gone_and_mends_what_was_changed(cloud: Cloud, ada: Person) -> None:
    gone, frozen = UUID((await ada.running())["id"]), UUID((await ada.running())["id"])
    del cloud.compute.machines[gone]
    cloud.compute.machines[frozen].power = "PAUSED"
    assert await sweep(cloud) == 2
    assert {machine.power for machine in cloud.compute.machines.values()} == {"RUNNING"}
    seen = await ada.instance(str(gone))
    assert seen["private_ip"] == cloud.compute.machines[gone].private_ip


async def test_the_sweep_removes_what_no_row_knows(cloud: Cloud, ada: Person) -> None:
    kept = UUID((await ada.running())["id"])
    stray = InstanceSpec(id=uuid4(), tenant_id=uuid4(), name="stray", image="nginx", vcpus=1, memory_mb=64)
    await cloud.compute.apply(stray)
    await sweep(cloud)
    assert list(cloud.compute.machines) == [kept]


async def test_the_sweep_does_not_hurry_what_waits_for_its_next_try(cloud: Cloud, ada: Person) -> None:
    await ada.running(cmd=ENDS)
    assert await sweep(cloud) == 0


async def test_the_sweep_spares_other_hosts(cloud: Cloud, ada: Person) -> None:
    await ada.running()
    await cloud.value("insert into hosts select 'other', compute, vcpus, memory_mb, heartbeat_at from hosts")
    await cloud.value("update instances set host = 'other'")
    assert await sweep(cloud) == 0
    assert len(cloud.compute.machines) == 1


# What is written down


async def test_every_change_is_audited_and_so_is_every_refusal(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    await ada.rest.post(f"/instances/{id}/resume", headers={"User-Agent": "tests", "X-Request-ID": "r-1"})
    await ada.rest.get(f"/instances/{id}")
    async with cloud.app.db.reading() as tx:
        launch, resume = await tx.connection.fetch("select * from audit_log order by sequence")
    assert (launch["action"], launch["status"]) == ("INSTANCE_LAUNCH", "success")
    assert (launch["resource_type"], launch["resource_id"]) == ("instance", id)
    assert (launch["actor"], launch["user_id"], launch["tenant_id"]) == (ada.email, ada.user_id, ada.tenant_id)
    assert (resume["action"], resume["status"], resume["reason"]) == ("INSTANCE_RESUME", "failure", "WRONG_STATE")
    assert (resume["ip_address"], resume["user_agent"], resume["request_id"]) == ("127.0.0.1", "tests", "r-1")


async def test_the_change_log_tells_an_instances_life(cloud: Cloud, ada: Person) -> None:
    id = (await ada.running())["id"]
    await ada.rest.delete(f"/instances/{id}")
    await cloud.settle()
    async with cloud.app.db.reading() as tx:
        changes = await tx.connection.fetch("select * from changes where id = $1 order by sequence", UUID(id))
    statuses = [(change["type"], (change["after"] or {}).get("status")) for change in changes]
    assert statuses == [("CREATED", "STARTING"), ("UPDATED", "RUNNING"), ("UPDATED", "DELETING"), ("DELETED", None)]
    assert [change["actor"] for change in changes] == [ada.email, "system", ada.email, "system"]
    for earlier, later in pairwise(changes):
        assert later["before"] == earlier["after"]
