"""The row of an instance, its driver, how it is locked, and what state it is in."""

from typing import TYPE_CHECKING
from uuid import UUID

from thecloud.v1 import instances_pb2 as pb

from drivers.contracts import ComputeDriver
from server import db, networks
from server.db import Provisioned, Tx
from server.errors import ApiError, invalid, wrong_state
from server.networks import Vpc

if TYPE_CHECKING:
    from server.app import App


@db.row("instances", "instance", pb.Instance)
class Instance(Provisioned):
    user_id: UUID
    host: str
    driver: str  # of those of its host
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
    tap: str | None  # the same of a virtual machine
    container_id: str | None
    ssh_keys: list[str]  # as they were at the launch: lines of authorized_keys, each with the key's name as comment
    user_data: str


I = Instance.TABLE.c  # noqa: E741


def compute_of(app: "App", row: Instance) -> ComputeDriver:
    """The driver that has the instance. Raises UNAVAILABLE where this is not its host, or not one with that driver."""
    if row.host != app.config.host:
        raise ApiError("UNAVAILABLE", f"instance {row.id} is on host {row.host}; ask that host's server")
    if row.driver not in app.drivers.compute:
        raise ApiError("UNAVAILABLE", f"instance {row.id} is of the driver {row.driver}, which this host is not "
                       "configured with: see THECLOUD_COMPUTE")  # fmt: skip
    return app.drivers.compute[row.driver]


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


def asked(row: Instance) -> str:
    """The state an instance is in, or will be in shortly since it was asked to."""
    if row.desired == "DELETED" or row.status in ("STARTING", "ERROR"):
        return row.status
    return row.desired


def need(row: Instance, *allowed: str) -> None:
    if asked(row) not in allowed:
        raise wrong_state("instance", row.id, asked(row), *allowed)
