"""The row classes and tables in the code are those that the migrations make."""

from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import app as server_app
from server import db, migrate
from tests.conftest import Cloud

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
    "BIGINT[]": "int8[]",
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


async def test_migrating_again_does_nothing(database_url: str) -> None:
    assert await migrate.upgrade(database_url) is None
    assert await migrate.current(database_url) == migrate.head()


async def test_what_is_deleted_along_has_an_index_to_find_it_by(database_url: str) -> None:
    connection = await db.connect(database_url)
    found = await connection.fetch("""
        select c.conrelid::regclass::text as "table", c.conname
        from pg_constraint c
        where c.contype = 'f' and c.confdeltype = 'c' and not exists (
            select from pg_index i where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1])
    """)
    await connection.close()
    assert [tuple(each) for each in found] == []


async def test_a_transaction_that_fails_leaves_nothing_and_acts_on_nothing(cloud: Cloud) -> None:
    acted: list[str] = []
    for fails, expected in ((True, []), (False, ["committed"])):
        with suppress(LookupError):
            async with cloud.app.db.transaction() as tx:
                tx.after_commit.append(lambda: acted.append("committed"))
                await tx.connection.execute("insert into rate_limits values ('b', now())")
                if fails:
                    raise LookupError
        assert acted == expected
        assert await cloud.value("select count(*) from rate_limits") == len(expected)
