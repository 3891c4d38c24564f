"""Objects at rest: what they are encrypted with, when they were last read to see whether they are whole, and rules for
versions, uploads and delete markers.

The rules of a bucket are looked at together, so work is no longer one rule's.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"

MOMENT = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.add_column("buckets", sa.Column("encryption_enabled", sa.Boolean, nullable=False, server_default=sa.false()))
    for table in ("objects", "upload_parts"):
        op.add_column(table, sa.Column("wrapped_key", sa.LargeBinary))
    op.add_column("objects", sa.Column("blob_checksum", sa.Text))
    op.add_column("objects", sa.Column("noncurrent_since", MOMENT))
    op.execute("update objects set noncurrent_since = clock_timestamp() where not is_latest")
    op.add_column("objects", sa.Column("verified_at", MOMENT))
    op.add_column("objects", sa.Column("damage", sa.Text, nullable=False, server_default=""))
    op.create_check_constraint("objects_damage", "objects", "damage in ('', 'CORRUPT', 'MISSING')")
    op.create_index("objects_scrub", "objects", ["host", sa.text("coalesce(verified_at, created_at)")],
                    postgresql_where=sa.text("not delete_marker"))  # fmt: skip
    op.create_index("objects_damage", "objects", ["host", "verified_at"], postgresql_where=sa.text("damage <> ''"))
    op.create_index("objects_noncurrent", "objects", ["bucket_id", "noncurrent_since"],
                    postgresql_where=sa.text("not is_latest"))  # fmt: skip
    op.create_index("objects_markers", "objects", ["bucket_id", "key"],
                    postgresql_where=sa.text("is_latest and delete_marker"))  # fmt: skip
    op.alter_column("lifecycle_rules", "expiration_days", nullable=True)
    op.add_column("lifecycle_rules", sa.Column("name", sa.Text, nullable=False, server_default=""))
    for name in ("noncurrent_days", "abort_upload_days"):
        op.add_column("lifecycle_rules", sa.Column(name, sa.BigInteger))
    op.add_column(
        "lifecycle_rules", sa.Column("expired_markers", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.drop_constraint("lifecycle_rules_prefix", "lifecycle_rules")
    op.create_unique_constraint("lifecycle_rules_prefix", "lifecycle_rules", ["bucket_id", "prefix", "name"])
    op.create_check_constraint(
        "lifecycle_rules_action", "lifecycle_rules",
        "expired_markers or coalesce(expiration_days, noncurrent_days, abort_upload_days) is not null",
    )  # fmt: skip
    op.execute("delete from work where kind in ('lifecycle_rule', 'server.services.storage_lives.expire')")
