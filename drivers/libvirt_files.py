"""The files of a virtual machine: a folder of its own, with its disk, its seed and what its console printed.

The disk is an overlay: what was not written yet is read from the stored image, which must stay. The seed is a
NoCloud volume for cloud-init (https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html).
"""

import io
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pycdlib

from drivers.contracts import Attachment, BootDisk, InstanceSpec, Refused, Seed, hostname

GIB = 2**30
PATIENCE = 60  # seconds for qemu-img to do what takes milliseconds


@dataclass(frozen=True)
class Files:
    """Where they are."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def seed(self) -> Path:
        return self.folder / "seed.iso"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def snapshot(self) -> Path:
        """A copy of the disk, while it is taken."""
        return self.folder / "snapshot.qcow2"

    def make(self, spec: InstanceSpec) -> None:
        """Have the files there that a first start needs. What was made before is left as it is."""
        assert spec.disk
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        if not self.disk.exists():
            new = self.disk.with_suffix(".new")
            image = ("-b", spec.disk.path, "-F", spec.disk.format)
            # -u: nothing of the image is opened, whatever it says it is.
            qemu_img("create", "-q", "-u", "-f", "qcow2", *image, str(new), str(spec.disk.size_gb * GIB))
            new.replace(self.disk)
        if not self.seed.exists():
            new = self.seed.with_suffix(".new")
            new.write_bytes(iso(seed(spec)))
            new.replace(self.seed)

    def grow(self, size: int) -> None:
        """Have the disk of a machine that does not run so many bytes large."""
        qemu_img("resize", "-q", "-f", "qcow2", str(self.disk), str(size))

    def remove(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)


def check(image: str, disk: BootDisk | None) -> None:
    """Raise Refused when no machine can start from it."""
    if disk is None:
        raise Refused(f"image {image} is not one of a disk, which a virtual machine starts from")
    if not Path(disk.path).is_file():
        raise Refused(f"image {disk.path} is not there")
    try:
        told: dict[str, Any] = json.loads(qemu_img("info", "-U", "--output=json", "-f", disk.format, disk.path))
    except RuntimeError as error:
        raise Refused(f"image {disk.path} is not in the format {disk.format}: {error}") from error
    if "backing-filename" in told or "data-file" in told.get("format-specific", {}).get("data", {}):
        raise Refused(f"image {disk.path} leads to another file")
    if told["virtual-size"] > disk.size_gb * GIB:
        needed = -(-told["virtual-size"] // GIB)
        raise Refused(f"the disk of this image has {needed} GiB, and one of {disk.size_gb} GiB is asked for")


def qemu_img(*arguments: str, patience: float = PATIENCE) -> str:
    done = subprocess.run(
        ["qemu-img", *arguments], capture_output=True, text=True, timeout=patience, env=os.environ | {"LC_ALL": "C"}
    )
    if done.returncode:
        raise RuntimeError(f"qemu-img {arguments[0]}: {done.stderr.strip()[:2000]}")
    return done.stdout


def seed(spec: InstanceSpec) -> dict[str, str]:
    """The files of the seed, in YAML; strings are quoted as JSON does it, which YAML reads too."""
    told = spec.seed or Seed(hostname=hostname(spec.name))
    meta_data = f"instance-id: {spec.id}\nlocal-hostname: {json.dumps(told.hostname)}\n"
    meta_data += f"public-keys: {json.dumps(told.ssh_keys)}\n" if told.ssh_keys else ""
    files = {"meta-data": meta_data, "user-data": told.user_data or "#cloud-config\n{}\n"}
    if spec.attachment:
        files["network-config"] = network_config(spec.attachment)
    if told.mounts:
        files["vendor-data"] = vendor_data(told.mounts)
    return files


def vendor_data(mounts: tuple[tuple[UUID, str], ...]) -> str:
    """What cloud-init adds to the user data: where the volumes are mounted, found by their serial numbers."""
    lines = (
        json.dumps([f"/dev/disk/by-id/virtio-{serial(id)}", path, "auto", "defaults,nofail"]) for id, path in mounts
    )
    return "#cloud-config\nmounts:\n" + "".join(f"- {line}\n" for line in lines)


def serial(id: UUID) -> str:
    """The serial number of a volume: virtio has room for twenty characters."""
    return id.hex[:20]


def network_config(attachment: Attachment) -> str:
    """Version 2, with the one interface found by its MAC."""
    return f"""version: 2
ethernets:
  eth0:
    match: {{macaddress: "{attachment.mac}"}}
    set-name: eth0
    addresses: ["{attachment.address}/{attachment.prefix_length}"]
    routes: [{{to: "0.0.0.0/0", via: "{attachment.gateway}"}}]
    nameservers: {{addresses: ["{attachment.resolver}"], search: ["{attachment.domain}"]}}
"""


def iso(files: dict[str, str]) -> bytes:
    image, written = pycdlib.PyCdlib(), io.BytesIO()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, text) in enumerate(files.items()):
        data = text.encode()
        image.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    image.write_fp(written)
    image.close()
    return written.getvalue()
