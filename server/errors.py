"""Errors a caller may see. Anything else that leaves a method is a bug, and answers INTERNAL."""

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from thecloud.v1 import errors_pb2, options_pb2

DOMAIN = "thecloud.v1"
REASONS: dict[str, options_pb2.ErrorRule] = {
    value.name.removeprefix("ERROR_REASON_"): value.GetOptions().Extensions[options_pb2.error]  # type: ignore[index]
    for value in errors_pb2.ErrorReason.DESCRIPTOR.values[1:]
}


class ApiError(Exception):
    """`reason` is an ErrorReason of errors.proto without its prefix, `metadata` its documented keys.

    `details` are further messages of google.rpc, such as BadRequest or QuotaFailure.
    """

    def __init__(self, reason: str, message: str, *details: Message, **metadata: str) -> None:
        super().__init__(message)
        self.rule = REASONS[reason]
        self.reason, self.message, self.details, self.metadata = reason, message, details, metadata

    def to_status(self) -> status_pb2.Status:
        """The error as gRPC reports it, with an ErrorInfo first among its details."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        status = status_pb2.Status(code=self.rule.code, message=self.message)
        for detail in (info, *self.details):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status

    def detail(self, kind: type[Message]) -> Message | None:
        """The detail of this kind, if there is one."""
        return next((detail for detail in self.details if isinstance(detail, kind)), None)


def from_status(status: status_pb2.Status) -> ApiError:
    """What `to_status` was made from; a status without our ErrorInfo is INTERNAL."""
    info, details = error_details_pb2.ErrorInfo(reason="INTERNAL"), []
    for packed in status.details:
        if packed.Unpack(info):
            continue
        for kind in (error_details_pb2.BadRequest, error_details_pb2.QuotaFailure, error_details_pb2.RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                details.append(kind.FromString(packed.value))
    reason = info.reason if info.reason in REASONS else "INTERNAL"
    return ApiError(reason, status.message, *details, **dict(info.metadata))


def not_found(kind: str, id: object) -> ApiError:
    return ApiError("NOT_FOUND", f"{kind} {id} not found", kind=kind, id=str(id))


def wrong_state(kind: str, id: UUID, state: str, *allowed: str) -> ApiError:
    return ApiError(
        "WRONG_STATE",
        f"{kind} {id} is {state}; this needs {' or '.join(allowed)}",
        kind=kind, id=str(id), state=state, allowed=",".join(allowed),
    )  # fmt: skip


def unsupported(what: str, driver: object) -> ApiError:
    name = type(driver).__name__
    return ApiError("UNSUPPORTED", f"the driver {name} has no {what}", driver=name)


def invalid(field: str, description: str, **metadata: str) -> ApiError:
    return invalid_fields([(field, description)], **metadata)


def invalid_fields(violations: Sequence[tuple[str, str]], **metadata: str) -> ApiError:
    """What is wrong with each field, all at once."""
    bad = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in violations
        ]
    )
    message = "; ".join(f"{field}: {text}" if field else text for field, text in violations)
    first = violations[0][0]
    return ApiError("INVALID_ARGUMENT", message, bad, **({"field": first} if first else {}), **metadata)


def rate_limited(seconds: float) -> ApiError:
    whole = max(1, round(seconds + 0.5))
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=whole))
    return ApiError("RATE_LIMITED", f"too many requests; try again in {whole} s", retry)


def quota_exceeded(quota: str, limit: int, used: int, asked: int) -> ApiError:
    message = (
        f"the tenant's quota of {limit} {quota} does not allow this: {used} in use, {asked} more asked for; "
        "remove what is not needed, or ask the operator for more"
    )
    failure = error_details_pb2.QuotaFailure(
        violations=[error_details_pb2.QuotaFailure.Violation(subject=quota, description=message)]
    )
    return ApiError("QUOTA_EXCEEDED", message, failure,
                    quota=quota, limit=str(limit), used=str(used), asked=str(asked))  # fmt: skip


def budget_exceeded(limit: Decimal, spent: Decimal) -> ApiError:
    message = (
        f"the tenant has spent {spent} of its {limit:f} US dollars for this month; raise its budget "
        "(PUT /billing/budget), or wait for the next month"
    )
    return ApiError("BUDGET_EXCEEDED", message, limit=f"{limit:f}", spent=str(spent))
