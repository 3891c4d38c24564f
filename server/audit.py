"""The audit log: attempt and outcome of every change, and of every read that was denied.

An entry is written with the change itself, at the end of its transaction. Each tenant's entries
are a chain: entry n carries hash(n) = SHA-256(hash(n - 1) + SHA-256(entry n)), with 32 zero bytes
before the first. The tenant's head keeps the number and the hash of the latest entry, so a
changed, removed or inserted entry is found by reading along the chain (`thecloud audit verify`).
Whoever can write to the database can also compute a whole new chain: a head that was noted
somewhere else finds that too.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import audit_pb2 as pb

from server import changes, db
from server.changes import NO_TENANT, Change
from server.db import METADATA, Asked, Owned, Tx

if TYPE_CHECKING:
    from server.call import Call

LONGEST = 500  # characters of what a caller says
LARGEST = 2**16  # bytes of a resource's state; the change log has what is larger
MOST_REMEMBERED = 10_000  # heads
FIRST = bytes(32)


@db.row("audit_log", "audit_log", pb.AuditLog)
class Entry(Owned):
    sequence: int
    hash: bytes
    user_id: UUID | None
    key_id: UUID | None
    actor: str
    action: str
    resource_type: str
    resource_id: str
    status: str
    reason: str | None
    ip_address: str
    user_agent: str
    request_id: str
    details: str  # JSON, as text, since the hash is of its bytes


HEADS = sa.Table(
    "audit_heads",
    METADATA,
    sa.Column("tenant_id", postgresql.UUID, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
HASHED = (
    "id", "created_at", "tenant_id", "user_id", "key_id", "actor", "action", "resource_type", "resource_id", "status",
    "reason", "ip_address", "user_agent", "request_id", "details",
)  # fmt: skip
_tenant = sa.bindparam("tenant", type_=postgresql.UUID)
_TAKE = (
    postgresql.insert(HEADS)
    .values(tenant_id=_tenant, sequence=0, hash=FIRST)
    .on_conflict_do_update(index_elements=[HEADS.c.tenant_id], set_={"sequence": HEADS.c.sequence})
    .returning(HEADS.c.tenant_id, HEADS.c.sequence, HEADS.c.hash)
)
_GIVEN = {f"new_{name}": Entry.TABLE.c[name].type for name in ("sequence", "hash", *HASHED)}
_given = db.together(_GIVEN)
_head = (
    sa.update(HEADS)
    .where(HEADS.c.tenant_id == _tenant, HEADS.c.sequence == sa.bindparam("first", type_=sa.BigInteger),
           HEADS.c.hash == sa.bindparam("first_hash", type_=sa.LargeBinary))
    .values(sequence=sa.bindparam("last", type_=sa.BigInteger), hash=sa.bindparam("last_hash", type_=sa.LargeBinary))
    .returning(HEADS.c.sequence)
    .cte("audit_head")
)  # fmt: skip
_entries = (
    sa.insert(Entry.TABLE)
    .from_select(
        [name.removeprefix("new_") for name in _GIVEN], sa.select(*_given.c).select_from(_given.join(_head, sa.true()))
    )
    .returning(Entry.TABLE.c.sequence)
    .cte("entries")
)
_APPENDED = sa.select(sa.func.count()).select_from(_entries).scalar_subquery()


@dataclass(frozen=True)
class Said:
    """What an entry is to say."""

    tenant_id: UUID
    target: tuple[str, str]
    details: dict[str, Any]
    columns: dict[str, Any]
    changes: Sequence[Change]  # that its call has made, once the transaction ends

    def values(self) -> dict[str, Any]:
        """The columns of the entry, but for its place in the chain."""
        kind, id = self.target
        found = next((change for change in self.changes if str(change.id) == id), next(iter(self.changes), None))
        states = {"before": found.before, "after": found.after} if found else {}
        said = {name: value for name, value in (self.details | states).items() if value is not None and value != ""}
        if len(text := orjson.dumps(said, option=orjson.OPT_UTC_Z)) > LARGEST:
            text = orjson.dumps(self.details | {"too_large": "the change log has what became of the resource"})
        return self.columns | {
            "id": db.new_id(), "created_at": datetime.now(UTC), "tenant_id": self.tenant_id, "resource_type": kind,
            "resource_id": clean(id), "details": text.decode(),
        }  # fmt: skip


def record(tx: Tx, call: "Call", status: str, target: tuple[str, str], reason: str | None = None,
           **details: Any) -> None:  # fmt: skip
    """Have an entry written when the transaction commits: what was tried on what, by whom, from where, how it ended."""
    principal = call.principal
    _have_written(tx, call.tenant or NO_TENANT, target, details, {
        "user_id": principal.user_id if principal.key_id else None, "key_id": principal.key_id,
        "actor": principal.email, "action": call.method.action, "status": status, "reason": reason,
        "ip_address": call.address, "user_agent": clean(call.metadata.get("user-agent", "")),
        "request_id": call.request_id,
    })  # fmt: skip


def note(tx: Tx, action: str, target: tuple[str, str], tenant_id: UUID = NO_TENANT, **details: Any) -> None:
    """Have an entry written of what an operator does to the database itself."""
    _have_written(tx, tenant_id, target, details, {
        "user_id": None, "key_id": None, "actor": tx.actor, "action": action, "status": "success", "reason": None,
        "ip_address": "", "user_agent": "", "request_id": tx.request_id,
    })  # fmt: skip


def _have_written(
    tx: Tx, tenant_id: UUID, target: tuple[str, str], details: dict[str, Any], columns: dict[str, Any]
) -> None:  # fmt: skip
    tx.before_commit((str(tenant_id), "audit"), _write, Said(tenant_id, target, details, columns, tx.changes))


async def _write(tx: Tx, entries: list[Said]) -> None:
    """Add entries to the chain of a tenant, whose head is taken until the transaction has ended. Where the head is as
    this process has left it, which is likely, it need not be read. The tenant's changes are written along, and what is
    asked last is asked along."""
    tenant_id, values = entries[0].tenant_id, [said.values() for said in entries]
    digests, changed = [digest(each) for each in values], tx.taken_along(changes.key(tenant_id))
    asked = tx.asked.pop() if tx.asked else None
    head = _LATEST.get(tenant_id)
    after = await _append(tx, head, values, digests, changed, asked) if head else None
    if after is None:
        head = Head(**await db.record(tx, _TAKE, tenant=tenant_id))
        after = await _append(tx, head, values, digests, changed, asked)
    assert after
    tx.after_commit.append(partial(_remember, after))


async def _append(
    tx: Tx, head: "Head", values: Sequence[dict[str, Any]], digests: Sequence[bytes], changed: Sequence[Change],
    asked: Asked | None,
) -> "Head | None":  # fmt: skip
    """Where the chain ends then; None, and nothing was done, when it does not end here."""
    hashes, hash = [], head.hash
    for each in digests:
        hash = hashlib.sha256(hash + each).digest()
        hashes.append(hash)
    last = head.sequence + len(values)
    columns: dict[str, Any] = {f"new_{name}": [each[name] for each in values] for name in HASHED}
    if changed:
        columns |= changes.told(changed)
    if asked:
        columns |= asked.values
    *answer, done = await db.record(
        tx, _appending(bool(changed), asked.statement if asked else None), **columns | {"tenant": head.tenant_id},
        first=head.sequence, first_hash=head.hash, last=last, last_hash=hash,
        new_sequence=[*range(head.sequence + 1, last + 1)], new_hash=hashes,
    )  # fmt: skip
    if asked and done:
        asked.tell(answer)
    return Head(head.tenant_id, last, hash) if done else None


@cache
def _appending(changed: bool, asked: sa.Select[Any] | None) -> sa.Select[Any]:
    """Adds entries, and changes. Its row has the answer to what is asked, and then how many entries were added."""
    statement = sa.select(_APPENDED) if asked is None else asked.add_columns(_APPENDED)
    return statement.add_cte(changes.appending(_head).cte("changed")) if changed else statement


def _remember(head: "Head") -> None:
    if len(_LATEST) >= MOST_REMEMBERED:
        _LATEST.clear()
    _LATEST[head.tenant_id] = head


def digest(values: Mapping[str, Any]) -> bytes:
    """The SHA-256 of an entry: of its columns as a JSON list, moments in microseconds of UTC."""
    columns = [values[name] for name in HASHED]
    shown = [each.astimezone(UTC).isoformat(timespec="microseconds") if isinstance(each, datetime) else
             each if each is None else str(each) for each in columns]  # fmt: skip
    return hashlib.sha256(orjson.dumps(shown)).digest()


def clean(text: str) -> str:
    """What a refused request says of itself may be anything: no more of it than is of use."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:LONGEST]


@dataclass(frozen=True)
class Head:
    """Where a tenant's chain ends."""

    tenant_id: UUID
    sequence: int
    hash: bytes


_LATEST: dict[UUID, Head] = {}  # of each tenant, as far as this process knows
_HEADS = sa.select(HEADS.c.tenant_id, HEADS.c.sequence, HEADS.c.hash).order_by(HEADS.c.tenant_id)
_TENANTS = sa.select(Entry.TABLE.c.tenant_id).distinct()
_chain = sa.and_(
    Entry.TABLE.c.tenant_id == sa.bindparam("tenant"), Entry.TABLE.c.sequence > sa.bindparam("after"),
    Entry.TABLE.c.sequence <= sa.bindparam("last"),
)  # fmt: skip
_CHAIN = sa.select(Entry.TABLE).where(_chain).order_by(Entry.TABLE.c.sequence).limit(1000)
_STRAYS = sa.select(sa.func.count()).where(
    Entry.TABLE.c.tenant_id == sa.bindparam("tenant"), sa.or_(Entry.TABLE.c.sequence < 1,
                                                              Entry.TABLE.c.sequence > sa.bindparam("last"))
)  # fmt: skip


async def verify(tx: Tx, noted: Mapping[UUID, Head]) -> AsyncIterator[Head | str]:
    """Read along every chain, in a transaction that sees one moment. The head of each that holds, else what is wrong.

    `noted` has heads of earlier: a chain that no longer leads through them was made anew.
    """
    heads = {each["tenant_id"]: Head(**each) for each in await db.records(tx, _HEADS)}
    for each in await db.records(tx, _TENANTS):
        heads.setdefault(each["tenant_id"], Head(each["tenant_id"], 0, FIRST))
    for tenant_id in noted.keys() - heads.keys():
        yield f"tenant {tenant_id}: the whole chain was removed; it had {noted[tenant_id].sequence} entries"
    for head in heads.values():
        yield await _broken(tx, head, noted.get(head.tenant_id)) or head


async def _broken(tx: Tx, head: Head, noted: Head | None) -> str | None:
    """What is wrong with this chain; None when it holds."""
    name, sequence, hash = f"tenant {head.tenant_id}", 0, FIRST
    while sequence < head.sequence:
        entries = await db.rows(tx, Entry, _CHAIN, tenant=head.tenant_id, after=sequence, last=head.sequence)
        for entry in entries:
            sequence += 1
            if entry.sequence != sequence:
                return f"{name}: entry {sequence} was removed"
            hash = hashlib.sha256(hash + digest(vars(entry))).digest()
            if entry.hash != hash:
                return f"{name}: entry {sequence} (id {entry.id}, {entry.created_at}) was changed or inserted"
            if noted and noted.sequence == sequence and noted.hash != hash:
                return f"{name}: the chain up to entry {sequence} was made anew since its head was noted"
        if not entries:
            return f"{name}: the entries from {sequence + 1} to {head.sequence} were removed"
    if hash != head.hash:
        return f"{name}: the head does not fit entry {sequence}: it was changed"
    if strays := await db.value(tx, _STRAYS, tenant=head.tenant_id, last=head.sequence):
        return f"{name}: {strays} entries beyond the chain's {head.sequence} were inserted"
    if noted and noted.sequence > head.sequence:
        return f"{name}: it had {noted.sequence} entries when its head was noted, and has {head.sequence}"
    return None
