"""Attempt and outcome of every change and of every denied read, for those who may see them; and the chain they make."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import httpx
import pytest
from thecloud.v1 import audit_pb2 as pb
from thecloud.v1.audit_pb2_grpc import AuditServiceStub

from server import audit
from server.audit import Head
from server.call import Call
from tests.conftest import Cloud, Person
from tests.system.process import command

DOCUMENTED = {"id", "timestamp", "actor", "action", "resource", "status", "ip_address"}


async def entries(person: Person, **query: Any) -> list[dict[str, Any]]:
    reply = await person.rest.get("/audit", params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def test_a_launch_is_listed_as_documented(ada: Person) -> None:
    made = await ada.launch(env=["PASSWORD=secret"])
    [entry] = await entries(ada)
    assert entry.keys() >= DOCUMENTED
    assert (entry["actor"], entry["action"], entry["status"]) == (ada.email, "INSTANCE_LAUNCH", "success")
    assert (entry["resource"], entry["resource_id"]) == (f"instance/{made['id'][:8]}", made["id"])
    assert entry["ip_address"] == "127.0.0.1"
    assert entry["timestamp"] == entry["created_at"]
    assert (entry["tenant_id"], entry["user_id"]) == (str(ada.tenant_id), str(ada.user_id))
    assert "before" not in entry
    assert (entry["after"]["name"], entry["after"]["status"]) == ("web-01", "STARTING")
    assert "secret" not in json.dumps(entry)


async def test_an_update_has_what_was_before_and_after(ada: Person) -> None:
    made = await ada.launch(labels={"a": "1"})
    await ada.rest.put(f"/instances/{made['id']}", json={"labels": {"a": "2"}})
    [entry, _] = await entries(ada)
    assert (entry["before"]["labels"], entry["after"]["labels"]) == ({"a": "1"}, {"a": "2"})


async def test_refusals_and_denied_reads_are_there_with_their_reason(cloud: Cloud, ada: Person) -> None:
    made = await ada.launch()
    await ada.rest.post(f"/instances/{made['id']}/resume")
    deny = {"name": "no", "statements": [{"effect": "Deny", "action": ["instance:read"], "resource": ["*"]}]}
    policy = (await ada.rest.post("/iam/policies", json=deny)).json()
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{policy['id']}")
    assert (await eve.rest.get(f"/instances/{made['id']}", headers={"x-request-id": "r-1"})).status_code == 403
    assert (await ada.rest.get(f"/instances/{made['id']}")).status_code == 200
    [denied, resumed] = await entries(ada, status="failure")
    assert (denied["action"], denied["reason"], denied["actor"]) == ("INSTANCE_READ", "PERMISSION_DENIED", eve.email)
    assert (denied["request_id"], denied["resource_id"]) == ("r-1", made["id"])
    assert denied["details"]["statements"][0]["policy_name"] == "no"
    assert (resumed["action"], resumed["reason"]) == ("INSTANCE_RESUME", "WRONG_STATE")
    assert "STARTING" in resumed["details"]["message"]


async def test_it_is_filtered_by_time_actor_action_resource_and_status(cloud: Cloud, ada: Person) -> None:
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="developer")
    first = await ada.launch()
    between = datetime.now(UTC).isoformat()
    second = await eve.launch()
    await ada.rest.delete(f"/instances/{first['id']}")

    async def found(**query: str) -> list[str]:
        return [f"{entry['action']} {entry['resource_id']}" for entry in await entries(ada, **query)]

    launched, deleted = f"INSTANCE_LAUNCH {second['id']}", f"INSTANCE_TERMINATE {first['id']}"
    assert await found(start_time=between) == [deleted, launched]
    assert await found(end_time=between) == [f"INSTANCE_LAUNCH {first['id']}"]
    assert await found(actor=eve.email) == [launched]
    assert await found(action="INSTANCE_TERMINATE") == [deleted]
    assert await found(resource=f"instance/{second['id'][:8]}") == [launched]
    assert len(await found(resource="instance")) == 3
    assert await found(resource="vpc") == await found(status="failure") == []
    assert (await ada.rest.get("/audit", params={"start_time": "yesterday"})).status_code == 400


async def test_a_limit_is_kept_and_pages_lead_through_all(ada: Person) -> None:
    for _ in range(7):
        await ada.rest.post(f"/instances/{uuid4()}/pause")
    assert len(await entries(ada, limit=3)) == 3
    reply = await ada.rest.get("/audit?limit=3")
    seen = reply.json()
    while token := reply.headers.get("x-next-page-token"):
        reply = await ada.rest.get("/audit", params={"limit": 3, "page_token": token})
        seen += reply.json()
    assert [entry["sequence"] for entry in seen] == list(range(7, 0, -1))


async def test_owners_see_all_and_others_their_own(cloud: Cloud, ada: Person, bob: Person) -> None:
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="developer")
    await ada.launch()
    await eve.launch()
    assert [entry["actor"] for entry in await entries(ada)] == [eve.email, ada.email]
    assert [entry["actor"] for entry in await entries(eve)] == [eve.email]
    assert await entries(bob) == []


async def test_the_export_is_json_lines_of_all_that_the_list_has(cloud: Cloud, ada: Person) -> None:
    for _ in range(5):
        await ada.launch()
    listed = await entries(ada, limit=1000)
    lines = b""
    async for part in AuditServiceStub(cloud.channel).ExportAuditLogs(
        pb.ExportAuditLogsRequest(), metadata=ada.metadata
    ):
        assert part.content_type == "application/x-ndjson"
        lines += part.data
    exported = [json.loads(line) for line in lines.splitlines()]
    assert [each["id"] for each in exported] == [each["id"] for each in listed]
    assert exported[0].keys() == listed[0].keys()


# The chain


async def verified(cloud: Cloud, noted: dict[UUID, Head] | None = None) -> list[Head | str]:
    async with cloud.app.db.reading() as tx:
        return [found async for found in audit.verify(tx, noted or {})]


async def broken(cloud: Cloud, noted: dict[UUID, Head] | None = None) -> str:
    """What is wrong with the only chain that does not hold."""
    [text] = [found for found in await verified(cloud, noted) if isinstance(found, str)]
    return text


@pytest.fixture
async def chain(ada: Person, bob: Person) -> str:
    """Ada's tenant has ten entries, and so has Bob's."""
    for person in (ada, bob):
        await asyncio.gather(*(person.rest.post(f"/instances/{uuid4()}/pause") for _ in range(10)))
    return str(ada.tenant_id)


async def test_a_chain_holds_that_concurrent_calls_have_made(
    cloud: Cloud, ada: Person, bob: Person, chain: str
) -> None:
    heads = await verified(cloud)
    assert {(head.tenant_id, head.sequence) for head in heads if isinstance(head, Head)} == {
        (ada.tenant_id, 10), (bob.tenant_id, 10)
    }  # fmt: skip


async def test_a_chain_holds_that_several_processes_have_made(cloud: Cloud, ada: Person, chain: str) -> None:
    """Each remembers where it has left the chain, and another has gone on."""
    stale = audit._LATEST[ada.tenant_id]
    for remembered in (stale, None, stale, Head(ada.tenant_id, 12, bytes(32))):
        if remembered:
            audit._LATEST[ada.tenant_id] = remembered
        else:
            del audit._LATEST[ada.tenant_id]
        await ada.rest.post(f"/instances/{uuid4()}/pause")
    [head] = [head for head in await verified(cloud) if isinstance(head, Head) and head.tenant_id == ada.tenant_id]
    assert (head.sequence, audit._LATEST[ada.tenant_id]) == (14, head)


@pytest.mark.parametrize("column", ["actor", "action", "resource_id", "status", "ip_address", "request_id", "details"])
async def test_a_changed_entry_is_found(cloud: Cloud, chain: str, column: str) -> None:
    await cloud.value(f"update audit_log set {column} = 'x' where tenant_id = $1 and sequence = 4", UUID(chain))
    assert f"{chain}: entry 4" in await broken(cloud)


async def test_a_changed_moment_and_a_changed_hash_are_found(cloud: Cloud, chain: str) -> None:
    late = "update audit_log set created_at = created_at + $2 where tenant_id = $1 and sequence = 10"
    await cloud.value(late, UUID(chain), timedelta(microseconds=1))
    assert "entry 10" in await broken(cloud)
    await cloud.value(late, UUID(chain), -timedelta(microseconds=1))
    await cloud.value("update audit_log set hash = sha256('x') where tenant_id = $1 and sequence = 10", UUID(chain))
    assert "entry 10" in await broken(cloud)


@pytest.mark.parametrize(("removed", "said"), [("= 1", "entry 1 "), ("= 4", "entry 4 "), ("= 10", "from 10 to 10"),
                                               (">= 4", "from 4 to 10"), (">= 1", "from 1 to 10")])  # fmt: skip
async def test_a_removed_entry_is_found(cloud: Cloud, chain: str, removed: str, said: str) -> None:
    await cloud.value(f"delete from audit_log where tenant_id = $1 and sequence {removed}", UUID(chain))
    assert said in await broken(cloud)


@pytest.mark.parametrize("sequence", [0, 11, 12])
async def test_an_inserted_entry_is_found(cloud: Cloud, chain: str, sequence: int) -> None:
    columns = ", ".join(name for name in audit.Entry.TABLE.c.keys() if name not in ("sequence", "id"))  # noqa: SIM118
    await cloud.value(
        f"insert into audit_log (sequence, id, {columns}) select $2, gen_random_uuid(), {columns} from audit_log "
        "where tenant_id = $1 and sequence = 3", UUID(chain), sequence,
    )  # fmt: skip
    assert "inserted" in await broken(cloud)


async def test_an_entry_inserted_in_the_middle_is_found(cloud: Cloud, chain: str) -> None:
    for sequence in range(10, 4, -1):
        await cloud.value("update audit_log set sequence = sequence + 1 where tenant_id = $1 and sequence = $2",
                          UUID(chain), sequence)  # fmt: skip
    columns = ", ".join(name for name in audit.Entry.TABLE.c.keys() if name not in ("sequence", "id"))  # noqa: SIM118
    await cloud.value(f"insert into audit_log (sequence, id, {columns}) select 5, gen_random_uuid(), {columns} "
                      "from audit_log where tenant_id = $1 and sequence = 4", UUID(chain))  # fmt: skip
    assert "entry 5" in await broken(cloud)


async def test_a_chain_that_was_made_anew_is_found_by_a_head_noted_before(cloud: Cloud, chain: str) -> None:
    noted = {head.tenant_id: head for head in await verified(cloud) if isinstance(head, Head)}
    assert all(isinstance(found, Head) for found in await verified(cloud, noted))
    async with cloud.app.db.transaction() as tx:
        hash = audit.FIRST
        for row in await tx.connection.fetch("select * from audit_log where tenant_id = $1 order by 4", UUID(chain)):
            values = dict(row) | ({"actor": "mallory"} if row["sequence"] == 2 else {})
            hash = audit.hashlib.sha256(hash + audit.digest(values)).digest()
            update = "update audit_log set actor = $3, hash = $4 where tenant_id = $1 and sequence = $2"
            await tx.connection.execute(update, UUID(chain), row["sequence"], values["actor"], hash)
        await tx.connection.execute("update audit_heads set hash = $2 where tenant_id = $1", UUID(chain), hash)
    assert all(isinstance(found, Head) for found in await verified(cloud))
    assert "made anew" in await broken(cloud, noted)
    await cloud.value("delete from audit_log where tenant_id = $1", UUID(chain))
    await cloud.value("delete from audit_heads where tenant_id = $1", UUID(chain))
    assert "the whole chain was removed" in await broken(cloud, noted)


async def test_an_entry_of_a_transaction_that_fails_leaves_no_gap(cloud: Cloud, ada: Person) -> None:
    call = Call(cloud.pipeline.method("/thecloud.v1.InstanceService/PauseInstance"), {}, "", "r", tenant=ada.tenant_id)
    for fails in (False, True, False):
        try:
            async with cloud.app.db.transaction() as tx:
                audit.record(tx, call, "success", ("instance", "x"))
                if fails:
                    await tx.connection.execute("select 1 / 0")
        except Exception:
            assert fails
    [head] = await verified(cloud)
    assert isinstance(head, Head)
    assert head.sequence == 2


async def test_entries_over_rest_are_enveloped_where_that_is_asked_for(ada: Person) -> None:
    await ada.launch()
    reply: httpx.Response = await ada.rest.get("/api/v1/audit")
    assert [entry["action"] for entry in reply.json()["data"]] == ["INSTANCE_LAUNCH"]


async def test_without_the_permission_there_is_no_export(cloud: Cloud, ada: Person) -> None:
    key = await ada.rest.post("/auth/keys", json={"name": "k", "policy": {"statements": [
        {"effect": "Allow", "action": ["instance:read"], "resource": ["*"]}]}})  # fmt: skip
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await (
            AuditServiceStub(cloud.channel)
            .ExportAuditLogs(pb.ExportAuditLogsRequest(), metadata=[("x-api-key", key.json()["key"])])
            .read()
        )
    assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_the_command_tells_where_chains_end_and_where_one_is_broken(
    cloud: Cloud, chain: str, tmp_path: Path
) -> None:
    there = {"THECLOUD_DATABASE_URL": cloud.app.db.url}
    holds = await command("audit", "verify", **there)
    assert (holds.code, holds.errors) == (0, "")
    assert [line.split()[1] for line in holds.output.splitlines()] == ["10", "10"]
    (tmp_path / "heads").write_text(holds.output)
    assert (await command("audit", "verify", "--heads", str(tmp_path / "heads"), **there)).code == 0
    await cloud.value("update audit_log set actor = 'x' where tenant_id = $1 and sequence = 4", UUID(chain))
    found = await command("audit", "verify", **there)
    assert found.code == 1
    assert f"tenant {chain}: entry 4 (id " in found.errors
    away = await command("audit", "verify", THECLOUD_DATABASE_URL="postgresql://127.0.0.1:1/nothing")
    assert (away.code, away.errors.count("\n")) == (2, 1)
    (tmp_path / "heads").write_text("nonsense")
    assert (await command("audit", "verify", "--heads", str(tmp_path / "heads"), **there)).code == 2
