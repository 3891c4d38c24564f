"""What the shim does around every call: paths, bodies, headers, errors. In process, and over a gRPC channel."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from drivers.contracts import InstanceSpec
from rest_shim import app as rest
from rest_shim.channel import ChannelBackend
from server import app as server_app
from server import metrics
from server.config import Config
from tests.conftest import Cloud, Person, running_cloud


@pytest.fixture(params=["in process", "over a channel"])
async def api(request: pytest.FixtureRequest, cloud: Cloud, ada: Person) -> httpx.AsyncClient:
    """Ada's client of a shim in the server's process, and of one deployed on its own."""
    if request.param == "in process":
        return ada.rest
    asgi = rest.create(ChannelBackend(cloud.channel), server_app.services(), rest.Settings())
    transport = httpx.ASGITransport(asgi)
    client = httpx.AsyncClient(transport=transport, base_url="http://cloud", headers={"x-api-key": ada.key})
    return await cloud.stack.enter_async_context(client)


async def launched(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await api.post("/instances", json={"name": "web-01", "image": "nginx"} | fields)
    assert reply.status_code == 202, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def test_bodies_are_bare_at_the_root_and_enveloped_under_api_v1(api: httpx.AsyncClient) -> None:
    made = await launched(api)
    bare = (await api.get(f"/instances/{made['id']}")).json()
    assert bare == made
    enveloped = (await api.get(f"/api/v1/instances/{made['id']}")).json()
    assert enveloped["data"] == bare
    assert set(enveloped["meta"]) == {"request_id", "timestamp"}
    assert enveloped["meta"]["timestamp"].endswith("Z")
    assert (await api.get("/instances")).json() == [bare]
    assert (await api.get("/api/v1/instances")).json()["data"] == [bare]


async def test_a_call_without_a_content_type_or_with_any_is_json(api: httpx.AsyncClient) -> None:
    body = b'{"name": "a", "image": "nginx"}'
    for headers in ({}, {"content-type": "application/x-www-form-urlencoded"}):
        assert (await api.post("/instances", content=body, headers=headers)).status_code == 202


async def test_errors_are_the_same_in_both_forms(api: httpx.AsyncClient) -> None:
    for prefix in ("", "/api/v1"):
        reply = await api.get(f"{prefix}/instances/{UUID(int=7)}")
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert (error["type"], error["code"], error["reason"]) == ("NOT_FOUND", "NOT_FOUND", "NOT_FOUND")
        assert error["metadata"] == {"kind": "instance", "id": str(UUID(int=7))}
        assert reply.json()["meta"]["request_id"] == reply.headers["x-request-id"]


async def test_a_bad_request_names_every_bad_field(api: httpx.AsyncClient) -> None:
    reply = await api.post("/instances", json={"name": "no spaces", "image": "-", "labels": {"a": "\x01"}})
    assert reply.status_code == 400
    fields = {each["field"] for each in reply.json()["error"]["fields"]}
    assert fields == {"name", "image", 'labels["a"]'}


async def test_a_wrong_type_is_told_with_its_path(api: httpx.AsyncClient) -> None:
    reply = await api.post("/instances", json={"name": "a", "image": "nginx", "volumes": [{"volume_id": 7}]})
    assert reply.status_code == 400
    assert reply.json()["error"]["fields"][0]["field"] == "volumes[0].volume_id"


async def test_problem_details_come_on_request(api: httpx.AsyncClient) -> None:
    reply = await api.post("/instances", json={}, headers={"accept": "application/problem+json"})
    assert reply.status_code == 400
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert (problem["status"], problem["code"]) == (400, "INVALID_INPUT")
    assert {each["field"] for each in problem["errors"]} == {"name", "image"}


async def test_a_sane_request_id_is_kept_and_another_replaced(api: httpx.AsyncClient) -> None:
    assert (await api.get("/instances", headers={"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
    for odd in ("with space", "x" * 129):
        assert UUID((await api.get("/instances", headers={"x-request-id": odd})).headers["x-request-id"])


async def test_a_list_has_the_next_page_in_its_headers(api: httpx.AsyncClient) -> None:
    for number in range(3):
        await launched(api, name=f"i-{number}")
    first = await api.get("/instances", params={"page_size": 2, "tag": []})
    assert [each["name"] for each in first.json()] == ["i-2", "i-1"]
    token = first.headers["x-next-page-token"]
    assert first.headers["link"] == f'</instances?page_size=2&page_token={token}>; rel="next"'
    last = await api.get(first.headers["link"].partition(">")[0][1:])
    assert [each["name"] for each in last.json()] == ["i-0"]
    assert "link" not in last.headers
    assert (await api.get("/instances", params={"page_token": "junk"})).status_code == 400


async def test_an_update_changes_what_the_body_has(api: httpx.AsyncClient) -> None:
    made = await launched(api, labels={"env": "prod", "tier": "web"})
    changed = await api.patch(f"/instances/{made['id']}", json={"labels": {"env": "", "zone": "a"}, "unknown": 1})
    assert changed.json()["labels"] == {"tier": "web", "zone": "a"}
    assert changed.json()["name"] == "web-01"
    unchanged = await api.put(f"/instances/{made['id']}", json={"name": None})
    assert unchanged.json()["name"] == "web-01"
    assert (await api.put(f"/instances/{made['id']}", json={"name": ""})).status_code == 400


async def test_a_client_may_set_a_shorter_deadline(api: httpx.AsyncClient, cloud: Cloud) -> None:
    async def slow(spec: InstanceSpec) -> None:
        await asyncio.Event().wait()

    cloud.compute.check = slow  # type: ignore[method-assign]
    reply = await api.post("/instances", json={"name": "a", "image": "nginx"}, headers={"grpc-timeout": "100m"})
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "DEADLINE_EXCEEDED"
    assert (await api.get("/instances")).json() == []
    assert (await api.get("/instances", headers={"grpc-timeout": "soon"})).status_code == 400


async def test_the_deadline_reaches_the_database(cloud: Cloud, ada: Person) -> None:
    made = await ada.launch()
    async with cloud.app.db.transaction() as tx:
        await tx.connection.execute("select 1 from instances for update")
        reply = await ada.rest.post(f"/instances/{made['id']}/stop", headers={"grpc-timeout": "200m"})
        assert reply.status_code == 504
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%instances%'"
        for _ in range(100):
            if not await tx.connection.fetchval(waiting):
                break
            await asyncio.sleep(0.01)
        assert await tx.connection.fetchval(waiting) == 0
    assert (await ada.instance(made["id"]))["version"] == 1


async def test_a_body_over_a_mebibyte_is_refused(api: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 2**16

    known = await api.post("/instances", content=b" " * (10 * 2**20))
    unknown = await api.post("/instances", content=pieces())
    for reply in (known, unknown):
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"


async def test_what_is_not_there_answers_in_json(api: httpx.AsyncClient) -> None:
    for path in ("/", "/nope", "/instances/", "/api/v1", "/api/v2/instances", "/instances//stats", "/%ff", "/a%2fb"):
        reply = await api.get(path)
        assert reply.status_code in (400, 404), path
        assert reply.json()["error"]["message"]
    wrong = await api.delete("/instances")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, POST")


async def test_answers_carry_security_headers(api: httpx.AsyncClient) -> None:
    for path in ("/instances", "/nope", "/docs", "/openapi.json"):
        headers = (await api.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers


async def test_browsers_of_other_origins_are_let_in_only_where_configured(cloud: Cloud, ada: Person) -> None:
    asked = {"origin": "https://console.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in (await ada.rest.options("/instances", headers=asked)).headers
    settings = rest.Settings(cors_origins=("https://console.example",))
    asgi = rest.create(cloud.pipeline, server_app.services(), settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://cloud") as client:
        wanted = asked | {"access-control-request-headers": "x-api-key,x-tenant-id,idempotency-key"}
        allowed = await client.options("/instances", headers=wanted)
        assert allowed.headers["access-control-allow-origin"] == "https://console.example"
        refused = await client.options("/instances", headers=wanted | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers


async def test_metrics_are_for_this_machine_or_for_who_has_the_token(cloud: Cloud, ada: Person) -> None:
    await ada.rest.get("/instances")
    here = await ada.rest.get("/metrics")
    assert 'thecloud_calls_seconds_count{method="/thecloud.v1.InstanceService/ListInstances",outcome="OK"}' in here.text
    settings = rest.Settings(metrics=metrics.exposition, metrics_token="secret")
    asgi = rest.create(cloud.pipeline, server_app.services(), settings)
    transport = httpx.ASGITransport(asgi, client=("198.18.0.9", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as away:
        assert (await away.get("/metrics")).status_code == 401
        assert (await away.get("/metrics", headers={"authorization": "Bearer wrong"})).status_code == 401
        assert (await away.get("/metrics", headers={"authorization": "Bearer secret"})).status_code == 200


async def test_the_page_needs_nothing_from_elsewhere(api: httpx.AsyncClient) -> None:
    page = await api.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for name in ("/docs.js", "/docs.css"):
        assert name in page.text
        assert (await api.get(name)).status_code == 200
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert (await api.get("/openapi.json")).json()["openapi"].startswith("3.1")


async def test_a_forwarded_address_counts_only_from_a_trusted_proxy(empty_database: str, tmp_path: Path) -> None:
    config = Config(data=tmp_path, grpc="127.0.0.1:0", auth_rate_limit=1)
    for proxies, second in (("", 429), ("127.0.0.1", 400)):
        async with running_cloud(empty_database, tmp_path, replace(config, trusted_proxies=proxies)) as cloud:
            statuses = [
                (await cloud.anonymous.post("/auth/login", json={}, headers={"x-forwarded-for": address})).status_code
                for address in ("198.18.0.1", "198.18.0.2")
            ]
            assert statuses[1] == second
