"""Compute instances."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import instances_pb2 as pb

from drivers.contracts import (
    Attachment,
    ComputeDriver,
    InstanceSpec,
    PortBinding,
    PortTaken,
    Refused,
    Seed,
    SupportsConsole,
    SupportsEvents,
    SupportsLogs,
    SupportsStats,
    hostname,
)
from server import changes, console, db, enums, hosts, networks, ports, quota, rating, topology
from server.auth import ApiKey
from server.call import Call
from server.db import Provisioned, Tx
from server.errors import ApiError, invalid, not_found, unsupported, wrong_state
from server.networks import Room, Subnet, Vpc
from server.provision import ask, create, observed, pending, reconciles, reconciling
from server.services import images, instance_types, logs, ssh_keys, volumes
from server.work import NotYet, every, follows, nudge

if TYPE_CHECKING:
    from server.app import App

DEFAULT_TYPE = "basic-2"
CONSOLE_SECONDS = 60
LOG_LINES = 1000
STATES = enums.spellings(pb.Instance.State.DESCRIPTOR)


@db.row("instances", "instance", pb.Instance)
class Instance(Provisioned):
    user_id: UUID
    host: str
    name: str
    image: str
    instance_type: str
    vcpus: int
    memory_mb: int
    ports: str  # as the API shows them, with the host ports that were picked
    env: list[str]
    cmd: list[str]
    labels: dict[str, str]
    metadata: dict[str, str]
    vpc_id: UUID | None
    subnet_id: UUID | None
    private_ip: str | None
    security_groups: list[str]  # ids
    netns: str | None  # where it runs, while it does so in a VPC
    container_id: str | None
    ssh_keys: list[str]  # as they were at the launch: lines of authorized_keys, each with the key's name as comment
    user_data: str


I = Instance.TABLE.c  # noqa: E741
_tenant = I.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_staying = I.desired != "DELETED"
_listed = sa.and_(
    _tenant,
    I.labels.contains(sa.bindparam("pairs", type_=postgresql.JSONB)),
    I.labels.has_all(sa.bindparam("keys", type_=postgresql.ARRAY(sa.Text))),
)
_of_host = sa.select(Instance.TABLE).where(I.host == sa.bindparam("host")).order_by(I.id)
_existing = sa.select(I.id).where(I.id == sa.any_(sa.bindparam("ids", type_=postgresql.ARRAY(postgresql.UUID))))
_key_lives = sa.select(ApiKey.TABLE.c.id).where(ApiKey.TABLE.c.id == sa.bindparam("key_id"))

quota.counted("instances", 20, sa.select(sa.func.count()).select_from(Instance.TABLE).where(_tenant, _staying))
quota.counted("vcpus", 32, sa.select(sa.cast(sa.func.coalesce(sa.func.sum(I.vcpus), 0), sa.BigInteger))
              .where(_tenant, _staying))  # fmt: skip
quota.counted("memory_mb", 65536, sa.select(sa.cast(sa.func.coalesce(sa.func.sum(I.memory_mb), 0), sa.BigInteger))
              .where(_tenant, _staying))  # fmt: skip
rating.metered("instance", category="compute", size=lambda state: (state["instance_type"], 1),
               billed=lambda state: state["status"] == "RUNNING")  # fmt: skip


class InstanceService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListInstances(self, call: Call, request: pb.ListInstancesRequest) -> pb.ListInstancesResponse:
        split = (tag.partition(":") for tag in request.tag if ":" in tag)
        pairs = {(key, value) for key, _, value in split}
        if len(dict(pairs)) < len(pairs):  # a label that has two values at once
            return pb.ListInstancesResponse()
        rows, token = await db.page(
            call.tx, Instance, _listed, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id, pairs=dict(pairs), keys=[tag for tag in request.tag if ":" not in tag],
        )  # fmt: skip
        return pb.ListInstancesResponse(instances=map(to_message, rows), next_page_token=token)

    async def GetInstance(self, call: Call, request: pb.GetInstanceRequest) -> pb.Instance:
        return to_message(await db.locate(call.tx, Instance, request.id, call.tenant_id))

    async def prepare_CreateInstance(self, call: Call, request: pb.CreateInstanceRequest) -> hosts.Place:
        bindings = ports.parse(request.ports)
        async with self.app.db.reading() as tx:
            vcpus, memory_mb = await instance_types.size(tx, request.instance_type or DEFAULT_TYPE)
            host = await host_of_image(tx, request, call.tenant_id, await only_host(tx, request, call.tenant_id))
            place = await hosts.find_place(tx, vcpus, memory_mb, host)
        if place.host == self.app.config.host:
            await check(self.app.drivers.compute, InstanceSpec(
                id=uuid4(), tenant_id=call.tenant_id, name=request.name,
                image=images.name_in_engine(self.app.drivers.compute, request.image), vcpus=vcpus,
                memory_mb=memory_mb, ports=tuple(each for each in bindings if each.host),
            ))  # fmt: skip
        return place

    async def CreateInstance(self, call: Call, request: pb.CreateInstanceRequest) -> pb.Instance:
        image = await images.to_start_from(call.tx, request.image, call.tenant_id)
        room = await networks.find_room(
            call.tx, call.tenant_id, request.vpc_id, request.subnet_id, request.security_groups
        )
        if room and request.ports and not self.app.drivers.network.publishes:
            raise unsupported("published ports for instances in a VPC: use an elastic IP", self.app.drivers.network)
        return to_message(await launch(
            call.tx, call.prepared, tenant_id=call.tenant_id, user_id=call.principal.user_id, name=request.name,
            image=str(image.id) if image else request.image, instance_type=request.instance_type or DEFAULT_TYPE,
            bindings=ports.parse(request.ports), env=list(request.env), cmd=list(request.cmd),
            labels=dict(request.labels), metadata=dict(request.metadata), room=room,
            attached=request.volumes, user_data=request.user_data,
            ssh_keys=await ssh_keys.lines(call.tx, request.ssh_key_id, call.tenant_id),
        ))  # fmt: skip

    async def UpdateInstance(self, call: Call, request: pb.UpdateInstanceRequest) -> pb.Instance:
        row = await locked(call.tx, request.id, call.tenant_id)
        wanted = db.masked(request, "name", "status", "labels", "metadata")
        status = wanted.pop("status", 0)
        if wanted.get("name") == "":
            raise invalid("name", "a name has at least one character")
        columns: dict[str, Any] = {
            column: merged(getattr(row, column), value) if column in ("labels", "metadata") else value
            for column, value in wanted.items()
        }
        if "name" in columns:
            await network_changed(call.tx, row)
        if status:
            return to_message(await switch(call.tx, row, STATES[status], **columns))
        return to_message(await ask(call.tx, row, **columns) if columns else row)

    async def DeleteInstance(self, call: Call, request: pb.DeleteInstanceRequest) -> Empty:
        row = await locked(call.tx, request.id, call.tenant_id)
        if row.desired != "DELETED":
            await networks.release_elastic_ip(call.tx, row.id)
            await network_changed(call.tx, row)
            await ask(call.tx, row, desired="DELETED")
        return Empty()

    async def ResizeInstance(self, call: Call, request: pb.ResizeInstanceRequest) -> pb.Instance:
        row = await locked(call.tx, request.id, call.tenant_id)
        vcpus, memory_mb = await instance_types.size(call.tx, request.instance_type)
        need(row, "RUNNING", "PAUSED", "STOPPED")
        if not await hosts.has(call.tx, row.host, vcpus, memory_mb):
            raise invalid("instance_type", f"the instance's host {row.host} is too small for {request.instance_type}")
        if row.instance_type == request.instance_type:
            return to_message(row)
        await network_changed(call.tx, row)
        return to_message(
            await ask(call.tx, row, instance_type=request.instance_type, vcpus=vcpus, memory_mb=memory_mb)
        )

    async def PauseInstance(self, call: Call, request: pb.PauseInstanceRequest) -> pb.Instance:
        row = await db.locate(call.tx, Instance, request.id, call.tenant_id, lock=True)
        need(row, "RUNNING")
        return to_message(await ask(call.tx, row, desired="PAUSED"))

    async def ResumeInstance(self, call: Call, request: pb.ResumeInstanceRequest) -> pb.Instance:
        row = await db.locate(call.tx, Instance, request.id, call.tenant_id, lock=True)
        need(row, "PAUSED")
        return to_message(await ask(call.tx, row, desired="RUNNING"))

    async def StopInstance(self, call: Call, request: pb.StopInstanceRequest) -> pb.Instance:
        row = await db.locate(call.tx, Instance, request.id, call.tenant_id, lock=True)
        return to_message(await switch(call.tx, row, "STOPPED"))

    async def GetInstanceStats(self, call: Call, request: pb.GetInstanceStatsRequest) -> pb.InstanceStats:
        row, compute = await self._live(call, request.id)
        if not isinstance(compute, SupportsStats):
            raise unsupported("live stats", compute)
        try:
            stats = await compute.stats(row.id)
        except LookupError:
            raise wrong_state("instance", row.id, asked(row), "RUNNING", "PAUSED") from None
        percentage = 100 * stats.memory_usage_bytes / stats.memory_limit_bytes if stats.memory_limit_bytes else 0.0
        return pb.InstanceStats(memory_percentage=percentage, **vars(stats))

    async def GetInstanceLogs(self, call: Call, request: pb.GetInstanceLogsRequest) -> HttpBody:
        row, compute = await self._live(call, request.id)
        if not isinstance(compute, SupportsLogs):
            raise unsupported("logs", compute)
        try:
            written = await compute.logs(row.id, request.tail or LOG_LINES)
        except LookupError:
            raise wrong_state("instance", row.id, asked(row), "RUNNING", "PAUSED", "STOPPED") from None
        return HttpBody(content_type="text/plain; charset=utf-8", data=written)

    async def GetInstanceConsole(self, call: Call, request: pb.GetInstanceConsoleRequest) -> pb.InstanceConsole:
        row = await db.locate(call.tx, Instance, request.id, call.tenant_id)
        if not isinstance(self._compute(row), SupportsConsole):
            raise unsupported("console", self.app.drivers.compute)
        need(row, "RUNNING")
        claims = {"instance": str(row.id), "tenant": str(row.tenant_id), "key": str(call.principal.key_id)}
        token = self.app.cloud.sign(claims, CONSOLE_SECONDS)
        url = f"{self.app.public_url.replace('http', 'ws', 1)}/instances/{row.id}/console/attach?token={token}"
        expires_at = datetime.now(UTC) + timedelta(seconds=CONSOLE_SECONDS)
        return pb.InstanceConsole(console_url=url, url=url, expires_at=expires_at)

    async def AttachInstanceConsole(
        self, call: Call, first: pb.AttachInstanceConsoleRequest, more: AsyncIterator[pb.AttachInstanceConsoleRequest]
    ) -> AsyncIterator[pb.AttachInstanceConsoleResponse]:
        claims = self.app.cloud.verify(first.token)
        if claims is None or claims.get("instance") != first.id:
            raise ApiError("UNAUTHENTICATED", "this console address has expired; ask for a new one")
        async with self.app.db.reading() as tx:
            if not await db.value(tx, _key_lives, key_id=UUID(claims["key"])):
                raise ApiError("UNAUTHENTICATED", "the API key that asked for this console was revoked")
            row = await db.get(tx, Instance, claims["instance"], UUID(claims["tenant"]))
        compute = self._compute(row)
        if not isinstance(compute, SupportsConsole):
            raise unsupported("console", compute)
        try:
            terminal = await compute.console(row.id)
        except LookupError:
            raise wrong_state("instance", row.id, asked(row), "RUNNING") from None
        except Refused as refusal:
            raise invalid("", str(refusal)) from None
        async for data in console.session(terminal, first, more):
            yield pb.AttachInstanceConsoleResponse(data=data)

    async def GetInstanceTags(self, call: Call, request: pb.GetInstanceTagsRequest) -> pb.GetInstanceTagsResponse:
        return pb.GetInstanceTagsResponse(tags=(await db.locate(call.tx, Instance, request.id, call.tenant_id)).labels)

    async def AddInstanceTags(self, call: Call, request: pb.AddInstanceTagsRequest) -> pb.Instance:
        row = await db.locate(call.tx, Instance, request.id, call.tenant_id, lock=True)
        return to_message(await ask(call.tx, row, labels=merged(row.labels, request.tags)))

    async def RemoveInstanceTag(self, call: Call, request: pb.RemoveInstanceTagRequest) -> pb.Instance:
        row = await db.locate(call.tx, Instance, request.id, call.tenant_id, lock=True)
        if request.key not in row.labels:
            raise not_found("tag", request.key)
        return to_message(await ask(call.tx, row, labels=merged(row.labels, {request.key: ""})))

    async def _live(self, call: Call, id: str) -> tuple[Instance, ComputeDriver]:
        async with self.app.db.reading() as tx:
            row = await db.locate(tx, Instance, id, call.tenant_id)
        return row, self._compute(row)

    def _compute(self, row: Instance) -> ComputeDriver:
        """The driver that has the instance, if it is this host's."""
        if row.host != self.app.config.host:
            raise ApiError("UNAVAILABLE", f"instance {row.id} is on host {row.host}; ask that host's server")
        return self.app.drivers.compute


def to_message(row: Instance) -> pb.Instance:
    return db.to_message(row, version=row.generation, reconciling=reconciling(row))  # type: ignore[no-any-return]


def merged(old: dict[str, str], new: object) -> dict[str, str]:
    """The old pairs with the new ones; an empty value removes its key. Raises INVALID_ARGUMENT past 64 pairs."""
    both = {key: value for key, value in {**old, **dict(new)}.items() if value}  # type: ignore[call-overload]
    if len(both) > 64:
        raise invalid("labels", f"this would make {len(both)} pairs; there may be 64")
    return both


async def locked(tx: Tx, reference: str, tenant_id: UUID) -> Instance:
    """The instance, locked, and before it its VPC if it has one."""
    row = await db.locate(tx, Instance, reference, tenant_id)
    if row.vpc_id:
        await networks.locked(tx, tenant_id, row.vpc_id)
    return await db.get(tx, Instance, str(row.id), tenant_id, lock=True)


async def locate_in_vpc(tx: Tx, reference: str, tenant_id: UUID) -> tuple[Vpc, Instance]:
    """An instance in a VPC, with that, locked. Raises INVALID_ARGUMENT for one in none, WRONG_STATE for one to go."""
    row = await db.locate(tx, Instance, reference, tenant_id)
    if row.vpc_id is None:
        raise invalid("instance_id", f"instance {row.name} is in no VPC; launch it with vpc_id or subnet_id")
    [vpc] = await networks.locked(tx, tenant_id, row.vpc_id)
    row = await db.get(tx, Instance, str(row.id), tenant_id, lock=True)
    need(row, "STARTING", "RUNNING", "PAUSED", "STOPPED", "ERROR")
    return vpc, row


async def network_changed(tx: Tx, row: Instance) -> None:
    """Have the VPC of the instance, if it has one, which is locked, programmed anew."""
    if row.vpc_id:
        await networks.changed(tx, *await networks.locked(tx, row.tenant_id, row.vpc_id))


async def only_host(tx: Tx, request: pb.CreateInstanceRequest, tenant_id: UUID) -> str | None:
    """The host that the asked VPC or volumes are confined to, if they are."""
    of_vpc = await networks.host_of(tx, tenant_id, request.vpc_id, request.subnet_id)
    of_volumes = await volumes.host_of(tx, request.volumes, tenant_id)
    if of_vpc and of_volumes and of_vpc != of_volumes:
        raise invalid("volumes", f"the volumes are on host {of_volumes}, and the VPC is on {of_vpc}")
    return of_vpc or of_volumes


async def host_of_image(
    tx: Tx, request: pb.CreateInstanceRequest, tenant_id: UUID, only: str | None
) -> str | None:  # fmt: skip
    """The host that has the asked image, or any host, unless only one will do already."""
    image = await images.to_start_from(tx, request.image, tenant_id)
    if image is None:
        return only
    if image.format != "container":
        raise invalid("image", f"image {image.name} is a {image.format} disk, which the driver of this cloud does not "
                               "start; it starts container images")  # fmt: skip
    if only not in (None, image.host):
        raise invalid("image", f"image {image.name} is on host {image.host}, and the VPC or a volume on {only}")
    return image.host


async def check(compute: ComputeDriver, spec: InstanceSpec) -> None:
    """Refuse at once what the host would refuse later."""
    try:
        await compute.check(spec)
    except PortTaken as taken:
        raise ApiError("PORT_CONFLICT", str(taken), port=str(taken.port)) from None
    except Refused as refusal:
        raise invalid("", str(refusal)) from None


async def launch(
    tx: Tx, place: hosts.Place, *, tenant_id: UUID, user_id: UUID, name: str, image: str, instance_type: str,
    bindings: list[PortBinding], env: list[str], cmd: list[str], labels: dict[str, str], metadata: dict[str, str],
    room: Room | None = None, attached: volumes.Wanted = (), ssh_keys: Sequence[str] = (), user_data: str = "",
) -> Instance:  # fmt: skip
    """Ask for an instance. Autoscaling groups and clusters call this too."""
    id = uuid4()
    reserved = await ports.reserve(tx, place.host, id, bindings)
    await volumes.attach(tx, attached, tenant_id, id)
    columns = await networks.move_in(tx, room, id) if room else {"security_groups": []}
    return await create(
        tx, Instance, id=id, desired="RUNNING", status="STARTING", tenant_id=tenant_id, user_id=user_id,
        host=place.host, name=name, image=image, instance_type=instance_type, vcpus=place.vcpus,
        memory_mb=place.memory_mb, ports=ports.spell(reserved), env=env, cmd=cmd, labels=labels, metadata=metadata,
        ssh_keys=list(ssh_keys), user_data=user_data, **columns,
    )  # fmt: skip


def asked(row: Instance) -> str:
    """The state an instance is in, or will be in shortly since it was asked to."""
    if row.desired == "DELETED" or row.status in ("STARTING", "ERROR"):
        return row.status
    return row.desired


def need(row: Instance, *allowed: str) -> None:
    if asked(row) not in allowed:
        raise wrong_state("instance", row.id, asked(row), *allowed)


async def switch(tx: Tx, row: Instance, power: str, **columns: Any) -> Instance:
    """Ask for a power state. The one it has, or was asked to have, already is fine."""
    now = asked(row)
    if now == power:
        return await ask(tx, row, **columns) if columns else row
    if power == "PAUSED":
        need(row, "RUNNING")
    need(row, "STARTING", "RUNNING", "PAUSED", "STOPPED", "ERROR")
    if power == "RUNNING" and now == "STARTING":
        return await ask(tx, row, desired=power, **columns)
    starting = "STARTING" if power == "RUNNING" and now in ("STOPPED", "ERROR") else None
    return await ask(tx, row, desired=power, status=starting, **columns)


@reconciles(Instance)
async def reconcile(app: "App", row: Instance) -> timedelta | None:
    """Bring one instance to what its row asks for."""
    compute = app.drivers.compute
    if row.desired == "DELETED":
        await logs.drain(app, row)
        await compute.delete(row.id)
        await volumes.release(app, row.id)
        async with app.db.transaction() as tx:
            await network_changed(tx, row)
            await changes.delete(tx, row)
        return None
    seen = await compute.apply(await spec(app, row))
    if seen.power is None:
        await pending(app, row, seen.message)
        return timedelta(seconds=1)
    found: dict[str, Any] = {"container_id": seen.backend_id}
    if row.vpc_id is None:
        found["private_ip"] = seen.private_ip
    else:
        await plug(app, row, seen.netns)
    if seen.power == "STOPPED" and row.desired != "STOPPED":
        why = f"its command ended with exit code {seen.exit_code}, and is started again; see its logs"
        await observed(app, row, "ERROR", why, **found)
        raise NotYet(why)
    await observed(app, row, seen.power, **found)
    return None


async def plug(app: "App", row: Instance, netns: str | None) -> None:
    """Have the instance's interface where it runs now."""
    assert row.vpc_id
    if netns != row.netns:
        async with app.db.transaction() as tx:
            await network_changed(tx, row)
            await changes.update(tx, row, netns=netns)
    if netns:
        try:
            await topology.program(app, row.vpc_id)
        except NotYet as reason:
            await pending(app, row, str(reason))
            raise


async def spec(app: "App", row: Instance) -> InstanceSpec:
    attachment = None
    if row.subnet_id and row.private_ip:
        async with app.db.reading() as tx:
            subnet = await db.find(tx, Subnet, row.subnet_id)
        assert subnet is not None
        attachment = Attachment(row.private_ip, subnet.gateway_ip, topology.DOMAIN)
    return InstanceSpec(
        id=row.id, tenant_id=row.tenant_id, name=row.name, vcpus=row.vcpus, memory_mb=row.memory_mb,
        image=images.name_in_engine(app.drivers.compute, row.image), power=row.desired,  # type: ignore[arg-type]
        ports=tuple(ports.parse(row.ports)), env=tuple(row.env), cmd=tuple(row.cmd), attachment=attachment,
        mounts=await volumes.mounts(app, row.id),
        seed=Seed(hostname=hostname(row.name), ssh_keys=tuple(row.ssh_keys), user_data=row.user_data),
    )  # fmt: skip


@follows
async def follow(app: "App") -> None:
    """Look at each instance of this host as it starts or ends: one that does so by itself may need its network back.

    What we do ourselves happens under a lease, and then there is nothing to look for. What is missed finds `compare`.
    """
    compute = app.drivers.compute
    if isinstance(compute, SupportsEvents):
        async for id in compute.events():
            async with app.db.transaction() as tx:
                await nudge(tx, Instance.KIND, id, app.config.host)
            app.bell.set()


@every(timedelta(seconds=15), each_host=True)
async def compare(app: "App") -> None:
    """Look for instances of this host that are not as their rows say, and for leftovers that no row knows.

    What ended by itself, or went with a restart of its engine, is reconciled; an instance that was
    refused and left nothing waits for its owner.
    """
    there = await app.drivers.compute.list()
    async with app.db.transaction() as tx:
        for row in await db.rows(tx, Instance, _of_host, host=app.config.host):
            seen = there.pop(row.id, None)
            if (seen.power if seen else None) != row.status and (seen or row.status != "ERROR"):
                await nudge(tx, Instance.KIND, row.id, row.host)
        known = {each["id"] for each in await db.records(tx, _existing, ids=list(there))}
    for id in there.keys() - known:
        await app.drivers.compute.delete(id)
