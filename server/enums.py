"""Enum values by their documented spelling, which is also what the database holds.

`STATE_RUNNING` of `State` is "RUNNING"; a value with the option `json` is spelt as that says.
"""

from functools import cache
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from thecloud.v1 import options_pb2

JSON: Any = options_pb2.json


@cache
def spellings(enum: EnumDescriptor) -> dict[int, str]:
    """The documented spelling of each number."""
    zero = enum.values_by_number.get(0)
    prefix = zero.name.removesuffix("UNSPECIFIED") if zero and zero.name.endswith("_UNSPECIFIED") else ""
    found: dict[int, str] = {}
    for value in enum.values:
        options = value.GetOptions()
        documented = options.HasExtension(JSON)
        text = options.Extensions[JSON] if documented else value.name.removeprefix(prefix)
        found.setdefault(value.number, text)
    return found


@cache
def numbers(enum: EnumDescriptor) -> dict[str, int]:
    """The number of each accepted name: the spelling, in its own, lower and upper case, and the proto name."""
    found = {text: number for number, text in spellings(enum).items()}
    for value in enum.values:
        text = spellings(enum)[value.number]
        for name in (value.name, text.lower(), text.upper()):
            found.setdefault(name, value.number)
    return found
