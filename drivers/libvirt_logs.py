"""What a serial console printed, out of the files that virtlogd keeps of it: the newest, and older ones by number.

A position is the inode of a file and how much of it was read. The console knows no times: a line's is that of the
last write to its file, so the same line read again later may have a later one. A line without an end is not read
yet, except the last one of a file that is not written to any longer.
"""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from drivers.contracts import LogBatch, LogLine

LOG_BYTES = 2**20
LINE_BYTES = 16 * 1024


def kept(newest: Path) -> list[Path]:
    """The files that there are, the oldest first."""
    found = {}
    for path in newest.parent.glob(f"{newest.name}*"):
        if path == newest:
            found[-1] = path
        elif number := re.fullmatch(re.escape(newest.name) + r"\.(\d+)", path.name):
            found[int(number[1])] = path
    return [found[number] for number in sorted(found, reverse=True)]


def last_lines(newest: Path, tail: int) -> bytes:
    """The last lines, 1 MiB at most."""
    text = b""
    for path in reversed(kept(newest)):
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            text = file.read() + text
        if len(text) >= LOG_BYTES or text.count(b"\n") > tail:
            break
    lines = text.replace(b"\r\n", b"\n").splitlines(keepends=True)
    return b"".join(lines[-tail:] if tail else [])[-LOG_BYTES:]


def since(newest: Path, position: str, most_bytes: int) -> LogBatch:
    """See SupportsLogsSince."""
    inode, _, offset = position.partition(":")
    lines: list[LogLine] = []
    size = 0
    for number, start, path in _to_read(newest, int(inode or 0), int(offset or 0)):
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            at = datetime.fromtimestamp(status.st_mtime, UTC)
            file.seek(start)
            while read := _line(file.readline(LINE_BYTES), finished=path != newest):
                text = read.removesuffix(b"\n").removesuffix(b"\r")
                if lines and size + len(text) > most_bytes:
                    return LogBatch(tuple(lines), position, more=True)
                cut = not read.endswith(b"\n") and len(read) == LINE_BYTES
                start += len(read)
                while cut and (rest := file.readline(LINE_BYTES)):
                    start += len(rest)
                    if rest.endswith(b"\n"):
                        break
                size += len(text)
                lines.append(LogLine(at=at, stream="stdout", text=text, cut=cut))
                position = f"{number}:{start}"
    return LogBatch(tuple(lines), position)


def _to_read(newest: Path, inode: int, offset: int) -> Iterator[tuple[int, int, Path]]:
    """The files from that one on, each with its inode and where to begin; all, if that one is gone."""
    files = [(path.stat().st_ino, path) for path in kept(newest)]
    known = inode in (number for number, _ in files)
    for number, path in files:
        if known and number != inode:
            continue
        yield number, offset if known else 0, path
        known = False


def _line(read: bytes, finished: bool) -> bytes:
    """What was read, unless more of the line may follow."""
    return read if read.endswith(b"\n") or finished or len(read) == LINE_BYTES else b""
