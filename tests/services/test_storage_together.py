"""Uploads of a tenant that share a transaction: each is as it would be alone."""

import asyncio
import json
from typing import Any

from server import audit, transactions
from tests.conftest import Cloud, Person
from tests.services.test_storage import bucket, keys, put, text, versioned


async def committed(cloud: Cloud) -> int:
    return int(await cloud.value("select count(distinct xmin::text) from objects"))


async def test_many_at_once_share_transactions_and_have_their_own_entries(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="developer")
    people = [ada, eve]
    made = await asyncio.gather(*(
        put(people[n % 2], f"assets/{n}", b"%d" % n, **{"x-request-id": f"request-{n}"}) for n in range(40)
    ))  # fmt: skip
    assert [await text(ada, f"assets/{n}") for n in range(40)] == [str(n) for n in range(40)]
    assert await committed(cloud) < 40
    logged = {each["resource_id"]: each for each in (await ada.rest.get("/audit?limit=100")).json()}
    seen = "select array[actor, request_id, \"after\"->>'key'] from changes where id = $1"
    for number, each in enumerate(made):
        who = people[number % 2].email
        entry = logged[f"assets/{number}"]
        assert (entry["actor"], entry["request_id"], entry["status"]) == (who, f"request-{number}", "success")
        assert entry["after"]["id"] == each["id"]
        assert await cloud.value(seen, each["id"]) == [who, f"request-{number}", str(number)]
    async with cloud.app.db.snapshot() as tx:
        found = [each async for each in audit.verify(tx, {})]
    assert all(isinstance(each, audit.Head) for each in found)


async def test_one_that_is_refused_takes_nobody_along(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await bucket(ada, "other")
    await put(ada, "assets/there")
    policy = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::other/secret/*"},
    ]}  # fmt: skip
    reply = await ada.rest.put("/storage/buckets/other/policy", json={"policy": json.dumps(policy)})
    assert reply.is_success, reply.text
    replies = await asyncio.gather(
        *(ada.rest.put(f"/storage/assets/{n}", content=b"x") for n in range(10)),
        ada.rest.put("/storage/assets/there", content=b"y", headers={"if-none-match": "*"}),
        ada.rest.put("/storage/other/secret/a", content=b"y"),
        ada.rest.put("/storage/other/a", content=b"y"),
        ada.rest.put("/storage/nowhere/a", content=b"y"),
    )
    assert [reply.status_code for reply in replies] == [201] * 10 + [412, 403, 201, 404]
    assert len(await keys(ada)) == 11 and await keys(ada, "other") == ["a"]
    await cloud.settle()
    assert len(cloud.objects.blobs) == 12


async def test_of_many_who_want_a_key_to_be_new_one_gets_it(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    for key in ("a", "b"):
        replies = await asyncio.gather(*(
            ada.rest.put(f"/storage/assets/{key}", content=b"%d" % n, headers={"if-none-match": "*"}) for n in range(12)
        ))  # fmt: skip
        assert sorted(reply.status_code for reply in replies) == [201] + [412] * 11
        [winner] = [n for n, reply in enumerate(replies) if reply.status_code == 201]
        assert await text(ada, f"assets/{key}") == str(winner)
        await versioned(ada)
    assert len(cloud.objects.blobs) == 2


async def test_one_key_many_times_in_one_group(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    for number in range(2):
        made = await asyncio.gather(*(put(ada, f"assets/{n % 3}", b"%d" % n) for n in range(30)))
        assert len({each["id"] for each in made}) == 30
        assert sorted(await keys(ada)) == ["0", "1", "2"]
        for key in range(3):
            versions = (await ada.rest.get(f"/storage/versions/assets/{key}")).json()
            assert [each["is_latest"] for each in versions] == [True] + [False] * (len(versions) - 1)
            assert len(versions) == 1 + 10 * number
            assert len({each["version_id"] for each in versions}) == len(versions)
        await versioned(ada)
    await cloud.settle()
    assert len(cloud.objects.blobs) == await cloud.value("select objects from storage_usage") == 33


async def test_who_leaves_meanwhile_harms_nobody(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    tasks = [asyncio.ensure_future(put(ada, f"assets/{n}", b"x")) for n in range(20)]
    await asyncio.sleep(0.02)
    for task in tasks[::3]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, dict) for number, each in enumerate(done) if number % 3)
    assert {each["key"] for each in done if isinstance(each, dict)} <= {*await keys(ada)}


async def test_a_lost_database_is_told_and_not_tried_again(cloud: Cloud, ada: Person, monkeypatch: Any) -> None:
    """What is not known to be undone is not done again: it may have been committed."""
    await bucket(ada)
    tried = []

    async def lost(self: Any, method: Any, tenant_id: Any, members: Any, tx: Any) -> Any:
        tried.append(len(members()))
        await asyncio.sleep(0.1)  # in which the others come
        raise ConnectionResetError("the server closed the connection")

    with monkeypatch.context() as patched:
        patched.setattr(transactions.Transactions, "_mutate_together", lost)
        replies = await asyncio.gather(*(ada.rest.put(f"/storage/assets/{n}", content=b"x") for n in range(10)))
    assert {reply.status_code for reply in replies} == {503}
    assert sum(tried) == 10 > len(tried)
    assert len(cloud.objects.blobs) == 10  # until they are collected: an answer that was lost is no refusal
    assert await keys(ada) == []


async def test_a_repeated_call_is_answered_as_before(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    headers = {"idempotency-key": "once"}
    replies = [await ada.rest.put("/storage/assets/a", content=b"x", headers=headers) for _ in range(2)]
    assert replies[0].json() == replies[1].json()
    assert len(cloud.objects.blobs) == 1
