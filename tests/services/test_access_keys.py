"""The pairs of API keys for the S3 protocol."""

import re
from uuid import UUID, uuid4

import pytest

from server.auth import AccessKey
from server.errors import ApiError
from tests.conftest import Cloud, Person


async def pair_of(cloud: Cloud, id: str) -> AccessKey:
    return await cloud.pipeline.access_key(id, "127.0.0.1")


async def test_one_is_made_shown_once_and_known(cloud: Cloud, ada: Person) -> None:
    made = (await ada.rest.post("/auth/keys", json={"name": "backup", "s3": True})).json()
    assert re.fullmatch("TC[A-Z2-7]{18}", made["s3"]["access_key_id"])
    assert re.fullmatch("[0-9a-f]{40}", made["s3"]["secret_access_key"])
    listed = {each["name"]: each for each in (await ada.rest.get("/auth/keys")).json()}
    assert listed["backup"]["s3"] == {"access_key_id": made["s3"]["access_key_id"]}
    assert "s3" not in listed["test"]
    for _ in range(2):  # from the database, and from what is known by then
        pair = await pair_of(cloud, made["s3"]["access_key_id"])
        assert pair.secret_access_key == made["s3"]["secret_access_key"]
        assert (pair.tenant_id, pair.principal.key_id) == (ada.tenant_id, UUID(made["id"]))


async def test_the_database_and_the_change_log_have_no_secret(cloud: Cloud, ada: Person) -> None:
    made = (await ada.rest.post("/auth/keys", json={"name": "backup", "s3": True})).json()
    secret = made["s3"]["secret_access_key"]
    sealed = await cloud.value("select access_secret from api_keys where access_key_id is not null")
    assert secret.encode() not in sealed
    assert not await cloud.value(f"select count(*) from changes where (before::text || after::text) like '%{secret}%'")


async def test_it_ends_with_its_key_at_once(cloud: Cloud, ada: Person) -> None:
    made = (await ada.rest.post("/auth/keys", json={"name": "backup", "s3": True})).json()
    await pair_of(cloud, made["s3"]["access_key_id"])
    turned = (await ada.rest.post(f"/auth/keys/{made['id']}/rotate")).json()
    assert turned["s3"]["access_key_id"] != made["s3"]["access_key_id"]
    with pytest.raises(ApiError, match="revoked"):
        await pair_of(cloud, made["s3"]["access_key_id"])
    await pair_of(cloud, turned["s3"]["access_key_id"])
    await ada.rest.delete(f"/auth/keys/{turned['id']}")
    with pytest.raises(ApiError, match="revoked"):
        await pair_of(cloud, turned["s3"]["access_key_id"])


@pytest.mark.parametrize("id", ["", "TCNOBODY", "\0", "ä", "x" * 5000])
async def test_others_are_unknown(cloud: Cloud, ada: Person, id: str) -> None:
    with pytest.raises(ApiError, match="unknown"):
        await pair_of(cloud, id)


async def test_who_guesses_is_slowed_down(cloud: Cloud) -> None:
    for _ in range(3000):
        with pytest.raises(ApiError) as refused:
            await pair_of(cloud, f"TC{uuid4().hex[:18]}")
        if refused.value.reason == "RATE_LIMITED":
            return
        assert refused.value.reason == "UNAUTHENTICATED"
    pytest.fail("nobody was slowed down")


async def test_its_id_alone_opens_nothing(cloud: Cloud, ada: Person) -> None:
    made = (await ada.rest.post("/auth/keys", json={"name": "backup", "s3": True})).json()
    await pair_of(cloud, made["s3"]["access_key_id"])
    for secret in made["s3"].values():
        assert (await cloud.anonymous.get("/auth/me", headers={"x-api-key": secret})).status_code == 401


async def test_a_dry_run_shows_none(ada: Person) -> None:
    shown = (await ada.rest.post("/auth/keys?dry_run=true", json={"name": "backup", "s3": True})).json()
    assert "s3" not in shown
    assert len((await ada.rest.get("/auth/keys")).json()) == 1


async def test_a_retry_gets_the_same_pair(ada: Person) -> None:
    replies = [
        await ada.rest.post("/auth/keys", json={"name": "b", "s3": True}, headers={"idempotency-key": "once"})
        for _ in range(2)
    ]
    assert replies[0].json()["s3"] == replies[1].json()["s3"]
