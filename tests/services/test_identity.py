"""People: how they register, log in and get back in; and the keys they call with."""

import asyncio
import email
import email.policy
import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import argon2
import grpc
import httpx
import pytest
from thecloud.v1 import identity_pb2 as pb
from thecloud.v1 import identity_pb2_grpc

from server import auth
from server.config import Config
from tests.conftest import Cloud, Person, running_cloud, until

ADA = {"email": "ada@example.com", "password": "password", "name": "Ada Lovelace"}
KEY = re.compile(r"thecloud_[0-9a-f]{32}")
LISTENERS = """select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and application_name = '' and pid <> pg_backend_pid()"""


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that take no time: the tests make hundreds. Those who want real ones undo this."""
    monkeypatch.setattr(auth, "_hasher", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


async def register(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/auth/register", json=ADA | fields)


async def login(client: httpx.AsyncClient, password: str = "password", email: str = ADA["email"]) -> httpx.Response:
    return await client.post("/auth/login", json={"email": email, "password": password})


async def registered(cloud: Cloud) -> httpx.AsyncClient:
    """A client with the key of somebody who registered and logged in."""
    assert (await register(cloud.anonymous)).status_code == 201
    return await cloud.client(**{"x-api-key": (await login(cloud.anonymous)).json()["api_key"]})


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


# Registering


async def test_registering_answers_with_the_documented_message_and_the_user(cloud: Cloud) -> None:
    reply = await register(cloud.anonymous)
    body = reply.json()
    assert reply.status_code == 201
    assert body["message"] == "user created successfully"
    assert body["user_id"] == body["id"] == str(UUID(body["id"]))
    assert (body["email"], body["name"]) == ("ada@example.com", "Ada Lovelace")
    assert datetime.fromisoformat(body["created_at"]).tzinfo == UTC
    assert set(body) == {
        "message", "user_id", "id", "email", "name", "default_tenant_id", "created_at", "updated_at",
    }  # fmt: skip


async def test_registering_is_enveloped_under_api_v1(cloud: Cloud) -> None:
    body = (await cloud.anonymous.post("/api/v1/auth/register", json=ADA)).json()
    assert set(body) == {"data", "meta"}
    assert body["data"]["message"] == "user created successfully"


async def test_who_registers_owns_a_personal_tenant(cloud: Cloud) -> None:
    client = await registered(cloud)
    me = (await client.get("/auth/me")).json()
    [tenant] = (await client.get("/tenants")).json()
    assert tenant["id"] == me["default_tenant_id"]
    assert (tenant["name"], tenant["owner_id"]) == ("Ada Lovelace", me["id"])
    role = await cloud.value("select role from members where user_id = $1", UUID(me["id"]))
    assert role == "owner"


async def test_registering_makes_no_key(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    assert await cloud.value("select count(*) from api_keys") == 0


@pytest.mark.parametrize("address", ["ada@example.com", "ADA@Example.COM"])
async def test_an_address_registers_once_whatever_its_case(cloud: Cloud, address: str) -> None:
    await register(cloud.anonymous)
    assert refusal(await register(cloud.anonymous, email=address)) == (409, "CONFLICT")
    assert await cloud.value("select count(*) from users") == 1
    assert await cloud.value("select count(*) from tenants") == 1


async def test_ten_who_register_an_address_at_once_make_one_account(cloud: Cloud) -> None:
    replies = await asyncio.gather(*(register(cloud.anonymous) for _ in range(10)))
    assert sorted(reply.status_code for reply in replies) == [201, *[409] * 9]


@pytest.mark.parametrize("password", ["8 bytes!", "é" * 4, "x" * 72, "é" * 36, " " * 8, "with \u0000 and \n in it"])
async def test_a_password_has_8_to_72_bytes(cloud: Cloud, password: str) -> None:
    assert (await register(cloud.anonymous, password=password)).status_code == 201
    assert (await login(cloud.anonymous, password)).status_code == 200
    assert (await login(cloud.anonymous, password[:-1] + "?")).status_code == 401


@pytest.mark.parametrize("password", ["", "7 bytes", "x" * 73, "é" * 37, None, 12345678, ["password"]])
async def test_no_other_password_is_taken(cloud: Cloud, password: Any) -> None:
    reply = await register(cloud.anonymous, password=password)
    assert refusal(reply) == (400, "INVALID_INPUT")
    assert [each["field"] for each in reply.json()["error"]["fields"]] == ["password"]


@pytest.mark.parametrize("name", ["A", "", "x" * 101, "a\u0000b", "a\nb", "a\u007fb", "  ", " a ", None])
async def test_a_name_has_2_to_100_characters_and_no_control_character(cloud: Cloud, name: str | None) -> None:
    reply = await register(cloud.anonymous, name=name)
    assert refusal(reply) == (400, "INVALID_INPUT")
    assert [each["field"] for each in reply.json()["error"]["fields"]] == ["name"]
    assert await cloud.value("select count(*) from users") == 0


@pytest.mark.parametrize("name", ["Al", "x" * 100, "é" * 100, "王小明", "O'Neil"])
async def test_a_name_may_be_in_any_script(cloud: Cloud, name: str) -> None:
    assert (await register(cloud.anonymous, name=name)).json()["name"] == name


@pytest.mark.parametrize(
    "address", ["", "ada", "ada@", "@example.com", "a b@example.com", "ada@example.com\n", "a\u0000@b.c",
                f"{'x' * 250}@example.com", None]
)  # fmt: skip
async def test_an_address_has_the_form_of_one(cloud: Cloud, address: str | None) -> None:
    reply = await register(cloud.anonymous, email=address)
    assert refusal(reply) == (400, "INVALID_INPUT")
    assert [each["field"] for each in reply.json()["error"]["fields"]] == ["email"]


async def test_the_password_is_stored_as_a_dear_hash_and_nowhere_else(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    await register(cloud.anonymous, password="correct horse battery")
    assert (await cloud.value("select password_hash from users")).startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert (await login(cloud.anonymous, "correct horse battery")).status_code == 200
    for table in ("users", "changes", "audit_log"):
        assert not await cloud.value(f"select count(*) from {table} t where t::text like '%correct horse%'")
    assert not await cloud.value("select count(*) from changes c where c::text like '%argon2%'")


# Logging in


async def test_logging_in_answers_as_documented(cloud: Cloud) -> None:
    user_id = (await register(cloud.anonymous)).json()["user_id"]
    reply = await login(cloud.anonymous)
    body = reply.json()
    assert reply.status_code == 200
    assert set(body) == {"user", "api_key"}
    assert body["user"] | {"id": user_id, "email": ADA["email"], "name": ADA["name"]} == body["user"]
    assert KEY.fullmatch(body["api_key"])
    me = await cloud.anonymous.get("/auth/me", headers={"X-API-Key": body["api_key"]})
    assert me.json() == body["user"]


async def test_the_case_of_the_address_does_not_matter(cloud: Cloud) -> None:
    await register(cloud.anonymous, email="Ada@Example.com")
    assert (await login(cloud.anonymous, email="aDA@eXAMPLE.COM")).status_code == 200


async def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    wrong = await login(cloud.anonymous, "passwort")
    unknown = await login(cloud.anonymous, email="nobody@example.com")
    assert refusal(wrong) == refusal(unknown) == (401, "UNAUTHORIZED")
    assert wrong.json()["error"] == unknown.json()["error"]
    assert wrong.headers.keys() == unknown.headers.keys()


def test_an_unknown_address_costs_as_much_as_a_wrong_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    dear = argon2.extract_parameters(auth._hasher.hash("password"))
    assert argon2.extract_parameters(auth._NO_PASSWORD) == dear
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        auth._hasher.verify(auth._NO_PASSWORD, "password")


async def test_every_login_makes_a_further_key(cloud: Cloud) -> None:
    client = await registered(cloud)
    await login(cloud.anonymous)
    assert [key["name"] for key in (await client.get("/auth/keys")).json()] == ["Default Key", "Default Key"]


@pytest.mark.parametrize("address", [ADA["email"], "nobody@example.com"])
async def test_five_wrong_passwords_lock_an_address_for_15_minutes(cloud: Cloud, address: str) -> None:
    await register(cloud.anonymous)
    for _ in range(5):
        assert (await login(cloud.anonymous, "passwort", address)).status_code == 401
    locked = await login(cloud.anonymous, email=address)
    assert refusal(locked) == (401, "UNAUTHORIZED")
    assert "15 minutes" in locked.json()["error"]["message"]
    await cloud.value("update rate_limits set full_at = full_at - interval '14 minutes'")
    assert "15 minutes" in (await login(cloud.anonymous, email=address)).json()["error"]["message"]
    await cloud.value("update rate_limits set full_at = full_at - interval '2 minutes'")
    assert (await login(cloud.anonymous, email=address)).status_code == (200 if address == ADA["email"] else 401)


async def test_a_lock_holds_in_every_process_and_for_one_address_only(cloud: Cloud, tmp_path: Path) -> None:
    await register(cloud.anonymous)
    await register(cloud.anonymous, email="bob@example.com")
    for _ in range(5):
        await login(cloud.anonymous, "passwort")
    async with running_cloud(cloud.app.db.url, tmp_path / "other") as other:
        assert (await login(other.anonymous)).status_code == 401
        assert (await login(other.anonymous, email="bob@example.com")).status_code == 200


async def test_the_right_password_forgets_the_wrong_ones(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    for _ in range(3):
        for _ in range(4):
            await login(cloud.anonymous, "passwort")
        assert (await login(cloud.anonymous)).status_code == 200


@pytest.mark.parametrize("body", [{}, {"email": "a@b.c"}, {"password": "password"}, {"email": "", "password": ""},
                                  {"email": "\u0000", "password": "password"},
                                  {"email": "a@b.c", "password": "x" * 73}])  # fmt: skip
async def test_a_login_without_both_is_refused(cloud: Cloud, body: dict[str, str]) -> None:
    assert refusal(await cloud.anonymous.post("/auth/login", json=body)) == (400, "INVALID_INPUT")


# A forgotten password


async def ask_reset(cloud: Cloud, address: str = ADA["email"]) -> httpx.Response:
    return await cloud.anonymous.post("/auth/forgot-password", json={"email": address})


async def reset(cloud: Cloud, token: str, password: str = "new password") -> httpx.Response:
    return await cloud.anonymous.post("/auth/reset-password", json={"token": token, "new_password": password})


def mailed_token(cloud: Cloud) -> str:
    """The token in the latest mail."""
    mail: Any = email.message_from_string(cloud.mail()[-1], policy=email.policy.default)
    found = re.search(r"^ +(\S{43})$", mail.get_content(), re.MULTILINE)
    assert found
    return found[1]


async def test_a_mailed_token_sets_a_new_password(cloud: Cloud) -> None:
    client = await registered(cloud)
    asked = await ask_reset(cloud)
    assert (asked.status_code, asked.json()) == (200, {"message": "If the email exists, a reset token has been sent."})
    await cloud.settle()
    assert f"To: {ADA['email']}" in cloud.mail()[0]
    done = await reset(cloud, mailed_token(cloud))
    assert (done.status_code, done.json()) == (200, {"message": "password updated successfully"})
    assert (await login(cloud.anonymous)).status_code == 401
    assert (await login(cloud.anonymous, "new password")).status_code == 200
    assert (await client.get("/auth/me")).status_code == 200, "keys stay valid"


async def test_an_unknown_address_gets_the_same_answer_and_no_mail(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    known, unknown = await ask_reset(cloud), await ask_reset(cloud, "nobody@example.com")
    assert (known.status_code, known.json()) == (unknown.status_code, unknown.json())
    await cloud.settle()
    assert len(cloud.mail()) == 1


async def test_the_case_of_a_forgetful_address_does_not_matter(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    await ask_reset(cloud, "ADA@EXAMPLE.COM")
    await cloud.settle()
    assert len(cloud.mail()) == 1


async def test_only_a_hash_of_the_token_is_in_the_database(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    await ask_reset(cloud)
    await cloud.settle()
    token = mailed_token(cloud)
    assert await cloud.value("select token_hash from password_resets") == hashlib.sha256(token.encode()).digest()
    for table in ("password_resets", "audit_log", "changes", "work"):
        assert not await cloud.value(f"select count(*) from {table} t where strpos(t::text, $1) > 0", token)


async def test_a_token_works_once(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    await ask_reset(cloud)
    await cloud.settle()
    token = mailed_token(cloud)
    replies = await asyncio.gather(*(reset(cloud, token) for _ in range(5)))
    assert sorted(reply.status_code for reply in replies) == [200, 400, 400, 400, 400]
    again = await reset(cloud, token)
    assert refusal(again) == (400, "INVALID_INPUT")
    assert again.json()["error"]["metadata"] == {"field": "token"}


async def test_only_the_latest_token_works(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    await ask_reset(cloud)
    await cloud.settle()
    first = mailed_token(cloud)
    await ask_reset(cloud)
    assert (await reset(cloud, first)).status_code == 400, "void as soon as another was asked for"
    await cloud.settle()
    assert (await reset(cloud, first)).status_code == 400
    assert (await reset(cloud, mailed_token(cloud))).status_code == 200


async def test_a_token_expires(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    await ask_reset(cloud)
    await cloud.settle()
    left = await cloud.value("select expires_at - now() from password_resets")
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    await cloud.value("update password_resets set expires_at = now() - interval '1 second'")
    assert refusal(await reset(cloud, mailed_token(cloud))) == (400, "INVALID_INPUT")
    assert (await login(cloud.anonymous)).status_code == 200


@pytest.mark.parametrize("token", ["", "x" * 43, "x" * 256, "\u0000", None])
async def test_another_token_is_refused(cloud: Cloud, token: str | None) -> None:
    await register(cloud.anonymous)
    await ask_reset(cloud)
    await cloud.settle()
    assert refusal(await reset(cloud, token)) == (400, "INVALID_INPUT")  # type: ignore[arg-type]


async def test_a_bad_new_password_does_not_use_up_the_token(cloud: Cloud) -> None:
    await register(cloud.anonymous)
    await ask_reset(cloud)
    await cloud.settle()
    token = mailed_token(cloud)
    assert (await reset(cloud, token, "short")).status_code == 400
    assert (await reset(cloud, token)).status_code == 200


# Keys


async def test_a_new_key_is_shown_once(ada: Person) -> None:
    reply = await ada.rest.post("/auth/keys", json={"name": "Production Key"})
    made = reply.json()
    assert reply.status_code == 201
    assert set(made) == {"id", "user_id", "name", "key", "prefix", "created_at", "last_used"}
    assert (made["name"], made["user_id"]) == ("Production Key", str(ada.user_id))
    assert KEY.fullmatch(made["key"])
    assert made["key"].startswith(made["prefix"])
    assert len(made["prefix"]) < len(made["key"]) / 2
    assert made["last_used"][:19] == made["created_at"][:19]
    newest, oldest = (await ada.rest.get("/auth/keys")).json()
    assert newest == {name: value for name, value in made.items() if name != "key"}
    assert oldest["name"] == "test"


async def test_nothing_but_a_hash_and_the_prefix_is_stored(cloud: Cloud, ada: Person) -> None:
    made = (await ada.rest.post("/auth/keys", json={"name": "k"})).json()
    stored = await cloud.value("select hash from api_keys where id = $1", UUID(made["id"]))
    assert stored == hashlib.sha256(made["key"].encode()).digest()
    secret = made["key"].removeprefix(made["prefix"])
    for table in ("api_keys", "changes", "audit_log", "idempotency_keys"):
        assert not await cloud.value(f"select count(*) from {table} t where strpos(t::text, $1) > 0", secret)


@pytest.mark.parametrize("name", ["", "x" * 101, "a\u0000b", "a\tb", None, 7])
async def test_a_key_has_a_name(ada: Person, name: Any) -> None:
    assert refusal(await ada.rest.post("/auth/keys", json={"name": name})) == (400, "INVALID_INPUT")


async def test_names_of_keys_may_repeat(ada: Person) -> None:
    for _ in range(2):
        assert (await ada.rest.post("/auth/keys", json={"name": "same"})).status_code == 201


async def test_both_headers_carry_a_key(cloud: Cloud, ada: Person) -> None:
    for headers in (
        {"X-API-Key": ada.key},
        {"Authorization": f"Bearer {ada.key}"},
        {"authorization": f"bearer {ada.key}"},
    ):
        reply = await cloud.anonymous.get("/auth/me", headers=headers)
        assert (reply.status_code, reply.json()["email"]) == (200, ada.email)


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-API-Key": ""}, {"X-API-Key": "thecloud_" + "0" * 32}, {"X-API-Key": "é"}, {"Authorization": "Bearer "},
     {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer thecloud_stale"}],
)  # fmt: skip
async def test_no_key_or_an_unknown_one_is_unauthorized(cloud: Cloud, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    reply = await cloud.anonymous.get("/auth/keys", headers=raw)
    assert refusal(reply) == (401, "UNAUTHORIZED")
    assert reply.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("key", ["", "thecloud_stale"])
async def test_public_routes_do_not_look_at_keys(cloud: Cloud, key: str) -> None:
    client = await cloud.client(**{"x-api-key": key})
    assert (await register(client)).status_code == 201
    assert (await login(client)).status_code == 200
    assert (await client.post("/auth/forgot-password", json={"email": ADA["email"]})).status_code == 200
    assert (await client.get("/health/ready")).status_code == 200


async def test_a_revoked_key_is_refused_at_once(cloud: Cloud, ada: Person) -> None:
    made = (await ada.rest.post("/auth/keys", json={"name": "k"})).json()
    holder = await cloud.client(**{"x-api-key": made["key"]})
    assert (await holder.get("/auth/me")).status_code == 200
    gone = await ada.rest.delete(f"/auth/keys/{made['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert refusal(await holder.get("/auth/me")) == (401, "UNAUTHORIZED")
    assert refusal(await ada.rest.delete(f"/auth/keys/{made['id']}")) == (404, "NOT_FOUND")


async def test_the_key_of_the_call_may_be_revoked(ada: Person) -> None:
    [own] = (await ada.rest.get("/auth/keys")).json()
    assert (await ada.rest.delete(f"/auth/keys/{own['id']}")).status_code == 204
    assert (await ada.rest.get("/auth/me")).status_code == 401


@pytest.mark.parametrize("path", ["/auth/keys/{}", "/auth/keys/{}/rotate", "/auth/keys/{}/regenerate"])
async def test_other_peoples_keys_are_not_found(ada: Person, bob: Person, path: str) -> None:
    [key] = (await bob.rest.get("/auth/keys")).json()
    verb = "DELETE" if path.endswith("{}") else "POST"
    for id, status in ((key["id"], 404), (str(uuid4()), 404), ("no-uuid", 400)):
        assert (await ada.rest.request(verb, path.format(id))).status_code == status
    assert (await bob.rest.get("/auth/me")).status_code == 200


async def test_a_colleague_in_the_same_tenant_does_not_see_ones_keys(cloud: Cloud, ada: Person) -> None:
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="admin")
    [own] = (await ada.rest.get("/auth/keys")).json()
    assert own["id"] not in [key["id"] for key in (await eve.rest.get("/auth/keys")).json()]
    assert (await eve.rest.delete(f"/auth/keys/{own['id']}")).status_code == 404


@pytest.mark.parametrize("verb", ["rotate", "regenerate"])
async def test_a_key_is_replaced_by_one_of_the_same_name(cloud: Cloud, ada: Person, verb: str) -> None:
    old = (await ada.rest.post("/auth/keys", json={"name": "ci"})).json()
    reply = await ada.rest.post(f"/auth/keys/{old['id']}/{verb}")
    new = reply.json()
    assert reply.status_code == 200
    assert set(new) == set(old)
    assert new["name"] == "ci"
    assert new["id"] != old["id"]
    assert new["key"] != old["key"]
    for key, status in ((old["key"], 401), (new["key"], 200)):
        assert (await cloud.anonymous.get("/auth/me", headers={"X-API-Key": key})).status_code == status
    assert (await ada.rest.post(f"/auth/keys/{old['id']}/{verb}")).status_code == 404


async def test_of_two_who_rotate_a_key_at_once_one_gets_a_new_one(ada: Person) -> None:
    old = (await ada.rest.post("/auth/keys", json={"name": "ci"})).json()
    replies = await asyncio.gather(*(ada.rest.post(f"/auth/keys/{old['id']}/rotate") for _ in range(4)))
    assert sorted(reply.status_code for reply in replies) == [200, 404, 404, 404]
    assert len((await ada.rest.get("/auth/keys")).json()) == 2


async def test_use_is_noted_to_the_minute(cloud: Cloud, ada: Person) -> None:
    await cloud.value("update api_keys set last_used = now() - interval '2 minutes'")
    for _ in range(3):
        [key] = (await ada.rest.get("/auth/keys")).json()
    assert datetime.now(UTC) - datetime.fromisoformat(key["last_used"]) < timedelta(minutes=1)
    await cloud.value("update api_keys set last_used = now() - interval '30 seconds'")
    cloud.app.keys.drop("*")
    [key] = (await ada.rest.get("/auth/keys")).json()
    assert datetime.now(UTC) - datetime.fromisoformat(key["last_used"]) > timedelta(seconds=25)


async def test_the_list_comes_in_pages(ada: Person) -> None:
    for number in range(4):
        await ada.rest.post("/auth/keys", json={"name": f"k{number}"})
    first = await ada.rest.get("/auth/keys?page_size=3")
    rest = await ada.rest.get(f"/auth/keys?page_size=3&page_token={first.headers['x-next-page-token']}")
    assert [key["name"] for key in [*first.json(), *rest.json()]] == ["k3", "k2", "k1", "k0", "test"]
    assert "link" not in rest.headers


async def test_grpc_speaks_of_the_same_keys(cloud: Cloud, ada: Person) -> None:
    stub = identity_pb2_grpc.IdentityServiceStub(cloud.channel)  # type: ignore[no-untyped-call]
    made = await stub.CreateKey(pb.CreateKeyRequest(name="k"), metadata=ada.metadata)
    listed = await stub.ListKeys(pb.ListKeysRequest(), metadata=[("authorization", f"Bearer {made.key}")])
    assert listed.keys[0].id == made.id
    assert not any(key.HasField("key") for key in listed.keys)
    await stub.RevokeKey(pb.RevokeKeyRequest(id=made.id), metadata=ada.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetMe(pb.GetMeRequest(), metadata=[("x-api-key", made.key)])
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


# Keys in another process


async def known_in(cloud: Cloud, key: str) -> httpx.AsyncClient:
    """A client of a process that holds the key in its cache."""
    client = await cloud.client(**{"x-api-key": key})

    async def cached() -> bool:
        assert (await client.get("/auth/me")).status_code == 200
        return cloud.app.keys.cached(key) is not None

    await until(cached)
    return client


async def refused_by(client: httpx.AsyncClient) -> bool:
    return (await client.get("/auth/me")).status_code == 401


@pytest.mark.parametrize("how", ["revoke", "rotate"])
async def test_a_revoked_key_is_refused_in_another_process_within_a_second(
    cloud: Cloud, ada: Person, tmp_path: Path, how: str
) -> None:
    async with running_cloud(cloud.app.db.url, tmp_path / "other") as other:
        elsewhere = await known_in(other, ada.key)
        [own] = (await ada.rest.get("/auth/keys")).json()
        if how == "revoke":
            await ada.rest.delete(f"/auth/keys/{own['id']}")
        else:
            await ada.rest.post(f"/auth/keys/{own['id']}/rotate")
        await until(lambda: refused_by(elsewhere), seconds=1)


async def test_a_lost_listener_lets_no_revoked_key_through(
    cloud: Cloud, ada: Person, bob: Person, tmp_path: Path
) -> None:
    async with running_cloud(cloud.app.db.url, tmp_path / "other") as other:
        elsewhere = await known_in(other, ada.key)
        assert await cloud.value(LISTENERS) >= 2
        [own] = (await ada.rest.get("/auth/keys")).json()
        assert (await ada.rest.delete(f"/auth/keys/{own['id']}")).status_code == 204
        await until(lambda: refused_by(elsewhere), seconds=auth.UNHEARD + 0.25)
        await known_in(other, bob.key)  # it hears again


# The rate limit


def strict(data: Path, **settings: Any) -> Config:
    return replace(Config(data=data, grpc="127.0.0.1:0", auth_rate_limit=5, lease_seconds=5), **settings)


async def at(cloud: Cloud, address: str) -> httpx.AsyncClient:
    """A client at this address."""
    transport = httpx.ASGITransport(cloud.asgi, client=(address, 50000))
    return await cloud.stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://cloud"))


FOUR = [
    ("/auth/register", {"email": "x"}),
    ("/auth/login", {}),
    ("/auth/forgot-password", {"email": "nobody@example.com"}),
    ("/auth/reset-password", {"token": "x", "new_password": "password"}),
]


async def test_the_sixth_call_of_the_four_together_is_too_many(empty_database: str, tmp_path: Path) -> None:
    async with (
        running_cloud(empty_database, tmp_path / "one", strict(tmp_path / "one")) as one,
        running_cloud(empty_database, tmp_path / "two", strict(tmp_path / "two")) as two,
    ):
        for number, (path, body) in enumerate([*FOUR, FOUR[2]]):
            reply = await (two if number % 2 else one).anonymous.post(path, json=body)
            assert reply.status_code in (200, 400), reply.text
            assert reply.headers["ratelimit-limit"] == "5"
        for cloud in (one, two):
            for path, body in FOUR:
                reply = await cloud.anonymous.post(path, json=body)
                assert refusal(reply) == (429, "RATE_LIMITED")
                assert 1 <= int(reply.headers["retry-after"]) <= 13
        for headers in ({"X-Forwarded-For": "203.0.113.9"}, {"X-API-Key": "thecloud_other"},
                        {"Forwarded": "for=203.0.113.9"}, {"X-Real-IP": "203.0.113.9"}):  # fmt: skip
            assert (await one.anonymous.post("/auth/login", json={}, headers=headers)).status_code == 429
        assert (await (await at(one, "203.0.113.7")).post("/auth/login", json={})).status_code == 400
        assert (await one.anonymous.get("/health/live")).status_code == 200


async def test_a_limited_caller_may_call_again_later(empty_database: str, tmp_path: Path) -> None:
    async with running_cloud(empty_database, tmp_path, strict(tmp_path)) as cloud:
        for status in (400, 400, 400, 400, 400, 429):
            assert (await cloud.anonymous.post("/auth/login", json={})).status_code == status
        await cloud.value("update rate_limits set full_at = full_at - interval '12 seconds'")
        for status in (400, 429):
            assert (await cloud.anonymous.post("/auth/login", json={})).status_code == status


async def test_an_ipv6_client_has_its_whole_64_bits(empty_database: str, tmp_path: Path) -> None:
    async with running_cloud(empty_database, tmp_path, strict(tmp_path)) as cloud:
        for number in range(5):
            client = await at(cloud, f"2001:db8:0:1::{number + 1}")
            assert (await client.post("/auth/login", json={})).status_code == 400
        assert (await (await at(cloud, "2001:db8:0:1:ffff::1")).post("/auth/login", json={})).status_code == 429
        assert (await (await at(cloud, "2001:db8:0:2::1")).post("/auth/login", json={})).status_code == 400


async def test_the_address_a_trusted_proxy_names_counts(empty_database: str, tmp_path: Path) -> None:
    settings = strict(tmp_path, trusted_proxies="192.0.2.1")
    async with running_cloud(empty_database, tmp_path, settings) as cloud:
        proxy = await at(cloud, "192.0.2.1")
        for _ in range(5):
            await proxy.post("/auth/login", json={}, headers={"X-Forwarded-For": "203.0.113.5"})
        forged = {"X-Forwarded-For": "198.51.100.1, 203.0.113.5"}
        assert (await proxy.post("/auth/login", json={}, headers=forged)).status_code == 429
        other = {"X-Forwarded-For": "203.0.113.6"}
        assert (await proxy.post("/auth/login", json={}, headers=other)).status_code == 400


async def test_grpc_and_rest_are_counted_together(empty_database: str, tmp_path: Path) -> None:
    async with running_cloud(empty_database, tmp_path, strict(tmp_path)) as cloud:
        stub = identity_pb2_grpc.IdentityServiceStub(cloud.channel)  # type: ignore[no-untyped-call]
        for _ in range(5):
            await cloud.anonymous.post("/auth/login", json={})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Login(pb.LoginRequest())
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(refused.value.trailing_metadata())["ratelimit-reset"]) >= 1
