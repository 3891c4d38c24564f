"""Instances as virtual machines of one libvirtd: QEMU, q35, BIOS, x86-64.

The domain of an instance is named after its cloud and its id, so that clouds on one libvirtd do not see each
other, and has the id as its UUID; its files are in a folder named after the id. What is done to an instance is
done in a thread, alone on this host: an apply that was cut off goes on, and the next one waits for its end.

A machine without an attachment has no network. One with it has a tap on the host, which is down before the
machine executes its first instruction and stays so until a network driver takes it: nobody talks to the host.

Growing by processors is done while the machine runs. Any other change of size restarts it: it is shut down as
by its power button, and started again.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args
from uuid import UUID

import libvirt

from drivers import libvirt_files, libvirt_logs, libvirt_xml
from drivers import linux_kernel as kernel
from drivers.contracts import (
    Capacity,
    DiskFormat,
    InstanceSeen,
    InstanceSpec,
    LogBatch,
    Power,
    Refused,
    Stats,
    Terminal,
    Volume,
)
from drivers.libvirt_engine import Engine, LibvirtLost, forgiving, lost, not_there, wrong_state
from drivers.libvirt_files import GIB, Files
from drivers.libvirt_probe import VirtType, virt_type
from drivers.libvirt_snapshots import copy_disk
from drivers.libvirt_stats import use
from drivers.libvirt_terminal import Screen, SerialTerminal
from drivers.libvirt_volumes import attach, detach, set_volumes
from drivers.libvirt_xml import Size
from drivers.linux_external import locked

P = ParamSpec("P")
T = TypeVar("T")

FOLDER = Path("/var/lib/thecloud-libvirt")
PIECE = 2**20
THREADS = 16  # of calls that wait: one for each instance that is being stopped
AGAIN = 1.0  # seconds after which the power button is pressed once more: a machine that boots does not heed it
NEVER = (
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_NO_NAME,
    libvirt.VIR_ERR_XML_ERROR,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
)
POWER: dict[int, Power] = {
    libvirt.VIR_DOMAIN_RUNNING: "RUNNING",
    libvirt.VIR_DOMAIN_BLOCKED: "RUNNING",
    libvirt.VIR_DOMAIN_SHUTDOWN: "RUNNING",  # it still does
    libvirt.VIR_DOMAIN_PAUSED: "PAUSED",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "PAUSED",
    libvirt.VIR_DOMAIN_SHUTOFF: "STOPPED",
    libvirt.VIR_DOMAIN_CRASHED: "STOPPED",
}
ALL_OF_IT = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class LibvirtCompute:
    """Compute on one libvirtd. A machine that is asked to stop has `patience` seconds before it is switched off."""

    starts = get_args(DiskFormat)

    def __init__(
        self,
        cloud_id: str,
        folder: Path = FOLDER,
        uri: str = "qemu:///system",
        virt_type: VirtType | None = None,  # None: found out when the first machine is made
        patience: float = 20.0,
    ) -> None:
        self._cloud_id = cloud_id
        self._prefix = f"thecloud-{hashlib.sha256(cloud_id.encode()).hexdigest()[:8]}-"
        self._folder = folder
        self._engine = Engine(uri)
        self._virt_type = virt_type
        self._patience = patience
        # Its own: a libvirtd that hangs keeps nothing else of this process waiting.
        self._threads = ThreadPoolExecutor(THREADS, "libvirt")

    async def close(self) -> None:
        """Give up the connection. What runs goes on running."""
        await self._do(self._engine.close)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def apply(self, spec: InstanceSpec) -> InstanceSeen:
        return await self._do(self._apply, spec)

    async def observe(self, id: UUID) -> InstanceSeen | None:
        return await self._do(self._observe, id)

    async def delete(self, id: UUID) -> None:
        await self._do(self._delete, id)

    async def check(self, spec: InstanceSpec) -> None:
        await self._do(self._check, spec)

    async def list(self) -> dict[UUID, InstanceSeen]:
        return await self._do(self._list)

    async def capacity(self) -> Capacity:
        return await self._do(self._capacity)

    async def stats(self, id: UUID) -> Stats:
        return await self._do(lambda: use(self._running(id)))

    async def logs(self, id: UUID, tail: int) -> bytes:
        return await self._do(lambda: libvirt_logs.last_lines(self._files_of(id).console, tail))

    async def logs_since(self, id: UUID, position: str, most_bytes: int) -> LogBatch:
        return await self._do(lambda: libvirt_logs.since(self._files_of(id).console, position, most_bytes))

    async def events(self) -> AsyncGenerator[UUID]:
        async for name in self._engine.changes():
            if name.startswith(self._prefix):
                yield UUID(name.removeprefix(self._prefix))

    async def console(self, id: UUID) -> Terminal:
        domain = await self._do(self._running, id)
        if (await self._do(seen, domain)).power != "RUNNING":
            raise LookupError(f"instance {id} does not run")
        terminal = SerialTerminal(await self._do(self._engine.open))
        try:
            await self._do(terminal.open, domain.name())
        except BaseException:
            await terminal.close()
            raise
        return terminal

    async def screen(self, id: UUID) -> Terminal:
        port = (await self._do(lambda: seen(self._running(id)))).vnc_port
        if port is None:
            raise LookupError(f"instance {id} does not run")
        return Screen(*await asyncio.open_connection("127.0.0.1", port))

    async def snapshot(self, id: UUID) -> AsyncGenerator[bytes]:
        path = self._files(id).snapshot
        try:
            await self._do(self._with, id, lambda domain: copy_disk(domain, self._files(id).disk, path))
            with path.open("rb") as file:
                while piece := await asyncio.to_thread(file.read, PIECE):
                    yield piece
        finally:
            path.unlink(missing_ok=True)

    async def attach_volume(self, id: UUID, volume: Volume) -> None:
        await self._do(self._with, id, lambda domain: attach(domain, volume))

    async def detach_volume(self, id: UUID, volume_id: UUID) -> None:
        try:
            await self._do(self._with, id, lambda domain: detach(domain, volume_id))
        except LookupError:
            return

    async def _do(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What this returns, done in a thread, with libvirt's errors in the contract's words."""
        try:
            done = self._threads.submit(work, *arguments, **named)
            return await asyncio.wrap_future(done)
        except libvirt.libvirtError as error:
            raise told(error) from error

    # All below is called in threads.

    def _apply(self, spec: InstanceSpec) -> InstanceSeen:
        with self._alone(spec.id):
            domain = self._find(spec.id)
            self._check_size(spec)
            if domain is None:
                domain = self._make(spec)
            # First, where that lets go of disks: a guest that holds them is switched off, one that is paused goes on.
            if spec.power == "STOPPED" or (spec.power == "RUNNING" and POWER[domain.state()[0]] == "PAUSED"):
                self._bring_to_power(domain, spec.power)
            self._resize(domain, spec)
            set_volumes(domain, spec.volumes)
            self._bring_to_power(domain, spec.power)
            return seen(domain)

    def _observe(self, id: UUID) -> InstanceSeen | None:
        domain = self._find(id)
        try:
            return None if domain is None else seen(domain)
        except libvirt.libvirtError as error:
            if not_there(error):  # by now
                return None
            raise

    def _delete(self, id: UUID) -> None:
        with self._alone(id):
            domain = self._find(id)
            if domain is not None:
                with forgiving(wrong_state, not_there):
                    domain.destroy()
                with forgiving(not_there):
                    domain.undefineFlags(ALL_OF_IT)
            self._files(id).remove()
            self._lock(id).unlink()

    def _check(self, spec: InstanceSpec) -> None:
        self._check_size(spec)
        if self._find(spec.id) is None:
            check_parts(spec)

    def _list(self) -> dict[UUID, InstanceSeen]:
        found = {}
        for domain in self._engine.connection().listAllDomains():
            if domain.name().startswith(self._prefix):
                with forgiving(not_there):
                    found[UUID(domain.UUIDString())] = seen(domain)
        return found

    def _capacity(self) -> Capacity:
        _, memory_mb, vcpus, *_ = self._engine.connection().getInfo()
        return Capacity(vcpus=vcpus, memory_mb=memory_mb)

    def _with(self, id: UUID, work: Any) -> None:
        """Do this to the domain, alone."""
        with self._alone(id):
            domain = self._find(id)
            if domain is None:
                raise LookupError(f"there is no instance {id}")
            work(domain)

    def _alone(self, id: UUID) -> AbstractContextManager[None]:
        return locked(self._lock(id))

    def _lock(self, id: UUID) -> Path:
        return self._folder / f"{id}.lock"

    def _files(self, id: UUID) -> Files:
        return Files(self._folder / str(id))

    def _files_of(self, id: UUID) -> Files:
        """The files of an instance that is there."""
        if not self._files(id).disk.exists():
            raise LookupError(f"there is no instance {id}")
        return self._files(id)

    def _find(self, id: UUID) -> Any:
        try:
            return self._engine.connection().lookupByName(f"{self._prefix}{id}")
        except libvirt.libvirtError as error:
            if not_there(error):
                return None
            raise

    def _running(self, id: UUID) -> Any:
        domain = self._find(id)
        if domain is None or not domain.isActive():
            raise LookupError(f"instance {id} does not run")
        return domain

    def _check_size(self, spec: InstanceSpec) -> None:
        host, size = self._capacity(), Size.of(spec)
        if size.vcpus > host.vcpus:
            raise Refused(f"{size.vcpus} processors are asked for, and this host has {host.vcpus}")
        if size.memory_mb > host.memory_mb:
            raise Refused(f"{size.memory_mb} MiB of memory are asked for, and this host has {host.memory_mb}")

    def _make(self, spec: InstanceSpec) -> Any:
        """The domain, stopped. Its files come first: where there is a domain they are all there."""
        check_parts(spec)
        if self._virt_type is None:
            self._virt_type = virt_type(self._folder / "virt-type")
        files = self._files(spec.id)
        files.make(spec)
        vcpus = self._capacity().vcpus
        text = libvirt_xml.domain(spec, f"{self._prefix}{spec.id}", self._cloud_id, files, self._virt_type, vcpus)
        try:
            return self._engine.connection().defineXML(text)
        except libvirt.libvirtError as error:
            if error.get_error_code() in NEVER:
                files.remove()
            raise

    def _resize(self, domain: Any, spec: InstanceSpec) -> None:
        """The size in what is defined, and in what runs: that is stopped where it cannot have it as it is."""
        wanted, memory = Size.of(spec), spec.memory_mb * 1024
        config = libvirt.VIR_DOMAIN_AFFECT_CONFIG
        if libvirt_xml.read(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).size != wanted:
            domain.setVcpusFlags(wanted.vcpus, config)
            domain.setMemoryFlags(memory, config | libvirt.VIR_DOMAIN_MEM_MAXIMUM)
            domain.setMemoryFlags(memory, config)
        if domain.isActive():
            there = libvirt_xml.read(domain.XMLDesc()).size
            if there.memory_mb == wanted.memory_mb and there.vcpus < wanted.vcpus:
                domain.setVcpusFlags(wanted.vcpus, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            elif there != wanted:
                self._stop(domain)
        if spec.disk and domain.blockInfo("vda")[0] < spec.disk.size_gb * GIB:
            if domain.isActive():
                domain.blockResize("vda", spec.disk.size_gb * GIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
            else:
                self._files(spec.id).grow(spec.disk.size_gb * GIB)

    def _bring_to_power(self, domain: Any, power: Power) -> None:
        """Start, resume, pause or stop it. One that ends as soon as it is started is left STOPPED."""
        now = POWER[domain.state()[0]]
        if power == "STOPPED" and now != "STOPPED":
            self._stop(domain)
        elif now == "STOPPED" and power != "STOPPED":
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
            now = "PAUSED"
        if power == "RUNNING" and now == "PAUSED":
            self._resume(domain)
        elif power == "PAUSED" and now == "RUNNING":
            domain.suspend()

    def _resume(self, domain: Any) -> None:
        """libvirt has brought the tap up, where the host would answer on it."""
        name = libvirt_xml.read(domain.XMLDesc()).tap
        if name:
            with kernel.inside(kernel.HOST) as host:
                if number := kernel.index(name):
                    host.do("link", "set", index=number, state="down")
        domain.resume()

    def _stop(self, domain: Any) -> None:
        """Press its power button, wait, and switch it off."""
        deadline, press = time.monotonic() + self._patience, 0.0
        with forgiving(wrong_state):  # it has just ended
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()
            while domain.isActive():
                now = time.monotonic()
                if now >= deadline:
                    domain.destroy()
                elif now >= press:
                    domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
                    press = now + AGAIN
                time.sleep(0.05)


def check_parts(spec: InstanceSpec) -> None:
    """Raise Refused for what a new machine cannot be."""
    libvirt_files.check(spec.image, spec.disk)
    if spec.ports and spec.attachment is None:
        raise Refused("a virtual machine has ports of the host only in a VPC")


def seen(domain: Any) -> InstanceSeen:
    """A domain as the contract tells it."""
    power = POWER[domain.state()[0]]
    live = libvirt_xml.read(domain.XMLDesc())
    up = power != "STOPPED"
    return InstanceSeen(
        power=power,
        backend_id=domain.name(),
        tap=live.tap if up else None,
        vnc_port=live.vnc_port if up else None,
    )


def told(error: libvirt.libvirtError) -> Exception:
    """An error of libvirt's as the contract tells it; what is worth retrying stays what it is."""
    if lost(error):
        return LibvirtLost(f"libvirtd went away: {error}")
    if not_there(error):
        return LookupError(str(error))
    return Refused(str(error)) if error.get_error_code() in NEVER else error
