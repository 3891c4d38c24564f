"""Objects that are looked up many at once."""

import asyncio

from server import db, object_lookups
from tests.conftest import Cloud, Person
from tests.services.test_storage import bucket, put, text, versioned


async def test_each_of_many_at_once_gets_its_own(cloud: Cloud, ada: Person, bob: Person) -> None:
    await bucket(ada)
    await bucket(ada, "others", is_public=True)
    await versioned(ada, "others")
    for name in ("assets", "others"):
        for number in range(20):
            await put(ada, f"{name}/{number}", f"{name} {number}".encode())
    assert (await ada.rest.delete("/storage/others/7")).status_code == 204
    expected = {f"{name}/{number}": f"{name} {number}" for name in ("assets", "others") for number in range(20)}
    expected |= {"others/7": "404", "assets/none": "404", "nowhere/1": "404", "assets/a%00b": "400"}
    found = await asyncio.gather(*(text(ada, path) for path in expected))
    assert dict(zip(expected, found, strict=True)) == expected
    found = await asyncio.gather(*(text(bob, path) for path in expected))
    seen = {path: said if path.startswith("others") else "404" for path, said in expected.items()}
    assert dict(zip(expected, found, strict=True)) == seen | {"assets/a%00b": "400"}


async def test_what_was_stored_before_is_seen(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)

    async def store_and_read(key: int) -> None:
        for number in range(10):
            await put(ada, f"assets/{key}", f"{key} {number}".encode())
            assert await text(ada, f"assets/{key}") == f"{key} {number}"
        assert (await ada.rest.delete(f"/storage/assets/{key}")).status_code == 204
        assert await text(ada, f"assets/{key}") == "404"

    await asyncio.gather(*(store_and_read(key) for key in range(8)))


async def test_each_is_found_by_an_index(cloud: Cloud, ada: Person) -> None:
    """Also where the planner takes the tables for small, as they are when it has not counted them."""
    await bucket(ada)
    await put(ada, "assets/0")
    async with cloud.app.db.transaction() as tx:
        row = await tx.connection.fetchrow("select * from objects limit 1")
        columns = ", ".join(name for name in row.keys() if name not in ("id", "key"))  # noqa: SIM118
        await tx.connection.execute(
            f"insert into objects (id, key, {columns}) "
            f"select gen_random_uuid(), number::text, {columns} from objects, generate_series(1, 3000) number"
        )
        statement, arguments = db.sql(
            object_lookups._EACH_LATEST, {"names": ["assets"] * 9, "keys": [*"123456789"], "read": [True] * 9}
        )
        plan = "\n".join(each[0] for each in await tx.connection.fetch(f"explain {statement}", *arguments))
    assert "on objects" in plan
    assert "Seq Scan" not in plan
