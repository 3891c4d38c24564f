"""Lists that come as columns, which become JSON in a fifth of the time of as many messages."""

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Any

import orjson

from rest_shim.encoding import moment

FIELD = "columns"
MICROSECONDS = "_us"


def objects(columns: dict[str, Any]) -> orjson.Fragment:
    """The JSON of a list of objects, of each its values and those that all have. What "created_at_us" says is in
    "created_at".

    It is put together from the values and what is between them, in one go: an object at a time takes twice as long.
    """
    pieces, between = list[Iterable[str]](), "{"
    for name, values in columns.items():
        if isinstance(values, str):
            between += f'"{name}":{orjson.dumps(values).decode()},'
            continue
        if name.endswith(MICROSECONDS):
            name, values = name.removesuffix(MICROSECONDS), [*map(moment, values)]
        quote = '"' if values and isinstance(values[0], str) else ""
        pieces += [repeat(f'{between}"{name}":{quote}'), _each(values, quote)]
        between = f"{quote},"
    pieces.append(repeat(between.removesuffix(",") + "},"))
    return orjson.Fragment(f"[{''.join(chain.from_iterable(zip(*pieces, strict=False))).removesuffix(',')}]")


def _each(values: Sequence[Any], quote: str) -> Sequence[str]:
    """The JSON of each value, without its quotes."""
    if not quote:
        return orjson.dumps(values).decode()[1:-1].split(",") if values else ()
    text = "".join(values)
    if len(orjson.dumps(text)) == len(text.encode()) + 2:  # there is nothing in it to escape
        return values
    return [orjson.dumps(each).decode()[1:-1] for each in values]
