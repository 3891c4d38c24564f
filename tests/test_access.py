"""The evaluator, against one written in the plainest way: every statement one by one, nothing gathered."""

import ipaddress
import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.access import ROLES, Access, Policy, allows, check, permissions, resolve
from server.conditions import OPERATORS
from server.resources import Resource
from server.wildcards import matcher

EXAMPLES = settings(max_examples=400, deadline=None)
PERMISSIONS = ["instance:read", "instance:launch", "instance:update", "iam:read", "storage:read", "storage:write"]
IDS = [str(uuid4()) for _ in range(3)]
TENANTS = ["11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"]
NAMES = ["web", "web-1", "db", "a*"]
KINDS = ["instance", "nat_gateway"]
CONTEXT = {
    "aws:SourceIp": "192.0.2.7", "aws:UserId": "u", "aws:Username": "ada@example.com",
    "aws:CurrentTime": "2026-01-05T23:00:00+00:00", "thecloud:UserAgent": "tests/1",
}  # fmt: skip

# The reference


def like(pattern: str, text: str) -> bool:
    """Whether the text is what the pattern says: tried out, star by star."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return like(pattern[1:], text) or (bool(text) and like(pattern, text[1:]))
    return bool(text) and pattern[0] == text[0] and like(pattern[1:], text[1:])


def means(action: str, permission: str) -> bool:
    area, _, verb = permission.partition(":")
    names = {permission}
    if verb == "read":
        names |= {f"{area}:{alias}" for alias in ("list", "get", "describe")}
    has_update = f"{area}:update" in permissions()
    if verb == "update" or (verb == "write" and not has_update):
        names.add(f"{area}:put")
    if verb == "write" and not has_update:
        names.add(f"{area}:update")
    return any(like(action, name) for name in names)


def about(pattern: str, resource: Resource) -> bool:
    kind, dashed = resource.kind, resource.kind.replace("_", "-")
    references = [each for each in (resource.id, resource.name) if each]
    if pattern.strip("*") == "" or pattern == "arn:thecloud:*":
        return True
    if pattern.startswith("arn:"):
        _, _, _, _, tenant, last = pattern.split(":", 5)
        fits = tenant == "tenant" or like(tenant, resource.tenant)
        return fits and any(like(last, f"{dashed}/{each}") for each in references or ["*"])
    if ":" in pattern:
        return any(like(pattern, f"{kind}:{each}") for each in references or ["*"])
    return any(like(pattern, each) for each in references)


def holds(condition: dict[str, Any], context: dict[str, str]) -> bool:
    return all(
        one(operator, value, context.get(key)) for operator, pairs in condition.items() for key, value in pairs.items()
    )


def one(operator: str, value: Any, text: str | None) -> bool:
    values = value if isinstance(value, list) else [value]
    if operator == "IpAddress":
        try:
            return text is not None and any(ipaddress.ip_address(text) in ipaddress.ip_network(each) for each in values)
        except ValueError:
            return False
    if operator == "StringEquals":
        return text in values
    if operator == "StringLike":
        return text is not None and any(like(each, text) for each in values)
    if operator in ("NotIpAddress", "StringNotEquals", "StringNotLike"):
        positive = {"NotIpAddress": "IpAddress", "StringNotEquals": "StringEquals", "StringNotLike": "StringLike"}
        return not one(positive[operator], value, text)
    if operator == "Null":
        return (text is None) == (value == "true")
    if operator == "Bool":
        return text == str(value).lower()
    moment = datetime.fromisoformat(text) if text else None
    wanted = datetime.fromisoformat(value)
    return moment is not None and {
        "DateGreaterThan": moment > wanted, "DateLessThan": moment < wanted, "DateEquals": moment == wanted
    }[operator]  # fmt: skip


def reference(
    policies: list[list[dict[str, Any]]], key: list[dict[str, Any]] | None, permission: str, resource: Resource,
    context: dict[str, str], default: bool,
) -> bool:  # fmt: skip
    def matching(effect: str, statements: list[dict[str, Any]]) -> bool:
        return any(
            statement["effect"] == effect
            and any(means(action, permission) for action in statement["action"])
            and any(about(pattern, resource) for pattern in statement["resource"])
            and holds(statement.get("condition") or {}, context)
            for statement in statements
        )

    everything = [statement for policy in policies for statement in policy]
    if matching("Deny", everything + (key or [])):
        return False
    return (default or matching("Allow", everything)) and (key is None or matching("Allow", key))


# What it is compared on

actions = st.sampled_from([*PERMISSIONS, "*", "instance:*", "*:read", "storage:list", "storage:l*", "instance:get",
                           "instance:put", "storage:update", "i*:*n*", "*a*:r*"])  # fmt: skip
resources = st.sampled_from([
    "*", "**", *IDS, *NAMES, "web*", "*b*", "i*", *(f"instance:{name}" for name in NAMES), f"instance:{IDS[0]}",
    "instance:*", "instance:w*", "*:*", "nat_gateway:*", "nat_gateway:web", "arn:thecloud:*",
    f"arn:thecloud:compute:local:{TENANTS[0]}:instance/{IDS[0]}", f"arn:thecloud:compute:local:{TENANTS[1]}:instance/*",
    "arn:thecloud:compute:local:tenant:instance/web", "arn:thecloud:*:*:*:nat-gateway/*", "arn:thecloud:x:y:1*:*",
    "arn:thecloud:compute:local:*:instance/w*1",
])  # fmt: skip
conditions = st.dictionaries(st.just("IpAddress"), st.just({"aws:SourceIp": "192.0.2.0/24"})) | st.sampled_from([
    {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.0.2.7/32"]}}, {"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}},
    {"StringEquals": {"aws:UserId": "u"}}, {"StringNotEquals": {"aws:UserId": ["u", "v"]}},
    {"StringLike": {"aws:Username": "ada@*"}}, {"StringNotLike": {"thecloud:UserAgent": "tests/*"}},
    {"DateLessThan": {"aws:CurrentTime": "2026-01-06T00:00:00Z"}},
    {"DateGreaterThan": {"aws:CurrentTime": "2026-01-06T00:00:00Z"}},
    {"DateEquals": {"aws:CurrentTime": "2026-01-06T00:00:00+01:00"}},
    {"Null": {"thecloud:TenantId": "true"}}, {"Null": {"aws:UserId": "true"}}, {"Bool": {"aws:UserId": True}},
    {"StringEquals": {"aws:UserId": "u"}, "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}},
])  # fmt: skip
statements = st.fixed_dictionaries(
    {"effect": st.sampled_from(["Allow", "Allow", "Allow", "Deny"]),
     "action": st.lists(actions, min_size=1, max_size=3), "resource": st.lists(resources, min_size=1, max_size=3)},
    optional={"condition": conditions},
)  # fmt: skip
policies = st.lists(st.lists(statements, min_size=1, max_size=4), max_size=4)
keys = st.none() | st.lists(statements, min_size=1, max_size=3)
things = st.builds(Resource, kind=st.sampled_from(KINDS), id=st.sampled_from(["", *IDS]),
                   name=st.sampled_from(["", *NAMES[:3]]), tenant=st.sampled_from(TENANTS))  # fmt: skip
contexts = st.sampled_from([CONTEXT, {**CONTEXT, "aws:SourceIp": "10.1.2.3"}, {"aws:UserId": "v"}, {}])


def compiled(found: list[list[dict[str, Any]]], key: list[dict[str, Any]] | None, tenant: str) -> Access:
    own = Policy.compile("key", "key", key) if key else None
    return Access(tenant, [Policy.compile(str(index), f"p{index}", each) for index, each in enumerate(found)], own)


@EXAMPLES
@given(policies, keys, st.sampled_from(PERMISSIONS), things, contexts, st.booleans())
def test_it_decides_as_the_reference_does(
    found: list[list[dict[str, Any]]], key: list[dict[str, Any]] | None, permission: str, resource: Resource,
    context: dict[str, str], default: bool,
) -> None:  # fmt: skip
    expected = reference(found, key, permission, resource, context, default)
    mine = compiled(found, key, resource.tenant)
    assert mine.may(permission, resource, lambda: context, default=default) == expected
    assert expected or not mine.always(permission)
    decision = mine.explain(permission, resource, lambda: context, default=default)
    assert decision.allowed == expected
    assert decision.reason
    effects = {each.effect for each in decision.statements}
    assert effects <= ({"Allow"} if expected else {"Deny"})


@EXAMPLES
@given(policies, keys, st.sampled_from(PERMISSIONS), st.sampled_from(KINDS), contexts, st.booleans())
def test_a_list_may_be_asked_for_when_it_could_show_something(
    found: list[list[dict[str, Any]]], key: list[dict[str, Any]] | None, permission: str, kind: str,
    context: dict[str, str], default: bool,
) -> None:  # fmt: skip
    mine = compiled(found, key, TENANTS[0])
    listed = mine.may_list(permission, kind, lambda: context, default=default)
    for id in ("", *IDS):
        for name in ("", *NAMES):
            if mine.may(permission, Resource(kind, id, name, TENANTS[0]), lambda: context, default=default):
                assert listed, (id, name)


@EXAMPLES
@given(policies, keys, st.sampled_from(PERMISSIONS), things, things, contexts)
def test_what_names_no_resource_decides_the_same_for_all(
    found: list[list[dict[str, Any]]], key: list[dict[str, Any]] | None, permission: str, one: Resource,
    other: Resource, context: dict[str, str],
) -> None:  # fmt: skip
    mine = compiled(found, key, one.tenant)
    if not mine.names_resources(permission):
        assert mine.may(permission, one, lambda: context) == mine.may(permission, other, lambda: context)


@EXAMPLES
@given(policies, keys, st.sampled_from(PERMISSIONS), things, contexts)
def test_a_scoped_key_never_exceeds_its_owner(
    found: list[list[dict[str, Any]]], key: list[dict[str, Any]] | None, permission: str, resource: Resource,
    context: dict[str, str],
) -> None:  # fmt: skip
    narrow, wide = compiled(found, key, resource.tenant), compiled(found, None, resource.tenant)
    assert not narrow.may(permission, resource, lambda: context) or wide.may(permission, resource, lambda: context)


@settings(max_examples=200, deadline=None)
@given(st.lists(statements, min_size=1, max_size=6))
def test_what_the_strategies_make_is_let_pass(found: list[dict[str, Any]]) -> None:
    assert check(found) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2), max_leaves=4,
)  # fmt: skip
wild = st.fixed_dictionaries(
    {"effect": st.sampled_from(["Allow", "Deny"]), "action": st.lists(st.text(max_size=8) | actions, max_size=2),
     "resource": st.lists(st.text(max_size=8) | resources | st.sampled_from(["arn:", "arn:thecloud"]), max_size=2)},
    optional={"condition": json_values | st.dictionaries(
        st.sampled_from([*OPERATORS, "x"]), st.dictionaries(st.sampled_from([*CONTEXT, "x"]), json_values))},
)  # fmt: skip


@EXAMPLES
@given(st.lists(wild, max_size=3), st.sampled_from(PERMISSIONS), things, contexts)
def test_nothing_breaks_it_and_what_is_not_understood_never_allows(
    found: list[dict[str, Any]], permission: str, resource: Resource, context: dict[str, str]
) -> None:
    violations = check(found)
    for path, text in violations:
        assert path.startswith("statements")
        assert text
    mine = Access(resource.tenant, [Policy.compile("p", "p", found)])
    allowed = mine.may(permission, resource, lambda: context)
    assert mine.explain(permission, resource, lambda: context).allowed == allowed
    if found and not violations:
        assert allowed == reference([found], None, permission, resource, context, False)


# Cases


def test_a_condition_that_is_not_understood_denies_and_never_allows() -> None:
    odd = {"action": ["*"], "resource": ["*"], "condition": {"FromTheFuture": {"aws:UserId": "x"}}}
    everything = {"effect": "Allow", "action": ["*"], "resource": ["*"]}
    web = Resource("instance", IDS[0], "web", TENANTS[0])
    for effect in ("Allow", "Deny"):
        mine = Access(TENANTS[0], [Policy.compile("p", "p", [{"effect": effect, **odd}])])
        assert not mine.may("instance:read", web, dict)
    mine = Access(TENANTS[0], [Policy.compile("p", "p", [everything, {"effect": "Deny", **odd}])])
    assert not mine.may("instance:read", web, dict)


def test_the_documented_action_names_work() -> None:
    found = [{"effect": "Allow", "action": ["storage:list", "storage:get"], "resource": ["*"]}]
    assert check(found) == []
    mine = Access(TENANTS[0], [Policy.compile("p", "p", found)])
    assert mine.may("storage:read", Resource("bucket", "", "b"), dict)
    assert not mine.may("storage:write", Resource("bucket", "", "b"), dict)
    assert [resolve(each) for each in ("storage:list", "storage:put", "instance:describe", "instance:put")] == [
        "storage:read", "storage:write", "instance:read", "instance:update"
    ]  # fmt: skip


def test_roles() -> None:
    every = permissions()
    reads = {each for each in every if each.endswith(":read") and not each.startswith("iam:")}
    assert (
        {each for each in every if allows("owner", each)} == {each for each in every if allows("admin", each)} == every
    )
    assert {each for each in every if allows("viewer", each)} == reads
    developer = {each for each in every if allows("developer", each)}
    assert developer == {each for each in every if allows("member", each)}
    assert {"instance:launch", "instance:terminate", "storage:write"} | reads <= developer
    assert not {"iam:read", "iam:create", "tenant:update", "audit:read_all", "accounting:update"} & developer
    assert not any(allows("nobody", each) for each in every)
    assert all(each.matched.effect == "Allow" for role in ROLES.values() for each in role.statements)


@pytest.mark.parametrize(
    ("broken", "path"),
    [
        ([], "statements"),
        ([{"effect": "Allow", "action": ["*"], "resource": ["*"]}] * 51, "statements"),
        ([{"effect": "ALLOW", "action": ["*"], "resource": ["*"]}], "statements[0].effect"),
        ([{"effect": "Allow", "action": ["*"] * 101, "resource": ["*"]}], "statements[0].action"),
        ([{"effect": "Allow", "action": ["Instance:read"], "resource": ["*"]}], "statements[0].action[0]"),
        ([{"effect": "Allow", "action": ["*"], "resource": [""]}], "statements[0].resource[0]"),
        ([{"effect": "Allow", "action": ["*"], "resource": ["x" * 513]}], "statements[0].resource[0]"),
        ([{"effect": "Allow", "action": ["*"], "resource": ["*a" * 9]}], "statements[0].resource[0]"),
        ([{"effect": "Allow", "action": ["*"], "resource": ["arn:thecloud:compute:local:t:instance"]}],
         "statements[0].resource[0]"),
        ([{"sid": "a", "effect": "Allow", "action": ["*"], "resource": ["*"]}] * 2, "statements[1].sid"),
        ([{"effect": "Deny", "action": ["*"], "resource": ["*"], "condition": {"Bool": {"aws:UserId": "true"}}}],
         'statements[0].condition["Bool"]["aws:UserId"]'),
        ([{"effect": "Deny", "action": ["*"], "resource": ["*"], "condition": {"Null": {"aws:UserId": True}}}],
         'statements[0].condition["Null"]["aws:UserId"]'),
        ([{"effect": "Deny", "action": ["*"], "resource": ["*"], "condition": {"IpAddress": {"aws:SourceIp": []}}}],
         'statements[0].condition["IpAddress"]["aws:SourceIp"]'),
        ([{"effect": "Deny", "action": ["*"], "resource": ["*"], "condition": {"IpAddress": {}}}],
         'statements[0].condition["IpAddress"]'),
        ([{"effect": "Deny", "action": ["*"], "resource": ["*"], "condition": ["x"]}], "statements[0].condition"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_path(broken: list[dict[str, Any]], path: str) -> None:
    assert path in [where for where, _ in check(broken)]


def test_a_wrong_action_is_told_what_was_meant() -> None:
    [(_, text)] = check([{"effect": "Allow", "action": ["instance:lauch"], "resource": ["*"]}])
    assert "instance:launch" in text


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_wildcard_matches_as_the_plainest_matcher_does(pattern: str, text: str) -> None:
    assert bool(matcher(pattern)(text)) == like(pattern, text)


def test_no_pattern_takes_long() -> None:
    began = time.perf_counter()
    for pattern in ("*a" * 8 + "x", "a*" * 8 + "b", "*" * 300 + "x", "*".join(["a" * 50] * 8) + "b"):
        assert not matcher(pattern)("a" * 20_000)
    assert time.perf_counter() - began < 1


@given(st.ip_addresses(), st.integers(0, 128))
def test_an_address_is_in_the_ranges_that_hold_it(address: Any, prefix: int) -> None:
    network = ipaddress.ip_network((address, min(prefix, address.max_prefixlen)), strict=False)
    if getattr(address, "ipv4_mapped", None) is not None:
        return  # which is decided as the address it maps
    for operator, expected in (("IpAddress", True), ("NotIpAddress", False)):
        statement: dict[str, Any] = {"effect": "Allow", "action": ["*"], "resource": ["*"]}
        statement["condition"] = {operator: {"aws:SourceIp": str(network)}}
        mine = Access("t", [Policy.compile("p", "p", [statement])])
        assert mine.may("instance:read", Resource("instance"), lambda: {"aws:SourceIp": str(address)}) == expected


def test_the_context_is_made_only_when_a_condition_asks() -> None:
    asked = []

    def context() -> dict[str, str]:
        asked.append(datetime.now(UTC))
        return CONTEXT

    plain: list[dict[str, Any]] = [{"effect": "Allow", "action": ["instance:*"], "resource": ["*"]}]
    conditional = [
        {"effect": "Allow", "action": ["iam:*"], "resource": ["*"], "condition": {"Null": {"aws:UserId": "true"}}}
    ]
    mine = Access("t", [Policy.compile("a", "a", plain), Policy.compile("b", "b", conditional)])
    assert mine.may("instance:read", Resource("instance", IDS[0]), context)
    assert asked == []
    assert not mine.may("iam:read", Resource("policy", IDS[0]), context)
    assert len(asked) == 1
