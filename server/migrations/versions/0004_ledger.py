"""Changes numbered without a gap for each tenant, and an audit log that is a chain of hashes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")
NOBODY = "00000000-0000-0000-0000-000000000000"


def upgrade() -> None:
    op.create_table(
        "change_heads",
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("purged", sa.BigInteger, nullable=False),
    )
    op.rename_table("changes", "old_changes")
    op.create_table(
        "changes",
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("at", MOMENT, nullable=False, server_default=NOW),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("before", postgresql.JSONB),
        sa.Column("after", postgresql.JSONB),
        sa.PrimaryKeyConstraint("tenant_id", "sequence", name="changes_order"),
    )
    op.execute(f"""
        insert into changes
        select coalesce(tenant_id, '{NOBODY}'), row_number() over (partition by tenant_id order by sequence),
               at, kind, id, type, actor, request_id, before, after
          from old_changes
    """)  # noqa: S608 - a constant
    op.execute("insert into change_heads select tenant_id, max(sequence), 0 from changes group by tenant_id")
    op.drop_table("old_changes")
    op.create_index("changes_of_resource", "changes", ["tenant_id", "kind", "id", "sequence"])
    op.create_index("changes_at", "changes", ["at"])

    op.create_table(
        "audit_heads",
        sa.Column("tenant_id", sa.Uuid, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.rename_table("audit_log", "old_audit_log")
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("user_id", sa.Uuid),
        sa.Column("key_id", sa.Uuid),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("resource_type", sa.Text, nullable=False),
        sa.Column("resource_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("ip_address", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "sequence", name="audit_log_chain"),
    )
    op.create_index(
        "audit_log_page", "audit_log", ["tenant_id", sa.text("created_at desc"), sa.text("id desc")]
    )  # fmt: skip
    op.create_index("audit_log_request", "audit_log", ["tenant_id", "request_id"])
    keep_entries()
    op.drop_table("old_audit_log")


def keep_entries() -> None:
    """Chain what was logged before. How an entry is hashed is told here again, as it was at this revision."""
    import hashlib
    from uuid import uuid4

    import orjson

    heads: dict[object, tuple[int, bytes]] = {}
    names = ("id", "created_at", "tenant_id", "user_id", "key_id", "actor", "action", "resource_type", "resource_id",
             "status", "reason", "ip_address", "user_agent", "request_id", "details")  # fmt: skip
    columns: list[sa.ColumnClause[object]] = [sa.column(name) for name in (*names, "sequence", "hash")]
    table = sa.table("audit_log", *columns)
    old = op.get_bind().execute(sa.text("""
        select at, to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US') || '+00:00' as moment,
               coalesce(tenant_id, '00000000-0000-0000-0000-000000000000') as tenant_id, user_id, key_id, actor, action,
               split_part(target, '/', 1) as resource_type, substr(target, strpos(target, '/') + 1) as resource_id,
               outcome as status, reason, address as ip_address, user_agent, request_id
          from old_audit_log order by id
    """))  # fmt: skip
    for each in old.mappings().all():
        values = {"id": uuid4(), "created_at": each["moment"], "details": "{}",
                  **{name: each[name] for name in names if name not in ("id", "created_at", "details")}}  # fmt: skip
        shown = [None if values[name] is None else str(values[name]) for name in names]
        sequence, before = heads.get(each["tenant_id"], (0, bytes(32)))
        hash = hashlib.sha256(before + hashlib.sha256(orjson.dumps(shown)).digest()).digest()
        heads[each["tenant_id"]] = sequence + 1, hash
        row = values | {"created_at": each["at"], "sequence": sequence + 1, "hash": hash}
        op.get_bind().execute(sa.insert(table).values(**row))
    for tenant_id, (sequence, hash) in heads.items():
        op.get_bind().execute(
            sa.text("insert into audit_heads values (:tenant_id, :sequence, :hash)"),
            {"tenant_id": tenant_id, "sequence": sequence, "hash": hash},
        )
