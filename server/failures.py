"""What the caller is told of an exception."""

import asyncpg

from server import db
from server.errors import ApiError


def to_api_error(exception: Exception, request_id: str) -> ApiError:
    """Any exception as what the caller may know of it."""
    match exception:
        case ApiError():
            return exception
        case TimeoutError():
            return ApiError("DEADLINE_EXCEEDED", "the call's deadline passed before it was done; nothing was changed")
        case asyncpg.PostgresError() if (error := db.violated(exception)) is not None:
            return error
        case OSError() | asyncpg.PostgresConnectionError() | asyncpg.OperatorInterventionError():
            return unavailable(request_id)
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return unavailable(request_id)
    return ApiError("INTERNAL", f"internal error; the server's log has the cause under request id {request_id}")


def unavailable(request_id: str) -> ApiError:
    return ApiError("UNAVAILABLE", f"the server cannot reach what it needs; try again. Request id {request_id}")
