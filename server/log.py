"""Structured logs: one event a line, JSON for machines, text on a terminal."""

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from random import getrandbits
from typing import Any

import orjson
import structlog

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")


def new_request_id() -> str:
    """An id for a call that brought none: no secret, so uuid4's bits from the kernel would be a waste."""
    return f"{getrandbits(128):032x}"


def configure(level: str, form: str) -> None:
    """Set up structlog, and send the standard library's loggers through it from WARNING up."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _with_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if text:
        # A plain traceback: the default one prints local variables, secrets among them.
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        processors = [*shared, renderer]
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        processors = [*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer(orjson.dumps)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=processors, logger_factory=factory, cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(number),
    )  # fmt: skip
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[_Forward()], force=True)


def _with_request_id(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if request_id := REQUEST_ID.get():
        event.setdefault("request_id", request_id)
    return event


class _Forward(logging.Handler):
    """What libraries log, as our events."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(
            record.levelno, "library", logger=record.name, message=record.getMessage(), exc_info=record.exc_info
        )
