"""What a watcher is told of objects: everything that becomes of them, whoever or whatever it was that did it."""

import pytest
from thecloud.v1 import storage_pb2, watch_pb2

from server.services import storage_lives, storage_rules
from tests.conftest import Cloud, Person
from tests.services.test_storage import bucket, put, versioned
from tests.services.test_watch import Watching

KINDS = ["object", "multipart_upload", "bucket", "lifecycle_rule"]


def said(change: watch_pb2.Change) -> str:
    """What became of what, and whether it is the latest or a marker before and after: "UPDATED a latest -> kept"."""
    before, after = (dict(getattr(change, each)) for each in ("before", "after"))
    states = []
    for state in (before, after):
        if state.get("delete_marker"):
            states.append("latest marker" if state["is_latest"] else "marker")
        else:
            states.append("nothing" if not state else "latest" if state.get("is_latest") else "kept")
    verb = watch_pb2.Change.Type.Name(change.type).removeprefix("TYPE_")
    return f"{verb} {(after or before)['key']} {states[0]} -> {states[1]}"


async def told(watching: Watching, many: int) -> list[str]:
    return [said(change) for change in await watching.changes(many)]


async def age(cloud: Cloud, days: int) -> None:
    await cloud.value("update objects set created_at = created_at - make_interval(days => $1), "
                      "noncurrent_since = noncurrent_since - make_interval(days => $1)", days)  # fmt: skip


async def test_a_put_tells_what_is_there_and_whose_doing_it_was(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    watching = await Watching(ada, kinds=KINDS).begun()
    made = await put(ada, "assets/photos/a.jpg", b"hello", **{"x-request-id": "the-request"})
    [change] = await watching.changes(1)
    assert (change.kind, change.id, change.actor, change.request_id) == ("object", made["id"], ada.email, "the-request")
    assert not change.HasField("before")
    told = dict(change.after)
    for name in ("bucket", "key", "version_id", "size_bytes", "content_type", "checksum", "etag", "is_latest"):
        assert told[name] == made[name], name
    assert told["delete_marker"] is False
    shown = set(storage_pb2.Object.DESCRIPTOR.fields_by_name)
    assert set(told) <= shown, "nothing of how it is kept"


async def test_overwriting_and_deleting_where_no_versions_are_kept(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    watching = await Watching(ada, kinds=KINDS).begun()
    for data in (b"one", b"two"):
        await put(ada, "assets/a", data)
    await ada.rest.delete("/storage/assets/a")
    assert await told(watching, 4) == [
        "CREATED a nothing -> latest", "DELETED a latest -> nothing", "CREATED a nothing -> latest",
        "DELETED a latest -> nothing",
    ]  # fmt: skip


async def test_overwriting_hiding_and_deleting_versions(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await versioned(ada)
    watching = await Watching(ada, kinds=KINDS).begun()
    first, second = await put(ada, "assets/a", b"one"), await put(ada, "assets/a", b"two")
    await ada.rest.delete("/storage/assets/a")
    await put(ada, "assets/a", b"three")
    assert await told(watching, 7) == [
        "CREATED a nothing -> latest",
        "UPDATED a latest -> kept", "CREATED a nothing -> latest",
        "UPDATED a latest -> kept", "CREATED a nothing -> latest marker",
        "UPDATED a latest marker -> marker", "CREATED a nothing -> latest",
    ]  # fmt: skip
    third = (await ada.rest.get("/storage/assets")).json()[0]
    await ada.rest.delete(f"/storage/assets/a?versionId={first['version_id']}")
    await ada.rest.delete(f"/storage/assets/a?versionId={third['version_id']}")
    await ada.rest.delete(f"/storage/assets/a?versionId={second['version_id']}")
    assert await told(watching, 5) == [
        "DELETED a kept -> nothing",
        "DELETED a latest -> nothing", "UPDATED a marker -> latest marker",
        "DELETED a kept -> nothing", "DELETED a latest marker -> nothing",
    ]  # fmt: skip
    assert await cloud.value("select count(*) from objects") == 0


@pytest.mark.parametrize("kept", [False, True])
async def test_what_a_rule_does_is_told_as_the_clouds_doing(cloud: Cloud, ada: Person, kept: bool) -> None:
    await bucket(ada)
    if kept:
        await versioned(ada)
    rule = {"expiration_days": 1, "noncurrent_days": 1, "expired_markers": True}
    await ada.rest.post("/storage/buckets/assets/lifecycle", json=rule)
    await put(ada, "assets/a")
    await age(cloud, 2)
    watching = await Watching(ada, kinds=["object"]).begun()
    await storage_rules.expire(cloud.app)
    await cloud.settle()
    if kept:
        assert await told(watching, 2) == ["UPDATED a latest -> kept", "CREATED a nothing -> latest marker"]
        await age(cloud, 2)
        await storage_rules.expire(cloud.app)
        await cloud.settle()
    changes = await watching.changes(2 if kept else 1)
    assert [said(change) for change in changes] == (
        ["DELETED a kept -> nothing", "DELETED a latest marker -> nothing"] if kept else ["DELETED a latest -> nothing"]
    )
    assert {change.actor for change in changes} == {"system"}


async def test_uploads_in_parts_and_a_bucket_that_is_emptied(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    watching = await Watching(ada, kinds=["object", "multipart_upload"]).begun()
    ids = [(await ada.rest.post(f"/storage/multipart/init/assets/{key}")).json()["id"] for key in "abc"]
    await ada.rest.put(f"/storage/multipart/upload/{ids[0]}/parts?part=1", content=b"x")
    await ada.rest.post(f"/storage/multipart/complete/{ids[0]}")
    await ada.rest.delete(f"/storage/multipart/abort/{ids[1]}")
    await cloud.value("update multipart_uploads set created_at = now() - interval '8 days'")
    await storage_lives.sweep(cloud.app)
    changes = await watching.changes(7)
    seen = [(change.kind, said(change).split()[:2]) for change in changes]
    assert seen == [
        *(("multipart_upload", ["CREATED", key]) for key in "abc"),
        ("multipart_upload", ["DELETED", "a"]), ("object", ["CREATED", "a"]), ("multipart_upload", ["DELETED", "b"]),
        ("multipart_upload", ["DELETED", "c"]),
    ]  # fmt: skip
    await ada.rest.delete("/storage/buckets/assets?force=true")
    await cloud.settle()
    assert await told(watching, 1) == ["DELETED a latest -> nothing"]


async def test_reading_them_again_and_finding_damage_changes_nothing_that_is_told(cloud: Cloud, ada: Person) -> None:
    await bucket(ada)
    await put(ada, "assets/a")
    before = await cloud.value("select count(*) from changes")
    cloud.objects.blobs.clear()
    await age(cloud, 8)
    for kind in ("scrub_host", "scrub_shared"):
        await cloud.value("insert into work (kind, id, due_at, leased_until, wakes, attempts) values "
                          "($1, gen_random_uuid(), now(), '-infinity', 1, 0)",
                          f"server.services.storage_scrubber.{kind}")  # fmt: skip
    await cloud.settle()
    assert await cloud.value("select damage from objects") == "MISSING"
    assert await cloud.value("select count(*) from changes") == before
