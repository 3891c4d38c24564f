"""The OpenAPI 3.1 description of the REST API, made from descriptors alone: routes from google.api.http, limits from
buf.validate, statuses from `(rest)`, rules from `(rule)`, and the words from the comments of the protos."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from thecloud.v1 import errors_pb2, options_pb2

from rest_shim import streams, uploads
from rest_shim.routes import Binding, bindings, query_name
from rest_shim.schemas import EMPTY, RAW, STRING, WELL_KNOWN, Schemas, comment, name_of, object_of, required
from server import enums

# Options are looked up by extensions, which generated stubs type as plain fields.
RULE: Any = options_pb2.rule
REST: Any = options_pb2.rest
ERROR: Any = options_pb2.error

FAILURES = {
    "400": ("BadRequest", "The request breaks a rule, or the resource is not in a state that allows the call."),
    "401": ("Unauthorized", "No credential, or one that is not valid."),
    "403": ("Forbidden", "A permission is missing, or a quota or the budget is used up."),
    "404": ("NotFound", "No such resource in the caller's tenant."),
    "429": ("TooManyRequests", "More calls than the rate limit allows. Try again after `Retry-After` seconds."),
    "default": ("Failure", "Any other failure."),
}
DRY_RUN_HINT = "Check everything and change nothing: the answer is the one the call would have had."
BINARY = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
HEADS: dict[int, dict[str, Any]] = {  # answers that begin with a Head of another status than the usual one
    206: {"description": "The part that `Range` asks for; `Content-Range` says which it is.", "content": BINARY},
    304: {"description": "It is what the client has already."},
}


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
                f"{deadline_seconds:g} seconds, or its `x-deadline-seconds`, streams excepted. Calls are limited in "
                "rate; where a method has its own limit, `x-rate-limit` tells it. Every path is also served under "
                '`/api/v1`, where an answer comes as `{"data": …, "meta": {"request_id", "timestamp"}}`.'
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
                "ContentRange": _header(
                    "Content-Range",
                    "Which part of the file is sent, and the size of the whole: `bytes 1000-1999/2000`.",
                    pattern=r"^bytes [0-9]+-[0-9]+/[0-9]+$",
                ),
                "LastEventId": _header(
                    "Last-Event-ID", "The `id` of the last event that came, to go on after it, as `resume_token` says."
                ),
            },
            "responses": {name: _failure(status, text) for status, (name, text) in FAILURES.items()},
            "schemas": dict(sorted(writer.schemas.named.items())) | {"Error": _error()},
        },
    }


class _Writer:
    """Writes operations, and keeps the schemas that they name."""

    def __init__(self, services: list[ServiceDescriptor]) -> None:
        self.schemas = Schemas(services)

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
        extensions["x-deadline-seconds"] = rule.deadline_seconds
        return operation | {name: value for name, value in extensions.items() if value}

    def _parameters(self, binding: Binding, rule: Any) -> Iterator[dict[str, Any]]:
        fields = binding.method.input_type.fields_by_name
        for name in binding.names:
            parameter = {"name": name, "in": "path", "required": True} | self._parameter(fields[name])
            if f"{{{name}=**}}" in binding.template:
                parameter["x-many-segments"] = True
            yield parameter
        if not _upgrades(binding.method):
            needed_names = required(binding.method.input_type)
            for field in binding.query_fields():
                if not field.message_type or field.message_type.full_name in WELL_KNOWN:
                    needed = field.name in needed_names
                    yield {"name": query_name(field), "in": "query", "required": needed} | self._parameter(field)
        for name, field in binding.header_fields().items():
            if name.lower() != "content-type":  # which OpenAPI has in the body's description
                yield {"name": name, "in": "header"} | self._parameter(field)
        if binding.dry_run_field:
            yield {"name": "dry_run", "in": "query", "description": DRY_RUN_HINT, "schema": {"type": "boolean"}}
        if binding.resumes:
            yield {"$ref": "#/components/parameters/LastEventId"}
        if binding.method.client_streaming and not _upgrades(binding.method) and "offset" in fields:
            yield {"$ref": "#/components/parameters/ContentRange"}
        if not rule.anyone:
            yield {"$ref": "#/components/parameters/TenantId"}
        if rule.audit:
            yield {"$ref": "#/components/parameters/IdempotencyKey"}

    def _parameter(self, field: FieldDescriptor) -> dict[str, Any]:
        schema = self.schemas.field(field)
        text = schema.pop("description", "")
        return {"schema": schema} | ({"description": text} if text else {})

    def _body(self, binding: Binding) -> dict[str, Any] | None:
        message = binding.method.input_type
        if not binding.body or _upgrades(binding.method):
            return None
        if binding.method.client_streaming and not binding.takes_form:
            return {"required": True, "content": BINARY}
        if binding.method.client_streaming:
            form = object_of({uploads.FIELD: {"type": "string", "format": "binary"}}, [uploads.FIELD])
            return {"required": True, "content": {"multipart/form-data": {"schema": form}, **BINARY}}
        if binding.body != "*":
            field = message.fields_by_name[binding.body]
            if field.message_type and field.message_type.full_name == RAW:
                return {"required": True, "content": BINARY}
            return {"required": True, "content": _json(self.schemas.field(field))}
        schema = self.schemas.object(message, binding.names)
        name = name_of(message)
        if self.schemas.named.setdefault(name, schema) == schema:
            schema = {"$ref": f"#/components/schemas/{name}"}
        return {"required": bool(required(message) - {*binding.names}), "content": _json(schema)}

    def _responses(self, binding: Binding, rest: Any, rule: Any) -> dict[str, Any]:
        method = binding.method
        said = rest.message or rest.add_message
        with_message = object_of({"message": {"type": "string", "const": said}}, ["message"])
        success: dict[str, Any] = {"description": "Success."}
        status = rest.status or (204 if method.output_type.full_name == EMPTY and not said else 200)
        if _upgrades(method):
            status, success = 101, {"description": "The connection becomes a WebSocket."}
        elif rest.message:
            success["content"] = _json(with_message)
        elif method.output_type.full_name == RAW:
            success["content"] = BINARY
            if binding.pushes:
                success["description"] = "The bytes as they come. An answer that breaks off is not complete."
        elif binding.pushes:
            success["content"] = {"text/event-stream": {"schema": self.schemas.message(method.output_type)}}
            success["description"] = _events(method.output_type)
        elif binding.response_body:
            success["content"] = _json(self.schemas.field(method.output_type.fields_by_name[binding.response_body]))
        elif rest.add_message:
            success["content"] = _json({"allOf": [self.schemas.message(method.output_type), with_message]})
        elif status != 204:
            success["content"] = _json(self.schemas.message(method.output_type))
        if "next_page_token" in method.output_type.fields_by_name:
            text = "The `page_token` of the next page; absent on the last one. `Link` has its address."
            success["headers"] = {"X-Next-Page-Token": {"description": text, "schema": {"type": "string"}}}
        responses = {str(status): success}
        if binding.dry_run_field and not binding.pushes:
            self._add_dry_run(responses, method)
        for further in rest.statuses:
            responses[str(further)] = HEADS[further]
        for value, other in sorted(rest.status_by.items()):
            responses[str(other)] = success | {"description": f"`status` is {value}."}
        absent = {"401", "403"} if rule.anyone else set()
        if not binding.names:
            absent.add("404")
        failures = {code: name for code, (name, _) in FAILURES.items() if code not in absent}
        return responses | {code: {"$ref": f"#/components/responses/{name}"} for code, name in failures.items()}

    def _add_dry_run(self, responses: dict[str, Any], method: MethodDescriptor) -> None:
        """A dry run answers 200 with the response, whatever the method answers else."""
        schema = self.schemas.message(method.output_type)
        usual = responses.get("200")
        if usual is None:
            responses["200"] = {"description": "Of a dry run.", "content": _json(schema), "x-dry-run": True}
        elif (content := usual["content"]) not in (_json(schema), BINARY):
            responses["200"] = usual | {"content": _json({"anyOf": [content["application/json"]["schema"], schema]})}


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


def _events(message: Descriptor) -> str:
    """What the events of a stream are."""
    oneof = streams.first_oneof(message)
    names = ", ".join(f"`{field.name}`" for field in message.oneofs_by_name[oneof].fields) if oneof else ""
    named = f"each named {names} after the field that its data are" if oneof else "whose data are the message"
    resumed = " Their `id` is the `resume_token`." if "resume_token" in message.fields_by_name else ""
    return f"Server-sent events, {named}.{resumed} An event `error` is the last one, and has the body of a failure."


def _tag(service: ServiceDescriptor) -> str:
    """ "InstanceTypeService" as "Instance Type"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", service.name.removesuffix("Service"))


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
    field = object_of({"field": STRING, "description": STRING}, [])
    error = {
        "type": {"type": "string", "enum": codes},
        "code": {"type": "string", "enum": codes, "description": "The same as `type`."},
        "message": {"type": "string", "description": "What is wrong, and what to do next."},
        "reason": {"type": "string", "enum": reasons, "description": "The cause precisely; branch on it."},
        "metadata": {"type": "object", "additionalProperties": STRING, "description": "The values of the reason."},
        "fields": {"type": "array", "items": field, "description": "The fields that break a rule."},
    }
    meta = {"request_id": STRING, "timestamp": {"type": "string", "format": "date-time"}}
    return object_of(
        {
            "error": object_of(error, ["type", "code", "message", "reason"]),
            "meta": object_of(meta, ["request_id", "timestamp"]),
        },
        ["error", "meta"],
    )
