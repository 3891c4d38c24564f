"""Who is calling: people, their passwords and API keys, and the tenant a call acts in.

A key is "thecloud_" and 32 hex digits: 128 random bits, so a plain SHA-256 is stored of it. What
it says about its owner, with their roles and policies, is cached in each process, and dropped
there within a second of any change: the transaction that makes the change also notifies, and a
process whose listener has not been heard of for a second asks the database instead of its cache.
"""

import asyncio
import hashlib
import secrets
import time
from base64 import b32encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import argon2
import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import iam_pb2, identity_pb2, tenants_pb2

from drivers.secrets import SecretStore
from server import db
from server.access import ROLES, Access, Policy
from server.db import Database, Owned, Row, Tx
from server.errors import ApiError, invalid

CHANNEL = "auth"
T = TypeVar("T")
CACHED = 60.0  # seconds an entry may live
UNHEARD = 1.0  # seconds without a sign of the listener after which the cache is not believed
PREFIX = "thecloud_"


@db.row("users", "user", identity_pb2.User)
class User(Row):
    email: str  # lower case
    name: str
    password_hash: str
    default_tenant_id: UUID | None
    updated_at: datetime


@db.row("api_keys", "api_key", identity_pb2.ApiKey)
class ApiKey(Row):
    user_id: UUID
    name: str
    hash: bytes
    prefix: str
    last_used: datetime
    expires_at: datetime | None
    policy: dict[str, Any] | None  # {"statements": […]}: what the key is narrowed to
    access_key_id: str | None  # of its pair for the S3 protocol, if it has one,
    access_secret: bytes | None  # whose secret is needed to judge signatures, so it is wrapped and not hashed
    access_tenant_id: UUID | None


@db.row("members", "tenant_member", tenants_pb2.TenantMember)
class Member(Owned):
    user_id: UUID
    role: str


@db.row("policies", "policy", iam_pb2.Policy)
class StoredPolicy(Owned):
    name: str
    description: str
    statements: Any  # as plain data, spelt as documented
    updated_at: datetime


ATTACHMENTS = sa.Table(
    "policy_attachments",
    db.METADATA,
    sa.Column("user_id", postgresql.UUID, primary_key=True),
    sa.Column("policy_id", postgresql.UUID, primary_key=True),
    sa.Column("tenant_id", postgresql.UUID, nullable=False),
    sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
)


@dataclass(frozen=True)
class Principal:
    """Somebody who may call."""

    key_id: UUID | None
    user_id: UUID
    email: str
    default_tenant_id: UUID | None
    roles: Mapping[UUID, str]  # by tenant
    policies: Mapping[UUID, Sequence[Policy]] = field(default_factory=dict)  # those attached, by tenant
    key_policy: Policy | None = None  # the key's own, which narrows what it opens
    expires_at: datetime | None = None
    _access: dict[UUID | None, Access] = field(default_factory=dict)

    def access(self, tenant_id: UUID | None) -> Access:
        """What the caller may do in this tenant."""
        if (known := self._access.get(tenant_id)) is None:
            known = self._access[tenant_id] = self._evaluator(tenant_id)
        return known

    def _evaluator(self, tenant_id: UUID | None) -> Access:
        if tenant_id is None:
            return Access("", (), self.key_policy)
        role = self.roles.get(tenant_id, "")
        own = (ROLES[role],) if role in ROLES else ()
        return Access(str(tenant_id), (*own, *self.policies.get(tenant_id, ())), self.key_policy)

    def tenant(self, header: str | None) -> UUID | None:
        """The tenant to act in: the one named, else the default one."""
        if not header:
            return self.default_tenant_id
        tenant_id = _tenant_id(header)
        if tenant_id not in self.roles:
            raise ApiError("PERMISSION_DENIED", f"you are not a member of tenant {tenant_id}")
        return tenant_id


@dataclass(frozen=True)
class AccessKey:
    """A pair of the S3 protocol: the secret that requests are signed with, whose it is, and the tenant it acts in."""

    secret_access_key: str
    tenant_id: UUID
    principal: Principal


@lru_cache(256)
def _tenant_id(header: str) -> UUID:
    try:
        return UUID(header)
    except ValueError:
        raise invalid("X-Tenant-ID", "this is not the id of a tenant: it wants a UUID") from None


NOBODY = Principal(None, UUID(int=0), "anonymous", None, {})

_P = StoredPolicy.TABLE.c
_roles = (
    sa.select(sa.func.coalesce(sa.func.jsonb_object_agg(Member.TABLE.c.tenant_id, Member.TABLE.c.role),
                               sa.text("'{}'::jsonb")))
    .where(Member.TABLE.c.user_id == User.TABLE.c.id)
    .scalar_subquery()
    .label("roles")
)  # fmt: skip
_policies = (
    sa.select(sa.func.coalesce(sa.func.jsonb_agg(sa.func.jsonb_build_array(
        _P.tenant_id, _P.id, _P.name, _P.statements)), sa.text("'[]'::jsonb")))
    .join(ATTACHMENTS, ATTACHMENTS.c.policy_id == _P.id)
    .where(ATTACHMENTS.c.user_id == User.TABLE.c.id)
    .scalar_subquery()
    .label("policies")
)  # fmt: skip
_person = (User.TABLE.c.email, User.TABLE.c.default_tenant_id, _roles, _policies)
_K = ApiKey.TABLE.c
_owner = (
    sa.select(
        _K.id, _K.user_id, _K.last_used, _K.expires_at, _K.policy, _K.access_secret, _K.access_tenant_id, *_person
    )
    .join(User.TABLE, User.TABLE.c.id == _K.user_id)
    .where(sa.or_(_K.expires_at.is_(None), _K.expires_at > sa.func.now()))
)
_OWNER_OF = _owner.where(_K.hash == sa.bindparam("hash", type_=sa.LargeBinary))
_OWNER_OF_ACCESS = _owner.where(_K.access_key_id == sa.bindparam("access_key_id"))
_PERSON = sa.select(*_person).where(User.TABLE.c.id == sa.bindparam("whose"))
_KEY_POLICY = sa.select(ApiKey.TABLE.c.policy).where(ApiKey.TABLE.c.id == sa.bindparam("key"))
_HELD = sa.select(_K.id).where(
    _K.id == sa.bindparam("key"), _K.user_id == sa.bindparam("whose"),
    sa.or_(_K.expires_at.is_(None), _K.expires_at > sa.func.now()),
)  # fmt: skip
_TOUCH = sa.update(ApiKey.TABLE).where(
    ApiKey.TABLE.c.id == sa.bindparam("its_id", type_=postgresql.UUID)
).values(last_used=sa.func.now())  # fmt: skip


class Keys:
    """The keys this process has seen lately, and whose they are."""

    def __init__(self, database: Database, secret_store: SecretStore) -> None:
        self._db, self._secrets = database, secret_store
        self._cache: dict[str, tuple[float, Principal]] = {}
        self._access: dict[str, tuple[float, AccessKey]] = {}
        self._drops = 0  # counts drops, so that a look-up that began before one is not kept
        self._heard_at = float("-inf")

    def cached(self, key: str) -> Principal | None:
        """The key's owner, if that is known here and now for sure."""
        return self._known(self._cache.get(key))

    async def look_up(self, key: str) -> Principal:
        """The key's owner, from the database. Raises UNAUTHENTICATED."""
        drops = self._drops
        found, principal = await self._owner(_OWNER_OF, hash=digest(key))
        if drops == self._drops:
            _keep(self._cache, key, principal, found["expires_at"])
        return principal

    def cached_access(self, access_key_id: str) -> AccessKey | None:
        """The pair of the S3 protocol, if it is known here and now for sure."""
        return self._known(self._access.get(access_key_id))

    async def look_up_access(self, access_key_id: str) -> AccessKey:
        """The pair of the S3 protocol, from the database. Raises UNAUTHENTICATED."""
        drops = self._drops
        if "\0" in access_key_id:
            raise unknown_key()
        found, principal = await self._owner(_OWNER_OF_ACCESS, access_key_id=access_key_id)
        secret = await self._secrets.unwrap(found["access_secret"], access_key_id.encode())
        access_key = AccessKey(secret.decode(), found["access_tenant_id"], principal)
        if drops == self._drops:
            _keep(self._access, access_key_id, access_key, found["expires_at"])
        return access_key

    def _known(self, entry: tuple[float, T] | None) -> T | None:
        now = time.monotonic()
        return None if now - self._heard_at > UNHEARD or entry is None or entry[0] < now else entry[1]

    async def _owner(self, statement: sa.Select[Any], **named: object) -> tuple[Any, Principal]:
        """What the database has of a key, and its owner; now it was used."""
        async with self._db.reading() as tx:
            found = await db.record(tx, statement, **named)
            if found is None:
                raise unknown_key()
            if datetime.now(UTC) - found["last_used"] > timedelta(minutes=1):
                await db.execute(tx, _TOUCH, its_id=found["id"])
        return found, _principal(found["user_id"], found, found["id"], found["policy"], found["expires_at"])

    def heard(self, asked_at: float) -> None:
        """The listener is alive: it had all notifications there were at this moment."""
        self._heard_at = max(self._heard_at, asked_at)

    def drop(self, user_id: str) -> None:
        """Forget a user's keys; "*": everybody's."""
        self._drops += 1
        if user_id == "*":
            self._cache, self._access = {}, {}
            return
        self._cache = {key: each for key, each in self._cache.items() if str(each[1].user_id) != user_id}
        self._access = {key: each for key, each in self._access.items() if str(each[1].principal.user_id) != user_id}

    async def forget(self, tx: Tx, user_id: UUID) -> None:
        """What is known of this user's keys ends with this transaction, here and in every process."""
        tx.after_commit.append(lambda: self.drop(str(user_id)))
        await tx.connection.execute("select pg_notify($1, $2)", CHANNEL, str(user_id))


def _keep(cache: dict[str, tuple[float, T]], key: str, value: T, expires_at: datetime | None) -> None:
    if len(cache) > 50_000:
        cache.clear()
    lasts = min(CACHED, (expires_at - datetime.now(UTC)).total_seconds()) if expires_at else CACHED
    cache[key] = (time.monotonic() + lasts, value)


def unknown_key() -> ApiError:
    return ApiError("UNAUTHENTICATED", "this API key is unknown, expired or revoked; log in for a new one")


async def standing(tx: Tx, user_id: UUID, key_id: UUID | None = None) -> Principal | None:
    """Somebody as they stand now, as a call with this key of theirs would find them; None when there is nobody."""
    found = await db.record(tx, _PERSON, whose=user_id)
    policy = await db.value(tx, _KEY_POLICY, key=key_id) if key_id else None
    return None if found is None else _principal(user_id, found, key_id, policy)


async def holder(tx: Tx, user_id: UUID, key_id: UUID) -> Principal | None:
    """Who has this key, as they stand now; None once it is revoked or expired."""
    if await db.value(tx, _HELD, key=key_id, whose=user_id) is None:
        return None
    return await standing(tx, user_id, key_id)


def _principal(
    user_id: UUID, person: Any, key_id: UUID | None, policy: dict[str, Any] | None, expires_at: datetime | None = None
) -> Principal:
    attached: dict[UUID, list[Policy]] = {}
    for tenant, id, name, statements in person["policies"]:
        attached.setdefault(UUID(tenant), []).append(_compiled(id, name, orjson.dumps(statements)))
    return Principal(
        key_id, user_id, person["email"], person["default_tenant_id"],
        {UUID(tenant): role for tenant, role in person["roles"].items()}, attached,
        _compiled("key", "the API key's own", orjson.dumps(policy["statements"])) if policy else None, expires_at,
    )  # fmt: skip


@lru_cache(2048)
def _compiled(id: str, name: str, statements: bytes) -> Policy:
    """The policy, compiled once for all it is attached to; a changed one is another."""
    return Policy.compile(id, name, orjson.loads(statements))


def credential(metadata: Mapping[str, str]) -> str:
    """The API key a call carries. Raises UNAUTHENTICATED when there is none."""
    if key := metadata.get("x-api-key"):
        return key
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    raise ApiError("UNAUTHENTICATED", "send your API key as X-API-Key or as Authorization: Bearer")


def digest(secret: str) -> bytes:
    """What is stored of a key or a token, both of which are long and random."""
    return hashlib.sha256(secret.encode()).digest()


def new_key() -> str:
    return PREFIX + secrets.token_hex(16)


def new_access_key() -> tuple[str, str]:
    """The id and the secret of a pair of the S3 protocol, of the lengths that its clients know: 20 and 40."""
    id = b32encode(secrets.token_bytes(15))[:18].decode()
    return f"TC{id}", secrets.token_hex(20)


_hasher = argon2.PasswordHasher()  # argon2id with the parameters of RFC 9106, low memory
_at_once = asyncio.Semaphore(4)  # each takes 64 MiB
_NO_PASSWORD = (  # which none has; made up, since to hash one would take a tenth of a second of every start
    f"$argon2id$v=19$m={_hasher.memory_cost},t={_hasher.time_cost},p={_hasher.parallelism}"
    f"${secrets.token_hex(11)[1:]}A${secrets.token_hex(21)}A"
)


async def hash_password(password: str) -> str:
    async with _at_once:
        return await asyncio.to_thread(_hasher.hash, password)


async def verify_password(password: str, hashed: str | None) -> bool:
    """Whether it is the password. None, for an unknown user, takes as long as a wrong one."""
    async with _at_once:
        try:
            return await asyncio.to_thread(_hasher.verify, hashed or _NO_PASSWORD, password) and hashed is not None
        except (argon2.exceptions.VerifyMismatchError, argon2.exceptions.InvalidHashError):
            return False
