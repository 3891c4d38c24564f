"""Tenants own resources; people are members of tenants."""

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import tenants_pb2 as pb

from server import access, changes, db, enums, pages
from server.auth import Member, User
from server.call import Call
from server.db import Row, Tx
from server.errors import ApiError, not_found

if TYPE_CHECKING:
    from server.app import App


@db.row("tenants", "tenant", pb.Tenant)
class Tenant(Row):
    name: str
    slug: str
    owner_id: UUID
    updated_at: datetime


_own = Tenant.TABLE.c.id.in_(
    sa.select(Member.TABLE.c.tenant_id).where(Member.TABLE.c.user_id == sa.bindparam("user_id", type_=postgresql.UUID))
)
_somebody = sa.select(User.TABLE).where(
    sa.or_(
        User.TABLE.c.id == sa.bindparam("user_id", type_=postgresql.UUID), User.TABLE.c.email == sa.bindparam("email")
    )
)
_by_reference = sa.select(Tenant.TABLE).where(
    sa.or_(Tenant.TABLE.c.id == sa.bindparam("id"), Tenant.TABLE.c.slug == sa.bindparam("slug"))
)
_FIRST_DEFAULT = (
    sa.update(User.TABLE)
    .where(User.TABLE.c.id == sa.bindparam("its_user"), User.TABLE.c.default_tenant_id.is_(None))
    .values(default_tenant_id=sa.bindparam("its_tenant", type_=postgresql.UUID))
)
_M = Member.TABLE.c
_members = _M.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_MEMBER = sa.select(Member.TABLE).where(_M.tenant_id == sa.bindparam("tenant"), _M.user_id == sa.bindparam("whose"))
_OWNERS = sa.select(sa.func.count()).where(_M.tenant_id == sa.bindparam("tenant"), _M.role == "owner")
_LOCK = sa.select(Tenant.TABLE.c.id).where(Tenant.TABLE.c.id == sa.bindparam("its_id")).with_for_update(key_share=True)
_NO_DEFAULT = (
    sa.update(User.TABLE)
    .where(User.TABLE.c.id == sa.bindparam("its_user"), User.TABLE.c.default_tenant_id == sa.bindparam("its_tenant"))
    .values(
        default_tenant_id=sa.select(_M.tenant_id)
        .where(_M.user_id == User.TABLE.c.id)
        .order_by(_M.created_at)
        .limit(1)
        .scalar_subquery()
    )
)


class TenantService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListTenants(self, call: Call, request: pb.ListTenantsRequest) -> pb.ListTenantsResponse:
        found, token = await pages.page(
            call.tx, Tenant, _own, size=request.page_size, token=request.page_token, user_id=call.principal.user_id
        )
        return pb.ListTenantsResponse(tenants=map(db.to_message, found), next_page_token=token)

    async def CreateTenant(self, call: Call, request: pb.CreateTenantRequest) -> pb.Tenant:
        tenant = await create(call.tx, call.principal.user_id, request.name, request.slug)
        await db.execute(call.tx, _FIRST_DEFAULT, its_user=call.principal.user_id, its_tenant=tenant.id)
        await self.app.keys.forget(call.tx, call.principal.user_id)
        return db.to_message(tenant)  # type: ignore[no-any-return]

    async def SwitchTenant(self, call: Call, request: pb.SwitchTenantRequest) -> pb.Tenant:
        tenant = await db.find(call.tx, Tenant, UUID(request.id))
        user = await db.find(call.tx, User, call.principal.user_id, lock=True)
        if tenant is None or user is None or tenant.id not in call.principal.roles:
            raise not_found("tenant", request.id)
        await changes.update(call.tx, user, default_tenant_id=tenant.id)
        await self.app.keys.forget(call.tx, user.id)
        return db.to_message(tenant)  # type: ignore[no-any-return]

    async def AddTenantMember(self, call: Call, request: pb.AddTenantMemberRequest) -> pb.TenantMember:
        role = enums.spellings(pb.Role.DESCRIPTOR)[request.role]
        if not access.may_grant(call.principal.roles[call.tenant_id], role):
            raise ApiError("PERMISSION_DENIED", f"only an owner or an admin may add an {role}")
        user = await db.first(
            call.tx, User, _somebody, email=request.email.lower(), user_id=UUID(request.user_id or UUID(int=0).hex)
        )
        if user is None:
            raise not_found("user", request.user_id or request.email)
        member = await add_member(call.tx, call.tenant_id, user.id, role)
        await self.app.keys.forget(call.tx, user.id)
        return to_message(member)

    async def ListTenantMembers(
        self, call: Call, request: pb.ListTenantMembersRequest
    ) -> pb.ListTenantMembersResponse:  # fmt: skip
        found, token = await pages.page(
            call.tx, Member, _members, size=request.page_size, token=request.page_token, tenant_id=call.tenant_id
        )
        return pb.ListTenantMembersResponse(members=map(to_message, found), next_page_token=token)

    async def UpdateTenantMember(self, call: Call, request: pb.UpdateTenantMemberRequest) -> pb.TenantMember:
        member, role = await self._other(call, request.user_id), enums.spellings(pb.Role.DESCRIPTOR)[request.role]
        if not access.may_grant(call.principal.roles[call.tenant_id], role):
            raise ApiError("PERMISSION_DENIED", f"only an owner or an admin may make somebody {role}")
        if role != "owner":
            await keep_an_owner(call.tx, member)
        changed = await changes.update(call.tx, member, role=role)
        await self.app.keys.forget(call.tx, member.user_id)
        return to_message(changed)

    async def RemoveTenantMember(self, call: Call, request: pb.RemoveTenantMemberRequest) -> Empty:
        member = await self._other(call, request.user_id)
        await keep_an_owner(call.tx, member)
        await changes.delete(call.tx, member)
        await db.execute(call.tx, _NO_DEFAULT, its_user=member.user_id, its_tenant=call.tenant_id)
        await self.app.keys.forget(call.tx, member.user_id)
        return Empty()

    async def _other(self, call: Call, user_id: str) -> Member:
        """A member whom the caller may change or remove."""
        await db.execute(call.tx, _LOCK, its_id=call.tenant_id)  # changes of members take turns, so that an owner stays
        member = await db.first(call.tx, Member, _MEMBER, tenant=call.tenant_id, whose=UUID(user_id))
        if member is None:
            raise not_found("tenant_member", user_id)
        if not access.may_grant(call.principal.roles[call.tenant_id], member.role):
            raise ApiError("PERMISSION_DENIED", f"only an owner or an admin may change an {member.role}'s membership")
        return member


async def keep_an_owner(tx: Tx, member: Member) -> None:
    """Raise IN_USE when this is the tenant's only owner."""
    if member.role == "owner" and await db.value(tx, _OWNERS, tenant=member.tenant_id) == 1:
        raise ApiError("IN_USE", "this is the tenant's only owner; make another one first",
                       kind="tenant_member", id=str(member.user_id))  # fmt: skip


def to_message(member: Member) -> pb.TenantMember:
    return db.to_message(member, joined_at=member.created_at)  # type: ignore[no-any-return]


async def named(tx: Tx, reference: str) -> Tenant:
    """The tenant with this id or this slug. For operators: it asks nobody for a membership."""
    try:
        id = UUID(reference)
    except ValueError:
        id = UUID(int=0)
    found = await db.first(tx, Tenant, _by_reference, id=id, slug=reference)
    if found is None:
        raise not_found("tenant", reference)
    return found


async def create(tx: Tx, owner_id: UUID, name: str, slug: str) -> Tenant:
    """A new tenant, with its owner as a member."""
    try:
        tenant = await changes.insert(tx, Tenant, id=uuid4(), name=name, slug=slug, owner_id=owner_id)
    except asyncpg.UniqueViolationError:
        raise ApiError("ALREADY_EXISTS", f"the slug {slug!r} is taken; choose another",
                       kind="tenant", slug=slug) from None  # fmt: skip
    await add_member(tx, tenant.id, owner_id, "owner")
    return tenant


async def add_member(tx: Tx, tenant_id: UUID, user_id: UUID, role: str) -> Member:
    """Raises ALREADY_EXISTS when they are a member."""
    try:
        return await changes.insert(tx, Member, id=uuid4(), tenant_id=tenant_id, user_id=user_id, role=role)
    except asyncpg.UniqueViolationError:
        raise ApiError("ALREADY_EXISTS", f"user {user_id} is a member of the tenant already",
                       kind="tenant_member", id=str(user_id)) from None  # fmt: skip
