"""Which method answers which path: routes read from the google.api.http options of the methods."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from thecloud.v1 import options_pb2

VERBS = ("get", "put", "post", "delete", "patch")
DRY_RUN = "validate_only"
AS_COLUMNS = "as_columns"
HEADER: Any = options_pb2.header  # looked up by extensions, which generated stubs type as plain fields
QUERY: Any = options_pb2.query
TOO_MANY_SEGMENTS = 1100  # of 1,024-byte object keys, with room to spare


@dataclass(frozen=True)
class Binding:
    """One way to call a method: "PUT /instances/{id}" with its body, or the whole, as `body` says."""

    method: MethodDescriptor
    verb: str  # upper case
    template: str
    body: str  # "*", a field's name, or empty
    response_body: str

    @property
    def names(self) -> list[str]:
        """The fields that the path fills, in order."""
        return re.findall(r"\{(\w+)", self.template)

    def query_fields(self) -> list[FieldDescriptor]:
        """The fields that the query may fill: all that neither the path nor the body nor a header does."""
        if self.body == "*":
            return []
        taken = {*self.names, self.body, *(field.name for field in self.header_fields().values())}
        if self.hides_columns:
            taken.add(AS_COLUMNS)
        return [field for field in self.method.input_type.fields if field.name not in taken]

    def header_fields(self) -> dict[str, FieldDescriptor]:
        """The fields that headers fill, by the headers' names."""
        named = ((field.GetOptions().Extensions[HEADER], field) for field in self.method.input_type.fields)
        return {header: field for header, field in named if header}

    @property
    def dry_run_field(self) -> FieldDescriptor | None:
        """The field that asks for a dry run, which the query may set by the name of dry_run, whatever the body is."""
        field = self.method.input_type.fields_by_name.get(DRY_RUN)
        return field if field and field.type == FieldDescriptor.TYPE_BOOL and not field.is_repeated else None

    @property
    def hides_columns(self) -> bool:
        """Whether the one field that is answered may come as columns, which then are asked for, and not shown."""
        return bool(self.response_body) and AS_COLUMNS in self.method.input_type.fields_by_name

    @property
    def takes_form(self) -> bool:
        """Whether a stream of requests may come as the file of a form. What is PUT is the body, whatever it is."""
        return bool(self.method.client_streaming and self.verb == "POST")

    @property
    def pushes(self) -> bool:
        """Whether one request gets a stream of responses."""
        return bool(self.method.server_streaming and not self.method.client_streaming)

    @property
    def resumes(self) -> bool:
        """Whether such a stream goes on after the response that the request names."""
        return self.pushes and "resume_token" in self.method.input_type.fields_by_name


def query_name(field: FieldDescriptor) -> str:
    """What the query calls a field."""
    return str(field.GetOptions().Extensions[QUERY] or field.name)


def bindings(services: Iterable[ServiceDescriptor]) -> Iterator[Binding]:
    """Every binding of every method; a method's first is the documented one."""
    for service in services:
        for method in service.methods:
            http = method.GetOptions().Extensions[annotations_pb2.http]
            for rule in (http, *http.additional_bindings):
                for verb in VERBS:
                    if template := getattr(rule, verb):
                        yield Binding(method, verb.upper(), template, rule.body, rule.response_body)


@dataclass
class Router:
    """A tree of path segments. Literal segments win over `{name}`, and those over `{name=**}`."""

    literals: dict[str, "Router"] = field(default_factory=dict)
    parameter: "Router | None" = None
    here: dict[str, Any] = field(default_factory=dict)  # by verb, of a path that ends here
    beyond: dict[str, Any] = field(default_factory=dict)  # by verb, of a path whose rest is one value

    def add(self, verb: str, template: str, target: Any) -> None:
        node = self
        for segment in template.strip("/").split("/"):
            if segment.endswith("=**}"):
                self._put(node.beyond, verb, template, target)
                return
            if segment.startswith("{"):
                node.parameter = node.parameter or Router()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, Router())
        self._put(node.here, verb, template, target)

    @staticmethod
    def _put(targets: dict[str, Any], verb: str, template: str, target: Any) -> None:
        if verb in targets:
            raise ValueError(f"two methods are bound to {verb} {template}")
        targets[verb] = target

    def find(self, verb: str, segments: list[str], allowed: set[str], at: int = 0) -> tuple[Any, list[str]] | None:
        """The target, and the values of its parameters in order. `allowed` gets the verbs that the path does take."""
        if at == len(segments):
            return self._take(self.here, verb, [], allowed)
        segment = segments[at]
        if (node := self.literals.get(segment)) and (found := node.find(verb, segments, allowed, at + 1)):
            return found
        if segment and self.parameter and (found := self.parameter.find(verb, segments, allowed, at + 1)):
            return found[0], [segment, *found[1]]
        if self.beyond:
            return self._take(self.beyond, verb, ["/".join(segments[at:])], allowed)
        return None

    @staticmethod
    def _take(targets: dict[str, Any], verb: str, values: list[str], allowed: set[str]) -> tuple[Any, list[str]] | None:
        allowed.update(targets)
        return (targets[verb], values) if verb in targets else None
