"""Keys of the S3 protocol, and which key the cloud's secrets are sealed with."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("cloud", sa.Column("sealing_key_id", sa.Text))
    op.add_column("api_keys", sa.Column("access_key_id", sa.Text, unique=True))
    op.add_column("api_keys", sa.Column("access_secret", sa.LargeBinary))
    op.add_column("api_keys", sa.Column("access_tenant_id", sa.Uuid, sa.ForeignKey("tenants.id")))
    op.create_check_constraint(
        "api_keys_access", "api_keys",
        "(access_key_id is null) = (access_secret is null) and (access_key_id is null) = (access_tenant_id is null)",
    )  # fmt: skip
