"""The drivers that the configuration names."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from drivers.contracts import ComputeDriver, Mailer, SupportsImageArchives
from drivers.linux_plan import External
from drivers.network import NetworkDriver
from drivers.objects import ObjectStore
from drivers.secrets import SecretStore
from drivers.volumes import VolumeDriver


@dataclass(frozen=True)
class Drivers:
    """One of each kind, for this host."""

    compute: Mapping[str, ComputeDriver]  # by name, the first choice first
    network: NetworkDriver
    volumes: VolumeDriver
    objects: ObjectStore
    mail: Mailer
    secrets: SecretStore
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    def starting(self, format: str) -> str | None:
        """The driver that starts images of this format."""
        return next((name for name, driver in self.compute.items() if format in driver.starts), None)

    @property
    def archives(self) -> SupportsImageArchives | None:
        """What has images of containers loaded into its engine."""
        return next((each for each in self.compute.values() if isinstance(each, SupportsImageArchives)), None)

    async def close(self) -> None:
        for close in self.closing:
            await close()


def load(
    *, compute: str, network: str, cloud_id: str, publish: str, external: str, data: Path, smtp_url: str,
    mail_from: str, volumes: str = "directory", ovn: Mapping[str, str] | None = None,
    libvirt: Mapping[str, Any] | None = None, rbd: Mapping[str, str] | None = None, objects: str = "files",
    s3: Mapping[str, str] | None = None, sealing_key: Path | None = None,
) -> Drivers:  # fmt: skip
    """The drivers by name; `compute` may have several. Raises LookupError for one that there is not, ValueError for a
    range that is none.

    `ovn`, `libvirt`, `rbd` and `s3` have what the drivers of these names are made with, such as where they connect to.
    """
    from drivers.mail import Outbox, Smtp

    known = {"docker": "DockerCompute", "libvirt": "LibvirtCompute"}
    settings: dict[str, Mapping[str, Any]] = {"docker": {"publish_address": publish}, "libvirt": libvirt or {}}
    computing: dict[str, Any] = {
        name: find("compute", name, known)(cloud_id, **settings[name]) for name in map(str.strip, compute.split(","))
    }
    networks = find("network", network, {"linux": "LinuxNetwork", "ovn": "OvnNetwork"})
    special = ovn or {} if network == "ovn" else {"publish_address": publish}
    networking = networks(cloud_id, External.of(external), **special)
    keeping = find("volumes", volumes, {"directory": "DirectoryVolumes", "rbd": "RbdVolumes"})
    folder = data / "volumes"
    disks = keeping(cloud_id, folder, **rbd or {}) if volumes == "rbd" else keeping(folder)
    storing = find("objects", objects, {"files": "FileObjects", "s3": "S3Objects"})
    store = storing(cloud_id, **s3 or {}) if objects == "s3" else storing(data / "objects")
    mail: Mailer = Smtp(smtp_url, mail_from) if smtp_url else Outbox(data / "outbox", mail_from)
    secrets = find("secrets", "sealed", {"sealed": "SealedSecrets"})(sealing_key or data / "sealing.key")
    closing = [*(each.close for each in computing.values()), *([networking.close] if network == "ovn" else []),
               *([store.close] if objects == "s3" else [])]  # fmt: skip
    return Drivers(computing, networking, disks, store, mail, secrets, closing)


def find(kind: str, name: str, known: dict[str, str]) -> Any:
    """The class of the driver: that of its module with this name."""
    if name not in known:
        raise LookupError(f"there is no {kind} driver {name!r}; there is {', '.join(known)}")
    try:
        return getattr(import_module(f"drivers.{name}"), known[name])
    except ModuleNotFoundError as error:
        raise LookupError(f"the {kind} driver {name!r} needs {error.name}: `make {name}` installs it") from None
