"""What S3 tells of objects besides their bytes: headers, tags, who may read them, checksums, and the parts of one.

The sizes of an object's parts are beside it, since only who asks for one part wants them, and there may be 10,000.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"


def texts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text, nullable=False, server_default="") for name in names]


def told(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, postgresql.JSONB, nullable=False, server_default="{}") for name in names]


def public() -> sa.Column[Any]:
    return sa.Column("is_public", sa.Boolean, nullable=False, server_default=sa.false())


def upgrade() -> None:
    added: dict[str, list[sa.Column[Any]]] = {
        "objects": [
            *told("headers", "tags"), public(), *texts("checksum_algorithm", "checksum_value"),
            sa.Column("parts_count", sa.BigInteger, nullable=False, server_default="0"),
        ],
        "multipart_uploads": [
            *texts("content_type", "checksum_algorithm"), *told("metadata", "headers", "tags"), public(),
        ],
        "upload_parts": texts("md5", "checksum_algorithm", "checksum_value"),
    }  # fmt: skip
    for table, columns in added.items():
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "object_parts",
        sa.Column("object_id", sa.Uuid, sa.ForeignKey("objects.id", ondelete="cascade"), primary_key=True),
        sa.Column("sizes", postgresql.ARRAY(sa.BigInteger), nullable=False),
    )
    op.create_index("objects_versions", "objects", ["bucket_id", "key", sa.text("created_at desc"), sa.text("id desc")])
    op.drop_index("multipart_uploads_bucket")
    op.create_index("multipart_uploads_key", "multipart_uploads", ["bucket_id", "key", "id"])
