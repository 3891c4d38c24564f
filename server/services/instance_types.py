"""The sizes instances come in."""

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import sqlalchemy as sa
from thecloud.v1 import instance_types_pb2 as pb

from server import db, rating
from server.call import Call
from server.db import METADATA, Tx
from server.errors import invalid

if TYPE_CHECKING:
    from server.app import App

TYPES = sa.Table(
    "instance_types",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("vcpus", sa.BigInteger, nullable=False),
    sa.Column("memory_mb", sa.BigInteger, nullable=False),
    sa.Column("disk_gb", sa.BigInteger, nullable=False),
    sa.Column("network_mbps", sa.BigInteger, nullable=False),
    sa.Column("category", sa.Text, nullable=False),
)
_price = sa.select(rating.in_force.c.price_per_hour).where(
    rating.in_force.c.kind == "instance", rating.in_force.c.type == TYPES.c.id
)
_ALL = sa.select(TYPES, sa.func.coalesce(_price.scalar_subquery(), 0).label("price_per_hour")).order_by(
    TYPES.c.vcpus, TYPES.c.memory_mb, TYPES.c.id
)
_ONE = sa.select(TYPES).where(TYPES.c.id == sa.bindparam("id"))
_IDS = sa.select(TYPES.c.id).order_by(TYPES.c.vcpus, TYPES.c.memory_mb, TYPES.c.id)


class InstanceTypeService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def ListInstanceTypes(self, call: Call, request: pb.ListInstanceTypesRequest) -> pb.ListInstanceTypesResponse:
        return pb.ListInstanceTypesResponse(instance_types=map(to_message, await db.records(call.tx, _ALL)))


def to_message(record: dict[str, int | str | Decimal]) -> pb.InstanceType:
    return pb.InstanceType(**{**record, "price_per_hour": float(record["price_per_hour"])})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Size:
    """What a type has."""

    vcpus: int
    memory_mb: int
    disk_gb: int  # of a virtual machine's own disk


async def size(tx: Tx, id: str) -> Size:
    """The size of a type. Raises INVALID_ARGUMENT for one that there is not."""
    found = await db.record(tx, _ONE, id=id)
    if found is None:
        ids = ", ".join(each["id"] for each in await db.records(tx, _IDS))
        raise invalid("instance_type", f"there is no instance type {id!r}; there are {ids}")
    return Size(found["vcpus"], found["memory_mb"], found["disk_gb"])
