"""Parts of uploads are counted, and so are uploads: each part is a file, however few its bytes."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

USAGE = """
create or replace function add_upload_parts_usage() returns trigger language plpgsql as $$
begin
    insert into storage_usage (tenant_id, objects, bytes, parts)
    select tenant_id, 0, tg_argv[0]::int * sum(size_bytes), tg_argv[0]::int * count(*)
    from changed group by tenant_id order by tenant_id
    on conflict (tenant_id) do update set
        bytes = storage_usage.bytes + excluded.bytes, parts = storage_usage.parts + excluded.parts;
    return null;
end
$$
"""


def upgrade() -> None:
    op.add_column("storage_usage", sa.Column("parts", sa.BigInteger, nullable=False, server_default="0"))
    op.execute(
        "update storage_usage set parts = (select count(*) from upload_parts "
        "where upload_parts.tenant_id = storage_usage.tenant_id)"
    )
    op.execute(USAGE)
    op.create_index("multipart_uploads_tenant", "multipart_uploads", ["tenant_id"])
