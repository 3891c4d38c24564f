"""Files of images: honest ones, and those that are none. Made by the programs that make them, or byte by byte."""

import gzip
import hashlib
import io
import json
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any


def qemu_img(*arguments: str, folder: Path) -> None:
    subprocess.run(["qemu-img", *arguments], cwd=folder, check=True, capture_output=True)


def qcow2(folder: Path, name: str = "disk.qcow2", size: str = "64M", megabytes: int = 2) -> Path:
    """A disk with so much written to it."""
    qemu_img("create", "-q", "-f", "qcow2", name, size, folder=folder)
    if megabytes:
        write = ["qemu-io", "-f", "qcow2", "-c", f"write -P 65 0 {megabytes}M", name]
        subprocess.run(write, cwd=folder, check=True, capture_output=True)
    return folder / name


def boot_sector(sectors: int) -> bytes:
    """The first sector of a disk with one partition that takes all of it."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\0" * 3, 0x83, b"\0" * 3, 1, sectors - 1)
    return b"\0" * 446 + entry + b"\0" * 48 + b"\x55\xaa"


def raw(megabytes: int = 1) -> bytes:
    return boot_sector(megabytes * 2048) + b"A" * (megabytes * 2**20 - 512)


def layer(*files: tuple[str, bytes]) -> bytes:
    """A tar of these files."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def archive(
    *layers: bytes, tags: tuple[str, ...] = ("stranger:latest",), extra: tuple[tarfile.TarInfo, ...] = (),
    manifest: Any = None, **config: Any,
) -> bytes:  # fmt: skip
    """What `docker save` would write of an image with these layers; those that are no gzip need a `rootfs`."""
    honest = () if "rootfs" in config else layers
    unpacked = [gzip.decompress(each) if each.startswith(b"\x1f\x8b") else each for each in honest]
    ids = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in unpacked]
    about = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/hello"]},
             "rootfs": {"type": "layers", "diff_ids": ids}} | config  # fmt: skip
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    listed = [{"Config": "config.json", "RepoTags": list(tags), "Layers": names}] if manifest is None else manifest
    files = {**dict(zip(names, layers, strict=True)), "config.json": json.dumps(about).encode(),
             "manifest.json": json.dumps(listed).encode()}  # fmt: skip
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for entry in extra:
            tar.addfile(entry)
        for name, content in files.items():
            if name not in {each.name for each in extra}:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def zipped() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed:
        packed.writestr("disk.qcow2", b"QFI\xfb" + b"\0" * 4096)
    return written.getvalue()
