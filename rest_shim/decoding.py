"""The documented JSON as messages: strict about types, forgiving about what it does not know.

A decoder is made once for each message descriptor: a table of functions, one for each name a field goes by.
"""

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from math import inf, nan
from sys import float_info
from types import NoneType
from typing import Any, NoReturn, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from rest_shim.encoding import has_own_form
from rest_shim.fields import NULL, WRAPPERS, kind_of, made_once, map_entry
from server import enums

# A message nested deeper could not be read back from its binary form.
DEEPEST = 100


class Malformed(ValueError):
    """JSON that does not fit. `path` says where ("volumes[0].mount_path", "" for the whole), `message` what is
    wanted instead."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(path, message)
        self.path = path
        self.message = message

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def under(self, parent: str) -> "Malformed":
        """The same, seen from the object or list that holds it."""
        between = "." if self.path and not self.path.startswith("[") else ""
        return Malformed(f"{parent}{between}{self.path}", self.message)


# Decoding. A reader turns a JSON value into a field's value. A filler writes a JSON value into a message that is
# so many levels deep; a setter writes it into one field of it. All of them raise Malformed and nothing else.

Reader = Callable[[Any], Any]
Filler = Callable[[Any, Any, int], None]
Setter = Callable[[Any, Any, int], None]


@cache
def decoder(descriptor: Descriptor) -> Callable[[Any], Any]:
    """What turns parsed JSON into such a message. Raises Malformed, whatever the JSON is."""
    new, fill = GetMessageClass(descriptor), _filler(descriptor)

    def decode(data: Any) -> Any:
        message = new()
        fill(message, data, 0)
        return message

    return decode


def scalar(field: FieldDescriptor, text: str) -> Any:
    """What a text in a path or a query assigns to the field, or adds to it where it is repeated. A Timestamp is
    assigned as a datetime, a Duration as a timedelta; no other message has such a text. Raises Malformed."""
    try:
        if field.message_type:
            return _moment_or_time(field.message_type, text)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return _flag({"1": "true", "0": "false"}.get(text, text.lower()))
        read = _reader(field)
        return read(READERS["int32"](text) if field.enum_type and INTEGER.fullmatch(text) else text)
    except Malformed as error:
        raise error.under(field.name) from None


def _moment_or_time(descriptor: Descriptor, text: str) -> datetime | timedelta:
    if descriptor.full_name == "google.protobuf.Timestamp":
        return cast(datetime, decoder(descriptor)(text).ToDatetime(UTC))
    if descriptor.full_name == "google.protobuf.Duration":
        return cast(timedelta, decoder(descriptor)(text).ToTimedelta())
    _unwanted("an object", text)


@made_once
def _filler(descriptor: Descriptor) -> Filler:
    if special := FILLERS.get(descriptor.full_name):
        return special
    if descriptor.file.name == WRAPPERS:
        read = _reader(descriptor.fields[0])
        return lambda message, data, depth: setattr(message, "value", read(data))
    setters: dict[str, Setter] = {}
    for field in descriptor.fields:
        setters[field.json_name] = setters[field.name] = _setter(field)

    def fill(message: Any, data: Any, depth: int) -> None:
        _nested("an object", dict, data, depth)
        name = ""
        try:
            for name, value in data.items():
                if setter := setters.get(name):
                    setter(message, value, depth)
        except Malformed as error:
            raise error.under(name) from None

    return fill


def _setter(field: FieldDescriptor) -> Setter:
    setter = _plain_setter(field)
    oneof = field.containing_oneof
    if oneof is None or len(oneof.fields) == 1:
        return setter
    which, members = oneof.name, ", ".join(member.name for member in oneof.fields)

    def set_one(message: Any, value: Any, depth: int) -> None:
        if value is not None and message.WhichOneof(which):
            raise Malformed("", f"only one of {members} can be given")
        setter(message, value, depth)

    return set_one


def _plain_setter(field: FieldDescriptor) -> Setter:
    if entry := map_entry(field):
        return _map_setter(field.name, *entry.fields)
    if field.is_repeated:
        return _list_setter(field)
    name = field.name
    if field.message_type:
        fill = _filler(field.message_type)
        null_counts = field.message_type.full_name == "google.protobuf.Value"

        def set_message(message: Any, value: Any, depth: int) -> None:
            if value is not None or null_counts:
                part = getattr(message, name)
                part.SetInParent()
                fill(part, value, depth + 1)

        return set_message
    read = _reader(field)
    if field.enum_type and field.enum_type.full_name == NULL:
        return lambda message, value, depth: setattr(message, name, read(value))

    def set_scalar(message: Any, value: Any, depth: int) -> None:
        if value is not None:
            setattr(message, name, read(value))

    return set_scalar


def _list_setter(field: FieldDescriptor) -> Setter:
    name = field.name
    fill = _filler(field.message_type) if field.message_type else None
    read = None if field.message_type else _reader(field)

    def set_list(message: Any, value: Any, depth: int) -> None:
        if value is None:
            return
        _nested("a list", list, value, depth)
        items = getattr(message, name)
        before = len(items)
        try:
            for item in value:
                if fill:
                    fill(items.add(), item, depth + 1)
                elif read:
                    items.append(read(item))
        except Malformed as error:
            raise error.under(f"[{len(items) - before - bool(fill)}]") from None

    return set_list


def _map_setter(name: str, key_field: FieldDescriptor, value_field: FieldDescriptor) -> Setter:
    read_key = _flag if kind_of(key_field) == "bool" else _reader(key_field)
    fill = _filler(value_field.message_type) if value_field.message_type else None
    read = None if value_field.message_type else _reader(value_field)

    def set_map(message: Any, value: Any, depth: int) -> None:
        if value is None:
            return
        _nested("an object", dict, value, depth)
        items = getattr(message, name)
        text = ""
        try:
            for text, item in value.items():
                key = read_key(text)
                if fill:
                    fill(items[key], item, depth + 2)
                elif read:
                    items[key] = read(item)
        except Malformed as error:
            raise error.under(f"[{json.dumps(text)}]") from None

    return set_map


def _reader(field: FieldDescriptor) -> Reader:
    if field.enum_type:
        return _enum(field.enum_type)
    return READERS[kind_of(field)]


def _string(value: Any) -> str:
    if type(value) is not str:
        _unwanted("a string", value)
    if not value.isascii() and SURROGATE.search(value):
        raise Malformed("", "a string of whole characters is wanted, not half of a surrogate pair")
    return value


def _bool(value: Any) -> bool:
    if value is True or value is False:
        return value
    _unwanted("true or false", value)


def _flag(text: str) -> bool:
    """Of a text, such as a map's key."""
    if text in ("true", "false"):
        return text == "true"
    _unwanted("true or false", text, str)


def _integer(low: int, high: int) -> Reader:
    wanted = f"a whole number from {low} to {high}"

    def read(value: Any) -> int:
        if type(value) is int:
            number = value
        elif (type(value) is float and value.is_integer()) or (type(value) is str and INTEGER.fullmatch(value)):
            number = int(value)
        else:
            _unwanted(wanted, value, float)
        return number if low <= number <= high else _unwanted(wanted, value, int, float, str)

    return read


def _floating(largest: float) -> Reader:
    def read(value: Any) -> float:
        if type(value) is float and -largest <= value <= largest:
            return value
        if type(value) is str and value in NOT_FINITE:
            return NOT_FINITE[value]
        if type(value) not in (int, float) and not (type(value) is str and NUMBER.fullmatch(value)):
            _unwanted("a number", value)
        try:
            number = float(value)
        except OverflowError:
            number = inf
        return number if -largest <= number <= largest else _unwanted("a smaller number", value, int, float, str)

    return read


def _bytes(value: Any) -> bytes:
    if type(value) is str:
        text = value.rstrip("=").replace("-", "+").replace("_", "/")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError:  # binascii.Error, or not ASCII
            pass
    _unwanted("a string in base64", value, str)


def _enum(enum: EnumDescriptor) -> Reader:
    names = enums.numbers(enum)
    defined = enums.spellings(enum)
    wanted = "one of " + ", ".join(defined.values())
    if enum.full_name == NULL:
        names, wanted = {"NULL_VALUE": 0}, "null"

    def read(value: Any) -> int:
        if type(value) is str and (number := names.get(value, names.get(value.upper()))) is not None:
            return number
        if type(value) is int and value in defined:
            return value
        if type(value) is float and value in defined:
            return int(value)
        return 0 if value is None and wanted == "null" else _unwanted(wanted, value, str, int, float)

    return read


def _fill_timestamp(message: Any, data: Any, depth: int) -> None:
    match = MOMENT.fullmatch(data) if type(data) is str else None
    if not match:
        _unwanted('a moment such as "2026-01-05T23:00:00Z"', data, str)
    whole, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(whole + offset.replace("Z", "+00:00"))
    except ValueError:
        _unwanted('a moment such as "2026-01-05T23:00:00Z"', data, str)
    seconds = (moment - EPOCH) // timedelta(seconds=1)
    if not -62135596800 <= seconds <= 253402300799:
        _unwanted("a moment of the years 1 to 9999", data, str)
    message.seconds, message.nanos = seconds, int((fraction or "").ljust(9, "0"))


def _fill_duration(message: Any, data: Any, depth: int) -> None:
    match = DURATION.fullmatch(data) if type(data) is str else None
    if not match or int(match[2]) > 315_576_000_000:
        _unwanted('a duration in seconds such as "1.5s"', data, str)
    sign = -1 if match[1] else 1
    message.seconds, message.nanos = sign * int(match[2]), sign * int((match[3] or "").ljust(9, "0"))


def _fill_mask(message: Any, data: Any, depth: int) -> None:
    """Names of either style, separated by commas."""
    if text := _string(data):
        message.paths.extend(re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), text).split(","))


def _fill_any(message: Any, data: Any, depth: int) -> None:
    _nested("an object", dict, data, depth)
    if not data:
        return
    type_url = data.get("@type")
    try:
        descriptor = message.DESCRIPTOR.file.pool.FindMessageTypeByName(_string(type_url).rpartition("/")[2])
    except KeyError:
        raise Malformed("@type", "the name of a known message type is wanted") from None
    except Malformed as error:
        raise error.under("@type") from None
    part = GetMessageClass(descriptor)()
    if not has_own_form(descriptor):
        _filler(descriptor)(part, {name: value for name, value in data.items() if name != "@type"}, depth + 1)
    else:
        try:
            _filler(descriptor)(part, data.get("value"), depth + 1)
        except Malformed as error:
            raise error.under("value") from None
    message.type_url, message.value = type_url, part.SerializePartialToString(deterministic=True)


def _fill_struct(message: Any, data: Any, depth: int) -> None:
    _nested("an object", dict, data, depth)
    name = ""
    try:
        for name, value in data.items():
            _fill_value(message.fields[_string(name)], value, depth + 2)
    except Malformed as error:
        raise error.under(f"[{json.dumps(name)}]") from None


def _fill_list(message: Any, data: Any, depth: int) -> None:
    _nested("a list", list, data, depth)
    try:
        for value in data:
            _fill_value(message.values.add(), value, depth + 1)
    except Malformed as error:
        raise error.under(f"[{len(message.values) - 1}]") from None


def _fill_value(message: Any, data: Any, depth: int) -> None:
    if data is None:
        message.null_value = 0
    elif data is True or data is False:
        message.bool_value = data
    elif type(data) is str:
        message.string_value = _string(data)
    elif isinstance(data, dict):
        message.struct_value.SetInParent()
        _fill_struct(message.struct_value, data, depth + 1)
    elif isinstance(data, list):
        message.list_value.SetInParent()
        _fill_list(message.list_value, data, depth + 1)
    else:
        message.number_value = READERS["double"](data)


def _nested(wanted: str, kind: type, value: Any, depth: int) -> None:
    if not isinstance(value, kind):
        _unwanted(wanted, value)
    if depth > DEEPEST:
        raise Malformed("", "this is nested too deeply")


def _unwanted(wanted: str, value: Any, *usual: type) -> NoReturn:
    """Says what is wanted and, where that is of another type, what there is."""
    there = {NoneType: "null", str: "a string", bool: "a boolean", list: "a list", dict: "an object"}
    other = "" if type(value) in usual else f", not {there.get(type(value), 'a number')}"
    raise Malformed("", f"{wanted} is wanted{other}")


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
DURATION = re.compile(r"(-)?(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
INTEGER = re.compile(r"-?\d{1,20}", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NOT_FINITE = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}
SURROGATE = re.compile("[\ud800-\udfff]")

READERS: dict[str, Reader] = {
    "int32": _integer(-(2**31), 2**31 - 1),
    "int64": _integer(-(2**63), 2**63 - 1),
    "uint32": _integer(0, 2**32 - 1),
    "uint64": _integer(0, 2**64 - 1),
    "float": _floating(float.fromhex("0x1.fffffefffffffp+127")),  # the largest that does not round to infinity
    "double": _floating(float_info.max),
    "bool": _bool,
    "string": _string,
    "bytes": _bytes,
}

FILLERS: dict[str, Filler] = {
    "google.protobuf.Any": _fill_any,
    "google.protobuf.Duration": _fill_duration,
    "google.protobuf.FieldMask": _fill_mask,
    "google.protobuf.ListValue": _fill_list,
    "google.protobuf.Struct": _fill_struct,
    "google.protobuf.Timestamp": _fill_timestamp,
    "google.protobuf.Value": _fill_value,
}
