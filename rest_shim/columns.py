"""Lists that come as columns, which become JSON in a third of the time of as many messages."""

from itertools import repeat
from typing import Any

from rest_shim.encoding import moment

FIELD = "columns"
MICROSECONDS = "_us"


def rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """The data of each object: its values, and those that all have. What "created_at_us" says is in "created_at"."""
    names, values = [], list[Any]()
    for name, each in columns.items():
        if name.endswith(MICROSECONDS):
            name, each = name.removesuffix(MICROSECONDS), map(moment, each)
        names.append(name)
        values.append(repeat(each) if isinstance(each, str) else each)
    return [dict(zip(names, each, strict=False)) for each in zip(*values, strict=False)]
