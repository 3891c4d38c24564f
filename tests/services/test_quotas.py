"""Quotas as tenants see them, and as operators set them; the operators' other commands."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server import app as server_app
from server import audit, operators, quota
from server.config import BadConfig
from server.pipeline import Pipeline
from tests.conftest import Cloud, Person
from tests.system.process import command


async def quotas(person: Person) -> dict[str, tuple[int, int]]:
    """The limit and the use of each."""
    reply = await person.rest.get("/quotas")
    assert reply.status_code == 200, reply.text
    return {each["name"]: (each["limit"], each["used"]) for each in reply.json()}


async def perform(cloud: Cloud, act: operators.Act) -> str:
    """As an operator, on a loop of its own."""
    return await asyncio.to_thread(operators.perform, cloud.app.db.url, act)


# For tenants


async def test_all_quotas_are_listed_by_name(ada: Person) -> None:
    found: list[dict[str, Any]] = (await ada.rest.get("/quotas")).json()
    assert {"name": "instances", "limit": 20, "used": 0} in found
    assert [each["name"] for each in found] == sorted(quota.QUOTAS)
    assert (await ada.rest.get("/api/v1/quotas")).json()["data"] == found


async def test_use_is_counted_live_and_of_the_tenant_alone(cloud: Cloud, ada: Person, bob: Person) -> None:
    made = await ada.running(instance_type="basic-4")
    await ada.launch(instance_type="basic-2")
    found = await quotas(ada)
    assert (found["instances"], found["vcpus"], found["memory_mb"]) == ((20, 2), (32, 3), (65536, 3072))
    assert (await quotas(bob))["instances"] == (20, 0)
    await ada.rest.delete(f"/instances/{made['id']}")
    assert (await quotas(ada))["instances"] == (20, 1)


async def test_viewers_may_look(cloud: Cloud, ada: Person) -> None:
    viewer = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    assert await quotas(viewer) == await quotas(ada)


async def test_a_quota_that_nothing_counts_keeps_the_server_from_starting(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(quota.QUOTAS, "vcpus")
    with pytest.raises(TypeError, match=r"InstanceService\.\w+ uses up quotas that nothing counts: vcpus"):
        Pipeline(cloud.app, server_app.implemented(cloud.app))


# For operators


async def test_an_operator_sets_a_limit_that_holds_at_once(cloud: Cloud, ada: Person, bob: Person) -> None:
    for limit in (1, 2):
        said = await perform(cloud, operators.set_quota(str(ada.tenant_id), "instances", limit))
        assert said == f"{ada.tenant_id} may have {limit} instances, and has {limit - 1}"
        await ada.launch()
        refused = await ada.rest.post("/instances", json={"name": "more", "image": "nginx"})
        assert refused.json()["error"]["code"] == "QUOTA_EXCEEDED"
    assert (await quotas(ada))["instances"] == (2, 2)
    assert (await quotas(bob))["instances"] == (20, 0)


async def test_an_operator_lists_quotas_by_id_or_slug(cloud: Cloud, ada: Person) -> None:
    await ada.launch()
    tenant = (await ada.rest.post("/tenants", json={"name": "Acme", "slug": "acme"})).json()
    listed = await perform(cloud, operators.list_quotas(str(ada.tenant_id)))
    assert "instances                     1 of 20" in listed.splitlines()
    for reference in ("acme", tenant["id"]):
        assert "instances                     0 of 20" in await perform(cloud, operators.list_quotas(reference))


async def test_an_operator_sets_prices(cloud: Cloud, ada: Person) -> None:
    soon = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    said = await perform(cloud, operators.set_price("instance", "basic-2", "0.025", soon.isoformat()))
    assert said == f"instance basic-2 costs 0.025 US dollars an hour from {soon.isoformat()} on"
    await perform(cloud, operators.set_price("instance", "basic-2", "0.03", None))
    listed = [line.split() for line in (await perform(cloud, operators.list_prices())).splitlines()]
    mine = [line[2] for line in listed if line[1] == "basic-2"]
    assert [float(price) for price in mine] == [0.02, 0.03, 0.025]
    assert ["instance", "basic-1", "0.01", "from", "1970-01-01T00:00:00Z"] in listed


async def test_what_operators_do_is_audited(cloud: Cloud, ada: Person) -> None:
    await perform(cloud, operators.set_quota(str(ada.tenant_id), "instances", 0))
    [entry] = (await ada.rest.get("/audit")).json()
    assert (entry["actor"], entry["action"], entry["resource"]) == ("operator", "QUOTA_SET", "quota/instances")
    assert entry["details"] == {"limit": 0}
    await perform(cloud, operators.set_price("instance", "basic-2", "0.03", None))
    assert await cloud.value("select action from audit_log where resource_id = 'instance basic-2'") == "PRICE_SET"
    async with cloud.app.db.reading() as tx:
        assert all(isinstance(found, audit.Head) for found in [each async for each in audit.verify(tx, {})])


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (operators.set_quota("nobody", "instances", 5), "tenant nobody not found"),
        (operators.list_quotas("00000000-0000-0000-0000-000000000001"), "not found"),
        (operators.set_price("instance", "basic-2", "cheap", None), "'cheap' is none"),
        (operators.set_price("instance", "basic-2", "1", "2020-01-01T00:00:00Z"), "do not change"),
        (operators.set_price("instance", "basic-2", "1", "2999-01-01"), "with its zone"),
        (operators.set_price("instance", "basic-2", "1", "tomorrow"), "with its zone"),
        (operators.set_price("instance", "basic-3", "1", None), "there are"),
    ],
)
async def test_operators_are_told_what_to_mend(cloud: Cloud, act: operators.Act, why: str) -> None:
    with pytest.raises(BadConfig, match=why):
        await perform(cloud, act)


async def test_a_quota_that_there_is_not_cannot_be_set(cloud: Cloud, ada: Person) -> None:
    with pytest.raises(BadConfig, match=r"there is no quota 'cats'; there are .*instances"):
        await perform(cloud, operators.set_quota(str(ada.tenant_id), "cats", 5))


async def test_the_commands(cloud: Cloud, ada: Person) -> None:
    there = {"THECLOUD_DATABASE_URL": cloud.app.db.url}
    done = await command("quota", "set", str(ada.tenant_id), "instances", "7", **there)
    assert (done.code, done.output) == (0, f"{ada.tenant_id} may have 7 instances, and has 0\n")
    assert "0 of 7" in (await command("quota", "list", str(ada.tenant_id), **there)).output
    assert "costs 0.5 US" in (await command("price", "set", "instance", "basic-2", "0.5", **there)).output
    assert "basic-2" in (await command("price", "list", **there)).output
    failed = await command("quota", "set", "nobody", "instances", "7", **there)
    assert (failed.code, failed.errors) == (2, "thecloud: tenant nobody not found\n")
