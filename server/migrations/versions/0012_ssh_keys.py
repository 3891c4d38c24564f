"""SSH keys, and what instances are told at their start."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"

TEXTS = ("name", "public_key", "fingerprint", "key_type")


def upgrade() -> None:
    op.create_table(
        "ssh_keys",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in TEXTS),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False,
                  server_default=sa.text("clock_timestamp()")),
    )  # fmt: skip
    op.create_index("ssh_keys_page", "ssh_keys", ["tenant_id", sa.text("created_at desc"), sa.text("id desc")])
    op.create_index("ssh_keys_name", "ssh_keys", ["tenant_id", "name"], unique=True)
    op.add_column("instances", sa.Column("ssh_keys", postgresql.ARRAY(sa.Text), nullable=False, server_default="{}"))
    op.add_column("instances", sa.Column("user_data", sa.Text, nullable=False, server_default=""))
