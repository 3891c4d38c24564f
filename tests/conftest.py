"""A cloud for tests: the real server over real PostgreSQL, with a compute driver that keeps its world in memory.

REST clients speak to the ASGI application, gRPC clients to a server on loopback. Nothing runs by
itself: `cloud.settle()` does the work that is due.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import grpc
import httpx
import pytest
import structlog
from hypothesis import HealthCheck, settings

import server.cloud
from drivers.contracts import BootDisk
from drivers.load import Drivers
from drivers.mail import Outbox
from drivers.sealed import SealedSecrets
from rest_shim import app as rest
from server import app as server_app
from server import auth, db, guest_image, hosts, listener, metrics, migrate, postgres, work
from server.auth import ApiKey, Keys, Member, User
from server.config import Config
from server.db import Database
from server.grpc_server import GrpcServer
from server.pipeline import Pipeline
from server.services.tenants import Tenant
from tests.drivers.fake import FakeCompute, FakeMachines
from tests.drivers.fake_network import FakeNetwork
from tests.drivers.fake_objects import FakeObjects
from tests.drivers.fake_volumes import FakeVolumes
from tests.engines import require

if TYPE_CHECKING:
    from tests.libvirtd import Libvirtd

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "thecloud"

KEPT = ("alembic_version", "cloud", "instance_types", "prices")
settings.register_profile("default", deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
settings.load_profile("default")
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
)


skipped: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        skipped.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI only the tests listed in shrinking/skipped.txt may skip."""
    allowed = (Path(__file__).parent / "shrinking/skipped.txt").read_text().splitlines()
    if os.environ.get("CI") and (unexpected := skipped - {*allowed}):
        print("\nskipped, and not listed in tests/shrinking/skipped.txt:", *sorted(unexpected), sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
async def database_url() -> AsyncIterator[str]:
    """A server of our own with every migration applied; THECLOUD_TEST_DATABASE_URL names another, whose data go."""
    if url := os.environ.get("THECLOUD_TEST_DATABASE_URL"):
        await migrate.upgrade(url)
        yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="thecloud-test-"))
    folder.chmod(0o755)  # the server's user has to get in
    try:
        async with postgres.embedded(folder, durable=False) as url:
            await migrate.upgrade(url)
            yield url
    finally:
        shutil.rmtree(Path(tempfile.gettempdir()) / f"thecloud-{(folder / 'name').read_text()}", ignore_errors=True)
        shutil.rmtree(folder)


@pytest.fixture
async def empty_database(database_url: str) -> str:
    """The database with nothing in it but what the migrations put there."""
    server_app.load_services()
    connection = await db.connect(database_url)
    tables = [table for table in db.METADATA.tables if table not in KEPT]
    await connection.execute(f"truncate {', '.join(tables)} cascade")
    await connection.execute("delete from prices where effective_from > 'epoch'")  # which migrations do not set
    await connection.close()
    return database_url


@dataclass
class Person:
    """Somebody with an account, a key and a tenant, who calls over REST or gRPC."""

    cloud: "Cloud"
    user_id: UUID
    tenant_id: UUID
    email: str
    key: str
    rest: httpx.AsyncClient

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("x-api-key", self.key)]

    async def launch(self, **fields: Any) -> dict[str, Any]:
        """A new instance, as the reply shows it."""
        reply = await self.rest.post("/instances", json={"name": "web-01", "image": "nginx"} | fields)
        assert reply.status_code == 202, reply.text
        return reply.json()  # type: ignore[no-any-return]

    async def running(self, **fields: Any) -> dict[str, Any]:
        """A new instance that runs."""
        made = await self.launch(**fields)
        await self.cloud.settle()
        return await self.instance(made["id"])

    async def instance(self, id: str) -> dict[str, Any]:
        reply = await self.rest.get(f"/instances/{id}")
        assert reply.status_code == 200, reply.text
        return reply.json()  # type: ignore[no-any-return]


@dataclass
class Cloud:
    """A running server."""

    app: server_app.App
    pipeline: Pipeline
    asgi: Any
    channel: grpc.aio.Channel
    compute: FakeCompute
    machines: FakeMachines
    network: FakeNetwork
    volumes: FakeVolumes
    objects: FakeObjects
    stack: AsyncExitStack
    anonymous: httpx.AsyncClient = field(init=False)

    async def client(self, **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.asgi, client=("127.0.0.1", 50000))
        return await self.stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://cloud", headers=headers)
        )

    async def person(self, name: str = "ada", *, tenant_id: UUID | None = None, role: str = "owner") -> Person:
        """Somebody new, in a tenant of their own or in this one. Made in the database: no password, no rate limit."""
        user_id, key, email = uuid4(), auth.new_key(), f"{name}@{uuid4().hex[:8]}.example"
        async with self.app.db.transaction() as tx:
            await db.insert(tx, User, id=user_id, email=email, name=name, password_hash="", default_tenant_id=None)
            if tenant_id is None:
                tenant_id = uuid4()
                await db.insert(tx, Tenant, id=tenant_id, name=name, slug=str(tenant_id), owner_id=user_id)
            await db.insert(tx, Member, id=uuid4(), tenant_id=tenant_id, user_id=user_id, role=role)
            user = await db.find(tx, User, user_id)
            assert user
            await db.update(tx, user, default_tenant_id=tenant_id)
            await db.insert(
                tx, ApiKey, id=uuid4(), user_id=user_id, name="test", hash=auth.digest(key), prefix=key[:15],
                last_used=user.created_at,
            )  # fmt: skip
        return Person(self, user_id, tenant_id, email, key, await self.client(**{"x-api-key": key}))

    async def settle(self) -> int:
        """Do all work that is due; how many runs that took."""
        return await work.drain(self.app)

    async def value(self, statement: str, *arguments: object) -> Any:
        """The first column of the first row."""
        async with self.app.db.reading() as tx:
            return await tx.connection.fetchval(statement, *arguments)

    def mail(self) -> list[str]:
        """What is in the outbox, oldest first."""
        folder = self.app.config.data / "outbox"
        return [file.read_text() for file in sorted(folder.glob("*.eml"), key=lambda file: file.stat().st_mtime_ns)]


@asynccontextmanager
async def running_cloud(url: str, data: Path, config: Config | None = None) -> AsyncIterator[Cloud]:
    """A server on this database, with fake drivers."""
    config = config or Config(
        data=data, grpc="127.0.0.1:0", auth_rate_limit=10_000, lease_seconds=5, objects_small=0
    )  # fmt: skip
    data.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(url, config.pool_size))
        async with database.reading() as tx:
            this_cloud = await server.cloud.read(tx)
        compute = FakeCompute()
        network = FakeNetwork()
        volumes = FakeVolumes()
        objects = FakeObjects()
        machines = FakeMachines()
        drivers = Drivers(
            {"docker": compute, "libvirt": machines},
            network,
            volumes,
            objects,
            Outbox(data / "outbox", config.mail_from),
            SealedSecrets(data / "sealing.key"),
        )
        keys = Keys(database, drivers.secrets)
        app = server_app.App(config, database, drivers, keys, this_cloud, "http://cloud")
        group = await stack.enter_async_context(asyncio.TaskGroup())
        channels = {work.CHANNEL: lambda _: app.bell.set(), auth.CHANNEL: keys.drop}
        listening = group.create_task(listener.listen(url, channels, app.heads.ask, keys.heard))
        stack.callback(listening.cancel)
        await hosts.beat(app)
        pipeline = Pipeline(app, server_app.implemented(app))
        grpc_server = GrpcServer(pipeline, config)
        port = await grpc_server.start()
        stack.push_async_callback(grpc_server.stop, 0)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        asgi = rest.create(pipeline, server_app.services(), rest.Settings(metrics=metrics.exposition))
        cloud = Cloud(app, pipeline, asgi, channel, compute, machines, network, volumes, objects, stack)
        cloud.anonymous = await cloud.client()
        yield cloud


@pytest.fixture
async def cloud(empty_database: str, tmp_path: Path) -> AsyncIterator[Cloud]:
    async with running_cloud(empty_database, tmp_path) as running:
        yield running


@pytest.fixture
async def ada(cloud: Cloud) -> Person:
    """The owner of a tenant."""
    return await cloud.person("ada")


@pytest.fixture
async def bob(cloud: Cloud) -> Person:
    """The owner of another tenant."""
    return await cloud.person("bob")


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 10.0) -> None:
    """Wait for something that happens by itself. Fails when it has not within so many seconds."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def with_compute(app: server_app.App, compute: Any) -> server_app.App:
    """The same server over another driver of containers."""
    return replace(app, drivers=replace(app.drivers, compute={**app.drivers.compute, "docker": compute}))


@pytest.fixture(scope="session")
def libvirtd() -> "Iterator[Libvirtd]":
    require("libvirt")
    from tests.libvirtd import Libvirtd

    libvirtd = Libvirtd()
    yield libvirtd
    libvirtd.close()


@pytest.fixture(scope="session")
async def tiny() -> BootDisk:
    """The image of the tiny guest, kept between runs."""
    recipe = hashlib.sha256(Path(guest_image.__file__).read_bytes()).hexdigest()[:12]
    path = await guest_image.build(CACHE / f"guest-{recipe}.qcow2", say=print)
    return BootDisk(path=str(path), format="qcow2", size_gb=1)
