"""Objects over HTTP: 1 KiB and 1 MiB put and got, and 1,000 listed, of our documented API and our S3 port, against moto
and against Ceph's gateway.

There are two arrangements. In the first, our server is one process, and it and moto have one processor, the same; the
clients have the others. Ceph's gateway is placed nowhere, nor is what keeps data: PostgreSQL, Ceph's monitor and its
store. In the second, of which the figures say how many processes ours is, nothing is placed at all: our server is
`thecloud up` with a process for each processor, and the others are as they are started; more is asked for at once.

Ours and Ceph's answer a put when it is on the disk, both in the folder for temporary files, which has to be on one;
moto answers when it is in memory. The requests are made and signed before the clock starts, and are the same for all
that speak S3.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

import orjson

from bench import cloud, object_requests
from bench.cloud import Prepared
from bench.figure import figure
from bench.processes import CLIENTS, PROCESSORS, SERVER, Load, load, python, running
from tests import ceph
from tests.engines import PROBES

SECONDS, ROUNDS = 1.0, 5
LISTING = "?list-type=2&max-keys=1000"
KEYS = 1000  # of a list, and objects of each size that are got


@dataclass(frozen=True)
class Work:
    """One kind of request, and what of it is asked for."""

    name: str
    verb: str
    bytes: int
    count: int
    goal: float | None  # times moto's rate


WORK = (
    Work("put of 1 KiB", "PUT", 1024, 8192, 5.0), Work("get of 1 KiB", "GET", 1024, KEYS, 12.0),
    Work("put of 1 MiB", "PUT", 2**20, 64, None), Work("get of 1 MiB", "GET", 2**20, 64, None),
    Work("list of 1,000", "LIST", 0, 1, None),
)  # fmt: skip


@dataclass(frozen=True)
class Arrangement:
    """Where servers and clients run, and what is measured of them then."""

    name: str  # that those of its figures begin with, after the side's
    command: tuple[str, ...]  # that starts our server
    servers: list[int] | None  # the processors of ours and of moto; None: any
    clients: list[int] | None
    at_once: tuple[int, ...]


ONE_PROCESSOR = Arrangement("", ("serve",), SERVER, CLIENTS, (1, 16))
WHOLE_MACHINE = Arrangement(
    f"{len(PROCESSORS)} processes, ", ("up", "--workers", str(len(PROCESSORS))), None, None, (16, 64)
)


@dataclass(frozen=True)
class Side:
    """A server, and how it is spoken to."""

    name: str
    address: str
    prefix: str  # of the paths of buckets
    listing: str  # the query of a list
    bucket: str = "bench"
    headers: dict[str, str] | None = None  # of every request; those of S3 are signed instead
    keys: tuple[str, str] = ("", "")

    def request(self, work: Work) -> dict[str, Any]:
        """What bench/object_requests.py makes of this."""
        if work.verb == "LIST":
            return self.get(f"{self.prefix}/{self.bucket}-listed{self.listing}")
        path, size = f"{self.prefix}/{self.bucket}/{work.bytes}/{{}}", work.bytes if work.verb == "PUT" else 0
        return self.get(path) | {"verb": work.verb, "bytes": size, "count": work.count}

    def get(self, path: str) -> dict[str, Any]:
        """The same of one path."""
        how = {"keys": self.keys} if self.headers is None else {"headers": self.headers}
        return {"address": self.address, "verb": "GET", "path": path, "bytes": 0, "count": 1} | how

    def load(self, work: Work, at_once: int, processors: list[int] | None) -> Any:
        """A client with so many connections."""
        return load(processors, kind="objects", concurrency=at_once, **self.request(work))

    def fill(self) -> None:
        """Have the bucket there that is listed, and what is got."""
        host, _, port = self.address.rpartition(":")
        connection = HTTPConnection(host, int(port))
        sign = None if self.headers is not None else object_requests.signer(self.address, *self.keys)

        def put(path: str, body: bytes = b"") -> None:
            headers = sign("PUT", path, body) if sign else self.headers
            connection.request("PUT", path, body, headers or {})
            reply = connection.getresponse()
            text = reply.read()
            assert reply.status in (200, 201), text

        if sign:
            for bucket in (self.bucket, f"{self.bucket}-listed"):
                put(f"/{bucket}")
        for number in range(KEYS):
            put(f"{self.prefix}/{self.bucket}-listed/photos/2026/{number:04}.jpg", b"x")
            put(f"{self.prefix}/{self.bucket}/1024/{number}", b"x" * 1024)
        for number in range(64):
            put(f"{self.prefix}/{self.bucket}/{2**20}/{number}", b"x" * 2**20)
        connection.close()


def figures() -> Iterator[dict[str, Any]]:
    missing = {
        "moto": "" if find_spec("moto") else "moto is not installed: requirements-bench.lock has it",
        "Ceph's gateway": "" if PROBES["s3"]() else "ceph-mon, ceph-osd, ceph-common and radosgw are not installed: "
                                                    "make engines-for-tests",
    }  # fmt: skip
    with ExitStack() as stack:
        gateways = [] if missing["Ceph's gateway"] else [gateway(stack)]  # one for all: it takes long to start
        for arrangement in (ONE_PROCESSOR, WHOLE_MACHINE):
            yield from asyncio.run(measure(arrangement, not missing["moto"], gateways))
    for name, reason in missing.items():
        if reason:
            yield figure(f"objects against {name}", None, "", name, None, None, reason=reason)


async def measure(arrangement: Arrangement, with_moto: bool, gateways: list[Side]) -> list[dict[str, Any]]:
    async with cloud.prepared() as prepared:
        return await asyncio.to_thread(measured, arrangement, prepared, with_moto, gateways)


def measured(
    arrangement: Arrangement, prepared: Prepared, with_moto: bool, gateways: list[Side]
) -> list[dict[str, Any]]:  # fmt: skip
    with ExitStack() as stack:
        ours = served(stack, prepared, arrangement)
        others = [moto(stack, arrangement), *gateways] if with_moto else gateways
        for side in (*ours, *others):
            side.fill()
        return [
            each for work in WORK for at_once in arrangement.at_once
            for each in compared(arrangement, work, at_once, ours, others)
        ]  # fmt: skip


def compared(
    arrangement: Arrangement, work: Work, at_once: int, ours: list[Side], others: list[Side]
) -> Iterator[dict[str, Any]]:
    """How often in a second each of ours does this, against each of the others."""
    sides = [*ours, *others]
    taken: dict[str, list[float]] = {side.name: [] for side in sides}
    with ExitStack() as stack:
        clients: list[Load] = [stack.enter_context(side.load(work, at_once, arrangement.clients)) for side in sides]
        for number in range(ROUNDS + 1):
            for side, client in zip(sides, clients, strict=True):
                rate = client.rate(SECONDS)
                if number:
                    taken[side.name].append(rate)
    rates = {name: median(each) for name, each in taken.items()}
    what = f"{arrangement.name}{work.name}, {at_once} at once"
    sys.stderr.write(f"  {what}: { ({name: round(rate) for name, rate in rates.items()}) }\n")
    for our in ours:
        for other in others:
            goal = work.goal if other.name == "moto" else 1.0
            rate = rates[our.name]
            yield figure(f"{our.name}, {what}", round(rate), "requests/s", other.name, rate / rates[other.name], goal)


def served(stack: ExitStack, prepared: Prepared, arrangement: Arrangement) -> list[Side]:
    """Our server, as the documented API and as S3."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    environment = {
        "THECLOUD_DATABASE_URL": prepared.url, "THECLOUD_RATE_LIMIT": str(cloud.NO_LIMIT),
        "THECLOUD_DATA": str(folder), "THECLOUD_HOST": "bench",  # not that of the instances: nobody runs them
    }  # fmt: skip
    server = stack.enter_context(running(
        *python("server", *arrangement.command),
        *("--http", "127.0.0.1:0", "--s3", "127.0.0.1:0", "--grpc", "127.0.0.1:0"),
        processors=arrangement.servers, environment=environment, quiet=True,
    ))  # fmt: skip
    rest, s3 = server.wait_for(r"REST\s+http://(\S+)"), server.wait_for(r"S3\s+http://(\S+)")
    server.wait_for("ready")
    server.forget_output()

    def post(path: str, **fields: object) -> dict[str, Any]:
        headers = {"X-API-Key": prepared.key, "Content-Type": "application/json"}
        with urlopen(Request(f"http://{rest}{path}", orjson.dumps(fields), headers)) as reply:
            return orjson.loads(reply.read())  # type: ignore[no-any-return]

    for bucket in ("bench", "bench-listed"):
        post("/storage/buckets", name=bucket)
    keys = post("/auth/keys", name="bench", s3=True)["s3"]
    return [
        Side("REST", rest, "/storage", "", headers={"X-API-Key": prepared.key}),
        Side("S3", s3, "", LISTING, "bench-s3", keys=(keys["access_key_id"], keys["secret_access_key"])),
    ]


def moto(stack: ExitStack, arrangement: Arrangement) -> Side:
    """moto's own server."""
    command = python("moto.server", "-H", "127.0.0.1", "-p", "0")
    server = stack.enter_context(running(*command, processors=arrangement.servers, log=True))
    address = "127.0.0.1:" + server.wait_for(r"http://127\.0\.0\.1:(\d+)")
    server.forget_output()
    return Side("moto", address, "", LISTING, keys=("bench", "bench"))


def gateway(stack: ExitStack) -> Side:
    """A Ceph of its own."""
    config = stack.enter_context(ceph.running(on_disk=True))
    url = stack.enter_context(ceph.gateway(config))
    return Side("Ceph's gateway", url.removeprefix("http://"), "", LISTING, keys=(ceph.ACCESS_KEY, ceph.SECRET_KEY))
