"""Tenants: who belongs to them, which one a call acts in, and what each role may do there."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from thecloud.v1 import tenants_pb2 as pb
from thecloud.v1 import tenants_pb2_grpc

from server.access import ROLES
from tests.conftest import Cloud, Person, running_cloud, until

WRITERS = {"owner", "admin", "developer", "member"}


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


async def create(person: Person, slug: str = "acme", name: str = "Acme Corp") -> dict[str, Any]:
    reply = await person.rest.post("/tenants", json={"name": name, "slug": slug})
    assert reply.status_code == 201, reply.text
    return reply.json()  # type: ignore[no-any-return]


# Making and listing


async def test_who_makes_a_tenant_owns_it(cloud: Cloud, ada: Person) -> None:
    made = await create(ada)
    assert set(made) == {"id", "name", "slug", "owner_id", "created_at", "updated_at"}
    assert (made["name"], made["slug"], made["owner_id"]) == ("Acme Corp", "acme", str(ada.user_id))
    role = await cloud.value("select role from members where tenant_id = $1", UUID(made["id"]))
    assert role == "owner"


async def test_the_list_has_the_tenants_one_belongs_to_newest_first(cloud: Cloud, ada: Person, bob: Person) -> None:
    made = await create(ada)
    await create(bob, "other")
    [newest, own] = (await ada.rest.get("/tenants")).json()
    assert newest == made
    assert own["id"] == str(ada.tenant_id)
    enveloped = (await ada.rest.get("/api/v1/tenants")).json()
    assert enveloped["data"] == [newest, own]


async def test_the_list_comes_in_pages(ada: Person) -> None:
    for number in range(3):
        await create(ada, f"t{number}")
    first = await ada.rest.get("/tenants?page_size=2")
    rest = await ada.rest.get(f"/tenants?page_size=2&page_token={first.headers['x-next-page-token']}")
    assert [each["slug"] for each in [*first.json(), *rest.json()]] == ["t2", "t1", "t0", str(ada.tenant_id)]


async def test_a_slug_is_taken_once_in_all_the_cloud(cloud: Cloud, ada: Person, bob: Person) -> None:
    await create(ada)
    for person in (ada, bob):
        reply = await person.rest.post("/tenants", json={"name": "Other", "slug": "acme"})
        assert refusal(reply) == (409, "CONFLICT")
        assert reply.json()["error"]["metadata"] == {"kind": "tenant", "slug": "acme"}
    assert await cloud.value("select count(*) from tenants where slug = 'acme'") == 1


async def test_of_ten_who_want_a_slug_at_once_one_gets_it(ada: Person) -> None:
    body = {"name": "Acme", "slug": "acme"}
    replies = await asyncio.gather(*(ada.rest.post("/tenants", json=body) for _ in range(10)))
    assert sorted(reply.status_code for reply in replies) == [201, *[409] * 9]


@pytest.mark.parametrize("slug", ["Acme Corp", "x" * 100, "é", "a/b"])
async def test_a_slug_has_no_form(ada: Person, slug: str) -> None:
    assert (await create(ada, slug))["slug"] == slug


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", ""), ("name", "x" * 256), ("name", "a\nb"), ("name", None), ("name", 7),
     ("slug", ""), ("slug", "x" * 101), ("slug", "a\u0000"), ("slug", None), ("slug", ["acme"])],
)  # fmt: skip
async def test_a_bad_field_is_named(ada: Person, field: str, value: Any) -> None:
    reply = await ada.rest.post("/tenants", json={"name": "Acme", "slug": "acme"} | {field: value})
    assert refusal(reply) == (400, "INVALID_INPUT")
    assert [each["field"] for each in reply.json()["error"]["fields"]] == [field]


async def test_somebody_without_a_tenant_gets_the_first_they_make_as_default(cloud: Cloud, ada: Person) -> None:
    await cloud.value("update users set default_tenant_id = null")
    await cloud.value("delete from members")
    cloud.app.keys.drop("*")
    reply = await ada.rest.get("/instances")
    assert refusal(reply) == (400, "INVALID_INPUT")
    made = await create(ada)
    assert (await ada.rest.get("/auth/me")).json()["default_tenant_id"] == made["id"]
    assert (await ada.rest.get("/instances")).json() == []
    await create(ada, "second")
    assert (await ada.rest.get("/auth/me")).json()["default_tenant_id"] == made["id"]


# Switching


async def test_a_switch_takes_effect_on_the_next_call_with_the_same_key(ada: Person) -> None:
    old = await ada.launch()
    made = await create(ada)
    assert [each["id"] for each in (await ada.rest.get("/instances")).json()] == [old["id"]]
    reply = await ada.rest.post(f"/tenants/{made['id']}/switch")
    assert (reply.status_code, reply.json()) == (200, {"message": "tenant switched"})
    assert (await ada.rest.get("/instances")).json() == []
    assert (await ada.launch())["tenant_id"] == made["id"]
    assert (await ada.rest.get(f"/instances/{old['id']}")).status_code == 404
    await ada.rest.post(f"/tenants/{ada.tenant_id}/switch")
    assert [each["id"] for each in (await ada.rest.get("/instances")).json()] == [old["id"]]


async def test_a_switch_takes_effect_in_another_process_within_a_second(
    cloud: Cloud, ada: Person, tmp_path: Path
) -> None:
    await ada.launch()
    made = await create(ada)
    async with running_cloud(cloud.app.db.url, tmp_path / "other") as other:
        client = await other.client(**{"x-api-key": ada.key})

        async def sees(count: int) -> bool:
            return len((await client.get("/instances")).json()) == count

        async def cached() -> bool:
            return await sees(1) and other.app.keys.cached(ada.key) is not None

        await until(cached)
        await ada.rest.post(f"/tenants/{made['id']}/switch")
        await until(lambda: sees(0), seconds=1)


@pytest.mark.parametrize("whose", ["somebody's", "nobody's"])
async def test_only_members_can_switch_to_a_tenant(ada: Person, bob: Person, whose: str) -> None:
    id = bob.tenant_id if whose == "somebody's" else uuid4()
    assert refusal(await ada.rest.post(f"/tenants/{id}/switch")) == (404, "NOT_FOUND")
    assert (await ada.rest.get("/auth/me")).json()["default_tenant_id"] == str(ada.tenant_id)


async def test_a_tenant_that_is_no_uuid_is_refused(ada: Person) -> None:
    assert refusal(await ada.rest.post("/tenants/acme/switch")) == (400, "INVALID_INPUT")


# Members


async def add(person: Person, tenant: object, **body: Any) -> httpx.Response:
    return await person.rest.post(f"/tenants/{tenant}/members", json=body)


@pytest.mark.parametrize("by", ["user_id", "email"])
async def test_a_member_is_added_by_id_or_by_address(cloud: Cloud, ada: Person, bob: Person, by: str) -> None:
    who = {"user_id": str(bob.user_id)} if by == "user_id" else {"email": bob.email.upper()}
    reply = await add(ada, ada.tenant_id, role="member", **who)
    body = reply.json()
    assert reply.status_code == 200
    assert set(body) == {"message", "tenant_id", "user_id", "role", "joined_at"}
    assert body | {"message": "member invited", "role": "member", "user_id": str(bob.user_id)} == body
    assert str(ada.tenant_id) in [each["id"] for each in (await bob.rest.get("/tenants")).json()]


async def test_a_new_member_acts_in_the_tenant_at_once(ada: Person, bob: Person) -> None:
    made = await ada.launch()
    headers = {"X-Tenant-ID": str(ada.tenant_id)}
    assert (await bob.rest.get("/instances", headers=headers)).status_code == 403
    await add(ada, ada.tenant_id, user_id=str(bob.user_id), role="viewer")
    assert [each["id"] for each in (await bob.rest.get("/instances", headers=headers)).json()] == [made["id"]]
    assert (await bob.rest.get("/instances")).json() == [], "the default tenant stays"


@pytest.mark.parametrize("role", ROLES)
async def test_every_role_can_be_given_in_any_case(ada: Person, bob: Person, role: str) -> None:
    reply = await add(ada, ada.tenant_id, user_id=str(bob.user_id), role=role.upper())
    assert reply.json()["role"] == role


@pytest.mark.parametrize("role", ["", "root", "ROLE_UNSPECIFIED", None, 99, 0, {}])
async def test_no_other_role_can_be_given(cloud: Cloud, ada: Person, bob: Person, role: Any) -> None:
    reply = await add(ada, ada.tenant_id, user_id=str(bob.user_id), role=role)
    assert refusal(reply) == (400, "INVALID_INPUT")
    assert [each["field"] for each in reply.json()["error"]["fields"]] == ["role"]


async def test_a_member_is_named_exactly_once(ada: Person, bob: Person) -> None:
    for who in ({}, {"user_id": "", "email": ""}, {"user_id": str(bob.user_id), "email": bob.email},
                {"user_id": "no-uuid"}, {"email": "no-address"}):  # fmt: skip
        assert refusal(await add(ada, ada.tenant_id, role="member", **who)) == (400, "INVALID_INPUT")


async def test_an_unknown_user_is_not_found(ada: Person) -> None:
    for who in ({"user_id": str(uuid4())}, {"email": "nobody@example.com"}):
        reply = await add(ada, ada.tenant_id, role="member", **who)
        assert refusal(reply) == (404, "NOT_FOUND")
        assert reply.json()["error"]["metadata"]["kind"] == "user"


async def test_a_member_is_added_once(ada: Person, bob: Person) -> None:
    for expected in (200, 409):
        reply = await add(ada, ada.tenant_id, user_id=str(bob.user_id), role="member")
        assert reply.status_code == expected
    assert (await add(ada, ada.tenant_id, user_id=str(ada.user_id), role="viewer")).status_code == 409


async def test_members_are_added_in_the_tenant_of_the_path(cloud: Cloud, ada: Person, bob: Person) -> None:
    """Ada may everything in her own tenant, and nothing in Bob's but look; whichever she names in the header."""
    await add(bob, bob.tenant_id, user_id=str(ada.user_id), role="viewer")
    eve = await cloud.person("eve")
    for header in (str(ada.tenant_id), str(bob.tenant_id), "nonsense"):
        reply = await ada.rest.post(
            f"/tenants/{bob.tenant_id}/members", json={"user_id": str(eve.user_id), "role": "member"},
            headers={"X-Tenant-ID": header},
        )  # fmt: skip
        assert refusal(reply) == (403, "FORBIDDEN")
    assert await cloud.value("select count(*) from members where user_id = $1", eve.user_id) == 1


async def test_nobody_is_added_to_a_tenant_one_does_not_belong_to(ada: Person, bob: Person) -> None:
    for tenant in (bob.tenant_id, uuid4()):
        assert refusal(await add(ada, tenant, user_id=str(ada.user_id), role="owner")) == (404, "NOT_FOUND")


@pytest.mark.parametrize("role", ROLES)
async def test_only_owners_and_admins_add_members(cloud: Cloud, ada: Person, bob: Person, role: str) -> None:
    person = await cloud.person("eve", tenant_id=ada.tenant_id, role=role)
    reply = await add(person, ada.tenant_id, user_id=str(bob.user_id), role="viewer")
    assert reply.status_code == (200 if role in ("owner", "admin") else 403)


async def test_a_role_given_is_audited(cloud: Cloud, ada: Person, bob: Person) -> None:
    await add(ada, ada.tenant_id, user_id=str(bob.user_id), role="member")
    async with cloud.app.db.reading() as tx:
        entry = await tx.connection.fetchrow("select * from audit_log where action = 'TENANT_MEMBER_ADD'")
    assert (entry["actor"], entry["status"], entry["resource_id"]) == (ada.email, "success", str(ada.tenant_id))
    assert entry["tenant_id"] == ada.tenant_id


# The tenant a call acts in


async def test_a_call_acts_in_the_tenant_of_its_header(cloud: Cloud, ada: Person) -> None:
    made = await create(ada)
    launched = await ada.rest.post(
        "/instances", json={"name": "a", "image": "nginx"}, headers={"X-Tenant-ID": made["id"]}
    )
    assert launched.json()["tenant_id"] == made["id"]
    assert (await ada.rest.get("/instances")).json() == []


@pytest.mark.parametrize("path", ["/instances", "/instance-types", "/tenants", "/auth/keys", "/auth/me"])
async def test_a_header_that_names_no_tenant_of_ones_own_is_refused(ada: Person, bob: Person, path: str) -> None:
    for header, expected in (
        ("nonsense", (400, "INVALID_INPUT")),
        (str(bob.tenant_id), (403, "FORBIDDEN")),
        (str(uuid4()), (403, "FORBIDDEN")),
    ):
        assert refusal(await ada.rest.get(path, headers={"X-Tenant-ID": header})) == expected
    assert (await ada.rest.get(path, headers={"X-Tenant-ID": ""})).status_code == 200


# Roles


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_do_to_instances_what_it_may(cloud: Cloud, ada: Person, role: str) -> None:
    person = await cloud.person("eve", tenant_id=ada.tenant_id, role=role)
    writes = role in WRITERS

    async def may(verb: str, path: str, body: Any = None, *, writing: bool = True) -> None:
        reply = await person.rest.request(verb, path, json=body)
        if writing and not writes:
            assert refusal(reply) == (403, "FORBIDDEN"), f"{verb} {path}"
        else:
            assert reply.status_code < 300, f"{verb} {path}: {reply.text}"
        await cloud.settle()

    one = (await ada.running())["id"]
    for path in ("", f"/{one}", f"/{one}/stats", f"/{one}/logs", f"/{one}/tags"):
        await may("GET", f"/instances{path}", writing=False)
    await may("GET", "/instance-types", writing=False)
    await may("GET", f"/instances/{one}/console")
    await may("POST", "/instances", {"name": "b", "image": "nginx"})
    await may("POST", f"/instances/{one}/pause")
    await may("POST", f"/instances/{one}/resume")
    await may("POST", f"/instances/{one}/resize", {"instance_type": "basic-1"})
    await may("POST", f"/instances/{one}/tags", {"tags": {"a": "b"}})
    await may("DELETE", f"/instances/{one}/tags/a")
    await may("PUT", f"/instances/{one}", {"name": "c"})
    await may("PATCH", f"/instances/{one}", {"labels": {"a": "b"}})
    await may("POST", f"/instances/{one}/stop")
    await may("DELETE", f"/instances/{one}")
    assert (await cloud.value("select count(*) from instances")) == 1, "Eve's, or the one she could not delete"


@pytest.mark.parametrize("role", ROLES)
async def test_every_role_may_leave_for_another_tenant_and_make_its_own(cloud: Cloud, ada: Person, role: str) -> None:
    person = await cloud.person("eve", tenant_id=ada.tenant_id, role=role)
    made = await create(person)
    assert (await person.rest.post(f"/tenants/{made['id']}/switch")).status_code == 200
    assert (await person.rest.post(f"/tenants/{ada.tenant_id}/switch")).status_code == 200
    assert len((await person.rest.get("/tenants")).json()) == 2


async def test_a_role_that_changes_changes_what_one_may_at_once(cloud: Cloud, ada: Person, bob: Person) -> None:
    headers = {"X-Tenant-ID": str(ada.tenant_id)}
    await add(ada, ada.tenant_id, user_id=str(bob.user_id), role="viewer")
    assert (await bob.rest.get("/instances", headers=headers)).status_code == 200
    reply = await bob.rest.post("/instances", json={"name": "a", "image": "nginx"}, headers=headers)
    assert refusal(reply) == (403, "FORBIDDEN")
    assert reply.json()["error"]["metadata"] == {"permission": "instance:launch"}


async def test_grpc_adds_members_too(cloud: Cloud, ada: Person, bob: Person) -> None:
    stub = tenants_pb2_grpc.TenantServiceStub(cloud.channel)  # type: ignore[no-untyped-call]
    request = pb.AddTenantMemberRequest(id=str(ada.tenant_id), email=bob.email, role=pb.ROLE_DEVELOPER)
    member = await stub.AddTenantMember(request, metadata=ada.metadata)
    assert (member.user_id, member.role) == (str(bob.user_id), pb.ROLE_DEVELOPER)
    await stub.SwitchTenant(pb.SwitchTenantRequest(id=str(ada.tenant_id)), metadata=bob.metadata)
    listed = await stub.ListTenants(pb.ListTenantsRequest(), metadata=bob.metadata)
    assert {tenant.id for tenant in listed.tenants} == {str(ada.tenant_id), str(bob.tenant_id)}
