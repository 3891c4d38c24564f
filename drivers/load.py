"""The drivers that the configuration names."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from drivers.contracts import ComputeDriver, Mailer
from drivers.linux_plan import External
from drivers.network import NetworkDriver
from drivers.volumes import VolumeDriver


@dataclass(frozen=True)
class Drivers:
    """One of each kind, for this host."""

    compute: ComputeDriver
    compute_name: str
    network: NetworkDriver
    volumes: VolumeDriver
    mail: Mailer
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def close(self) -> None:
        for close in self.closing:
            await close()


def load(
    *, compute: str, network: str, cloud_id: str, publish: str, external: str, data: Path, smtp_url: str,
    mail_from: str, volumes: str = "directory", ovn: Mapping[str, str] | None = None,
    rbd: Mapping[str, str] | None = None,
) -> Drivers:  # fmt: skip
    """The drivers by name. Raises LookupError for one that there is not, ValueError for a range that is none.

    `ovn` has where OVN's databases are, for the driver of that name, and `rbd` how Ceph is reached.
    """
    from drivers.mail import Outbox, Smtp

    computing = find("compute", compute, {"docker": "DockerCompute"})(cloud_id, publish_address=publish)
    networks = find("network", network, {"linux": "LinuxNetwork", "ovn": "OvnNetwork"})
    special = ovn or {} if network == "ovn" else {"publish_address": publish}
    networking = networks(cloud_id, External.of(external), **special)
    keeping = find("volumes", volumes, {"directory": "DirectoryVolumes", "rbd": "RbdVolumes"})
    folder = data / "volumes"
    disks = keeping(cloud_id, folder, **rbd or {}) if volumes == "rbd" else keeping(folder)
    mail: Mailer = Smtp(smtp_url, mail_from) if smtp_url else Outbox(data / "outbox", mail_from)
    closing = [computing.close, *([networking.close] if network == "ovn" else [])]
    return Drivers(computing, compute, networking, disks, mail, closing)


def find(kind: str, name: str, known: dict[str, str]) -> Any:
    """The class of the driver: that of its module with this name."""
    if name not in known:
        raise LookupError(f"there is no {kind} driver {name!r}; there is {', '.join(known)}")
    try:
        return getattr(import_module(f"drivers.{name}"), known[name])
    except ModuleNotFoundError as error:
        raise LookupError(f"the {kind} driver {name!r} needs {error.name}: see requirements-{name}.lock") from None
