"""What all processes of one cloud share: its id, and the key that signs short-lived addresses."""

import base64
import hmac
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server import db
from server.db import METADATA, Tx

CLOUD = sa.Table(
    "cloud",
    METADATA,
    sa.Column("id", postgresql.UUID, primary_key=True),
    sa.Column("signing_key", sa.LargeBinary, nullable=False),
    sa.Column("sealing_key_id", sa.Text, nullable=True),  # of the first process's secret store, which is everybody's
)
_ADOPT = sa.update(CLOUD).where(CLOUD.c.sealing_key_id.is_(None)).values(sealing_key_id=sa.bindparam("key_id"))


@dataclass(frozen=True)
class Cloud:
    """One installation."""

    id: UUID
    signing_key: bytes

    def sign(self, claims: dict[str, Any], seconds: int) -> str:
        """A token that says these things, for so long."""
        payload = orjson.dumps({**claims, "until": int(time.time()) + seconds})
        return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (payload, self._mac(payload)))

    def verify(self, token: str) -> dict[str, Any] | None:
        """What the token says; None when we did not sign it, or its time is over."""
        try:
            payload, mac = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
        except ValueError:
            return None
        if not hmac.compare_digest(mac, self._mac(payload)):
            return None
        claims: dict[str, Any] = orjson.loads(payload)
        return claims if claims["until"] > time.time() else None

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self.signing_key, payload, "sha256")


async def read(tx: Tx) -> Cloud:
    """This database's cloud. The first migration made it."""
    return Cloud(*(await db.record(tx, sa.select(CLOUD.c.id, CLOUD.c.signing_key))).values())


async def sealed_with(tx: Tx, key_id: str) -> str:
    """The id of the key that this cloud's secrets are sealed with: this one, if there was none yet."""
    await db.execute(tx, _ADOPT, key_id=key_id)
    return str(await db.value(tx, sa.select(CLOUD.c.sealing_key_id)))
