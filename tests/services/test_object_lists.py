"""Lists of objects, of versions and of uploads in parts, over REST."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

from server import db, object_lists
from tests.conftest import Cloud, Person
from tests.services.test_objects import begun, get
from tests.services.test_storage import bucket, keys, put, versioned


def by_key(listed: tuple[str, str]) -> bytes:
    return listed[0].encode()


class TestLists:
    async def listed(self, person: Person, path: str, place: dict[str, str], **query: Any) -> tuple[list[Any], int]:
        """What all pages have, in order, and how many pages there are. `place` says where a page's fields go."""
        found: list[Any] = []
        pages, more = 0, dict[str, Any]()
        while True:
            page = await get(person, f"buckets/assets/{path}", **(query | more))
            objects = [(each["key"], each["id"]) for each in page["objects"]]
            found += sorted([*objects, *((prefix, "") for prefix in page["common_prefixes"])], key=by_key)
            pages += 1
            more = {ours: page[theirs] for ours, theirs in place.items() if page[theirs]}
            if not more:
                return found, pages

    async def keys(self, person: Person, **query: Any) -> list[str]:
        found, _ = await self.listed(person, "keys", {"after": "next_after"}, **query)
        return [key for key, _ in found]

    async def test_folders_are_listed_once(self, ada: Person) -> None:
        await bucket(ada)
        last = "\U0010ffff"
        names = ["a", "a/", "a/1", "a/2/3", "a0", "b//c", "b/x", "c", "é/1", f"{last}/1", f"{last}{last}"]
        for name in names:
            await put(ada, f"assets/{quote(name)}")
        beyond_a = ["a0", "b/", "c", "é/", f"{last}/", f"{last}{last}"]
        expected: list[tuple[dict[str, str], list[str]]] = [
            ({}, names), ({"delimiter": "/"}, ["a", "a/", *beyond_a]), ({"prefix": "a"}, names[:5]),
            ({"prefix": "a/", "delimiter": "/"}, ["a/", "a/1", "a/2/"]), ({"prefix": "x"}, []),
            ({"prefix": "b/", "delimiter": "/"}, ["b//", "b/x"]), ({"after": "c"}, names[8:]),
            ({"delimiter": "/", "after": "a/"}, beyond_a), ({"delimiter": "/", "after": "a/1"}, beyond_a),
            ({"delimiter": last}, [*names[:9], last]), ({"delimiter": "//"}, [*names[:5], "b//", *names[6:]]),
            ({"prefix": last}, names[9:]), ({"prefix": "a", "after": "0"}, names[:5]),
            ({"prefix": "a", "after": "b"}, []), ({"delimiter": "none"}, names),
        ]  # fmt: skip
        for query, wanted in expected:
            for size in (0, 1, 2, 3):
                assert await self.keys(ada, page_size=size, **query) == wanted, (query, size)
        for query in ({"prefix": "\0"}, {"after": "\0"}, {"delimiter": "\0"}, {"prefix": "\0", "delimiter": "/"}):
            await get(ada, "buckets/assets/keys", 400, **query)

    async def test_versions_come_newest_first_with_markers(self, ada: Person) -> None:
        await bucket(ada)
        for name in ("a", "f/1"):
            await put(ada, f"assets/{name}")
        await versioned(ada)
        for name in ("a", "a", "f/1", "f/2", "b", "c"):
            await put(ada, f"assets/{name}")
        await ada.rest.delete("/storage/assets/a")
        whole = (await get(ada, "buckets/assets/versions"))["objects"]
        assert [each["key"] for each in whole] == ["a"] * 4 + ["b", "c", "f/1", "f/1", "f/2"]
        assert [each["delete_marker"] for each in whole] == [True] + [False] * 8
        assert [each["is_latest"] for each in whole[:5]] == [True, False, False, False, True]
        assert whole[3]["version_id"] == "null"
        place = {"after_key": "next_after_key", "after_version_id": "next_after_version_id"}
        ids = [(each["key"], each["id"]) for each in whole]
        for size in (1, 2, 3, 4, 5, 9, 10):
            assert [each[0] for each in ids] == sorted(each[0] for each in ids)
            found, pages = await self.listed(ada, "versions", place, page_size=size)
            assert (found, pages) == (ids, -(-len(ids) // size))
            found, _ = await self.listed(ada, "versions", place, page_size=size, delimiter="/")
            assert found == [*ids[:6], ("f/", "")]
        found, _ = await self.listed(ada, "versions", place, page_size=1, prefix="f/", delimiter="/")
        assert found == ids[6:]
        await get(ada, "buckets/assets/versions", 400, after_version_id="null")
        gone = await get(ada, "buckets/assets/versions", after_key="a", after_version_id="7")
        assert len(gone["objects"]) == len(whole), "after one that has gone, all of the key"
        after = await get(ada, "buckets/assets/versions", after_key="a")
        assert [each["key"] for each in after["objects"]] == [each["key"] for each in whole[4:]]
        assert await keys(ada) == ["c", "b", "f/2", "f/1"]
        assert len((await ada.rest.get("/storage/versions/assets/a")).json()) == 3, "documented without markers"

    async def test_columns_are_those_of_the_objects(self, ada: Person) -> None:
        await bucket(ada)
        for name in ("a", "b/1", "c"):
            await put(ada, f"assets/{name}")
        page = await get(ada, "buckets/assets/keys", delimiter="/")
        columns = (await get(ada, "buckets/assets/keys", delimiter="/", as_columns="true"))["columns"]
        assert columns.pop("tenant_id") == str(ada.tenant_id)
        moments = [datetime.fromtimestamp(each / 1e6, UTC) for each in columns.pop("created_at_us")]
        assert moments == [datetime.fromisoformat(each["created_at"]) for each in page["objects"]]
        told = {name: values for name, values in columns.items() if values}
        assert told == {name: [each[name] for each in page["objects"]] for name in told}
        assert {*told} == {"key", "size_bytes", "etag", "checksum_algorithm", "checksum_value"}

    async def test_a_list_shows_what_its_objects_show(self, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        alone = await get(ada, "buckets/assets/object", key="a")
        del alone["properties"], alone["tags"]  # which are shown only there
        for path in ("", "?prefix=a", "/keys", "/versions"):
            listed = (await ada.rest.get(f"/storage/{'buckets/' * path.startswith('/')}assets{path}")).json()
            assert (listed["objects"] if path.startswith("/") else listed) == [alone], path
        assert (await ada.rest.get("/storage/versions/assets/a")).json() == [alone]

    async def test_only_what_the_caller_may_read(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        for name in ("logs/1", "secret/1", "top"):
            await put(ada, f"assets/{name}")
            await begun(ada, f"assets/{name}")
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        policy = await ada.rest.post("/iam/policies", json={"name": "p", "statements": [
            {"effect": "Deny", "action": ["storage:read"], "resource": [
                f"arn:thecloud:storage:local:*:{kind}/assets/secret*" for kind in ("object", "multipart-upload")
            ]},
        ]})  # fmt: skip
        assert policy.status_code == 201, policy.text
        await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{policy.json()['id']}")
        for path, field in (("keys", "objects"), ("versions", "objects"), ("uploads", "uploads")):
            page = await get(eve, f"buckets/assets/{path}")
            assert [each["key"] for each in page[field]] == ["logs/1", "top"], path
            page = await get(eve, f"buckets/assets/{path}", delimiter="/")
            assert ([each["key"] for each in page[field]], page["common_prefixes"]) == (["top"], ["logs/"])
            await get(bob, f"buckets/assets/{path}", 404)
        page = await get(eve, "buckets/assets/keys", as_columns="true")
        assert (page["columns"]["key"], page["objects"]) == (["logs/1", "top"], [])
        assert await keys(eve) == ["top", "logs/1"] and await keys(eve, prefix="s") == []
        hidden = [each["id"] for each in (await get(ada, "buckets/assets/uploads"))["uploads"]][1]
        await get(eve, f"multipart/{hidden}/parts", 403)

    async def test_what_a_page_costs_does_not_grow_with_what_is_below_a_folder(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await versioned(ada)
        await put(ada, "assets/template")
        await cloud.value(
            "insert into objects select (jsonb_populate_record(o, jsonb_build_object('id', gen_random_uuid(), "
            "'key', 'folder-' || n % 3 || '/' || n))).* from objects o, generate_series(1, 10000) n"
        )
        await cloud.value("analyze objects")
        for path in ("keys", "versions"):
            page = await get(ada, f"buckets/assets/{path}", delimiter="/")
            assert page["common_prefixes"] == ["folder-0/", "folder-1/", "folder-2/"]
            assert [each["key"] for each in page["objects"]] == ["template"]
        [made] = (await ada.rest.get("/storage/buckets")).json()
        asked = object_lists.Asked(bucket_id=UUID(made["id"]), prefix="", delimiter="/", after="", size=1000)
        for statement in (object_lists._KEYS, object_lists._VERSIONS):
            sql, arguments = db.sql(statement, object_lists._bound(asked))
            explained = await cloud.value(f"explain (analyze, buffers, format json) {sql}", *arguments)
            whole = json.loads(explained)[0]["Plan"]
            assert whole["Shared Hit Blocks"] + whole["Shared Read Blocks"] < 150, explained
            assert "Seq Scan" not in explained
