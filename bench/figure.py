"""A figure: what is printed of one measurement, and how to measure two sides fairly."""

import sys
from collections.abc import Callable
from statistics import median
from typing import Any


def figure(
    name: str, value: float | None, unit: str, against: str, ratio: float | None, goal: float | None, *,
    at_most: bool = False, reason: str = "",
) -> dict[str, Any]:  # fmt: skip
    """One line of output. A goal is the least ratio there should be, or with `at_most` the greatest.

    `reason` says why a goal is missed, or why there is no value; it is left out of a figure that meets its goal.
    """
    met = None
    if goal is not None:
        met = ratio is not None and (ratio <= goal if at_most else ratio >= goal)
    line: dict[str, Any] = {
        "name": name, "value": value, "unit": unit, "against": against,
        "ratio": None if ratio is None else round(ratio, 2), "goal": goal, "met": met,
    }  # fmt: skip
    return line | {"reason": reason} if reason and not met else line


def told(text: str) -> None:
    """Say how far something long has come."""
    sys.stderr.write(f"  {text}\n")


def medians(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """The median of what each side measures, over rounds in which all take their turn. A first round does not count."""
    taken: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, values in zip(sides, taken, strict=True):
            value = side()
            if number:
                values.append(value)
    return [median(values) for values in taken]
