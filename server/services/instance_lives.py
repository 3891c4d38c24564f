"""How instances are brought to what their rows ask for, and looked after."""

import asyncio
from datetime import timedelta
from functools import partial
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from drivers.contracts import Attachment, ComputeDriver, InstanceSeen, InstanceSpec, Seed, SupportsEvents, hostname
from server import changes, db, networks, ports, topology, volumes
from server.instances import I, Instance, compute_of, network_changed
from server.networks import Subnet
from server.provision import observed, pending, reconciles
from server.services import images, instance_types, logs
from server.work import NotYet, every, follows, forever, nudge

if TYPE_CHECKING:
    from server.app import App

_existing = sa.select(I.id).where(I.id == sa.any_(sa.bindparam("ids", type_=postgresql.ARRAY(postgresql.UUID))))
_of_host = (
    sa.select(Instance.TABLE).where(I.host == sa.bindparam("host"), I.driver == sa.bindparam("driver")).order_by(I.id)
)


@reconciles(Instance)
async def reconcile(app: "App", row: Instance) -> timedelta | None:
    """Bring one instance to what its row asks for."""
    compute = compute_of(app, row)
    if row.desired == "DELETED":
        await logs.drain(app, row)
        await compute.delete(row.id)
        await volumes.release(app, row.id)
        async with app.db.transaction() as tx:
            await network_changed(tx, row)
            await changes.delete(tx, row)
        return None
    attached = await volumes.of(app, row.id)
    try:
        seen = await compute.apply(await spec(app, compute, row, attached))
    except TimeoutError as error:  # a machine that does not let go of a volume, or a slow engine
        await pending(app, row, str(error) or "its engine takes long to answer")
        raise
    if seen.power is None:
        await pending(app, row, seen.message)
        return timedelta(seconds=1)
    await volumes.let_go(app, attached)
    found: dict[str, Any] = {"container_id": seen.backend_id}
    if row.vpc_id is None:
        found["private_ip"] = seen.private_ip
    else:
        await plug(app, row, seen)
    if seen.power == "STOPPED" and row.desired != "STOPPED":
        why = "it ended, and is started again; see its logs"
        if seen.exit_code is not None:
            why = f"its command ended with exit code {seen.exit_code}, and is started again; see its logs"
        await observed(app, row, "ERROR", why, **found)
        raise NotYet(why)
    await observed(app, row, seen.power, **found)
    return None


async def plug(app: "App", row: Instance, seen: InstanceSeen) -> None:
    """Have the instance's interface where it runs now."""
    assert row.vpc_id
    if (seen.netns, seen.tap) != (row.netns, row.tap):
        async with app.db.transaction() as tx:
            await network_changed(tx, row)
            await changes.update(tx, row, netns=seen.netns, tap=seen.tap)
    if seen.netns or seen.tap:
        try:
            await topology.program(app, row.vpc_id)
        except NotYet as reason:
            await pending(app, row, str(reason))
            raise


async def spec(
    app: "App", compute: ComputeDriver, row: Instance, attached: list[volumes.Volume]
) -> InstanceSpec:  # fmt: skip
    attachment = None
    async with app.db.reading() as tx:
        size = await instance_types.size(tx, row.instance_type)
        image = await images.started_from(tx, row.image)
        subnet = await db.find(tx, Subnet, row.subnet_id) if row.subnet_id else None
    if subnet and row.private_ip:
        attachment = Attachment(
            row.private_ip, subnet.gateway_ip, topology.DOMAIN, mac=networks.mac(row.private_ip),
            prefix_length=IPv4Network(subnet.cidr_block).prefixlen, gateway=subnet.gateway_ip,
            wire=await app.drivers.network.wire(),
        )  # fmt: skip
    disk = images.disk(app, image, size.disk_gb)
    return InstanceSpec(
        id=row.id, tenant_id=row.tenant_id, name=row.name, vcpus=row.vcpus, memory_mb=row.memory_mb,
        image=images.name_in_engine(compute, row.image), power=row.desired,  # type: ignore[arg-type]
        ports=tuple(ports.parse(row.ports)), env=tuple(row.env), cmd=tuple(row.cmd), attachment=attachment,
        mounts=() if disk else await volumes.mounts(app, attached), disk=disk,
        seed=Seed(hostname=hostname(row.name), ssh_keys=tuple(row.ssh_keys), user_data=row.user_data,
                  mounts=volumes.paths(attached)),
        volumes=await volumes.disks(app, attached) if disk else (),
    )  # fmt: skip


@follows
async def follow(app: "App") -> None:
    """Look at each instance of this host as it starts or ends: one that does so by itself may need its network back.

    What we do ourselves happens under a lease, and then there is nothing to look for. What is missed finds `compare`.
    """

    async def listen(compute: SupportsEvents) -> None:
        async for id in compute.events():
            async with app.db.transaction() as tx:
                await nudge(tx, Instance.KIND, id, app.config.host)
            app.bell.set()

    async with asyncio.TaskGroup() as group:
        for name, compute in app.drivers.compute.items():
            if isinstance(compute, SupportsEvents):
                group.create_task(forever(f"events of {name}", partial(listen, compute)))


@every(timedelta(seconds=15), each_host=True)
async def compare(app: "App") -> None:
    """Look for instances of this host that are not as their rows say, and for leftovers that no row knows.

    What ended by itself, or went with a restart of its engine, is reconciled; an instance that was
    refused and left nothing waits for its owner. An engine that is away keeps no other from being looked at.
    """
    compared = (compare_with(app, name, compute) for name, compute in app.drivers.compute.items())
    for failure in await asyncio.gather(*compared, return_exceptions=True):
        if failure:
            raise failure


async def compare_with(app: "App", name: str, compute: ComputeDriver) -> None:
    there = await compute.list()
    async with app.db.transaction() as tx:
        for row in await db.rows(tx, Instance, _of_host, host=app.config.host, driver=name):
            seen = there.pop(row.id, None)
            if (seen.power if seen else None) != row.status and (seen or row.status != "ERROR"):
                await nudge(tx, Instance.KIND, row.id, row.host)
        known = {each["id"] for each in await db.records(tx, _existing, ids=list(there))}
    for id in there.keys() - known:
        await compute.delete(id)
