"""From POST /instances to RUNNING, against `docker run -d` of the same image with the same limits.

Ours is a real `thecloud up` asked over REST, and polled every five milliseconds; theirs is the
docker command, from its start to its end. They take turns, and each container is removed before the
next is made. The image is one that `thecloud images build busybox` has put into the engine.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import orjson

from bench.figure import figure, medians
from bench.memory import up
from bench.processes import running

IMAGE, TYPE = "busybox", "basic-1"  # one processor and 512 MiB
ROUNDS, POLL, PATIENCE = 12, 0.005, 60.0
NAME = "instance launch"
LIMITS = (
    "--cpus=1", "--memory=512m", "--memory-swap=512m", "--pids-limit=4096", "--security-opt=no-new-privileges",
    "--network=thecloud", "--log-driver=json-file", "--log-opt=max-size=10m", "--log-opt=max-file=2",
)  # fmt: skip


def figures() -> Iterator[dict[str, Any]]:
    if reason := missing():
        yield figure(NAME, None, "ms", "docker run -d", None, 1.5, at_most=True, reason=reason)
        return
    with TemporaryDirectory() as folder, running(*up(Path(folder))) as server:
        address = server.wait_for(r"http://(\S+)")
        server.wait_for("ready")
        client = Client(address)
        try:
            client.launch()  # has the network that both use made
            ours, theirs = medians(ROUNDS, client.launch, docker_run)
        finally:
            client.clean()
    sys.stderr.write(f"  {ours * 1000:.0f} ms, docker run {theirs * 1000:.0f} ms\n")
    yield figure(NAME, round(ours * 1000), "ms", "docker run -d", ours / theirs, 1.5, at_most=True)


def missing() -> str:
    """What this machine lacks for it."""
    if not shutil.which("docker") or docker("version").returncode:
        return "no Docker Engine answers here"
    if docker("image", "inspect", IMAGE).returncode:
        return f"the engine has no image {IMAGE}: thecloud images build {IMAGE}"
    return ""


def docker(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["docker", *arguments], capture_output=True, check=False)


def docker_run() -> float:
    """Seconds of one `docker run -d`."""
    name = f"bench-{uuid4().hex[:12]}"
    try:
        began = time.perf_counter()
        done = docker("run", "-d", "-i", f"--name={name}", *LIMITS, IMAGE)
        taken = time.perf_counter() - began
        assert done.returncode == 0, done.stderr
        return taken
    finally:
        docker("rm", "-f", name)


class Client:
    """Somebody with an account, over one connection."""

    def __init__(self, address: str) -> None:
        self._connection = HTTPConnection(address)
        self._headers: dict[str, str] = {}
        account = {"email": "bench@example.com", "password": uuid4().hex, "name": "bench"}
        self.call("POST", "/auth/register", account)
        self._headers["x-api-key"] = self.call("POST", "/auth/login", account)[1]["api_key"]

    def call(self, verb: str, path: str, body: dict[str, Any] | bytes | None = None) -> tuple[int, Any]:
        """The status and what is in the answer. Bytes are sent as they are, anything else as JSON."""
        kind = {"content-type": "application/octet-stream" if isinstance(body, bytes) else "application/json"}
        sent = orjson.dumps(body) if isinstance(body, dict) else body
        self._connection.request(verb, path, sent, self._headers | kind)
        reply = self._connection.getresponse()
        read = reply.read()
        assert reply.status < 500, read
        return reply.status, orjson.loads(read) if read else None

    def rest(self) -> None:
        """Close the connection, which the server would do to an idle one. The next call opens another."""
        self._connection.close()

    def launch(self) -> float:
        """Seconds of one launch until the API says RUNNING."""
        began = time.perf_counter()
        status, made = self.call("POST", "/instances", {"name": "bench", "image": IMAGE, "instance_type": TYPE})
        assert status == 202, made
        path = f"/instances/{made['id']}"
        try:
            while made["status"] != "RUNNING":
                assert made["status"] == "STARTING", made
                assert time.perf_counter() < began + PATIENCE, made
                time.sleep(POLL)
                _, made = self.call("GET", path)
            return time.perf_counter() - began
        finally:
            self.remove(path)

    def remove(self, path: str) -> None:
        self.call("DELETE", path)
        deadline = time.perf_counter() + PATIENCE
        while self.call("GET", path)[0] != 404 and time.perf_counter() < deadline:
            time.sleep(POLL)

    def clean(self) -> None:
        """Remove what is left, if the server still answers."""
        with suppress(OSError, AssertionError):
            for left in self.call("GET", "/instances")[1]:
                self.remove(f"/instances/{left['id']}")
