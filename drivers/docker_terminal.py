"""A terminal inside a container of a Docker Engine."""

import asyncio
from collections.abc import AsyncIterator

from aiodocker import Docker, DockerError
from aiodocker.execs import Exec
from aiodocker.stream import Stream

from drivers.contracts import Refused

PATIENCE = 30.0  # seconds for the shell to start

SHELL = 'echo $$; for shell in bash ash; do command -v "$shell" >/dev/null && exec "$shell"; done; exec sh'

# A hangup first, so that the shell takes its jobs along; one that ignores it is killed.
END_SHELL = "kill -HUP {0}; for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 {0} || exit 0; sleep 0.1; done; kill -KILL {0}"


class DockerTerminal:
    """A shell run beside the instance's command. The engine lets it live on when its stream ends: close ends it."""

    def __init__(self, docker: Docker, container: str, shell: Exec) -> None:
        self._docker = docker
        self._container = container
        self._shell = shell
        self._stream: Stream = shell.start(detach=False)
        self._pid: int | None = None  # as the container counts
        self._first = b""
        self._closing: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Start the shell. Raises Refused when the image has none."""
        async with asyncio.timeout(PATIENCE):
            while b"\n" not in self._first and (piece := await self._stream.read_out()):
                self._first += piece.data
        pid, _, self._first = self._first.partition(b"\n")
        if not pid.strip().isdigit():
            raise Refused(f"no shell can be run in this image: {pid.decode(errors='replace').strip()}")
        self._pid = int(pid)

    async def output(self) -> AsyncIterator[bytes]:
        if self._first:
            yield self._first
            self._first = b""
        while self._closing is None and (piece := await self._stream.read_out()):
            yield piece.data

    async def write(self, data: bytes) -> None:
        await self._stream.write_in(data)

    async def resize(self, columns: int, rows: int) -> None:
        await self._shell.resize(w=columns, h=rows)

    async def close(self) -> None:
        """See Terminal. Begun once, it is done whoever stops waiting for it."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            if self._pid is not None and (await self._shell.inspect())["Running"]:
                end = ["/bin/sh", "-c", END_SHELL.format(self._pid)]
                killer = await self._docker.containers.container(self._container).exec(end, user="0")
                await killer.start(detach=True)
        except DockerError as error:
            if error.status not in (404, 409):  # it has ended, and the shell with it, or is paused
                raise
        finally:
            await self._stream.close()
