"""Numbers of changes: in the order of commits, without a gap, whatever transactions do."""

import asyncio
import random
from uuid import UUID, uuid4

import asyncpg
import pytest

from server import changes
from server.auth import StoredPolicy
from server.db import Tx
from tests.conftest import Cloud, Person

STATEMENTS = [{"effect": "Allow", "action": ["instance:read"], "resource": ["*"]}]


async def make(tx: Tx, tenant_id: UUID, name: str) -> StoredPolicy:
    return await changes.insert(tx, StoredPolicy, id=uuid4(), tenant_id=tenant_id, name=name, description="",
                                statements=STATEMENTS)  # fmt: skip


async def numbers(cloud: Cloud, tenant_id: UUID) -> list[int]:
    async with cloud.app.db.reading() as tx:
        found = await tx.connection.fetch("select sequence from changes where tenant_id = $1 order by 1", tenant_id)
    return [each["sequence"] for each in found]


async def test_changes_of_one_transaction_are_numbered_in_their_order(cloud: Cloud, ada: Person) -> None:
    async with cloud.app.db.transaction("ada", "r-1") as tx:
        first = await make(tx, ada.tenant_id, "a")
        first = await changes.update(tx, first, name="b")
        await make(tx, ada.tenant_id, "c")
        await changes.delete(tx, first)
        assert await numbers(cloud, ada.tenant_id) == []
    async with cloud.app.db.reading() as tx:
        found = await tx.connection.fetch("select * from changes where tenant_id = $1 order by sequence", ada.tenant_id)
    assert [(each["sequence"], each["type"]) for each in found] == [
        (1, "CREATED"), (2, "UPDATED"), (3, "CREATED"), (4, "DELETED")
    ]  # fmt: skip
    assert {(each["actor"], each["request_id"], each["kind"]) for each in found} == {("ada", "r-1", "policy")}
    assert (found[1]["before"]["name"], found[1]["after"]["name"]) == ("a", "b")
    assert found[3]["after"] is None
    assert found[0]["at"] <= found[3]["at"]


async def test_a_transaction_that_fails_leaves_no_gap(cloud: Cloud, ada: Person) -> None:
    for number in range(6):
        try:
            async with cloud.app.db.transaction() as tx:
                await make(tx, ada.tenant_id, str(number))
                if number % 2:
                    await make(tx, ada.tenant_id, str(number))  # the name is taken
        except asyncpg.UniqueViolationError:
            assert number % 2
    assert await numbers(cloud, ada.tenant_id) == [1, 2, 3]


async def test_a_reader_that_resumes_sees_every_change_once_while_many_write(
    cloud: Cloud, ada: Person, bob: Person
) -> None:
    """Transactions begin and commit in different orders, some fail, and some change both tenants in either order."""
    dice, writers = random.Random(7), 8
    done = asyncio.Event()
    made: dict[UUID, int] = {ada.tenant_id: 0, bob.tenant_id: 0}

    async def write(number: int) -> None:
        for turn in range(25):
            tenants = dice.sample([ada.tenant_id, bob.tenant_id], dice.choice([1, 1, 2]))
            fails = dice.random() < 0.2
            try:
                async with cloud.app.db.transaction() as tx:
                    for tenant_id in tenants:
                        for copy in range(dice.randint(1, 3)):
                            await make(tx, tenant_id, f"{number}/{turn}/{copy}")
                            await asyncio.sleep(dice.random() / 500)
                    if fails:
                        raise LookupError
            except LookupError:
                continue
            for tenant_id in tenants:
                made[tenant_id] += sum(change.tenant_id == tenant_id for change in tx.changes)

    async def read(tenant_id: UUID) -> list[int]:
        seen: list[int] = []
        while True:
            last = done.is_set()
            async with cloud.app.db.reading() as tx:
                found = await tx.connection.fetch(
                    "select sequence from changes where tenant_id = $1 and sequence > $2 order by sequence limit $3",
                    tenant_id, seen[-1] if seen else 0, dice.randint(1, 50),
                )  # fmt: skip
            seen += [each["sequence"] for each in found]
            if last and not found:
                return seen
            await asyncio.sleep(dice.random() / 200)

    async with asyncio.timeout(60):
        readers = [asyncio.ensure_future(read(tenant)) for tenant in (ada.tenant_id, bob.tenant_id) for _ in range(3)]
        await asyncio.gather(*(write(number) for number in range(writers)))
        done.set()
        seen = await asyncio.gather(*readers)
    for index, tenant_id in enumerate((ada.tenant_id, bob.tenant_id)):
        assert made[tenant_id] > 100
        for each in seen[index * 3 : index * 3 + 3]:
            assert each == list(range(1, made[tenant_id] + 1))


async def test_what_belongs_to_no_tenant_has_a_log_of_its_own(cloud: Cloud) -> None:
    await cloud.anonymous.post("/auth/register", json={"email": "a@example.com", "password": "password", "name": "Ada"})
    assert len(await numbers(cloud, changes.NO_TENANT)) == 3  # the user, the tenant, and its being the default one
    assert await cloud.value("select count(*) from changes where kind = 'tenant_member' and tenant_id <> $1",
                             changes.NO_TENANT) == 1  # fmt: skip


async def test_a_change_that_nobody_can_see_is_none(cloud: Cloud, ada: Person) -> None:
    async with cloud.app.db.transaction() as tx:
        policy = await make(tx, ada.tenant_id, "a")
    async with cloud.app.db.transaction() as tx:
        await changes.update(tx, policy, name="a")
        assert tx.changes == []
    assert await numbers(cloud, ada.tenant_id) == [1]


async def test_secrets_are_in_no_log(cloud: Cloud, ada: Person) -> None:
    await ada.launch(env=["PASSWORD=hidden-marker"])
    await ada.rest.post("/auth/keys", json={"name": "k"})
    for table in ("changes", "audit_log"):
        assert not await cloud.value(f"select count(*) from {table} t where strpos(t::text, 'hidden-marker') > 0")
        assert not await cloud.value(f"select count(*) from {table} t where t::text ~ 'thecloud_[0-9a-f]{{32}}'")


@pytest.mark.parametrize("many", [1, 3])
async def test_a_commit_costs_as_many_round_trips_however_many_changes(cloud: Cloud, ada: Person, many: int) -> None:
    statements: list[str] = []
    async with cloud.app.db.transaction() as tx:
        for number in range(many):
            await make(tx, ada.tenant_id, str(number))
        tx.connection.add_query_logger(lambda record: statements.append(record.query))
    assert len([each for each in statements if "INSERT INTO changes" in each]) == 1
    assert await numbers(cloud, ada.tenant_id) == list(range(1, many + 1))
