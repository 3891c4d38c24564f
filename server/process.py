"""One server process: what it serves and works on, from its start to a graceful stop."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
import uvloop

from drivers import load
from server import app as server_app
from server import cloud, db, egress, hosts, migrate, object_uploads
from server.config import BadConfig, Config

log = structlog.get_logger()


def run(
    config: Config, database_url: str, *, api: bool, works: bool, shared: bool = False,
    ready: Callable[[server_app.Running], None] = lambda running: None,
) -> None:  # fmt: skip
    """Serve the API, work, or both, until SIGINT or SIGTERM. `shared`: other processes listen there too."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(config, database_url, api=api, works=works, shared=shared, ready=ready))


async def main(
    config: Config, database_url: str, *, api: bool, works: bool, shared: bool,
    ready: Callable[[server_app.Running], None], stop: asyncio.Event | None = None,
) -> None:  # fmt: skip
    stop = stop or stopping()
    server_app.load_services()
    async with AsyncExitStack() as stack:
        http = server_app.listening(config.http, shared=shared) if api else None
        s3 = server_app.listening(config.s3, shared=shared) if api and config.s3 else None
        if api:
            server_app.listening(config.grpc, shared=shared).close()  # gRPC itself does not say what is wrong
        scheme = "https" if config.tls_cert else "http"
        host, port = http.getsockname()[:2] if http else ("", 0)
        public_url = config.public_url or f"{scheme}://{host}:{port}"
        this_cloud = await read_cloud(database_url)
        try:
            drivers = load.load(
                compute=config.compute, network=config.network, cloud_id=str(this_cloud.id), publish=config.publish,
                external=config.external_network, data=config.data, smtp_url=config.smtp_url,
                mail_from=config.mail_from, volumes=config.volumes, objects=config.objects,
                ovn={"northbound": config.ovn_northbound, "southbound": config.ovn_southbound,
                     "switch": config.ovs_database},
                libvirt={"uri": config.libvirt_uri, "folder": config.libvirt_folder},
                rbd={"pool": config.rbd_pool, "conf": config.rbd_conf, "id": config.rbd_id},
                s3={"endpoint": config.objects_s3_endpoint, "bucket": config.objects_s3_bucket,
                    "access_key": config.objects_s3_access_key, "secret_key": config.objects_s3_secret_key,
                    "region": config.objects_s3_region},
                sealing_key=Path(config.sealing_key) if config.sealing_key else None,
            )  # fmt: skip
        except LookupError as error:
            raise BadConfig(str(error)) from None
        except ValueError as error:
            raise BadConfig(f"THECLOUD_EXTERNAL_NETWORK is no IPv4 range: {error}") from None
        if not 0 <= config.objects_small <= object_uploads.LOOK:
            raise BadConfig(f"THECLOUD_OBJECTS_SMALL is {config.objects_small}; it wants 0 to {object_uploads.LOOK}")
        egress.Guard.of(config)  # which says what is wrong with it now, not at the first import
        await check_sealing(database_url, drivers.secrets.key_id, config)
        app = await stack.enter_async_context(server_app.opened(config, database_url, drivers, this_cloud, public_url))
        running = server_app.Running(app, None)
        worker = None
        if works:
            worker = await stack.enter_async_context(server_app.working(app, stop))
        if http:
            running = await stack.enter_async_context(server_app.serving(app, http, s3, shared=shared))
        if works:
            await hosts.heard(app)
        server_app.settle_memory()
        ready(running)
        await stop.wait()
        log.info("stopping")
        app.stopping.set()
        if worker:
            worker.stop()


async def read_cloud(database_url: str) -> cloud.Cloud:
    """The cloud of this database. Raises BadConfig when its schema is not this version's."""
    if (revision := await migrate.current(database_url)) != migrate.head():
        raise BadConfig(f"the database has not been prepared for this version: it is at revision {revision}, and "
                        f"this wants {migrate.head()}; run `thecloud migrate` of the later version on it")  # fmt: skip
    connection = await migrate.first_connection(database_url)
    try:
        return await cloud.read(db.Tx(connection))
    finally:
        await connection.close()


async def check_sealing(database_url: str, key_id: str, config: Config) -> None:
    """Raise BadConfig when this host's key is not the one that the cloud's secrets are sealed with."""
    connection = await migrate.first_connection(database_url)
    try:
        of_cloud = await cloud.sealed_with(db.Tx(connection), key_id)
    finally:
        await connection.close()
    if of_cloud != key_id:
        file = config.sealing_key or config.data / "sealing.key"
        raise BadConfig(f"{file} has another key than this cloud's secrets are sealed with, {of_cloud}: copy that file "
                        "from a host that has it")  # fmt: skip


def stopping() -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM. A second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def heard() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard)
    return stop


def data_folder(path: Path) -> Path:
    """The folder, made if it is not there. Raises BadConfig."""
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise BadConfig(f"cannot make the data folder {path}: {error.strerror}; name another with --data") from None
    return path.resolve()
