"""Instances as containers of a Docker Engine.

The container of an instance is named after its id, so nothing here is remembered between
calls but the pulls under way. Instances without a VPC share one bridge network on which they cannot
reach each other; ports lead in from `publish_address` only. One in a VPC has a network namespace
with nothing in it but what a network driver plugs in.
"""

import asyncio
import errno
import json
import re
import socket
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import UUID

from aiodocker import Docker, DockerError
from aiohttp import ClientTimeout

from drivers.contracts import (
    Capacity,
    ImageArchive,
    InstanceSeen,
    InstanceSpec,
    LogBatch,
    PortTaken,
    Refused,
    Stats,
    Terminal,
)
from drivers.docker_archives import Archives
from drivers.docker_container import NETWORK, container, inspected, limits, name, seen, size
from drivers.docker_guard import keep_from_link_local
from drivers.docker_images import REPOSITORY, Images, reference
from drivers.docker_logs import TAIL_BYTES, TAILS, Piece, Position, Taking, frames, pieces, since, within
from drivers.docker_stats import interfaces, use
from drivers.docker_terminal import SHELL, DockerTerminal

BRIDGE = "thecloud0"
ICC = "com.docker.network.bridge.enable_icc"
LIMIT = ClientTimeout(total=60)  # of every call to the engine that has no limit of its own
LIMIT_OF_STOP = ClientTimeout(total=30)
LOG_BYTES = 2**20

STEPS = {  # from what is there towards what is wanted
    ("STOPPED", "RUNNING"): "start",
    ("STOPPED", "PAUSED"): "start",
    ("PAUSED", "RUNNING"): "unpause",
    ("PAUSED", "STOPPED"): "unpause",
    ("RUNNING", "PAUSED"): "pause",
    ("RUNNING", "STOPPED"): "stop",
}


class DockerCompute:
    """Compute on one Docker Engine. It keeps apart from other clouds on the same engine by `cloud_id`."""

    starts = ("container",)

    def __init__(self, cloud_id: str, url: str | None = None, publish_address: str = "127.0.0.1") -> None:
        self._cloud_id = cloud_id
        self._url = url or "unix:///var/run/docker.sock"
        self._publish_address = publish_address
        self._docker: Docker | None = None
        self._images = Images(lambda: self._engine)
        self._archives = Archives(lambda: self._engine, cloud_id)

    async def close(self) -> None:
        """Give up the pulls under way and the connections. What runs goes on running."""
        await self._images.close()
        await self._archives.close()
        if self._docker is not None:
            await self._docker.close()

    @property
    def _engine(self) -> Docker:
        """The client, made on the loop that runs when it is first needed."""
        if self._docker is None:
            self._docker = Docker(url=self._url, timeout=LIMIT)
        return self._docker

    async def apply(self, spec: InstanceSpec) -> InstanceSeen:
        """See ComputeDriver. While the image is being pulled nothing is made and power is None."""
        box = await self._inspect(spec.id)
        if box is not None and box["State"]["Status"] in ("removing", "dead"):
            await self.delete(spec.id)
            box = None
        if box is None:
            await self._check_size(spec)
            if not await self._create(spec):
                await self._images.pulled(spec.image, wait=0)
                return InstanceSeen(power=None, message=f"pulling {reference(spec.image)}")
        elif any(box["HostConfig"][limit] != value for limit, value in size(spec).items()):
            await self._check_size(spec)
            await self._engine._query_json(f"containers/{name(spec.id)}/update", "POST", data=limits(spec))
        return await self._bring_to_power(spec)

    async def observe(self, id: UUID) -> InstanceSeen | None:
        box = await self._inspect(id)
        return None if box is None else seen(box)

    async def delete(self, id: UUID) -> None:
        """See ComputeDriver. It waits for a removal that somebody else has begun."""
        async with asyncio.timeout(LIMIT_OF_STOP.total):
            while True:
                try:
                    await self._engine.containers.container(name(id)).delete(force=True, v=True, timeout=LIMIT_OF_STOP)
                except DockerError as error:
                    if error.status == 404:
                        break
                    if error.status != 409:
                        raise
                    await asyncio.sleep(0.05)
        await self._archives.forget_snapshot(id)

    async def check(self, spec: InstanceSpec) -> None:
        await self._check_size(spec)
        await self._check_ports(spec)
        if not await self._images.has(spec.image):
            if spec.image.startswith(REPOSITORY):
                raise Refused("the image is not loaded into this host's engine at the moment; try again in a minute")
            await self._images.pulled(spec.image, wait=5)

    async def list(self) -> dict[UUID, InstanceSeen]:
        filters = json.dumps({"label": [f"thecloud.cloud={self._cloud_id}"]})
        boxes = await self._engine._query_json("containers/json", params={"all": "1", "filters": filters})
        return {UUID(box["Labels"]["thecloud.instance"]): seen(inspected(box)) for box in boxes}

    def image_name(self, id: UUID) -> str:
        return self._archives.name(id)

    async def load_image(self, id: UUID, archive: ImageArchive) -> bool:
        return await self._archives.load(id, archive)

    async def remove_image(self, id: UUID) -> None:
        await self._archives.remove(id)

    async def list_images(self) -> set[UUID]:
        return await self._archives.list()

    async def snapshot(self, id: UUID) -> AsyncGenerator[bytes]:
        box = await self._inspect(id)
        if box is None:
            raise LookupError(f"there is no instance {id}")
        async for piece in self._archives.snapshot(id, box["Id"]):
            yield piece

    async def capacity(self) -> Capacity:
        info = await self._engine.system.info()
        return Capacity(vcpus=info["NCPU"], memory_mb=info["MemTotal"] // 2**20)

    async def stats(self, id: UUID) -> Stats:
        box = await self._inspect(id)
        if box is None or box["State"]["Status"] not in ("running", "paused"):
            raise LookupError(f"instance {id} does not run")
        before = await self._sample(id)
        await asyncio.sleep(0.2)  # an old engine samples only once a second, and then the next takes as long
        now = await self._sample(id)
        now.setdefault("networks", interfaces(box["State"]["Pid"]))
        return use(before, now)

    async def logs(self, id: UUID, tail: int) -> bytes:
        path, params = f"containers/{name(id)}/logs", {"stdout": "1", "stderr": "1", "tail": str(tail)}
        kept, received = bytearray(), bytearray()
        try:
            async with self._engine._query(path, params=params) as response:
                async for data in response.content.iter_any():
                    received += data
                    kept += b"".join(text for _, text in frames(received))
                    del kept[:-LOG_BYTES]
        except DockerError as error:
            raise absent(id, error) from error
        return bytes(kept)

    async def logs_since(self, id: UUID, position: str, most_bytes: int) -> LogBatch:
        """See SupportsLogsSince. The engine finds its last lines quickly; any other it has to read up to."""
        start = Position.read(position)
        if start:
            for tail in TAILS:
                last = await self._last_pieces(id, tail)
                if last is not None and (batch := within(last, start, most_bytes, whole=len(last) < tail)):
                    return batch
        taking = Taking(start, most_bytes)
        async with aclosing(self._pieces(id, since(start))) as found:
            async for piece in found:
                taking.show(piece)
                if taking.more:
                    return taking.batch()
        taking.end()
        return taking.batch()

    async def events(self) -> AsyncGenerator[UUID]:
        filters = {"type": ["container"], "event": ["start", "die"], "label": [f"thecloud.cloud={self._cloud_id}"]}
        endless = ClientTimeout(total=None)
        params = {"filters": json.dumps(filters)}
        async with self._engine._query("events", params=params, timeout=endless) as response, response:
            async for line in response.content:
                yield UUID(json.loads(line)["Actor"]["Attributes"]["thecloud.instance"])

    async def console(self, id: UUID) -> Terminal:
        container = self._engine.containers.container(name(id))
        try:
            shell = await container.exec(
                ["/bin/sh", "-c", SHELL], stdin=True, tty=True, environment={"TERM": "xterm-256color"}
            )
        except DockerError as error:
            raise absent(id, error) from error
        terminal = DockerTerminal(self._engine, name(id), shell)
        try:
            await terminal.open()
        except BaseException:
            await terminal.close()
            raise
        return terminal

    async def _inspect(self, id: UUID) -> dict[str, Any] | None:
        try:
            return await self._engine.containers.container(name(id)).show()
        except DockerError as error:
            if error.status == 404:
                return None
            raise

    async def _sample(self, id: UUID) -> dict[str, Any]:
        params = {"stream": "0", "one-shot": "1"}
        sample: dict[str, Any] = await self._engine._query_json(f"containers/{name(id)}/stats", params=params)
        if not sample["memory_stats"]:
            raise LookupError(f"instance {id} does not run")
        return sample

    async def _last_pieces(self, id: UUID, tail: int) -> tuple[Piece, ...] | None:
        """The last so many pieces of the log, or all; None when they are too large to look through."""
        last, size = deque[Piece](), 0
        async with aclosing(self._pieces(id, {"tail": str(tail)})) as found:
            async for piece in found:
                last.append(piece)
                size += len(piece.text)
                if size > TAIL_BYTES:
                    return None
        return tuple(last)

    async def _pieces(self, id: UUID, which: dict[str, str]) -> AsyncGenerator[Piece]:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1"} | which
        received = bytearray()
        try:
            async with self._engine._query(f"containers/{name(id)}/logs", params=params) as response, response:
                async for data in response.content.iter_any():
                    received += data
                    for piece in pieces(received):
                        yield piece
        except DockerError as error:
            raise absent(id, error) from error

    async def _create(self, spec: InstanceSpec) -> bool:
        """Have the container there, started or not. False when the image is not."""
        if spec.attachment is None:
            await self._ensure_network()
        async with asyncio.timeout(LIMIT.total):
            while True:
                try:
                    await self._engine.containers.create(
                        container(spec, self._cloud_id, self._publish_address), name=name(spec.id)
                    )
                except DockerError as error:
                    if "no such image" in error.message.lower():
                        return False
                    if error.status == 400:
                        raise Refused(error.message) from error
                    if error.status != 409:
                        raise
                    # Somebody makes it at this moment: the name is taken before the container is there.
                    if await self._inspect(spec.id) is None:
                        await asyncio.sleep(0.05)
                        continue
                return True

    async def _ensure_network(self) -> None:
        """Have the bridge there that all instances share and none reaches another on, nor link-local addresses.

        The engine lets any number of networks take one name, but only one take a bridge: that decides who makes it.
        """
        network = {
            "Name": NETWORK,
            "Driver": "bridge",
            "Labels": {"thecloud.network": "shared"},
            "Options": {"com.docker.network.bridge.name": BRIDGE, ICC: "false"},
        }
        async with asyncio.timeout(10):
            while (there := await self._network()) is None:
                try:
                    await self._engine.networks.create(network)
                except DockerError as error:
                    if error.status not in (403, 409):
                        raise
                    await asyncio.sleep(0.05)
        if there["Options"].get(ICC) != "false":
            raise RuntimeError(f"on the network {NETWORK} instances reach each other; remove it, and it is made anew")
        await asyncio.to_thread(keep_from_link_local, BRIDGE)

    async def _network(self) -> dict[str, Any] | None:
        try:
            there: dict[str, Any] = await self._engine._query_json(f"networks/{NETWORK}")
        except DockerError as error:
            if error.status == 404:
                return None
            raise
        return there

    async def _bring_to_power(self, spec: InstanceSpec) -> InstanceSeen:
        """Step the container to the asked power. One that ends as soon as it is started is left STOPPED."""
        started = False
        for _ in range(8):
            box = await self._inspect(spec.id)
            if box is None:
                break
            now = seen(box)
            step = STEPS.get((now.power or "", spec.power))
            if step is None or (step == "start" and started):
                return now
            try:
                await self._step(spec, box, step)
            except DockerError as error:
                if error.status != 409:  # it changed in between: look again
                    raise
            started = started or step == "start"
        raise RuntimeError(f"container {name(spec.id)} does not become {spec.power}")

    async def _step(self, spec: InstanceSpec, box: dict[str, Any], step: str) -> None:
        container = self._engine.containers.container(name(spec.id))
        match step:
            case "stop":
                await container.stop(t=10, timeout=LIMIT_OF_STOP)
            case "pause":
                await container.pause()
            case "unpause":
                await container.unpause()
            case "start":
                if spec.attachment is None:
                    await self._ensure_network()
                try:
                    await container.start()
                except DockerError as error:
                    if refused := refusal(spec, error):
                        if never_started(box):
                            await self.delete(spec.id)
                        raise refused from error
                    raise

    async def _check_size(self, spec: InstanceSpec) -> None:
        host = await self.capacity()
        if spec.vcpus > host.vcpus:
            raise Refused(f"{spec.vcpus:g} processors are asked for, and this host has {host.vcpus}")
        if spec.memory_mb > host.memory_mb:
            raise Refused(f"{spec.memory_mb} MiB of memory are asked for, and this host has {host.memory_mb}")

    async def _check_ports(self, spec: InstanceSpec) -> None:
        box = await self._inspect(spec.id) if spec.ports else None
        published = (box or {}).get("NetworkSettings", {}).get("Ports") or {}
        own = {int(binding["HostPort"]) for bindings in published.values() for binding in bindings or ()}
        for port in spec.ports:
            if port.host not in own and taken(self._publish_address, port.host):
                raise PortTaken(port.host)


def never_started(box: dict[str, Any]) -> bool:
    return bool(box["State"]["Status"] == "created")


def refusal(spec: InstanceSpec, error: DockerError) -> Refused | None:
    """Why this container can never start; None when it may, later."""
    if "port is already allocated" in error.message or "address already in use" in error.message:
        port = re.search(r":(\d+)\b[^:]*(?:failed: port is already|: bind: address already)", error.message)
        return PortTaken(int(port[1])) if port else Refused(f"a port is taken: {error.message}")
    if error.status == 400:  # what the engine answers when the command itself cannot be run
        reason = error.message.partition("exec: ")[2] or error.message
        return Refused(
            f"the command of image {reference(spec.image)} cannot be run: {reason.removesuffix(': unknown')}"
        )
    return None


def taken(address: str, port: int) -> bool:
    """Whether somebody listens there. What this process may not find out counts as free."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def absent(id: UUID, error: DockerError) -> Exception:
    """What to raise where the engine answers that there is no such container, or that it does not run."""
    return LookupError(f"instance {id} does not run") if error.status in (404, 409) else error
