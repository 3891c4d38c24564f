"""The core: work, changes, audit, idempotency, rate limits, quotas, hosts, and what the cloud is."""

import secrets
from uuid import uuid4

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    cloud = op.create_table(
        "cloud",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("signing_key", sa.LargeBinary, nullable=False),
    )
    op.bulk_insert(cloud, [{"id": uuid4(), "signing_key": secrets.token_bytes(32)}])
    op.create_table(
        "work",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("host", sa.Text),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("leased_until", MOMENT, nullable=False),
        sa.Column("lease", sa.Uuid),
        sa.Column("wakes", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("last_error", sa.Text),
    )
    op.create_index("work_due", "work", ["due_at"])
    op.create_table(
        "changes",
        sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("tenant_id", sa.Uuid),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("before", postgresql.JSONB),
        sa.Column("after", postgresql.JSONB),
    )
    op.create_index("changes_tenant", "changes", ["tenant_id", "sequence"])
    op.create_index("changes_resource", "changes", ["kind", "id", "sequence"])
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("tenant_id", sa.Uuid),
        sa.Column("user_id", sa.Uuid),
        sa.Column("key_id", sa.Uuid),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
    )
    op.create_index("audit_log_tenant", "audit_log", ["tenant_id", "id"])
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.Uuid, primary_key=True),
        sa.Column("key_hash", sa.LargeBinary, primary_key=True),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary),
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
    )
    op.create_index("idempotency_keys_created", "idempotency_keys", ["created_at"])
    op.create_table(
        "rate_limits",
        sa.Column("bucket", sa.Text, primary_key=True),
        sa.Column("full_at", MOMENT, nullable=False),
        prefixes=["unlogged"],
    )
    op.create_table(
        "quotas",
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("most", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "hosts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("compute", sa.Text, nullable=False),
        sa.Column("vcpus", sa.BigInteger, nullable=False),
        sa.Column("memory_mb", sa.BigInteger, nullable=False),
        sa.Column("heartbeat_at", MOMENT, nullable=False),
    )
