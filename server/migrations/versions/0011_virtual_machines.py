"""Instances of several drivers, images taken of them, and volumes that virtual machines have."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("instances", sa.Column("driver", sa.Text))
    op.execute("update instances set driver = hosts.compute from hosts where hosts.name = instances.host")
    op.alter_column("instances", "driver", nullable=False)
    op.add_column("instances", sa.Column("tap", sa.Text))
    op.add_column("volumes", sa.Column("device", sa.Text))
    op.add_column("volumes", sa.Column("detaching", sa.Boolean, nullable=False, server_default=sa.false()))
    for table in ("volumes", "snapshots"):
        op.add_column(table, sa.Column("opaque", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("images", sa.Column("instance_id", sa.Uuid))
    op.drop_constraint("volumes_mounted", "volumes")
    op.create_check_constraint(
        "volumes_mounted", "volumes",
        "case when instance_id is null then mount_path is null and device is null and not detaching "
        "else mount_path is not null or device is not null end",
    )  # fmt: skip
    op.create_index("volumes_device", "volumes", ["instance_id", "device"], unique=True)
