"""What instances wrote: taken once, kept beyond them, searched as documented, followed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thecloud.v1 import logs_pb2 as pb
from thecloud.v1.logs_pb2_grpc import LogServiceStub

from drivers.contracts import LogBatch, LogLine
from server.services import instance_logs, logs
from tests.conftest import Cloud, Person
from tests.crash import Died


def echo(*words: str) -> list[str]:
    return ["sh", "-c", "; ".join(f"echo {each}" for each in words) + "; sleep 1000"]


async def written(cloud: Cloud, person: Person, *words: str, **fields: Any) -> str:
    """The id of an instance that has written these lines, which have been taken."""
    made = await person.running(cmd=echo(*words), **fields)
    await instance_logs.gather(cloud.app)
    return made["id"]  # type: ignore[no-any-return]


async def search(person: Person, **query: Any) -> dict[str, Any]:
    reply = await person.rest.get("/logs", params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


async def messages(person: Person, **query: Any) -> list[str]:
    return [entry["message"] for entry in (await search(person, **query))["entries"]]


# Searched


async def test_a_search_answers_as_documented(cloud: Cloud, ada: Person) -> None:
    id = await written(cloud, ada, "one", "two")
    found = await search(ada)
    assert {name: found[name] for name in ("total", "limit", "offset")} == {"total": 2, "limit": 100, "offset": 0}
    newest = found["entries"][0]
    assert (newest["message"], newest["level"], newest["resource_type"]) == ("two", "INFO", "instance")
    assert (newest["resource_id"], newest["tenant_id"]) == (id, str(ada.tenant_id))
    assert datetime.now(UTC) - datetime.fromisoformat(newest["timestamp"]) < timedelta(minutes=1)
    assert (await ada.rest.get(f"/logs/{id}")).json() == {"entries": found["entries"], "total": 2}
    assert (await ada.rest.get(f"/api/v1/logs/{id}")).json()["data"]["total"] == 2


async def test_it_is_narrowed_by_resource_type_level_words_and_time(cloud: Cloud, ada: Person) -> None:
    id = await written(cloud, ada, "all well", "ERROR disk full", "WARNING hot", "bad >&2")
    other = await written(cloud, ada, "other")
    assert await messages(ada, resource_id=id) == ["bad", "WARNING hot", "ERROR disk full", "all well"]
    assert await messages(ada, level="ERROR") == ["bad", "ERROR disk full"]
    assert await messages(ada, level="WARN") == ["WARNING hot"]
    assert await messages(ada, level="nonsense") == await messages(ada, resource_type="function") == []
    assert await messages(ada, search="DISK") == ["ERROR disk full"]
    assert await messages(ada, search="well", resource_id=other) == []
    now = datetime.now(UTC).isoformat()
    assert len(await messages(ada, end_time=now)) == 5
    assert await messages(ada, start_time=now) == []
    assert await messages(ada, start_time=now, end_time="2020-01-01T00:00:00Z") == []


@pytest.mark.parametrize(("words", "found"), [("100%", ["100% sure"]), ("a_b", ["a_b"]), ("\\", ["back\\slash"]),
                                              ("%", ["100% sure"]), ("_", ["a_b"]), ("'", [])])  # fmt: skip
async def test_no_character_of_a_search_means_more_than_itself(
    cloud: Cloud, ada: Person, words: str, found: list[str]
) -> None:
    await written(cloud, ada, "100% sure", "a_b", "axb", "back\\slash")
    assert await messages(ada, search=words) == found


async def test_limits_and_offsets_are_clamped_and_nonsense_refused(cloud: Cloud, ada: Person) -> None:
    id = await written(cloud, ada, *(str(number) for number in range(120)))
    assert len(await messages(ada)) == 100
    assert (await search(ada, limit=0))["limit"] == (await search(ada, limit=-5))["limit"] == 100
    assert (await search(ada, limit=5000))["limit"] == 1000
    assert await messages(ada, limit=2, offset=117) == ["2", "1"]
    assert (await search(ada, offset=-3))["offset"] == 0
    assert len((await ada.rest.get(f"/logs/{id}?limit=7")).json()["entries"]) == 7
    for query in ({"offset": 1_000_001}, {"limit": "ten"}, {"offset": "x"}, {"start_time": "yesterday"}):
        assert (await ada.rest.get("/logs", params=query)).status_code == 400, query
    assert (await ada.rest.get(f"/logs/{id}?limit=x")).status_code == 400


async def test_what_is_not_known_has_no_entries(ada: Person) -> None:
    for id in (str(uuid4()), "nonsense"):
        reply = await ada.rest.get(f"/logs/{id}")
        assert (reply.status_code, reply.json()) == (200, {"entries": [], "total": 0})


async def test_tenants_see_their_own(cloud: Cloud, ada: Person, bob: Person) -> None:
    id = await written(cloud, ada, "adas")
    await written(cloud, bob, "bobs")
    assert await messages(bob) == ["bobs"]
    assert await messages(bob, resource_id=id) == []
    assert (await bob.rest.get(f"/logs/{id}")).json()["total"] == 0


async def test_a_policy_on_an_instance_is_one_on_its_log(cloud: Cloud, ada: Person) -> None:
    shown, hidden = await written(cloud, ada, "shown", name="web"), await written(cloud, ada, "hidden", name="db")
    for resource in ("instance:web", shown):
        scope = [{"effect": "Allow", "action": ["instance:read"], "resource": [resource]}]
        reply = await ada.rest.post("/auth/keys", json={"name": "k", "policy": {"statements": scope}})
        client = await cloud.client(**{"x-api-key": reply.json()["key"]})
        found = (await client.get("/logs")).json()
        assert ([each["message"] for each in found["entries"]], found["total"]) == (["shown"], 1)
        assert (await client.get(f"/logs/{hidden}")).status_code == 403
        assert (await client.get(f"/logs/{shown}")).json()["total"] == 1


# Taken


async def test_each_line_is_taken_once_however_often(cloud: Cloud, ada: Person) -> None:
    id = await written(cloud, ada, "one")
    for number in range(3):
        cloud.compute.machines[UUID(id)].write(b"more %d" % number)
        await asyncio.gather(instance_logs.gather(cloud.app), instance_logs.gather(cloud.app))
    await instance_logs.gather(cloud.app)
    assert await messages(ada) == ["more 2", "more 1", "more 0", "one"]


async def test_a_process_that_dies_loses_and_doubles_nothing(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it has asked the driver, and after it has written some of it, which then is undone."""
    id = await written(cloud, ada, "one")
    cloud.compute.machines[UUID(id)].write(b"two")
    append = logs.append

    async def dies(*arguments: Any) -> None:
        await append(*arguments)
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(logs, "append", dies)
        with pytest.raises(Died):
            await instance_logs.gather(cloud.app)
    assert await messages(ada) == ["one"]
    await instance_logs.gather(cloud.app)
    assert await messages(ada) == ["two", "one"]


async def test_the_log_outlives_the_instance_with_its_last_lines(cloud: Cloud, ada: Person) -> None:
    id = await written(cloud, ada, "one")
    cloud.compute.machines[UUID(id)].write(b"last")
    await ada.rest.delete(f"/instances/{id}")
    await cloud.settle()
    assert (await ada.rest.get(f"/instances/{id}")).status_code == 404
    assert await messages(ada, resource_id=id) == ["last", "one"]


async def test_what_an_instance_wrote_before_it_stopped_is_taken_and_then_it_is_left_alone(
    cloud: Cloud, ada: Person
) -> None:
    id = await written(cloud, ada, "one")
    cloud.compute.machines[UUID(id)].write(b"last")
    await ada.rest.post(f"/instances/{id}/stop")
    await cloud.settle()
    await instance_logs.gather(cloud.app)
    assert await messages(ada) == ["last", "one"]
    cloud.compute.machines[UUID(id)].write(b"not looked at")
    await instance_logs.gather(cloud.app)
    assert len(await messages(ada)) == 2
    await ada.rest.put(f"/instances/{id}", json={"status": "RUNNING"})
    await cloud.settle()
    await instance_logs.gather(cloud.app)
    assert "not looked at" in await messages(ada)


async def test_one_that_cannot_be_read_keeps_no_other_from_being_read(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = await ada.running(cmd=echo("broken"))
    await ada.running(cmd=echo("other"))
    logs_since = cloud.compute.logs_since

    async def fails(id: UUID, position: str, most_bytes: int) -> LogBatch:
        if id == UUID(broken["id"]):
            raise ConnectionError("the engine is away")
        return await logs_since(id, position, most_bytes)

    with monkeypatch.context() as patched:
        patched.setattr(cloud.compute, "logs_since", fails)
        await instance_logs.gather(cloud.app)
    assert await messages(ada) == ["other"]
    await instance_logs.gather(cloud.app)
    assert await messages(ada) == ["other", "broken"]


async def test_a_long_log_is_taken_in_parts(cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 50)
    id = await written(cloud, ada, *(f"line {number}" for number in range(100)))
    assert 1 <= (await search(ada))["total"] < 100
    await ada.rest.delete(f"/instances/{id}")
    await cloud.settle()
    found = await messages(ada, limit=1000)
    assert found == [f"line {number}" for number in range(99, -1, -1)]


# Lines


@pytest.mark.parametrize(
    ("message", "stream", "expected"),
    [
        ("started", "stdout", "INFO"), ("oops", "stderr", "ERROR"), ("[notice] 1#1: start", "stderr", "INFO"),
        ("level=warn msg=x", "stdout", "WARN"), ('{"level":"error","msg":"x"}', "stdout", "ERROR"),
        ("2026-01-05 23:00:00 DEBUG x", "stdout", "DEBUG"), ("terror in the street", "stdout", "INFO"),
        ("file error.log opened", "stdout", "INFO"), ("x" * 200 + " ERROR", "stdout", "INFO"),
        ("panic: runtime", "stdout", "ERROR"), ("Warning: hot", "stderr", "WARN"),
    ],
)  # fmt: skip
def test_a_level_is_what_the_line_says_or_its_stream(message: str, stream: str, expected: str) -> None:
    assert logs.level(message, stream) == expected


@given(st.binary(max_size=40), st.sampled_from(["stdout", "stderr"]))
def test_any_bytes_become_text_that_can_be_kept(data: bytes, stream: Any) -> None:
    found = logs.text(LogLine(at=datetime.now(UTC), stream=stream, text=data))
    assert "\x00" not in found
    found.encode()
    assert logs.level(found, stream) in ("INFO", "WARN", "ERROR", "DEBUG")


async def test_odd_lines_are_kept_as_text(cloud: Cloud, ada: Person) -> None:
    id = await written(cloud, ada, "one")
    machine = cloud.compute.machines[UUID(id)]
    for line in (b"", b"   ", b"\xff\xfe", b"a\x00b", b"\x1b[31mred\x1b[0m", b"x" * 20_000, "é🚀".encode()):
        machine.write(line)
    await instance_logs.gather(cloud.app)
    found = await messages(ada)
    assert found[0] == "é🚀"
    assert found[1].endswith("… [cut]")
    assert len(found[1]) == logs.LONGEST
    assert found[2:] == ["red", "a\ufffdb", "\ufffd\ufffd", "one"]


# Followed


class Tail:
    def __init__(self, person: Person, **request: Any) -> None:
        stub = LogServiceStub(person.cloud.channel)
        self.call = stub.TailLogs(pb.TailLogsRequest(**request), metadata=person.metadata)
        self.token = ""

    async def next(self, many: int) -> list[str]:
        found = []
        async with asyncio.timeout(10):
            while len(found) < many:
                response = await self.call.read()
                self.token = response.resume_token
                if response.HasField("entry"):
                    found.append(response.entry.message)
        return found


async def test_a_tail_begins_with_the_newest_and_goes_on(cloud: Cloud, ada: Person) -> None:
    id = await written(cloud, ada, *(str(number) for number in range(20)))
    tail = Tail(ada, resource_id=id, lines=3)
    assert await tail.next(3) == ["17", "18", "19"]
    cloud.compute.machines[UUID(id)].write(b"new")
    await instance_logs.gather(cloud.app)
    assert await tail.next(1) == ["new"]
    tail.call.cancel()
    for number in range(3):
        cloud.compute.machines[UUID(id)].write(b"later %d" % number)
    await instance_logs.gather(cloud.app)
    again = Tail(ada, resource_id=id, resume_token=tail.token)
    assert await again.next(3) == ["later 0", "later 1", "later 2"]
    assert await Tail(ada, resource_id=id).next(10) == [*(str(number) for number in range(14, 20)), "new", "later 0",
                                                        "later 1", "later 2"]  # fmt: skip


async def test_a_tail_shows_no_other_tenants_lines(cloud: Cloud, ada: Person, bob: Person) -> None:
    id = await written(cloud, ada, "adas")
    tail = Tail(bob, resource_id=id)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.2):
            await tail.next(1)


async def test_a_token_that_is_none_is_refused(ada: Person) -> None:
    for token in ("x", "-1", "9" * 30):
        tail = Tail(ada, resource_id="a", resume_token=token)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await tail.call.read()
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# Kept


async def test_what_is_old_goes(cloud: Cloud, ada: Person) -> None:
    await written(cloud, ada, "old", "young")
    await cloud.value("update log_entries set timestamp = now() - interval '31 days' where message = 'old'")
    await logs.purge(cloud.app)
    assert await messages(ada) == ["young"]


async def test_of_one_that_writes_too_much_the_oldest_go(cloud: Cloud, ada: Person) -> None:
    noisy = await written(cloud, ada, *(str(number) for number in range(50)))
    await written(cloud, ada, "quiet")
    object.__setattr__(cloud.app.config, "log_lines", 10)
    await logs.trim(cloud.app)
    assert await messages(ada, resource_id=noisy) == [str(number) for number in range(49, 39, -1)]
    assert len(await messages(ada)) == 11
