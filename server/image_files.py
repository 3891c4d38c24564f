"""The files of images, in the folder `images` of the data folder.

    <id>                 a whole file that was looked at: the row knows its checksum
    <id>.part            what has been received so far; whoever receives holds a lock on it
    <id>.<token>.whole   received and looked at, about to become <id> in the transaction that says so

A crash leaves at most a file that no row knows, which a sweep removes. All functions but those of `Part` are quick.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar
from uuid import UUID, uuid4

from server.config import Config
from server.errors import ApiError

PARTS_KEPT = 24 * 3600.0  # seconds after its last byte that a part may be gone on with
WHOLE_KEPT = 600.0  # seconds that a whole file may wait for its transaction
PIECE = 2**20
FLUSHED = 64 * 2**20  # bytes after which the disk has them: all at the end would have the database wait for seconds
T = TypeVar("T")
NAME = re.compile(r"([0-9a-f-]{36})(\.part|\.[0-9a-f]{32}\.whole)?")


class Busy(Exception):
    """Somebody else is receiving this file."""


class WrongOffset(Exception):
    """A part begins elsewhere than what is there ends."""

    def __init__(self, size: int) -> None:
        self.size = size


class NoRoom(Exception):
    """The disk is full, or would be."""


def folder(config: Config) -> Path:
    path = config.data / "images"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def stored(config: Config, id: UUID) -> Path:
    """Where the whole file of an image is, if it is."""
    return config.data / "images" / str(id)


def part(config: Config, id: UUID) -> Path:
    return config.data / "images" / f"{id}.part"


def received_bytes(config: Config, id: UUID) -> int:
    """How much of a file that is not whole is there."""
    try:
        return part(config, id).stat().st_size
    except FileNotFoundError:
        return 0


def check_room(config: Config) -> None:
    """Raise NoRoom unless the disk keeps as much free as it has to."""
    if shutil.disk_usage(folder(config)).free < config.image_spare_bytes:
        raise NoRoom


async def blocking(function: Callable[..., T], *arguments: object) -> T:
    """Call it in a thread, and do not go on before it has ended: no thread writes to a file that was closed."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.exception() and isinstance(opened := running.result(), Part):
            opened.close()
        raise


class Part:
    """The part of a file that is there, to be added to by one at a time. Close it in the end.

    Its methods block; call `open`, `append` and `sync` through `blocking`.
    """

    def __init__(self, file: int, path: Path) -> None:
        self._file, self.path = file, path
        self.size = os.fstat(file).st_size
        self._hash = hashlib.sha256()

    @classmethod
    def open(cls, config: Config, id: UUID, offset: int | None) -> Self:
        """To go on at this offset, or at 0 to begin anew, or wherever it ends. Raises Busy and WrongOffset."""
        path = folder(config) and part(config, id)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(file, 0o644)  # the folder keeps others out; who looks at it in a sandbox is nobody
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy from None
            if not path.exists() or path.stat().st_ino != os.fstat(file).st_ino:  # it has just become a whole file
                raise Busy
            made = cls(file, path)
            if offset == 0:
                made.restart()
            elif offset is not None and offset != made.size:
                raise WrongOffset(made.size)
            made._read_on()
        except BaseException:
            os.close(file)
            raise
        return made

    def _read_on(self) -> None:
        """Take what is there into the checksum."""
        at = 0
        while data := os.pread(self._file, PIECE, at):
            self._hash.update(data)
            at += len(data)

    def restart(self) -> None:
        """Throw away what is there."""
        os.ftruncate(self._file, 0)
        self.size, self._hash = 0, hashlib.sha256()

    def append(self, data: bytes) -> None:
        """Add to it. Raises NoRoom, and then the part is as it was."""
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._file, memoryview(data)[done:], self.size + done)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                os.ftruncate(self._file, self.size)
                raise NoRoom from None
            raise
        self._hash.update(data)
        self.size += len(data)
        if self.size // FLUSHED > (self.size - len(data)) // FLUSHED:
            os.fdatasync(self._file)

    def sync(self) -> str:
        """Have all of it on the disk; its SHA-256."""
        os.fsync(self._file)
        return self._hash.hexdigest()

    def become_whole(self) -> Path:
        """Give it another name, under which nobody adds to it."""
        whole = self.path.with_name(f"{self.path.stem}.{uuid4().hex}.whole")
        self.path.rename(whole)
        return whole

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._file)


def place(config: Config, whole: Path, id: UUID) -> None:
    """Make it the image's file. To be called in the transaction that says so, with the row locked."""
    whole.rename(stored(config, id))
    directory = os.open(folder(config), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove(config: Config, id: UUID) -> None:
    """Have all files of an image gone."""
    for path in (stored(config, id), part(config, id)):
        path.unlink(missing_ok=True)


def listed(config: Config) -> list[tuple[UUID, str, Path]]:
    """Every file there is: whose, and "", "part" or "whole"."""
    found = []
    for path in folder(config).iterdir():
        if match := NAME.fullmatch(path.name):
            found.append((UUID(match[1]), (match[2] or "").rpartition(".")[2], path))
    return found


def remove_part(path: Path, older_than: float) -> None:
    """Remove a part that nobody is adding to and that has not grown for so many seconds."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - os.fstat(file).st_mtime >= older_than:
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return
    finally:
        os.close(file)


def age(path: Path) -> float:
    """Seconds since it was last written to; endless when it has gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def no_room() -> ApiError:
    return ApiError("UNAVAILABLE", "the cloud has no room left for images; try again later, or tell its operator")


def wrong_offset(size: int) -> ApiError:
    return ApiError("WRONG_OFFSET", f"{size} bytes of the file are there: go on at offset {size}, or begin anew at 0",
                    offset=str(size))  # fmt: skip
