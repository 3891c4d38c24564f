"""Tenants own resources; people are members of tenants."""

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from thecloud.v1 import tenants_pb2 as pb

from server import access, changes, db, enums
from server.auth import Member, User
from server.db import Row, Tx
from server.errors import ApiError, not_found
from server.pipeline import Call

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


class TenantService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListTenants(self, call: Call, request: pb.ListTenantsRequest) -> pb.ListTenantsResponse:
        found, token = await db.page(
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
