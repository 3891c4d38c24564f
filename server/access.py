"""May they: policies, which roles are too, and the decision they come to.

A policy is a list of statements: plain data, with an effect, actions, resources and, if it is to
hold only sometimes, a condition. What somebody may do in a tenant is decided by their role's policy
and all policies attached to them:

  * a Deny that matches, of any policy, decides: no;
  * else an Allow that matches decides: yes;
  * else no. (What every signed-in caller may is allowed by `default`.)

A key with a policy of its own opens only what that policy allows, too. Policies are compiled once;
an Access gathers, for each permission it is asked for, the statements that matter, once.
What cannot be understood never allows, and always denies.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, NamedTuple

from server import registry
from server.conditions import Condition, Malformed, parse
from server.resources import Names, Patterns, Resource, shortened
from server.wildcards import matcher

Effect = Literal["Allow", "Deny"]
Context = Callable[[], Mapping[str, str]]


GOVERNING = ("tenant", "identity", "iam", "rbac", "service_account", "quota", "accounting", "audit", "storage_cluster",
             "storage_policy")  # fmt: skip
ALIASES = {"list": ("read",), "get": ("read",), "describe": ("read",), "put": ("update", "write"), "update": ("write",)}
MOST_STATEMENTS, MOST_ENTRIES, LONGEST, MOST_STARS = 50, 100, 512, 8


@cache
def permissions() -> frozenset[str]:
    """Every permission of the API."""
    return registry.permissions()


@cache
def _actions() -> dict[str, str]:
    """Every name that an action goes by: its permission. Documented verbs stand for ours where ours is not there."""
    names = {permission: permission for permission in permissions()}
    for area in {permission.partition(":")[0] for permission in permissions()}:
        for alias, verbs in ALIASES.items():
            meant = next((f"{area}:{verb}" for verb in verbs if f"{area}:{verb}" in permissions()), None)
            if meant:
                names.setdefault(f"{area}:{alias}", meant)
    return names


def resolve(action: str) -> str | None:
    """The permission that this action is called by, if there is one."""
    return _actions().get(action)


def hint(action: str) -> str:
    """What to write in place of an action that there is not."""
    if near := get_close_matches(action, _actions(), 3):
        return f"did you mean {' or '.join(near)}?"
    areas = sorted({permission.partition(":")[0] for permission in permissions()})
    return f"there are actions of {', '.join(areas)}"


@cache
def _resolved(pattern: str) -> frozenset[str]:
    """The permissions that an action pattern means."""
    matches = matcher(pattern)
    return frozenset(permission for name, permission in _actions().items() if matches(name))


class Matched(NamedTuple):
    """A statement that decided. `sid` is its name, or its number in the policy."""

    policy_id: str
    policy_name: str
    sid: str
    effect: Effect


@dataclass(frozen=True)
class Decision:
    """What was decided, a sentence on why, and the statements that decided."""

    allowed: bool
    reason: str
    statements: tuple[Matched, ...] = ()


@dataclass(frozen=True)
class Statement:
    """One statement, compiled."""

    matched: Matched
    permissions: frozenset[str]
    patterns: Patterns  # of resources
    condition: Condition | None

    def applies(self, names: Names, context: Context) -> bool:
        """Whether it is about this request."""
        return self.patterns.match(names) and (self.condition is None or self.condition.holds(context()))


@dataclass(frozen=True)
class Policy:
    """A compiled policy. Never changes, and is shared by all it is attached to."""

    id: str
    name: str
    statements: tuple[Statement, ...]

    @staticmethod
    def compile(id: str, name: str, statements: Sequence[Mapping[str, Any]]) -> "Policy":
        """Make one of stored statements, which `check` has let pass."""
        return Policy(id, name, tuple(_compile(id, name, index, each) for index, each in enumerate(statements)))


def _compile(id: str, name: str, index: int, statement: Mapping[str, Any]) -> Statement:
    effect: Effect = "Allow" if statement["effect"] == "Allow" else "Deny"
    try:
        condition = parse(statement.get("condition") or {})
    except Malformed:
        condition = Condition.always(effect == "Deny")
    return Statement(
        matched=Matched(id, name, statement.get("sid") or str(index), effect),
        permissions=frozenset().union(*(_resolved(pattern) for pattern in statement["action"])),
        patterns=Patterns(map(shortened, statement["resource"])), condition=condition,
    )  # fmt: skip


def check(statements: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What is wrong with statements, as paths and what to do about each: ("statements[0].action[1]", "…")."""
    if not statements:
        return [("statements", "a policy has at least one statement")]
    if len(statements) > MOST_STATEMENTS:
        return [("statements", f"a policy has at most {MOST_STATEMENTS} statements; make several policies")]
    found, seen = [], set[str]()
    for index, statement in enumerate(statements):
        path = f"statements[{index}]"
        found += [(f"{path}.{where}", text) for where, text in _violations(statement)]
        if sid := statement.get("sid"):
            if sid in seen:
                found.append((f"{path}.sid", f"another statement is called {sid!r}; choose another name"))
            seen.add(sid)
    return found


def _violations(statement: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if statement.get("effect") not in ("Allow", "Deny"):
        yield "effect", "this wants Allow or Deny"
    for name, wrong in (("action", _wrong_action), ("resource", _wrong_resource)):
        patterns = statement.get(name)
        if not isinstance(patterns, list) or not patterns:
            yield name, f"this wants a list of at least one {name}"
            continue
        if len(patterns) > MOST_ENTRIES:
            yield name, f"this takes at most {MOST_ENTRIES}; make several statements"
            continue
        for index, pattern in enumerate(patterns):
            if text := wrong(pattern):
                yield f"{name}[{index}]", text
    try:
        parse(statement.get("condition") or {})
    except Malformed as malformed:
        yield malformed.path, malformed.message


def wrong_pattern(pattern: object) -> str | None:
    """What is wrong with a text that may have asterisks."""
    if not isinstance(pattern, str) or not pattern or len(pattern) > LONGEST:
        return f"this wants a text of 1 to {LONGEST} characters"
    if len(re.findall(r"\*+", pattern)) > MOST_STARS:
        return f"this takes at most {MOST_STARS} asterisks"
    return None


def _wrong_action(pattern: Any) -> str | None:
    if wrong := wrong_pattern(pattern):
        return wrong
    if not _resolved(pattern):
        return f"no action is called {pattern!r}; {hint(pattern)}"
    return None


def _wrong_resource(pattern: Any) -> str | None:
    if (wrong := wrong_pattern(pattern)) or not pattern.startswith("arn:"):
        return wrong
    parts = pattern.split(":", 5)
    if pattern == "arn:thecloud:*":
        return None
    if len(parts) < 6 or parts[1] != "thecloud" or not all(parts) or not re.fullmatch(r"\*|[^/]+/.+", parts[5]):
        return "an ARN here is arn:thecloud:<service>:<region>:<tenant>:<kind>/<id>; * stands for anything"
    return None


class _Source:
    """The statements of some policies with one effect, gathered for one permission."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.statements = statements
        self._conditional = [each for each in statements if each.condition is not None]
        unconditional = [each for each in statements if each.condition is None]
        self._patterns = Patterns(text for each in unconditional for text in each.patterns.texts)
        self.everything = self._patterns.everything
        self._maybe = Patterns(text for each in self._conditional for text in each.patterns.texts)

    def match(self, names: Names, context: Context) -> bool:
        """Whether one of them is about this request."""
        if not self.statements:
            return False
        if self._patterns.match(names):
            return True
        return self._maybe.match(names) and any(each.applies(names, context) for each in self._conditional)

    def matched(self, names: Names, context: Context) -> tuple[Matched, ...]:
        """Those of them that are about this request."""
        return tuple(each.matched for each in self.statements if each.applies(names, context))

    def could(self, context: Context) -> bool:
        """Whether one of them is about anything at all."""
        return bool(self._patterns.texts) or any(
            each.condition is not None and each.condition.holds(context()) for each in self._conditional
        )


class _Gathered(NamedTuple):
    """What matters for one permission."""

    deny: _Source
    allow: _Source
    narrow: _Source | None  # what the key's own policy allows, if it has one
    anything: bool  # no particular resource is named
    always: bool  # whatever the resource and the context are, the answer is yes


class Access:
    """What one caller may do in one tenant."""

    def __init__(self, tenant: str, policies: Sequence[Policy], key_policy: Policy | None = None) -> None:
        self.tenant, self._policies, self._key_policy = tenant, tuple(policies), key_policy
        self._gathered: dict[str, _Gathered] = {}

    def may(self, permission: str, resource: Resource, context: Context, *, default: bool = False) -> bool:
        """Whether the caller may do this to the resource. `context` is called only when a condition asks."""
        deny, allow, narrow, *_ = self._gathered.get(permission) or self._gather(permission)
        names = resource.names()
        return (
            not deny.match(names, context)
            and (default or allow.match(names, context))
            and (narrow is None or narrow.match(names, context))
        )

    def always(self, permission: str) -> bool:
        """Whether the caller may, whatever the resource and the circumstances are."""
        return (self._gathered.get(permission) or self._gather(permission)).always

    def names_resources(self, permission: str) -> bool:
        """Whether a decision on this permission needs to know which resource it is: its id and its name."""
        return not (self._gathered.get(permission) or self._gather(permission)).anything

    def may_list(self, permission: str, kind: str, context: Context, *, default: bool = False) -> bool:
        """Whether a list of this kind could show anything. What it shows is decided for each item."""
        deny, allow, narrow, *_ = self._gathered.get(permission) or self._gather(permission)
        if deny.match(Resource(kind, tenant=self.tenant).names(), context):
            return False
        return (default or allow.could(context)) and (narrow is None or narrow.could(context))

    def explain(self, permission: str, resource: Resource, context: Context, *, default: bool = False) -> Decision:
        """The decision of `may`, and what decided."""
        deny, allow, narrow, *_ = self._gathered.get(permission) or self._gather(permission)
        names = resource.names()
        what = f"{permission} on {resource.kind}:{resource.name or resource.id or '*'}"
        if denying := deny.matched(names, context):
            first = denying[0]
            return Decision(False, f"{what} is denied by statement {first.sid} of {_called(first)}", denying)
        allowing = allow.matched(names, context)
        if not allowing and not default:
            return Decision(False, f"no statement of the caller's role or policies allows {what}")
        if narrow is not None and not (narrowing := narrow.matched(names, context)):
            return Decision(False, f"the API key's own policy does not allow {what}")
        allowing += narrowing if narrow is not None else ()
        if not allowing:
            return Decision(True, f"{what} is allowed to everybody who is signed in")
        return Decision(True, f"{what} is allowed by statement {allowing[0].sid} of {_called(allowing[0])}", allowing)

    def _gather(self, permission: str) -> _Gathered:
        def those(effect: Effect, *policies: Policy) -> _Source:
            return _Source([
                each for policy in policies for each in policy.statements
                if permission in each.permissions and each.matched.effect == effect
            ])  # fmt: skip

        own = self._key_policy
        deny = those("Deny", *self._policies, *([own] if own else []))
        allow, narrow = those("Allow", *self._policies), those("Allow", own) if own else None
        sources = [deny, allow, *([narrow] if narrow else [])]
        anything = all(each.patterns.everything for source in sources for each in source.statements)
        always = not deny.statements and all(source.everything for source in sources[1:])
        gathered = self._gathered[permission] = _Gathered(deny, allow, narrow, anything, always)
        return gathered


def _called(matched: Matched) -> str:
    return matched.policy_id if matched.policy_id == matched.policy_name else f"policy {matched.policy_name}"


def _role(name: str, actions: Sequence[str]) -> Policy:
    return Policy.compile(f"role/{name}", f"role/{name}",
                          [{"sid": name, "effect": "Allow", "action": list(actions), "resource": ["*"]}])  # fmt: skip


def _roles() -> dict[str, Policy]:
    """What roles allow. None of them denies, so that policies may add to any."""
    areas = {each: each.partition(":") for each in sorted(permissions())}
    reads = [each for each, (area, _, verb) in areas.items() if verb == "read" and area != "iam"]
    works = [each for each, (area, _, _) in areas.items() if area not in GOVERNING]
    return {
        "owner": _role("owner", ["*"]), "admin": _role("admin", ["*"]), "developer": _role("developer", works + reads),
        "member": _role("member", works + reads), "viewer": _role("viewer", reads),
    }  # fmt: skip


ROLES: Mapping[str, Policy] = _roles()


def allows(role: str, permission: str) -> bool:
    """Whether the role, by itself, has the permission. An unknown role has none."""
    return role in ROLES and any(permission in each.permissions for each in ROLES[role].statements)


def may_grant(own: str, role: str) -> bool:
    """Whether somebody of the role `own` may give `role` to others: nobody hands out more than they have."""
    return own in ("owner", "admin") or role not in ("owner", "admin")
