"""The row classes and tables in the code are those that the migrations make."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import app as server_app
from server import db

server_app.load_services()
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
COLUMNS = """
    select column_name, is_nullable = 'YES' as nullable,
           case data_type when 'ARRAY' then substr(udt_name, 2) || '[]' else udt_name end as type
      from information_schema.columns where table_schema = 'public' and table_name = $1
"""
SAME = {
    "BIGINT": "int8", "INTEGER": "int4", "TEXT": "text", "UUID": "uuid", "BYTEA": "bytea", "JSONB": "jsonb",
    "TIMESTAMP WITH TIME ZONE": "timestamptz", "NUMERIC": "numeric", "BOOLEAN": "bool", "TEXT[]": "text[]",
    "DOUBLE PRECISION": "float8", "INTERVAL": "interval",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(db.METADATA.tables))
async def test_a_table_is_as_its_migration_made_it(name: str, database_url: str) -> None:
    connection = await db.connect(database_url)
    migrated: dict[str, Any] = {
        each["column_name"]: (each["type"], each["nullable"]) for each in await connection.fetch(COLUMNS, name)
    }
    await connection.close()
    table: sa.Table = db.METADATA.tables[name]
    declared = {column.name: (SAME[column.type.compile(DIALECT)], column.nullable) for column in table.c}
    assert migrated == declared


async def test_every_migrated_table_is_declared(database_url: str) -> None:
    connection = await db.connect(database_url)
    names = await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
    await connection.close()
    assert {each["tablename"] for each in names} == {*db.METADATA.tables, "alembic_version"}
