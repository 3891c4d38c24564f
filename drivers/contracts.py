"""What the control plane asks of the machinery below it.

A driver is three verbs over one kind of thing, and optional capabilities:

    apply(spec)   make it so, from whatever is there now; return what is there
    observe(id)   what is there now, or None
    delete(id)    have it gone; nothing there is success

Whatever a driver makes carries the id it was given in its name, so every call may be
repeated, by any process, after a crash at any point, without leaving a second one behind.
A driver opens no database and retries nothing: the reconciler that called it does. It
answers promptly: what takes minutes it starts, and a later call reports.

It raises `Refused` when the spec can never work (no such image), and lets any other
exception through: that is a failure worth retrying. What only some drivers can do is a
`Supports…` protocol, asked for with isinstance.

tests/drivers/contract.py is this text as tests; every driver passes it.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable
from uuid import UUID


class Refused(Exception):
    """The backend will not do this, however often it is asked. The text is shown to the user."""


class PortTaken(Refused):
    """A port of the host is in use."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} of the host is taken; choose another, or 0 to have one picked")
        self.port = port


Power = Literal["RUNNING", "PAUSED", "STOPPED"]


@dataclass(frozen=True)
class PortBinding:
    """A TCP port of the host that leads to one of the instance."""

    host: int
    container: int


@dataclass(frozen=True, kw_only=True)
class Wire:
    """What a virtual machine's interface depends on in the network that it is plugged into."""

    mtu: int | None = None  # None: the usual one
    offloads: bool = True  # whether what it sends may come without checksums, and is cut where it is too long


@dataclass(frozen=True)
class Attachment:
    """What an instance in a VPC is told of its network, which a network driver plugs it into."""

    address: str
    resolver: str  # of names, in the VPC
    domain: str  # under which it finds the VPC's instances
    # A virtual machine sets its interface up itself, and has to be told of the rest too.
    mac: str | None = None
    prefix_length: int | None = None
    gateway: str | None = None
    wire: Wire = Wire()


DiskFormat = Literal["qcow2", "raw"]


@dataclass(frozen=True, kw_only=True)
class BootDisk:
    """The disk that a virtual machine starts from: its own, which begins as the stored image at `path`.

    The image is never written to, and stays where it is as long as the instance exists.
    """

    path: str
    format: DiskFormat
    size_gb: int  # GiB; the disk grows to it when it is raised, and never shrinks


@dataclass(frozen=True, kw_only=True)
class Seed:
    """What cloud-init in a virtual machine is told at its first start, beside the network of its attachment."""

    hostname: str
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""  # "#cloud-config" or a script
    mounts: tuple[tuple[UUID, str], ...] = ()  # volumes, and where they are to be found


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A further disk of a virtual machine. Its serial number is the first 20 digits of the id."""

    id: UUID
    path: str
    format: DiskFormat
    device: str  # vdb to vdy: what the machine is asked to call it; the guest may not heed that
    read_only: bool = False


@dataclass(frozen=True)
class Mount:
    """A folder of the host, and where a container finds it."""

    folder: str
    path: str


@dataclass(frozen=True, kw_only=True)
class InstanceSpec:
    """One instance as it should be. Only its size, `power`, `name` and `volumes` change in an instance's life.

    With an `attachment` the driver gives the instance no network and no ports: where it runs is seen as `netns` or
    `tap`, and a network driver does both.

    `disk`, `seed` and `volumes` are for virtual machines; what runs containers does not look at them. A virtual
    machine needs a `disk`, and does not look at `env` and `cmd`.
    """

    id: UUID
    tenant_id: UUID
    name: str
    image: str
    vcpus: float
    memory_mb: int
    power: Power = "RUNNING"
    ports: tuple[PortBinding, ...] = ()
    env: tuple[str, ...] = ()  # "KEY=VALUE"
    cmd: tuple[str, ...] = ()  # empty: the image's own
    attachment: Attachment | None = None
    mounts: tuple[Mount, ...] = ()
    disk: BootDisk | None = None
    seed: Seed | None = None
    volumes: tuple[Volume, ...] = ()  # all of them: apply() attaches what is missing and detaches others


def hostname(name: str) -> str:
    """A legal host name made of an instance's name; empty where none can be."""
    return re.sub("[^a-z0-9]+", "-", name.lower())[:63].strip("-") if name.isascii() else ""


@dataclass(frozen=True, kw_only=True)
class InstanceSeen:
    """What is there. `power` is None while the backend is still getting there (pulling the image)."""

    power: Power | None
    private_ip: str | None = None
    backend_id: str | None = None  # the engine's own name for it
    exit_code: int | None = None  # of a STOPPED instance whose command ended; None when it never ran
    message: str | None = None  # what it is waiting for, to show the user
    netns: str | None = None  # while it runs with an attachment: the file of its network namespace, new at each start
    tap: str | None = None  # the same of a virtual machine: the host's end of its interface, new at each start
    vnc_port: int | None = None  # while it runs: where its screen is, on the host's loopback address


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Resource use now. Counters run since the instance started; None: the backend cannot tell."""

    cpu_percentage: float  # 100 is one whole processor
    memory_usage_bytes: int
    memory_limit_bytes: int
    network_rx_bytes: int | None = None
    network_tx_bytes: int | None = None
    disk_read_bytes: int | None = None
    disk_write_bytes: int | None = None
    cpu_time_nanoseconds: int | None = None


@dataclass(frozen=True)
class Capacity:
    """What a host has in all, in use or not."""

    vcpus: int
    memory_mb: int


class ComputeDriver(Protocol):
    """Runs the instances of one host."""

    starts: tuple[str, ...]  # formats of images: "container", "qcow2", "raw"

    async def apply(self, spec: InstanceSpec) -> InstanceSeen:
        """Make the instance, or bring the one there to its size and power. A stopped command is started again.

        Raises Refused when this host can never run it: no such image, a port that is taken, more
        processors than there are. Then nothing new is left behind.
        """
        ...

    async def observe(self, id: UUID) -> InstanceSeen | None:
        """What is there now; None when there is nothing."""
        ...

    async def delete(self, id: UUID) -> None:
        """Have it gone, running or not, with all that was made for it. Nothing there is success."""
        ...

    async def check(self, spec: InstanceSpec) -> None:
        """Raise Refused for what apply would refuse, as far as can be known within five seconds.

        Makes nothing, and never raises for what might work.
        """
        ...

    async def list(self) -> dict[UUID, InstanceSeen]:
        """Everything of this cloud that the backend has, by instance id; never what another cloud made."""
        ...

    async def capacity(self) -> Capacity:
        """What the host has. Raises when the backend does not answer: it is also the health check."""
        ...


@runtime_checkable
class SupportsStats(Protocol):
    """Can tell an instance's resource use."""

    async def stats(self, id: UUID) -> Stats:
        """The use of a RUNNING or PAUSED instance. Raises LookupError when there is none."""
        ...


@runtime_checkable
class SupportsLogs(Protocol):
    """Keeps what an instance's command wrote."""

    async def logs(self, id: UUID, tail: int) -> bytes:
        """The last `tail` lines, oldest first, 1 MiB at most. Raises LookupError when there is no instance."""
        ...


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line that an instance's command wrote, without its end."""

    at: datetime
    stream: Literal["stdout", "stderr"]
    text: bytes
    cut: bool = False  # it was longer: this is the beginning, 16 KiB or more of it


@dataclass(frozen=True)
class LogBatch:
    """Lines in the order they were written, and where the next ones begin."""

    lines: tuple[LogLine, ...]
    position: str  # for the driver only
    more: bool = False  # there are lines that did not fit


@runtime_checkable
class SupportsLogsSince(Protocol):
    """Can go on reading what an instance's command writes where it stopped before."""

    async def logs_since(self, id: UUID, position: str, most_bytes: int) -> LogBatch:
        """The next lines after the position of an earlier batch; "" is the beginning of what is kept.

        Calls that pass each batch's position to the next have every line once, in order, whether
        the instance runs, has stopped or was started again, unless the backend threw it away
        before it was asked for. Nothing new has the same position. A batch ends before it would
        exceed `most_bytes`, but has one line at least. Raises LookupError when there is no instance.
        """
        ...


@runtime_checkable
class SupportsEvents(Protocol):
    """Tells what happens to instances."""

    def events(self) -> AsyncIterator[UUID]:
        """The ids of instances as they start and end, whoever had them do so. Ends or raises when the backend goes."""
        ...


@runtime_checkable
class SupportsVolumes(Protocol):
    """Can give an instance disks, and take them away, while it runs.

    apply() does it too, for all of `InstanceSpec.volumes`; these do it for one, and leave the others.
    """

    async def attach_volume(self, id: UUID, volume: Volume) -> None:
        """Have the volume there. Raises LookupError when there is no instance, Refused when it cannot be.

        One that is there already is success.
        """
        ...

    async def detach_volume(self, id: UUID, volume_id: UUID) -> None:
        """Have it gone: nothing of the instance writes to it any longer. Not there is success, as is no instance.

        A guest that does not let go of it makes this fail, and it may be tried again.
        """
        ...


class Terminal(Protocol):
    """One open terminal inside an instance."""

    def output(self) -> AsyncIterator[bytes]:
        """What it prints, until it ends."""
        ...

    async def write(self, data: bytes) -> None:
        """Type."""
        ...

    async def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal its size."""
        ...

    async def close(self) -> None:
        """End it and the shell in it. May be repeated."""
        ...


@runtime_checkable
class SupportsConsole(Protocol):
    """Can open a terminal inside a running instance."""

    async def console(self, id: UUID) -> Terminal:
        """A shell of the instance's image; of a virtual machine its serial console, which the last who asked has alone.

        Raises LookupError when nothing runs, Refused when there is no shell.
        """
        ...


@runtime_checkable
class SupportsScreen(Protocol):
    """Can show the screen of a running instance, and take its keys and mouse."""

    async def screen(self, id: UUID) -> Terminal:
        """What goes to and fro is the Remote Framebuffer Protocol (RFC 6143). resize() does nothing.

        Raises LookupError when nothing runs.
        """
        ...


@runtime_checkable
class SupportsSnapshots(Protocol):
    """Can make an image of an instance, running or not."""

    def snapshot(self, id: UUID) -> AsyncIterator[bytes]:
        """A file with what is on the instance's own disk at this moment, from which others can start.

        What the instance has not written by then is not in it; it may stand still for that moment, and goes on
        meanwhile. Raises LookupError when there is no instance. Cut off, it leaves nothing that the next one, or
        delete(), does not remove.
        """
        ...


@dataclass(frozen=True)
class ImageArchive:
    """An archive of one container image that was looked into: what of it is to be loaded."""

    path: Path
    config: tuple[int, int]  # where in the file it begins, and its bytes
    layers: tuple[tuple[int, int], ...]  # the same, the lowest first


@runtime_checkable
class SupportsImageArchives(Protocol):
    """Can start instances from an archive of a container image, once it has loaded that."""

    def image_name(self, id: UUID) -> str:
        """What `InstanceSpec.image` calls the image of this id. No registry and no user has such a name."""
        ...

    async def load_image(self, id: UUID, archive: ImageArchive) -> bool:
        """Have the image loaded; whether it is there. Nothing else in the archive, such as names, has any effect.

        False: it is under way, to be asked again. Raises Refused for an archive that cannot be loaded.
        """
        ...

    async def remove_image(self, id: UUID) -> None:
        """Have the image gone. Nothing there is success; raises while an instance needs it."""
        ...

    async def list_images(self) -> set[UUID]:
        """All that this cloud has had loaded."""
        ...


class Mailer(Protocol):
    """Delivers mail."""

    async def send(self, id: UUID, to: str, subject: str, text: str) -> None:
        """Hand one message over for delivery; raises when that failed, and may then be repeated.

        `id` names the message: a repeat of it may arrive twice, or replace the first.
        """
        ...
