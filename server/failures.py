"""What the caller is told of an exception."""

import asyncpg

from server.errors import ApiError, invalid


def to_api_error(exception: Exception, request_id: str) -> ApiError:
    """Any exception as what the caller may know of it."""
    match exception:
        case ApiError():
            return exception
        case TimeoutError():
            return ApiError("DEADLINE_EXCEEDED", "the call's deadline passed before it was done; nothing was changed")
        case asyncpg.PostgresError() if (error := violated(exception)) is not None:
            return error
        case OSError() | asyncpg.PostgresConnectionError() | asyncpg.OperatorInterventionError():
            return unavailable(request_id)
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return unavailable(request_id)
    return ApiError("INTERNAL", f"internal error; the server's log has the cause under request id {request_id}")


def unavailable(request_id: str) -> ApiError:
    return ApiError("UNAVAILABLE", f"the server cannot reach what it needs; try again. Request id {request_id}")


def violated(error: asyncpg.PostgresError) -> ApiError | None:
    """What a statement that the database turned down says to the caller; None when it is not the caller's doing."""
    match error:
        case asyncpg.UniqueViolationError() | asyncpg.ExclusionViolationError():
            return ApiError("ALREADY_EXISTS", f"it is there already ({error.constraint_name})")
        case asyncpg.ForeignKeyViolationError():
            return ApiError("IN_USE", f"something else refers to it ({error.constraint_name})")
        case asyncpg.CheckViolationError():
            return invalid("", f"the values break the rule {error.constraint_name}")
        case asyncpg.CharacterNotInRepertoireError() | asyncpg.UntranslatableCharacterError():
            return invalid("", "text must not contain the zero character")
    sent_by_server = getattr(error, "severity", None)
    return invalid("", str(error)) if isinstance(error, asyncpg.DataError) and sent_by_server else None
