"""Compute instances."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.empty_pb2 import Empty
from sqlalchemy.dialects import postgresql
from thecloud.v1 import images_pb2
from thecloud.v1 import instances_pb2 as pb

from drivers.contracts import (
    Attachment,
    ComputeDriver,
    InstanceSpec,
    PortBinding,
    PortTaken,
    Refused,
    SupportsConsole,
    SupportsLogs,
    SupportsScreen,
    SupportsSnapshots,
    SupportsStats,
    Terminal,
)
from server import console, db, enums, hosts, networks, pages, ports, quota, rating, request_fields, volumes
from server.auth import ApiKey
from server.call import Call
from server.db import Tx
from server.errors import ApiError, invalid, not_found, unsupported, wrong_state
from server.image_rows import Image
from server.instances import I, Instance, asked, compute_of, locked, need, network_changed
from server.networks import Room
from server.provision import ask, create, reconciling
from server.services import images, instance_types, ssh_keys

if TYPE_CHECKING:
    from server.app import App

DEFAULT_TYPE = "basic-2"
CONSOLE_SECONDS = 60
LOG_LINES = 1000
OF_SOME_VPC = Attachment("", "", "")  # for a check, before an address is taken
STATES = enums.spellings(pb.Instance.State.DESCRIPTOR)


_tenant = I.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID)
_staying = I.desired != "DELETED"
_listed = sa.and_(
    _tenant,
    I.labels.contains(sa.bindparam("pairs", type_=postgresql.JSONB)),
    I.labels.has_all(sa.bindparam("keys", type_=postgresql.ARRAY(sa.Text))),
)
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
        rows, token = await pages.page(
            call.tx, Instance, _listed, size=request.page_size, token=request.page_token,
            tenant_id=call.tenant_id, pairs=dict(pairs), keys=[tag for tag in request.tag if ":" not in tag],
        )  # fmt: skip
        return pb.ListInstancesResponse(instances=map(to_message, rows), next_page_token=token)

    async def GetInstance(self, call: Call, request: pb.GetInstanceRequest) -> pb.Instance:
        return to_message(await db.locate(call.tx, Instance, request.id, call.tenant_id))

    async def prepare_CreateInstance(self, call: Call, request: pb.CreateInstanceRequest) -> hosts.Place:
        bindings = ports.parse(request.ports)
        async with self.app.db.reading() as tx:
            size = await instance_types.size(tx, request.instance_type or DEFAULT_TYPE)
            image = await images.to_start_from(tx, request.image, call.tenant_id)
            driver = self._driver(request, image)
            host = await only_host(tx, request, call.tenant_id, image)
            place = await hosts.find_place(tx, driver, size.vcpus, size.memory_mb, host)
        if place.host == self.app.config.host:
            compute = self.app.drivers.compute[driver]
            await check(compute, InstanceSpec(
                id=uuid4(), tenant_id=call.tenant_id, name=request.name,
                image=images.name_in_engine(compute, str(image.id) if image else request.image), vcpus=size.vcpus,
                memory_mb=size.memory_mb, ports=tuple(each for each in bindings if each.host),
                disk=images.disk(self.app, image, size.disk_gb), attachment=OF_SOME_VPC if in_vpc(request) else None,
            ))  # fmt: skip
        return place

    def _driver(self, request: pb.CreateInstanceRequest, image: Image | None) -> str:
        """The driver that is asked for, or else the one that starts such images."""
        format, drivers = image.format if image else "container", self.app.drivers
        name = request.driver or drivers.starting(format)
        if name is None:
            raise invalid("image", f"{request.image} is a {format} image, which no driver of this cloud starts: "
                                   f"THECLOUD_COMPUTE is {','.join(drivers.compute)}")  # fmt: skip
        if name not in drivers.compute:
            raise invalid("driver", f"there is no driver {name!r} here; there is {', '.join(drivers.compute)}")
        compute = drivers.compute[name]
        if format not in compute.starts:
            raise invalid("driver", f"the driver {name} starts {' and '.join(compute.starts)} images, "
                                    f"and {request.image} is a {format} image")  # fmt: skip
        if format != "container" and request.ports and not in_vpc(request):
            raise unsupported("published ports of an instance in no VPC: give vpc_id or subnet_id", compute)
        if format != "container" and (request.cmd or request.env):
            raise unsupported("command or environment of an instance: tell it more with user_data", compute)
        return name

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
            attached=request.volumes, as_disks=bool(image and image.format != "container"),
            user_data=request.user_data, ssh_keys=await ssh_keys.lines(call.tx, request.ssh_key_id, call.tenant_id),
        ))  # fmt: skip

    async def UpdateInstance(self, call: Call, request: pb.UpdateInstanceRequest) -> pb.Instance:
        row = await locked(call.tx, request.id, call.tenant_id)
        wanted = request_fields.masked(request, "name", "status", "labels", "metadata")
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
        size = await instance_types.size(call.tx, request.instance_type)
        need(row, "RUNNING", "PAUSED", "STOPPED")
        if not await hosts.has(call.tx, row.host, size.vcpus, size.memory_mb):
            raise invalid("instance_type", f"the instance's host {row.host} is too small for {request.instance_type}")
        if row.instance_type == request.instance_type:
            return to_message(row)
        await network_changed(call.tx, row)
        return to_message(
            await ask(call.tx, row, instance_type=request.instance_type, vcpus=size.vcpus, memory_mb=size.memory_mb)
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

    async def SnapshotInstance(self, call: Call, request: pb.SnapshotInstanceRequest) -> images_pb2.Image:
        row = await db.locate(call.tx, Instance, request.id, call.tenant_id)
        compute = self.app.drivers.compute.get(row.driver)
        if not isinstance(compute, SupportsSnapshots):
            raise unsupported("images of instances", compute)
        need(row, "RUNNING", "PAUSED", "STOPPED")
        return await images.take(
            self.app, call.tx, row, call.principal.user_id, request.name, request.description
        )  # fmt: skip

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

    async def prepare_GetInstanceConsole(self, call: Call, request: pb.GetInstanceConsoleRequest) -> int | None:
        """The port of its screen, if it has one."""
        async with self.app.db.reading() as tx:
            row = await db.locate(tx, Instance, request.id, call.tenant_id)
        compute = compute_of(self.app, row)
        if not isinstance(compute, SupportsConsole):
            raise unsupported("console", compute)
        seen = await compute.observe(row.id) if isinstance(compute, SupportsScreen) else None
        return seen.vnc_port if seen else None

    async def GetInstanceConsole(self, call: Call, request: pb.GetInstanceConsoleRequest) -> pb.InstanceConsole:
        row = await db.locate(call.tx, Instance, request.id, call.tenant_id)
        need(row, "RUNNING")
        claims = {"instance": str(row.id), "tenant": str(row.tenant_id), "key": str(call.principal.key_id)}
        address = f"{self.app.public_url.replace('http', 'ws', 1)}/instances/{row.id}/console/attach?token="
        url, port = address + self.app.cloud.sign(claims, CONSOLE_SECONDS), call.prepared
        expires_at = datetime.now(UTC) + timedelta(seconds=CONSOLE_SECONDS)
        if port is None:
            return pb.InstanceConsole(console_url=url, url=url, expires_at=expires_at)
        vnc_url = address + self.app.cloud.sign({**claims, "what": "screen"}, CONSOLE_SECONDS)
        return pb.InstanceConsole(
            console_url=f"vnc://127.0.0.1:{port}", url=url, vnc_url=vnc_url, expires_at=expires_at
        )  # fmt: skip

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
        compute = compute_of(self.app, row)
        try:
            terminal = await open_terminal(compute, row.id, claims.get("what"))
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
        return row, compute_of(self.app, row)


async def open_terminal(compute: ComputeDriver, id: UUID, what: str | None) -> Terminal:
    if what == "screen" and isinstance(compute, SupportsScreen):
        return await compute.screen(id)
    if not isinstance(compute, SupportsConsole):
        raise unsupported("console", compute)
    return await compute.console(id)


def to_message(row: Instance) -> pb.Instance:
    return db.to_message(row, version=row.generation, reconciling=reconciling(row))  # type: ignore[no-any-return]


def merged(old: dict[str, str], new: object) -> dict[str, str]:
    """The old pairs with the new ones; an empty value removes its key. Raises INVALID_ARGUMENT past 64 pairs."""
    both = {key: value for key, value in {**old, **dict(new)}.items() if value}  # type: ignore[call-overload]
    if len(both) > 64:
        raise invalid("labels", f"this would make {len(both)} pairs; there may be 64")
    return both


def in_vpc(request: pb.CreateInstanceRequest) -> bool:
    return bool(request.vpc_id or request.subnet_id)


async def only_host(tx: Tx, request: pb.CreateInstanceRequest, tenant_id: UUID, image: Image | None) -> str | None:
    """The host that the asked VPC, volumes or image are confined to, if they are."""
    confined = {
        "vpc_id": await networks.host_of(tx, tenant_id, request.vpc_id, request.subnet_id),
        "volumes": await volumes.host_of(tx, request.volumes, tenant_id),
        "image": image.host if image else None,
    }
    there = {field: host for field, host in confined.items() if host}
    if len(set(there.values())) > 1:
        where = ", ".join(f"{field} on {host}" for field, host in there.items())
        raise invalid(next(reversed(there)), f"all that an instance uses has to be on one host, and this is: {where}")
    return next(iter(there.values()), None)


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
    room: Room | None = None, attached: volumes.Wanted = (), as_disks: bool = False, ssh_keys: Sequence[str] = (),
    user_data: str = "",
) -> Instance:  # fmt: skip
    """Ask for an instance. Autoscaling groups and clusters call this too."""
    id = uuid4()
    reserved = await ports.reserve(tx, place.host, id, bindings)
    await volumes.attach(tx, attached, tenant_id, id, as_disks=as_disks)
    columns = await networks.move_in(tx, room, id) if room else {"security_groups": []}
    return await create(
        tx, Instance, id=id, desired="RUNNING", status="STARTING", tenant_id=tenant_id, user_id=user_id,
        host=place.host, driver=place.driver, name=name, image=image, instance_type=instance_type, vcpus=place.vcpus,
        memory_mb=place.memory_mb, ports=ports.spell(reserved), env=env, cmd=cmd, labels=labels, metadata=metadata,
        ssh_keys=list(ssh_keys), user_data=user_data, **columns,
    )  # fmt: skip


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
