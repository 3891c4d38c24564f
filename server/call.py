"""One RPC: the method with its rules, and the call in flight."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from thecloud.v1 import options_pb2

from server import conditions, db, quota, registry
from server.access import Access, Decision
from server.auth import NOBODY, Principal
from server.changes import NO_TENANT
from server.metrics import Observer
from server.resources import Resource

Identity = Callable[[], Awaitable[Principal]]


class Method:
    """An RPC and its rules, read from the descriptor once."""

    def __init__(self, descriptor: MethodDescriptor, implementation: object) -> None:
        self.descriptor = descriptor
        self.name = descriptor.name
        self.full_name = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        self.function: Callable[..., Any] = getattr(implementation, descriptor.name)
        self.prepare: Callable[..., Awaitable[Any]] | None = getattr(implementation, f"prepare_{descriptor.name}", None)
        self.together: Callable[..., Awaitable[Sequence[Message]]] | None = getattr(
            implementation, f"together_{descriptor.name}", None
        )
        self.admits: Callable[..., Awaitable[bool]] | None = getattr(implementation, "admits", None)
        self.request: type[Message] = GetMessageClass(descriptor.input_type)
        self.response: type[Message] = GetMessageClass(descriptor.output_type)
        self.streams = descriptor.client_streaming or descriptor.server_streaming
        self.takes = descriptor.client_streaming and not descriptor.server_streaming  # a stream, and answers once
        rule: options_pb2.Rule = descriptor.GetOptions().Extensions[options_pb2.rule]  # type: ignore[index]
        access_kind = rule.WhichOneof("access")
        if access_kind is None:
            raise TypeError(f"{descriptor.full_name} does not say who may call it")
        if access_kind == "signed_in" and not rule.action:
            raise TypeError(f"{descriptor.full_name} does not say what policies call it")
        if descriptor.server_streaming and not rule.live:
            raise TypeError(f"{descriptor.full_name} streams, so it must be live: no transaction stays open that long")
        if self.takes and (self.prepare is None or rule.live):
            raise TypeError(f"{descriptor.full_name} takes a stream, so prepare_{self.name} has to read it, and then "
                            "the method is like any other: it has a transaction, and is not live")  # fmt: skip
        if rule.live and rule.audit:
            raise TypeError(f"{descriptor.full_name} is live, so it has no transaction to be audited in")
        self.anyone = access_kind == "anyone"
        self.open = access_kind == "signed_in"  # every signed-in caller may, unless a policy says otherwise
        self.permission, self.audit, self.live = rule.permission or rule.action, rule.audit, rule.live
        self.action = rule.audit or self.permission.upper().replace(":", "_")  # as the audit log names it
        self.wider_permission, self.deadline = rule.wider_permission, rule.deadline_seconds
        self.quota, self.tenant_field = list(rule.quota), rule.tenant_field
        if undeclared := {*self.quota} - {*quota.QUOTAS}:
            raise TypeError(f"{descriptor.full_name} uses up quotas that nothing counts: {', '.join(undeclared)}")
        self.rate_limit = rule.rate_limit if rule.HasField("rate_limit") else None
        self.target_kind, _, target = rule.target.partition("/")
        self.target_fields: list[str] = re.findall(r"\{(\w+)\}", target)  # joined by slashes they name it
        self.each = rule.each  # it looks itself whether the caller may, on each of many
        self.lists = descriptor.name.startswith(("List", "Search"))
        self.listed = _listed(descriptor) if descriptor.name.startswith("List") else None
        self.observers: dict[str, Observer] = {}

    def resource(self, request: Message, tenant: UUID | None) -> Resource:
        """What the request is about. Of what it is to make, only the name is known."""
        id = self.reference(request)
        name = "" if id or self.lists or not self.target_fields else getattr(request, "name", "")
        return Resource(self.target_kind, id, name, str(tenant or ""))

    def target(self, *messages: Message | None) -> tuple[str, str]:
        """The kind of what is acted on, and its id in the first message that has one: the request, else the reply."""
        found = (self.reference(message) for message in messages if message)
        return self.target_kind, next((each for each in found if each), "*")

    def reference(self, message: Message) -> str:
        """What the message calls what is acted on: "b/a.txt" of "object/{bucket}/{key}". Empty when it does not."""
        values = [str(getattr(message, name, "")) for name in self.target_fields]
        return "/".join(values) if all(values) else ""


@dataclass(slots=True)
class Call:
    """One RPC in flight: what was called, by whom, in which tenant, and the transaction it runs in."""

    method: Method
    metadata: Mapping[str, str]
    address: str
    request_id: str
    principal: Principal = NOBODY
    tenant: UUID | None = None
    resources: Sequence[Resource] = ()  # what it acts on, as policies see it
    decision: Decision | None = None  # why it was denied
    admitted: bool = False  # by what it acts on, not by policies of the caller
    tx: db.Tx = None  # type: ignore[assignment]  # a live method has none
    prepared: Any = None  # what the method's prepare_… found out before the transaction
    undo: Callable[[], Awaitable[None]] | None = None  # of what prepare_… made, should nothing come of it
    headers: dict[str, str] = field(default_factory=dict)  # of the reply
    identity: Identity | None = None  # tells who is calling, where no API key in the metadata does

    @property
    def tenant_id(self) -> UUID:
        """The tenant the call acts in. Only methods with a permission are sure to have one; a caller without any, who
        is admitted all the same, acts in one that has nothing."""
        assert self.tenant is not None or self.admitted
        return self.tenant or NO_TENANT

    @property
    def access(self) -> Access:
        """What the caller may do in the tenant."""
        return self.principal.access(self.tenant)

    def context(self) -> dict[str, str]:
        """The condition keys of policies."""
        return conditions.context(
            self.tenant, self.principal.user_id, self.principal.email, datetime.now(UTC), self.address,
            self.metadata.get("user-agent", ""),
        )  # fmt: skip

    def may(self, permission: str, kind: str, id: str = "", name: str = "") -> bool:
        """Whether the caller has this permission, on one resource or all of the kind, besides what the method needs."""
        return self.access.may(permission, Resource(kind, id, name, str(self.tenant)), self.context)

    def may_read(self, kind: str, id: str = "", name: str = "") -> bool:
        """Whether the caller may see a resource. What no method shows, nobody may."""
        permission = registry.read_permissions().get(kind)
        return permission is not None and self.may(permission, kind, id, name)

    def details(self, request: Message) -> dict[str, Any]:
        """What the audit log keeps of how this was decided."""
        [meant, *_] = self.resources or [self.method.resource(request, self.tenant)]
        said: dict[str, Any] = {"permission": self.method.permission, "name": meant.name}
        if self.decision:
            said |= {"decision": self.decision.reason, "statements": [
                {"policy_id": each.policy_id, "policy_name": each.policy_name, "sid": str(each.sid),
                 "effect": each.effect} for each in self.decision.statements
            ]}  # fmt: skip
        return said


def _listed(descriptor: MethodDescriptor) -> str | None:
    """The field of a list's response that has the items."""
    return next((
        each.name for each in descriptor.output_type.fields
        if each.is_repeated and each.message_type and "id" in each.message_type.fields_by_name
    ), None)  # fmt: skip


async def identified(tx: db.Tx, tenant_id: UUID, kind: str, reference: str) -> list[Resource]:
    """All that a request may mean by this id or name, with both; what is not there yet, or nowhere, as it was named."""
    tenant, cls = str(tenant_id), db.KINDS.get(kind)
    if reference and cls is not None and issubclass(cls, db.Owned):
        found = [
            Resource(kind, str(id), name, tenant) for id, name in await db.identities(tx, cls, reference, tenant_id)
        ]
        if found:
            return found
    try:
        return [Resource(kind, str(UUID(reference)), "", tenant)]
    except ValueError:
        return [Resource(kind, "", reference, tenant)]
