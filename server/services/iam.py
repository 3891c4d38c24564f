"""IAM policies: who may do what, beyond their role. server/access.py decides; server/auth.py has the tables."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import sqlalchemy as sa
from google.protobuf.json_format import MessageToDict
from sqlalchemy.dialects import postgresql
from thecloud.v1 import iam_pb2 as pb

from server import access, auth, changes, conditions, db, enums, pages, quota, registry, request_fields
from server.access import Access, Policy
from server.audit import Entry
from server.auth import ATTACHMENTS, Member, Principal, StoredPolicy
from server.call import Call, identified
from server.conditions import CONTEXT_KEYS
from server.db import Tx
from server.errors import ApiError, invalid, invalid_fields, not_found
from server.resources import Resource

if TYPE_CHECKING:
    from server.app import App

MOST_ATTACHED = 50  # policies of one member
REPLAYED = 20_000  # requests
SHOWN = 1000  # of each kind of difference
EFFECTS = enums.spellings(pb.Statement.Effect.DESCRIPTOR)
EFFECT_NUMBERS: Any = enums.numbers(pb.Statement.Effect.DESCRIPTOR)

P = StoredPolicy.TABLE.c
A = ATTACHMENTS.c
E = Entry.TABLE.c
_tenant = P.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_attached = sa.and_(
    _tenant, P.id.in_(sa.select(A.policy_id).where(A.user_id == sa.bindparam("user_id", type_=postgresql.UUID)))
)
_ATTACH = (
    postgresql.insert(ATTACHMENTS)
    .values({name: sa.bindparam(name) for name in ("user_id", "policy_id", "tenant_id")})
    .on_conflict_do_nothing()
)
_DETACH = sa.delete(ATTACHMENTS).where(A.user_id == sa.bindparam("whose"), A.policy_id == sa.bindparam("policy"))
_HOLDERS = sa.select(A.user_id).where(A.policy_id == sa.bindparam("policy"))
_HOW_MANY = sa.select(sa.func.count()).where(A.user_id == sa.bindparam("whose"), A.tenant_id == sa.bindparam("tenant"))
_MEMBER = sa.select(Member.TABLE).where(
    Member.TABLE.c.user_id == sa.bindparam("whose"), Member.TABLE.c.tenant_id == sa.bindparam("tenant")
)
_OF_REQUEST = (
    sa.select(Entry.TABLE)
    .where(E.tenant_id == sa.bindparam("tenant"), E.request_id == sa.bindparam("request"),
           E.reason == "PERMISSION_DENIED")
    .order_by(E.sequence.desc())
    .limit(1)
)  # fmt: skip
_REQUESTS = (
    sa.select(Entry.TABLE)
    .where(E.tenant_id == sa.bindparam("tenant"), E.sequence < sa.bindparam("before"),
           E.created_at >= sa.bindparam("since", type_=postgresql.TIMESTAMP(timezone=True)),
           E.user_id.is_not(None))
    .order_by(E.sequence.desc())
    .limit(1000)
)  # fmt: skip

quota.counted("policies", 100, sa.select(sa.func.count()).select_from(StoredPolicy.TABLE).where(_tenant))


class IamService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListPolicies(self, call: Call, request: pb.ListPoliciesRequest) -> pb.ListPoliciesResponse:
        found, token = await pages.page(
            call.tx, StoredPolicy, _tenant, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListPoliciesResponse(policies=map(to_message, found), next_page_token=token)

    async def CreatePolicy(self, call: Call, request: pb.CreatePolicyRequest) -> pb.Policy:
        statements = checked(request.statements)
        try:
            return to_message(await changes.insert(
                call.tx, StoredPolicy, id=uuid4(), tenant_id=call.tenant_id, name=request.name,
                description=request.description, statements=statements,
            ))  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise taken(request.name) from None

    async def GetPolicy(self, call: Call, request: pb.GetPolicyRequest) -> pb.Policy:
        return to_message(await db.get(call.tx, StoredPolicy, request.id, call.tenant_id))

    async def UpdatePolicy(self, call: Call, request: pb.UpdatePolicyRequest) -> pb.Policy:
        policy = await db.get(call.tx, StoredPolicy, request.id, call.tenant_id, lock=True)
        wanted = request_fields.masked(request, "name", "description", "statements")
        if wanted.get("name") == "":
            raise invalid("name", "a name has at least one character")
        if "statements" in wanted:
            wanted["statements"] = checked(request.statements)
        try:
            changed = await changes.update(call.tx, policy, **wanted)
        except asyncpg.UniqueViolationError:
            raise taken(request.name) from None
        await self._forget_holders(call.tx, policy.id)
        return to_message(changed)

    async def DeletePolicy(self, call: Call, request: pb.DeletePolicyRequest) -> pb.DeletePolicyResponse:
        policy = await db.get(call.tx, StoredPolicy, request.id, call.tenant_id, lock=True)
        await self._forget_holders(call.tx, policy.id)
        await changes.delete(call.tx, policy)
        return pb.DeletePolicyResponse(status="deleted")

    async def AttachUserPolicy(
        self, call: Call, request: pb.AttachUserPolicyRequest
    ) -> pb.AttachUserPolicyResponse:  # fmt: skip
        policy = await db.get(call.tx, StoredPolicy, request.policy_id, call.tenant_id, lock=True)
        user_id = await member(call.tx, request.user_id, call.tenant_id, lock=True)
        await db.execute(call.tx, _ATTACH, user_id=user_id, policy_id=policy.id, tenant_id=call.tenant_id)
        if await db.value(call.tx, _HOW_MANY, whose=user_id, tenant=call.tenant_id) > MOST_ATTACHED:
            raise invalid("user_id", f"a member has at most {MOST_ATTACHED} policies; join some of them into one")
        await self.app.keys.forget(call.tx, user_id)
        return pb.AttachUserPolicyResponse(status="attached")

    async def DetachUserPolicy(
        self, call: Call, request: pb.DetachUserPolicyRequest
    ) -> pb.DetachUserPolicyResponse:  # fmt: skip
        policy = await db.get(call.tx, StoredPolicy, request.policy_id, call.tenant_id, lock=True)
        if not await db.execute(call.tx, _DETACH, whose=UUID(request.user_id), policy=policy.id):
            raise ApiError("NOT_FOUND", f"policy {policy.id} is not attached to user {request.user_id}",
                           kind="policy_attachment", id=request.user_id)  # fmt: skip
        await self.app.keys.forget(call.tx, UUID(request.user_id))
        return pb.DetachUserPolicyResponse(status="detached")

    async def ListUserPolicies(
        self, call: Call, request: pb.ListUserPoliciesRequest
    ) -> pb.ListUserPoliciesResponse:  # fmt: skip
        user_id = await member(call.tx, request.user_id, call.tenant_id)
        found, token = await pages.page(
            call.tx, StoredPolicy, _attached, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id, user_id=user_id,
        )  # fmt: skip
        return pb.ListUserPoliciesResponse(policies=map(to_message, found), next_page_token=token)

    async def SimulateAccess(self, call: Call, request: pb.SimulateAccessRequest) -> pb.Decision:
        user_id = await member(call.tx, request.user_id, call.tenant_id)
        permission = access.resolve(request.action)
        if permission is None:
            raise invalid("action", f"there is no action {request.action!r}; {access.hint(request.action)}")
        if unknown := set(request.context) - CONTEXT_KEYS:
            raise invalid("context", f"there is no condition key {sorted(unknown)[0]!r}; "
                                     f"there are {', '.join(sorted(CONTEXT_KEYS))}")  # fmt: skip
        somebody = await auth.standing(call.tx, user_id)
        assert somebody is not None
        known = conditions.context(call.tenant, user_id, somebody.email, datetime.now(UTC), "", "") | dict(
            request.context
        )
        kind, _, reference = request.resource.partition(":")
        resources = await identified(call.tx, call.tenant_id, kind or "*", reference.removesuffix("*"))
        mine, default = somebody.access(call.tenant_id), permission in registry.open_actions()
        decisions = [mine.explain(permission, each, lambda: known, default=default) for each in resources]
        return decided(next((each for each in decisions if not each.allowed), decisions[0]))

    async def ExplainDenial(self, call: Call, request: pb.ExplainDenialRequest) -> pb.Denial:
        entry = await db.first(call.tx, Entry, _OF_REQUEST, tenant=call.tenant_id, request=request.request_id)
        if entry is None:
            raise ApiError("NOT_FOUND", f"the audit log of this tenant has no denied request {request.request_id}",
                           kind="request", id=request.request_id)  # fmt: skip
        details = orjson.loads(entry.details)
        return pb.Denial(
            request_id=entry.request_id, timestamp=entry.created_at, actor=entry.actor,
            action=details.get("permission", ""), resource=f"{entry.resource_type}:{entry.resource_id}",
            reason=details.get("decision", details["message"]),
            statements=[pb.DecidingStatement(**each | {"effect": EFFECT_NUMBERS[each["effect"]]})
                        for each in details.get("statements", ())],
        )  # fmt: skip

    async def ReplayPolicy(self, call: Call, request: pb.ReplayPolicyRequest) -> pb.ReplayPolicyResponse:
        statements = checked(request.statements)
        replaced = request.policy_id and await db.get(call.tx, StoredPolicy, request.policy_id, call.tenant_id)
        proposal = Policy.compile(replaced.id.hex if replaced else "proposal", "the proposal", statements)
        replay = Replay(call.tenant_id, proposal, str(replaced.id) if replaced else None)
        if request.user_id:
            replay.whose = {await member(call.tx, request.user_id, call.tenant_id)}
        elif replaced:
            replay.whose = {each["user_id"] for each in await db.records(call.tx, _HOLDERS, policy=replaced.id)}
        since, before = datetime.now(UTC) - timedelta(days=request.days or 7), 2**62
        response = pb.ReplayPolicyResponse()
        while entries := await db.rows(call.tx, Entry, _REQUESTS, tenant=call.tenant_id, since=since, before=before):
            if response.examined >= REPLAYED:
                response.truncated = True
                break
            before = entries[-1].sequence
            for entry in entries:
                response.examined += 1
                await replay.compare(call.tx, entry, response)
        return response

    async def _forget_holders(self, tx: Tx, policy_id: UUID) -> None:
        for holder in await db.records(tx, _HOLDERS, policy=policy_id):
            await self.app.keys.forget(tx, holder["user_id"])


class Replay:
    """Requests of the past, decided as of today without and with a proposed policy."""

    def __init__(self, tenant_id: UUID, proposal: Policy, replaced: str | None) -> None:
        self.tenant_id, self.proposal, self.replaced = tenant_id, proposal, replaced
        self.whose: set[UUID] | None = None  # None: everybody's
        self._sides: dict[tuple[UUID, UUID | None], tuple[Principal, Access, Access] | None] = {}

    async def compare(self, tx: Tx, entry: Entry, response: pb.ReplayPolicyResponse) -> None:
        details = orjson.loads(entry.details)
        permission, user_id = details.get("permission"), entry.user_id
        if not permission or user_id is None or (self.whose is not None and user_id not in self.whose):
            return
        key = user_id, entry.key_id
        if key not in self._sides:
            self._sides[key] = await self._both(tx, *key)
        if (sides := self._sides[key]) is None:
            return
        somebody, without, proposed = sides
        known = conditions.context(
            self.tenant_id, user_id, somebody.email, entry.created_at, entry.ip_address, entry.user_agent
        )
        id = "" if entry.resource_id == "*" else entry.resource_id
        resource = Resource(entry.resource_type, id, details.get("name", ""), str(self.tenant_id))
        default = permission in registry.open_actions()
        before = without.may(permission, resource, lambda: known, default=default)
        after = proposed.may(permission, resource, lambda: known, default=default)
        shown = response.newly_allowed if after else response.newly_denied
        if before != after and len(shown) < SHOWN:
            decision = proposed.explain(permission, resource, lambda: known, default=default)
            shown.add(
                request_id=entry.request_id, timestamp=entry.created_at, actor=entry.actor, action=permission,
                resource=f"{entry.resource_type}:{entry.resource_id}", decision=decided(decision),
            )  # fmt: skip

    async def _both(
        self, tx: Tx, user_id: UUID, key_id: UUID | None
    ) -> tuple[Principal, Access, Access] | None:  # fmt: skip
        """Somebody, and what they may do without and with the proposal; None when they are no member any more."""
        somebody = await auth.standing(tx, user_id, key_id)
        if somebody is None or self.tenant_id not in somebody.roles:
            return None
        kept = [each for each in somebody.policies.get(self.tenant_id, ()) if each.id != self.replaced]
        proposed = replace(somebody, policies={self.tenant_id: [*kept, self.proposal]}, _access={})
        return somebody, somebody.access(self.tenant_id), proposed.access(self.tenant_id)


async def member(tx: Tx, user_id: str, tenant_id: UUID, *, lock: bool = False) -> UUID:
    """The id of a member of the tenant. Raises NOT_FOUND for anybody else."""
    statement = _MEMBER.with_for_update(key_share=True) if lock else _MEMBER
    if await db.record(tx, statement, whose=UUID(user_id), tenant=tenant_id) is None:
        raise not_found("user", user_id)
    return UUID(user_id)


def taken(name: str) -> ApiError:
    return ApiError("ALREADY_EXISTS", f"a policy {name!r} is there already; update it, or choose another name",
                    kind="policy", name=name)  # fmt: skip


def checked(statements: Sequence[pb.Statement], under: str = "") -> list[dict[str, Any]]:
    """Statements as plain data. Raises INVALID_ARGUMENT with the path of whatever is wrong; `under` comes before it."""
    found = list(plain(statements))
    if violations := access.check(found):
        raise invalid_fields([(under + path, text) for path, text in violations])
    return found


def plain(statements: Iterable[pb.Statement]) -> Iterator[dict[str, Any]]:
    """Statements as they are stored, in the documented spelling."""
    for each in statements:
        statement: dict[str, Any] = {"sid": each.sid} if each.sid else {}
        statement |= {"effect": EFFECTS[each.effect], "action": list(each.action), "resource": list(each.resource)}
        if each.HasField("condition"):
            statement["condition"] = MessageToDict(each.condition)
        yield statement


def to_statements(statements: Iterable[dict[str, Any]]) -> list[pb.Statement]:
    return [pb.Statement(**each | {"effect": EFFECT_NUMBERS[each["effect"]]}) for each in statements]


def to_message(row: StoredPolicy) -> pb.Policy:
    return db.to_message(row, statements=to_statements(row.statements))  # type: ignore[no-any-return]


def decided(decision: access.Decision) -> pb.Decision:
    return pb.Decision(
        allowed=decision.allowed, reason=decision.reason,
        statements=[
            pb.DecidingStatement(policy_id=each.policy_id, policy_name=each.policy_name, sid=str(each.sid),
                                 effect=EFFECT_NUMBERS[each.effect])
            for each in decision.statements
        ],
    )  # fmt: skip
