"""Lists in the order of keys, with what is below a common prefix left out unread.

A page is a walk along an index: each step looks up the first row after the mark that the one before has left, and a
row below a common prefix leaves the mark behind all that begins so. So what a page costs depends on what is on it, not
on how many keys there are; and, for who does not see them all, on how many of these are in between. A page ends with
something that its reader sees: what the next one begins after is told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db, pages
from server.db import Tx
from server.errors import ApiError
from server.object_messages import LISTED, moment
from server.object_rows import O, Object, Upload, beyond

READS = 100  # of 1,000 keys each, for one page of what its reader sees
LAST = "\U0010ffff" * 257  # which no key has room for: all keys are before it, and with a prefix all that begin so

U = Upload.TABLE.c
_bucket_id = sa.bindparam("bucket_id", type_=postgresql.UUID)
_after, _prefix, _delimiter, _beyond = (
    sa.bindparam(name, type_=sa.Text) for name in ("after", "prefix", "delimiter", "beyond")
)
_most = sa.bindparam("most", type_=sa.Integer)
_seen = sa.and_(O.bucket_id == _bucket_id, O.is_latest, ~O.delete_marker)


@dataclass(frozen=True)
class Page:
    """Records and common prefixes. `last` is what the next page begins after, and its record unless it is a prefix;
    None when there is no next page."""

    records: Sequence[Any]
    prefixes: Sequence[str]
    last: tuple[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a page is to have: keys with this prefix, and after the last one of the page before."""

    bucket_id: UUID
    prefix: str
    delimiter: str
    after: str
    size: int
    after_id: UUID | None = None  # the row of that key, where a key has several
    after_at: datetime | None = None  # when it was made
    sees: Callable[[Any], bool] | None = None  # whether the caller sees a record; None: all of them


def common_prefix(key: str, prefix: str, delimiter: str) -> str | None:
    """What the key is listed as: all up to the delimiter that follows on the prefix, if one does."""
    at = key.find(delimiter, len(prefix)) if delimiter and key.startswith(prefix) else -1
    return None if at < 0 else key[: at + len(delimiter)]


def _within(key: Any) -> sa.ColumnElement[bool]:
    return sa.and_(key >= _prefix, key < _beyond)


def _next_key(walk: Any) -> sa.Select[Any]:
    found = sa.select(O.id, O.key, O.created_at).where(_seen, O.key > walk.c.mark, _within(O.key))
    return found.order_by(O.key).limit(1).correlate(walk)


def _next_version(walk: Any) -> sa.Select[Any]:
    """The one before of the same key, else the newest of the next key."""
    each = Object.TABLE.alias("each").c
    newest_first = (each.created_at.desc(), each.id.desc())
    ids = sa.select(each.id).where(each.bucket_id == _bucket_id)
    older = ids.where(each.key == walk.c.mark, sa.tuple_(each.created_at, each.id) < sa.tuple_(walk.c.at, walk.c.id))
    other = ids.where(each.key > walk.c.mark, _within(each.key))
    found = sa.func.coalesce(
        older.order_by(*newest_first).limit(1).correlate(walk).scalar_subquery(),
        other.order_by(each.key, *newest_first).limit(1).correlate(walk).scalar_subquery(),
    )
    return sa.select(O.id, O.key, O.created_at).where(O.id == found).limit(1).correlate(walk)


def _next_upload(walk: Any) -> sa.Select[Any]:
    later = sa.tuple_(U.key, U.id) > sa.tuple_(walk.c.mark, walk.c.id)
    found = sa.select(U.id, U.key, U.created_at).where(U.bucket_id == _bucket_id, later, _within(U.key))
    return found.order_by(U.key, U.id).limit(1).correlate(walk)


def _text(value: Any) -> Any:
    """In the type and the order of keys, as a recursive statement wants to be told."""
    return sa.collate(sa.cast(value, sa.Text), "C")


def _walked(
    table: sa.Table, following: Callable[[Any], sa.Select[Any]], columns: Sequence[Any]
) -> sa.Select[Any]:  # fmt: skip
    walk = sa.select(
        sa.literal_column("0").label("n"), _text(_after).label("mark"),
        sa.bindparam("after_at", type_=table.c.created_at.type).label("at"),
        sa.bindparam("after_id", type_=table.c.id.type).label("id"),
        _text(sa.null()).label("common"),
    ).cte("walk", recursive=True)  # fmt: skip
    found = following(walk).lateral("found")
    length = sa.func.char_length(_prefix)
    at = sa.func.strpos(sa.func.substr(found.c.key, length + 1), _delimiter)
    end = length + at - 1 + sa.func.char_length(_delimiter)
    below = sa.case((sa.and_(_delimiter != "", at > 0), sa.func.left(found.c.key, end)))
    mark = sa.func.coalesce(below + LAST, found.c.key)
    step = sa.select(walk.c.n + 1, _text(mark), found.c.created_at, found.c.id, _text(below)).where(walk.c.n < _most)
    whole = walk.union_all(step)
    row = sa.select(*columns).where(table.c.id == whole.c.id).limit(1).lateral("row")
    return sa.select(row, whole.c.common).select_from(whole).where(whole.c.n > 0).order_by(whole.c.n)


_KEYS = _walked(Object.TABLE, _next_key, LISTED)
_VERSIONS = _walked(Object.TABLE, _next_version, LISTED)
_UPLOADS = _walked(Upload.TABLE, _next_upload, [*U])
_FLAT = sa.select(*LISTED, sa.null().label("common")).where(_seen, O.key > _after, _within(O.key))
_FLAT = _FLAT.order_by(O.key).limit(_most)


async def keys(tx: Tx, asked: Asked) -> Page:
    """The latest version of each object, as records of LISTED. Without a delimiter it is a stretch of the index."""
    return await _page(tx, _KEYS if asked.delimiter else _FLAT, asked)


async def versions(tx: Tx, asked: Asked) -> Page:
    """All versions and delete markers, as records of LISTED, those of one key newest first."""
    return await _page(tx, _VERSIONS, asked)


async def uploads(tx: Tx, asked: Asked) -> Page:
    """Uploads in parts, those of one key by their ids."""
    return await _page(tx, _UPLOADS, asked)


async def newest(
    tx: Tx, where: sa.ColumnElement[bool], *, size: int, token: str, **values: object
) -> tuple[list[Any], str]:  # fmt: skip
    """What pages.page() does, but as records of LISTED."""
    size = min(size or db.MOST, db.MOST)
    if token:
        values["page_at"], values["page_id"] = pages.read_token(token)
    found = await db.records(tx, _newest(where, bool(token)), page_limit=size + 1, **values)
    last = found[size - 1] if len(found) > size else None
    return found[:size], pages.page_token(moment(last["created_at_us"]), UUID(last["id"])) if last else ""


@cache
def _newest(where: sa.ColumnElement[bool], later: bool) -> sa.Select[Any]:
    return pages.newest_first(Object, where, later).with_only_columns(*LISTED)


async def _page(tx: Tx, statement: sa.Select[Any], asked: Asked) -> Page:
    found, more = await _visible(tx, statement, asked)
    page, last = found[: asked.size], None
    if more:
        common = page[-1]["common"]
        last = (page[-1]["key"], page[-1]) if common is None else (common, None)
    prefixes = [each["common"] for each in page if each["common"] is not None]
    return Page([each for each in page if each["common"] is None] if prefixes else page, prefixes, last)


async def _visible(tx: Tx, statement: sa.Select[Any], asked: Asked) -> tuple[list[Any], bool]:
    """The records that the caller sees, as many as are asked for at least, and whether there may be more than that."""
    seen, size = list[Any](), asked.size
    for _ in range(READS):
        found = await db.records(tx, statement, **_bound(replace(asked, size=size)))
        seen += found if asked.sees is None else filter(asked.sees, found)
        if len(seen) > asked.size or len(found) <= size:
            return seen, len(seen) > asked.size
        asked, size = _following(asked, found[-1]), db.MOST
    if not seen:
        raise ApiError("PERMISSION_DENIED", "there is too much here that you may not see; list with a prefix that you "
                       "may see", permission="storage:read")  # fmt: skip
    return seen, True


def _following(asked: Asked, record: Any) -> Asked:
    """The same, of what follows on this record."""
    at = record.get("created_at") or moment(record["created_at_us"])
    after = record["key"] if record["common"] is None else record["common"]
    return replace(asked, after=after, after_id=UUID(str(record["id"])), after_at=at)


def _bound(asked: Asked) -> dict[str, Any]:
    after, at = asked.after, common_prefix(asked.after, asked.prefix, asked.delimiter)
    return {
        "bucket_id": asked.bucket_id, "prefix": asked.prefix, "delimiter": asked.delimiter, "most": asked.size + 1,
        "beyond": beyond(asked.prefix) or LAST, "after": after if at is None else at + LAST,
        "after_id": asked.after_id, "after_at": asked.after_at,
    }  # fmt: skip
