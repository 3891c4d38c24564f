"""Processes that a benchmark starts: servers, and clients that load them. Each is ended by its own id.

Where there is more than one processor, what is measured has the first for itself and its
clients the others, so that neither slows the other and the measured side is the one that is
busy; or all have all of them. Both sides of a comparison are placed alike. `setpriv` has the
kernel end each with us.
"""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from threading import Thread
from typing import IO, Any

import orjson

PATIENCE = 60.0  # seconds for a process to be ready
PROCESSORS = sorted(os.sched_getaffinity(0))
SERVER = PROCESSORS[:1]
CLIENTS = PROCESSORS[1:] or PROCESSORS


class NotReady(Exception):
    """A process ended, or took too long, before it said what was waited for."""


class Process:
    """A running process whose output is read by lines."""

    def __init__(self, popen: "subprocess.Popen[bytes]", output: IO[bytes]) -> None:
        self.pid = popen.pid
        self._popen, self._output, self._kept = popen, output, b""

    def wait_for(self, pattern: str) -> str:
        """The first group of this pattern in what it writes from now on. Raises NotReady."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self._kept.decode(errors="replace"))):
            ready, _, _ = select.select([self._output], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._output.fileno(), 65536) if ready else b""
            if not data:
                raise NotReady(f"process {self.pid} did not write {pattern!r}; last: {self._kept[-300:]!r}")
            self._kept += data
        self._kept = self._kept[len(found[0].encode()) + self._kept.decode(errors="replace").index(found[0]) :]
        return found[1] if found.groups() else found[0]

    def forget_output(self) -> None:
        """Read what it writes from now on, so that it never waits for a reader, and drop it."""
        Thread(target=lambda: [None for _ in self._output], daemon=True).start()

    def address(self) -> str:
        """Where it listens on loopback, once it says "port N"."""
        return "127.0.0.1:" + self.wait_for(r"port (\d+)\n")

    def tell(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()

    def busy(self) -> float:
        """Seconds of processor time it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB of memory it has resident now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


@contextmanager
def running(
    *command: str, processors: list[int] | None = None, environment: Mapping[str, str] | None = None,
    log: bool = False, quiet: bool = False,
) -> Iterator[Process]:  # fmt: skip
    """The command as a process, for as long as the block lasts. `log`: it says that it is ready on stderr. `quiet`:
    what it writes there goes nowhere."""
    placed = ["taskset", "-c", ",".join(map(str, processors))] if processors else []
    popen = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *placed, *command],
        stdin=subprocess.PIPE, stdout=sys.stderr.fileno() if log else subprocess.PIPE,
        stderr=subprocess.PIPE if log else subprocess.DEVNULL if quiet else None,
        env=os.environ | dict(environment or {}),
    )  # fmt: skip
    output = popen.stderr if log else popen.stdout
    assert output is not None
    try:
        yield Process(popen, output)
    finally:
        popen.terminate()
        try:
            popen.wait(30)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
        for stream in (popen.stdin, output):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs a module of ours."""
    return (sys.executable, "-m", module, *arguments)


class Load:
    """A client process. It calls when it is told to, and is idle in between."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def rate(self, seconds: float) -> float:
        """Calls a second over so many seconds."""
        self.process.tell(str(seconds))
        return float(self.process.wait_for(r"rate (\S+)\n"))


@contextmanager
def load(processors: list[int] | None = CLIENTS, **what: Any) -> Iterator[Load]:
    """A client that calls as bench/load.py's `main` says."""
    with running(*python("bench.load", orjson.dumps(what).decode()), processors=processors) as process:
        process.wait_for("ready\n")
        yield Load(process)


def compare(seconds: float, rounds: int, *sides: tuple[Process, Load]) -> list[tuple[float, float]]:
    """For each server with its load: the median calls a second, and the server's share of a processor meanwhile."""
    measured: list[list[tuple[float, float]]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for (server, client), results in zip(sides, measured, strict=True):
            busy, began = server.busy(), time.monotonic()
            rate = client.rate(seconds if number else seconds / 2)  # the first is a warm-up
            share = (server.busy() - busy) / (time.monotonic() - began)
            if number:
                results.append((rate, share))
                sys.stderr.write(f"  process {server.pid}: {rate:.0f} calls/s, {share:.0%} of a processor\n")
    return [(median(rate for rate, _ in each), median(share for _, share in each)) for each in measured]
