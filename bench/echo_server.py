"""A server process for echo: `python -m bench.echo_server empty`, or `full DATABASE_URL`.

`full` is the product's gRPC server and pipeline with the echo service added; `empty` is
grpc.aio and nothing else. Both run on uvloop and say "port N" when they listen.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import grpc
import uvloop

from bench import cloud
from bench.echo_service import METHOD, SERVICE, EchoMessage, EchoService
from server.app import implemented, settle_memory
from server.grpc_server import GrpcServer
from server.pipeline import Pipeline


async def empty() -> None:
    async def echo(request: EchoMessage, context: object) -> EchoMessage:
        return request

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        echo, request_deserializer=EchoMessage.FromString, response_serializer=EchoMessage.SerializeToString
    )
    _, service, method = METHOD.split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say(port)
    await server.wait_for_termination()


async def full(database_url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with cloud.app(database_url, Path(folder)) as app:
            pipeline = Pipeline(app, {**implemented(app), SERVICE.full_name: (SERVICE, EchoService())})
            server = GrpcServer(pipeline, app.config)
            port = await server.start()
            settle_memory()
            say(port)
            await asyncio.Event().wait()


def say(port: int) -> None:
    sys.stdout.write(f"port {port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(empty() if sys.argv[1] == "empty" else full(sys.argv[2]))
