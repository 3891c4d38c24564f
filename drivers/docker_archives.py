"""Images of a Docker Engine that were loaded from archives.

What the engine is given is put together here: the config and the layers that were looked into, under one name that
says whose it is. Names that the archive brings, and anything else in it, never reach the engine.
"""

import asyncio
import json
import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from uuid import UUID

from aiodocker import Docker, DockerError
from aiodocker.jsonstream import json_stream_list
from aiohttp import ClientTimeout

from drivers.contracts import ImageArchive, Refused
from drivers.docker_images import ENGINE_IS_AWAY, REPOSITORY

PROMPT = 5.0  # seconds that a call waits for what it has begun
LONGEST = 30 * 60.0  # seconds of one load
PIECE = 2**20
SNAPSHOT = "snapshot-"  # begins the tag of an image that is taken of an instance


class Archives:
    """Loads each archive once for everyone who asks. What is under way is all that is remembered."""

    def __init__(self, engine: Callable[[], Docker], cloud_id: str) -> None:
        self._engine, self._repository = engine, f"{REPOSITORY}{cloud_id}"
        self._loads: dict[UUID, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Give up the loads under way."""
        for load in self._loads.values():
            load.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)

    def name(self, id: UUID) -> str:
        return f"{self._repository}:{id}"

    async def load(self, id: UUID, archive: ImageArchive) -> bool:
        """See SupportsImageArchives.load_image. A failure is told once: asked again, it is tried again."""
        if id not in self._loads:
            if await self._has(id):
                return True
            self._loads[id] = asyncio.create_task(self._load(id, archive), name=f"load {id}")
        load = self._loads[id]
        await asyncio.wait([load], timeout=PROMPT)
        if not load.done():
            return False
        self._loads.pop(id, None)
        await load
        return True

    async def remove(self, id: UUID) -> None:
        if load := self._loads.pop(id, None):
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        await self._delete(self.name(id))

    async def list(self) -> set[UUID]:
        filters = json.dumps({"reference": [self._repository]})
        found = await self._engine()._query_json("images/json", params={"filters": filters})
        tags = (tag for image in found for tag in image["RepoTags"] or () if tag.startswith(f"{self._repository}:"))
        return {UUID(tag[-36:]) for tag in tags if SNAPSHOT not in tag}

    async def snapshot(self, id: UUID, container: str) -> AsyncGenerator[bytes]:
        """The container's image with what was changed in it, as an archive. It is in the engine meanwhile."""
        try:
            await self._engine().containers.container(container).commit(
                repository=self._repository, tag=f"{SNAPSHOT}{id}"
            )  # fmt: skip
            async with self._engine().images.export_image(f"{self._repository}:{SNAPSHOT}{id}") as archive:
                async for piece in archive.iter_chunked(PIECE):
                    yield piece
        finally:
            await self.forget_snapshot(id)

    async def forget_snapshot(self, id: UUID) -> None:
        await self._delete(f"{self._repository}:{SNAPSHOT}{id}")

    async def _delete(self, name: str) -> None:
        try:
            await self._engine().images.delete(name)
        except DockerError as error:
            if error.status != 404:
                raise

    async def _has(self, id: UUID) -> bool:
        try:
            await self._engine().images.inspect(self.name(id))
        except DockerError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def _load(self, id: UUID, archive: ImageArchive) -> None:
        try:
            async with self._engine()._query(
                "images/load", "POST", params={"quiet": "1"}, data=packed(archive, self.name(id)),
                headers={"Content-Type": "application/x-tar"}, timeout=ClientTimeout(total=LONGEST),
            ) as response:  # fmt: skip
                await json_stream_list(response)  # raises when the stream tells of an error
        except DockerError as error:
            if error.status == ENGINE_IS_AWAY:
                raise
            raise Refused(f"the engine cannot load the archive: {error.message}") from None
        if not await self._has(id):
            raise Refused("the engine found no image in the archive")


async def packed(archive: ImageArchive, name: str) -> AsyncIterator[bytes]:
    """The archive to load, in pieces."""
    layers = [f"{number}.tar" for number in range(len(archive.layers))]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]).encode()
    yield _header("manifest.json", len(manifest)) + manifest + b"\0" * (-len(manifest) % 512)
    file = os.open(archive.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for entry, (at, size) in zip(("config.json", *layers), (archive.config, *archive.layers), strict=True):
            yield _header(entry, size)
            end = at + size
            while at < end:
                data = await asyncio.to_thread(os.pread, file, min(PIECE, end - at), at)
                if not data:
                    raise Refused("the archive is shorter than it was")
                at += len(data)
                yield data
            yield b"\0" * (-size % 512)
    finally:
        os.close(file)
    yield b"\0" * 1024


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)
