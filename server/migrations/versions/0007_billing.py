"""A price book, what is used of what has a price, and budgets."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "prices",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("effective_from", MOMENT, primary_key=True),
        sa.Column("price_per_hour", sa.Numeric, nullable=False),
        sa.CheckConstraint("price_per_hour >= 0 and price_per_hour < 'infinity'", name="prices_amount"),
        sa.CheckConstraint("extract(epoch from effective_from) % 1 = 0", name="prices_whole_seconds"),
    )
    op.execute(
        "insert into prices select 'instance', id, timestamptz '1970-01-01 00:00:00+00', price_per_hour "
        "from instance_types"
    )
    op.drop_column("instance_types", "price_per_hour")
    op.create_table(
        "usage",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.Uuid),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("resource_id", sa.Uuid, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("quantity", sa.Numeric, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.CheckConstraint("ended_at >= started_at", name="usage_forward"),
    )
    op.create_index("usage_ended", "usage", ["tenant_id", "ended_at"])
    op.create_index(
        "usage_open", "usage", ["tenant_id", "kind", "resource_id"], unique=True,
        postgresql_where=sa.text("ended_at is null"),
    )  # fmt: skip
    op.create_table(
        "usage_cursors",
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "budgets",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("amount", sa.Numeric, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("told_for", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
        sa.UniqueConstraint("tenant_id", name="budgets_one_of_a_tenant"),
        sa.CheckConstraint("amount > 0", name="budgets_amount"),
        sa.CheckConstraint("action in ('NOTIFY', 'DENY')", name="budgets_action"),
    )
