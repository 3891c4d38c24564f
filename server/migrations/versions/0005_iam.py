"""Policies, whom they are attached to, and API keys with a policy and an end."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("statements", postgresql.JSONB, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
        sa.UniqueConstraint("tenant_id", "name", name="policies_name"),
    )
    op.create_index("policies_page", "policies", ["tenant_id", sa.text("created_at desc"), sa.text("id desc")])
    op.create_table(
        "policy_attachments",
        sa.Column("user_id", sa.Uuid, primary_key=True),
        sa.Column("policy_id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.ForeignKeyConstraint(["policy_id"], ["policies.id"], name="policy_attachments_policy", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["user_id", "tenant_id"], ["members.user_id", "members.tenant_id"], name="policy_attachments_member",
            ondelete="CASCADE",
        ),
    )  # fmt: skip
    op.create_index("policy_attachments_policy", "policy_attachments", ["policy_id"])
    op.add_column("api_keys", sa.Column("policy", postgresql.JSONB))
    op.add_column("api_keys", sa.Column("expires_at", MOMENT))
