"""gRPC in front of the pipeline, with server reflection and grpc.health.v1."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from server.call import Method
from server.config import Config
from server.errors import ApiError
from server.pipeline import Pipeline

LARGEST = 4 * 2**20  # bytes of one message


class GrpcServer:
    """Every method of the pipeline on one address."""

    def __init__(self, pipeline: Pipeline, config: Config, *, shared: bool = False) -> None:
        self._config = config
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_receive_message_length", LARGEST),
                ("grpc.max_concurrent_streams", 1000),
            ]
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services: dict[str, dict[str, Any]] = {}
        for method in pipeline.methods.values():
            name = method.descriptor.containing_service.full_name
            services.setdefault(name, {})[method.name] = handler(pipeline, method, config)
        for name, handlers in services.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        self._names = [*services, health.SERVICE_NAME]
        reflection.enable_server_reflection([*self._names, reflection.SERVICE_NAME], self._server)

    async def start(self) -> int:
        """Start listening; the port."""
        config = self._config
        if config.tls_cert:
            pair = (Path(config.tls_key).read_bytes(), Path(config.tls_cert).read_bytes())
            port: int = self._server.add_secure_port(config.grpc, grpc.ssl_server_credentials([pair]))
        else:
            port = self._server.add_insecure_port(config.grpc)
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace: float) -> None:
        """Refuse new calls, and let those that run finish for so many seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


def handler(pipeline: Pipeline, method: Method, config: Config) -> Any:
    """The method as gRPC calls it. Messages are parsed here, so that bytes that are none get a clear answer."""

    async def unary(data: bytes, context: Any) -> bytes:
        headers: dict[str, str] = {}
        try:
            request = parse(method, data)
            response = await pipeline.unary(
                method, request, dict(context.invocation_metadata() or ()), address(context.peer()), headers,
                context.time_remaining(),
            )  # fmt: skip
        except ApiError as error:
            return await refuse(context, error, headers)  # type: ignore[no-any-return]
        if headers:
            context.set_trailing_metadata(tuple(headers.items()))
        return response.SerializeToString()

    def responses_to(requests: Any, context: Any, headers: dict[str, str]) -> AsyncGenerator[Message]:
        metadata: Mapping[str, str] = dict(context.invocation_metadata() or ())
        return pipeline.stream(method, parsed(method, requests), metadata, address(context.peer()), headers)

    async def streaming(requests: Any, context: Any) -> None:
        headers: dict[str, str] = {}
        try:
            async with aclosing(responses_to(requests, context, headers)) as responses:
                async for response in responses:
                    await write(context, response, config.slow_reader_seconds)
        except ApiError as error:
            await refuse(context, error, headers)  # which takes as long as a client does not read

    async def upload(requests: AsyncIterator[bytes], context: Any) -> Any:
        headers: dict[str, str] = {}
        try:
            async with aclosing(responses_to(requests, context, headers)) as responses:
                return (await anext(responses)).SerializeToString()
        except ApiError as error:
            return await refuse(context, error, headers)

    if not method.streams:
        return grpc.unary_unary_rpc_method_handler(unary)
    if not method.descriptor.server_streaming:
        return grpc.stream_unary_rpc_method_handler(upload)
    if method.descriptor.client_streaming:
        return grpc.stream_stream_rpc_method_handler(streaming)
    return grpc.unary_stream_rpc_method_handler(streaming)


def parse(method: Method, data: bytes) -> Message:
    try:
        return method.request.FromString(data)
    except DecodeError:
        name = method.descriptor.input_type.full_name
        raise ApiError("INVALID_ARGUMENT", f"the bytes sent are not a {name} message") from None


async def parsed(method: Method, requests: Any) -> AsyncIterator[Message]:
    """The one request, or all of them."""
    if isinstance(requests, bytes):
        yield parse(method, requests)
        return
    async for data in requests:
        yield parse(method, data)


async def write(context: Any, response: Message, seconds: float) -> None:
    """Send one message of a stream, unless the client leaves us waiting for so long."""
    try:
        async with asyncio.timeout(seconds):
            await context.write(response.SerializeToString())
    except TimeoutError:
        text = f"a message was not read within {seconds:g} s; connect again, with the last resume_token"
        raise ApiError("UNAVAILABLE", text) from None


async def refuse(context: Any, error: ApiError, headers: Mapping[str, str]) -> Any:
    """End the call with the error's code and details."""
    status = rpc_status.to_status(error.to_status())
    context.set_trailing_metadata((*headers.items(), *status.trailing_metadata))
    await context.abort(status.code, status.details, context.trailing_metadata())


@lru_cache(4096)
def address(peer: str) -> str:
    """The client's address, of "ipv4:127.0.0.1:1234", "ipv6:%5B::1%5D:1234" or "unix:"."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "127.0.0.1"
    return rest.rpartition(":")[0].removeprefix("%5B").removesuffix("%5D").strip("[]")
