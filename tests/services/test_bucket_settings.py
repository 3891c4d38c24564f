"""What holds for a bucket as a whole, over REST."""

from typing import Any

import pytest

from tests.conftest import Cloud, Person
from tests.services.test_storage import bucket, put

RULE = {"allowed_origins": ["https://*.example.com"], "allowed_methods": ["GET", "PUT"], "allowed_headers": ["*"],
        "expose_headers": ["ETag"], "max_age_seconds": 60, "id": "pages"}  # fmt: skip


async def update(person: Person, name: str = "assets", **fields: Any) -> dict[str, Any]:
    reply = await person.rest.patch(f"/storage/buckets/{name}", json=fields)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def settings(person: Person, name: str = "assets") -> dict[str, Any]:
    reply = await person.rest.get(f"/storage/buckets/{name}")
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def test_a_new_bucket_has_no_settings(ada: Person) -> None:
    made = await bucket(ada)
    assert await settings(ada) == {"bucket": made, "tags": {}, "cors": [], "policy": ""}


async def test_what_an_update_does_not_name_stays(ada: Person) -> None:
    await bucket(ada)
    assert (await update(ada, tags={"tags": {"team": "web"}}))["tags"] == {"team": "web"}
    assert (await update(ada, cors={"rules": [RULE]}))["cors"] == [RULE]
    assert (await update(ada, encryption_enabled=True))["bucket"]["encryption_enabled"] is True
    shown = await update(ada, is_public=True)
    assert shown == await settings(ada) == await update(ada)
    assert (shown["tags"], shown["cors"]) == ({"team": "web"}, [RULE])
    assert shown["bucket"]["is_public"] is shown["bucket"]["encryption_enabled"] is True
    shown = await update(ada, is_public=False, encryption_enabled=False, tags={}, cors={})
    assert (shown["tags"], shown["cors"]) == ({}, [])
    assert shown["bucket"]["is_public"] is shown["bucket"]["encryption_enabled"] is False
    assert (await ada.rest.get("/storage/buckets")).json() == [shown["bucket"]]


@pytest.mark.parametrize("fields", [
    {"tags": {"tags": {"": "a"}}}, {"tags": {"tags": {"a" * 129: "a"}}}, {"tags": {"tags": {"a": "b" * 257}}},
    {"tags": {"tags": {f"a{number}": "b" for number in range(51)}}}, {"tags": {"tags": {"a\0": "b"}}},
    {"tags": {"tags": {"a": "\0"}}}, {"cors": {"rules": [RULE | {"allowed_origins": []}]}},
    {"cors": {"rules": [RULE | {"allowed_origins": ["https://*.*"]}]}},
    {"cors": {"rules": [RULE | {"allowed_origins": ["a\r\nset-cookie: b"]}]}},
    {"cors": {"rules": [RULE | {"allowed_methods": ["PATCH"]}]}}, {"cors": {"rules": [RULE | {"allowed_methods": []}]}},
    {"cors": {"rules": [RULE | {"allowed_headers": ["x-*-*"]}]}},
    {"cors": {"rules": [RULE | {"expose_headers": ["a b"]}]}},
    {"cors": {"rules": [RULE | {"expose_headers": ["a\nb"]}]}}, {"cors": {"rules": [RULE | {"max_age_seconds": -1}]}},
    {"cors": {"rules": [RULE] * 101}}, {"cors": {"rules": [RULE | {"id": "\0"}]}},
    {"cors": {"rules": [RULE | {"allowed_origins": [f"https://{'a' * 500}.example"] * 100}] * 2}}, {"cors": [RULE]},
    {"tags": "a"}, {"is_public": "perhaps"},
])  # fmt: skip
async def test_settings_that_are_none(ada: Person, fields: dict[str, Any]) -> None:
    await bucket(ada)
    reply = await ada.rest.patch("/storage/buckets/assets", json=fields)
    assert reply.status_code == 400, reply.text
    assert (await settings(ada))["tags"] == {}
    assert (await settings(ada))["cors"] == []


async def test_others_see_of_a_public_bucket_only_that_it_is_there(ada: Person, bob: Person) -> None:
    await bucket(ada)
    await update(ada, tags={"tags": {"team": "web"}}, cors={"rules": [RULE]})
    await put(ada, "assets/a.txt")
    for path in ("/storage/buckets/assets", "/storage/assets", "/storage/assets/a.txt"):
        assert (await bob.rest.get(path)).status_code == 404
    made = (await update(ada, is_public=True))["bucket"]
    assert await settings(bob) == {"bucket": made, "tags": {}, "cors": [], "policy": ""}
    assert (await bob.rest.get("/storage/assets/a.txt")).text == "hello"
    assert (await bob.rest.patch("/storage/buckets/assets", json={"is_public": False})).status_code == 404
    await update(ada, is_public=False)
    for path in ("/storage/buckets/assets", "/storage/assets", "/storage/assets/a.txt"):
        assert (await bob.rest.get(path)).status_code == 404


async def test_a_viewer_sees_settings_and_changes_none(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    assert await settings(eve) == await settings(ada)
    assert (await eve.rest.patch("/storage/buckets/assets", json={"is_public": True})).status_code == 403
    assert (await settings(ada))["bucket"]["is_public"] is False


async def test_a_bucket_that_is_not_there_has_no_settings(ada: Person) -> None:
    policy = {"policy": "{}"}
    assert (await ada.rest.get("/storage/buckets/none")).status_code == 404
    assert (await ada.rest.patch("/storage/buckets/none", json={})).status_code == 404
    assert (await ada.rest.put("/storage/buckets/none/policy", json=policy)).status_code == 404
    assert (await ada.rest.delete("/storage/buckets/none/policy")).status_code == 404
