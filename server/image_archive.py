"""An archive of `docker save`, looked at without unpacking it: what of it is to be loaded, and whether it may.

This imports nothing but the standard library, and is run as a program of its own (see image_formats.py): it reads the
open descriptor that its argument names, and prints what it found as JSON.
"""

import json
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

MOST_LAYERS = 127  # the engine's own limit
MOST_ENTRIES = 10_000  # of the archive itself
MOST_FILES = 500_000  # of all layers
MANIFEST_BYTES, CONFIG_BYTES = 2**20, 4 * 2**20
LONGEST_NAME = 64 * 1024  # bytes of the data of an extended header
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
FILE, FOLDER = b"0\07", b"5"  # type flags


class Refused(Exception):
    """The archive is not one that is loaded; the text says why."""


class Entry(NamedTuple):
    """One entry of a tar: its type flag, and where its data are."""

    name: str
    type: int
    offset: int
    size: int


class Source(Protocol):
    """Bytes in order."""

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end."""
        ...

    def skip(self, size: int) -> None: ...

    def tell(self) -> int: ...


@dataclass
class Slice:
    """A part of an open file."""

    file: int
    at: int
    end: int

    def read(self, size: int) -> bytes:
        data = os.pread(self.file, min(size, self.end - self.at), self.at)
        self.at += len(data)
        return data

    def skip(self, size: int) -> None:
        if size > self.end - self.at:
            raise Refused("an archive breaks off: it is truncated")
        self.at += size

    def tell(self) -> int:
        return self.at


class Gunzipped:
    """What a gzip file unpacks to, `most` bytes of it."""

    def __init__(self, packed: Slice, most: int) -> None:
        self._packed, self._most = packed, most
        self._unpacker = zlib.decompressobj(wbits=31)
        self._held, self._input, self._at = b"", b"", 0

    def read(self, size: int) -> bytes:
        parts = []
        while size and (data := self._some(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        while size:
            data = self._some(size)
            if not data:
                raise Refused("a layer breaks off: it is truncated")
            size -= len(data)

    def tell(self) -> int:
        return self._at

    def _some(self, most: int) -> bytes:
        while not self._held:
            ended = self._unpacker.eof
            self._input = (self._unpacker.unused_data if ended else self._input) or self._packed.read(65536)
            if ended and not self._input:
                return b""
            if not self._input:
                raise Refused("a layer breaks off: its gzip is truncated")
            if ended:  # another one follows, which engines unpack too
                self._unpacker = zlib.decompressobj(wbits=31)
            try:
                self._held = self._unpacker.decompress(self._input, 2**20)
            except zlib.error as error:
                raise Refused(f"a layer is not the gzip that it seems to be: {error}") from None
            self._input = self._unpacker.unconsumed_tail
        data, self._held = self._held[:most], self._held[most:]
        self._at += len(data)
        if self._at > self._most:
            raise Refused(f"the layers unpack to more than {self._most} bytes")
        return data


def entries(source: Source) -> Iterator[Entry]:
    """The entries of a tar. Whoever iterates may read the data of the last one from the source."""
    long_name, extended = "", dict[str, str]()
    while True:
        block = source.read(512)
        if len(block) < 512:
            raise Refused("an archive breaks off: it is truncated")
        if not any(block):
            return
        if sum(block) - sum(block[148:156]) + 8 * 32 != _number(block[148:156]):
            raise Refused("an archive is damaged: a header's checksum is wrong")
        size, type = _number(block[124:136]), block[156:157]
        if type in (b"x", b"g", b"L", b"K"):
            if size > LONGEST_NAME:
                raise Refused("an archive has an extended header of an absurd size")
            data = source.read(size)
            if len(data) < size:
                raise Refused("an archive breaks off: it is truncated")
            source.skip(-size % 512)
            if type == b"L":
                long_name = _text(data)
            elif type != b"K":
                found = _records(data)
                if any(name.startswith("GNU.sparse") for name in found) or (type == b"g" and "size" in found):
                    raise Refused("an archive has sparse files; save it without")
                extended |= found if type == b"x" else {}
            continue
        if type == b"S":
            raise Refused("an archive has sparse files; save it without")
        if "size" in extended:
            if not extended["size"].isdecimal():
                raise Refused("an archive is damaged: a size is no number")
            size = int(extended["size"])
        name, prefix = _text(block[:100]), _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
        name = extended.get("path") or long_name or (f"{prefix}/{name}" if prefix else name)
        size = size if type in (b"0", b"\0", b"7") else 0
        at = source.tell()
        yield Entry(name, type[0], at, size)
        source.skip(size + -size % 512 - (source.tell() - at))
        long_name, extended = "", {}


def _number(field: bytes) -> int:
    """A number as tar writes it: octal digits, or base 256 after a first byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise Refused("an archive is damaged: a header has no numbers where they belong")
    return int(digits, 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")


def _records(data: bytes) -> dict[str, str]:
    """The records of an extended header: "<length> <name>=<value>\\n" each."""
    found, at = dict[str, str](), 0
    while at < len(data):
        length, _, _ = data[at : at + 20].partition(b" ")
        if not length.isdigit() or int(length) < len(length) + 3:
            raise Refused("an archive is damaged: an extended header is none")
        name, _, value = data[at + len(length) + 1 : at + int(length)].removesuffix(b"\n").partition(b"=")
        found[name.decode(errors="replace")] = value.decode(errors="replace")
        at += int(length)
    return found


def examine(file: int, most: int) -> dict[str, Any]:
    """Where the config and the layers are, in order: [offset, size] each; and what they unpack to. Raises Refused."""
    there: dict[str, Entry] = {}
    for number, entry in enumerate(entries(Slice(file, 0, os.fstat(file).st_size))):
        name = entry.name.removeprefix("./").rstrip("/")
        if number >= MOST_ENTRIES:
            raise Refused(f"the archive has more than {MOST_ENTRIES} entries")
        if entry.type not in FILE + FOLDER:
            raise Refused(f"{_short(name)} in the archive is a link or a device; only files are loaded: save the image "
                          "again with a newer engine")  # fmt: skip
        if name.startswith("/") or ".." in name.split("/"):
            raise Refused(f"the archive has an entry that leads out of it: {_short(name)}")
        if name in there and entry.type in FILE:
            raise Refused(f"the archive has {_short(name)} twice")
        there[name] = entry
    manifest = _json(file, there, "manifest.json", MANIFEST_BYTES)
    if not isinstance(manifest, list) or len(manifest) != 1 or not isinstance(manifest[0], dict):
        raise Refused("manifest.json is not about one image; save one image at a time")
    config_name, layer_names = manifest[0].get("Config"), manifest[0].get("Layers")
    if not isinstance(config_name, str) or not isinstance(layer_names, list):
        raise Refused("manifest.json names no config and layers")
    if not 1 <= len(layer_names) <= MOST_LAYERS:
        raise Refused(f"the image has {len(layer_names)} layers; it may have 1 to {MOST_LAYERS}")
    config = _json(file, there, config_name, CONFIG_BYTES)
    ids = config.get("rootfs", {}).get("diff_ids") if isinstance(config, dict) else None
    if not isinstance(ids, list) or len(ids) != len(layer_names) or config.get("os") != "linux":
        raise Refused("the config is not that of a Linux image with these layers")
    layers = [_file(there, name) for name in layer_names]
    unpacked = _unpacked(file, layers, most)
    return {"config": _place(_file(there, config_name)), "layers": [_place(each) for each in layers],
            "unpacked": unpacked}  # fmt: skip


def _unpacked(file: int, layers: list[Entry], most: int) -> int:
    """How many bytes the files of all layers have."""
    total, files = 0, 0
    for layer in layers:
        whole = Slice(file, layer.offset, layer.offset + layer.size)
        magic = os.pread(file, 4, layer.offset)
        if magic == ZSTD:
            raise Refused("a layer is packed with zstd; save it with gzip or as it is")
        source = Gunzipped(whole, most) if magic.startswith(GZIP) else whole
        for entry in entries(source):
            total, files = total + entry.size, files + 1
            if total > most:
                raise Refused(f"the layers unpack to more than {most} bytes")
            if files > MOST_FILES:
                raise Refused(f"the layers have more than {MOST_FILES} files")
        while source.read(2**16):  # what follows on the end of the tar is unpacked, though not written
            pass
    return total


def _file(there: dict[str, Entry], name: object) -> Entry:
    entry = there.get(name) if isinstance(name, str) else None
    if entry is None or entry.type not in FILE:
        raise Refused(f"manifest.json names {_short(str(name))}, which is not in the archive")
    return entry


def _json(file: int, there: dict[str, Entry], name: str, most: int) -> Any:
    if name == "manifest.json" and name not in there:
        raise Refused("this is a tar without manifest.json, which `docker save` writes")
    entry = _file(there, name)
    if entry.size > most:
        raise Refused(f"{_short(name)} has more than {most} bytes")
    try:
        return json.loads(os.pread(file, entry.size, entry.offset))
    except (ValueError, RecursionError):
        raise Refused(f"{_short(name)} is not JSON") from None


def _place(entry: Entry) -> list[int]:
    return [entry.offset, entry.size]


def _short(name: str) -> str:
    return repr(name[:100])


def main() -> None:
    """`python image_archive.py FILE MOST`: of the open descriptor FILE, whose layers may unpack to MOST bytes."""
    try:
        found = examine(int(sys.argv[1]), int(sys.argv[2]))
    except Refused as refusal:
        found = {"refused": str(refusal)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
