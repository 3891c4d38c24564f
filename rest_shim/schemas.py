"""JSON Schemas of messages, fields and enums: types from descriptors, limits from buf.validate, and the words
from the comments of the protos."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import protovalidate
import thecloud.v1
from buf.validate import validate_pb2
from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass

from server import enums

# Options are looked up by extensions, which generated stubs type as plain fields.
FIELD_RULES: Any = validate_pb2.field
FIELD_BEHAVIOR: Any = field_behavior_pb2.field_behavior

EMPTY = "google.protobuf.Empty"
RAW = "google.api.HttpBody"
INTEGER32, INTEGER64 = {"type": "integer", "format": "int32"}, {"type": "integer", "format": "int64"}
DOUBLE, FLOAT = {"type": "number", "format": "double"}, {"type": "number", "format": "float"}
NATURAL32, NATURAL64 = INTEGER32 | {"minimum": 0}, INTEGER64 | {"minimum": 0}
STRING, BYTES, BOOLEAN = {"type": "string"}, {"type": "string", "contentEncoding": "base64"}, {"type": "boolean"}
SCALARS: dict[int, dict[str, Any]] = {
    FieldDescriptor.TYPE_DOUBLE: DOUBLE,
    FieldDescriptor.TYPE_FLOAT: FLOAT,
    FieldDescriptor.TYPE_BOOL: BOOLEAN,
    FieldDescriptor.TYPE_STRING: STRING,
    FieldDescriptor.TYPE_BYTES: BYTES,
    FieldDescriptor.TYPE_INT32: INTEGER32,
    FieldDescriptor.TYPE_SINT32: INTEGER32,
    FieldDescriptor.TYPE_SFIXED32: INTEGER32,
    FieldDescriptor.TYPE_INT64: INTEGER64,
    FieldDescriptor.TYPE_SINT64: INTEGER64,
    FieldDescriptor.TYPE_SFIXED64: INTEGER64,
    FieldDescriptor.TYPE_UINT32: NATURAL32,
    FieldDescriptor.TYPE_FIXED32: NATURAL32,
    FieldDescriptor.TYPE_UINT64: NATURAL64,
    FieldDescriptor.TYPE_FIXED64: NATURAL64,
}
NUMBERS = {
    "float",
    "double",
    *(f"{kind}{size}" for kind in ("int", "uint", "sint", "fixed", "sfixed") for size in (32, 64)),
}
WELL_KNOWN: dict[str, dict[str, Any]] = {
    EMPTY: {"type": "object"},
    RAW: BYTES,
    "google.protobuf.Any": {"type": "object", "properties": {"@type": STRING}},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": STRING,
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Value": {},
    "google.protobuf.StringValue": STRING,
    "google.protobuf.BytesValue": BYTES,
    "google.protobuf.BoolValue": BOOLEAN,
    "google.protobuf.Int32Value": INTEGER32,
    "google.protobuf.Int64Value": INTEGER64,
    "google.protobuf.UInt32Value": NATURAL32,
    "google.protobuf.UInt64Value": NATURAL64,
    "google.protobuf.FloatValue": FLOAT,
    "google.protobuf.DoubleValue": DOUBLE,
}


@cache
def comment(full_name: str) -> str:
    """What the proto says above the message, field, enum, service or method of this name; "" when it says nothing."""
    return _comments().get(full_name, "")


@cache
def _comments() -> dict[str, str]:
    """All comments. An enum value is found below its enum: "thecloud.v1.Role.ROLE_OWNER"."""
    found: dict[str, str] = {}
    raw = Path(next(iter(thecloud.v1.__path__)), "descriptors.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(raw).file:
        for location in file.source_code_info.location:
            if location.leading_comments:
                part: Any = file
                names = [file.package]
                path = iter(location.path)
                for number in path:
                    field = part.DESCRIPTOR.fields_by_number.get(number)
                    index = next(path, None)
                    if field is None or index is None or not field.is_repeated:
                        break
                    part = getattr(part, field.name)[index]
                    names.append(getattr(part, "name", ""))
                else:
                    lines = (line.removeprefix(" ") for line in location.leading_comments.splitlines())
                    found[".".join(names)] = "\n".join(lines).strip()
    return found


class Schemas:
    """Makes schemas, and keeps those that have a name."""

    def __init__(self, services: list[ServiceDescriptor]) -> None:
        self.named: dict[str, Any] = {}
        methods = [method for service in services for method in service.methods]
        self.sent = _within(method.input_type for method in methods)
        self.returned = _within(method.output_type for method in methods)

    def message(self, message: Descriptor) -> dict[str, Any]:
        """The schema of a message, by name unless it is a well-known one."""
        if message.full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[message.full_name])
        name = name_of(message)
        if name not in self.named:
            self.named[name] = {}  # a message may be a part of itself
            self.named[name] = self.object(message, [])
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, message: Descriptor, without: list[str]) -> dict[str, Any]:
        """The schema of a message in full, without some of its fields."""
        fields = [field for field in message.fields if field.name not in without]
        needed = required(message)
        if message.full_name not in self.sent:
            needed = {field.name for field in fields if not field.has_presence}
        names = [field.name for field in fields if field.name in needed]
        schema = object_of({field.name: self.field(field) for field in fields}, names)
        return described(schema, comment(message.full_name))

    def field(self, field: FieldDescriptor) -> dict[str, Any]:
        """The schema of a field, with its limits and its comment."""
        options, holder = field.GetOptions(), field.containing_type
        rules = options.Extensions[FIELD_RULES]
        if rules.ignore == validate_pb2.IGNORE_ALWAYS:
            rules = validate_pb2.FieldRules()
        entry = field.message_type
        schema: dict[str, Any]
        if entry and entry.GetOptions().map_entry:
            key, value = entry.fields
            schema = {"type": "object", "additionalProperties": self.value(value, rules.map.values)}
            if names := _string_limits(rules.map.keys.string) if key.type == FieldDescriptor.TYPE_STRING else {}:
                schema["propertyNames"] = names
            schema |= _set(rules.map, min_pairs="minProperties", max_pairs="maxProperties")
        elif field.is_repeated:
            schema = {"type": "array", "items": self.value(field, rules.repeated.items)}
            schema |= _set(rules.repeated, min_items="minItems", max_items="maxItems", unique="uniqueItems")
        else:
            schema = self.value(field, rules)
        output_only = field_behavior_pb2.OUTPUT_ONLY in options.Extensions[FIELD_BEHAVIOR]
        if output_only:
            schema["readOnly"] = True
        if options.debug_redact:
            schema["format"] = "password"
            if not output_only and holder and holder.full_name not in self.returned:
                schema["writeOnly"] = True
        return described(schema, comment(field.full_name))

    def value(self, field: FieldDescriptor, rules: Any) -> dict[str, Any]:
        """The schema of one value of a field."""
        if field.message_type:
            return self.message(field.message_type)
        if field.enum_type:
            return self.enum(field.enum_type) | _enum_limits(field.enum_type, rules.enum)
        schema = dict(SCALARS[field.type])
        kind = rules.WhichOneof("type")
        if kind == "string":
            return schema | _string_limits(rules.string)
        if kind == "bytes":
            return schema
        return schema | (_number_limits(getattr(rules, kind)) if kind in NUMBERS else {})

    def enum(self, enum: EnumDescriptor) -> dict[str, Any]:
        """The schema of an enum, by name."""
        name = name_of(enum)
        if name not in self.named:
            said = {value.number: comment(f"{enum.full_name}.{value.name}") for value in enum.values}
            spelt = enums.spellings(enum)
            lines = [f"- `{spelt[number]}`: {' '.join(text.split())}" for number, text in said.items() if text]
            text = "\n".join([comment(enum.full_name), "", *lines]).strip()
            self.named[name] = described({"type": "string", "enum": list(spelt.values())}, text)
        return {"$ref": f"#/components/schemas/{name}"}


def _string_limits(rules: Any) -> dict[str, Any]:
    limits = _set(rules, min_len="minLength", max_len="maxLength", min_bytes="x-min-bytes", max_bytes="x-max-bytes")
    if rules.HasField("min_bytes"):
        limits.setdefault("minLength", -(-rules.min_bytes // 4))
    if rules.HasField("max_bytes"):
        limits.setdefault("maxLength", rules.max_bytes)
    if rules.HasField("len"):
        limits |= {"minLength": rules.len, "maxLength": rules.len}
    if rules.pattern:
        # JSON Schema has the syntax of ECMAScript, which puts braces around the name of a class: \p{L}.
        limits["pattern"] = re.sub(r"\\([pP])([A-Z])", r"\\\1{\2}", rules.pattern)
    if known := FORMATS.get(rules.WhichOneof("well_known") or ""):
        limits["format"] = known
    return limits | _choices(rules)


FORMATS = {name: name for name in ("uuid", "email", "hostname", "ipv4", "ipv6", "uri")} | {"uri_ref": "uri-reference"}


def _number_limits(rules: Any) -> dict[str, Any]:
    limits = _set(rules, gt="exclusiveMinimum", gte="minimum", lt="exclusiveMaximum", lte="maximum")
    return limits | _choices(rules)


def _choices(rules: Any) -> dict[str, Any]:
    choices = {"const": rules.const} if rules.HasField("const") else {}
    if allowed := getattr(rules, "in"):
        choices["enum"] = list(allowed)
    if rules.not_in:
        choices["not"] = {"enum": list(rules.not_in)}
    return choices


def _enum_limits(enum: EnumDescriptor, rules: Any) -> dict[str, Any]:
    """The spellings that are left, where there are fewer than all."""
    spelt = enums.spellings(enum)
    allowed = [rules.const] if rules.HasField("const") else list(getattr(rules, "in")) or list(spelt)
    left = [text for number, text in spelt.items() if number in allowed and number not in rules.not_in]
    return {"enum": left} if len(left) < len(spelt) else {}


def _set(rules: Any, **names: str) -> dict[str, Any]:
    """The rules that are set, by their names in JSON Schema."""
    return {name: getattr(rules, rule) for rule, name in names.items() if rules.HasField(rule)}


@cache
def required(message: Descriptor) -> set[str]:
    """The fields whose absence breaks a rule: what the validator finds missing in the empty message."""
    violations = protovalidate.collect_violations(GetMessageClass(message)())
    paths = (violation.proto.field for violation in violations)
    return {path.elements[0].field_name for path in paths if path and path.elements}


def _within(messages: Iterable[Descriptor]) -> set[str]:
    """The names of the messages, and of those that are parts of them."""
    found: set[str] = set()
    left = list(messages)
    while left:
        message = left.pop()
        if message.full_name not in found:
            found.add(message.full_name)
            left.extend(field.message_type for field in message.fields if field.message_type)
    return found


def name_of(part: Descriptor | EnumDescriptor) -> str:
    return part.full_name.removeprefix(f"{part.file.package}.")


def object_of(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def described(schema: dict[str, Any], text: str) -> dict[str, Any]:
    return schema | {"description": text} if text else schema
