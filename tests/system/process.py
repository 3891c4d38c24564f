"""The `thecloud` command as processes of their own, and what they leave on this machine."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import asyncpg
import httpx
from aiodocker import Docker, DockerError

from drivers.directory import DirectoryVolumes
from tests.conftest import until

ROOT = Path(__file__).parents[2]
ADDRESSES = {"THECLOUD_S3": "127.0.0.1:0"}  # where none is named
PASSWORD = "correct horse 42"
PATIENCE = 60.0  # seconds for a process to be ready, or to end


class Ended(Exception):
    """A process ended before it was ready."""

    def __init__(self, code: int, errors: str) -> None:
        super().__init__(f"ended with {code}: {errors}")
        self.code, self.errors = code, errors


@dataclass(frozen=True)
class Finished:
    """A command that ended by itself."""

    code: int
    output: str
    errors: str


class Process:
    """One running `thecloud` command. It ends when this test run does, however that ends."""

    def __init__(self, child: asyncio.subprocess.Process, log: Path) -> None:
        self._child = child
        self.log = log
        self.pid = child.pid
        self.printed: list[str] = []

    @classmethod
    async def start(cls, *arguments: str, log: Path, environment: Mapping[str, str]) -> Self:
        with log.open("ab") as errors:
            child = await asyncio.create_subprocess_exec(
                "setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "server", *arguments, cwd=ROOT,
                env=os.environ | ADDRESSES | environment, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        return cls(child, log)

    async def until_printed(self, last: str) -> None:
        """Read what it prints up to this line. Raises Ended."""
        assert self._child.stdout
        async with asyncio.timeout(PATIENCE):
            while line := (await self._child.stdout.readline()).decode().rstrip():
                self.printed.append(line)
                if line == last:
                    return
        raise Ended(await self.ended(), self.log.read_text())

    async def ended(self) -> int:
        """Its exit code, once it has one."""
        async with asyncio.timeout(PATIENCE):
            return await self._child.wait()

    @property
    def running(self) -> bool:
        return self._child.returncode is None

    def send(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end; its exit code."""
        self.send(number)
        return await self.ended()

    async def kill(self) -> None:
        """End it with no chance to do anything about it."""
        if self.running:
            self.send(signal.SIGKILL)
        await self.ended()

    def memory(self) -> int:
        """Bytes of memory that it has."""
        return self._status("VmRSS")

    def most_memory(self) -> int:
        """The most bytes of memory that it had since `forget_most`."""
        return self._status("VmHWM")

    def forget_most(self) -> None:
        """Have the kernel see anew what the most is."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    def children(self) -> list[int]:
        """The process ids of its children."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == self.pid:
                    found.append(int(process.name))
        return found


async def command(*arguments: str, **environment: str) -> Finished:
    """Run a `thecloud` command that ends by itself."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", *arguments, cwd=ROOT, env=os.environ | ADDRESSES | environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            output, errors = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise
    assert child.returncode is not None
    return Finished(child.returncode, output.decode(), errors.decode())


async def all_gone(pids: Iterable[int]) -> None:
    """Wait until these processes have ended."""

    async def gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in pids)

    await until(gone, PATIENCE)


@contextmanager
def unless_absent() -> Iterator[None]:
    """What the engine no longer has needs nothing done about it."""
    try:
        yield
    except DockerError as error:
        if error.status != 404:
            raise


@dataclass
class Person:
    """Somebody with an account and a key, who calls over REST."""

    email: str
    key: str
    rest: httpx.AsyncClient

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("x-api-key", self.key)]

    async def launch(self, **fields: Any) -> dict[str, Any]:
        wanted = {"name": "web-01", "image": "busybox", "cmd": ["sleep", "100000"]} | fields
        reply = await self.rest.post("/instances", json=wanted)
        assert reply.status_code == 202, reply.text
        return reply.json()  # type: ignore[no-any-return]

    async def instance(self, id: str) -> dict[str, Any]:
        reply = await self.rest.get(f"/instances/{id}")
        assert reply.status_code == 200, reply.text
        return reply.json()  # type: ignore[no-any-return]

    async def becomes(self, id: str, status: str, seconds: float = 30) -> dict[str, Any]:
        """The instance, once it has this status."""
        await until(lambda: self._is(id, status), seconds)
        return await self.instance(id)

    async def running(self, **fields: Any) -> dict[str, Any]:
        """A new instance that runs."""
        return await self.becomes((await self.launch(**fields))["id"], "RUNNING")

    async def gone(self, id: str, seconds: float = 30) -> None:
        async def absent() -> bool:
            return (await self.rest.get(f"/instances/{id}")).status_code == 404

        await until(absent, seconds)

    async def _is(self, id: str, status: str) -> bool:
        seen = await self.instance(id)
        return bool(seen["status"] == status and not seen["reconciling"])


@dataclass
class Thecloud:
    """`thecloud up` on one data folder, started and ended as often as a test likes."""

    folder: Path
    docker: Docker
    environment: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    http: str = ""
    grpc: str = ""
    s3: str = ""  # the URL of the S3 port
    id: str = ""  # the cloud's, with which its containers are labelled
    people: list[Person] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What all its processes wrote to stderr."""
        return self.folder / "log"

    @property
    def url(self) -> str:
        return (self.data / "database_url").read_text()

    async def up(self, *flags: str, http: str = "127.0.0.1:0", grpc: str = "127.0.0.1:0", **environment: str) -> Self:
        """Start it, and wait until it is ready. Raises Ended."""
        arguments = ("up", "--data", str(self.data), "--http", http, "--grpc", grpc, *flags)
        self.process = await self.start(*arguments, **environment)
        await self.process.until_printed("ready")
        told = dict(line.split(maxsplit=1) for line in self.process.printed if line != "ready")
        self.http, self.grpc = told["REST"], told["gRPC"]
        self.s3 = told.get("S3", "")
        self.id = str(await self.value("select id from cloud"))
        for person in self.people:
            person.rest.base_url = self.http
        return self

    async def start(self, *arguments: str, **environment: str) -> Process:
        return await Process.start(*arguments, log=self.log, environment=self.environment | environment)

    async def value(self, statement: str, *arguments: object, url: str | None = None) -> Any:
        """The first column of the first row that the database answers."""
        connection = await asyncpg.connect(url or self.url)
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()

    def client(self, **settings: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.http, timeout=40, trust_env=False, **settings)

    async def person(self) -> Person:
        """Somebody who has just registered and logged in."""
        email = f"ada@{uuid4().hex[:8]}.example"
        rest = self.client()
        made = await rest.post("/auth/register", json={"email": email, "password": PASSWORD, "name": "Ada"})
        assert made.status_code == 201, made.text
        logged_in = await rest.post("/auth/login", json={"email": email, "password": PASSWORD})
        assert logged_in.status_code == 200, logged_in.text
        key = logged_in.json()["api_key"]
        rest.headers["x-api-key"] = key
        person = Person(email, key, rest)
        self.people.append(person)
        return person

    async def containers(self) -> dict[str, list[dict[str, Any]]]:
        """What the engine has of this cloud, by instance: more than one of an instance is too many."""
        if not self.id:
            return {}
        found: dict[str, list[dict[str, Any]]] = {}
        for container in await self.docker.containers.list(
            all=True, filters=json.dumps({"label": [f"thecloud.cloud={self.id}"]})
        ):
            with unless_absent():
                box = await container.show()
                found.setdefault(box["Config"]["Labels"]["thecloud.instance"], []).append(box)
        return found

    async def container(self, id: str) -> dict[str, Any]:
        """The instance's one container, inspected."""
        (box,) = (await self.containers())[id]
        return box

    def database_processes(self) -> list[int]:
        """Every process of the embedded server, which all run in its folder."""
        clusters = {str(self.data / "postgres/cluster")}
        if (self.data / "name").exists():
            clusters.add(f"/var/lib/thecloud/{(self.data / 'name').read_text()}/cluster")
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str((process / "cwd").readlink()) in clusters:
                    found.append(int(process.name))
        return found

    def database_server(self) -> int:
        """The process id of the embedded server."""
        home = self.data / "postgres"
        if not home.exists():
            home = Path("/var/lib/thecloud") / (self.data / "name").read_text()
        return int((home / "cluster/postmaster.pid").read_text().split("\n", 1)[0])

    async def clear(self) -> None:
        """End and remove everything that is left."""
        for person in self.people:
            await person.rest.aclose()
        if self.process and self.process.running:
            children = self.process.children()
            await self.process.kill()
            await all_gone(children)
        await all_gone(self.database_processes())
        for boxes in (await self.containers()).values():
            for box in boxes:
                with unless_absent():
                    await self.docker.containers.container(box["Id"]).delete(force=True, v=True)
        volumes = DirectoryVolumes(self.data / "volumes")
        for id in await volumes.list():
            await volumes.delete(id)
        if (self.data / "name").exists():
            name = (self.data / "name").read_text()
            for folder in (Path("/var/lib/thecloud") / name, Path(tempfile.gettempdir()) / f"thecloud-{name}"):
                shutil.rmtree(folder, ignore_errors=True)
        if self.log.exists():
            print("\n".join(self.log.read_text().splitlines()[-60:]))
        shutil.rmtree(self.folder)
