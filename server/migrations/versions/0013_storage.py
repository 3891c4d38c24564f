"""Object storage: buckets, the versions of objects, uploads in parts, and rules by which objects expire.

What a tenant has stored is a sum that the database itself keeps, in `storage_usage`: counting a million rows for each
upload would be too slow, and a sum that nobody has to remember to change cannot drift.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")
KEY = sa.Text(collation="C")
NEWEST = (sa.text("created_at desc"), sa.text("id desc"))
SEEN = sa.text("is_latest and not delete_marker")

USAGE = """
create function add_storage_usage() returns trigger language plpgsql as $$
begin
    insert into storage_usage (tenant_id, objects, bytes)
    select tenant_id, tg_argv[0]::int * sum(counted), tg_argv[0]::int * sum(size_bytes)
    from (select tenant_id, size_bytes, {counted} as counted from changed) as each
    group by tenant_id order by tenant_id
    on conflict (tenant_id) do update set
        objects = storage_usage.objects + excluded.objects, bytes = storage_usage.bytes + excluded.bytes;
    return null;
end
$$
"""


def owned(name: str, *columns: sa.schema.SchemaItem) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), nullable=False),
        *columns,
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
    )


def bucket() -> list[sa.Column[object]]:
    return [
        sa.Column("bucket_id", sa.Uuid, sa.ForeignKey("buckets.id"), nullable=False),
        sa.Column("bucket", sa.Text, nullable=False),
    ]


def upgrade() -> None:
    owned(
        "buckets",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("versioning", sa.Text, nullable=False),
        sa.Column("deleted_at", MOMENT),
        sa.CheckConstraint("versioning in ('OFF', 'ENABLED', 'SUSPENDED')", name="buckets_versioning"),
    )
    op.create_index("buckets_name", "buckets", ["name"], unique=True, postgresql_where=sa.text("deleted_at is null"))
    op.create_index("buckets_page", "buckets", ["tenant_id", *NEWEST])
    op.create_index("buckets_public", "buckets", [*NEWEST], postgresql_where=sa.text("is_public"))
    owned(
        "objects",
        *bucket(),
        sa.Column("key", KEY, nullable=False),
        sa.Column("version_id", sa.Text, nullable=False),
        sa.Column("is_latest", sa.Boolean, nullable=False),
        sa.Column("delete_marker", sa.Boolean, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("etag", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("metadata", postgresql.JSONB, nullable=False, server_default="{}"),
    )
    op.create_index("objects_version", "objects", ["bucket_id", "key", "version_id"], unique=True)
    op.create_index("objects_latest", "objects", ["bucket_id", "key"], unique=True,
                    postgresql_where=sa.text("is_latest"))  # fmt: skip
    op.create_index("objects_key", "objects", ["bucket_id", "key"], postgresql_where=SEEN)
    op.create_index("objects_page", "objects", ["bucket_id", *NEWEST], postgresql_where=SEEN)
    owned(
        "multipart_uploads",
        *bucket(),
        sa.Column("key", KEY, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
    )
    op.create_index("multipart_uploads_bucket", "multipart_uploads", ["bucket_id"])
    op.create_index("multipart_uploads_age", "multipart_uploads", ["created_at"])
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("upload_id", sa.Uuid, sa.ForeignKey("multipart_uploads.id"), nullable=False),
        sa.Column("part_number", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("etag", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.UniqueConstraint("upload_id", "part_number", name="upload_parts_number"),
    )
    owned(
        "lifecycle_rules",
        sa.Column("bucket_id", sa.Uuid, sa.ForeignKey("buckets.id"), nullable=False),
        sa.Column("bucket_name", sa.Text, nullable=False),
        sa.Column("prefix", KEY, nullable=False),
        sa.Column("expiration_days", sa.BigInteger, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
        sa.UniqueConstraint("bucket_id", "prefix", name="lifecycle_rules_prefix"),
    )
    op.create_table(
        "storage_usage",
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("objects", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
    op.execute("insert into prices values ('object', 'standard', timestamptz '1970-01-01 00:00:00+00', 0.00003)")
    for table, counted in (("objects", "(not delete_marker)::int"), ("upload_parts", "0")):
        function = f"add_{table}_usage"
        text = USAGE.replace("add_storage_usage", function).replace("{counted}", counted)
        op.execute(text)
        for event, rows, sign in (("insert", "new", 1), ("delete", "old", -1)):
            op.execute(
                f"create trigger {table}_{event}_usage after {event} on {table} referencing {rows} table as changed "
                f"for each statement execute function {function}('{sign}')"
            )
