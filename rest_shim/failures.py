"""Errors as JSON: the documented body, and RFC 9457 for who asks for that."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from google.rpc.error_details_pb2 import BadRequest

from server.errors import ApiError

JSON = (b"content-type", b"application/json")


def meta(metadata: Mapping[str, str]) -> dict[str, str]:
    return {"request_id": metadata["x-request-id"], "timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}


def body_of(error: ApiError, metadata: Mapping[str, str]) -> tuple[bytes, tuple[bytes, bytes]]:
    """The JSON that tells of the error, and its type: as RFC 9457 has it for who asks for that."""
    if "application/problem+json" in metadata.get("accept", ""):
        return orjson.dumps(problem(error, metadata)), (b"content-type", b"application/problem+json")
    return orjson.dumps({"error": described(error), "meta": meta(metadata)}), JSON


def described(error: ApiError) -> dict[str, Any]:
    """The error object of a body."""
    body: dict[str, Any] = {
        "type": error.rule.json, "code": error.rule.json, "message": error.message, "reason": error.reason
    }  # fmt: skip
    if error.metadata:
        body["metadata"] = error.metadata
    if (bad := error.detail(BadRequest)) is not None:
        body["fields"] = fields_of(bad)
    return body


def problem(error: ApiError, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The error as RFC 9457 has it."""
    body: dict[str, Any] = {
        "type": f"urn:thecloud:error:{error.reason.lower().replace('_', '-')}",
        "title": error.reason.replace("_", " ").capitalize(),
        "status": error.rule.http,
        "detail": error.message,
        "instance": f"urn:thecloud:request:{metadata['x-request-id']}",
        "code": error.rule.json,
        **error.metadata,
    }
    if (bad := error.detail(BadRequest)) is not None:
        body["errors"] = fields_of(bad)
    return body


def fields_of(bad: Any) -> list[dict[str, str]]:
    return [{"field": each.field, "description": each.description} for each in bad.field_violations]
