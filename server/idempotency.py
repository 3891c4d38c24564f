"""The reply to a call, kept for a day so that a retry with the same Idempotency-Key gets it again.

What is kept is sealed (AES-256-GCM) with a key made of the caller's credential and the idempotency
key, neither of which is stored: a reply may hold a secret, such as the text of a new API key.
"""

import hashlib
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import Message
from sqlalchemy.dialects import postgresql

from server import auth, db
from server.db import METADATA
from server.errors import ApiError, invalid
from server.work import every

if TYPE_CHECKING:
    from server.app import App
    from server.call import Call

KEPT = timedelta(hours=24)
NOTHING = b""

KEYS = sa.Table(
    "idempotency_keys",
    METADATA,
    sa.Column("user_id", postgresql.UUID, primary_key=True),
    sa.Column("key_hash", sa.LargeBinary, primary_key=True),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=True),
    sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
)
_mine = sa.and_(KEYS.c.user_id == sa.bindparam("caller"), KEYS.c.key_hash == sa.bindparam("hashed"))
_CLAIM = (
    postgresql.insert(KEYS)
    .values({name: sa.bindparam(name) for name in ("user_id", "key_hash", "request_hash")})
    .on_conflict_do_nothing()
)
_READ = sa.select(KEYS.c.request_hash, KEYS.c.response).where(_mine)
_KEEP = sa.update(KEYS).where(_mine).values(response=sa.bindparam("sealed", type_=sa.LargeBinary))
_SWEEP = sa.delete(KEYS).where(KEYS.c.created_at < sa.func.now() - KEPT)


async def replay(call: "Call", key: str, request: Message) -> Message | None:
    """The reply to the call that came before with this key, once it has committed. None: the key is ours.

    Raises IDEMPOTENCY_KEY_REUSED when that call was another one.
    """
    if len(key) > 255 or not key.isprintable():
        raise invalid("Idempotency-Key", "this wants 1 to 255 printable characters")
    hashed = auth.digest(key)
    what = f"{call.method.full_name}\n{call.tenant}\n".encode() + request.SerializeToString(deterministic=True)
    request_hash = hashlib.sha256(what).digest()
    caller = call.principal.user_id
    if await db.execute(call.tx, _CLAIM, user_id=caller, key_hash=hashed, request_hash=request_hash):
        return None
    before = await db.record(call.tx, _READ, caller=caller, hashed=hashed)
    if before["request_hash"] != request_hash:
        raise ApiError("IDEMPOTENCY_KEY_REUSED", "this Idempotency-Key was used for another request; take a new one")
    sealed: bytes = before["response"]
    try:
        plain = AESGCM(_sealing_key(call, key)).decrypt(sealed[:12], sealed[12:], NOTHING)
    except InvalidTag:
        raise ApiError("IDEMPOTENCY_KEY_REUSED",
                       "this Idempotency-Key was used with another API key; take a new one") from None  # fmt: skip
    return call.method.response.FromString(plain)


async def keep(call: "Call", key: str, response: Message) -> None:
    """Keep the reply for retries."""
    nonce = secrets.token_bytes(12)
    sealed = nonce + AESGCM(_sealing_key(call, key)).encrypt(nonce, response.SerializeToString(), NOTHING)
    await db.execute(call.tx, _KEEP, caller=call.principal.user_id, hashed=auth.digest(key), sealed=sealed)


def _sealing_key(call: "Call", key: str) -> bytes:
    return hashlib.sha256(f"{auth.credential(call.metadata)}\n{key}".encode()).digest()


@every(timedelta(hours=1))
async def sweep(app: "App") -> None:
    """Drop replies older than a day."""
    async with app.db.transaction() as tx:
        await db.execute(tx, _SWEEP)
