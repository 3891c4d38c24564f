"""The REST list of twenty instances from PostgreSQL, against the same list over gRPC, and against moto.

Our server is `thecloud serve` as it is shipped, on one processor, over an embedded durable
PostgreSQL; only the general rate limit is raised out of the way. REST and gRPC are the same
process. moto is its own server process, filled through boto3, on the same processor, asked for as
many instances or VPCs with a plain POST. All clients are processes of bench/load.py on the other
processors, with the same number of calls in flight, and take turns.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from http.client import HTTPConnection
from typing import Any

from thecloud.v1 import instances_pb2

from bench import cloud, processes
from bench.cloud import INSTANCES, Prepared
from bench.figure import figure
from bench.processes import SERVER, Load, Process, load, python, running

CONCURRENCY = 32
SECONDS, ROUNDS = 1.0, 15
MOTO_SECONDS, MOTO_ROUNDS = 4.0, 5
LIST = "/thecloud.v1.InstanceService/ListInstances"
GET = "GET {path} HTTP/1.1\r\nHost: cloud\r\nX-API-Key: {key}\r\n\r\n"
POST = {
    "Host": "ec2.us-east-1.amazonaws.com",
    "Content-Type": "application/x-www-form-urlencoded",
    "Authorization": "AWS4-HMAC-SHA256 Credential=bench/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, "
    "Signature=0",  # moto reads the region and the account from it, and does not verify
}


MOSTLY_ALIKE = "most of a list's time goes to what both doors share: reading rows and building the response message"


def figures() -> Iterator[dict[str, Any]]:
    yield from asyncio.run(measure())


async def measure() -> list[dict[str, Any]]:
    async with cloud.prepared() as prepared:
        with ExitStack() as stack:
            server, rest, vpcs, grpc = serve(stack, prepared)
            found = [await asyncio.to_thread(against_grpc, server, rest, grpc)]
            try:
                import boto3  # noqa: F401
                import moto  # noqa: F401
            except ImportError:
                missing = "moto and boto3 are not installed: requirements-bench.lock has them"
                found.extend(
                    figure(f"rest list, moto {action}", None, "requests/s", "moto", None, goal, reason=missing)
                    for action, goal in ACTIONS
                )
                return found
            moto_server = stack.enter_context(
                running(*python("moto.server", "-H", "127.0.0.1", "-p", "0"), processors=SERVER, log=True)
            )
            address = "127.0.0.1:" + moto_server.wait_for(r"http://127\.0\.0\.1:(\d+)")
            moto_server.forget_output()
            await asyncio.to_thread(fill, address)
            for action, goal in ACTIONS:
                ours = rest if action == "DescribeInstances" else vpcs
                found.append(await asyncio.to_thread(against_moto, server, ours, moto_server, address, action, goal))
            return found


ACTIONS = (("DescribeInstances", 50.0), ("DescribeVpcs", 15.0))


def lists(address: str, prepared: Prepared, path: str) -> AbstractContextManager[Load]:
    """A client that gets this list over REST."""
    request = GET.format(path=path, key=prepared.key)
    return load(kind="http", address=address, request=request, concurrency=CONCURRENCY)


def serve(stack: ExitStack, prepared: Prepared) -> tuple[Process, Load, Load, Load]:
    """Our server, and clients: of its instances over each of its doors, and of its VPCs."""
    environment = {"THECLOUD_DATABASE_URL": prepared.url, "THECLOUD_RATE_LIMIT": str(cloud.NO_LIMIT)}
    server = stack.enter_context(running(
        *python("server", "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--s3", ""),
        processors=SERVER, environment=environment,
    ))  # fmt: skip
    http_address, grpc_address = server.wait_for(r"http://(\S+)"), server.wait_for(r"gRPC  (\S+)")
    server.wait_for("ready")
    rest, vpcs = lists(http_address, prepared, "/instances"), lists(http_address, prepared, "/vpcs")
    request = instances_pb2.ListInstancesRequest().SerializeToString().hex()
    grpc = load(kind="grpc", address=grpc_address, method=LIST, request=request, key=prepared.key,
                concurrency=CONCURRENCY)  # fmt: skip
    return server, stack.enter_context(rest), stack.enter_context(vpcs), stack.enter_context(grpc)


def against_grpc(server: Process, rest: Load, grpc: Load) -> dict[str, Any]:
    (ours, _), (theirs, _) = processes.compare(SECONDS, ROUNDS, (server, rest), (server, grpc))
    return figure(
        "rest list", round(ours), "requests/s", "the same list over gRPC", ours / theirs, 1.2, reason=MOSTLY_ALIKE
    )


def against_moto(
    server: Process, rest: Load, moto_server: Process, address: str, action: str, goal: float
) -> dict[str, Any]:
    body = f"Action={action}&Version=2016-11-15"
    check(address, body, "instanceId" if action == "DescribeInstances" else "vpcId")
    headers = "".join(f"{name}: {value}\r\n" for name, value in POST.items())
    request = f"POST / HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"
    with load(kind="http", address=address, request=request, concurrency=CONCURRENCY) as moto_load:
        (ours, _), (theirs, _) = processes.compare(
            MOTO_SECONDS, MOTO_ROUNDS, (server, rest), (moto_server, moto_load)
        )  # fmt: skip
    sys.stderr.write(f"  moto {action}: {theirs:.1f} requests/s\n")
    return figure(f"rest list, moto {action}", round(ours), "requests/s", f"moto, {action} of {INSTANCES}",
                  ours / theirs, goal, reason=MOSTLY_ALIKE)  # fmt: skip


def check(address: str, body: str, element: str) -> None:
    """Have it that moto answers with all of them."""
    connection = HTTPConnection(address)
    connection.request("POST", "/", body, POST)
    answer = connection.getresponse().read().decode()
    assert answer.count(f"<{element}>") >= INSTANCES, answer


def fill(address: str) -> None:
    """Twenty instances and twenty VPCs, the default one among them."""
    import boto3

    ec2 = boto3.client("ec2", endpoint_url=f"http://{address}", region_name="us-east-1",
                       aws_access_key_id="bench", aws_secret_access_key="bench")  # fmt: skip
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    ec2.run_instances(ImageId=image, MinCount=INSTANCES, MaxCount=INSTANCES, InstanceType="t2.micro")
    vpcs = len(ec2.describe_vpcs()["Vpcs"])
    for number in range(INSTANCES - vpcs):
        ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")
    reservations = ec2.describe_instances()["Reservations"]
    assert sum(len(each["Instances"]) for each in reservations) == len(ec2.describe_vpcs()["Vpcs"]) == INSTANCES
