"""Resident memory of an idle `thecloud up`, without its database's, against an empty grpc.aio server."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.figure import figure
from bench.processes import python, running

IDLE = 5.0  # seconds between being ready and being weighed


def figures() -> Iterator[dict[str, Any]]:
    with TemporaryDirectory() as folder, running(*up(Path(folder))) as ours, running(*empty()) as theirs:
        ours.wait_for("ready")
        theirs.address()
        time.sleep(IDLE)
        resident, least = ours.resident(), theirs.resident()
    sys.stderr.write(f"  {resident:.0f} MiB, empty {least:.0f} MiB\n")
    yield figure("memory of an idle server", round(resident, 1), "MiB resident", "an empty grpc.aio server",
                 resident / least, None)  # fmt: skip


def up(data: Path) -> tuple[str, ...]:
    """`thecloud up` with everything of its own in this folder."""
    return python("server", "up", "--data", str(data), "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--s3", "")


def empty() -> tuple[str, ...]:
    return python("bench.echo_server", "empty")
