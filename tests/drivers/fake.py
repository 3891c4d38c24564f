"""Compute in memory, held to the same contract as the real drivers."""

import asyncio
import string
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import UUID

from drivers.contracts import (
    Capacity,
    ImageArchive,
    InstanceSeen,
    InstanceSpec,
    LogBatch,
    LogLine,
    PortTaken,
    Power,
    Refused,
    Stats,
    Volume,
)


@dataclass
class Machine:
    """One fake instance, as it is now."""

    spec: InstanceSpec
    private_ip: str
    power: Power = "STOPPED"
    exit_code: int | None = None
    starts: int = 0
    lines: list[LogLine] = field(default_factory=list)
    terminals: "list[FakeTerminal]" = field(default_factory=list)

    @property
    def log(self) -> list[bytes]:
        return [line.text + b"\n" for line in self.lines]

    def write(self, text: bytes, stream: Literal["stdout", "stderr"] = "stdout", at: datetime | None = None) -> None:
        """Have the command write a line."""
        self.lines.append(LogLine(at=at or datetime.now(UTC), stream=stream, text=text))


class Fake:
    """Runs nothing, and remembers everything: what containers and virtual machines have in common.

    Of commands it knows `sh -c` with `echo`, with or without `>&2`, `exit` and anything else, which it takes to run
    forever.
    """

    def __init__(self) -> None:
        self.machines: dict[UUID, Machine] = {}
        self.missing_images = {"no-such-image"}
        self.slow_images: set[str] = set()
        self.slow_applies = 2  # that find a slow image still being pulled, for each instance
        self.size = Capacity(vcpus=64, memory_mb=256 * 1024)
        self._waited: dict[UUID, int] = {}
        self._made = 0

    def crash(self, id: UUID) -> None:
        """End the instance's command with exit code 1."""
        self._stop(self.machines[id], exit_code=1)

    async def apply(self, spec: InstanceSpec) -> InstanceSeen:
        await self.check(spec)
        machine = self.machines.get(spec.id)
        if machine is None:
            waited = self._waited.get(spec.id, 0)
            if spec.image in self.slow_images and waited < self.slow_applies:
                self._waited[spec.id] = waited + 1
                return InstanceSeen(power=None, message=f"pulling {spec.image}")
            self._made += 1
            machine = self.machines[spec.id] = Machine(spec, f"198.18.{self._made // 250}.{self._made % 250 + 1}")
        machine.spec = spec
        if spec.power == "STOPPED" and machine.power != "STOPPED":
            self._stop(machine, exit_code=0)
        elif spec.power != "STOPPED" and machine.power == "STOPPED":
            self._start(machine)
        elif spec.power != "STOPPED":
            machine.power = spec.power
        return seen(machine)

    async def observe(self, id: UUID) -> InstanceSeen | None:
        await asyncio.sleep(0)
        return seen(self.machines[id]) if id in self.machines else None

    async def delete(self, id: UUID) -> None:
        await asyncio.sleep(0)
        if id in self.machines:
            self._stop(self.machines.pop(id), exit_code=137)
        self._waited.pop(id, None)

    async def check(self, spec: InstanceSpec) -> None:
        await asyncio.sleep(0)
        self._check_image(spec)
        if spec.vcpus > self.size.vcpus or spec.memory_mb > self.size.memory_mb:
            raise Refused(f"this host has {self.size.vcpus} processors and {self.size.memory_mb} MiB of memory")
        if spec.cmd and spec.cmd[:2] != ("sh", "-c"):
            raise Refused(f"the command {spec.cmd[0]} cannot be run")
        others = (machine.spec for machine in self.machines.values() if machine.spec.id != spec.id)
        taken = {port.host for other in others for port in other.ports}
        for port in spec.ports:
            if port.host in taken:
                raise PortTaken(port.host)

    async def list(self) -> dict[UUID, InstanceSeen]:
        await asyncio.sleep(0)
        return {id: seen(machine) for id, machine in self.machines.items()}

    async def capacity(self) -> Capacity:
        await asyncio.sleep(0)
        return self.size

    async def stats(self, id: UUID) -> Stats:
        machine = await self._running(id)
        limit = machine.spec.memory_mb * 2**20
        return Stats(
            cpu_percentage=0.0 if machine.power == "PAUSED" else 10.0,
            memory_usage_bytes=limit // 4,
            memory_limit_bytes=limit,
            network_rx_bytes=0,
            network_tx_bytes=0,
            disk_read_bytes=0,
            disk_write_bytes=0,
            cpu_time_nanoseconds=10**9,
        )

    async def logs(self, id: UUID, tail: int) -> bytes:
        await asyncio.sleep(0)
        if id not in self.machines:
            raise LookupError(f"there is no instance {id}")
        return b"".join(self.machines[id].log[-tail:] if tail else [])[-(2**20) :]

    async def logs_since(self, id: UUID, position: str, most_bytes: int) -> LogBatch:
        await asyncio.sleep(0)
        if id not in self.machines:
            raise LookupError(f"there is no instance {id}")
        lines, start = self.machines[id].lines, int(position or 0)
        end, size = start, 0
        while end < len(lines) and (end == start or size + len(lines[end].text) <= most_bytes):
            size += len(lines[end].text)
            end += 1
        return LogBatch(tuple(lines[start:end]), str(end) if end > start else position, end < len(lines))

    async def console(self, id: UUID) -> "FakeTerminal":
        machine = await self._running(id)
        if machine.power == "PAUSED":
            raise LookupError(f"instance {id} does not run")
        terminal = FakeTerminal()
        machine.terminals.append(terminal)
        return terminal

    def _check_image(self, spec: InstanceSpec) -> None:
        if spec.image in self.missing_images:
            raise Refused(f"image {spec.image} is not there")

    async def _running(self, id: UUID) -> Machine:
        await asyncio.sleep(0)
        machine = self.machines.get(id)
        if machine is None or machine.power == "STOPPED":
            raise LookupError(f"instance {id} does not run")
        return machine

    def _start(self, machine: Machine) -> None:
        """Start the command, and run what there is of it to its end."""
        machine.power, machine.exit_code = machine.spec.power, None
        machine.starts += 1
        environment = dict(pair.split("=", 1) for pair in machine.spec.env)
        for statement in "".join(machine.spec.cmd[2:]).split(";"):
            match string.Template(statement).safe_substitute(environment).split():
                case ["echo", *words, ">&2"]:
                    machine.write(" ".join(words).encode(), "stderr")
                case ["echo", *words]:
                    machine.write(" ".join(words).encode())
                case ["exit", code]:
                    self._stop(machine, exit_code=int(code))

    def _stop(self, machine: Machine, exit_code: int) -> None:
        if machine.power != "STOPPED":
            machine.power, machine.exit_code = "STOPPED", exit_code
        for terminal in machine.terminals:
            terminal.end()
        machine.terminals.clear()


class FakeCompute(Fake):
    """Containers. It has images of archives too."""

    starts = ("container",)

    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[UUID] = set()  # images
        self.slow_loads = 0  # that find an image still being loaded
        self.bad_archives: set[UUID] = set()

    def image_name(self, id: UUID) -> str:
        return f"archives/{id}"

    async def load_image(self, id: UUID, archive: ImageArchive) -> bool:
        await asyncio.sleep(0)
        if id in self.bad_archives or not archive.path.is_file():
            raise Refused("the archive cannot be loaded")
        if self.slow_loads:
            self.slow_loads -= 1
            return False
        self.loaded.add(id)
        return True

    async def remove_image(self, id: UUID) -> None:
        await asyncio.sleep(0)
        if any(machine.spec.image == self.image_name(id) for machine in self.machines.values()):
            raise RuntimeError(f"an instance needs image {id}")
        self.loaded.discard(id)

    async def list_images(self) -> set[UUID]:
        await asyncio.sleep(0)
        return set(self.loaded)

    def _check_image(self, spec: InstanceSpec) -> None:
        super()._check_image(spec)
        if spec.image.startswith("archives/") and UUID(spec.image.partition("/")[2]) not in self.loaded:
            raise Refused(f"image {spec.image} is not there")


class FakeMachines(Fake):
    """Virtual machines. Their guests let go of every volume but those in `held`."""

    starts = ("qcow2", "raw")

    def __init__(self) -> None:
        super().__init__()
        self.held: set[UUID] = set()

    async def apply(self, spec: InstanceSpec) -> InstanceSeen:
        there = self.machines.get(spec.id)
        if there and spec.power != "STOPPED":
            for volume in there.spec.volumes:
                if volume.id in self.held and volume not in spec.volumes:
                    raise TimeoutError(f"the virtual machine has not let go of volume {volume.id}")
        return await super().apply(spec)

    async def attach_volume(self, id: UUID, volume: Volume) -> None:
        await asyncio.sleep(0)
        if id not in self.machines:
            raise LookupError(f"there is no instance {id}")
        machine = self.machines[id]
        machine.spec = replace(machine.spec, volumes=(*without(machine.spec, volume.id), volume))

    async def detach_volume(self, id: UUID, volume_id: UUID) -> None:
        await asyncio.sleep(0)
        if id in self.machines:
            machine = self.machines[id]
            machine.spec = replace(machine.spec, volumes=without(machine.spec, volume_id))

    async def snapshot(self, id: UUID) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        if id not in self.machines:
            raise LookupError(f"there is no instance {id}")
        disk = self.machines[id].spec.disk
        assert disk
        yield await asyncio.to_thread(Path(disk.path).read_bytes)

    def _check_image(self, spec: InstanceSpec) -> None:
        super()._check_image(spec)
        if spec.disk is None or not Path(spec.disk.path).is_file():
            raise Refused(f"image {spec.image} is not one of a disk")


def without(spec: InstanceSpec, volume_id: UUID) -> tuple[Volume, ...]:
    return tuple(volume for volume in spec.volumes if volume.id != volume_id)


class FakeTerminal:
    """Prints whatever is typed."""

    def __init__(self) -> None:
        self.columns, self.rows = 80, 24
        self._printed: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended = False

    async def output(self) -> AsyncIterator[bytes]:
        while (data := await self._printed.get()) is not None:
            yield data

    async def write(self, data: bytes) -> None:
        if self._ended:
            raise ConnectionError("the terminal has ended")
        self._printed.put_nowait(data)

    async def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows

    async def close(self) -> None:
        self.end()

    def end(self) -> None:
        """What close does, without waiting."""
        if not self._ended:
            self._ended = True
            self._printed.put_nowait(None)


def seen(machine: Machine) -> InstanceSeen:
    stopped, in_vpc = machine.power == "STOPPED", machine.spec.attachment is not None
    plugged = in_vpc and not stopped
    return InstanceSeen(
        power=machine.power,
        private_ip=None if stopped or in_vpc or machine.spec.disk else machine.private_ip,
        backend_id=machine.spec.id.hex[:12],
        exit_code=machine.exit_code if stopped else None,
        netns=f"/nowhere/{machine.spec.id}/{machine.starts}" if plugged and not machine.spec.disk else None,
        tap=f"v-{machine.spec.id.hex[-13:]}" if plugged and machine.spec.disk else None,
        vnc_port=5900 if machine.spec.disk and not stopped else None,
    )
