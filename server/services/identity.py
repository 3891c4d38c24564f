"""People and the API keys they call with. The tables are in server/auth.py, which every call needs."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import identity_pb2 as pb

from server import auth, changes, db, pages, ratelimit, request_fields
from server.auth import ApiKey, User
from server.call import Call
from server.db import METADATA, Tx
from server.errors import ApiError, invalid, not_found
from server.services import iam, tenants
from server.work import RECONCILERS, every, wake

if TYPE_CHECKING:
    from server.app import App

RESETS = sa.Table(
    "password_resets",
    METADATA,
    sa.Column("user_id", postgresql.UUID, primary_key=True),
    sa.Column("token_hash", sa.LargeBinary, nullable=True),  # null until the mail is on its way
    sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
)
TOKEN_LIFE = timedelta(hours=1)
LOCKOUT = timedelta(minutes=15)
WRONG_PASSWORDS = 5
MAIL = """Somebody asked to set a new password for your account. If it was you, use this token within the hour:

    {token}

Send it to POST /auth/reset-password as "token", with your "new_password". If it was not you, do nothing.
"""

_own_keys = ApiKey.TABLE.c.user_id == sa.bindparam("user_id", type_=postgresql.UUID)
_by_email = sa.select(User.TABLE).where(User.TABLE.c.email == sa.bindparam("email"))
_own_key = sa.select(ApiKey.TABLE).where(ApiKey.TABLE.c.id == sa.bindparam("id"), _own_keys).with_for_update()
_ask_reset = postgresql.insert(RESETS).values(
    user_id=sa.bindparam("user_id"), token_hash=sa.null(), expires_at=sa.func.now() + TOKEN_LIFE
)
_ASK_RESET = _ask_reset.on_conflict_do_update(
    index_elements=[RESETS.c.user_id], set_={"token_hash": sa.null(), "expires_at": _ask_reset.excluded.expires_at}
)
_SET_TOKEN = (
    sa.update(RESETS)
    .where(RESETS.c.user_id == sa.bindparam("whose"))
    .values(token_hash=sa.bindparam("token_hash"))
    .returning(RESETS.c.user_id)
)
_TAKE_TOKEN = (
    sa.delete(RESETS)
    .where(RESETS.c.token_hash == sa.bindparam("token_hash"), RESETS.c.expires_at > sa.func.now())
    .returning(RESETS.c.user_id)
)
_EXPIRED = sa.delete(RESETS).where(RESETS.c.expires_at < sa.func.now())


class IdentityService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def prepare_Register(self, call: Call, request: pb.RegisterRequest) -> str:
        return await auth.hash_password(request.password)

    async def Register(self, call: Call, request: pb.RegisterRequest) -> pb.RegisterResponse:
        name = request.name.strip()
        if len(name) < 2:
            raise invalid("name", "a name has at least two characters")
        user = await register(call.tx, request.email.lower(), call.prepared, name)
        shown = db.to_message(user)
        return pb.RegisterResponse(
            user_id=shown.id, id=shown.id, email=shown.email, name=shown.name,
            default_tenant_id=shown.default_tenant_id, created_at=shown.created_at, updated_at=shown.updated_at,
        )  # fmt: skip

    async def prepare_Login(self, call: Call, request: pb.LoginRequest) -> User:
        """Whose email address and password these are. What is counted of wrong ones must outlive the refusal."""
        email = request.email.lower()
        bucket, lock = (f"{what}/{auth.digest(email).hex()}" for what in ("wrong password", "locked"))
        async with self.app.db.reading() as tx:
            locked = await ratelimit.wait(tx, lock, 1, LOCKOUT)
            user = await db.first(tx, User, _by_email, email=email)
        right = await auth.verify_password(request.password, user.password_hash if user else None)
        if locked:
            raise ApiError("UNAUTHENTICATED", "too many wrong passwords for this address; try again in 15 minutes")
        async with self.app.db.reading() as tx:
            if user is None or not right:
                await ratelimit.take(tx, bucket, WRONG_PASSWORDS, LOCKOUT)
                if await ratelimit.wait(tx, bucket, WRONG_PASSWORDS, LOCKOUT):
                    await ratelimit.take(tx, lock, 1, LOCKOUT)
                raise ApiError("UNAUTHENTICATED", "the email address or the password is wrong")
            await ratelimit.forget(tx, bucket)
        return user

    async def Login(self, call: Call, request: pb.LoginRequest) -> pb.LoginResponse:
        user: User = call.prepared
        text, _ = await make_key(call.tx, user.id, "Default Key")
        return pb.LoginResponse(user=db.to_message(user), api_key=text)

    async def ForgotPassword(self, call: Call, request: pb.ForgotPasswordRequest) -> Empty:
        user = await db.first(call.tx, User, _by_email, email=request.email.lower())
        if user is not None:
            await db.execute(call.tx, _ASK_RESET, user_id=user.id)
            await wake(call.tx, "password_reset", user.id)
        return Empty()

    async def prepare_ResetPassword(self, call: Call, request: pb.ResetPasswordRequest) -> str:
        return await auth.hash_password(request.new_password)

    async def ResetPassword(self, call: Call, request: pb.ResetPasswordRequest) -> Empty:
        user_id = await db.value(call.tx, _TAKE_TOKEN, token_hash=auth.digest(request.token))
        user = await db.find(call.tx, User, user_id, lock=True) if user_id else None
        if user is None:
            raise invalid("token", "this token is unknown, was used, or is older than an hour; ask for a new one")
        await changes.update(call.tx, user, password_hash=call.prepared)
        return Empty()

    async def GetMe(self, call: Call, request: pb.GetMeRequest) -> pb.User:
        user = await db.find(call.tx, User, call.principal.user_id)
        if user is None:
            raise not_found("user", call.principal.user_id)
        return db.to_message(user)  # type: ignore[no-any-return]

    async def CreateKey(self, call: Call, request: pb.CreateKeyRequest) -> pb.ApiKey:
        policy, expires_at = await narrowed(call, request)
        if request.s3 and call.tenant is None:
            raise invalid("s3", "a pair for S3 acts in one tenant: name it as X-Tenant-ID")
        tenant_id = call.tenant if request.s3 else None
        return await self._made(call, call.principal.user_id, request.name, policy, expires_at, tenant_id)

    async def ListKeys(self, call: Call, request: pb.ListKeysRequest) -> pb.ListKeysResponse:
        keys, token = await pages.page(
            call.tx, ApiKey, _own_keys, size=request.page_size, token=request.page_token,
            user_id=call.principal.user_id,
        )  # fmt: skip
        return pb.ListKeysResponse(keys=map(to_message, keys), next_page_token=token)

    async def RevokeKey(self, call: Call, request: pb.RevokeKeyRequest) -> Empty:
        await self._revoke(call, request.id)
        return Empty()

    async def RotateKey(self, call: Call, request: pb.RotateKeyRequest) -> pb.ApiKey:
        old = await self._revoke(call, request.id)
        if call.principal.key_policy and old.policy != await own_policy(call):
            raise ApiError("PERMISSION_DENIED", "a key with a policy of its own rotates only keys with that policy")
        return await self._made(call, old.user_id, old.name, old.policy, old.expires_at, old.access_tenant_id)

    async def _made(
        self, call: Call, user_id: UUID, name: str, policy: dict[str, Any] | None, expires_at: datetime | None,
        access_tenant_id: UUID | None,
    ) -> pb.ApiKey:  # fmt: skip
        """A new key with its secrets; where a tenant is named, with a pair for S3."""
        if access_tenant_id is None:
            text, key = await make_key(call.tx, user_id, name, policy, expires_at)
            return to_message(key, key=text)
        id, secret = auth.new_access_key()
        text, key = await make_key(
            call.tx, user_id, name, policy, expires_at, access_key_id=id, access_tenant_id=access_tenant_id,
            access_secret=await self.app.drivers.secrets.wrap(secret.encode(), id.encode()),
        )  # fmt: skip
        return to_message(key, key=text, s3=pb.S3Key(access_key_id=id, secret_access_key=secret))

    async def _revoke(self, call: Call, id: str) -> ApiKey:
        key = await db.first(call.tx, ApiKey, _own_key, id=UUID(id), user_id=call.principal.user_id)
        if key is None:
            raise not_found("api_key", id)
        await changes.delete(call.tx, key)
        await self.app.keys.forget(call.tx, key.user_id)
        return key


async def register(tx: Tx, email: str, password_hash: str, name: str) -> User:
    """A new user, with a personal tenant."""
    id = uuid4()
    try:
        user = await changes.insert(
            tx, User, id=id, email=email, name=name, password_hash=password_hash, default_tenant_id=None
        )
    except asyncpg.UniqueViolationError:
        raise ApiError("ALREADY_EXISTS", f"somebody has registered with {email}; log in, or reset the password",
                       kind="user", email=email) from None  # fmt: skip
    tenant = await tenants.create(tx, id, name, f"personal-{id}")
    return await changes.update(tx, user, default_tenant_id=tenant.id)


async def narrowed(call: Call, request: pb.CreateKeyRequest) -> tuple[dict[str, Any] | None, datetime | None]:
    """The policy and the end of a key to be made, which opens no more and ends no later than the one that makes it."""
    policy = {"statements": iam.checked(request.policy.statements, "policy.")} if request.HasField("policy") else None
    expires_at = request_fields.moment(request, "expires_at")
    if expires_at and expires_at <= datetime.now(UTC):
        raise invalid("expires_at", "this has passed; choose a moment to come, or leave it out")
    if call.principal.key_policy:
        mine = await own_policy(call)
        if policy not in (None, mine):
            raise ApiError("PERMISSION_DENIED", "a key with a policy of its own makes keys with that policy only")
        policy = mine
    if (mine_ends := call.principal.expires_at) and (expires_at is None or expires_at > mine_ends):
        raise invalid("expires_at", f"the key you call with expires at {mine_ends:%Y-%m-%dT%H:%M:%SZ}, and makes none "
                                    "that live longer")  # fmt: skip
    return policy, expires_at


async def own_policy(call: Call) -> dict[str, Any] | None:
    """The policy of the key that makes the call."""
    key = await db.find(call.tx, ApiKey, call.principal.key_id) if call.principal.key_id else None
    return key.policy if key else None


async def make_key(
    tx: Tx, user_id: UUID, name: str, policy: dict[str, Any] | None = None, expires_at: datetime | None = None,
    **access: object,
) -> tuple[str, ApiKey]:  # fmt: skip
    """A new key: its text, which is kept nowhere, and its row."""
    text = auth.new_key()
    prefix = text[: len(auth.PREFIX) + 6]
    key = await changes.insert(
        tx, ApiKey, id=uuid4(), user_id=user_id, name=name, hash=auth.digest(text), prefix=prefix,
        last_used=sa.func.now(), policy=policy, expires_at=expires_at, **access,
    )  # fmt: skip
    return text, key


def to_message(row: ApiKey, **more: object) -> pb.ApiKey:
    policy = pb.KeyPolicy(statements=iam.to_statements(row.policy["statements"])) if row.policy else None
    if row.access_key_id and "s3" not in more:
        more["s3"] = pb.S3Key(access_key_id=row.access_key_id)
    return db.to_message(row, policy=policy, **more)  # type: ignore[no-any-return]


async def send_reset(app: "App", user_id: UUID) -> None:
    """Mail a fresh token to somebody who asked for one. A repeat sends another: only the latest works."""
    token = secrets.token_urlsafe(32)
    async with app.db.transaction() as tx:
        asked = await db.value(tx, _SET_TOKEN, whose=user_id, token_hash=auth.digest(token))
        user = await db.find(tx, User, user_id)
    if asked and user:
        await app.drivers.mail.send(uuid4(), user.email, "Your new password", MAIL.format(token=token))


RECONCILERS["password_reset"] = send_reset


@every(timedelta(hours=1))
async def sweep(app: "App") -> None:
    """Drop reset tokens that have expired."""
    async with app.db.transaction() as tx:
        await db.execute(tx, _EXPIRED)
