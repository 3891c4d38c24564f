"""Changes as they happen: each once, in order, of what the caller may see, wherever the stream is taken up again."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from thecloud.v1 import watch_pb2 as pb
from thecloud.v1.watch_pb2_grpc import WatchServiceStub

from server import rating
from server.services import watch
from server.services.watch import purged
from tests.conftest import Cloud, Person, until

POLICY = {"statements": [{"effect": "Allow", "action": ["instance:read"], "resource": ["*"]}]}


async def make(person: Person, name: str) -> str:
    reply = await person.rest.post("/iam/policies", json=POLICY | {"name": name})
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]  # type: ignore[no-any-return]


class Watching:
    """One watch over gRPC."""

    def __init__(self, person: Person, **request: Any) -> None:
        stub = WatchServiceStub(person.cloud.channel)
        self.call = stub.Watch(pb.WatchRequest(**request), metadata=person.metadata)
        self.token = ""

    async def next(self) -> pb.WatchResponse:
        async with asyncio.timeout(15):
            event = await self.call.read()
        assert event is not grpc.aio.EOF, await self.call.code()
        self.token = event.resume_token
        return event  # type: ignore[no-any-return]

    async def changes(self, many: int) -> list[pb.Change]:
        found: list[pb.Change] = []
        while len(found) < many:
            event = await self.next()
            if event.HasField("change"):
                found.append(event.change)
        return found

    async def begun(self) -> "Watching":
        assert (await self.next()).HasField("bookmark")
        return self


async def refused(person: Person, **request: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await Watching(person, **request).call.read()
    return error.value


async def test_every_change_is_seen_with_what_was_before_and_after(cloud: Cloud, ada: Person) -> None:
    watching = await Watching(ada).begun()
    made = await ada.launch(env=["A=secret"])
    await cloud.settle()
    await ada.rest.delete(f"/instances/{made['id']}")
    await cloud.settle()
    seen = await watching.changes(4)
    Type = pb.Change.Type
    assert [change.type for change in seen] == [
        Type.TYPE_CREATED, Type.TYPE_UPDATED, Type.TYPE_UPDATED, Type.TYPE_DELETED
    ]  # fmt: skip
    assert {(change.kind, change.id) for change in seen} == {("instance", made["id"])}
    assert [change.sequence for change in seen] == [1, 2, 3, 4]
    assert [change.actor for change in seen] == [ada.email, "system", ada.email, "system"]
    assert seen[1].after["status"] == "RUNNING"
    assert seen[1].before == seen[0].after
    assert not seen[3].HasField("after")
    assert "env" not in seen[0].after


async def test_it_goes_on_where_a_token_says(ada: Person) -> None:
    watching = await Watching(ada).begun()
    ids = [await make(ada, str(number)) for number in range(6)]
    assert [change.id for change in await watching.changes(2)] == ids[:2]
    watching.call.cancel()
    again = Watching(ada, resume_token=watching.token)
    assert [change.id for change in await again.changes(4)] == ids[2:]


async def test_kinds_and_ids_narrow_it(cloud: Cloud, ada: Person) -> None:
    instance, policy = (await ada.launch())["id"], await make(ada, "a")
    by_kind = await Watching(ada, kinds=["policy"]).begun()
    by_id = await Watching(ada, ids=[instance]).begun()
    await ada.rest.put(f"/instances/{instance}", json={"labels": {"a": "1"}})
    await ada.rest.put(f"/iam/policies/{policy}", json={"name": "b"})
    assert [change.id for change in await by_kind.changes(1)] == [policy]
    assert [change.id for change in await by_id.changes(1)] == [instance]


async def test_only_what_the_caller_may_read_is_shown(cloud: Cloud, ada: Person, bob: Person) -> None:
    """A viewer may not read policies, a scoped key one instance, and nobody another tenant's."""
    viewer = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    first, other = await ada.launch(name="shown"), await ada.launch(name="other")
    scope = [{"effect": "Allow", "action": ["watch:read"], "resource": ["*"]},
             {"effect": "Allow", "action": ["instance:read"], "resource": ["instance:shown"]}]  # fmt: skip
    reply = await ada.rest.post("/auth/keys", json={"name": "k", "policy": {"statements": scope}})
    key = Person(cloud, ada.user_id, ada.tenant_id, ada.email, reply.json()["key"], ada.rest)
    theirs, narrow, foreign = await Watching(viewer).begun(), await Watching(key).begun(), await Watching(bob).begun()
    await make(ada, "hidden")
    await ada.rest.put(f"/instances/{other['id']}", json={"labels": {"a": "1"}})
    await ada.rest.put(f"/instances/{first['id']}", json={"labels": {"a": "1"}})
    assert [change.id for change in await theirs.changes(2)] == [other["id"], first["id"]]
    assert [change.id for change in await narrow.changes(1)] == [first["id"]]
    own = await make(bob, "own")
    assert [change.id for change in await foreign.changes(1)] == [own]


async def test_a_quiet_watch_is_sent_bookmarks_that_get_it_past_what_it_does_not_show(
    ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "HEARTBEAT", 0.3)
    watching = await Watching(ada, kinds=["instance"]).begun()
    for number in range(3):
        await make(ada, str(number))
    while (event := await watching.next()).bookmark.sequence < 3:
        assert event.HasField("bookmark")
    again = Watching(ada, resume_token=watching.token)
    last = await make(ada, "last")
    [change] = await again.changes(1)
    assert (change.id, change.sequence) == (last, 4)


async def test_more_changes_than_are_read_at_once_are_all_seen(
    cloud: Cloud, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = (await Watching(ada).begun()).token
    await cloud.value("insert into quotas values ($1, 'policies', 2000)", ada.tenant_id)
    for number in range(watch.BATCH // 50):
        await asyncio.gather(*(make(ada, f"{number}/{each}") for each in range(51)))
    many = watch.BATCH // 50 * 51
    seen = await Watching(ada, resume_token=token).changes(many)
    assert [change.sequence for change in seen] == list(range(1, many + 1))


async def test_a_token_that_is_none_is_refused(cloud: Cloud, ada: Person, bob: Person) -> None:
    await make(ada, "a")
    foreign = (await Watching(bob).begun()).token
    ahead = watch.token(ada.tenant_id, 2)
    for token in ("x", "é", "AAAA", foreign, ahead, "A" * 32):
        error = await refused(ada, resume_token=token)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, token
    assert (await refused(ada, ids=["x"])).code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_token_older_than_the_log_is_kept_says_to_list_again(cloud: Cloud, ada: Person) -> None:
    watching = await Watching(ada).begun()
    policy = await make(ada, "a")
    await ada.rest.put(f"/iam/policies/{policy}", json={"name": "b"})
    await ada.rest.delete(f"/iam/policies/{policy}")
    async with cloud.app.db.transaction() as tx:
        await rating.catch_up(tx, ada.tenant_id)  # what is not billed yet is not purged
        assert await purged(tx, datetime.now(UTC) + timedelta(seconds=1)) == 3
    error = await refused(ada, resume_token=watching.token)
    assert error.code() == grpc.StatusCode.OUT_OF_RANGE
    assert "list again" in (error.details() or "")
    reply = await ada.rest.get("/watch", params={"resume_token": watching.token})
    assert (reply.status_code, reply.json()["error"]["reason"]) == (410, "HISTORY_EXPIRED")
    fresh = await Watching(ada).begun()
    await make(ada, "c")
    assert [change.sequence for change in await fresh.changes(1)] == [4]


async def test_a_stream_that_has_fallen_behind_retention_ends_and_says_so(cloud: Cloud, ada: Person) -> None:
    """Changes that went while it was away are not passed over in silence."""
    token = (await Watching(ada).begun()).token
    gone = await make(ada, "a")
    await ada.rest.delete(f"/iam/policies/{gone}")
    async with cloud.app.db.transaction() as tx:
        await rating.catch_up(tx, ada.tenant_id)  # what is not billed yet is not purged
        assert await purged(tx, datetime.now(UTC) + timedelta(seconds=1)) == 2
    await make(ada, "b")
    assert (await refused(ada, resume_token=token)).code() == grpc.StatusCode.OUT_OF_RANGE


async def test_retention_keeps_the_last_change_of_what_is_still_there(cloud: Cloud, ada: Person) -> None:
    kept, gone = await make(ada, "kept"), await make(ada, "gone")
    await ada.rest.put(f"/iam/policies/{kept}", json={"name": "renamed"})
    await ada.rest.delete(f"/iam/policies/{gone}")
    async with cloud.app.db.transaction() as tx:
        await rating.catch_up(tx, ada.tenant_id)  # what is not billed yet is not purged
        assert await purged(tx, datetime.now(UTC) - timedelta(days=1)) == 0
        assert await purged(tx, datetime.now(UTC) + timedelta(seconds=1)) == 3
        left = await tx.connection.fetch("select * from changes where tenant_id = $1", ada.tenant_id)
    assert [(each["type"], each["after"]["name"]) for each in left] == [("UPDATED", "renamed")]


async def test_a_watch_ends_with_its_key(cloud: Cloud, ada: Person) -> None:
    reply = (await ada.rest.post("/auth/keys", json={"name": "k"})).json()
    other = Person(cloud, ada.user_id, ada.tenant_id, ada.email, reply["key"], ada.rest)
    watching = await Watching(other).begun()
    assert (await ada.rest.delete(f"/auth/keys/{reply['id']}")).status_code == 204

    async def ended() -> bool:
        return watching.call.done()

    await until(ended, 3)
    assert await watching.call.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_watch_shows_no_more_than_a_policy_of_now_allows(cloud: Cloud, ada: Person) -> None:
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="developer")
    made = await ada.launch()
    watching = await Watching(eve).begun()
    deny = {"name": uuid4().hex, "statements": [{"effect": "Deny", "action": ["instance:*"], "resource": ["*"]}]}
    policy = (await ada.rest.post("/iam/policies", json=deny)).json()["id"]
    await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{policy}")

    for turn in range(100):
        await ada.rest.put(f"/instances/{made['id']}", json={"labels": {"turn": str(turn)}})
        role = "member" if turn % 2 else "developer"
        assert (await ada.rest.put(f"/tenants/{ada.tenant_id}/members/{eve.user_id}", json={"role": role})).is_success
        await make(ada, str(turn))
        seen = await watching.changes(1)
        if seen[0].kind != "instance":
            return
        assert turn == 0 or [each.kind for each in await watching.changes(1)] == ["tenant_member"]
    raise AssertionError("the policy never took effect")


async def test_somebody_may_have_so_many_streams_and_no_more(cloud: Cloud, ada: Person, bob: Person) -> None:
    most = cloud.app.config.streams
    streams = [await Watching(ada).begun() for _ in range(most)]
    assert (await refused(ada)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    theirs = await Watching(bob).begun()
    streams[0].call.cancel()

    async def there_is_room() -> bool:
        return cloud.pipeline.streams[ada.user_id] < most

    await until(there_is_room)
    await Watching(ada).begun()
    assert not theirs.call.done()
