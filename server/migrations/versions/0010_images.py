"""Images."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "images",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("name", "description", "os", "version", "format")),
        sa.Column("is_public", sa.Boolean, nullable=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            for name in ("size_gb", "size_bytes", "virtual_size_bytes")
        ),
        sa.Column("checksum", sa.Text),
        sa.Column("source_url", sa.Text),
        sa.Column("expected_bytes", sa.BigInteger),
        sa.Column("validator", sa.Text),
        sa.Column("desired", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("status_message", sa.Text),
        sa.Column("observed_generation", sa.BigInteger, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
        sa.CheckConstraint("status <> 'ACTIVE' or checksum is not null", name="images_active_has_file"),
    )
    op.create_index("images_page", "images", ["tenant_id", sa.text("created_at desc"), sa.text("id desc")])
    op.create_index("images_public", "images", [sa.text("created_at desc"), sa.text("id desc")],
                    postgresql_where=sa.text("is_public"))  # fmt: skip
    op.create_index("instances_image", "instances", ["image"])
