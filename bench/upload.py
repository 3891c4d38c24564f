"""An image of a gibibyte uploaded by curl, as a form and as a body, against `curl -T` of it to a plain nginx.

Ours is on the disk, hashed and looked at when it answers; nginx only writes, and leaves the disk to the kernel. Both
servers have one processor and the same file system, and take turns with the same file and the same curl.
"""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from urllib.request import Request, urlopen

from bench import cloud
from bench.cloud import Prepared
from bench.figure import figure, told
from bench.processes import CLIENTS, SERVER, python, running
from server.images import BuildFailed, build

SIZE, ROUNDS = 2**30, 3
REASON = "ours hashes the file, has it on the disk and looks at it before it answers; nginx does none of that"
CONFIGURATION = """
worker_processes 1;
events {{}}
http {{
  client_max_body_size 0;
  client_body_temp_path /data/tmp;
  access_log off;
  server {{ listen 127.0.0.1:{port}; location / {{ root /data; dav_methods PUT DELETE; }} }}
}}
"""


def figures() -> Iterator[dict[str, Any]]:
    yield from asyncio.run(measure())


async def measure() -> list[dict[str, Any]]:
    try:
        await build("nginx", say=told)
    except BuildFailed as failure:
        return [figure("upload", None, "MB/s", "curl -T to nginx", None, None, reason=str(failure))]
    async with cloud.prepared() as prepared:
        return await asyncio.to_thread(compare, prepared)


def compare(prepared: Prepared) -> list[dict[str, Any]]:
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        file = disk(folder / "disk.img")
        environment = {
            "THECLOUD_DATABASE_URL": prepared.url, "THECLOUD_RATE_LIMIT": str(cloud.NO_LIMIT),
            "THECLOUD_DATA": str(folder / "data"),
        }  # fmt: skip
        (folder / "data").mkdir()
        server = stack.enter_context(running(
            *python("server", "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--s3", ""),
            processors=SERVER, environment=environment,
        ))  # fmt: skip
        ours = server.wait_for(r"http://(\S+)")
        server.wait_for("ready")
        theirs = stack.enter_context(nginx(folder))
        sides: dict[str, Callable[[], float]] = {
            "upload": lambda: upload(f"http://{ours}", prepared.key, "-F", f"file=@{file}"),
            "upload, body": lambda: upload(f"http://{ours}", prepared.key, "-X", "POST", "-T", str(file)),
            "nginx": lambda: curl("-T", str(file), f"{theirs}/disk.img"),
        }
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(ROUNDS + 1):
            for side, measured in sides.items():
                rate = measured()
                if number:
                    taken[side].append(rate)
    rates = {side: median(values) for side, values in taken.items()}
    sys.stderr.write(f"  {rates}\n")
    return [
        figure(side, round(rates[side]), "MB/s", "curl -T to nginx", rates[side] / rates["nginx"], None, reason=REASON)
        for side in ("upload", "upload, body")
    ]


def disk(path: Path) -> Path:
    """A raw disk of random bytes with a boot sector."""
    with path.open("wb") as file:
        file.write(b"\0" * 510 + b"\x55\xaa")
        file.flush()
        subprocess.run(["head", "-c", str(SIZE - 512), "/dev/urandom"], stdout=file, check=True)
    return path


def upload(address: str, key: str, *how: str) -> float:
    """MB/s of an upload to a new image, which is deleted afterwards."""

    def call(verb: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        request = Request(address + path, body, {"X-API-Key": key, "Content-Type": "application/json"}, method=verb)
        with urlopen(request) as reply:
            return json.loads(reply.read())  # type: ignore[no-any-return]

    id = call("POST", "/images", b'{"name": "disk"}')["id"]
    rate = curl("-H", f"X-API-Key: {key}", *how, f"{address}/images/{id}/upload")
    assert call("GET", f"/images/{id}")["status"] == "ACTIVE"
    call("DELETE", f"/images/{id}")
    return rate


def curl(*arguments: str) -> float:
    """MB/s of one transfer of the file."""
    began = perf_counter()
    command = ["taskset", "-c", ",".join(map(str, CLIENTS)), "curl", "-sSf", "-o", "/dev/null", *arguments]
    subprocess.run(command, check=True)
    return SIZE / 1e6 / (perf_counter() - began)


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Its address. It runs in a container on the host's network, so that no proxy is in between."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(CONFIGURATION.format(port=port))
    (folder / "served").mkdir(mode=0o777)
    (folder / "served").chmod(0o777)
    name = f"thecloud-bench-nginx-{port}"
    command = ["docker", "run", "--rm", "-d", "--name", name, "--network", "host", "--cpuset-cpus",
               ",".join(map(str, SERVER)), "-v", f"{folder}/nginx.conf:/etc/nginx/nginx.conf:ro",
               "-v", f"{folder}/served:/data", "nginx"]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    try:
        subprocess.run(["curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "-o", "/dev/null",
                        f"http://127.0.0.1:{port}/"], check=True)  # fmt: skip
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=True, stdout=subprocess.DEVNULL)
