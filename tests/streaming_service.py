"""streaming.StreamService, which is in no proto of the product: its descriptor is made here.

message WatchRequest { string topic = 1; string resume_token = 2; }
message Change { string name = 1; int64 number = 2; }
message Bookmark {}
message WatchResponse { string resume_token = 1; oneof event { Change change = 2; Bookmark bookmark = 3; } }
message Tick { int32 number = 1; optional string note = 2; }
message EditRequest { string id = 1; string name = 2; bool validate_only = 3; FieldMask update_mask = 4; }
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.api import annotations_pb2, http_pb2, httpbody_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, field_mask_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from thecloud.v1 import options_pb2

from server import app as server_app
from server.pipeline import Pipeline
from tests.conftest import Cloud, Person, until

FIELD = descriptor_pb2.FieldDescriptorProto
TYPES = {"string": FIELD.TYPE_STRING, "int32": FIELD.TYPE_INT32, "int64": FIELD.TYPE_INT64, "bool": FIELD.TYPE_BOOL}
WATCH = "/streaming.StreamService/Watch"
RAW, EMPTY = "google.api.HttpBody", "google.protobuf.Empty"
MESSAGES = {
    "WatchRequest": ("string topic", "string resume_token"),
    "Change": ("string name", "int64 number"),
    "Bookmark": (),
    "WatchResponse": ("string resume_token", "Change change", "Bookmark bookmark"),
    "Tick": ("int32 number", "string note"),
    "EditRequest": ("string id", "string name", "bool validate_only", "google.protobuf.FieldMask update_mask"),
}
SIGNED_IN = options_pb2.Rule(signed_in=True, action="instance:read", live=True, target="topic/*")
READER = options_pb2.Rule(permission="instance:read", live=True, target="topic/*")
WRITER = options_pb2.Rule(permission="instance:update", live=True, target="topic/*")
ANYONE = options_pb2.Rule(anyone=True, live=True, target="topic/*")
Http, Rest = http_pb2.HttpRule, options_pb2.Rest
METHODS = {
    "Watch": ("WatchRequest", "WatchResponse", READER, Http(get="/follow"), Rest()),
    "WatchAsWriter": ("WatchRequest", "WatchResponse", WRITER, Http(get="/follow/{topic}/writer"), Rest()),
    "Search": ("WatchRequest", "WatchResponse", SIGNED_IN, Http(post="/search", body="*"), Rest()),
    "Count": ("WatchRequest", "Tick", ANYONE, Http(get="/count"), Rest()),
    "Download": ("WatchRequest", RAW, READER, Http(get="/download/{topic}"), Rest()),
    "Edit": ("EditRequest", "Change", WRITER, Http(patch="/topics/{id}", body="*"), Rest(status=202, message="edited")),
    "Show": ("EditRequest", "Change", WRITER, Http(get="/topics/{id}"), Rest(add_message="shown")),
    "Drop": ("EditRequest", EMPTY, WRITER, Http(delete="/topics/{id}"), Rest()),
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    extended = (options_pb2, annotations_pb2, httpbody_pb2, empty_pb2, field_mask_pb2)
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/streaming.proto", package="streaming", syntax="proto3",
        dependency=[module.DESCRIPTOR.name for module in extended],
    )  # fmt: skip
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (kind, _, field) in enumerate((each.partition(" ") for each in fields), 1):
            added = message.field.add(name=field, number=number, label=FIELD.LABEL_OPTIONAL)
            if kind in TYPES:
                added.type = TYPES[kind]
            else:
                added.type, added.type_name = FIELD.TYPE_MESSAGE, _full_name(kind)
        if name == "WatchResponse":
            message.oneof_decl.add(name="event")
            for added in message.field[1:]:
                added.oneof_index = 0
        if name == "Tick":
            message.oneof_decl.add(name="_note")
            message.field[1].oneof_index, message.field[1].proto3_optional = 0, True
    service = file.service.add(name="StreamService")
    for name, (request, response, rule, http, rest) in METHODS.items():
        method = service.method.add(name=name, input_type=_full_name(request), output_type=_full_name(response))
        method.server_streaming = request == "WatchRequest"
        for extension, value in ((options_pb2.rule, rule), (annotations_pb2.http, http), (options_pb2.rest, rest)):
            method.options.Extensions[extension].CopyFrom(value)  # type: ignore[index]
    return file


def _full_name(kind: str) -> str:
    return f".{kind}" if "." in kind else f".streaming.{kind}"


descriptor_pool.Default().Add(_file())  # type: ignore[no-untyped-call]
SERVICE: ServiceDescriptor = descriptor_pool.Default().FindServiceByName("streaming.StreamService")
WatchRequest, Change, Bookmark, WatchResponse, Tick, EditRequest = (
    GetMessageClass(SERVICE.file.message_types_by_name[name]) for name in MESSAGES
)


def change(number: int, name: str = "web-01", token: str = "") -> Any:
    return WatchResponse(resume_token=token, change=Change(name=name, number=number))


class StreamService:
    """Streams what a test's script yields, and knows what is open."""

    def __init__(self) -> None:
        self.script: Callable[[Any, Any], AsyncIterator[Any]]
        self.calls: list[Any] = []
        self.requests: list[Any] = []
        self.open = 0
        self.prepare: Callable[[Any, Any], Awaitable[Any]] | None = None  # of Download

    async def Watch(self, call: Any, request: Any) -> AsyncIterator[Any]:
        self.calls.append(call)
        self.requests.append(request)
        self.open += 1
        try:
            async with aclosing(self.script(call, request)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    yield response
        finally:
            self.open -= 1

    WatchAsWriter = Search = Count = Download = Watch

    async def prepare_Download(self, call: Any, request: Any) -> Any:
        return await self.prepare(call, request) if self.prepare else None

    async def Edit(self, call: Any, request: Any) -> Any:
        self.requests.append(request)
        return Change(name=request.name, number=len(request.update_mask.paths))

    Show = Edit

    async def Drop(self, call: Any, request: Any) -> Any:
        self.requests.append(request)
        return empty_pb2.Empty()


def script(*steps: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """Yields what is given, raises errors, and waits for events."""

    async def responses(call: Any, request: Any) -> AsyncIterator[Any]:
        for step in steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                raise step
            else:
                yield step

    return responses


def forever() -> asyncio.Event:
    """What never happens."""
    return asyncio.Event()


async def event(lines: AsyncIterator[str]) -> dict[str, str]:
    """The next event, once it is there."""
    fields = {}
    async with asyncio.timeout(5):
        while line := await anext(lines):
            name, _, value = line.partition(": ")
            fields[name] = value
    return fields


@dataclass
class Server:
    """A server with the streaming service beside those of the API, on sockets of its own."""

    pipeline: Pipeline
    service: StreamService
    http: str
    grpc: str
    channel: grpc.aio.Channel

    async def closed(self, seconds: float = 5) -> None:
        """Wait until no stream of the service is open."""

        async def none_open() -> bool:
            return self.service.open == 0

        await until(none_open, seconds)

    def watch(self, person: Person, channel: grpc.aio.Channel | None = None) -> Any:
        """A stream over gRPC."""
        stub = (channel or self.channel).unary_stream(
            WATCH, request_serializer=WatchRequest.SerializeToString, response_deserializer=WatchResponse.FromString
        )
        return stub(WatchRequest(), metadata=person.metadata)


@asynccontextmanager
async def running(cloud: Cloud, **settings: Any) -> AsyncIterator[Server]:
    """With these settings, over the cloud's database."""
    app = replace(cloud.app, config=replace(cloud.app.config, **settings), stopping=asyncio.Event())
    service = StreamService()
    performed = server_app.implemented(app) | {SERVICE.full_name: (SERVICE, service)}
    async with (
        server_app.serving(app, server_app.listening("127.0.0.1:0"), performed=performed) as at,
        grpc.aio.insecure_channel(at.grpc) as channel,
    ):
        assert at.pipeline
        yield Server(at.pipeline, service, at.http, at.grpc, channel)
