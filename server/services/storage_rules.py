"""Rules of buckets by which objects, versions, delete markers and uploads go by themselves.

What is due at a moment is one statement for each action. The work does what is due now; the preview shows what is due
tomorrow, of the same statements, so that it is what the work will do.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import storage_pb2 as pb

from server import changes, db, object_rows, object_versions
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid
from server.object_rows import Bucket, LifecycleRule, O, Object, Part, Upload
from server.services import storage_lives
from server.work import RECONCILERS, every, nudge

if TYPE_CHECKING:
    from server.app import App

BATCH = 500  # of what is due, at once
MOST = 100  # rules of a bucket: each object may be looked at for each of them
KIND = "lifecycle"  # of work, whose id is the bucket's
SOON = timedelta(days=1)  # what a preview looks ahead

P, U, L = Part.TABLE.c, Upload.TABLE.c, LifecycleRule.TABLE.c
_others = Object.TABLE.alias("others")
_theirs = LifecycleRule.TABLE.alias("theirs")
_LAST = sa.literal("\U0010ffff" * 257)  # after all that can follow on a prefix: a key has at most 1,024 bytes
_DAY = sa.literal_column("interval '24 hours'", postgresql.INTERVAL)
_moment = sa.bindparam("moment", type_=postgresql.TIMESTAMP(timezone=True))
_bucket = sa.bindparam("bucket_id", type_=postgresql.UUID)
_size = sa.select(sa.func.coalesce(sa.func.sum(P.size_bytes), 0)).where(P.upload_id == U.id).scalar_subquery()


def _ruled(key: Any, prefix: Any) -> sa.ColumnElement[bool]:
    """Whether it begins so: as a range, for which there is an index."""
    return sa.and_(key >= prefix, key < prefix + _LAST)


def _older(since: Any, days: Any) -> sa.ColumnElement[bool]:
    return since < _moment - days * _DAY  # type: ignore[no-any-return]


def _due(action: str, what: Any, *where: sa.ColumnElement[bool], version: Any, size: Any) -> sa.Select[Any]:
    return sa.select(
        L.id.label("rule_id"),
        L.created_at.label("rule_since"),
        L.user_id,
        sa.literal(action).label("action"),
        what.id,
        what.key,
        version.label("version_id"),
        sa.cast(size, sa.BigInteger).label("size_bytes"),
    ).where(L.bucket_id == _bucket, what.bucket_id == _bucket, L.enabled, _ruled(what.key, L.prefix), *where)


def _due_version(action: str, *where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return _due(action, O, *where, version=O.version_id, size=O.size_bytes)


_going = sa.exists().where(
    _theirs.c.bucket_id == _bucket, _theirs.c.enabled, _ruled(_others.c.key, _theirs.c.prefix),
    ~_others.c.is_latest, _older(_others.c.noncurrent_since, _theirs.c.noncurrent_days),
)  # fmt: skip
_staying = sa.exists().where(_others.c.bucket_id == _bucket, _others.c.key == O.key, _others.c.id != O.id, ~_going)
DUE = {  # in the order in which it is done: a marker has nothing to hide once the versions have gone
    "EXPIRE": _due_version("EXPIRE", O.is_latest, ~O.delete_marker, _older(O.created_at, L.expiration_days)),
    "DELETE_VERSION": _due_version("DELETE_VERSION", ~O.is_latest, _older(O.noncurrent_since, L.noncurrent_days)),
    "ABORT_UPLOAD": _due("ABORT_UPLOAD", U, _older(U.created_at, L.abort_upload_days), version=sa.literal(""),
                         size=_size),
    "DELETE_MARKER": _due_version("DELETE_MARKER", O.is_latest, O.delete_marker, L.expired_markers, ~_staying),
}  # fmt: skip
_SOME = {action: due.limit(sa.bindparam("most", type_=sa.Integer)) for action, due in DUE.items()}
_THIS = {action: due.where((U if action == "ABORT_UPLOAD" else O).id == sa.bindparam("this", type_=postgresql.UUID))
         for action, due in DUE.items()}  # fmt: skip
_HIDDEN = sa.select(O.id).where(O.bucket_id == _bucket, O.key == sa.bindparam("key", type_=sa.Text),
                                ~(O.is_latest & O.delete_marker)).limit(1)  # fmt: skip
_all = sa.union_all(*DUE.values()).subquery("due")
_EACH = (
    sa.select(_all).ext(postgresql.distinct_on(_all.c.key, _all.c.id))
    .order_by(_all.c.key, _all.c.id, _all.c.rule_since, _all.c.rule_id)
)  # fmt: skip
_PAGE = _EACH.where(
    sa.tuple_(_all.c.key, _all.c.id)
    > sa.tuple_(sa.bindparam("after", type_=sa.Text), sa.bindparam("after_id", type_=postgresql.UUID))
).limit(sa.bindparam("most", type_=sa.Integer))
_each = _EACH.subquery("each")
_TOTALS = sa.select(sa.func.count(), sa.cast(sa.func.coalesce(sa.func.sum(_each.c.size_bytes), 0), sa.BigInteger)
                    ).select_from(_each)  # fmt: skip
_OF = sa.select(LifecycleRule.TABLE).where(L.bucket_id == _bucket)
_COUNT = sa.select(sa.func.count()).select_from(LifecycleRule.TABLE).where(L.bucket_id == _bucket)
_RULED = sa.select(L.bucket_id).where(L.enabled).distinct()


async def create(call: Call, bucket: Bucket, request: pb.CreateLifecycleRuleRequest) -> LifecycleRule:
    """Give a bucket, whose row is locked, one more rule."""
    if await db.value(call.tx, _COUNT, bucket_id=bucket.id) >= MOST:
        raise ApiError("IN_USE", f"the bucket has {MOST} rules, which is the most; delete one first", kind="bucket",
                       id=str(bucket.id), by="lifecycle_rules")  # fmt: skip
    try:
        return await _made(call, bucket, uuid4(), request, request.name)
    except asyncpg.UniqueViolationError:
        raise ApiError("ALREADY_EXISTS", f"the bucket has a rule for {request.prefix!r} already; delete that first, "
                       "or give this one a name", kind="lifecycle_rule", name=request.prefix) from None  # fmt: skip


async def replace(
    call: Call, bucket: Bucket, rules: Sequence[pb.LifecycleRuleSettings]
) -> list[LifecycleRule]:  # fmt: skip
    """Give a bucket, whose row is locked, these rules, and no others."""
    names = [rule.name for rule in rules if rule.name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise invalid("rules", f"two of them have the name {twice!r}; give each its own")
    for rule in await db.rows(call.tx, LifecycleRule, _OF, bucket_id=bucket.id):
        await changes.delete(call.tx, rule)
    ids = [uuid4() for _ in rules]
    return [
        await _made(call, bucket, id, rule, rule.name or str(id)) for id, rule in zip(ids, rules, strict=True)
    ]  # fmt: skip


async def preview(call: Call, bucket: Bucket, request: pb.PreviewLifecycleRequest) -> pb.PreviewLifecycleResponse:
    """A page of what is due tomorrow, as far as the caller may see it."""
    size, now = min(request.page_size or db.MOST, db.MOST), datetime.now(UTC)
    after, after_id = _read_token(request.page_token) if request.page_token else ("", UUID(int=0))
    values = {"bucket_id": bucket.id, "moment": now + SOON}
    found = await db.records(call.tx, _PAGE, after=after, after_id=after_id, most=size + 1, **values)
    total, size_bytes = (await db.record(call.tx, _TOTALS, **values)).values()
    last = found[size - 1] if len(found) > size else None
    return pb.PreviewLifecycleResponse(
        expiries=(
            pb.LifecycleExpiry(
                rule_id=str(each["rule_id"]), action=f"ACTION_{each['action']}", id=str(each["id"]), key=each["key"],
                version_id=each["version_id"], size_bytes=each["size_bytes"],
            )
            for each in found[:size] if _may_see(call, bucket, each)
        ),
        next_page_token=object_rows.key_token(f"{last['id']}{last['key']}") if last else "",
        total=total, total_bytes=size_bytes,
    )  # fmt: skip


async def reconcile(app: "App", id: UUID) -> timedelta | None:
    """Do what is due by the rules of a bucket, some at a time; each by itself, so that nobody waits for long."""
    for action, statement in _SOME.items():
        async with app.db.reading() as tx:
            found = await db.records(tx, statement, bucket_id=id, moment=datetime.now(UTC), most=BATCH)
        for each in found:
            async with app.db.transaction() as tx:
                bucket = await db.find(tx, Bucket, id, lock=True)  # which may keep versions since
                if bucket is None or bucket.deleted_at:
                    return None
                await _do(tx, bucket, action, each["id"], each["key"])
        if len(found) == BATCH:
            return timedelta(0)
    return None


RECONCILERS[KIND] = reconcile


@every(timedelta(days=1))
async def expire(app: "App") -> None:
    """Have the rules that are in force looked at."""
    async with app.db.transaction() as tx:
        for each in await db.records(tx, _RULED):
            await nudge(tx, KIND, each["bucket_id"])


async def _made(call: Call, bucket: Bucket, id: UUID, said: Any, name: str) -> LifecycleRule:
    days = {each: getattr(said, each) if said.HasField(each) else None
            for each in ("expiration_days", "noncurrent_days", "abort_upload_days")}  # fmt: skip
    return await changes.insert(
        call.tx, LifecycleRule, id=id, tenant_id=call.tenant_id, user_id=call.principal.user_id, bucket_id=bucket.id,
        bucket_name=bucket.name, prefix=said.prefix, name=name, expired_markers=said.expired_markers,
        enabled=not said.HasField("enabled") or said.enabled, **days,
    )  # fmt: skip


async def _do(tx: Tx, bucket: Bucket, action: str, id: UUID, key: str) -> None:
    """Do it, if it is still due now that nobody else can change it."""
    if action == "ABORT_UPLOAD":
        upload = await db.find(tx, Upload, id, lock=True)
    else:
        await object_rows.alone(tx, (bucket, key))
    due = await db.record(tx, _THIS[action], bucket_id=bucket.id, moment=datetime.now(UTC), this=id)
    if due is None or (action == "DELETE_MARKER" and await db.value(tx, _HIDDEN, bucket_id=bucket.id, key=key)):
        return
    if action == "ABORT_UPLOAD":
        assert upload
        await storage_lives.forget(tx, upload)
    elif action == "EXPIRE":
        await object_versions.hide(tx, bucket, key, due["user_id"])
    elif row := await db.find(tx, Object, id):
        await object_versions.drop(tx, row)


def _may_see(call: Call, bucket: Bucket, due: Any) -> bool:
    kind = Upload.KIND if due["action"] == "ABORT_UPLOAD" else Object.KIND
    return call.may(call.method.permission, kind, str(due["id"]), f"{bucket.name}/{due['key']}")


def _read_token(token: str) -> tuple[str, UUID]:
    text = object_rows.read_key(token)
    try:
        return text[36:], UUID(text[:36])
    except ValueError:
        raise invalid("page_token", "this is not a page token of this list; leave it out to start anew") from None
