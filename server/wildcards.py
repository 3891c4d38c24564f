"""Patterns in which "*" stands for any run of characters, none included. Nothing else is special."""

import re
from collections.abc import Callable
from functools import lru_cache

Matches = Callable[[str], object]


@lru_cache(16384)
def matcher(pattern: str) -> Matches:
    """Whether a text is what the pattern says; true and false are meant by truthiness."""
    if pattern == "*":
        return lambda text: True
    if "*" not in pattern:
        return pattern.__eq__
    first, *rest = (re.escape(each) for each in re.split(r"\*+", pattern))
    # An atomic group keeps the first place where a part fits, which is as good as any later one: no backtracking.
    *inner, last = rest
    text = first + "".join(f"(?>.*?{each})" for each in inner) + ".*" + last
    return re.compile(text, re.DOTALL).fullmatch
