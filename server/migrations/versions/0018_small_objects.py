"""Small objects are kept in the database."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("objects", sa.Column("inline", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "small_blobs",
        sa.Column("id", postgresql.UUID, sa.ForeignKey("objects.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    # To compress what is this small takes longer than it saves.
    op.execute("alter table small_blobs alter column data set storage external")
