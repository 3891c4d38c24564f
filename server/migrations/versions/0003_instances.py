"""Instances, their types, and the ports they take of their hosts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")
TYPES = [
    # id, name, vcpus, memory_mb, disk_gb, network_mbps, price_per_hour, category
    ("basic-1", "Basic 1", 1, 512, 5, 500, "0.01", "general-purpose"),
    ("basic-2", "Basic 2", 1, 1024, 10, 1000, "0.02", "general-purpose"),
    ("basic-4", "Basic 4", 2, 2048, 20, 1000, "0.04", "general-purpose"),
    ("standard-1", "Standard 1", 2, 4096, 40, 2000, "0.08", "general-purpose"),
    ("standard-2", "Standard 2", 4, 8192, 80, 2000, "0.16", "general-purpose"),
    ("standard-4", "Standard 4", 8, 16384, 160, 5000, "0.32", "general-purpose"),
    ("compute-2", "Compute 2", 4, 4096, 40, 5000, "0.14", "compute-optimized"),
    ("memory-2", "Memory 2", 2, 16384, 40, 2000, "0.20", "memory-optimized"),
]


def upgrade() -> None:
    types = op.create_table(
        "instance_types",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("vcpus", sa.BigInteger, nullable=False),
        sa.Column("memory_mb", sa.BigInteger, nullable=False),
        sa.Column("disk_gb", sa.BigInteger, nullable=False),
        sa.Column("network_mbps", sa.BigInteger, nullable=False),
        sa.Column("price_per_hour", sa.Numeric, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
    )
    op.bulk_insert(types, [dict(zip(types.c.keys(), each, strict=True)) for each in TYPES])
    op.create_table(
        "instances",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("host", sa.Text, sa.ForeignKey("hosts.name"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("image", sa.Text, nullable=False),
        sa.Column("instance_type", sa.Text, sa.ForeignKey("instance_types.id"), nullable=False),
        sa.Column("vcpus", sa.BigInteger, nullable=False),
        sa.Column("memory_mb", sa.BigInteger, nullable=False),
        sa.Column("ports", sa.Text, nullable=False),
        sa.Column("env", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("cmd", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("labels", postgresql.JSONB, nullable=False),
        sa.Column("metadata", postgresql.JSONB, nullable=False),
        sa.Column("vpc_id", sa.Uuid),
        sa.Column("subnet_id", sa.Uuid),
        sa.Column("private_ip", sa.Text),
        sa.Column("container_id", sa.Text),
        sa.Column("desired", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("status_message", sa.Text),
        sa.Column("observed_generation", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
        sa.CheckConstraint("desired in ('RUNNING', 'PAUSED', 'STOPPED', 'DELETED')", name="instances_desired"),
    )
    op.create_index(
        "instances_page", "instances", ["tenant_id", sa.text("created_at desc"), sa.text("id desc")]
    )  # fmt: skip
    op.create_index("instances_name", "instances", ["tenant_id", "name"])
    op.create_index("instances_host", "instances", ["host"])
    op.create_table(
        "instance_ports",
        sa.Column("host", sa.Text, primary_key=True),
        sa.Column("port", sa.BigInteger, primary_key=True),
        sa.Column("instance_id", sa.Uuid, nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name="instance_ports_instance", ondelete="CASCADE",
            deferrable=True, initially="DEFERRED",
        ),
    )  # fmt: skip
    op.create_index("instance_ports_instance", "instance_ports", ["instance_id"])
