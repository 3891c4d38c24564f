"""Rows as messages: the fields that a message has a column's value for, in one generated function for each message.

A constructor with keywords takes twice as long: it goes through dicts for maps and moments.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from server import enums

EPOCH = datetime.fromtimestamp(0, UTC)


@cache
def builder(message: type[Message]) -> Callable[[Mapping[str, Any]], Any]:
    """What makes such a message of values by name. None, and a name that is not there, leave a field out."""
    scope: dict[str, Any] = {"new": message, "moment": _moment}
    lines = ["def build(values):", "m = new()", "get = values.get"]
    for field in message.DESCRIPTOR.fields:
        lines.append(f'if (v := get("{field.name}")) is not None: {_assignment(field, scope)}')
    # Reads as one would write it by hand, for instance:
    #     if (v := get("name")) is not None: m.name = v
    #     if (v := get("status")) is not None: m.status = status[v]
    exec("\n    ".join([*lines, "return m"]), scope)  # noqa: S102 - the source is made of names in our descriptors
    return cast(Callable[[Mapping[str, Any]], Any], scope["build"])


def _assignment(field: Any, scope: dict[str, Any]) -> str:
    """The source that puts the value `v` into one field of `m`."""
    target = f"m.{field.name}"
    if field.message_type and field.message_type.GetOptions().map_entry:
        return f"\n        for k in v: {target}[k] = v[k]"
    if field.is_repeated:
        return f"{target}.extend(v)"
    if field.enum_type:
        scope[field.name] = enums.numbers(field.enum_type)
        return f"{target} = {field.name}[v]"
    if field.message_type:
        kind = field.message_type.full_name
        return f"moment({target}, v)" if kind == Timestamp.DESCRIPTOR.full_name else f"{target}.MergeFrom(v)"
    return f"{target} = str(v)" if field.type == FieldDescriptor.TYPE_STRING else f"{target} = v"


def _moment(timestamp: Any, moment: datetime) -> None:
    since = moment - EPOCH
    timestamp.seconds = since.days * 86400 + since.seconds
    timestamp.nanos = since.microseconds * 1000
