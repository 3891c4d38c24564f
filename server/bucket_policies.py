"""Bucket policies: S3's JSON, as far as this server can judge it. What it cannot is refused when a policy is set, so
that none says what does not hold.

The actions are S3's, not our permissions: several of them need one permission, and who may set tags may not yet store.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-policies.html
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import orjson

from server import conditions
from server.access import MOST_ENTRIES, MOST_STATEMENTS, Context, Effect, Matched, Statement, wrong_pattern
from server.conditions import CONTEXT_KEYS, Condition, Malformed
from server.resources import Names, Patterns
from server.wildcards import matcher

T = TypeVar("T")
EVERYBODY = "*"
VERSIONS = ("2012-10-17", "2008-10-17")
ARN = "arn:aws:s3:::"
OBJECT_READS = frozenset({
    "s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectTagging", "s3:GetObjectVersionTagging", "s3:GetObjectAcl",
    "s3:GetObjectVersionAcl", "s3:GetObjectAttributes", "s3:GetObjectVersionAttributes",
    "s3:ListMultipartUploadParts",
})  # fmt: skip
BUCKET_READS = frozenset({
    "s3:ListBucket", "s3:ListBucketVersions", "s3:ListBucketMultipartUploads", "s3:GetBucketLocation",
    "s3:GetBucketVersioning", "s3:GetBucketTagging", "s3:GetBucketCORS", "s3:GetBucketAcl", "s3:GetBucketPolicy",
    "s3:GetBucketPolicyStatus", "s3:GetEncryptionConfiguration", "s3:GetLifecycleConfiguration",
})  # fmt: skip
READS = OBJECT_READS | BUCKET_READS
OBJECT_WRITES = frozenset({
    "s3:PutObject", "s3:PutObjectTagging", "s3:PutObjectVersionTagging", "s3:DeleteObjectTagging",
    "s3:DeleteObjectVersionTagging", "s3:PutObjectAcl", "s3:PutObjectVersionAcl", "s3:DeleteObject",
    "s3:DeleteObjectVersion", "s3:AbortMultipartUpload",
})  # fmt: skip
BUCKET_WRITES = frozenset({
    "s3:DeleteBucket", "s3:PutBucketVersioning", "s3:PutBucketTagging", "s3:PutBucketCORS", "s3:PutBucketAcl",
    "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration",
})  # fmt: skip
OF_OBJECTS = OBJECT_READS | OBJECT_WRITES
ACTIONS = {action.lower(): action for action in READS | OBJECT_WRITES | BUCKET_WRITES}
SHOWN_WITH = {  # what is never asked for by itself, and what shows it
    "s3:GetBucketLocation": "s3:ListBucket", "s3:GetBucketVersioning": "s3:ListBucket",
    "s3:GetBucketAcl": "s3:ListBucket", "s3:GetBucketPolicyStatus": "s3:ListBucket",
    "s3:GetEncryptionConfiguration": "s3:ListBucket", "s3:GetObjectAcl": "s3:GetObject",
    "s3:GetObjectVersionAcl": "s3:GetObjectVersion", "s3:GetObjectAttributes": "s3:GetObject",
    "s3:GetObjectVersionAttributes": "s3:GetObjectVersion",
}  # fmt: skip
OWN_PERMISSION = ("s3:putbucketpolicy", "s3:deletebucketpolicy")
KEYS = {key.lower(): key for key in CONTEXT_KEYS}
UUID_FORM = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ID = re.compile(UUID_FORM)
ROOT = re.compile(f"arn:aws:iam::({UUID_FORM}):root")
USER = re.compile(f"arn:(?:aws:iam:|thecloud:[^:]*:[^:]*):({UUID_FORM}):user/({UUID_FORM})")


@dataclass(frozen=True)
class Caller:
    """Somebody who asks."""

    names: frozenset[str]  # all that a policy may call them
    context: Context

    @staticmethod
    def of(user_id: UUID | None, tenant_id: UUID | None, context: Context) -> "Caller":
        """A user acting in a tenant. Nobody in particular is a user that is None."""
        if user_id is None:
            return Caller(frozenset({EVERYBODY}), context)
        if tenant_id is None:
            return Caller(frozenset({EVERYBODY, str(user_id)}), context)
        return Caller(frozenset({EVERYBODY, str(user_id), str(tenant_id), f"{tenant_id}/{user_id}"}), context)


@dataclass(frozen=True)
class BucketStatement:
    """One statement, compiled."""

    principals: frozenset[str]  # "*", ids of users and of tenants, "<tenant>/<user>"
    statement: Statement  # whose permissions are S3's actions

    def applies(self, caller: Caller, action: str, resource: str) -> bool:
        return (
            action in self.statement.permissions
            and not self.principals.isdisjoint(caller.names)
            and self.statement.applies(Names((), (resource,)), caller.context)
        )


@dataclass(frozen=True)
class BucketPolicy:
    """A compiled policy. Never changes."""

    deny: tuple[BucketStatement, ...]
    allow: tuple[BucketStatement, ...]

    def denying(self, caller: Caller, action: str, resource: str) -> Matched | None:
        """The statement that denies this, if one does."""
        return next((each.statement.matched for each in self.deny if each.applies(caller, action, resource)), None)

    def allows(self, caller: Caller, action: str, resource: str) -> bool:
        """Whether a statement allows this."""
        return any(each.applies(caller, action, resource) for each in self.allow)

    def named_users(self) -> set[UUID]:
        """Who may be users, of whatever tenant, among those whom it allows more than to read."""
        return {
            UUID(each)
            for statement in self.allow if statement.statement.permissions - READS
            for each in statement.principals if ID.fullmatch(each)
        }  # fmt: skip

    def check_others(self, tenant_id: UUID, members: Collection[UUID]) -> None:
        """Raise Malformed if it allows others than the tenant and these members of it anything but to read."""
        insiders = {str(each) for each in (tenant_id, *members)}
        for each in self.allow:
            others = [who for who in each.principals if who not in insiders and not who.startswith(f"{tenant_id}/")]
            if others and (more := each.statement.permissions - READS):
                raise Malformed(f"statement {each.statement.matched.sid}", (
                    f"this allows {min(others)} more than to read: {min(more)}; others than the bucket's tenant can "
                    f"only be allowed to read: name tenant {tenant_id}, or members of it, as Principal"
                ))  # fmt: skip


def resource(bucket: str, action: str, key: str) -> str:
    """What an action is on, as policies call it."""
    return f"{ARN}{bucket}/{key}" if action in OF_OBJECTS else f"{ARN}{bucket}"


@lru_cache(2048)
def compiled(text: str, bucket: str) -> BucketPolicy:
    """A policy that was set. One that cannot be understood any more denies everything."""
    try:
        return parse(text, bucket)
    except Malformed:
        everything = Statement(
            Matched(f"bucket/{bucket}", f"bucket/{bucket}", "that is not understood", "Deny"),
            frozenset(ACTIONS.values()), Patterns(["*"]), None,
        )  # fmt: skip
        return BucketPolicy((BucketStatement(frozenset({EVERYBODY}), everything),), ())


def parse(text: str, bucket: str) -> BucketPolicy:
    """The policy of this bucket, compiled. Raises Malformed."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Malformed("", f"this is not JSON: {error}") from None
    _elements("", document, ("Version", "Statement"), ("Id",))
    if document["Version"] not in VERSIONS:
        raise Malformed("Version", f"this wants {' or '.join(VERSIONS)}")
    statements = document["Statement"] if isinstance(document["Statement"], list) else [document["Statement"]]
    if not 1 <= len(statements) <= MOST_STATEMENTS:
        raise Malformed("Statement", f"this wants 1 to {MOST_STATEMENTS} statements")
    made = [_statement(f"Statement[{index}]", index, each, bucket) for index, each in enumerate(statements)]
    names = [each.statement.matched.sid for each in made]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Malformed("Statement", f"two statements have the Sid {twice!r}; choose another for one")
    return BucketPolicy(
        tuple(each for each in made if each.statement.matched.effect == "Deny"),
        tuple(each for each in made if each.statement.matched.effect == "Allow"),
    )


def _elements(path: str, value: Any, needed: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    """Raise unless this is an object with these elements."""
    if not isinstance(value, Mapping):
        raise Malformed(path, f"this wants an object with {', '.join(needed)}")
    for name in value:
        if name in ("NotPrincipal", "NotAction", "NotResource"):
            raise Malformed(f"{path}.{name}", f"this is not supported: say with {name[3:]} what is meant")
        if name not in (*needed, *allowed):
            raise Malformed(path, f"there is no element {name!r}; there are {', '.join((*needed, *allowed))}")
    if missing := [name for name in needed if name not in value]:
        raise Malformed(path, f"this lacks {' and '.join(missing)}")


def _statement(path: str, index: int, value: Any, bucket: str) -> BucketStatement:
    _elements(path, value, ("Effect", "Principal", "Action", "Resource"), ("Sid", "Condition"))
    effect, sid = value["Effect"], value.get("Sid", "")
    if effect not in ("Allow", "Deny"):
        raise Malformed(f"{path}.Effect", "this wants Allow or Deny")
    if not isinstance(sid, str) or len(sid) > 100:
        raise Malformed(f"{path}.Sid", "this wants a text of at most 100 characters")
    resources = list(_each(f"{path}.Resource", value["Resource"], lambda text: _resource(text, bucket)))
    levels = {"/" in text for text in resources}
    actions: set[str] = set()
    for each in _each(f"{path}.Action", value["Action"], lambda text: _actions(text, effect)):
        if levels.isdisjoint(action in OF_OBJECTS for action in each):
            about = f"objects: name some, such as {ARN}{bucket}/*" if True not in levels else f"{ARN}{bucket}"
            raise Malformed(f"{path}.Action", f"{min(each)} is about {about}")
        actions |= each
    called = f"bucket/{bucket}"
    return BucketStatement(
        frozenset(_principals(f"{path}.Principal", value["Principal"])),
        Statement(
            Matched(called, called, sid or str(index), effect), frozenset(actions), Patterns(resources),
            _condition(f"{path}.Condition", value.get("Condition", {})),
        ),
    )  # fmt: skip


def _each(path: str, value: Any, read: Callable[[str], T]) -> Iterator[T]:
    """What is read of a text, or of each in a list of them. What `read` complains of is at this path."""
    texts = value if isinstance(value, list) else [value]
    if not 1 <= len(texts) <= MOST_ENTRIES:
        raise Malformed(path, f"this wants 1 to {MOST_ENTRIES} of them")
    for text in texts:
        if (wrong := wrong_pattern(text)) or (wrong := _unknown(text)):
            raise Malformed(path, wrong)
        try:
            yield read(text)
        except ValueError as error:
            raise Malformed(path, str(error)) from None


def _unknown(text: str) -> str | None:
    """What is wrong with a text that has what means more in S3 than here."""
    if "${" in text:
        return f"variables, as in {text!r}, are not supported"
    if "?" in text:
        return f"the wildcard ? in {text!r} is not supported; there is *"
    return None


def _actions(text: str, effect: Effect) -> frozenset[str]:
    pattern = text.lower()
    if pattern in OWN_PERMISSION:
        raise ValueError("who may change the policy is said by the permission storage_policy:update, not by the policy")
    matches = matcher(pattern)
    meant = frozenset(action for name, action in ACTIONS.items() if matches(name))
    if not meant:
        near = [ACTIONS[name] for name in get_close_matches(pattern, ACTIONS, 3)] or sorted(ACTIONS.values())
        raise ValueError(f"there is no action {text!r} here; there are {', '.join(near)}")
    if effect == "Deny" and meant <= {*SHOWN_WITH}:
        shown = min(meant)
        raise ValueError(f"who has {SHOWN_WITH[shown]} sees what {shown} is about: deny {SHOWN_WITH[shown]}")
    return meant


def _resource(text: str, bucket: str) -> str:
    if text != f"{ARN}{bucket}" and not text.startswith(f"{ARN}{bucket}/"):
        raise ValueError(f"{text!r} is not of this bucket; name {ARN}{bucket}, or {ARN}{bucket}/* for its objects")
    return text


def _principals(path: str, value: Any) -> Iterator[str]:
    if value == EVERYBODY:
        yield EVERYBODY
        return
    if not isinstance(value, Mapping) or set(value) != {"AWS"}:
        raise Malformed(path, 'this wants "*" or {"AWS": …}')
    yield from _each(f"{path}.AWS", value["AWS"], _principal)


def _principal(text: str) -> str:
    name = text.lower()
    if text == EVERYBODY or ID.fullmatch(name):
        return name
    if found := ROOT.fullmatch(name):
        return found[1]
    if found := USER.fullmatch(name):
        return f"{found[1]}/{found[2]}"
    raise ValueError(
        f"{text!r} is nobody: this wants *, the id of a user or a tenant, arn:aws:iam::<tenant>:root or "
        "arn:aws:iam::<tenant>:user/<user>"
    )


def _condition(path: str, value: Any) -> Condition | None:
    """Of keys, upper and lower case are the same."""
    meant = value
    if isinstance(value, Mapping):
        meant = {operator: _keys(pairs) if isinstance(pairs, Mapping) else pairs for operator, pairs in value.items()}
    try:
        condition = conditions.parse(meant)
    except Malformed as malformed:
        raise Malformed(path, malformed.message) from None
    for operator, pairs in value.items():
        for text in (each for values in pairs.values() for each in (values if isinstance(values, list) else [values])):
            if isinstance(text, str) and (wrong := _unknown(text if "Like" in operator else text.replace("?", ""))):
                raise Malformed(f"{path}.{operator}", wrong)
    return condition


def _keys(pairs: Mapping[str, Any]) -> dict[str, Any]:
    return {KEYS.get(key.lower(), key): values for key, values in pairs.items()}
