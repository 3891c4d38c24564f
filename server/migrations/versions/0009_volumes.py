"""Volumes and their snapshots."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")


def provisioned(name: str, *columns: sa.schema.SchemaItem) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("host", sa.Text, sa.ForeignKey("hosts.name"), nullable=False),
        *columns,
        sa.Column("desired", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("status_message", sa.Text),
        sa.Column("observed_generation", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
    )
    op.create_index(f"{name}_page", name, ["tenant_id", sa.text("created_at desc"), sa.text("id desc")])


def upgrade() -> None:
    provisioned(
        "snapshots",
        sa.Column("volume_id", sa.Uuid, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("size_gb", sa.BigInteger, nullable=False),
    )
    provisioned(
        "volumes",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("size_gb", sa.BigInteger, nullable=False),
        sa.Column(
            "instance_id",
            sa.Uuid,
            sa.ForeignKey("instances.id", name="volumes_instance", deferrable=True, initially="DEFERRED"),
            index=True,
        ),
        sa.Column("mount_path", sa.Text),
        sa.Column("snapshot_id", sa.Uuid),
        sa.CheckConstraint("(instance_id is null) = (mount_path is null)", name="volumes_mounted"),
    )
    op.create_index(
        "volumes_name", "volumes", ["tenant_id", "name"], unique=True, postgresql_where=sa.text("desired <> 'DELETED'")
    )
    op.create_index("volumes_mount_path", "volumes", ["instance_id", "mount_path"], unique=True)
    op.execute(
        "insert into prices values "
        "('volume', 'standard', timestamptz '1970-01-01 00:00:00+00', 0.00011), "
        "('snapshot', 'standard', timestamptz '1970-01-01 00:00:00+00', 0.00007)"
    )
