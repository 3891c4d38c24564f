"""What a tenant has and had, read from the change log."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server import rating
from server.services.watch import purged
from tests.conftest import Cloud, Person

POLICY = {"statements": [{"effect": "Allow", "action": ["instance:read"], "resource": ["*"]}]}


async def make(person: Person, name: str) -> str:
    return (await person.rest.post("/iam/policies", json=POLICY | {"name": name})).json()["id"]  # type: ignore[no-any-return]


def now() -> str:
    return datetime.now(UTC).isoformat()


async def inventory(person: Person, **query: Any) -> list[dict[str, Any]]:
    reply = await person.rest.get("/inventory", params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()["resources"]  # type: ignore[no-any-return]


async def differences(person: Person, since: str, until: str | None = None, **query: Any) -> list[dict[str, Any]]:
    asked = {"from": since, **({"to": until} if until else {}), **query}
    reply = await person.rest.get("/inventory/diff", params=asked)
    assert reply.status_code == 200, reply.text
    return reply.json()["differences"]  # type: ignore[no-any-return]


@pytest.fixture
async def history(cloud: Cloud, ada: Person) -> list[str]:
    """Moments: before all, after two were made, after one was changed, after one went and another came."""
    moments = [now()]
    first, second = await make(ada, "first"), await make(ada, "second")
    moments.append(now())
    await ada.rest.put(f"/iam/policies/{first}", json={"name": "renamed"})
    moments.append(now())
    await ada.rest.delete(f"/iam/policies/{second}")
    await make(ada, "third")
    moments.append(now())
    return moments


async def test_it_tells_what_there_was_at_a_moment(ada: Person, history: list[str]) -> None:
    async def names(**query: str) -> set[str]:
        return {each["state"]["name"] for each in await inventory(ada, **query)}

    assert [await names(at=moment) for moment in history] == [
        set(), {"first", "second"}, {"renamed", "second"}, {"renamed", "third"}
    ]  # fmt: skip
    assert await names() == {"renamed", "third"}
    assert await names(kind="instance") == set()


async def test_the_difference_of_two_moments_is_what_changed_between(ada: Person, history: list[str]) -> None:
    async def between(since: int, until: int) -> set[tuple[str, str | None, str | None]]:
        return {
            (each["change"], each.get("before", {}).get("name"), each.get("after", {}).get("name"))
            for each in await differences(ada, history[since], history[until])
        }

    assert await between(0, 1) == {("created", None, "first"), ("created", None, "second")}
    assert await between(1, 2) == {("updated", "first", "renamed")}
    assert await between(2, 3) == {("deleted", "second", None), ("created", None, "third")}
    assert await between(1, 3) == {("updated", "first", "renamed"), ("deleted", "second", None),
                                   ("created", None, "third")}  # fmt: skip
    assert await between(0, 3) == {("created", None, "renamed"), ("created", None, "third")}
    assert await between(2, 2) == set()


async def test_it_comes_in_pages_that_leave_nothing_out(ada: Person) -> None:
    since = now()
    made = {await make(ada, str(number)) for number in range(7)}
    for path, name in (("/inventory", "resources"), ("/inventory/diff", "differences")):
        query, seen = {"page_size": 3, "from": since}, []
        while True:
            reply = await ada.rest.get(path, params=query)
            seen += [each["id"] for each in reply.json()[name]]
            if not (token := reply.json()["next_page_token"]):
                break
            query["page_token"] = token
        assert len(seen) == 7
        assert set(seen) == made


async def test_only_what_the_caller_may_read_is_there(cloud: Cloud, ada: Person, bob: Person) -> None:
    since = now()
    await make(ada, "hidden")
    made = await ada.launch()
    viewer = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    assert [each["id"] for each in await inventory(viewer)] == [made["id"]]
    assert [each["id"] for each in await differences(viewer, since)] == [made["id"]]
    assert await inventory(bob) == await differences(bob, since) == []


async def test_moments_that_cannot_be_told_of_are_refused(cloud: Cloud, ada: Person) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (await ada.rest.get("/inventory", params={"at": soon})).status_code == 400
    assert (await ada.rest.get("/inventory/diff")).status_code == 400
    assert (await ada.rest.get("/inventory/diff", params={"from": soon})).status_code == 400
    early = now()
    assert (await ada.rest.get("/inventory/diff", params={"from": now(), "to": early})).status_code == 400
    assert (await ada.rest.get("/inventory", params={"page_token": "x"})).status_code == 400
    policy = await make(ada, "a")
    await ada.rest.delete(f"/iam/policies/{policy}")
    ancient = (datetime.now(UTC) - timedelta(days=31)).isoformat()
    assert await inventory(ada, at=ancient) == []
    async with cloud.app.db.transaction() as tx:
        await rating.catch_up(tx, ada.tenant_id)  # what is not billed yet is not purged
        await purged(tx, datetime.now(UTC) + timedelta(seconds=1))
    reply = await ada.rest.get("/inventory", params={"at": ancient})
    assert (reply.status_code, reply.json()["error"]["reason"]) == (410, "HISTORY_EXPIRED")


async def test_retention_does_not_change_what_later_moments_tell(cloud: Cloud, ada: Person, history: list[str]) -> None:
    before = [await inventory(ada, at=moment) for moment in history[2:]]
    async with cloud.app.db.transaction() as tx:
        await rating.catch_up(tx, ada.tenant_id)  # what is not billed yet is not purged
        assert await purged(tx, datetime.fromisoformat(history[2])) == 1
    assert [await inventory(ada, at=moment) for moment in history[2:]] == before
