"""What the file of an image is, found out from the file alone: a qcow2 or raw disk, or an archive of `docker save`.

Nobody's word is taken for it, and nothing that could lead to another file is opened: the beginning is read here, and
only what passes is shown to qemu-img, which runs in a sandbox and has to come to the same end.
"""

import os
import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from drivers.contracts import ImageArchive
from server import image_archive, sandbox
from server.errors import ApiError

Format = Literal["qcow2", "raw", "container"]
HEAD = 0x11000  # bytes, in which every signature begins
SECTOR = 512
MEMORY, SECONDS = 2**30, 60  # of one look
QCOW2_KNOWN = 0b11000  # incompatible features: compression type, extended L2 entries
QCOW2_DIRTY, QCOW2_CORRUPT, QCOW2_DATA_FILE = 1, 2, 4
BACKING_FORMAT, DATA_FILE, BITMAPS, FEATURES, ENCRYPTION = 0xE2792ACA, 0x44415441, 0x23852875, 0x6803F857, 0x0537BE77
TAKEN = "qcow2 and raw disks, and archives of `docker save`, are taken"
OTHERS: tuple[tuple[int, bytes, str], ...] = (  # offset, signature, what has it
    (0, b"KDMV", "a VMDK disk"), (0, b"COWD", "a VMDK disk"), (0, b"# Disk DescriptorFile", "a VMDK description"),
    (0, b"conectix", "a VHD disk"), (0, b"vhdxfile", "a VHDX disk"), (0x40, b"\x7f\x10\xda\xbe", "a VDI disk"),
    (0, b"QED\0", "a QED disk"), (0, b"Withou", "a Parallels disk"),
    (0, b"LUKS\xba\xbe", "an encrypted disk"), (0x8001, b"CD001", "an ISO 9660 disc"),
    (0, b"PK\x03\x04", "a zip archive"), (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\x1f\x8b", "packed with gzip: unpack it first"), (0, b"\xfd7zXZ\0", "packed with xz: unpack it first"),
    (0, b"BZh", "packed with bzip2: unpack it first"), (0, b"\x28\xb5\x2f\xfd", "packed with zstd: unpack it first"),
    (0, b"\x7fELF", "a program"), (0, b"hsqs", "a squashfs without a disk"),
)  # fmt: skip
FILE_SYSTEMS = ((1080, b"\x53\xef"), (0, b"XFSB"), (0x10040, b"_BHRfS_M"), (3, b"NTFS    "))


class BadImage(Exception):
    """The file is not one that is taken. The text says why, and what to do."""


@dataclass(frozen=True)
class Facts:
    """What a file is, and the bytes of the disk in it, or of the files in its layers."""

    format: Format
    virtual_size_bytes: int


async def examine(path: Path, most_disk_bytes: int) -> Facts:
    """What the file is. Raises BadImage; ApiError UNAVAILABLE when this host has no qemu-img."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size, head = os.fstat(file).st_size, os.pread(file, HEAD, 0)
        if not size:
            raise BadImage("the file is empty")
        if head[257:262] == b"ustar":
            found = await _look_into(file, most_disk_bytes)
            return Facts("container", found["unpacked"])
        for offset, signature, what in OTHERS:
            if head.startswith(signature, offset):
                raise BadImage(f"the file is {what}; {TAKEN}")
        kind: Format = "qcow2" if head.startswith(b"QFI\xfb") else "raw"
        virtual = read_qcow2(head, size) if kind == "qcow2" else read_raw(head, size)
        if virtual > most_disk_bytes:
            raise BadImage(f"the disk has {virtual} bytes; it may have {most_disk_bytes}, which is "
                           f"{most_disk_bytes / 2**30:g} GiB")  # fmt: skip
        await _ask_qemu(file, kind, virtual)
        return Facts(kind, virtual)
    finally:
        os.close(file)


async def archive_of(path: Path, most_unpacked_bytes: int) -> ImageArchive:
    """What of an archive is to be loaded. Raises BadImage."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = await _look_into(file, most_unpacked_bytes)
    finally:
        os.close(file)
    return ImageArchive(path, tuple(found["config"]), tuple(tuple(each) for each in found["layers"]))


async def _look_into(file: int, most: int) -> dict[str, Any]:
    program = (sys.executable, "-I", "-S", image_archive.__file__, str(file), str(most))
    try:
        ended = await sandbox.run(*program, file=file, memory=MEMORY, seconds=SECONDS * 2, as_nobody=False)
    except sandbox.TooMuch as reason:
        raise BadImage(f"the archive cannot be looked into: {reason}") from None
    if ended.code:
        raise BadImage("the archive cannot be looked into within the limits of time and memory")
    found: dict[str, Any] = orjson.loads(ended.output)
    if "refused" in found:
        raise BadImage(str(found["refused"]))
    return found


async def _ask_qemu(file: int, kind: Format, virtual: int) -> None:
    """Have qemu-img come to the same end, and a qcow2 be whole. Raises BadImage."""
    if shutil.which("qemu-img") is None:
        raise ApiError("UNAVAILABLE", "this host has no qemu-img to look at disks with; its operator can install it: "
                                      "`thecloud doctor --fix`")  # fmt: skip
    info = await _qemu(file, "info", "--output=json", "-U")
    if info.code:
        raise BadImage(f"qemu-img cannot read the file: {_words(info.errors, file)}")
    told = orjson.loads(info.output)
    if told["format"] != kind:
        raise BadImage(f"the file is of the format {told['format']}; {TAKEN}")
    data = told.get("format-specific", {}).get("data", {})
    if "backing-filename" in told or "data-file" in data or told.get("encrypted") or told["virtual-size"] != virtual:
        raise BadImage("the file needs another one, or its header says what is not so; convert it with `qemu-img "
                       "convert -O qcow2`")  # fmt: skip
    if kind == "qcow2":
        check = await _qemu(file, "check", "--output=json", "-U", "-f", "qcow2")
        if check.code not in (0, 3):  # 3: clusters that nothing refers to
            raise BadImage("the file is damaged or truncated: `qemu-img check` finds errors in it")


async def _qemu(file: int, *arguments: str) -> sandbox.Finished:
    command = ("qemu-img", *arguments, f"/dev/fd/{file}")
    try:
        return await sandbox.run(*command, file=file, memory=MEMORY, seconds=SECONDS, as_nobody=True)
    except sandbox.TooMuch as reason:
        raise BadImage(f"qemu-img cannot read the file: {reason}") from None


def _words(errors: str, file: int) -> str:
    return errors.replace(f"/dev/fd/{file}", "the file").removeprefix("qemu-img: ")[:300]


def read_qcow2(head: bytes, size: int) -> int:
    """The size of the disk that a qcow2 header tells. Raises BadImage for one that needs another file, or lies."""
    if len(head) < 104:
        raise BadImage("the file is truncated: it ends within its header")
    version, backing, _, bits, virtual, crypt, l1_entries, l1_at, refcounts_at, refcount_clusters, snapshots = (
        struct.unpack_from(">IQIIQIIQQII", head, 4)
    )
    if version not in (2, 3):
        raise BadImage(f"the file is a qcow of version {version}; convert it with `qemu-img convert -O qcow2`")
    incompatible, header_bytes = 0, 72
    if version == 3:
        incompatible, header_bytes = struct.unpack_from(">Q", head, 72)[0], struct.unpack_from(">I", head, 100)[0]
    convert = "flatten it with `qemu-img convert -O qcow2`"
    if backing:
        raise BadImage(f"the file has a backing file, without which it is not whole; {convert}")
    if incompatible & QCOW2_DATA_FILE:
        raise BadImage(f"the file keeps its data in another file; {convert}")
    if crypt:
        raise BadImage(f"the file is encrypted; {convert}")
    if snapshots:
        raise BadImage(f"the file has snapshots in it; {convert}")
    if incompatible & (QCOW2_DIRTY | QCOW2_CORRUPT):
        raise BadImage("the file is marked as not closed, or as damaged; repair it with `qemu-img check -r all`")
    if incompatible & ~QCOW2_KNOWN:
        raise BadImage("the file needs features that are not known here")
    if not 9 <= bits <= 21 or not 72 <= header_bytes <= 2**bits or not virtual:
        raise BadImage("the file's header says what cannot be")
    if l1_at + l1_entries * 8 > size or refcounts_at + (refcount_clusters << bits) > size or l1_at % 2**bits:
        raise BadImage("the file is truncated: its tables are not in it")
    for kind, _ in _extensions(head[: min(2**bits, HEAD)], header_bytes):
        if kind in (BACKING_FORMAT, DATA_FILE, ENCRYPTION):
            raise BadImage(f"the file refers to another file, or is encrypted; {convert}")
    return int(virtual)


def _extensions(head: bytes, at: int) -> list[tuple[int, int]]:
    """The header's extensions: their types and lengths."""
    found: list[tuple[int, int]] = []
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            return found
        found.append((kind, length))
        at += 8 + length + -length % 8
        if kind not in (BACKING_FORMAT, DATA_FILE, BITMAPS, FEATURES, ENCRYPTION) and len(found) > 16:
            break
    raise BadImage("the file's header has extensions without an end")


def read_raw(head: bytes, size: int) -> int:
    """The size of a raw disk. It needs a partition table, a file system or a boot sector, all of which is there.

    Raises BadImage.
    """
    if size % SECTOR:
        raise BadImage(f"the file is neither qcow2 nor whole sectors of {SECTOR} bytes; {TAKEN}")
    ends = next((end for read in (_gpt_end, _ext_end, _mbr_end, _other_end) if (end := read(head)) is not None), None)
    if ends is None:
        raise BadImage(f"the file has no partition table, no file system and no boot sector that is known; {TAKEN}")
    if ends > size:
        raise BadImage(f"the file is truncated: its partitions or file system end at byte {ends}, and it has {size}")
    return size


def _gpt_end(head: bytes) -> int | None:
    for sector in (512, 4096):
        if head.startswith(b"EFI PART", sector):
            return (int(struct.unpack_from("<Q", head, sector + 32)[0]) + 1) * sector
    return None


def _ext_end(head: bytes) -> int | None:
    if not head.startswith(b"\x53\xef", 1080):
        return None
    blocks = int(struct.unpack_from("<I", head, 1028)[0])
    shift = int(struct.unpack_from("<I", head, 1048)[0])
    return blocks * (1024 << min(shift, 20))


def _mbr_end(head: bytes) -> int | None:
    """Where the last partition ends; 0 for a boot sector without a table."""
    if not head.startswith(b"\x55\xaa", 510):
        return None
    entries = [head[at : at + 16] for at in range(446, 510, 16)]
    if any(entry[0] not in (0, 0x80) for entry in entries):
        return 0
    parts = [struct.unpack_from("<II", entry, 8) for entry in entries if entry[4]]
    return max(((first + count) * SECTOR for first, count in parts), default=0)


def _other_end(head: bytes) -> int | None:
    return 0 if any(head.startswith(signature, offset) for offset, signature in FILE_SYSTEMS) else None
