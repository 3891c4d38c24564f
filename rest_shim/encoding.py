"""Messages as the documented JSON, which is not quite proto3 JSON: names are snake_case, 64-bit
integers are numbers, enum values are spelt as documented, and a field without presence is always there.

An encoder is made once for each message descriptor: a generated function of straight-line attribute reads.
"""

import base64
from collections.abc import Callable
from ctypes import c_float
from datetime import date, timedelta
from functools import lru_cache
from keyword import iskeyword
from math import inf, isfinite
from typing import Any, cast

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from rest_shim.fields import NULL, WRAPPERS, kind_of, made_once, map_entry
from server import enums


def dumps(message: Message) -> bytes:
    """The message as JSON text."""
    descriptor: Any = message.DESCRIPTOR
    return orjson.dumps(encoder(descriptor)(message))


@made_once
def encoder(descriptor: Descriptor) -> Callable[[Any], Any]:
    """What turns such a message into plain data: dict, list, str, int, float, bool and None."""
    if special := ENCODERS.get(descriptor.full_name):
        return special
    scope: dict[str, Any] = {"double": _double, "single": _single, "text": _base64}
    if descriptor.file.name == WRAPPERS:
        source = f"def encode(m): return {_value(descriptor.fields[0], scope).format('m.value')}"
    else:
        lines = [line for field in descriptor.fields for line in _statements(field, scope)]
        source = "\n    ".join(["def encode(m):", "data = {}", *lines, "return data"])
    # Reads as one would write it by hand, for instance:
    #     data["name"] = m.name
    #     data["status"] = part_5[m.status]
    #     if (v := m.vpc_id) or m.HasField("vpc_id"): data["vpc_id"] = v
    exec(source, scope)  # noqa: S102 - the source is made of names in our descriptors
    return cast(Callable[[Any], Any], scope["encode"])


def _statements(field: FieldDescriptor, scope: dict[str, Any]) -> list[str]:
    """The source that copies one field from `m` to `data`."""
    name = field.name
    source = f'getattr(m, "{name}")' if iskeyword(name) else f"m.{name}"
    target = f'data["{name}"]'
    if entry := map_entry(field):
        key, item = entry.fields
        keys = {"string": "k", "bool": '"true" if k else "false"'}.get(kind_of(key), "str(k)")
        return [f"v = {source}; {target} = {{{keys}: {_value(item, scope).format('v[k]')} for k in v}} if v else {{}}"]
    value = _value(field, scope)
    if field.is_repeated:
        items = f"{source}[:]" if value == "{}" else f"[{value.format('v')} for v in {source}]"
        return [f"{target} = {items}"]
    if not field.has_presence:
        return [f"{target} = {value.format(source)}"]
    if field.message_type:
        return [f'if m.HasField("{name}"): {target} = {value.format(source)}']
    return [f'if (v := {source}) or m.HasField("{name}"): {target} = {value.format("v")}']


def _value(field: FieldDescriptor, scope: dict[str, Any]) -> str:
    """The source that turns one value, standing in the braces, into plain data."""
    part = f"part_{len(scope)}"
    if field.message_type:
        scope[part] = encoder(field.message_type)
        return f"{part}({{}})"
    if field.enum_type:
        if field.enum_type.full_name == NULL:
            return "None"
        scope[part] = _Spellings(enums.spellings(field.enum_type))
        return f"{part}[{{}}]"
    return {"double": "double({})", "float": "single({})", "bytes": "text({})"}.get(kind_of(field), "{}")


class _Spellings(dict[int, str | int]):
    """A number that has no name is spelt as the number."""

    def __missing__(self, number: int) -> int:
        return number


def _double(value: float) -> float | str:
    if -inf < value < inf:
        return value
    return "Infinity" if value > 0 else "-Infinity" if value < 0 else "NaN"


def _single(value: float) -> float | str:
    """The shortest decimal that is this 32-bit float."""
    for digits in (6, 7, 8):
        shorter = float(f"{value:.{digits}g}")
        if c_float(shorter).value == value:
            return _double(shorter)
    return _double(value)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


TWO_DIGITS = [f"{number:02}" for number in range(60)]


@lru_cache(1024)
def _day(days: int) -> str:
    return (date(1970, 1, 1) + timedelta(days)).isoformat()


def _timestamp(moment: Any) -> str:
    return _moment(moment.seconds, moment.nanos)


def moment(microseconds: int) -> str:
    """What is so long after 1970 began, as a Timestamp is written."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return _moment(seconds, 1000 * rest)


@lru_cache(8192)
def _moment(seconds: int, nanos: int) -> str:
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    fraction = _fraction(nanos) if nanos else ""
    return f"{_day(days)}T{TWO_DIGITS[hour]}:{TWO_DIGITS[minute]}:{TWO_DIGITS[second]}{fraction}Z"


def _fraction(nanos: int) -> str:
    """ ".5" as ".500": three, six or nine digits."""
    if not 0 <= nanos < 1_000_000_000:
        raise ValueError(f"{nanos} is not a fraction of a second")
    if nanos % 1_000_000 == 0:
        return f".{nanos // 1_000_000:03}"
    return f".{nanos // 1000:06}" if nanos % 1000 == 0 else f".{nanos:09}"


def _any(packed: Any) -> dict[str, Any]:
    """The message inside, beside its "@type"."""
    if not packed.type_url and not packed.value:
        return {}
    descriptor = packed.DESCRIPTOR.file.pool.FindMessageTypeByName(packed.type_url.rpartition("/")[2])
    data = encoder(descriptor)(GetMessageClass(descriptor).FromString(packed.value))
    return {"@type": packed.type_url} | ({"value": data} if has_own_form(descriptor) else data)


def _struct(struct: Any) -> dict[str, Any]:
    return {key: _json_value(value) for key, value in struct.fields.items()}


def _json_list(values: Any) -> list[Any]:
    return [_json_value(value) for value in values.values]


def _json_value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    inner = getattr(value, kind)
    if kind == "struct_value":
        return _struct(inner)
    if kind == "list_value":
        return _json_list(inner)
    if kind == "number_value" and not isfinite(inner):
        raise ValueError(f"{inner} is not a JSON number")
    return inner


ENCODERS: dict[str, Callable[[Any], Any]] = {
    "google.protobuf.Any": _any,
    "google.protobuf.Duration": lambda duration: duration.ToJsonString(),
    "google.protobuf.FieldMask": lambda mask: mask.ToJsonString(),
    "google.protobuf.ListValue": _json_list,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Value": _json_value,
}


def has_own_form(descriptor: Descriptor) -> bool:
    """Of a message that JSON does not write as an object of its fields."""
    return descriptor.full_name in ENCODERS or descriptor.file.name == WRAPPERS
