"""Bucket policies: the language, against one judged in the plainest way; and what they do, over REST."""

import ipaddress
import json
import time
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from thecloud.v1 import storage_pb2

from server import bucket_policies
from server.auth import NOBODY, Principal
from server.bucket_access import ASKED, FURTHER, OF_VERSION, PUBLIC
from server.bucket_policies import ACTIONS, ARN, OF_OBJECTS, READS, SHOWN_WITH, Caller, compiled, parse
from server.conditions import Malformed
from server.errors import ApiError
from tests.conftest import Cloud, Person
from tests.services.test_storage import bucket, keys, put, text
from tests.test_access import like
from tests.test_every_method import METHODS, call, rule, storage, valid

Json = dict[str, Any]
DENIED = grpc.StatusCode.PERMISSION_DENIED
USERS, TENANTS = [str(uuid4()) for _ in range(2)], [str(uuid4()) for _ in range(2)]


def statement(effect: str, action: Any, resource: Any, principal: Any, **more: Any) -> Json:
    resources = resource if isinstance(resource, list) else [resource]
    return {
        "Effect": effect, "Action": action, "Resource": [ARN + each for each in resources],
        "Principal": principal if principal == "*" else {"AWS": principal}, **more,
    }  # fmt: skip


def allow(action: Any, resource: Any, *, principal: Any = "*", **more: Any) -> Json:
    return statement("Allow", action, resource, principal, **more)


def deny(action: Any, resource: Any, *, principal: Any = "*", **more: Any) -> Json:
    return statement("Deny", action, resource, principal, **more)


def policy(*statements: Json) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


async def set_policy(person: Person, *statements: Json, name: str = "assets") -> None:
    reply = await person.rest.put(f"/storage/buckets/{name}/policy", json={"policy": policy(*statements)})
    assert reply.status_code == 200, reply.text


class TestTheLanguage:
    actions = st.sampled_from(["s3:*", "*", "s3:Get*", "s3:getobject", "s3:GetObject*", "s3:PutObject", "s3:*Object",
                               "s3:ListBucket", "s3:Delete*", "s3:List*"])  # fmt: skip
    resources = st.sampled_from(["assets", "assets/*", "assets/a", "assets/docs/*", "assets/*/a", "assets/*.txt"])
    principals = st.sampled_from(["*", *USERS, *TENANTS, f"arn:aws:iam::{TENANTS[0]}:root",
                                  f"arn:aws:iam::{TENANTS[0]}:user/{USERS[0]}",
                                  f"arn:thecloud:iam:local:{TENANTS[1]}:user/{USERS[0]}"])  # fmt: skip
    conditions = st.sampled_from([
        {}, {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, {"NotIpAddress": {"AWS:sourceip": ["192.0.2.0/24"]}},
        {"StringLike": {"aws:username": "ada@*"}}, {"StringNotEquals": {"aws:username": ["ada@x", "bob@x"]}},
    ])  # fmt: skip
    statements = st.builds(
        statement, st.sampled_from(["Allow", "Deny"]), st.lists(actions, min_size=1, max_size=2),
        st.lists(resources, max_size=2).map(lambda some: ["assets", "assets/none", *some]),
        st.lists(principals, min_size=1, max_size=2), Condition=conditions,
    )  # fmt: skip

    @settings(max_examples=400)
    @given(
        made=st.lists(statements, min_size=1, max_size=4), user=st.sampled_from([None, *USERS]),
        tenant=st.sampled_from([None, *TENANTS]), action=st.sampled_from(sorted(ACTIONS.values())),
        key=st.sampled_from(["a", "docs/a", "docs/b.txt", "*", "", "none", "a\n"]),
        address=st.sampled_from(["192.0.2.7", "198.51.100.7"]), name=st.sampled_from(["ada@x", "eve@x"]),
    )  # fmt: skip
    def test_it_is_what_the_plainest_judge_says(
        self, made: list[Json], user: str | None, tenant: str | None, action: str, key: str, address: str, name: str
    ) -> None:
        context = {"aws:SourceIp": address, "aws:Username": name}
        caller = Caller.of(UUID(user) if user else None, UUID(tenant) if tenant and user else None, lambda: context)
        judged = parse(policy(*made), "assets")
        on = bucket_policies.resource("assets", action, key)
        assert on == (f"{ARN}assets/{key}" if action in OF_OBJECTS else f"{ARN}assets")
        about = [each for each in made if plainly(each, action, on, user, tenant, context)]
        assert judged.allows(caller, action, on) == any(each["Effect"] == "Allow" for each in about)
        assert bool(judged.denying(caller, action, on)) == any(each["Effect"] == "Deny" for each in about)

    @settings(max_examples=400)
    @given(data=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | principals | actions,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
            ["Version", "Statement", "Effect", "Principal", "AWS", "Action", "Resource", "Condition", "Sid", "x"]
        ), inner, max_size=5),
    ), part=st.sampled_from(["Statement", "Effect", "Principal", "Action", "Resource", "Condition", "Sid"])
    )  # fmt: skip
    def test_anything_else_is_refused_and_nothing_breaks(self, data: Any, part: str) -> None:
        made = allow("s3:GetObject", "assets/*") | {part: data}
        document = {"Version": "2012-10-17", "Statement": data if part == "Statement" else [made]}
        for candidate in (json.dumps(data), json.dumps(document)):
            try:
                parse(candidate, "assets")
            except Malformed as malformed:
                assert malformed.message

    @pytest.mark.parametrize(("text", "said"), [
        ("", "not JSON"), ("{", "not JSON"), ("[" * 5000, "not JSON"), ("[]", "an object"), ('{"Version": 1}', "lacks"),
        ('{"Version": "2020-01-01", "Statement": []}', "2012-10-17"),
        ('{"Version": "2012-10-17", "Statement": []}', "1 to 50"),
        ('{"Version": "2012-10-17", "Statement": [1]}', "an object"),
        (policy(*[allow("s3:GetObject", "assets/*")] * 51), "1 to 50"),
        (policy(allow("s3:GetObject", "assets/*") | {"NotAction": "a"}), "NotAction: this is not supported"),
        (policy(allow("s3:GetObject", "assets/*") | {"NotPrincipal": "*"}), "say with Principal"),
        (policy(allow("s3:GetObject", "assets/*") | {"NotResource": "*"}), "not supported"),
        (policy(allow("s3:GetObject", "assets/*") | {"Effect": "allow"}), "Allow or Deny"),
        (policy(allow("s3:GetObject", "assets/*") | {"More": 1}), "no element"),
        (policy(allow("s3:GetObject", "assets/*") | {"Sid": 1}), "at most 100"),
        (policy(*[allow("s3:GetObject", "assets/*", Sid="a")] * 2), "two statements"),
        (policy(allow("s3:GetObject", "other/*")), "not of this bucket"),
        (policy(allow("s3:GetObject", "assets*")), "not of this bucket"),
        (policy(allow("s3:GetObject", "*")), "not of this bucket"),
        (policy(allow("s3:GetObject", "assets/*") | {"Resource": "*"}), "not of this bucket"),
        (policy(allow("s3:GetObject", "assets")), "about objects"),
        (policy(allow("s3:ListBucket", "assets/*")), "about arn:aws:s3:::assets"),
        (policy(allow("s3:Nothing", "assets/*")), "no action"), (policy(allow("ec2:*", "assets/*")), "no action"),
        (policy(allow("s3:GetObjec", "assets/*")), "s3:GetObject"),
        (policy(allow("s3:PutBucketPolicy", "assets")), "storage_policy:update"),
        (policy(deny("s3:GetBucketLocation", "assets")), "deny s3:ListBucket"),
        (policy(deny(["s3:GetObject", "s3:GetObjectA*"], "assets/*")), "deny s3:GetObject"),
        (policy(allow([], "assets/*")), "1 to 100"), (policy(allow(["s3:*"] * 101, "assets/*")), "1 to 100"),
        (policy(allow(7, "assets/*")), "a text"), (policy(allow("s3:" + "*a" * 9, "assets/*")), "8 asterisks"),
        (policy(allow("s3:GetObject", "assets/" + "*a" * 9)), "8 asterisks"),
        (policy(allow("s3:GetObject", "assets/" + "a" * 600)), "1 to 512"),
        (policy(allow("s3:GetObject", "assets/?")), "wildcard ?"),
        (policy(allow("s3:GetObject", "assets/${aws:username}/*")), "variables"),
        (policy(allow("s3:GetObject", "assets/*", principal="eve")), "nobody"),
        (policy(allow("s3:GetObject", "assets/*", principal="arn:aws:iam::1:root")), "nobody"),
        (policy(allow("s3:GetObject", "assets/*", principal=f"{USERS[0]}*")), "nobody"),
        (policy(allow("s3:GetObject", "assets/*") | {"Principal": {"Service": "a"}}), '"AWS"'),
        (policy(allow("s3:GetObject", "assets/*") | {"Principal": "eve"}), '"AWS"'),
        (policy(allow("s3:GetObject", "assets/*", Condition={"Bool": {"aws:SecureTransport": "a"}})), "no condition"),
        (policy(allow("s3:GetObject", "assets/*", Condition={"ForAnyValue:StringLike": {}})), "no operator"),
        (policy(allow("s3:GetObject", "assets/*", Condition={"IpAddress": {"aws:SourceIp": "a"}})), "ranges"),
        (policy(allow("s3:GetObject", "assets/*", Condition={"StringLike": {"aws:username": "a?"}})), "wildcard ?"),
        (policy(allow("s3:GetObject", "assets/*", Condition={"StringEquals": {"aws:username": "${a}"}})), "variables"),
        (policy(allow("s3:GetObject", "assets/*", Condition=[])), "operator"),
        (policy(allow("s3:GetObject", "assets/*", Condition={"StringEquals": []})), "key"),
    ])  # fmt: skip
    def test_what_cannot_be_judged_is_refused_with_a_reason(self, text: str, said: str) -> None:
        with pytest.raises(Malformed) as refused:
            parse(text, "assets")
        assert said in f"{refused.value.path}: {refused.value.message}"

    def test_one_statement_needs_no_list(self) -> None:
        one = allow("s3:GetObject", "assets/*") | {"Resource": f"{ARN}assets/*"}
        judged = parse(json.dumps({"Version": "2008-10-17", "Id": "x", "Statement": one}), "assets")
        assert judged.allows(Caller.of(None, None, dict), "s3:GetObject", f"{ARN}assets/a")

    def test_no_policy_takes_long(self) -> None:
        pattern = "assets/" + "*a" * 7 + "*b"
        judged = parse(policy(*[deny("s3:*", [f"{pattern}{number}" for number in range(25)])] * 20), "assets")
        began = time.perf_counter()
        assert judged.denying(Caller.of(None, None, dict), "s3:GetObject", f"{ARN}assets/" + "a" * 1024) is None
        assert time.perf_counter() - began < 1

    def test_one_that_is_not_understood_any_more_denies_everything(self) -> None:
        judged = compiled('{"Version": "2012-10-17", "Statement": "what was"}', "assets")
        for action in ACTIONS.values():
            on = bucket_policies.resource("assets", action, "a")
            assert judged.denying(Caller.of(None, None, dict), action, on)
            assert not judged.allows(Caller.of(None, None, dict), action, on)

    def test_what_requests_ask_for_is_what_policies_speak_of(self) -> None:
        asked = {action for actions in ASKED.values() for action in actions}
        asked |= {action for fields in FURTHER.values() for action in fields.values()}
        asked |= {"s3:GetBucketTagging", "s3:GetBucketCORS", "s3:GetBucketPolicy", "s3:GetObjectTagging",
                  "s3:DeleteObjectTagging"}  # fmt: skip
        asked |= {OF_VERSION[action] for action in asked & {*OF_VERSION}} | {*SHOWN_WITH}
        assert asked == {*ACTIONS.values()}
        assert PUBLIC <= READS
        assert {*ASKED} <= {method.name for method in METHODS}


def plainly(made: Json, action: str, on: str, user: str | None, tenant: str | None, context: dict[str, str]) -> bool:
    """Whether a statement is about this, tried out word by word."""
    principals = ["*"] if made["Principal"] == "*" else made["Principal"]["AWS"]
    tenant = tenant if user else None
    named = {"*"}
    if user:
        named |= {user}
    if user and tenant:
        named |= {tenant, f"arn:aws:iam::{tenant}:root", f"arn:aws:iam::{tenant}:user/{user}",
                  f"arn:thecloud:iam:local:{tenant}:user/{user}"}  # fmt: skip
    if not any(each in named for each in principals):
        return False
    if not any(like(each.lower(), action.lower()) for each in made["Action"]):
        return False
    if not any(like(each, on) for each in made["Resource"]):
        return False
    for operator, pairs in made["Condition"].items():
        [value] = pairs.values()
        values = value if isinstance(value, list) else [value]
        inside = any(ipaddress.ip_address(context["aws:SourceIp"]) in ipaddress.ip_network(each) for each in values
                     if operator.endswith("IpAddress"))  # fmt: skip
        holds = {"IpAddress": inside, "NotIpAddress": not inside,
                 "StringLike": any(like(each, context["aws:Username"]) for each in values),
                 "StringNotEquals": context["aws:Username"] not in values}[operator]  # fmt: skip
        if not holds:
            return False
    return True


class TestWhatTheyDo:
    async def test_one_is_set_seen_and_taken_away(self, ada: Person) -> None:
        await bucket(ada)
        made = policy(deny("s3:GetObject", "assets/a"))
        reply = await ada.rest.put("/storage/buckets/assets/policy", json={"policy": made})
        assert (reply.status_code, reply.json()["policy"]) == (200, made)
        assert (await ada.rest.get("/storage/buckets/assets")).json()["policy"] == made
        assert (await ada.rest.delete("/storage/buckets/assets/policy")).status_code == 204
        assert (await ada.rest.get("/storage/buckets/assets")).json()["policy"] == ""

    async def test_one_that_is_none_is_refused_and_the_one_before_stays(self, ada: Person) -> None:
        await bucket(ada)
        await set_policy(ada, deny("s3:GetObject", "assets/a"))
        before = (await ada.rest.get("/storage/buckets/assets")).json()["policy"]
        for wrong in ("{}", "", "\0\0", policy(allow("s3:Nothing", "assets")), "x" * 20481):
            reply = await ada.rest.put("/storage/buckets/assets/policy", json={"policy": wrong})
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "INVALID_INPUT"), reply.text
        assert (await ada.rest.get("/storage/buckets/assets")).json()["policy"] == before

    async def test_a_refusal_says_that_it_is_the_policy(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        method = cloud.pipeline.method("/thecloud.v1.BucketSettingsService/SetBucketPolicy")
        request = method.request(bucket="assets", policy="{}")
        with pytest.raises(ApiError) as refused:
            await cloud.pipeline.unary(method, request, {"x-api-key": ada.key}, "127.0.0.1", {})
        assert refused.value.metadata == {"field": "policy", "problem": "policy"}

    async def test_a_deny_holds_for_everybody_at_once_and_its_lifting_too(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/secret/a")
        await put(ada, "assets/b")
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="member")
        await set_policy(ada, deny("s3:*", ["assets/secret/*"]))
        for person in (ada, eve):
            assert [await text(person, "assets/secret/a"), await text(person, "assets/b")] == ["403", "hello"]
            assert (await person.rest.put("/storage/assets/secret/a", content=b"x")).status_code == 403
            assert (await person.rest.delete("/storage/assets/secret/a")).status_code == 403
            assert (await person.rest.post("/storage/multipart/init/assets/secret/a")).status_code == 403
            assert sorted(await keys(person)) == ["b", "secret/a"]
        assert len(cloud.objects.blobs) == 2
        assert (await eve.rest.delete("/storage/buckets/assets/policy")).status_code == 403
        assert (await ada.rest.delete("/storage/buckets/assets/policy")).status_code == 204
        assert [await text(person, "assets/secret/a") for person in (ada, eve)] == ["hello", "hello"]

    async def test_who_may_change_it_is_never_locked_out(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await set_policy(ada, deny("s3:*", ["assets", "assets/*"]))
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="member")
        assert (await eve.rest.get("/storage/buckets/assets")).status_code == 403
        assert (await ada.rest.get("/storage/assets")).status_code == 403
        assert (await ada.rest.get("/storage/buckets/assets")).json()["policy"]
        await set_policy(ada, deny("s3:ListBucket", "assets", principal=str(uuid4())))
        assert (await eve.rest.get("/storage/buckets/assets")).status_code == 200

    async def test_a_denial_is_explained(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        await set_policy(ada, deny("s3:GetObject", "assets/*", Sid="no-reading"))
        reply = await ada.rest.get("/storage/assets/a", headers={"x-request-id": "the-denied-one"})
        assert reply.status_code == 403
        assert "no-reading of the policy of bucket assets" in reply.json()["error"]["message"]
        explained = (await ada.rest.get("/iam/explain/the-denied-one")).json()
        assert "no-reading" in json.dumps(explained)

    async def test_a_viewer_of_the_tenant_may_be_allowed_to_write(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        joe = await cloud.person("joe", tenant_id=ada.tenant_id, role="viewer")
        assert (await eve.rest.put("/storage/assets/in/a", content=b"x")).status_code == 403
        await set_policy(ada, allow(["s3:PutObject", "s3:AbortMultipartUpload"], "assets/in/*",
                                    principal=str(eve.user_id)))  # fmt: skip
        assert (await eve.rest.put("/storage/assets/in/a", content=b"x")).status_code == 201
        upload = (await eve.rest.post("/storage/multipart/init/assets/in/b")).json()["id"]
        part = await eve.rest.put(f"/storage/multipart/upload/{upload}/parts?part=1", content=b"x")
        assert part.status_code == 200, part.text
        assert (await joe.rest.post(f"/storage/multipart/complete/{upload}")).status_code == 403
        assert (await eve.rest.post(f"/storage/multipart/complete/{upload}")).status_code == 200
        other = (await eve.rest.post("/storage/multipart/init/assets/in/c")).json()["id"]
        assert (await joe.rest.delete(f"/storage/multipart/abort/{other}")).status_code == 403
        assert (await eve.rest.delete(f"/storage/multipart/abort/{other}")).status_code == 204
        assert (await eve.rest.put("/storage/assets/out/a", content=b"x")).status_code == 403
        assert (await eve.rest.delete("/storage/assets/in/a")).status_code == 403
        assert (await joe.rest.put("/storage/assets/in/a", content=b"x")).status_code == 403
        assert (await eve.rest.patch("/storage/buckets/assets", json={"is_public": True})).status_code == 403
        await ada.rest.delete("/storage/buckets/assets/policy")
        assert (await eve.rest.put("/storage/assets/in/a", content=b"x")).status_code == 403

    async def test_it_gives_nothing_that_the_callers_own_policies_deny(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        await set_policy(ada, allow(["s3:GetObject", "s3:PutObject"], "assets/*", principal=str(ada.tenant_id)))
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        body = {"name": "no", "statements": [
            {"effect": "Deny", "action": ["storage:*"], "resource": ["object:assets/*"]}
        ]}  # fmt: skip
        made = (await ada.rest.post("/iam/policies", json=body)).json()
        assert (await eve.rest.put("/storage/assets/b", content=b"x")).status_code == 201
        await ada.rest.post(f"/iam/users/{eve.user_id}/policies/{made['id']}")
        assert (await eve.rest.put("/storage/assets/b", content=b"x")).status_code == 403
        assert await text(eve, "assets/a") == "403"

    async def test_a_key_with_a_policy_of_its_own_opens_no_more(self, ada: Person) -> None:
        await bucket(ada, is_public=True)
        await put(ada, "assets/a")
        await set_policy(ada, allow("s3:GetObject", "assets/*"))
        narrow = {"statements": [{"effect": "Allow", "action": ["instance:read"], "resource": ["*"]}]}
        key = (await ada.rest.post("/auth/keys", json={"name": "narrow", "policy": narrow})).json()["key"]
        reply = await ada.rest.get("/storage/assets/a", headers={"x-api-key": key})
        assert reply.status_code == 403

    async def test_other_tenants_may_be_allowed_to_read_and_it_is_revoked_at_once(
        self, cloud: Cloud, ada: Person, bob: Person
    ) -> None:
        await bucket(ada)
        await put(ada, "assets/shared/a")
        await put(ada, "assets/b")
        joe = await cloud.person("joe")
        await set_policy(
            ada, allow("s3:GetObject", "assets/shared/*", principal=str(bob.tenant_id)),
            allow("s3:ListBucket", "assets", principal=[str(bob.user_id)]),
        )  # fmt: skip
        assert [await text(bob, "assets/shared/a"), await text(bob, "assets/b")] == ["hello", "404"]
        assert sorted(await keys(bob)) == ["b", "shared/a"]
        shown = (await bob.rest.get("/storage/buckets/assets")).json()
        assert (shown["bucket"]["name"], shown["policy"]) == ("assets", "")
        assert (await bob.rest.put("/storage/assets/shared/a", content=b"x")).status_code == 404
        assert (await bob.rest.get("/storage/buckets")).json() == []
        assert [await text(joe, "assets/shared/a"), (await joe.rest.get("/storage/assets")).status_code] == ["404", 404]
        await ada.rest.delete("/storage/buckets/assets/policy")
        assert [await text(bob, "assets/shared/a"), (await bob.rest.get("/storage/assets")).status_code] == ["404", 404]

    async def test_who_has_no_tenant_may_be_let_in(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        eve = await cloud.person("eve")
        await cloud.value("delete from members where user_id = $1", eve.user_id)
        await cloud.value("update users set default_tenant_id = null where id = $1", eve.user_id)
        assert await text(eve, "assets/a") == "400"
        await set_policy(ada, allow("s3:GetObject", "assets/*"), allow("s3:ListBucket", "assets"))
        assert await text(eve, "assets/a") == "hello"
        assert await keys(eve) == ["a"]
        assert (await eve.rest.put("/storage/assets/a", content=b"x")).status_code == 400
        assert (await eve.rest.post("/storage/presign/assets/a", json={})).status_code == 400
        assert await text(ada, "assets/a") == "hello"

    async def test_a_deny_holds_for_others_of_a_public_bucket(self, ada: Person, bob: Person) -> None:
        await bucket(ada, is_public=True)
        await put(ada, "assets/a")
        await set_policy(ada, deny("s3:GetObject", "assets/*", principal=str(bob.user_id)))
        assert [await text(bob, "assets/a"), await text(ada, "assets/a")] == ["404", "hello"]
        assert await keys(bob) == ["a"]

    async def test_a_condition_is_judged(self, ada: Person, bob: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        for networks, seen in (("127.0.0.0/8", "hello"), ("192.0.2.0/24", "404")):
            await set_policy(
                ada, allow("s3:GetObject", "assets/*", Condition={"IpAddress": {"aws:SourceIp": networks}})
            )
            assert await text(bob, "assets/a") == seen

    async def test_others_are_allowed_nothing_but_to_read(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        for action in ("s3:PutObject", "s3:*", ["s3:GetObject", "s3:DeleteObject"]):
            for principal in ("*", str(bob.user_id), str(bob.tenant_id), f"arn:aws:iam::{bob.tenant_id}:root",
                              [str(eve.user_id), str(uuid4())]):  # fmt: skip
                made = policy(allow(action, ["assets", "assets/*"], principal=principal))
                reply = await ada.rest.put("/storage/buckets/assets/policy", json={"policy": made})
                assert reply.status_code == 400, (action, principal)
                assert "can only be allowed to read" in reply.json()["error"]["message"]
            for principal in (str(ada.tenant_id), str(eve.user_id), f"arn:aws:iam::{ada.tenant_id}:user/{uuid4()}"):
                await set_policy(ada, allow(action, ["assets", "assets/*"], principal=principal))
        await set_policy(ada, deny("s3:*", ["assets", "assets/*"], principal="*"))

    async def test_a_member_who_has_left_keeps_nothing_but_reading(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        await set_policy(ada, allow("s3:*", ["assets", "assets/*"], principal=str(eve.user_id)))
        assert (await eve.rest.put("/storage/assets/b", content=b"x")).status_code == 201
        await cloud.value("delete from members where user_id = $1", eve.user_id)
        await cloud.value("update users set default_tenant_id = null where id = $1", eve.user_id)
        cloud.app.keys.drop("*")
        assert await text(eve, "assets/a") == "hello"
        assert (await eve.rest.put("/storage/assets/b", content=b"y")).status_code == 400
        assert await text(ada, "assets/b") == "x"

    async def test_settings_are_shown_as_the_policy_says(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await ada.rest.patch("/storage/buckets/assets", json={"tags": {"tags": {"a": "b"}}})
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="member")
        await set_policy(ada, deny(["s3:GetBucketPolicy", "s3:PutBucketAcl"], "assets"))
        shown = (await eve.rest.get("/storage/buckets/assets")).json()
        assert (shown["policy"], shown["tags"]) == ("", {"a": "b"})
        assert (await eve.rest.patch("/storage/buckets/assets", json={"is_public": True})).status_code == 403
        kept = await eve.rest.patch("/storage/buckets/assets", json={"tags": {"tags": {"a": "c"}}})
        assert (kept.status_code, kept.json()["policy"], kept.json()["tags"]) == (200, "", {"a": "c"})

    async def test_of_many_objects_those_go_that_may(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        for key in ("in/a", "in/b", "out/a"):
            await put(ada, f"assets/{key}")
        eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
        body = {"objects": [{"key": "in/a"}, {"key": "in/b"}, {"key": "out/a"}]}
        assert (await eve.rest.post("/storage/buckets/assets/delete", json=body)).status_code == 403
        await set_policy(ada, allow("s3:DeleteObject", "assets/in/*", principal=str(eve.user_id)),
                         deny("s3:DeleteObject", "assets/in/b"))  # fmt: skip
        answer = (await eve.rest.post("/storage/buckets/assets/delete", json=body)).json()
        assert [each["key"] for each in answer["deleted"]] == ["in/a"]
        assert [(each["key"], each["reason"]) for each in answer["errors"]] == [
            ("in/b", "PERMISSION_DENIED"), ("out/a", "PERMISSION_DENIED")
        ]  # fmt: skip
        assert await keys(ada) == ["out/a", "in/b"]

    async def test_what_is_copied_has_to_be_readable(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        await bucket(bob, "bobs")
        copy = {"key": "b", "source_bucket": "assets", "source_key": "a"}
        for principal, status in ((str(uuid4()), 404), (str(bob.tenant_id), 200)):
            await set_policy(ada, allow("s3:GetObject", "assets/*", principal=principal))
            assert (await bob.rest.post("/storage/buckets/bobs/copy", json=copy)).status_code == status
        await set_policy(ada, deny("s3:GetObject", "assets/*", principal=str(ada.user_id)))
        copied = await ada.rest.post("/storage/buckets/assets/copy", json=copy)
        assert (copied.status_code, copied.json()["error"]["code"]) == (403, "FORBIDDEN")

    async def test_a_public_object_in_a_private_bucket(self, cloud: Cloud, ada: Person, bob: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/a")
        await put(ada, "assets/b")
        await ada.rest.put("/storage/buckets/assets/tags", json={"key": "a", "tags": {"tags": {"a": "b"}}})
        await ada.rest.put("/storage/buckets/assets/access", json={"key": "a", "is_public": True})
        assert [await text(bob, f"assets/{key}") for key in "ab"] == ["hello", "404"]
        shown = [(await each.rest.get("/storage/buckets/assets/object?key=a")).json() for each in (ada, bob)]
        assert [each.get("tags") for each in shown] == [{"tags": {"a": "b"}}, None]
        anonymous = TestWithoutAKey()
        assert (await anonymous.ask(cloud, "StorageService/DownloadObject", bucket="assets", key="a")).data == b"hello"
        for key in ("b", "none"):
            with pytest.raises(ApiError) as refused:
                await anonymous.ask(cloud, "StorageService/DownloadObject", bucket="assets", key=key)
            assert refused.value.reason == "PERMISSION_DENIED"
        await set_policy(ada, deny("s3:GetObject", "assets/a", principal=str(bob.user_id)))
        assert await text(bob, "assets/a") == "404"

    async def test_lists_with_folders_show_what_the_policy_lets_be_listed(self, ada: Person, bob: Person) -> None:
        await bucket(ada)
        await put(ada, "assets/docs/a")
        path = "/storage/buckets/assets/keys?delimiter=/"
        assert (await bob.rest.get(path)).status_code == 404
        await set_policy(ada, allow("s3:ListBucket", "assets", principal=str(bob.user_id)))
        assert (await bob.rest.get(path)).json()["common_prefixes"] == ["docs/"]

    async def test_setting_tags_is_not_storing(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada)
        await set_policy(ada, deny("s3:PutObjectTagging", "assets/*"))
        method = cloud.pipeline.method("/thecloud.v1.StorageService/UploadObject")

        async def upload(**fields: Any) -> Any:
            async def one() -> Any:
                yield storage_pb2.UploadObjectRequest(bucket="assets", key="a", data=b"x", **fields)

            return await anext(cloud.pipeline.stream(method, one(), {"x-api-key": ada.key}, "127.0.0.1", {}))

        assert (await upload()).size_bytes == 1
        with pytest.raises(ApiError, match="s3:PutObjectTagging is denied"):
            await upload(tags=storage_pb2.Tags(tags={"a": "b"}))


async def nobody() -> Principal:
    return NOBODY


class TestWithoutAKey:
    async def ask(self, cloud: Cloud, path: str, **fields: Any) -> Any:
        method = cloud.pipeline.method(f"/thecloud.v1.{path}")
        request = method.request(**fields)
        if method.descriptor.server_streaming or method.takes:

            async def one() -> Any:
                yield request

            return await anext(cloud.pipeline.stream(method, one(), {}, "192.0.2.1", {}, nobody))
        return await cloud.pipeline.unary(method, request, {}, "192.0.2.1", {}, identity=nobody)

    async def reads(self, cloud: Cloud) -> list[bool]:
        """Whether it may list, download, and see the bucket."""
        found = []
        for path, fields in (
            ("StorageService/ListObjects", {}), ("StorageService/DownloadObject", {"key": "a"}),
            ("BucketSettingsService/GetBucket", {}),
        ):  # fmt: skip
            try:
                await self.ask(cloud, path, bucket="assets", **fields)
                found.append(True)
            except ApiError as error:
                assert error.reason == "PERMISSION_DENIED"
                found.append(False)
        return found

    async def test_what_is_public_is_read_and_nothing_else(self, cloud: Cloud, ada: Person) -> None:
        assert await self.reads(cloud) == [False] * 3  # whether there is such a bucket or not
        await bucket(ada)
        await put(ada, "assets/a")
        assert await self.reads(cloud) == [False] * 3
        await ada.rest.patch("/storage/buckets/assets", json={"is_public": True})
        assert await self.reads(cloud) == [True] * 3
        [shown] = (await self.ask(cloud, "StorageService/ListObjects", bucket="assets")).objects
        assert shown.key == "a"
        await ada.rest.patch("/storage/buckets/assets", json={"is_public": False})
        await set_policy(ada, allow("s3:GetObject", "assets/*"))
        assert await self.reads(cloud) == [False, True, False]
        await set_policy(ada, allow("s3:GetObject", "assets/*", principal=str(UUID(int=0))))
        assert await self.reads(cloud) == [False] * 3
        condition = {"Null": {"aws:userid": "true"}}
        await set_policy(ada, allow("s3:GetObject", "assets/*", Condition=condition))
        assert await self.reads(cloud) == [False, True, False]

    async def test_nothing_is_written_or_made(self, cloud: Cloud, ada: Person) -> None:
        await bucket(ada, is_public=True)
        await set_policy(ada, allow("s3:Get*", ["assets", "assets/*"]), allow("s3:List*", ["assets", "assets/*"]))
        before = await cloud.value("select count(*) from audit_log")
        for method in METHODS:
            if rule(method).anyone or (rule(method).permission == "storage:read" and not rule(method).audit):
                continue
            path = f"{method.containing_service.name}/{method.name}"
            fields = {each.name: value for each, value in valid(method, bucket="assets", id=str(uuid4())).ListFields()}
            with pytest.raises(ApiError) as refused:
                await self.ask(cloud, path, **fields)
            expected = "NOT_FOUND" if rule(method).tenant_field else "PERMISSION_DENIED"
            assert refused.value.reason == expected, method.name
        assert await cloud.value("select count(*) from audit_log") == before
        assert cloud.objects.blobs == {}


OF_BUCKETS = [
    method for method in METHODS
    if rule(method).permission.startswith("storage:") and method.name not in ("ListBuckets", "CreateBucket")
]  # fmt: skip


async def test_every_method_obeys_the_policy_of_the_bucket(cloud: Cloud, ada: Person) -> None:
    ids = await storage(ada)
    await put(ada, "some-bucket/some-key")
    eve = await cloud.person("eve", tenant_id=ada.tenant_id, role="member")

    async def statuses(*methods: MethodDescriptor) -> dict[str, grpc.StatusCode]:
        found = {}
        for method in methods:
            id = ids.get(rule(method).target.partition("/")[0], str(uuid4()))
            found[method.name] = await call(cloud, method, valid(method, id=id).SerializeToString(), eve.metadata)
        return found

    everything = ["some-bucket", "some-bucket/*"]
    await set_policy(ada, deny("s3:*", everything, principal=str(eve.user_id)), name="some-bucket")
    told_of_each = {"DeleteObjects": grpc.StatusCode.OK}
    assert await statuses(*OF_BUCKETS) == {method.name: DENIED for method in OF_BUCKETS} | told_of_each
    assert await text(ada, "some-bucket/some-key") == "hello"
    await set_policy(ada, deny("s3:*", everything, principal=str(uuid4())), name="some-bucket")
    found = await statuses(*OF_BUCKETS)
    assert {name for name, status in found.items() if status in (DENIED, grpc.StatusCode.INTERNAL)} == set()
