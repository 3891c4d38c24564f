"""Programs that look at files of strangers: in a process with limits, without a network, and as nobody where we may.

It gets the file as an open descriptor, so it needs no right to any path. util-linux does the rest.
"""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass

LARGEST_OUTPUT = 2**20  # bytes
NOBODY = 65534


@dataclass(frozen=True)
class Finished:
    """How a program ended. `code` is negative when a signal ended it, such as that of a limit."""

    code: int
    output: bytes
    errors: str


class TooMuch(Exception):
    """The program took longer, or said more, than it may."""


async def run(*command: str, file: int, memory: int, seconds: int, as_nobody: bool) -> Finished:
    """Run a program that may read the open `file` as /dev/fd/<file>, and write nothing. Raises TooMuch.

    `memory` is in bytes, of its address space; `seconds` are of processor time, and half as many more of any.
    """
    limits = (f"--as={memory}", f"--cpu={seconds}", "--fsize=0", "--core=0", "--nofile=64")
    privileges = ["setpriv", "--no-new-privs"]
    alone: list[str] = []
    if os.geteuid() == 0:
        alone = ["unshare", "--net", "--ipc"]
        privileges += ["--bounding-set=-all", "--inh-caps=-all"]
        privileges += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if as_nobody else []
    process = await asyncio.create_subprocess_exec(
        *alone, "prlimit", *limits, *privileges, *command, pass_fds=(file,), cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stderr
    readers = [asyncio.ensure_future(_read(stream)) for stream in (process.stdout, process.stderr)]
    try:
        async with asyncio.timeout(seconds * 1.5):
            output, errors = await asyncio.gather(*readers)
            code = await process.wait()
    except TimeoutError:
        raise TooMuch(f"it took more than {seconds * 1.5:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for stream in (process.stdout, process.stderr):
            while await stream.read(65536):  # what was left in the pipe; an unread one would stay open
                pass
        await process.wait()
    return Finished(code, output, errors.decode(errors="replace").strip())


async def _read(stream: asyncio.StreamReader) -> bytes:
    read = bytearray()
    while data := await stream.read(65536):
        read += data
        if len(read) > LARGEST_OUTPUT:
            raise TooMuch(f"it said more than {LARGEST_OUTPUT} bytes")
    return bytes(read)
