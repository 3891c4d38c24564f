"""What holds for a bucket as a whole: tags, rules for pages of other origins, a policy."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("buckets", sa.Column("tags", postgresql.JSONB, nullable=False, server_default="{}"))
    op.add_column("buckets", sa.Column("cors", postgresql.JSONB, nullable=False, server_default="[]"))
    op.add_column("buckets", sa.Column("policy", sa.Text))
