"""The description of the API: a valid document, with every method, limit and comment that the protos have."""

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
import thecloud.v1
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from openapi_spec_validator import OpenAPIV31SpecValidator
from thecloud.v1 import instances_pb2, options_pb2

from rest_shim import openapi, schemas
from tests.streaming_service import SERVICE

HTTP: Any = annotations_pb2.http
RULE: Any = options_pb2.rule


def services() -> list[ServiceDescriptor]:
    names = [module.name for module in iter_modules(thecloud.v1.__path__) if module.name.endswith("_pb2")]
    files = [import_module(f"thecloud.v1.{name}").DESCRIPTOR for name in names]
    return [service for file in files for service in file.services_by_name.values()]


METHODS: list[MethodDescriptor] = [method for service in services() for method in service.methods]


@cache
def document() -> dict[str, Any]:
    return openapi.document(services())


def operations() -> dict[str, dict[str, Any]]:
    verbs = [verb for path in document()["paths"].values() for verb in path.values()]
    return {operation["operationId"]: operation for operation in verbs}


def schema(name: str) -> Any:
    return document()["components"]["schemas"][name]


def nodes(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from nodes(inner)


def test_the_document_is_valid_openapi() -> None:
    # The validator knows Python's patterns, which have no \p{L}.
    text = re.sub(r"\\\\p\{\w+\}", "0-9", json.dumps(document()))
    OpenAPIV31SpecValidator(json.loads(text)).validate()


def test_every_reference_leads_somewhere() -> None:
    for node in nodes(document()):
        if reference := node.get("$ref"):
            part: Any = document()
            for name in reference.removeprefix("#/").split("/"):
                part = part[name]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_is_there_with_each_of_its_routes(method: MethodDescriptor) -> None:
    http = method.GetOptions().Extensions[HTTP]
    found = operations()
    assert method.name in found
    for number, binding in enumerate((http, *http.additional_bindings)):
        verb = binding.WhichOneof("pattern")
        operation = document()["paths"][getattr(binding, verb).replace("=**", "")][verb]
        assert operation["operationId"] == (f"{method.name}_{number}" if number else method.name)
        assert operation.get("x-alias-of", "") == (method.name if number else "")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_is_described_and_says_its_rules(method: MethodDescriptor) -> None:
    operation, rule = operations()[method.name], method.GetOptions().Extensions[RULE]
    assert operation["summary"] and operation["description"] == schemas.comment(method.full_name)
    assert operation.get("x-permission", "") == rule.permission
    assert operation.get("x-audit", "") == rule.audit
    assert operation.get("x-quota", []) == list(rule.quota)
    assert ("401" in operation["responses"]) == (not rule.anyone)
    assert operation.get("security", "default") == ([] if rule.anyone else "default")
    assert {"400", "429", "default"} <= set(operation["responses"])


def test_a_body_lacks_what_the_path_has() -> None:
    body = schema("UpdateInstanceRequest")
    assert "id" not in body["properties"] and "name" in body["properties"]
    parameters = operations()["UpdateInstance"]["parameters"]
    assert parameters[0]["name"] == "id" and parameters[0]["in"] == "path"


def test_what_is_in_neither_path_nor_body_is_in_the_query() -> None:
    tail = next(p for p in operations()["GetInstanceLogs"]["parameters"] if p.get("name") == "tail")
    assert tail["in"] == "query" and not tail["required"]
    assert tail["schema"] == {"type": "integer", "format": "int32", "minimum": 0, "maximum": 10000}


def test_limits_are_told() -> None:
    create = schema("CreateInstanceRequest")
    assert create["required"] == ["name", "image"]
    assert create["properties"]["name"]["pattern"] == r"^[\p{L}\p{N}_-]{1,64}$"
    assert create["properties"]["vpc_id"]["format"] == "uuid"
    assert create["properties"]["volumes"]["maxItems"] == 16
    assert create["properties"]["env"]["items"]["maxLength"] == 32768
    assert create["properties"]["labels"]["maxProperties"] == 64
    assert create["properties"]["labels"]["propertyNames"]["minLength"] == 1
    assert create["properties"]["labels"]["additionalProperties"]["maxLength"] == 256
    assert schema("RegisterRequest")["properties"]["email"]["format"] == "email"
    assert schema("UpdateInstanceRequest")["properties"]["status"]["enum"] == [
        "UNSPECIFIED",
        "RUNNING",
        "PAUSED",
        "STOPPED",
    ]
    assert "UNSPECIFIED" not in schema("AddTenantMemberRequest")["properties"]["role"]["enum"]


def test_enums_have_their_documented_spelling() -> None:
    assert "RUNNING" in schema("Instance.State")["enum"]
    assert "- `PAUSED`: Frozen: memory and network stay." in schema("Instance.State")["description"]
    assert "owner" in schema("Role")["enum"]


def test_secrets_and_output_are_marked() -> None:
    assert schema("Instance")["properties"]["id"]["readOnly"] is True
    password = schema("LoginRequest")["properties"]["password"]
    assert (password["format"], password["writeOnly"]) == ("password", True)
    assert "writeOnly" not in schema("LoginResponse")["properties"]["api_key"]


def test_statuses_and_messages_are_those_of_the_server() -> None:
    found = operations()
    assert "202" in found["CreateInstance"]["responses"]
    assert "204" in found["RevokeKey"]["responses"]
    assert "101" in found["AttachInstanceConsole"]["responses"]
    assert "503" in found["GetReadiness"]["responses"]
    paused = found["PauseInstance"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert paused["properties"]["message"]["const"] == "instance paused"
    added = found["AddTenantMember"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert added["allOf"][0] == {"$ref": "#/components/schemas/TenantMember"}
    listed = found["ListInstances"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert (listed["type"], listed["items"]) == ("array", {"$ref": "#/components/schemas/Instance"})


def test_the_general_limits_are_told() -> None:
    limited = openapi.document(services(), "https://cloud.example", body_limit=2048, deadline_seconds=5)
    assert (limited["x-body-limit"], limited["x-deadline-seconds"]) == (2048, 5)
    assert "2,048 bytes" in limited["info"]["description"] and "5 seconds" in limited["info"]["description"]
    assert limited["servers"] == [{"url": "https://cloud.example"}]
    assert operations()["Login"]["x-rate-limit"] == {"per_minute": 5, "key": "address", "bucket": "auth"}


def test_streams_and_dry_runs_are_described() -> None:
    described = openapi.document([SERVICE])
    OpenAPIV31SpecValidator(described).validate()
    found = {verb["operationId"]: verb for path in described["paths"].values() for verb in path.values()}
    watched = found["Watch"]["responses"]["200"]
    assert watched["content"] == {"text/event-stream": {"schema": {"$ref": "#/components/schemas/WatchResponse"}}}
    assert "`change`, `bookmark`" in watched["description"] and "`resume_token`" in watched["description"]
    assert "named" not in found["Count"]["responses"]["200"]["description"]
    assert {"$ref": "#/components/parameters/LastEventId"} in found["Watch"]["parameters"]
    assert {"$ref": "#/components/parameters/LastEventId"} not in found["Show"]["parameters"]
    assert list(found["Download"]["responses"]["200"]["content"]) == ["*/*"]
    dry = [name for name, each in found.items() if "dry_run" in {p.get("name") for p in each["parameters"]}]
    assert dry == ["Edit", "Show", "Drop"]
    edited = found["Edit"]["responses"]
    assert edited["202"]["content"]["application/json"]["schema"]["properties"]["message"]["const"] == "edited"
    assert edited["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Change"}
    assert len(found["Show"]["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]) == 2
    assert {"200", "204"} <= set(found["Drop"]["responses"])


def test_comments_are_found_by_name() -> None:
    state = instances_pb2.Instance.State.DESCRIPTOR
    assert schemas.comment("thecloud.v1.Instance") == "A compute instance."
    assert schemas.comment("thecloud.v1.Instance.name") == "Names may repeat."
    assert schemas.comment("thecloud.v1.InstanceService").startswith("Compute instances")
    assert schemas.comment(f"{state.full_name}.STATE_ERROR") == "`status_message` says why."
    assert schemas.comment("thecloud.v1.NoSuchThing") == ""
