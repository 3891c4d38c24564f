"""What the server is made of, and how it starts: services found in the protos, gRPC and HTTP on one loop."""

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import structlog
import uvicorn
from google.protobuf.descriptor import ServiceDescriptor

import server.services
from drivers.load import Drivers
from rest_shim import app as rest
from server import auth, listener, metrics, work
from server.auth import Keys
from server.cloud import Cloud
from server.config import BadConfig, Config
from server.db import Database
from server.grpc_server import GrpcServer
from server.heads import Heads
from server.http_protocol import BoundedHttp
from server.pipeline import Pipeline
from server.registry import services
from server.s3.front import Front

log = structlog.get_logger()


@dataclass(frozen=True)
class App:
    """Everything a service or a reconciler may reach. Built once, at the start or in a test."""

    config: Config
    db: Database
    drivers: Drivers
    keys: Keys
    cloud: Cloud
    public_url: str = ""  # how clients reach REST
    bell: asyncio.Event = field(default_factory=asyncio.Event)  # rings when there may be work
    heads: Heads = field(default_factory=Heads)  # tells when there are new changes
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # set when the server begins to stop: streams end


def implemented(app: App) -> dict[str, tuple[ServiceDescriptor, object]]:
    """Each service with the object that performs it.

    protos/thecloud/v1/instances.proto, service InstanceService: server/services/instances.py, class InstanceService.
    """
    found: dict[str, tuple[ServiceDescriptor, object]] = {}
    for service in services():
        stem = service.file.name.rsplit("/", 1)[-1].removesuffix(".proto")
        kind = getattr(import_module(f"server.services.{stem}"), service.name)
        found[service.full_name] = (service, kind(app))
    return found


def load_services() -> None:
    """Import every service, so that their tables and reconcilers are known."""
    for module in iter_modules(server.services.__path__):
        import_module(f"server.services.{module.name}")


@dataclass(frozen=True)
class Running:
    """A server that answers, and where."""

    app: App | None
    pipeline: Pipeline | None
    http: str = ""  # "127.0.0.1:8080", with the port that was picked
    grpc: str = ""
    s3: str = ""


def listening(address: str, *, shared: bool = False) -> socket.socket:
    """A socket bound to "host:port". Raises BadConfig when it is taken. `shared`: other processes bind it too."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sends at once where it is told so
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host.strip("[]"), int(port)))
    except (OSError, ValueError, OverflowError) as error:
        bound.close()
        raise BadConfig(f"cannot listen on {address}: {error}; name another address, or port 0 to pick one") from None
    return bound


def check_exposure(config: Config) -> None:
    """Raise BadConfig for an address beyond loopback without TLS, unless that was asked for."""
    if bool(config.tls_cert) != bool(config.tls_key):
        raise BadConfig("--tls-cert and --tls-key go together")
    for file in (config.tls_cert, config.tls_key):
        if file and not Path(file).is_file():
            raise BadConfig(f"{file} is not a file; --tls-cert and --tls-key name PEM files")
    if config.tls_cert:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key)
        except OSError as error:
            raise BadConfig(f"--tls-cert and --tls-key are no certificate and its key in PEM: {error}") from None
    for flag, address in (("--http", config.http), ("--grpc", config.grpc), ("--s3", config.s3)):
        host = address.rpartition(":")[0].strip("[]")
        if address and host not in ("127.0.0.1", "::1", "localhost") and not config.tls_cert and not config.insecure:
            raise BadConfig(
                f"{flag} {address} can be reached from other machines, and keys would travel in the clear: "
                "give --tls-cert and --tls-key, or say --insecure"
            )


class HttpServer(uvicorn.Server):
    """Uvicorn without its own signal handling."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield


def http_server(application: Any, config: Config) -> HttpServer:
    """What serves an ASGI application over HTTP/1.1."""
    return HttpServer(uvicorn.Config(
        application, http=BoundedHttp, ws="websockets-sansio", ws_max_size=2**20, lifespan="off", log_config=None,
        access_log=False, server_header=False, proxy_headers=False, backlog=1024,
        timeout_graceful_shutdown=round(config.grace_seconds),
        ssl_certfile=config.tls_cert or None, ssl_keyfile=config.tls_key or None,
    ))  # fmt: skip


def address_of(bound: socket.socket | None) -> str:
    """ "127.0.0.1:8080"; empty when nothing listens."""
    if bound is None:
        return ""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def settle_memory() -> None:
    """Spare the garbage collector what the start has made, which stays for good: each full collection would walk it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@asynccontextmanager
async def opened(
    config: Config, database_url: str, drivers: Drivers, cloud: Cloud, public_url: str = ""
) -> AsyncIterator[App]:
    """The app with its database, and the listener that keeps it up to date with other processes."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(database_url, config.pool_size))
        keys = Keys(database, drivers.secrets)
        app = App(config, database, drivers, keys, cloud, public_url)
        channels: Mapping[str, Any] = {work.CHANNEL: lambda _: app.bell.set(), auth.CHANNEL: keys.drop}
        stack.push_async_callback(drivers.close)
        listening = asyncio.create_task(listener.listen(database_url, channels, app.heads.ask, keys.heard))
        try:
            yield app
        finally:
            listening.cancel()
            await asyncio.wait([listening])


@asynccontextmanager
async def serving(
    app: App, http: socket.socket, s3: socket.socket | None = None, *, shared: bool = False,
    performed: Mapping[str, tuple[ServiceDescriptor, object]] | None = None,
) -> AsyncIterator[Running]:  # fmt: skip
    """REST and S3 on these sockets and gRPC on config.grpc, until the block ends; then calls that run may finish, and
    streams end. `performed`: services in place of those of the API."""
    config = app.config
    performed = performed or implemented(app)
    pipeline = Pipeline(app, performed)
    grpc_server = GrpcServer(pipeline, config, shared=shared)
    grpc_port = await grpc_server.start()
    settings = rest.Settings(
        body_bytes=config.body_bytes, deadline_seconds=config.deadline_seconds, tls=bool(config.tls_cert),
        cors_origins=tuple(filter(None, config.cors_origins.split(","))),
        metrics=metrics.exposition, metrics_token=config.metrics_token,
        slow_reader_seconds=config.slow_reader_seconds,
    )  # fmt: skip
    shim = rest.create(pipeline, [service for service, _ in performed.values()], settings)
    servers = {http_server(shim, config): http}
    if s3:
        servers[http_server(Front(app, pipeline), config)] = s3
    serve = [asyncio.create_task(server.serve(sockets=[bound])) for server, bound in servers.items()]
    while not all(server.started or task.done() for server, task in zip(servers, serve, strict=True)):  # noqa: ASYNC110
        await asyncio.sleep(0.005)  # uvicorn has no event for it
    try:
        grpc_host = config.grpc.rpartition(":")[0]
        yield Running(app, pipeline, address_of(http), f"{grpc_host}:{grpc_port}", address_of(s3))
    finally:
        app.stopping.set()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(grpc_server.stop(config.grace_seconds), *serve)


@asynccontextmanager
async def working(app: App, ended: asyncio.Event) -> AsyncIterator[work.Worker]:
    """Reconcilers, until the block ends; then what runs may finish, and what takes longer gives its lease back.

    `ended` is set should they end by themselves, which they never should.
    """
    await work.start_periodic(app)
    worker = work.Worker(app)
    running = asyncio.create_task(worker.run())
    running.add_done_callback(lambda _: ended.set())
    following = asyncio.create_task(work.follow(app))
    try:
        yield worker
    finally:
        following.cancel()
        await asyncio.wait([following])
        await worker.finish(running, app.config.grace_seconds - 2)
