"""What an earlier version kept is there after the migration, and is as if this version had written it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from server import audit, changes, db, migrate
from server.db import Tx

NOW = datetime(2026, 1, 5, 23, 0, 0, 123456, UTC)


@pytest.fixture
async def earlier(database_url: str) -> AsyncIterator[str]:
    """A database of its own on the same server, as revision 0003 left it."""
    connection = await db.connect(database_url)
    name = f"earlier_{uuid4().hex[:8]}"
    await connection.execute(f"create database {name}")
    head, _, tail = database_url.partition("?")
    url = head.rpartition("/")[0] + f"/{name}" + (f"?{tail}" if tail else "")
    try:
        assert await migrate.upgrade(url, "0003") == "0003"
        yield url
    finally:
        await connection.execute(f"drop database {name} (force)")
        await connection.close()


async def test_changes_and_audit_entries_are_kept_numbered_and_chained(earlier: str) -> None:
    tenants = [uuid4(), uuid4(), None]
    connection = await db.connect(earlier)
    for number in range(9):
        tenant = tenants[number % 3]
        await connection.execute(
            "insert into changes (at, tenant_id, kind, id, type, actor, request_id, before, after) "
            "values ($1, $2, 'instance', $3, 'CREATED', 'ada', $4, null, '{\"name\": \"a\"}')",
            NOW, tenant, uuid4(), f"r{number}",
        )  # fmt: skip
        await connection.execute(
            "insert into audit_log (at, tenant_id, user_id, key_id, actor, action, target, outcome, reason, address, "
            "user_agent, request_id) values ($1, $2, $3, null, 'ada', 'X', 'instance/a/b', 'failure', 'WRONG_STATE', "
            "'127.0.0.1', '', $4)", NOW, tenant, uuid4(), f"r{number}",
        )  # fmt: skip
    await connection.close()
    assert await migrate.upgrade(earlier) == migrate.head()
    connection = await db.connect(earlier)
    try:
        for index, tenant in enumerate(tenants):
            of = tenant or changes.NO_TENANT
            for table in ("changes", "audit_log"):
                found = await connection.fetch(
                    f"select sequence, request_id from {table} where tenant_id = $1 order by sequence", of
                )
                assert [tuple(each) for each in found] == [
                    (number + 1, f"r{number * 3 + index}") for number in range(3)
                ]
            assert await connection.fetchval("select sequence from change_heads where tenant_id = $1", of) == 3
        entry = await connection.fetchrow("select * from audit_log limit 1")
        assert (entry["resource_type"], entry["resource_id"], entry["created_at"]) == ("instance", "a/b", NOW)
        heads = [found async for found in audit.verify(Tx(connection), {})]
        assert {(each.tenant_id, each.sequence) for each in heads if isinstance(each, audit.Head)} == {
            (tenant or UUID(int=0), 3) for tenant in tenants
        }
    finally:
        await connection.close()


async def test_prices_of_types_are_kept(earlier: str) -> None:
    connection = await db.connect(earlier)
    before = await connection.fetch("select id, price_per_hour from instance_types order by id")
    await connection.close()
    await migrate.upgrade(earlier)
    connection = await db.connect(earlier)
    after = await connection.fetch("select type, price_per_hour from prices where kind = 'instance' order by type")
    await connection.close()
    assert [tuple(each) for each in after] == [tuple(each) for each in before]
    assert len(before) >= 8
