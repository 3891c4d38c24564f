"""Public keys by which new instances let people in."""

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import ssh_keys_pb2 as pb

from server import changes, db, pages, quota
from server.call import Call
from server.db import Owned, Tx
from server.errors import ApiError, invalid

if TYPE_CHECKING:
    from server.app import App

TYPES = (
    "ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
)  # fmt: skip
FEWEST_BITS, MOST_BITS = 2048, 16384  # of RSA; OpenSSH takes no more either
PRIVATE = ("PRIVATE KEY", "PuTTY-User-Key-File")


@db.row("ssh_keys", "ssh_key", pb.SshKey)
class SshKey(Owned):
    user_id: UUID
    name: str
    public_key: str
    fingerprint: str
    key_type: str


_listed = SshKey.TABLE.c.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)

quota.counted("ssh_keys", 100, sa.select(sa.func.count()).select_from(SshKey.TABLE).where(_listed))


class SshKeyService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListSshKeys(self, call: Call, request: pb.ListSshKeysRequest) -> pb.ListSshKeysResponse:
        found, token = await pages.page(
            call.tx, SshKey, _listed, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListSshKeysResponse(ssh_keys=map(db.to_message, found), next_page_token=token)

    async def CreateSshKey(self, call: Call, request: pb.CreateSshKeyRequest) -> pb.SshKey:
        key = parse(request.public_key)
        try:
            return db.to_message(await changes.insert(  # type: ignore[no-any-return]
                call.tx, SshKey, id=uuid4(), tenant_id=call.tenant_id, user_id=call.principal.user_id,
                name=request.name, public_key=key.line, fingerprint=key.fingerprint, key_type=key.type,
            ))  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise ApiError("ALREADY_EXISTS", f"an SSH key {request.name!r} is there already; choose another name",
                           kind="ssh_key", name=request.name) from None  # fmt: skip

    async def GetSshKey(self, call: Call, request: pb.GetSshKeyRequest) -> pb.SshKey:
        return db.to_message(await db.locate(call.tx, SshKey, request.id, call.tenant_id))  # type: ignore[no-any-return]

    async def DeleteSshKey(self, call: Call, request: pb.DeleteSshKeyRequest) -> Empty:
        await changes.delete(call.tx, await db.locate(call.tx, SshKey, request.id, call.tenant_id, lock=True))
        return Empty()


@dataclass(frozen=True)
class PublicKey:
    """One line of a file of authorized keys, without options."""

    type: str
    body: str  # Base64
    comment: str

    @property
    def line(self) -> str:
        return " ".join(filter(None, (self.type, self.body, self.comment)))

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        digest = hashlib.sha256(base64.b64decode(self.body)).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def parse(text: str) -> PublicKey:
    """The key that this line is. Raises INVALID_ARGUMENT for what sshd would not take, or should not."""
    if any(mark in text for mark in PRIVATE):
        raise invalid("public_key", "this is a private key; it stays with you. Send the line of the .pub file beside "
                                    "it, and, as it has travelled, make yourself another")  # fmt: skip
    text = text.strip()
    if not text.isprintable():
        raise invalid("public_key", "a public key is one line, without control characters")
    kind, _, rest = text.partition(" ")
    body, _, comment = rest.partition(" ")
    if kind not in TYPES:
        raise invalid("public_key", f"a public key begins with its type, one of {', '.join(TYPES)}")
    try:
        base64.b64decode(body, validate=True)
        key = load_ssh_public_key(f"{kind} {body}".encode())
    except (ValueError, UnsupportedAlgorithm):
        raise invalid("public_key", f"what follows {kind} is no such key; send the whole line of a .pub file") from None
    if isinstance(key, RSAPublicKey) and not FEWEST_BITS <= key.key_size <= MOST_BITS:
        raise invalid("public_key", f"an RSA key has {FEWEST_BITS} to {MOST_BITS} bits, and this one {key.key_size}")
    return PublicKey(kind, body, comment.strip())


async def lines(tx: Tx, reference: str, tenant_id: UUID) -> list[str]:
    """What a new instance is to let in: the key with this id or name, named so in its comment; none for ""."""
    if not reference:
        return []
    key = await db.locate(tx, SshKey, reference, tenant_id)
    kind, body, *_ = key.public_key.split(" ")
    return [PublicKey(kind, body, key.name).line]
