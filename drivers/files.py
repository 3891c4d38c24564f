"""Objects as files of this host.

    <last two digits of the id>/<the one before>/<id>   an object, whole
    new/<id>.<token>                                    what is being put, or was when the server died

What is put becomes an object by a rename, and is promised once the disk has all of it: so what is large goes there
past the kernel's cache, which would copy it first (O_DIRECT, open(2)). Ids begin with the moment they were made at and
end at random, so the folders fill evenly.
"""

import asyncio
import errno
import fcntl
import mmap
import os
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from drivers.objects import Hashes, NoRoom, StorageNode, Stored, pieces, settled

THREADS = 16  # most of them wait for the disk
PIECE = 2**19  # bytes that are read at once
WRITTEN = 2**20  # bytes that are written at once
BLOCK = 4096  # bytes: what goes past the cache begins, in memory and in the file, and ends at a multiple of this
FLUSHED = 64 * 2**20  # bytes after which the disk has them: all at the end would have others wait for seconds
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # the file system cannot
NO_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)
NO_WAIT = (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL)  # it has to be waited for, or the file system cannot tell
SMALL = 2**16  # bytes that are copied sooner than a thread is asked for them
NEW = "new"
_OWN = threading.local()
PROCESS, NUMBERS = uuid4().hex, count()  # which make the token of what is being put
T = TypeVar("T")


class FileObjects:
    """See ObjectStore. Everything is below `folder`, which several processes may have at once."""

    one_host = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self._seen = datetime.now(UTC)

    async def put(self, id: UUID, data: AsyncIterator[bytes]) -> Stored:
        new = New(self._folder, id)
        writing: asyncio.Future[Any] | None = None
        last = b""  # goes along with the end, so that what is small takes one thread once
        try:
            async with aclosing(pieces(data, WRITTEN)) as cut:
                async for piece in cut:
                    if last:
                        if writing:
                            await asyncio.shield(writing)
                        writing = self._taken(new, new.append, last)
                    last = piece
            if writing:
                await asyncio.shield(writing)
            writing = self._taken(new, new.finish, last)
            await asyncio.shield(writing)
            return new.hashes.stored()
        except BaseException:
            if writing:
                await settled(writing)
            await self._blocking(new.remove)
            raise
        finally:
            new.close()

    async def compose(self, id: UUID, parts: Sequence[UUID]) -> Stored:
        new = New(self._folder, id)
        try:
            for part in parts:
                reading = Reading(self._path(part), part)
                try:
                    await self._blocking(reading.open)
                    while await self._blocking(new.append_from, reading):
                        pass
                finally:
                    reading.close()
            await self._blocking(new.finish, b"")
            return new.hashes.stored()
        except BaseException:
            await self._blocking(new.remove)
            raise
        finally:
            new.close()

    async def get(self, id: UUID, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        reading = Reading(self._path(id), id, start, end)
        try:
            if end is not None and end - start <= SMALL and (data := reading.at_hand()):
                yield data
                return
            while not reading.ended and (data := await self._blocking(reading.next)):
                yield data
        finally:
            reading.close()

    async def delete(self, id: UUID) -> None:
        await self._blocking(self._delete, id)

    async def list(self) -> AsyncGenerator[tuple[UUID, datetime]]:
        for folder in await self._blocking(self._folders):
            for found in await self._blocking(listed, folder):
                yield found

    async def verify(self, id: UUID) -> Stored | None:
        reading, hashes = Reading(self._path(id), id), Hashes()
        try:
            await self._blocking(reading.open_anew)
            while await self._blocking(reading.hash, hashes):
                pass
        except LookupError:
            return None
        finally:
            reading.close()
        return hashes.stored()

    async def nodes(self) -> Sequence[StorageNode]:
        try:
            there = await self._blocking(self._probed)
        except OSError:
            there = None
        if there:
            self._seen = datetime.now(UTC)
        name = socket.gethostname()
        takes = there and not there.f_flag & os.ST_RDONLY and there.f_bavail
        return [StorageNode(
            id=name, address=name, data_dir=str(self._folder), last_seen=self._seen,
            status="alive" if takes else "suspect" if there else "dead",
            total_bytes=there.f_blocks * there.f_frsize if there else None,
            free_bytes=there.f_bavail * there.f_frsize if there else None,
        )]  # fmt: skip

    def _path(self, id: UUID) -> str:
        return f"{self._folder}/{path(id)}"

    def _probed(self) -> os.statvfs_result:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.statvfs(self._folder)

    def _delete(self, id: UUID) -> None:
        with suppress(FileNotFoundError):
            for name in os.listdir(self._folder / NEW):
                if name.startswith(f"{id}."):
                    (self._folder / NEW / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(self._path(id))

    def _folders(self) -> Sequence[Path]:
        """That there may be files in: first those of what is new, so that nothing is missed that becomes whole."""
        return [self._folder / NEW, *(each for each in self._folder.glob("??/?"))]

    def _started(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments))

    def _taken(self, new: "New", write: Callable[[bytes], None], data: bytes) -> asyncio.Future[Any]:
        """Have the data written and hashed, both at once where that is worth a thread."""
        if len(data) <= SMALL:
            new.hashes.update(data)
            return self._started(write, data)
        return asyncio.gather(self._started(write, data), self._started(new.hashes.update, data))

    async def _blocking(self, function: Callable[..., T], *arguments: object) -> T:
        """Call it in a thread, and do not go on before it has ended: no thread uses a file that was closed."""
        running = self._started(function, *arguments)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await settled(running)
            raise


class New:
    """An object that is not whole. Its methods block, but for close(). What is added is not hashed, but for what is
    added from another object."""

    def __init__(self, folder: Path, id: UUID) -> None:
        self._folder = folder
        self._path = f"{folder}/{NEW}/{id}.{PROCESS}-{next(NUMBERS)}"
        self._target = f"{folder}/{path(id)}"
        self._file = -1
        self._written = 0
        self._cached = False  # all of it is, as the file system cannot else
        self.hashes = Hashes()

    def append(self, data: bytes) -> None:
        self._open()
        with room():
            done = self._write_past_cache(data)
            while done < len(data):
                done += os.pwrite(self._file, memoryview(data)[done:], self._written + done)
        self._wrote(len(data))

    def append_from(self, reading: "Reading") -> bool:
        """Add the next piece of another object; False when there is none. What can is shared with it."""
        at = reading.at
        data = reading.next()
        if not data:
            return False
        self._open()
        if reading.copied(self._file, self._written, at, len(data)):
            self._wrote(len(data))
        else:
            self.append(data)
        self.hashes.update(data)
        return True

    def finish(self, last: bytes) -> None:
        """Add the last of it, and have it in its place, on the disk."""
        self.append(last)
        with room():
            try:
                os.rename(self._path, self._target)
            except FileNotFoundError:
                fanned(Path(self._target).parents[1])
                os.rename(self._path, self._target)
            self._path = self._target
            os.fsync(self._file)  # after the rename, which a journal then has too: what follows has nothing to wait for
            synced(os.path.dirname(self._path))

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        if self._file >= 0:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with room():
            try:
                self._file = os.open(self._path, flags, 0o600)
            except FileNotFoundError:
                made(self._folder / NEW)
                self._file = os.open(self._path, flags, 0o600)

    def _write_past_cache(self, data: bytes) -> int:
        """Write as much of the data as can go to the disk by itself; how many bytes that was."""
        done, end = 0, len(data) - len(data) % BLOCK
        if end <= SMALL or self._written % BLOCK or self._cached:
            return done
        aligned = _aligned()
        aligned[:end] = memoryview(data)[:end]
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | os.O_DIRECT)
            while done < end:
                done += os.pwrite(self._file, memoryview(aligned)[done:end], self._written + done)
        except OSError as error:
            if error.errno not in NO_DIRECT:
                raise
            self._cached = True
        finally:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags)
        return done

    def _wrote(self, length: int) -> None:
        before, self._written = self._written, self._written + length
        if self._written // FLUSHED > before // FLUSHED:
            with room():
                os.fdatasync(self._file)


class Reading:
    """An object that is being read, from `at` on. Its methods block, but for at_hand() and close()."""

    def __init__(self, path: str, id: UUID, start: int = 0, end: int | None = None) -> None:
        self._path, self._id, self._file = path, id, -1
        self.at, self._end = start, end
        self.ended = False  # there is no need to ask for a next piece

    def open(self) -> None:
        """Raises LookupError when it is not there."""
        if self._file < 0:
            try:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise LookupError(f"object {self._id} is not there") from None

    def open_anew(self) -> None:
        """Have it read from the disk, not from memory."""
        self.open()
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def next(self) -> bytes:
        """The next piece; nothing at the end."""
        self.open()
        wanted = PIECE if self._end is None else max(0, min(PIECE, self._end - self.at))
        data = os.pread(self._file, wanted, self.at)
        self.at += len(data)
        self.ended = len(data) < PIECE or self.at == self._end
        return data

    def at_hand(self) -> bytes:
        """All up to the end, if it need not be waited for: the kernel has it in memory. Else nothing."""
        self.open()
        data = bytearray(max(0, (self._end or 0) - self.at))
        try:
            if os.preadv(self._file, [data], self.at, os.RWF_NOWAIT) == len(data):
                return bytes(data)
        except OSError as error:
            if error.errno not in NO_WAIT:
                raise
        return b""

    def hash(self, hashes: Hashes) -> bool:
        """Take the next piece into the hashes; False when there is none."""
        data = self.next()
        hashes.update(data)
        return bool(data)

    def copied(self, file: int, offset: int, at: int, length: int) -> bool:
        """Whether the file system has copied so many bytes of it itself, to this offset of another file."""
        done = 0
        try:
            while done < length:
                with room():
                    copied = os.copy_file_range(self._file, file, length - done, at + done, offset + done)
                if not copied:
                    return False
                done += copied
        except OSError as error:
            if error.errno in NO_COPY:
                return False
            raise
        return True

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _aligned() -> mmap.mmap:
    """This thread's memory for what it writes past the cache: it begins with a page."""
    if not hasattr(_OWN, "memory"):
        _OWN.memory = mmap.mmap(-1, WRITTEN, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return _OWN.memory  # type: ignore[no-any-return]


@contextmanager
def room() -> Iterator[None]:
    """Raises NoRoom for what the disk says when it is full."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NoRoom(str(error)) from None
        raise


def path(id: UUID) -> str:
    name = str(id)
    return f"{name[-2:]}/{name[-3]}/{name}"


def made(folder: Path) -> None:
    """Have the folder there, also after a power failure."""
    if not folder.exists():
        made(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)
        synced(folder.parent)


def fanned(folder: Path) -> None:
    """The same of it and all below it that objects may be in: for all of them the disk is waited for once."""
    made(folder)
    for digit in "0123456789abcdef":
        (folder / digit).mkdir(exist_ok=True, mode=0o700)
    synced(folder)


def synced(folder: Path | str) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def listed(folder: Path) -> Sequence[tuple[UUID, datetime]]:
    """The files in it, and when each was last written to."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError, ValueError):
                moment = datetime.fromtimestamp(entry.stat().st_mtime, UTC)
                found.append((UUID(entry.name[:36]), moment))
    return found
