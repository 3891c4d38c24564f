"""What a decision takes: a user with a role and twenty policies of ten statements, of which most matter.

Statements name ids, names with an asterisk and ARNs, some deny and some have a condition. The
same decisions are taken by a plain evaluator, which goes through the statements one by one.
"""

import random
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any
from uuid import UUID

from bench.figure import figure
from server.access import ROLES, Access, Policy
from server.resources import Resource

GOAL = 10.0  # microseconds
ROUNDS, DECISIONS = 15, 2000
ACTIONS = ("instance:read", "instance:launch", "instance:update", "instance:*", "iam:read", "tenant:update")
CONTEXT = {"aws:SourceIp": "127.0.0.1"}


def figures() -> Iterator[dict[str, Any]]:
    dice = random.Random(1)
    ids = [str(UUID(int=dice.getrandbits(128))) for _ in range(500)]
    policies = [Policy.compile(str(n), f"p{n}", [statement(dice, ids) for _ in range(10)]) for n in range(20)]
    mine = Access("tenant", [ROLES["viewer"], *policies])
    asked = [
        (dice.choice(ACTIONS[:3]), Resource("instance", dice.choice(ids), f"web-{dice.randrange(100)}", "tenant"))
        for _ in range(DECISIONS)
    ]
    taken: list[tuple[float, float]] = []
    for number in range(ROUNDS + 1):
        each = timed(mine, asked, "may"), timed(mine, asked[: DECISIONS // 10], "explain")
        if number:
            taken.append(each)
    ours, plain = median(each for each, _ in taken), median(each for _, each in taken)
    yield figure("access decision", round(ours, 1), "µs", "goal", GOAL / ours, 1.0)
    yield figure("access decision, gathered", round(ours, 1), "µs", "one statement after the other", plain / ours, None)


def statement(dice: random.Random, ids: list[str]) -> dict[str, Any]:
    resources = dice.choice([
        dice.sample(ids, 3), dice.sample(ids, 3), [f"instance:web-{dice.randrange(100)}*"],
        [f"arn:thecloud:compute:local:tenant:instance/{dice.choice(ids)}"],
    ])  # fmt: skip
    effect = "Deny" if dice.random() < 0.2 else "Allow"
    condition = {"condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}} if dice.random() < 0.1 else {}
    return {"effect": effect, "action": [dice.choice(ACTIONS)], "resource": resources} | condition


def timed(mine: Access, asked: list[tuple[str, Resource]], how: str) -> float:
    """Microseconds a decision."""
    decide = getattr(mine, how)
    began = perf_counter()
    for permission, resource in asked:
        decide(permission, resource, lambda: CONTEXT)
    return (perf_counter() - began) / len(asked) * 1e6
