"""What fields of a request say that its annotations do not (server/validation.py)."""

from datetime import UTC, datetime
from typing import Any

from server.errors import invalid


def moment(request: Any, name: str) -> datetime | None:
    """The moment in this field of a request, if it has one."""
    try:
        return getattr(request, name).ToDatetime(UTC) if request.HasField(name) else None
    except (ValueError, OverflowError):
        raise invalid(name, "this is no moment of the years 1 to 9999") from None


def masked(request: Any, *names: str) -> dict[str, Any]:
    """The fields an update changes: what its mask names of those that may be changed."""
    fixed = set(request.update_mask.paths) - set(names)
    if fixed:
        raise invalid("update_mask", f"cannot change {', '.join(sorted(fixed))}; it takes {', '.join(names)}")
    return {name: getattr(request, name) for name in names if name in request.update_mask.paths}
