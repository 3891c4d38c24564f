"""`thecloud up`: the embedded database, the schema, and the server processes, from one command."""

import asyncio
import fcntl
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import uvloop

from server import migrate, postgres
from server.config import BadConfig, Config

log = structlog.get_logger()
AGAIN = 1.0  # seconds before a process that died is started again


@contextmanager
def sole_user(data: Path) -> Any:
    """Only one `up` at a time uses a data folder. Raises BadConfig."""
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadConfig(f"another thecloud runs with the data folder {data}; end it, or name another folder "
                            "with --data") from None  # fmt: skip
        yield


@asynccontextmanager
async def database(config: Config) -> AsyncIterator[str]:
    """The URL of the configured database, or of the embedded one, with the schema up to date."""
    if config.database_url:
        await migrate.upgrade(config.database_url)
        yield config.database_url
        return
    async with postgres.embedded(config.data) as url:
        (config.data / "database_url").touch(mode=0o600)
        (config.data / "database_url").write_text(url)
        await migrate.upgrade(url)
        yield url


def up(config: Config, ready: Callable[[Any], None]) -> None:
    """Run everything until SIGINT or SIGTERM."""
    with sole_user(config.data), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_up(config, ready))


async def _up(config: Config, ready: Callable[[Any], None]) -> None:
    from server import app, process

    stop = process.stopping()
    async with database(config) as url:
        if config.workers == 1:
            await process.main(config, url, api=True, works=True, shared=False, ready=ready, stop=stop)
            return
        with ExitStack() as stack:  # held, so that the ports stay ours
            bound = {
                name: stack.enter_context(app.listening(address, shared=True))
                for name, address in (("http", config.http), ("grpc", config.grpc), ("s3", config.s3)) if address
            }  # fmt: skip
            addresses: Any = {name: app.address_of(each) for name, each in bound.items()}
            await _processes(replace(config, **addresses), url, ready, stop)


async def _processes(config: Config, url: str, ready: Callable[[Any], None], stop: asyncio.Event) -> None:
    """Keep `config.workers` server processes running; they end when we do, however we do."""
    from server.app import Running

    metrics = config.data / "metrics"
    metrics.mkdir(exist_ok=True)
    for file in metrics.glob("*.db"):
        file.unlink()
    environment = os.environ | {
        f"THECLOUD_{name.upper()}": str(int(value) if isinstance(value, bool) else value)
        for name, value in vars(config).items()
    } | {"THECLOUD_DATABASE_URL": url, "PROMETHEUS_MULTIPROC_DIR": str(metrics)}  # fmt: skip

    starting, failed = set(range(config.workers)), False

    async def keep(number: int) -> None:
        nonlocal failed
        while not stop.is_set():
            child = await asyncio.create_subprocess_exec(
                "setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "server", "process",
                env=environment, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                assert child.stdout is not None
                if await child.stdout.readline() and number in starting:  # it says "ready", or ends
                    starting.remove(number)
                    if not starting:
                        ready(Running(None, None, config.http, config.grpc, config.s3))
                ended = asyncio.ensure_future(child.wait())
                await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
            finally:
                if child.returncode is None:
                    child.terminate()
                    await child.wait()
            if starting and not stop.is_set():
                failed = True
                stop.set()
            if not stop.is_set():
                log.error("process_ended", number=number, code=child.returncode)
                await asyncio.sleep(AGAIN)

    stopped = asyncio.ensure_future(stop.wait())
    async with asyncio.TaskGroup() as group:
        for number in range(config.workers):
            group.create_task(keep(number))
    if failed:
        raise BadConfig("a server process ended before it was ready; what it said is above")
