"""Pages of rows, newest first, and the tokens that lead from one to the next."""

import base64
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa

from server.db import MOST, Row, Tx, rows
from server.errors import invalid
from server.messages import EPOCH

R = TypeVar("R", bound=Row)


async def page(
    tx: Tx, cls: type[R], where: sa.ColumnElement[bool], *, size: int, token: str, **values: object
) -> tuple[list[R], str]:
    """Rows newest first, and the token of the next page ("" on the last).

    `where` is a constant with bindparams, so that its statement is built once.
    """
    size = min(size or MOST, MOST)
    if token:
        values["page_at"], values["page_id"] = read_token(token)
    statement = newest_first(cls, where, bool(token))  # type: ignore[arg-type]
    found = await rows(tx, cls, statement, page_limit=size + 1, **values)
    last = found[size - 1] if len(found) > size else None
    return found[:size], page_token(last.created_at, last.id) if last else ""


@cache
def newest_first(cls: type[Row], where: sa.ColumnElement[bool], later: bool) -> sa.Select[Any]:
    """The statement of page(). `later`: of a page that follows on another."""
    columns = cls.TABLE.c
    statement = sa.select(cls.TABLE).where(where)
    if later:
        last = sa.tuple_(sa.bindparam("page_at", type_=columns.created_at.type),
                         sa.bindparam("page_id", type_=columns.id.type))  # fmt: skip
        statement = statement.where(sa.tuple_(columns.created_at, columns.id) < last)
    order = (columns.created_at.desc(), columns.id.desc())
    return statement.order_by(*order).limit(sa.bindparam("page_limit", type_=sa.Integer))


def page_token(at: datetime, id: UUID) -> str:
    """The token of the page that follows on what is of this moment and has this id."""
    return base64.urlsafe_b64encode(f"{at.timestamp() * 1e6:.0f} {id.hex}".encode()).decode()


def read_token(token: str) -> tuple[datetime, UUID]:
    try:
        at, id = base64.urlsafe_b64decode(token).decode().split()
        return EPOCH + timedelta(microseconds=int(at)), UUID(id)
    except (ValueError, OverflowError):
        raise invalid("page_token", "this is not a page token of this list; leave it out to start anew") from None
