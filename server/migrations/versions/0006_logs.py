"""What resources wrote, and how far each instance's log has been taken."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

MOMENT = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "log_entries",
        sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("id", sa.Uuid, nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("resource_id", sa.Text, nullable=False),
        sa.Column("resource_type", sa.Text, nullable=False),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("timestamp", MOMENT, nullable=False),
        sa.Column("trace_id", sa.Text),
    )
    op.create_index("log_entries_newest", "log_entries",
                    ["tenant_id", sa.text("timestamp desc"), sa.text("sequence desc")])  # fmt: skip
    op.create_index("log_entries_resource", "log_entries", ["tenant_id", "resource_id", "sequence"])
    op.create_index("log_entries_age", "log_entries", ["timestamp"])
    op.create_table(
        "log_cursors",
        sa.Column("instance_id", sa.Uuid, sa.ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Text, nullable=False),
        sa.Column("drained_at", MOMENT),
    )
