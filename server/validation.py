"""Requests, held against the buf.validate annotations of their fields."""

from typing import Any

import protovalidate
from google.protobuf.message import Message

from server.errors import invalid_fields

_validator = protovalidate.Validator()


def validate(request: Message) -> None:
    """Raise INVALID_ARGUMENT with all that is wrong with it."""
    if violations := _validator.collect_violations(request):
        raise invalid_fields([(_path(each.proto.field), each.proto.message) for each in violations])


def _path(path: Any) -> str:
    """`labels["env"]`, `volumes[0].mount_path`: the field a violation is about; empty for the whole message."""
    if path is None:
        return ""
    parts: list[str] = []
    for element in path.elements:
        parts.append(element.field_name)
        if (subscript := element.subscript) is not None:
            quoted = f'"{subscript.value}"' if subscript.field == "string_key" else subscript.value
            parts[-1] += f"[{quoted}]"
    return ".".join(parts)
