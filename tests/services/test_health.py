"""Health: what probes see while all is well, and while the engine or the database is away."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from thecloud.v1 import health_pb2 as pb
from thecloud.v1 import health_pb2_grpc as pb_grpc

from drivers.contracts import Capacity
from server import app as server_app
from server import migrate, postgres
from tests.conftest import Cloud, Person, running_cloud, until
from tests.drivers.fake import FakeCompute

SECRET = "connect to 10.0.0.7 as root with password hunter2"


class Absent(FakeCompute):
    """An engine that does not answer."""

    async def capacity(self) -> Capacity:
        await asyncio.sleep(0)
        raise OSError(SECRET)


class Silent(FakeCompute):
    """An engine that takes a connection, and says nothing."""

    async def capacity(self) -> Capacity:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


def replace_engine(cloud: Cloud, engine: FakeCompute) -> None:
    object.__setattr__(cloud.app.drivers, "compute", {"docker": engine})


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_a_process_that_runs_is_live(cloud: Cloud, prefix: str) -> None:
    reply = await cloud.anonymous.get(f"{prefix}/health/live")
    assert (reply.status_code, reply.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/health/ready", "/api/v1/health/ready", "/health"])
async def test_a_process_that_reaches_everything_is_ready(cloud: Cloud, path: str) -> None:
    reply = await cloud.anonymous.get(path)
    body = reply.json()
    assert reply.status_code == 200
    time = datetime.fromisoformat(body.pop("time"))
    assert body == {"status": "UP", "checks": {"database": "CONNECTED", "docker": "CONNECTED", "libvirt": "CONNECTED"}}
    assert timedelta(0) <= datetime.now(UTC) - time < timedelta(seconds=5)


@pytest.mark.parametrize("engine", [Absent, Silent])
async def test_a_process_without_its_engine_is_degraded(cloud: Cloud, engine: type[FakeCompute]) -> None:
    replace_engine(cloud, engine())
    for reply in await asyncio.gather(*map(cloud.anonymous.get, ("/health/ready", "/api/v1/health/ready"))):
        body = reply.json()
        assert reply.status_code == 503
        assert set(body) == {"status", "checks", "time"}
        assert body["status"] == "DEGRADED"
        assert body["checks"] == {"database": "CONNECTED", "docker": "DISCONNECTED"}
        assert "hunter2" not in reply.text
    assert (await cloud.anonymous.get("/health/live")).status_code == 200


@pytest.fixture
async def own_database(tmp_path: Path) -> AsyncIterator[postgres.Server]:
    """A database server that a test may stop."""
    programs = postgres.binaries()
    assert programs
    own = postgres.Server(programs, tmp_path / "postgres", durable=False)
    await own.start()
    await migrate.upgrade(own.url)
    yield own
    await own.stop()


async def test_a_process_without_its_database_is_degraded_and_recovers(
    own_database: postgres.Server, tmp_path: Path
) -> None:
    async with running_cloud(own_database.url, tmp_path) as cloud:
        ada = await cloud.person()
        made = await ada.launch()
        await own_database.stop()

        ready = await cloud.anonymous.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["checks"] == {"database": "DISCONNECTED", "docker": "CONNECTED", "libvirt": "CONNECTED"}
        assert (await cloud.anonymous.get("/health/live")).status_code == 200
        cloud.app.keys.drop("*")
        for call in (
            ada.rest.get("/instances"),
            ada.rest.get(f"/instances/{made['id']}"),
            ada.rest.post("/instances", json={"name": "web-02", "image": "nginx"}),
            ada.rest.post(f"/instances/{made['id']}/stop"),
            cloud.anonymous.post("/auth/login", json={"email": "a@b.c", "password": "password"}),
        ):
            reply = await call
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "UNAVAILABLE"), reply.text
            for word in ("postgres", "socket", "5432", "asyncpg", "Traceback", str(tmp_path)):
                assert word not in reply.text + ready.text

        await own_database.start()

        async def recovered() -> bool:
            return (await cloud.anonymous.get("/health/ready")).status_code == 200

        await until(recovered)
        assert [each["id"] for each in (await ada.rest.get("/instances")).json()] == [made["id"]]


async def test_grpc_tells_the_same(cloud: Cloud) -> None:
    stub = pb_grpc.HealthServiceStub(cloud.channel)  # type: ignore[no-untyped-call]
    assert (await stub.GetLiveness(pb.GetLivenessRequest())).status == "ok"
    assert (await stub.GetReadiness(pb.GetReadinessRequest())).status == pb.Readiness.STATUS_UP
    replace_engine(cloud, Absent())
    degraded = await stub.GetReadiness(pb.GetReadinessRequest())
    assert degraded.status == pb.Readiness.STATUS_DEGRADED
    assert degraded.checks["docker"] == "DISCONNECTED"


async def test_the_standard_health_service_knows_every_service(cloud: Cloud) -> None:
    stub = health_pb2_grpc.HealthStub(cloud.channel)
    for name in ("", *(service.full_name for service in server_app.services())):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Check(health_pb2.HealthCheckRequest(service="thecloud.v1.NoSuchService"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_and_describes_every_service(cloud: Cloud) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(cloud.channel)
    names = {service.full_name for service in server_app.services()}
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services="*"),
        *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names),
    ]
    listed, *described = [reply async for reply in stub.ServerReflectionInfo(iter(requests))]
    found = {service.name for service in listed.list_services_response.service}
    assert found == names | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert len(described) == len(names)
    for reply in described:
        assert reply.file_descriptor_response.file_descriptor_proto


async def test_an_unknown_method_is_unimplemented(cloud: Cloud, ada: Person) -> None:
    call = cloud.channel.unary_unary(f"/thecloud.v1.InstanceService/{uuid4().hex}")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(b"", metadata=ada.metadata)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
