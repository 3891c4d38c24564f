"""What was programmed last, as a file for each VPC. It lives as long as the namespaces do: in /run.

It is never trusted where the kernel can be asked: it only saves reading the firewall back, and
only while the firewall's generation is the recorded one. Without it, all is programmed anew.
"""

import os
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from uuid import UUID

import orjson

from drivers.linux_plan import Publisher
from drivers.network import Topology


@dataclass(frozen=True, kw_only=True)
class Record:
    """`plugged` has the identity of the namespace that each port's interface was put into."""

    topology: Topology
    publisher: Publisher | None
    generation: int
    plugged: dict[str, int]


class Records:
    """The records in one folder. One that was read is kept until its file changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[int, Record]] = {}

    def read(self, name: str) -> Record | None:
        """The record, None also when it is of another version of this program."""
        try:
            written = os.stat(self._file(name)).st_mtime_ns
            known = self._known.get(name)
            if known is None or known[0] != written:
                record: Record = decoded(Record, orjson.loads(self._file(name).read_bytes()))
                known = self._known[name] = (written, record)
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None
        return known[1]

    def write(self, name: str, record: Record) -> None:
        if self.read(name) == record:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._file(name).with_suffix(".new")
        new.write_bytes(orjson.dumps(record, default=str))  # ids of the database are UUIDs of another class
        new.replace(self._file(name))
        self._known[name] = (os.stat(self._file(name)).st_mtime_ns, record)

    def remove(self, name: str) -> None:
        self._known.pop(name, None)
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"


@cache
def _hints(type: Any) -> dict[str, Any]:
    hints = get_type_hints(type)
    return {field.name: hints[field.name] for field in fields(type)}


def decoded(type: Any, value: Any) -> Any:
    """What JSON says, as that type."""
    if is_dataclass(type):
        made: Any = type
        return made(**{name: decoded(hint, value[name]) for name, hint in _hints(made).items()})
    if type is UUID:
        return UUID(value)
    if get_origin(type) is tuple:
        return tuple(decoded(get_args(type)[0], one) for one in value)
    if get_origin(type) in (dict, Literal):
        return value
    if get_args(type):  # X | None
        return None if value is None else decoded(get_args(type)[0], value)
    return value
