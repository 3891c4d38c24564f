"""`thecloud up`: a first session, its end, and what the next start finds."""

import asyncio
import ipaddress
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import grpc
import grpc.aio
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from thecloud.v1 import identity_pb2, identity_pb2_grpc, instances_pb2, instances_pb2_grpc

from server import postgres
from tests.conftest import until
from tests.system.process import PASSWORD, Thecloud, all_gone, command

GREETING = "it works"
HTTPD = ["sh", "-c", f"echo {GREETING} > /tmp/index.html && exec httpd -f -p 80 -h /tmp"]


async def greets(ports: str) -> None:
    """Wait until the instance answers HTTP on the port of this machine that leads to it."""

    async def answers() -> bool:
        try:
            return (await client.get("/")).text.strip() == GREETING
        except httpx.TransportError:
            return False

    url = f"http://127.0.0.1:{ports.split(':')[0]}"
    async with httpx.AsyncClient(base_url=url, timeout=2, trust_env=False) as client:
        await until(answers)


# The first session


async def test_a_first_session_over_rest_ends_with_a_container_that_answers(started: Thecloud) -> None:
    person = await started.person()
    running = await person.running(cmd=HTTPD, ports="0:80")
    await greets(running["ports"])
    box = await started.container(running["id"])
    assert box["State"]["Running"]
    assert running["container_id"] == box["Id"][:12]


async def test_a_first_session_over_grpc_ends_with_a_container_that_answers(started: Thecloud) -> None:
    email = f"bob@{uuid4().hex[:8]}.example"
    async with grpc.aio.insecure_channel(started.grpc) as channel:
        identity = identity_pb2_grpc.IdentityServiceStub(channel)
        instances = instances_pb2_grpc.InstanceServiceStub(channel)
        await identity.Register(identity_pb2.RegisterRequest(email=email, password=PASSWORD, name="Bob"))
        logged_in = await identity.Login(identity_pb2.LoginRequest(email=email, password=PASSWORD))
        metadata = [("x-api-key", logged_in.api_key)]
        request = instances_pb2.CreateInstanceRequest(name="web-01", image="busybox", cmd=HTTPD, ports="0:80")
        made = await instances.CreateInstance(request, metadata=metadata)

        async def runs() -> bool:
            seen = await instances.GetInstance(instances_pb2.GetInstanceRequest(id=made.id), metadata=metadata)
            return bool(seen.status == instances_pb2.Instance.STATE_RUNNING)

        await until(runs, 30)
        await greets(made.ports)


async def test_an_instance_can_be_launched_as_soon_as_the_server_is_ready(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    await cloud.process.stop()
    database = await postgres_alone(cloud)
    try:
        await cloud.value("update hosts set heartbeat_at = now() - interval '1 hour' returning 1", url=database.url)
    finally:
        await database.stop()
    await cloud.up()
    await person.launch()


async def postgres_alone(cloud: Thecloud) -> postgres.Server:
    """The embedded database server of a cloud that does not run."""
    programs = postgres.binaries()
    assert programs
    server = postgres.Server(programs, cloud.data, durable=True)
    await server.start()
    return server


# Stop and start


async def test_instances_outlive_the_server_and_are_found_again(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    before = await person.running(cmd=HTTPD, ports="0:80")
    await greets(before["ports"])
    assert cloud.database_processes()

    assert await cloud.process.stop(signal.SIGINT) == 0
    assert cloud.database_processes() == []
    assert "Traceback" not in cloud.log.read_text()
    await greets(before["ports"])

    await cloud.up()
    after = await person.instance(before["id"])
    assert (after["status"], after["container_id"]) == ("RUNNING", before["container_id"])
    assert (await person.rest.delete(f"/instances/{before['id']}")).status_code == 200
    await person.gone(before["id"])
    assert await cloud.containers() == {}


async def test_a_second_start_is_ready_within_three_seconds(cloud: Thecloud) -> None:
    await cloud.up()
    seconds = []
    for _ in range(3):
        assert await cloud.process.stop() == 0
        began = time.monotonic()
        await cloud.up()
        seconds.append(time.monotonic() - began)
    print("seconds of a second start:", [round(each, 2) for each in seconds])
    assert min(seconds) < 3


async def test_a_killed_server_takes_its_database_along(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    running = await person.running()
    servers = cloud.database_processes()
    await cloud.process.kill()
    await all_gone(servers)
    await cloud.up()
    assert (await person.instance(running["id"]))["container_id"] == running["container_id"]


async def test_a_start_right_after_a_kill_needs_no_wait(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    await cloud.process.kill()
    await cloud.up()
    assert (await person.rest.get("/auth/me")).status_code == 200


async def test_server_and_database_may_be_killed_together(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    running = await person.running()
    os.kill(cloud.database_server(), signal.SIGKILL)
    await cloud.process.kill()
    await cloud.up()
    assert (await person.instance(running["id"]))["container_id"] == running["container_id"]


async def test_a_database_server_that_dies_is_started_again(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    os.kill(cloud.database_server(), signal.SIGKILL)

    async def works_again() -> bool:
        return (await person.rest.post("/auth/keys", json={"name": "another"})).status_code == 201

    await until(works_again, 30)
    await person.running()
    assert await cloud.process.stop() == 0
    assert cloud.database_processes() == []


STAGES: dict[str, Callable[[Thecloud], bool]] = {
    "the folder is locked": lambda cloud: (cloud.data / "lock").exists(),
    "the database is being made": lambda cloud: (cloud.data / "postgres/cluster.draft").exists(),
    "the database starts": lambda cloud: (cloud.data / "postgres/cluster/postmaster.pid").exists(),
    "the database answers": lambda cloud: (cloud.data / "database_url").exists(),
}


@pytest.mark.parametrize("stage", STAGES)
async def test_an_interrupted_start_leaves_nothing_running_and_the_next_one_works(cloud: Thecloud, stage: str) -> None:
    async def reached() -> bool:
        return STAGES[stage](cloud)

    process = await cloud.start("up", "--data", str(cloud.data), "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    await until(reached)
    assert await process.stop(signal.SIGINT) in (0, 130)  # 130: before it listened for signals
    assert cloud.database_processes() == []
    assert "Traceback" not in cloud.log.read_text()
    await cloud.up()
    await cloud.person()


# What cannot be


async def test_a_data_folder_has_one_user(started: Thecloud) -> None:
    second = await command("up", "--data", str(started.data), "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    assert second.code == 2
    assert advice(second.errors) == (
        f"thecloud: another thecloud runs with the data folder {started.data}; end it, or name another folder "
        "with --data"
    )
    async with started.client() as client:
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("flag", ["--http", "--grpc", "--s3"])
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_taken_port_is_told_in_a_line(cloud: Thecloud, flag: str, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        addresses = {"--http": "127.0.0.1:0", "--grpc": "127.0.0.1:0"} | {flag: address}
        flags = [word for pair in addresses.items() for word in pair]
        ended = await command("up", "--data", str(cloud.data), "--workers", workers, *flags)
    assert ended.code == 2
    assert advice(ended.errors).startswith(f"thecloud: cannot listen on {address}: ")
    assert "name another address" in ended.errors
    assert cloud.database_processes() == []


async def test_a_data_folder_that_cannot_be_made_is_told_in_a_line(cloud: Thecloud) -> None:
    cloud.data.touch()
    ended = await command("up", "--data", str(cloud.data / "deeper"))
    assert ended.code == 2
    assert advice(ended.errors).startswith(f"thecloud: cannot make the data folder {cloud.data}/deeper: ")


async def test_a_setting_of_the_wrong_kind_is_told_in_a_line(cloud: Thecloud) -> None:
    ended = await command("up", "--data", str(cloud.data), THECLOUD_LEASE_SECONDS="soon")
    assert ended.code == 2
    assert advice(ended.errors) == "thecloud: THECLOUD_LEASE_SECONDS is 'soon'; it wants a float"


async def test_a_host_with_another_sealing_key_is_told_in_a_line(started: Thecloud, tmp_path: Path) -> None:
    (tmp_path / "other.key").write_text("00" * 32)
    ended = await command("serve", "--data", str(started.data), "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
                          THECLOUD_SEALING_KEY=str(tmp_path / "other.key"))  # fmt: skip
    assert ended.code == 2
    assert "other.key has another key than this cloud's secrets are sealed with" in advice(ended.errors)
    assert (started.data / "sealing.key").stat().st_mode & 0o777 == 0o600


def advice(errors: str) -> str:
    """The one line that is told."""
    (line,) = errors.splitlines()
    return line


# Beyond loopback


async def test_listening_beyond_loopback_needs_tls_or_insistence(cloud: Thecloud) -> None:
    refused = await command("up", "--data", str(cloud.data), "--http", "0.0.0.0:0", "--grpc", "127.0.0.1:0")
    assert refused.code == 2
    assert "give --tls-cert and --tls-key, or say --insecure" in advice(refused.errors)
    assert not cloud.data.exists()
    await cloud.up("--insecure", http="0.0.0.0:0")
    port = cloud.http.rpartition(":")[2]
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200


async def test_with_a_certificate_rest_and_grpc_speak_tls(cloud: Thecloud) -> None:
    certificate, key = self_signed(cloud.folder)
    await cloud.up("--tls-cert", str(certificate), "--tls-key", str(key), http="0.0.0.0:0", grpc="0.0.0.0:0")
    assert cloud.http.startswith("https://")
    trust = ssl.create_default_context(cafile=str(certificate))
    port = cloud.http.rpartition(":")[2]
    async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
        reply = await client.get(f"https://127.0.0.1:{port}/health")
    assert reply.status_code == 200
    assert "strict-transport-security" in reply.headers
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{cloud.grpc.rpartition(':')[2]}", credentials) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert cloud.s3.startswith("https://")
    async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
        refused = await client.get(cloud.s3)
    assert refused.status_code == 403 and "<Code>AccessDenied</Code>" in refused.text


async def test_the_s3_port_can_be_left_out(cloud: Thecloud) -> None:
    await cloud.up(THECLOUD_S3="")
    assert cloud.s3 == ""


async def test_several_processes_share_the_s3_port(cloud: Thecloud) -> None:
    await cloud.up("--workers", "2")
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(10):
            reply = await client.get(cloud.s3, headers={"connection": "close"})
            assert reply.status_code == 403 and "<Code>AccessDenied</Code>" in reply.text


async def test_files_that_hold_no_certificate_are_told_in_a_line(cloud: Thecloud) -> None:
    cloud.folder.joinpath("cert.pem").write_text("nothing of the kind")
    file = str(cloud.folder / "cert.pem")
    addresses = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    ended = await command("up", "--data", str(cloud.data), *addresses, "--tls-cert", file, "--tls-key", file)
    assert ended.code == 2
    assert "--tls-cert and --tls-key" in advice(ended.errors)
    assert cloud.database_processes() == []


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "thecloud")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    return files


# A graceful end


async def test_a_call_in_flight_at_sigterm_is_answered(cloud: Thecloud) -> None:
    await cloud.up()
    person = await cloud.person()
    running = await person.running()
    call = asyncio.create_task(person.rest.get(f"/instances/{running['id']}/stats"))
    done, _ = await asyncio.wait([call], timeout=0.1)
    assert not done, "statistics take a while, so the call is under way"
    cloud.process.send(signal.SIGTERM)
    reply = await call
    assert reply.status_code == 200
    assert reply.json()["memory_limit_bytes"] == 1024 * 2**20
    assert await cloud.process.ended() == 0
    assert "Traceback" not in cloud.log.read_text()


async def test_work_in_progress_at_sigterm_gives_its_lease_back(cloud: Thecloud, tmp_path: Path) -> None:
    cloud.environment |= {"THECLOUD_LEASE_SECONDS": "600", "THECLOUD_GRACE_SECONDS": "3"}
    async with postgres.embedded(tmp_path, durable=False) as url:
        cloud.data.mkdir()
        (cloud.data / "database_url").write_text(url)
        await cloud.up("--database-url", url)
        person = await cloud.person()
        running = await person.running()
        # The engine waits ten seconds for a command that ignores SIGTERM.
        assert (await person.rest.post(f"/instances/{running['id']}/stop")).status_code == 200
        leased = "select leased_until > now() from work where kind = 'instance'"

        async def under_way() -> bool:
            return bool(await cloud.value(leased))

        await until(under_way)
        began = time.monotonic()
        assert await cloud.process.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 8
        assert await cloud.value(leased) is False
        await cloud.up("--database-url", url)
        await person.becomes(running["id"], "STOPPED")
        await cloud.process.stop()


async def test_without_work_or_calls_the_end_takes_two_seconds_at_most(cloud: Thecloud) -> None:
    await cloud.up()
    await cloud.person()
    began = time.monotonic()
    assert await cloud.process.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 2


# Where data are


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's folders are closed to the database's user")
async def test_data_may_be_in_a_folder_that_only_root_may_enter(cloud: Thecloud) -> None:
    cloud.folder.chmod(0o700)
    await cloud.up()
    person = await cloud.person()
    assert not (cloud.data / "postgres").exists()
    name = (cloud.data / "name").read_text()
    assert Path(f"/var/lib/thecloud/{name}/cluster/PG_VERSION").exists()
    assert await cloud.process.stop() == 0
    await cloud.up()
    assert (await person.rest.get("/auth/me")).status_code == 200
