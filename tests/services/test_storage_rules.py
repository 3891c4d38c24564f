"""Rules by which objects, versions, delete markers and uploads go by themselves, and what a preview says of them."""

import random
from typing import Any

import pytest
from thecloud.v1 import storage_pb2 as pb

from server.services import storage_rules
from tests import crash
from tests.conftest import Cloud, Person
from tests.services.test_storage import bucket, keys, put, text, versioned

RULES = "/storage/buckets/assets/lifecycle"
SEED = 20260707


async def rule(person: Person, **fields: Any) -> dict[str, Any]:
    reply = await person.rest.post(RULES, json=fields)
    assert reply.status_code == 201, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def replaced(person: Person, *rules: dict[str, Any]) -> list[dict[str, Any]]:
    reply = await person.rest.put(RULES, json={"rules": rules})
    assert reply.status_code == 200, reply.text
    return reply.json()["rules"]  # type: ignore[no-any-return]


async def age(cloud: Cloud, days: float) -> None:
    """Let so many days pass for all there is."""
    await cloud.value("update objects set created_at = created_at - $1 * interval '24 hours', "
                      "noncurrent_since = noncurrent_since - $1 * interval '24 hours'", days)  # fmt: skip
    await cloud.value("update multipart_uploads set created_at = created_at - $1 * interval '24 hours'", days)


async def work(cloud: Cloud) -> None:
    await storage_rules.expire(cloud.app)
    await cloud.settle()


async def preview(person: Person, **query: Any) -> dict[str, Any]:
    reply = await person.rest.get(f"{RULES}/preview", params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def begin(person: Person, key: str, *parts: bytes) -> str:
    """An upload in parts that is not completed."""
    id: str = (await person.rest.post(f"/storage/multipart/init/assets/{key}")).json()["id"]
    for number, data in enumerate(parts, 1):
        await person.rest.put(f"/storage/multipart/upload/{id}/parts?part={number}", content=data)
    return id


async def rows(cloud: Cloud) -> list[str]:
    return await cloud.value("select coalesce(array_agg(key || ' ' || case when delete_marker then 'marker' else "  # type: ignore[no-any-return]
                             "is_latest::text end order by key, created_at), '{}') from objects")  # fmt: skip


class TestRules:
    async def test_one_says_what_goes_when(self, ada: Person) -> None:
        await bucket(ada)
        made = await rule(
            ada, prefix="logs/", noncurrent_days=3, abort_upload_days=2, expired_markers=True, name="tidy"
        )
        assert made | {"prefix": "logs/", "noncurrent_days": 3, "abort_upload_days": 2, "expired_markers": True,
                       "name": "tidy", "enabled": True} == made  # fmt: skip
        assert made.get("expiration_days") is None
        assert (await ada.rest.get(RULES)).json() == [made]
        await rule(ada, prefix="logs/", expiration_days=1)
        twice = await ada.rest.post(RULES, json={"prefix": "logs/", "name": "tidy", "expiration_days": 1})
        assert twice.status_code == 409

    @pytest.mark.parametrize("wrong", [
        {}, {"prefix": "a"}, {"expired_markers": False}, {"noncurrent_days": 0}, {"abort_upload_days": -1},
        {"expiration_days": 36_501}, {"expiration_days": 0, "noncurrent_days": 1}, {"enabled": True},
        {"expiration_days": 1, "name": "n" * 256}, {"expiration_days": 1, "prefix": "p" * 1025},
        {"expiration_days": 1.5}, {"noncurrent_days": 2**40},
    ])  # fmt: skip
    async def test_what_is_no_rule(self, ada: Person, wrong: dict[str, Any]) -> None:
        await bucket(ada)
        assert (await ada.rest.post(RULES, json=wrong)).status_code == 400
        await rule(ada, prefix="kept", expiration_days=1)
        assert (await ada.rest.put(RULES, json={"rules": [{"expiration_days": 1}, wrong]})).status_code == 400
        assert [each["prefix"] for each in (await ada.rest.get(RULES)).json()] == ["kept"]

    async def test_all_are_replaced_at_once(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        await rule(ada, prefix="old", expiration_days=1)
        made = await replaced(
            ada, {"name": "a", "prefix": "x", "expiration_days": 1}, {"prefix": "x", "noncurrent_days": 2},
            {"abort_upload_days": 7, "enabled": False},
        )  # fmt: skip
        assert [each["name"] for each in made] == ["a", made[1]["id"], made[2]["id"]]
        assert [each["enabled"] for each in made] == [True, True, False]
        listed = (await ada.rest.get(RULES)).json()
        assert sorted(listed, key=lambda each: str(each["id"])) == sorted(made, key=lambda each: str(each["id"]))
        log = await cloud.value("select array_agg(type order by sequence) from changes where kind = 'lifecycle_rule'")
        assert log == ["CREATED", "DELETED", "CREATED", "CREATED", "CREATED"]
        twice = await ada.rest.put(RULES, json={"rules": [{"name": "a", "expiration_days": 1}] * 2})
        assert twice.status_code == 400 and "'a'" in twice.text
        many = [{"prefix": str(number), "expiration_days": 1} for number in range(101)]
        assert (await ada.rest.put(RULES, json={"rules": many})).status_code == 400
        assert (await bob.rest.put(RULES, json={"rules": []})).status_code == 404
        assert (await bob.rest.get(f"{RULES}/preview")).status_code == 404
        assert len((await ada.rest.get(RULES)).json()) == 3
        assert await replaced(ada) == []
        assert (await ada.rest.get(RULES)).json() == []

    async def test_a_bucket_has_so_many(self, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage_rules, "MOST", 2)
        await bucket(ada)
        for prefix in "ab":
            await rule(ada, prefix=prefix, expiration_days=1)
        assert (await ada.rest.post(RULES, json={"prefix": "c", "expiration_days": 1})).status_code == 409


class TestWork:
    async def test_versions_go_that_have_long_not_been_the_latest(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        await rule(ada, noncurrent_days=3)
        await put(ada, "assets/a", b"one")
        await age(cloud, 10)  # for which it is the latest
        await put(ada, "assets/a", b"two")
        await age(cloud, 2)
        await put(ada, "assets/a", b"three")
        await work(cloud)
        assert len(cloud.objects.blobs) == 3
        await age(cloud, 1.1)
        await work(cloud)
        assert sorted(cloud.objects.blobs.values()) == [b"three", b"two"]
        await age(cloud, 100)
        await work(cloud)
        assert list(cloud.objects.blobs.values()) == [b"three"]
        assert await text(ada, "assets/a") == "three"

    async def test_one_that_is_the_latest_again_does_not_go(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        await rule(ada, noncurrent_days=1)
        await put(ada, "assets/a", b"one")
        second = await put(ada, "assets/a", b"two")
        await age(cloud, 5)
        await ada.rest.delete(f"/storage/assets/a?versionId={second['version_id']}")
        await work(cloud)
        assert await text(ada, "assets/a") == "one"
        await put(ada, "assets/a", b"three")
        await work(cloud)
        assert len(cloud.objects.blobs) == 2, "it is since now that it is not the latest"

    async def test_uploads_that_were_left_are_forgotten(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await rule(ada, prefix="logs/", abort_upload_days=2)
        for key in ("logs/1", "other"):
            await begin(ada, key, b"x")
        await age(cloud, 1.5)
        await begin(ada, "logs/2", b"x")
        await work(cloud)
        assert len(cloud.objects.blobs) == 3
        await age(cloud, 1)
        await work(cloud)
        left = await cloud.value("select array_agg(key order by key) from multipart_uploads")
        assert (left, len(cloud.objects.blobs)) == (["logs/2", "other"], 2)

    async def test_markers_go_when_they_hide_nothing(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        for key in "ab":
            await put(ada, f"assets/{key}")
            await ada.rest.delete(f"/storage/assets/{key}")
        await put(ada, "assets/b")
        made = await replaced(ada, {"prefix": "a", "noncurrent_days": 2}, {"expired_markers": True})
        await age(cloud, 1)
        await work(cloud)
        assert await rows(cloud) == ["a false", "a marker", "b false", "b marker", "b true"]
        await age(cloud, 0.5)
        shown = await preview(ada)
        assert [(each["action"], each["key"], each["rule_id"]) for each in sorted(
            shown["expiries"], key=lambda each: str(each["action"])
        )] == [("DELETE_MARKER", "a", made[1]["id"]), ("DELETE_VERSION", "a", made[0]["id"])]  # fmt: skip
        await age(cloud, 1)
        await work(cloud)
        assert await rows(cloud) == ["b false", "b marker", "b true"]

    async def test_without_that_rule_markers_stay(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        await put(ada, "assets/a")
        await ada.rest.delete("/storage/assets/a")
        await rule(ada, noncurrent_days=1)
        await age(cloud, 2)
        await work(cloud)
        assert await rows(cloud) == ["a marker"]
        await rule(ada, name="markers", expired_markers=True)
        await work(cloud)
        assert await rows(cloud) == []

    async def test_a_version_that_a_marker_hides_is_never_brought_back(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        await put(ada, "assets/a")
        await ada.rest.delete("/storage/assets/a")
        await rule(ada, expired_markers=True)
        await age(cloud, 50)
        await work(cloud)
        assert await rows(cloud) == ["a false", "a marker"]
        assert await text(ada, "assets/a") == "404"

    @pytest.mark.parametrize("after", [False, True])
    async def test_a_death_in_the_middle_is_survived(self, cloud: Cloud, ada: Person, after: bool) -> None:
        await bucket(ada)
        await versioned(ada)
        await rule(ada, noncurrent_days=1, expired_markers=True)
        for key in "abc":
            await put(ada, f"assets/{key}")
            await ada.rest.delete(f"/storage/assets/{key}")
        await put(ada, "assets/kept")
        await age(cloud, 2)
        await storage_rules.expire(cloud.app)
        assert await crash.die(cloud, "objects", crash.Moment(2, after))
        await crash.expire(cloud)
        await cloud.settle()
        assert await rows(cloud) == ["kept true"]
        assert len(cloud.objects.blobs) == 1

    async def test_of_a_bucket_that_is_deleted_nothing_is_left_to_do(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await rule(ada, expiration_days=1)
        await put(ada, "assets/a")
        await age(cloud, 2)
        await storage_rules.expire(cloud.app)
        await ada.rest.delete("/storage/buckets/assets?force=true")
        await cloud.settle()
        assert await cloud.value("select (select count(*) from work) + (select count(*) from lifecycle_rules)") == 0


class TestPreview:
    async def test_it_tells_what_goes_tomorrow_and_why(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        first = await rule(ada, prefix="logs/", expiration_days=2)
        await rule(ada, prefix="logs/1", expiration_days=2)
        await rule(ada, prefix="off", expiration_days=1, enabled=False)
        second = await rule(ada, prefix="up", abort_upload_days=2)
        made = await put(ada, "assets/logs/1", b"12345")
        await put(ada, "assets/off")
        upload = await begin(ada, "up", b"123", b"4567")
        shown = await preview(ada)
        assert (shown["expiries"], shown["total"], shown["next_page_token"]) == ([], 0, "")
        await age(cloud, 1.5)
        await put(ada, "assets/logs/2")
        shown = await preview(ada)
        assert shown["expiries"] == [
            {"rule_id": first["id"], "action": "EXPIRE", "id": made["id"], "key": "logs/1", "version_id": "null",
             "size_bytes": 5},
            {"rule_id": second["id"], "action": "ABORT_UPLOAD", "id": upload, "key": "up", "version_id": "",
             "size_bytes": 7},
        ]  # fmt: skip
        assert (shown["total"], shown["total_bytes"]) == (2, 12)
        assert await keys(ada) == ["logs/2", "off", "logs/1"], "it only looks"

    async def test_it_comes_in_pages(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await rule(ada, expiration_days=1)
        for number in range(5):
            await put(ada, f"assets/ü{number}", b"x")
        found, token = [], ""
        while True:
            shown = await preview(ada, page_size=2, page_token=token)
            assert (shown["total"], shown["total_bytes"]) == (5, 5)
            found += [each["key"] for each in shown["expiries"]]
            if not (token := shown["next_page_token"]):
                break
        assert found == [f"ü{number}" for number in range(5)]
        for wrong in ("%", "YQ==", "x" * 2001):
            assert (await ada.rest.get(f"{RULES}/preview", params={"page_token": wrong})).status_code == 400

    async def test_what_the_caller_may_not_read_is_only_counted(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await rule(ada, expiration_days=1, abort_upload_days=1)
        for key in ("logs/1", "secret"):
            await put(ada, f"assets/{key}")
            await begin(ada, key)
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        policy = await ada.rest.post("/iam/policies", json={"name": "logs", "statements": [
            {"effect": "Deny", "action": ["storage:*"], "resource": [
                f"arn:thecloud:storage:local:*:{kind}/assets/secret*" for kind in ("object", "multipart-upload")
            ]},
        ]})  # fmt: skip
        await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{policy.json()['id']}")
        shown = await preview(eve)
        assert ({each["key"] for each in shown["expiries"]}, shown["total"]) == ({"logs/1"}, 4)

    @pytest.mark.parametrize("versioning", ["OFF", "ENABLED", "SUSPENDED"])
    async def test_it_is_what_is_gone_when_the_clock_moves(
        self, cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch, versioning: str
    ) -> None:
        monkeypatch.setattr(storage_rules, "BATCH", 3)
        dice = random.Random(SEED)
        await bucket(ada)
        if versioning != "OFF":
            await versioned(ada)
        prefixes = ("", "a", "a/", "b", "zz")
        for _ in range(40):
            key = dice.choice(("a", "a/1", "a/2", "b/1", "c", "zz"))
            if dice.random() < 0.3:
                await ada.rest.delete(f"/storage/assets/{key}")
            elif dice.random() < 0.2:
                await begin(ada, key, b"x")
            else:
                await put(ada, f"assets/{key}", b"x")
            await age(cloud, dice.random())
        if versioning == "SUSPENDED":
            await versioned(ada, enabled=False)
        days = ("expiration_days", "noncurrent_days", "abort_upload_days")
        await replaced(
            ada, {"expired_markers": True}, *({each: 9} for each in days),
            *({"prefix": dice.choice(prefixes), "enabled": dice.random() < 0.8, "expired_markers": dice.random() < 0.4,
               dice.choice(days): dice.randint(1, 12)} for _ in range(8)),
        )  # fmt: skip

        async def there() -> dict[str, bool]:
            """What there is, and whether it is to be seen."""
            return dict(await cloud.value(
                "select coalesce(array_agg(row(id::text, shown)), '{}') from "
                "(select id, is_latest and not delete_marker as shown from objects "
                "union all select id, true from multipart_uploads) as each"
            ))  # fmt: skip

        seen = set()
        for _ in range(6):
            shown = await preview(ada)
            before = await there()
            await age(cloud, 1)
            await work(cloud)
            after = await there()
            gone = {id for id in before if id not in after or (before[id] and not after[id])}
            assert gone == {each["id"] for each in shown["expiries"]}
            assert len(gone) == int(shown["total"])
            seen |= {each["action"] for each in shown["expiries"]}
        assert seen == {"EXPIRE", "ABORT_UPLOAD", *(("DELETE_VERSION", "DELETE_MARKER") if versioning != "OFF" else ())}


def test_every_action_of_the_work_is_one_of_the_api() -> None:
    assert [f"ACTION_{action}" for action in sorted(storage_rules.DUE)] == sorted(
        pb.LifecycleExpiry.Action.keys()[1:]
    )  # fmt: skip
