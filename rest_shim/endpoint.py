"""One binding of a method with all that can be prepared for it, and what performs its calls."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Protocol

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from thecloud.v1 import options_pb2

from rest_shim import columns, decoding, encoding, streams
from rest_shim.routes import Binding, query_name


class Backend(Protocol):
    """Performs calls. Both ways raise ApiError and nothing else; `headers` gets those of the reply."""

    def method(self, full_name: str) -> Any:
        """The handle of "/thecloud.v1.InstanceService/GetInstance" to call it by."""
        ...

    async def unary(
        self, method: Any, request: Message, metadata: Mapping[str, str], address: str,
        headers: dict[str, str], timeout: float | None = None,
    ) -> Message: ...  # fmt: skip

    def stream(
        self, method: Any, requests: AsyncIterator[Message], metadata: Mapping[str, str], address: str,
        headers: dict[str, str],
    ) -> AsyncGenerator[Message]: ...  # fmt: skip


class Endpoint:
    """One binding, with all that can be prepared for it."""

    def __init__(self, binding: Binding, backend: Backend) -> None:
        method = binding.method
        self.binding = binding
        self.handle = backend.method(f"/{method.containing_service.full_name}/{method.name}")
        self.request: type[Message] = GetMessageClass(method.input_type)
        self.decode = decoding.decoder(method.input_type)
        self.body, self.names = binding.body, binding.names
        self.path_fields = [method.input_type.fields_by_name[name] for name in self.names]
        self.query_fields = {query_name(field): field for field in binding.query_fields()}
        self.header_fields = {name.lower().encode(): field for name, field in binding.header_fields().items()}
        self.masked = "update_mask" in method.input_type.fields_by_name
        self.streams = method.client_streaming and method.server_streaming
        self.takes = method.client_streaming and not method.server_streaming
        self.pushes, self.resumes = binding.pushes, binding.resumes
        self.dry = binding.dry_run_field
        if self.dry:
            self.query_fields |= {"dry_run": self.dry, self.dry.name: self.dry}
        self.columns = binding.hides_columns
        self.raw = method.output_type.full_name == HttpBody.DESCRIPTOR.full_name
        self.paged = "next_page_token" in method.output_type.fields_by_name
        rest: options_pb2.Rest = method.GetOptions().Extensions[options_pb2.rest]  # type: ignore[index]
        self.rest = rest
        rule: options_pb2.Rule = method.GetOptions().Extensions[options_pb2.rule]  # type: ignore[index]
        self.deadline = rule.deadline_seconds
        self.message = {"message": rest.message} if rest.message else None
        self.empty = method.output_type.full_name == "google.protobuf.Empty" and not rest.message
        self.status = rest.status or (204 if self.empty else 200)
        self.encode = encoding.encoder(method.output_type)
        self.event = streams.event_encoder(method.output_type)

    def answer(self, response: Message, *, dry: bool = False) -> Any:
        """The documented JSON of the response, as plain data. After a dry run it does not say that it is done."""
        if self.message and not dry:
            return self.message
        data = self.encode(response)
        if self.columns and (found := data.get(columns.FIELD)):  # but of a server that does not have them yet
            return columns.objects(found)
        if self.rest.add_message and not dry:
            data["message"] = self.rest.add_message
        return data[self.binding.response_body] if self.binding.response_body else data
