"""Performs the shim's calls over a gRPC channel, for a shim deployed on its own."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from server.errors import ApiError, from_status

OWN = ("user-agent", "grpc-timeout", "accept")  # what gRPC says itself, or has no use for
REASON_OF = {
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "PAYLOAD_TOO_LARGE",
}


class ChannelBackend:
    """Every method of the server at the channel's other end.

    The server sees our address; it believes the client's one that we pass on when it is told to, with
    THECLOUD_TRUSTED_PROXIES.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def method(self, full_name: str) -> Any:
        service, _, name = full_name[1:].partition("/")
        method: MethodDescriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        sent = "stream" if method.client_streaming else "unary"
        received = "stream" if method.server_streaming else "unary"
        return getattr(self._channel, f"{sent}_{received}")(
            full_name,
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )

    async def unary(
        self, method: Any, request: Message, metadata: Mapping[str, str], address: str,
        headers: dict[str, str], timeout: float | None = None,
    ) -> Message:  # fmt: skip
        sent = [request] if isinstance(method, grpc.aio.StreamUnaryMultiCallable) else request
        call = method(sent, metadata=passed_on(metadata, address), timeout=timeout)
        try:
            response: Message = await call
        except grpc.aio.AioRpcError as error:
            headers |= replied(error.trailing_metadata())
            raise to_api_error(error) from None
        headers |= replied(await call.trailing_metadata())
        return response

    async def stream(
        self, method: Any, requests: AsyncIterator[Message], metadata: Mapping[str, str], address: str,
        headers: dict[str, str],
    ) -> AsyncGenerator[Message]:  # fmt: skip
        one = isinstance(method, grpc.aio.UnaryStreamMultiCallable)
        failures: list[ApiError] = []  # of the requests; to gRPC they are but a reason to cancel
        call = method(
            await anext(requests) if one else noting(requests, failures), metadata=passed_on(metadata, address)
        )
        try:
            if isinstance(method, grpc.aio.StreamUnaryMultiCallable):
                yield await call
                return
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise to_api_error(error) from None
        except asyncio.CancelledError:
            if failures:
                raise failures[0] from None
            raise
        finally:
            call.cancel()


async def noting(requests: AsyncIterator[Message], failures: list[ApiError]) -> AsyncIterator[Message]:
    """The requests; the error they end with is noted."""
    try:
        async for request in requests:
            yield request
    except ApiError as error:
        failures.append(error)
        raise


def passed_on(metadata: Mapping[str, str], address: str) -> list[tuple[str, str]]:
    forwarded = [(name, value) for name, value in metadata.items() if name not in OWN and value.isascii()]
    return [*(pair for pair in forwarded if pair[0] != "x-forwarded-for"), ("x-forwarded-for", address)]


def replied(metadata: Any) -> dict[str, str]:
    return {name: value for name, value in metadata or () if isinstance(value, str)}


def to_api_error(error: grpc.aio.AioRpcError) -> ApiError:
    status = rpc_status.from_call(error)
    if status is not None:
        return from_status(status)
    return ApiError(REASON_OF.get(error.code(), "INTERNAL"), error.details() or "the server did not answer")
