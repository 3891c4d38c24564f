"""Dry runs over REST: asked for in the query or the body, and answered with what the method says."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.conftest import Cloud, Person
from tests.streaming_service import StreamService, running


@pytest.fixture
async def service(cloud: Cloud, ada: Person) -> AsyncIterator[tuple[StreamService, httpx.AsyncClient]]:
    async with (
        running(cloud) as server,
        httpx.AsyncClient(base_url=f"http://{server.http}", headers={"x-api-key": ada.key}) as client,
    ):
        yield server.service, client


DryRun = tuple[StreamService, httpx.AsyncClient]


@pytest.mark.parametrize("query", ["dry_run=true", "validate_only=true", "dry_run=true&validate_only=false"])
async def test_the_query_asks_for_one_whatever_the_body_is(service: DryRun, query: str) -> None:
    performed, api = service
    reply = await api.patch(f"/topics/a?{query}", json={"name": "x", "validate_only": False})
    assert (reply.status_code, reply.json()) == (200, {"name": "x", "number": 1})
    assert (await api.patch(f"/api/v1/topics/a?{query}", json={"name": "x"})).json()["data"] == reply.json()
    shown = await api.get(f"/topics/a?{query}")
    assert (shown.status_code, shown.json()) == (200, {"name": "", "number": 0})
    dropped = await api.delete(f"/topics/a?{query}")
    assert (dropped.status_code, dropped.json()) == (200, {})
    assert [request.validate_only for request in performed.requests] == [True] * 4
    assert list(performed.requests[0].update_mask.paths) == ["name"]


async def test_the_body_asks_for_one(service: DryRun) -> None:
    performed, api = service
    for query in ("", "?dry_run=false"):
        reply = await api.patch(f"/topics/a{query}", json={"name": "x", "validate_only": True})
        assert (reply.status_code, reply.json()) == (200, {"name": "x", "number": 1})
        assert performed.requests[-1].validate_only


async def test_without_one_all_is_as_ever(service: DryRun) -> None:
    performed, api = service
    for query in ("", "?dry_run=false"):
        edited = await api.patch(f"/topics/a{query}", json={"name": "x"})
        assert (edited.status_code, edited.json()) == (202, {"message": "edited"})
        assert (await api.get(f"/topics/a{query}")).json() == {"name": "", "number": 0, "message": "shown"}
        assert (await api.delete(f"/topics/a{query}")).status_code == 204
    assert not any(request.validate_only for request in performed.requests)
    assert (await api.delete("/topics/a?dry_run=perhaps")).status_code == 400


async def test_what_has_no_dry_run_is_not_done_in_place_of_one(ada: Person) -> None:
    made = await ada.launch()
    for value in ("true", "false", ""):
        reply = await ada.rest.delete(f"/instances/{made['id']}?dry_run={value}")
        assert (reply.status_code, reply.json()["error"]["fields"][0]["field"]) == (400, "dry_run")
    assert (await ada.instance(made["id"]))["status"] == "STARTING"


async def test_a_launch_is_tried_out_with_its_price(ada: Person) -> None:
    reply = await ada.rest.post("/instances?dry_run=true", json={"name": "a", "image": "nginx"})
    assert (reply.status_code, reply.json()["name"]) == (200, "a")
    assert "estimated_price_per_hour" in reply.json()
    assert (await ada.rest.get("/instances")).json() == []
