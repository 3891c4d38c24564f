"""The codec against protobuf's own json_format, writing the same JSON."""

import json
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from thecloud.v1 import instances_pb2

from rest_shim import encoding

ROUNDS = 15
CALLS = 40


def figures() -> Iterator[dict[str, Any]]:
    """Messages a second, and how many times as many as json_format. Both sides take turns in the same run."""
    for name, message, goal in (("codec strings", strings(), 4.0), ("codec mixed", mixed(), 3.0)):
        ours, theirs = interleaved(lambda m=message: encoding.dumps(m), lambda m=message: oracle(m))  # type: ignore[misc]
        yield {
            "name": name,
            "value": round(1 / ours),
            "unit": "messages/s",
            "against": "json_format.MessageToDict, json.dumps",
            "ratio": round(theirs / ours, 2),
            "goal": goal,
            "met": theirs / ours >= goal,
        }


def oracle(message: Message) -> str:
    return json.dumps(
        json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )


def interleaved(*calls: Callable[[], object]) -> list[float]:
    """The median seconds of each call, over rounds in which all take their turn."""
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(ROUNDS):
        for call, taken in zip(calls, seconds, strict=True):
            start = perf_counter()
            for _ in range(CALLS):
                call()
            taken.append((perf_counter() - start) / CALLS)
    return [median(taken) for taken in seconds]


def strings() -> Message:
    """Twenty instances, all of text."""
    return instances_pb2.ListInstancesResponse(
        instances=[
            instances_pb2.Instance(
                id=f"0191d2f0-0000-7000-8000-{number:012}",
                name=f"web-{number:02}",
                image="registry.example:5000/team/app:1.2",
                instance_type="basic-2",
                status=instances_pb2.Instance.STATE_RUNNING,
                ports="8080:80",
                vpc_id="0191d2f0-0000-7000-8000-000000000100",
                private_ip=f"10.0.0.{number}",
                container_id="thecloud-web",
                env=["MODE=production", "PORT=80"],
                user_id="0191d2f0-0000-7000-8000-000000000200",
                tenant_id="0191d2f0-0000-7000-8000-000000000300",
                host="local",
            )
            for number in range(20)
        ]
    )


def mixed() -> Message:
    """The same with numbers, maps and a different moment in each."""
    message = strings()
    for number, instance in enumerate(message.instances):  # type: ignore[attr-defined]
        instance.version = 2**40 + number
        instance.reconciling = True
        instance.labels.update({"tier": "web", "team": "blue", "zone": str(number)})
        instance.metadata.update({"owner": "ops"})
        instance.created_at.FromNanoseconds((1_767_654_000 + 100_000 * number) * 10**9 + 123_456_000)
        instance.updated_at.FromNanoseconds((1_777_654_000 + 100_001 * number) * 10**9 + 654_321_000)
    return message


if __name__ == "__main__":
    for figure in figures():
        print(json.dumps(figure))
