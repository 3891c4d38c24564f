"""The OpenAPI 3.1 description of the REST API, made from descriptors alone: routes from google.api.http, limits from
buf.validate, statuses from `(rest)`, rules from `(rule)`, and the words from the comments of the protos."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import protovalidate
import thecloud.v1
from buf.validate import validate_pb2
from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass
from thecloud.v1 import errors_pb2, options_pb2

from rest_shim.routes import Binding, bindings
from server import enums

# Options are looked up by extensions, which generated stubs type as plain fields.
FIELD_RULES: Any = validate_pb2.field
FIELD_BEHAVIOR: Any = field_behavior_pb2.field_behavior
RULE: Any = options_pb2.rule
REST: Any = options_pb2.rest
ERROR: Any = options_pb2.error

EMPTY = "google.protobuf.Empty"
RAW = "google.api.HttpBody"
FAILURES = {
    "400": ("BadRequest", "The request breaks a rule, or the resource is not in a state that allows the call."),
    "401": ("Unauthorized", "No credential, or one that is not valid."),
    "403": ("Forbidden", "A permission is missing, or a quota is used up."),
    "404": ("NotFound", "No such resource in the caller's tenant."),
    "429": ("TooManyRequests", "More calls than the rate limit allows. Try again after `Retry-After` seconds."),
    "default": ("Failure", "Any other failure."),
}
BINARY = {"*/*": {"schema": {"type": "string", "format": "binary"}}}


def document(
    services: Iterable[ServiceDescriptor],
    server_url: str = "/",
    body_limit: int = 1_048_576,
    deadline_seconds: float = 30,
) -> dict[str, Any]:
    """The whole description."""
    services = list(services)
    writer = _Writer(services)
    paths: dict[str, dict[str, Any]] = {}
    for binding, alias in _numbered(bindings(services)):
        path = re.sub(r"=\*\*\}", "}", binding.template)
        paths.setdefault(path, {}).setdefault(binding.verb.lower(), writer.operation(binding, alias))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "thecloud",
            "version": "v1",
            "description": (
                f"A request's body has at most {body_limit:,} bytes, raw bodies excepted, and an answer takes at most "
                f"{deadline_seconds:g} seconds, streams excepted. Calls are limited in rate; where a method has its "
                "own limit, `x-rate-limit` tells it. Every path is also served under `/api/v1`, where an answer comes "
                'as `{"data": …, "meta": {"request_id", "timestamp"}}`.'
            ),
        },
        "servers": [{"url": server_url}],
        "tags": [{"name": _tag(service), "description": comment(service.full_name)} for service in services],
        "security": [{"api_key": []}, {"bearer": []}],
        "x-body-limit": body_limit,
        "x-deadline-seconds": deadline_seconds,
        "paths": paths,
        "components": {
            "securitySchemes": {
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same API key."},
            },
            "parameters": {
                "TenantId": _header(
                    "X-Tenant-ID", "The tenant to act in, else the caller's default one.", format="uuid"
                ),
                "IdempotencyKey": _header(
                    "Idempotency-Key",
                    "A text of your choice. A repeated call with the same key changes nothing and gets the same reply.",
                    minLength=1,
                    maxLength=255,
                ),
            },
            "responses": {name: _failure(status, text) for status, (name, text) in FAILURES.items()},
            "schemas": dict(sorted(writer.schemas.items())) | {"Error": _error()},
        },
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


class _Writer:
    """Writes operations, and keeps the schemas that they name."""

    def __init__(self, services: list[ServiceDescriptor]) -> None:
        self.schemas: dict[str, Any] = {}
        methods = [method for service in services for method in service.methods]
        self.sent = _within(method.input_type for method in methods)
        self.returned = _within(method.output_type for method in methods)

    def operation(self, binding: Binding, alias: int) -> dict[str, Any]:
        """One way to call a method; `alias` is its number, 0 for the documented one."""
        method, text = binding.method, comment(binding.method.full_name)
        options = method.GetOptions()
        rule = options.Extensions[RULE]
        operation: dict[str, Any] = {
            "operationId": f"{method.name}_{alias}" if alias else method.name,
            "tags": [_tag(method.containing_service)],
            "summary": re.split(r"(?<=[.!?])\s", text.replace("\n", " "), maxsplit=1)[0].removesuffix("."),
            "description": text,
            "parameters": list(self._parameters(binding, rule)),
            "responses": self._responses(binding, options.Extensions[REST], rule),
        }
        if body := self._body(binding):
            operation["requestBody"] = body
        if rule.anyone:
            operation["security"] = []
        if alias:
            operation["x-alias-of"] = method.name
        extensions = {"x-permission": rule.permission, "x-audit": rule.audit, "x-quota": list(rule.quota)}
        if rule.HasField("rate_limit"):
            limit = rule.rate_limit
            key = enums.spellings(limit.DESCRIPTOR.fields_by_name["key"].enum_type)[limit.key].lower()
            extensions["x-rate-limit"] = {"per_minute": limit.per_minute, "key": key, "bucket": limit.bucket}
        return operation | {name: value for name, value in extensions.items() if value}

    def _parameters(self, binding: Binding, rule: Any) -> Iterator[dict[str, Any]]:
        fields = binding.method.input_type.fields_by_name
        for name in binding.names:
            parameter = {"name": name, "in": "path", "required": True} | self._parameter(fields[name])
            if f"{{{name}=**}}" in binding.template:
                parameter["x-many-segments"] = True
            yield parameter
        if not _upgrades(binding.method):
            required = _required(binding.method.input_type)
            for field in binding.query_fields():
                if not field.message_type or field.message_type.full_name in WELL_KNOWN:
                    needed = field.name in required
                    yield {"name": field.name, "in": "query", "required": needed} | self._parameter(field)
        if not rule.anyone:
            yield {"$ref": "#/components/parameters/TenantId"}
        if rule.audit:
            yield {"$ref": "#/components/parameters/IdempotencyKey"}

    def _parameter(self, field: FieldDescriptor) -> dict[str, Any]:
        schema = self.field(field)
        text = schema.pop("description", "")
        return {"schema": schema} | ({"description": text} if text else {})

    def _body(self, binding: Binding) -> dict[str, Any] | None:
        message = binding.method.input_type
        if not binding.body or _upgrades(binding.method):
            return None
        if binding.body != "*":
            field = message.fields_by_name[binding.body]
            if field.message_type and field.message_type.full_name == RAW:
                return {"required": True, "content": BINARY}
            return {"required": True, "content": _json(self.field(field))}
        schema = self.object(message, binding.names)
        name = _name(message)
        if self.schemas.setdefault(name, schema) == schema:
            schema = {"$ref": f"#/components/schemas/{name}"}
        return {"required": bool(_required(message) - {*binding.names}), "content": _json(schema)}

    def _responses(self, binding: Binding, rest: Any, rule: Any) -> dict[str, Any]:
        method = binding.method
        said = rest.message or rest.add_message
        with_message = _object({"message": {"type": "string", "const": said}}, ["message"])
        success: dict[str, Any] = {"description": "Success."}
        status = rest.status or (204 if method.output_type.full_name == EMPTY and not said else 200)
        if _upgrades(method):
            status, success = 101, {"description": "The connection becomes a WebSocket."}
        elif rest.message:
            success["content"] = _json(with_message)
        elif method.output_type.full_name == RAW:
            success["content"] = BINARY
        elif method.server_streaming:
            success["content"] = {"text/event-stream": {"schema": self.message(method.output_type)}}
        elif binding.response_body:
            success["content"] = _json(self.field(method.output_type.fields_by_name[binding.response_body]))
        elif rest.add_message:
            success["content"] = _json({"allOf": [self.message(method.output_type), with_message]})
        elif status != 204:
            success["content"] = _json(self.message(method.output_type))
        if "next_page_token" in method.output_type.fields_by_name:
            text = "The `page_token` of the next page; absent on the last one. `Link` has its address."
            success["headers"] = {"X-Next-Page-Token": {"description": text, "schema": {"type": "string"}}}
        responses = {str(status): success}
        for value, other in sorted(rest.status_by.items()):
            responses[str(other)] = success | {"description": f"`status` is {value}."}
        absent = {"401", "403"} if rule.anyone else set()
        if not binding.names:
            absent.add("404")
        failures = {code: name for code, (name, _) in FAILURES.items() if code not in absent}
        return responses | {code: {"$ref": f"#/components/responses/{name}"} for code, name in failures.items()}

    def message(self, message: Descriptor) -> dict[str, Any]:
        """The schema of a message, by name unless it is a well-known one."""
        if message.full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[message.full_name])
        name = _name(message)
        if name not in self.schemas:
            self.schemas[name] = {}  # a message may be a part of itself
            self.schemas[name] = self.object(message, [])
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, message: Descriptor, without: list[str]) -> dict[str, Any]:
        """The schema of a message in full, without some of its fields."""
        fields = [field for field in message.fields if field.name not in without]
        required = _required(message)
        if message.full_name not in self.sent:
            required = {field.name for field in fields if not field.has_presence}
        names = [field.name for field in fields if field.name in required]
        schema = _object({field.name: self.field(field) for field in fields}, names)
        return _described(schema, comment(message.full_name))

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
        return _described(schema, comment(field.full_name))

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
        name = _name(enum)
        if name not in self.schemas:
            said = {value.number: comment(f"{enum.full_name}.{value.name}") for value in enum.values}
            spelt = enums.spellings(enum)
            lines = [f"- `{spelt[number]}`: {' '.join(text.split())}" for number, text in said.items() if text]
            text = "\n".join([comment(enum.full_name), "", *lines]).strip()
            self.schemas[name] = _described({"type": "string", "enum": list(spelt.values())}, text)
        return {"$ref": f"#/components/schemas/{name}"}


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
def _required(message: Descriptor) -> set[str]:
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


def _numbered(found: Iterable[Binding]) -> Iterator[tuple[Binding, int]]:
    """Each binding with its number among those of its method."""
    seen: dict[str, int] = {}
    for binding in found:
        number = seen.get(binding.method.full_name, 0)
        seen[binding.method.full_name] = number + 1
        yield binding, number


def _upgrades(method: MethodDescriptor) -> bool:
    """Whether the method is a WebSocket over REST."""
    return bool(method.client_streaming and method.server_streaming)


def _tag(service: ServiceDescriptor) -> str:
    """ "InstanceTypeService" as "Instance Type"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", service.name.removesuffix("Service"))


def _name(part: Descriptor | EnumDescriptor) -> str:
    return part.full_name.removeprefix(f"{part.file.package}.")


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _described(schema: dict[str, Any], text: str) -> dict[str, Any]:
    return schema | {"description": text} if text else schema


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _header(name: str, text: str, **limits: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": text, "schema": {"type": "string", **limits}}


def _failure(status: str, text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    problem = {"schema": {"type": "object", "description": "RFC 9457, where `Accept` asks for it."}}
    response: dict[str, Any] = {
        "description": text,
        "content": {"application/json": {"schema": schema}, "application/problem+json": problem},
    }
    if status == "429":
        response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return response


def _error() -> dict[str, Any]:
    """The schema of a failure's body, with every code and every reason there is."""
    values = [value for value in errors_pb2.ErrorReason.DESCRIPTOR.values if value.number]
    codes = sorted({value.GetOptions().Extensions[ERROR].json for value in values})
    reasons = [value.name.removeprefix("ERROR_REASON_") for value in values]
    field = _object({"field": STRING, "description": STRING}, [])
    error = {
        "type": {"type": "string", "enum": codes},
        "code": {"type": "string", "enum": codes, "description": "The same as `type`."},
        "message": {"type": "string", "description": "What is wrong, and what to do next."},
        "reason": {"type": "string", "enum": reasons, "description": "The cause precisely; branch on it."},
        "metadata": {"type": "object", "additionalProperties": STRING, "description": "The values of the reason."},
        "fields": {"type": "array", "items": field, "description": "The fields that break a rule."},
    }
    meta = {"request_id": STRING, "timestamp": {"type": "string", "format": "date-time"}}
    return _object(
        {
            "error": _object(error, ["type", "code", "message", "reason"]),
            "meta": _object(meta, ["request_id", "timestamp"]),
        },
        ["error", "meta"],
    )
