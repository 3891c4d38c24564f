"""What becomes of buckets, blobs and uploads after the replies: emptied, deleted, swept."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import changes, db, object_versions
from server.db import Tx
from server.object_rows import Bucket, LifecycleRule, O, Object, Part, Upload
from server.work import LONGER, RECONCILERS, TOGETHER, every

if TYPE_CHECKING:
    from server.app import App

BATCH = 500  # rows of one transaction
ABANDONED = timedelta(days=7)  # after which an upload in parts is forgotten
# After which a blob without a row is nobody's. An S3 server dates what is still being put by its beginning.
ORPHANED = timedelta(days=1)

P, U, L = Part.TABLE.c, Upload.TABLE.c, LifecycleRule.TABLE.c
_uuids = postgresql.ARRAY(postgresql.UUID)
_bucket = sa.bindparam("bucket_id", type_=postgresql.UUID)
_some = sa.select(O.id).where(O.bucket_id == _bucket).limit(BATCH)
_EMPTY = sa.delete(Object.TABLE).where(O.id.in_(_some)).returning(Object.TABLE)
_UPLOADS = sa.select(Upload.TABLE).where(U.bucket_id == _bucket).limit(BATCH).with_for_update()
_RULES = sa.delete(LifecycleRule.TABLE).where(L.bucket_id == _bucket)
_PARTS = sa.delete(Part.TABLE).where(P.upload_id == sa.bindparam("upload", type_=postgresql.UUID)).returning(Part.TABLE)
_given = sa.any_(sa.bindparam("ids", type_=_uuids))
_KNOWN = sa.union_all(sa.select(O.id).where(O.id == _given), sa.select(P.id).where(P.id == _given))
_ABANDONED = (
    sa.select(Upload.TABLE).where(U.created_at < sa.bindparam("before", type_=U.created_at.type)).limit(BATCH)
    .with_for_update(skip_locked=True)
)  # fmt: skip


async def forget(tx: Tx, upload: Upload) -> None:
    """Drop an upload, whose row is locked, and its parts."""
    await object_versions.discard(tx, await db.rows(tx, Part, _PARTS, upload=upload.id))
    await changes.delete(tx, upload)


async def reconcile_bucket(app: "App", id: UUID) -> timedelta | None:
    """Empty a bucket that was deleted, some objects at a time; then drop it."""
    async with app.db.transaction() as tx:
        bucket = await db.find(tx, Bucket, id, lock=True)
        if bucket is None or bucket.deleted_at is None:
            return None
        removed = await db.rows(tx, Object, _EMPTY, bucket_id=id)
        for row in removed:
            changes.append(tx, row, None)
        await object_versions.discard(tx, removed)
        uploads = await db.rows(tx, Upload, _UPLOADS, bucket_id=id)
        for upload in uploads:
            await forget(tx, upload)
        if removed or uploads:
            return timedelta(0)
        await db.execute(tx, _RULES, bucket_id=id)
        await db.delete(tx, bucket)
        return None


RECONCILERS[Bucket.KIND] = reconcile_bucket
LONGER[f"{__name__}.collect"] = 6 * 3600.0  # seconds; it looks at all there is


@every(timedelta(hours=1))
async def sweep(app: "App") -> None:
    """Forget uploads that were never completed."""
    while True:
        async with app.db.transaction() as tx:
            found = await db.rows(tx, Upload, _ABANDONED, before=datetime.now(UTC) - ABANDONED)
            for upload in found:
                await forget(tx, upload)
        if len(found) < BATCH:
            return


@every(timedelta(hours=1), each_host=True)
async def collect(app: "App") -> None:
    """Delete blobs that no row has: of uploads that died between storing them and saying so."""
    some: list[UUID] = []
    async for id, since in app.drivers.objects.list():
        if since < datetime.now(UTC) - ORPHANED:
            some.append(id)
        if len(some) == BATCH:
            await collect_some(app, some)
            some = []
    await collect_some(app, some)


async def collect_some(app: "App", ids: Sequence[UUID]) -> None:
    """Delete those of these blobs that no row has."""
    async with app.db.reading() as tx:
        known = {each["id"] for each in await db.records(tx, _KNOWN, ids=ids)}
    for id in ids:
        if id not in known:
            await app.drivers.objects.delete(id)


TOGETHER["blob"] = collect_some
