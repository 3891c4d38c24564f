"""Security groups: what may reach the instances that have them, and what these may reach."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import security_groups_pb2 as pb

from server import changes, db, enums, instances, networks, pages, quota
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid
from server.networks import SecurityGroup, SecurityRule, read_range
from server.resources import arn
from server.topology import INSTANCES

if TYPE_CHECKING:
    from server.app import App

DIRECTIONS = enums.spellings(pb.SecurityRule.Direction.DESCRIPTOR)
PROTOCOLS = enums.spellings(pb.SecurityRule.Protocol.DESCRIPTOR)
MOST_ATTACHED = 16  # groups of one instance

G, R = SecurityGroup.TABLE.c, SecurityRule.TABLE.c
_of_vpc = networks.of_vpc(SecurityGroup)
_groups = sa.bindparam("groups", type_=postgresql.ARRAY(postgresql.UUID))
_RULES = sa.select(SecurityRule.TABLE).where(R.group_id == sa.any_(_groups)).order_by(R.created_at, R.id)
_USERS = sa.union_all(
    sa.select(sa.literal("instance").label("kind"), INSTANCES.c.id)
    .where(INSTANCES.c.vpc_id == sa.bindparam("vpc_id", type_=postgresql.UUID),
           sa.bindparam("group", type_=sa.Text) == sa.any_(INSTANCES.c.security_groups)),
    sa.select(sa.literal("security_group"), R.group_id)
    .where(R.referenced_group_id == sa.bindparam("group_id", type_=postgresql.UUID),
           R.group_id != R.referenced_group_id),
).limit(5)  # fmt: skip
_SAME = sa.select(R.id).where(
    R.group_id == sa.bindparam("group", type_=postgresql.UUID),
    *(R[name].is_not_distinct_from(sa.bindparam(name, type_=R[name].type))
      for name in ("direction", "protocol", "port_min", "port_max", "cidr", "referenced_group_id")),
)  # fmt: skip

quota.counted("security_groups", 100, networks.counting(SecurityGroup))
quota.counted("security_rules", 2000, networks.counting(SecurityRule))


class SecurityGroupService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListSecurityGroups(
        self, call: Call, request: pb.ListSecurityGroupsRequest
    ) -> pb.ListSecurityGroupsResponse:  # fmt: skip
        vpc = await networks.locate_vpc(call.tx, request.vpc_id, call.tenant_id)
        found, token = await pages.page(
            call.tx, SecurityGroup, _of_vpc, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id, vpc_id=vpc.id,
        )  # fmt: skip
        return pb.ListSecurityGroupsResponse(security_groups=await to_messages(call.tx, found), next_page_token=token)

    async def CreateSecurityGroup(self, call: Call, request: pb.CreateSecurityGroupRequest) -> pb.SecurityGroup:
        vpc = await networks.locate_vpc(call.tx, request.vpc_id, call.tenant_id, lock=True)
        try:
            group = await changes.insert(
                call.tx, SecurityGroup, id=uuid4(), tenant_id=call.tenant_id, user_id=call.principal.user_id,
                vpc_id=vpc.id, name=request.name, description=request.description,
            )  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise ApiError("ALREADY_EXISTS", f"the VPC has a security group {request.name!r} already; choose another "
                           "name", kind="security_group", name=request.name) from None  # fmt: skip
        await networks.changed(call.tx, vpc)
        return await to_message(call.tx, group)

    async def GetSecurityGroup(self, call: Call, request: pb.GetSecurityGroupRequest) -> pb.SecurityGroup:
        return await to_message(call.tx, await db.locate(call.tx, SecurityGroup, request.id, call.tenant_id))

    async def DeleteSecurityGroup(self, call: Call, request: pb.DeleteSecurityGroupRequest) -> Empty:
        vpc, group = await networks.locate_part(call.tx, SecurityGroup, request.id, call.tenant_id)
        users = await db.records(call.tx, _USERS, vpc_id=vpc.id, group=str(group.id), group_id=group.id)
        if users:
            named = ",".join(f"{each['kind']}/{each['id']}" for each in users)
            raise ApiError("IN_USE", f"security group {group.name} is used by {named}; detach it, or remove the rule",
                           kind="security_group", id=str(group.id), by=named)  # fmt: skip
        for rule in await db.rows(call.tx, SecurityRule, _RULES, groups=[group.id]):
            await changes.delete(call.tx, rule)
        await changes.delete(call.tx, group)
        await networks.changed(call.tx, vpc)
        return Empty()

    async def CreateSecurityRule(self, call: Call, request: pb.CreateSecurityRuleRequest) -> pb.SecurityRule:
        vpc, group = await networks.locate_part(call.tx, SecurityGroup, request.id, call.tenant_id)
        ported = request.protocol in (pb.SecurityRule.PROTOCOL_TCP, pb.SecurityRule.PROTOCOL_UDP)
        parts = {
            "direction": DIRECTIONS[request.direction], "protocol": PROTOCOLS[request.protocol],
            "port_min": request.port_min if ported else None, "port_max": request.port_max if ported else None,
            "cidr": str(read_range("cidr", request.cidr, bare=True)) if request.cidr else None,
            "referenced_group_id": await referenced(call.tx, group, request.referenced_group_id),
        }  # fmt: skip
        if same := await db.value(call.tx, _SAME, group=group.id, **parts):
            raise ApiError("ALREADY_EXISTS", f"security group {group.name} has this rule already",
                           kind="security_rule", id=str(same))  # fmt: skip
        made = await changes.insert(
            call.tx, SecurityRule, id=uuid4(), tenant_id=call.tenant_id, group_id=group.id,
            priority=request.priority or 100, **parts,
        )  # fmt: skip
        await networks.changed(call.tx, vpc)
        return db.to_message(made)  # type: ignore[no-any-return]

    async def GetSecurityRule(self, call: Call, request: pb.GetSecurityRuleRequest) -> pb.SecurityRule:
        return db.to_message(  # type: ignore[no-any-return]
            await db.get(call.tx, SecurityRule, request.rule_id, call.tenant_id)
        )

    async def DeleteSecurityRule(self, call: Call, request: pb.DeleteSecurityRuleRequest) -> Empty:
        rule = await db.get(call.tx, SecurityRule, request.rule_id, call.tenant_id)
        vpc, _ = await networks.locate_part(call.tx, SecurityGroup, str(rule.group_id), call.tenant_id)
        await changes.delete(call.tx, await db.get(call.tx, SecurityRule, request.rule_id, call.tenant_id, lock=True))
        await networks.changed(call.tx, vpc)
        return Empty()

    async def AttachSecurityGroup(self, call: Call, request: pb.AttachSecurityGroupRequest) -> Empty:
        group = await db.locate(call.tx, SecurityGroup, request.group_id, call.tenant_id)
        vpc, instance = await instances.locate_in_vpc(call.tx, request.instance_id, call.tenant_id)
        group = await db.get(call.tx, SecurityGroup, str(group.id), call.tenant_id)
        if group.vpc_id != vpc.id:
            raise invalid("group_id", f"security group {group.name} is of another VPC than instance {instance.name}")
        if str(group.id) not in instance.security_groups:
            if len(instance.security_groups) >= MOST_ATTACHED:
                raise invalid("group_id", f"an instance has at most {MOST_ATTACHED} security groups")
            await changes.update(call.tx, instance, security_groups=[*instance.security_groups, str(group.id)])
            await networks.changed(call.tx, vpc)
        return Empty()

    async def DetachSecurityGroup(self, call: Call, request: pb.DetachSecurityGroupRequest) -> Empty:
        group = await db.locate(call.tx, SecurityGroup, request.group_id, call.tenant_id)
        vpc, instance = await instances.locate_in_vpc(call.tx, request.instance_id, call.tenant_id)
        kept = [id for id in instance.security_groups if id != str(group.id)]
        if kept != instance.security_groups:
            await changes.update(call.tx, instance, security_groups=kept)
            await networks.changed(call.tx, vpc)
        return Empty()


async def to_message(tx: Tx, group: SecurityGroup) -> pb.SecurityGroup:
    return (await to_messages(tx, [group]))[0]


async def to_messages(tx: Tx, groups: Sequence[SecurityGroup]) -> list[pb.SecurityGroup]:
    """The groups with their rules."""
    rules = await db.rows(tx, SecurityRule, _RULES, groups=[group.id for group in groups])
    return [
        db.to_message(
            group, arn=arn("vpc", group.tenant_id, group.KIND, group.id),
            rules=[db.to_message(each) for each in rules if each.group_id == group.id],
        )
        for group in groups
    ]  # fmt: skip


async def referenced(tx: Tx, group: SecurityGroup, id: str) -> UUID | None:
    """The id of the group that is the far end of a rule of this one."""
    if not id:
        return None
    other = await db.get(tx, SecurityGroup, id, group.tenant_id)
    if other.vpc_id != group.vpc_id:
        raise invalid("referenced_group_id", f"security group {other.name} is of another VPC than {group.name}")
    return other.id
