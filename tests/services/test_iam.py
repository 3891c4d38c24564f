"""Policies: written, attached, decided by, tried out, and asked about."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from server.services import iam
from tests.conftest import Cloud, Person, until

DOCUMENTED = {
    "name": "ReadOnlyS3",
    "statements": [{"effect": "Allow", "action": ["storage:list", "storage:get"], "resource": ["*"]}],
}


def statement(effect: str, action: str | list[str], resource: str | list[str] = "*", **more: Any) -> dict[str, Any]:
    def listed(value: str | list[str]) -> list[str]:
        return [value] if isinstance(value, str) else value

    return {"effect": effect, "action": listed(action), "resource": listed(resource)} | more


async def policy(owner: Person, *statements: dict[str, Any], name: str = "") -> str:
    reply = await owner.rest.post("/iam/policies", json={"name": name or uuid4().hex, "statements": list(statements)})
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]  # type: ignore[no-any-return]


async def attach(owner: Person, person: Person, *statements: dict[str, Any]) -> str:
    id = await policy(owner, *statements)
    reply = await owner.rest.post(f"/iam/users/{person.user_id}/policies/{id}")
    assert (reply.status_code, reply.json()) == (200, {"status": "attached"})
    return id


async def key(person: Person, *statements: dict[str, Any], **fields: Any) -> httpx.AsyncClient:
    """A client with a new key of theirs."""
    policy = {"policy": {"statements": list(statements)}} if statements else {}
    reply = await person.rest.post("/auth/keys", json={"name": "scoped"} | policy | fields)
    assert reply.status_code == 201, reply.text
    return await person.cloud.client(**{"x-api-key": reply.json()["key"]})


@pytest.fixture
async def eve(cloud: Cloud, ada: Person) -> Person:
    """A viewer of Ada's tenant."""
    return await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")


# Written


async def test_a_policy_lives_as_documented(ada: Person) -> None:
    made = await ada.rest.post("/iam/policies", json=DOCUMENTED)
    assert made.status_code == 201
    body = made.json()
    assert body["name"] == "ReadOnlyS3"
    assert body["statements"] == DOCUMENTED["statements"]
    assert (await ada.rest.get("/iam/policies")).json() == [body]
    assert (await ada.rest.get(f"/iam/policies/{body['id']}")).json() == body
    changed = await ada.rest.put(f"/iam/policies/{body['id']}", json={"description": "reads"})
    assert (changed.json()["description"], changed.json()["name"]) == ("reads", "ReadOnlyS3")
    gone = await ada.rest.delete(f"/iam/policies/{body['id']}")
    assert (gone.status_code, gone.json()) == (200, {"status": "deleted"})
    assert (await ada.rest.get(f"/iam/policies/{body['id']}")).status_code == 404


async def test_attachments_are_made_listed_and_ended(ada: Person, eve: Person) -> None:
    id = await attach(ada, eve, statement("Allow", "instance:launch"))
    path = f"/iam/users/{eve.user_id}/policies"
    assert (await ada.rest.post(f"{path}/{id}")).json() == {"status": "attached"}
    assert [each["id"] for each in (await ada.rest.get(path)).json()] == [id]
    gone = await ada.rest.delete(f"{path}/{id}")
    assert (gone.status_code, gone.json()) == (200, {"status": "detached"})
    assert (await ada.rest.delete(f"{path}/{id}")).status_code == 404
    assert (await ada.rest.get(path)).json() == []


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"statements": []}, "statements"),
        ({"statements": [statement("Allow", [])]}, "statements[0].action"),
        ({"statements": [statement("Allow", "instance:read", [])]}, "statements[0].resource"),
        ({"statements": [statement("allow", "x:y")]}, "statements[0].action[0]"),
        ({"statements": [statement("Maybe", "instance:read")]}, "statements[0].effect"),
        ({"statements": [statement("Allow", "instance:read"), statement("Allow", ["instance:read", "instance:fly"])]},
         "statements[1].action[1]"),
        ({"statements": [statement("Allow", "instance:read", ["a", "arn:aws:s3:::x"])]}, "statements[0].resource[1]"),
        ({"statements": [statement("Deny", "*", condition={"IpAddres": {"aws:SourceIp": "10.0.0.0/8"}})]},
         'statements[0].condition["IpAddres"]'),
        ({"statements": [statement("Deny", "*", condition={"IpAddress": {"aws:SourceIp": "10.0.0.1/8"}})]},
         'statements[0].condition["IpAddress"]["aws:SourceIp"]'),
        ({"statements": [statement("Deny", "*", condition={"StringEquals": {"aws:Nothing": "x"}})]},
         'statements[0].condition["StringEquals"]["aws:Nothing"]'),
        ({"statements": [statement("Deny", "*", condition={"DateLessThan": {"aws:CurrentTime": "2026-01-01"}})]},
         'statements[0].condition["DateLessThan"]["aws:CurrentTime"]'),
        ({"statements": [statement("Deny", "*", condition={"StringLike": {"aws:UserId": 7}})]},
         'statements[0].condition["StringLike"]["aws:UserId"]'),
        ({"name": ""}, "name"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_refused_with_its_path(ada: Person, broken: dict[str, Any], field: str) -> None:
    reply = await ada.rest.post("/iam/policies", json=DOCUMENTED | broken)
    assert reply.status_code == 400, reply.text
    assert field in [each["field"] for each in reply.json()["error"]["fields"]]
    assert (await ada.rest.get("/iam/policies")).json() == []


async def test_names_are_unique_in_a_tenant_and_only_there(ada: Person, bob: Person) -> None:
    assert (await ada.rest.post("/iam/policies", json=DOCUMENTED)).status_code == 201
    assert (await ada.rest.post("/iam/policies", json=DOCUMENTED)).status_code == 409
    assert (await bob.rest.post("/iam/policies", json=DOCUMENTED)).status_code == 201
    other = await policy(ada, statement("Allow", "*"))
    assert (await ada.rest.put(f"/iam/policies/{other}", json={"name": "ReadOnlyS3"})).status_code == 409


async def test_policies_are_for_members_and_for_administrators_to_write(
    cloud: Cloud, ada: Person, bob: Person, eve: Person
) -> None:
    id = await policy(ada, statement("Allow", "*"))
    assert (await ada.rest.post(f"/iam/users/{bob.user_id}/policies/{id}")).status_code == 404
    assert (await ada.rest.get(f"/iam/users/{bob.user_id}/policies")).status_code == 404
    assert (await bob.rest.post(f"/iam/users/{bob.user_id}/policies/{id}")).status_code == 404
    developer = await cloud.person("dev", tenant_id=ada.tenant_id, role="developer")
    for person in (eve, developer):
        assert (await person.rest.get("/iam/policies")).status_code == 403
        assert (await person.rest.post(f"/iam/users/{person.user_id}/policies/{id}")).status_code == 403


# Decided by


async def test_an_allow_adds_to_a_role_at_once_and_goes_with_the_attachment(ada: Person, eve: Person) -> None:
    made = await ada.launch()
    path = f"/instances/{made['id']}"
    assert (await eve.rest.delete(path)).status_code == 403
    id = await attach(ada, eve, statement("Allow", "instance:terminate", f"instance:{uuid4()}"))
    assert (await eve.rest.delete(path)).status_code == 403
    statements = [statement("Allow", "instance:terminate", f"instance:{made['id']}")]
    await ada.rest.put(f"/iam/policies/{id}", json={"statements": statements})
    assert (await eve.rest.delete(path)).status_code == 200
    second = await ada.launch()
    assert (await eve.rest.delete(f"/instances/{second['id']}")).status_code == 403


async def test_a_deny_beats_the_owner_and_every_allow(ada: Person, cloud: Cloud) -> None:
    admin = await cloud.person("admin", tenant_id=ada.tenant_id, role="admin")
    await attach(ada, admin, statement("Allow", "*"))
    deny = await attach(ada, admin, statement("Deny", "instance:*"))
    assert (await admin.rest.get("/instances")).status_code == 403
    assert (await admin.rest.get("/iam/policies")).status_code == 200
    await ada.rest.delete(f"/iam/policies/{deny}")
    assert (await admin.rest.get("/instances")).status_code == 200


@pytest.mark.parametrize("form", ["{id}", "{name}", "instance:{id}", "instance:{name}", "web-*", "instance:web-*",
                                  "arn:thecloud:compute:local:{tenant}:instance/{id}",
                                  "arn:thecloud:compute:local:tenant:instance/{name}",
                                  "arn:thecloud:*:*:*:instance/web-*"])  # fmt: skip
@pytest.mark.parametrize("by", ["id", "name", "ID"])
async def test_a_resource_is_meant_however_the_policy_and_the_request_name_it(
    cloud: Cloud, ada: Person, form: str, by: str
) -> None:
    """A Deny by name holds for a call by id, and the other way round."""
    made, other = await ada.launch(name="web-denied"), await ada.launch(name="db")
    admin = await cloud.person("admin", tenant_id=ada.tenant_id, role="admin")
    resource = form.format(id=made["id"], name=made["name"], tenant=ada.tenant_id)
    await attach(ada, admin, statement("Deny", "instance:read", resource))
    reference = made[by.lower()].upper() if by == "ID" else made[by]
    assert (await admin.rest.get(f"/instances/{reference}")).status_code == 403
    assert (await admin.rest.get(f"/instances/{other['id']}")).status_code == 200
    assert [each["id"] for each in (await admin.rest.get("/instances")).json()] == [other["id"]]


async def test_a_deny_by_id_holds_when_several_share_the_name(cloud: Cloud, ada: Person) -> None:
    denied = await ada.launch(name="same")
    admin = await cloud.person("admin", tenant_id=ada.tenant_id, role="admin")
    await attach(ada, admin, statement("Deny", "instance:terminate", denied["id"]))
    decoy = await admin.launch(name="same")
    await admin.rest.delete(f"/instances/{decoy['id']}")
    assert (await admin.rest.delete("/instances/same")).status_code == 403
    assert (await ada.instance(denied["id"]))["status"] != "DELETING"


async def test_a_list_shows_what_may_be_seen(ada: Person, cloud: Cloud) -> None:
    shown, _ = await ada.launch(name="shown"), await ada.launch(name="hidden")
    client = await key(ada, statement("Allow", "instance:read", "instance:shown"))
    assert [each["id"] for each in (await client.get("/instances")).json()] == [shown["id"]]
    nothing = await key(ada, statement("Allow", "iam:read"))
    assert (await nothing.get("/instances")).status_code == 403


async def test_what_is_to_be_made_is_known_by_its_name(ada: Person) -> None:
    client = await key(ada, statement("Allow", "instance:launch", "instance:web-*"))
    body = {"image": "nginx"}
    assert (await client.post("/instances", json=body | {"name": "web-1"})).status_code == 202
    assert (await client.post("/instances", json=body | {"name": "db-1"})).status_code == 403


async def test_conditions_hold_or_not(cloud: Cloud, ada: Person, eve: Person) -> None:
    soon, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(hours=1)
    for condition, status in (
        ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, 200),
        ({"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "127.0.0.1/32"]}}, 200),
        ({"NotIpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, 403),
        ({"StringEquals": {"aws:UserId": str(eve.user_id)}}, 200),
        ({"StringEquals": {"aws:UserId": str(ada.user_id)}}, 403),
        ({"StringLike": {"aws:Username": "eve@*"}}, 200),
        ({"StringNotLike": {"aws:Username": "eve@*"}}, 403),
        ({"DateLessThan": {"aws:CurrentTime": soon.isoformat()}}, 200),
        ({"DateLessThan": {"aws:CurrentTime": past.isoformat()}}, 403),
        ({"StringEquals": {"thecloud:TenantId": str(ada.tenant_id)}}, 200),
        ({"StringLike": {"thecloud:UserAgent": "tests/*"}}, 200),
        ({"Null": {"aws:SourceIp": "true"}}, 403),
        ({"StringEquals": {"aws:UserId": str(eve.user_id)}, "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, 403),
    ):
        made = await ada.launch()
        id = await attach(ada, eve, statement("Allow", "instance:terminate", condition=condition))
        reply = await eve.rest.delete(f"/instances/{made['id']}", headers={"user-agent": "tests/1"})
        assert reply.status_code == status, condition
        await ada.rest.delete(f"/iam/policies/{id}")


async def test_a_change_is_felt_by_a_process_that_did_not_make_it(cloud: Cloud, ada: Person, eve: Person) -> None:
    """Straight in the database, as another process would: only the notification tells this one."""
    assert (await eve.rest.get("/instances")).status_code == 200
    id = await policy(ada, statement("Deny", "instance:read"))

    async def warm() -> bool:
        await eve.rest.get("/instances")
        return cloud.app.keys.cached(eve.key) is not None

    await until(warm)
    async with cloud.app.db.reading() as tx, asyncio.timeout(1):
        insert = "insert into policy_attachments (user_id, policy_id, tenant_id) values ($1, $2, $3)"
        await tx.connection.execute(insert, eve.user_id, id, ada.tenant_id)
        await tx.connection.execute("select pg_notify('auth', $1)", str(eve.user_id))
        while (await eve.rest.get("/instances")).status_code != 403:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# Keys


async def test_a_key_shows_its_policy_and_end_and_keeps_them_when_rotated(ada: Person) -> None:
    end = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    body = {"name": "k", "policy": {"statements": [statement("Allow", "instance:read")]}, "expires_at": end.isoformat()}
    made = (await ada.rest.post("/auth/keys", json=body)).json()
    rotated = (await ada.rest.post(f"/auth/keys/{made['id']}/rotate")).json()
    for shown in (made, rotated, (await ada.rest.get("/auth/keys")).json()[0]):
        assert shown["policy"]["statements"][0]["action"] == ["instance:read"]
        assert datetime.fromisoformat(shown["expires_at"]) == end
    client = await ada.cloud.client(**{"x-api-key": rotated["key"]})
    assert (await client.get("/instances")).status_code == 200
    assert (await client.post("/instances", json={"name": "a", "image": "nginx"})).status_code == 403


async def test_a_scoped_key_gives_nothing_more_away(ada: Person) -> None:
    """It makes keys like itself only, and gets hold of no other."""
    mine = [statement("Allow", ["identity:*", "instance:read"])]
    client = await key(ada, *mine)
    made = await client.post("/auth/keys", json={"name": "copy"})
    assert made.json()["policy"]["statements"][0]["action"] == ["identity:*", "instance:read"]
    wide = {"name": "wide", "policy": {"statements": [statement("Allow", "*")]}}
    assert (await client.post("/auth/keys", json=wide)).status_code == 403
    [*_, plain] = (await client.get("/auth/keys")).json()
    assert (await client.post(f"/auth/keys/{plain['id']}/rotate")).status_code == 403
    assert (await ada.rest.get("/instances")).status_code == 200, "and the other key was not revoked for it"
    assert (await client.post(f"/auth/keys/{made.json()['id']}/rotate")).status_code == 200


async def test_a_key_that_ends_makes_none_that_lives_longer(ada: Person) -> None:
    soon, later = (datetime.now(UTC) + timedelta(hours=each) for each in (1, 2))
    client = await key(ada, expires_at=soon.isoformat())
    assert (await client.post("/auth/keys", json={"name": "k"})).status_code == 400
    assert (await client.post("/auth/keys", json={"name": "k", "expires_at": later.isoformat()})).status_code == 400
    assert (await client.post("/auth/keys", json={"name": "k", "expires_at": soon.isoformat()})).status_code == 201
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert (await ada.rest.post("/auth/keys", json={"name": "k", "expires_at": past})).status_code == 400


async def test_a_cached_key_ends_in_time(cloud: Cloud, ada: Person) -> None:
    client = await key(ada, expires_at=(datetime.now(UTC) + timedelta(seconds=1)).isoformat())
    assert (await client.get("/auth/me")).status_code == 200

    async def ended() -> bool:
        return (await client.get("/auth/me")).status_code == 401

    await until(ended, 3)


# Members


async def test_members_are_listed_changed_and_removed(cloud: Cloud, ada: Person, eve: Person) -> None:
    path = f"/tenants/{ada.tenant_id}/members"
    assert {(each["user_id"], each["role"]) for each in (await ada.rest.get(path)).json()} == {
        (str(ada.user_id), "owner"), (str(eve.user_id), "viewer")
    }  # fmt: skip
    await attach(ada, eve, statement("Allow", "instance:launch"))
    changed = await ada.rest.put(f"{path}/{eve.user_id}", json={"role": "developer"})
    assert changed.json()["role"] == "developer"
    assert (await eve.rest.get("/instances")).status_code == 200
    assert (await ada.rest.delete(f"{path}/{eve.user_id}")).status_code == 204
    assert (await eve.rest.get("/instances", headers={"x-tenant-id": str(ada.tenant_id)})).status_code == 403
    assert (await ada.rest.delete(f"{path}/{eve.user_id}")).status_code == 404
    assert await cloud.value("select count(*) from policy_attachments") == 0


async def test_one_owner_stays(cloud: Cloud, ada: Person) -> None:
    path = f"/tenants/{ada.tenant_id}/members"
    assert (await ada.rest.delete(f"{path}/{ada.user_id}")).status_code == 409
    assert (await ada.rest.put(f"{path}/{ada.user_id}", json={"role": "viewer"})).status_code == 409
    others = [await cloud.person("eve", tenant_id=ada.tenant_id) for _ in range(4)]
    replies = await asyncio.gather(*(each.rest.delete(f"{path}/{each.user_id}") for each in (ada, *others)))
    assert sorted(reply.status_code for reply in replies)[:4] == [204] * 4
    assert await cloud.value("select count(*) from members where role = 'owner' and tenant_id = $1", ada.tenant_id) == 1


async def test_only_owners_and_admins_make_and_unmake_them(cloud: Cloud, ada: Person) -> None:
    helper = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    await attach(ada, helper, statement("Allow", "tenant:update"))
    path = f"/tenants/{ada.tenant_id}/members"
    other = await cloud.person("joe", tenant_id=ada.tenant_id, role="viewer")
    assert (await helper.rest.put(f"{path}/{other.user_id}", json={"role": "developer"})).status_code == 200
    assert (await helper.rest.put(f"{path}/{other.user_id}", json={"role": "admin"})).status_code == 403
    assert (await helper.rest.delete(f"{path}/{ada.user_id}")).status_code == 403


# Tried out, and asked about


async def test_a_simulation_says_what_would_decide_and_agrees_with_what_happens(ada: Person, eve: Person) -> None:
    made = await ada.launch()
    deny = await attach(ada, eve, statement("Deny", "instance:read", "instance:web-01", sid="no-web"))

    async def simulate(**fields: Any) -> dict[str, Any]:
        asked = {"user_id": str(eve.user_id), "action": "instance:read", "resource": f"instance:{made['id']}"} | fields
        reply = await ada.rest.post("/iam/simulate", json=asked)
        assert reply.status_code == 200, reply.text
        return reply.json()  # type: ignore[no-any-return]

    denied = await simulate()
    assert not denied["allowed"]
    assert [(each["policy_id"], each["sid"], each["effect"]) for each in denied["statements"]] == [
        (deny, "no-web", "Deny")
    ]
    assert "no-web" in denied["reason"]
    assert (await eve.rest.get(f"/instances/{made['id']}")).status_code == 403
    allowed = await simulate(resource="instance:other")
    assert allowed["allowed"]
    assert allowed["statements"][0]["policy_id"] == "role/viewer"
    assert not (await simulate(action="instance:launch"))["allowed"]
    assert (await simulate(action="instance:get", resource="instance:*"))["allowed"]
    assert (await simulate(action="identity:create", resource=""))["allowed"]
    for broken in ({"action": "instance:fly"}, {"context": {"aws:Nothing": "x"}}, {"user_id": "x"}):
        asked = {"user_id": str(eve.user_id), "action": "instance:read"} | broken
        assert (await ada.rest.post("/iam/simulate", json=asked)).status_code == 400
    assert (await ada.rest.post("/iam/simulate", json={"user_id": str(uuid4()), "action": "*"})).status_code == 404


async def test_a_simulation_takes_the_context_it_is_given(ada: Person, eve: Person) -> None:
    condition = {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}
    await attach(ada, eve, statement("Allow", "instance:launch", condition=condition))
    for address, allowed in (("192.0.2.7", True), ("198.51.100.7", False), ("nonsense", False)):
        asked = {"user_id": str(eve.user_id), "action": "instance:launch", "context": {"aws:SourceIp": address}}
        assert (await ada.rest.post("/iam/simulate", json=asked)).json()["allowed"] == allowed


async def test_a_denied_request_can_be_explained_and_only_in_its_tenant(ada: Person, bob: Person, eve: Person) -> None:
    made = await ada.launch()
    await attach(ada, eve, statement("Deny", "instance:read", sid="no"))
    await eve.rest.get(f"/instances/{made['id']}", headers={"x-request-id": "r-1"})
    await eve.rest.delete(f"/instances/{made['id']}", headers={"x-request-id": "r-2"})
    denied = (await ada.rest.get("/iam/explain/r-1")).json()
    assert (denied["actor"], denied["action"], denied["allowed"]) == (eve.email, "instance:read", False)
    assert denied["resource"] == f"instance:{made['id']}"
    assert [each["sid"] for each in denied["statements"]] == ["no"]
    lacking = (await ada.rest.get("/iam/explain/r-2")).json()
    assert (lacking["action"], lacking["statements"]) == ("instance:terminate", [])
    assert "no statement" in lacking["reason"]
    assert (await bob.rest.get("/iam/explain/r-1")).status_code == 404
    assert (await ada.rest.get("/iam/explain/r-3")).status_code == 404


async def test_a_replay_tells_what_a_proposal_would_change(cloud: Cloud, ada: Person, eve: Person) -> None:
    developer = await cloud.person("dev", tenant_id=ada.tenant_id, role="developer")
    mine = await developer.launch(name="web-1")
    await developer.launch(name="db-1")
    await eve.rest.post("/instances", json={"name": "eves", "image": "nginx"}, headers={"x-request-id": "denied"})

    async def replay(**fields: Any) -> dict[str, Any]:
        reply = await ada.rest.post("/iam/replay", json=fields)
        assert reply.status_code == 200, reply.text
        return reply.json()  # type: ignore[no-any-return]

    found = await replay(statements=[statement("Deny", "instance:launch", "instance:web-*")])
    assert [(each["actor"], each["resource"]) for each in found["newly_denied"]] == [
        (developer.email, f"instance:{mine['id']}")
    ]
    assert found["newly_allowed"] == []
    assert found["examined"] >= 3
    assert not found["truncated"]
    found = await replay(statements=[statement("Allow", "instance:launch")], user_id=str(eve.user_id))
    assert [each["request_id"] for each in found["newly_allowed"]] == ["denied"]
    assert found["newly_allowed"][0]["decision"]["allowed"]
    assert found["newly_denied"] == []
    assert (await replay(statements=[statement("Allow", "*")], user_id=str(ada.user_id)))["newly_allowed"] == []


async def test_a_replay_of_a_replacement_is_about_those_who_have_the_policy(ada: Person, eve: Person) -> None:
    id = await attach(ada, eve, statement("Allow", "instance:launch"))
    made = await eve.launch(name="eves")
    await ada.launch(name="adas")
    narrower = [statement("Allow", "instance:launch", "instance:web-*")]
    found = (await ada.rest.post("/iam/replay", json={"statements": narrower, "policy_id": id})).json()
    assert [each["resource"] for each in found["newly_denied"]] == [f"instance:{made['id']}"]
    assert (await ada.rest.get(f"/iam/policies/{id}")).json()["statements"][0]["resource"] == ["*"]


async def test_a_replay_says_when_it_did_not_see_all(ada: Person, eve: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iam, "REPLAYED", 1)
    monkeypatch.setattr(iam, "_REQUESTS", iam._REQUESTS.limit(1))
    for _ in range(3):
        await ada.launch()
    found = (await ada.rest.post("/iam/replay", json={"statements": [statement("Deny", "*")]})).json()
    assert (found["examined"], found["truncated"]) == (1, True)


# Dry runs


async def test_a_dry_run_checks_all_and_makes_nothing(cloud: Cloud, ada: Person) -> None:
    tables = ("instances", "instance_ports", "changes", "audit_log", "work", "policies", "api_keys", "tenants")

    async def counts() -> list[int]:
        return [await cloud.value(f"select count(*) from {table}") for table in tables]

    before = await counts()
    for path, body in (
        ("/instances", {"name": "web-01", "image": "nginx", "ports": "0:80"}), ("/iam/policies", DOCUMENTED),
        ("/auth/keys", {"name": "k"}), ("/tenants", {"name": "t", "slug": "t"}),
    ):  # fmt: skip
        reply = await ada.rest.post(path, json=body | {"validate_only": True})
        assert reply.is_success, reply.text
        assert reply.json()["name"] == body["name"]
        assert "estimated_price_per_hour" in reply.json()
        assert "key" not in reply.json()
    assert await counts() == before
    refused = await ada.rest.post("/instances", json={"name": "a", "image": "no-such-image", "validate_only": True})
    assert refused.status_code == 400
    assert await counts() == before
