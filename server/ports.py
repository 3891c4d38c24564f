"""The TCP ports of each host that lead into instances: each is given out once."""

import random
from collections.abc import Iterable
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from drivers.contracts import PortBinding
from server import db
from server.db import METADATA, Tx
from server.errors import ApiError, invalid

PICKED = range(20000, 32768)  # below Linux's ephemeral ports, which clients use for a moment
TRIES = 50

PORTS = sa.Table(
    "instance_ports",
    METADATA,
    sa.Column("host", sa.Text, primary_key=True),
    sa.Column("port", sa.BigInteger, primary_key=True),
    sa.Column("instance_id", postgresql.UUID, nullable=False),
)
_TAKE = (
    postgresql.insert(PORTS)
    .values({name: sa.bindparam(name) for name in ("host", "port", "instance_id")})
    .on_conflict_do_nothing()
)


def parse(text: str) -> list[PortBinding]:
    """ "8080:80,0:443" as bindings; host port 0 is still to be picked. Raises INVALID_ARGUMENT."""
    bindings = [PortBinding(*map(int, pair.split(":"))) for pair in text.split(",")] if text else []
    for each in bindings:
        if each.host > 65535 or not 1 <= each.container <= 65535:
            raise invalid(
                "ports", f"{each.host}:{each.container}: a host port is 0 to 65535, a container port 1 to 65535"
            )
    fixed = [each.host for each in bindings if each.host]
    if len(fixed) != len(set(fixed)):
        raise invalid("ports", "a host port is named twice")
    return bindings


def spell(bindings: Iterable[PortBinding]) -> str:
    return ",".join(f"{each.host}:{each.container}" for each in bindings)


async def reserve(tx: Tx, host: str, instance_id: UUID, bindings: list[PortBinding]) -> list[PortBinding]:
    """Give the instance these ports of the host, and pick those that are 0. They come back with its row's end."""
    return [
        PortBinding(await _reserve(tx, host, instance_id, each.host), each.container) for each in bindings
    ]  # fmt: skip


async def _reserve(tx: Tx, host: str, instance_id: UUID, port: int) -> int:
    for candidate in [port] if port else random.sample(PICKED, TRIES):
        if await db.execute(tx, _TAKE, host=host, port=candidate, instance_id=instance_id):
            return candidate
    if port:
        raise ApiError("PORT_CONFLICT", f"port {port} of the host is taken; choose another, or 0 to have one picked",
                       port=str(port))  # fmt: skip
    raise ApiError("UNAVAILABLE", f"host {host} has hardly a free port left; try again, or name one")
