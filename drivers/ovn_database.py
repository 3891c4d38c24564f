"""OVN's databases: what is in them of a VPC, and the difference to what there should be in one transaction.

Rows of ours tell in their `external_ids` which cloud, which VPC and which row of it they are.
"""

import hashlib
import time
from base64 import b85decode, b85encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from threading import Lock
from typing import Any
from uuid import UUID
from zlib import compress, decompress

import orjson
from ovs.db.idl import Row as Present
from ovs.db.idl import Transaction as Txn
from ovsdbapp.backend.ovs_idl import connection, idlutils, transaction

from drivers.linux_record import decoded
from drivers.network import Topology
from drivers.ovn_rows import Key, Row, Rows, gateways, peer_port

TABLES = (
    "Logical_Router", "Logical_Router_Port", "Logical_Router_Policy", "Logical_Router_Static_Route", "NAT",
    "Gateway_Chassis", "Logical_Switch", "Logical_Switch_Port", "Load_Balancer", "Port_Group", "ACL", "QoS",
)  # fmt: skip
CLOUD, VPC, ROW, TOPOLOGY = "thecloud", "thecloud-vpc", "thecloud-row", "thecloud-topology"
TRANSITS = IPv4Network("169.254.0.0/17")  # of links between routers
PATIENCE = 15  # seconds for OVN to do what it was told

Tables = Mapping[str, Any]


@dataclass
class Change:
    """A transaction as a function: it may run more than once."""

    do: Callable[[Tables, Txn], Any]
    tables: Tables
    result: Any = None

    def run_idl(self, txn: Txn) -> None:
        self.result = self.do(self.tables, txn)

    def post_commit(self, txn: Txn) -> None:
        pass


class Database:
    """One database over one connection, opened when it is first needed. Its thread keeps a copy of all rows."""

    def __init__(
        self, address: str, schema: str, tables: tuple[str, ...], only: Mapping[str, Any] | None = None
    ) -> None:
        """`only` has conditions for the rows of a table that are of interest."""
        self._address, self._schema, self._names, self._only = address, schema, tables, only or {}
        self._opening = Lock()
        self._opened: connection.Connection | None = None
        self.idl: Any = None

    def _connected(self) -> connection.Connection:
        with self._opening:
            if self._opened is None:
                helper = idlutils.get_schema_helper(self._address, self._schema)
                more = {} if self._schema == "Open_vSwitch" else {"leader_only": False}
                self.idl = connection.OvsdbIdl.from_server(
                    self._address, self._schema, helper=helper, helper_tables=self._names, **more
                )
                for table, conditions in self._only.items():
                    self.idl.cond_change(table, conditions)
                opened = connection.Connection(self.idl, timeout=PATIENCE)
                opened.start()
                self._opened = opened
            return self._opened

    @contextmanager
    def reading(self) -> Iterator[Tables]:
        """The tables, which stay as they are in the block."""
        with self._connected().lock:
            yield self.idl.tables

    def change(self, do: Callable[[Tables, Txn], Any]) -> Any:
        """Commit what it does, which may be nothing. Returns its result."""
        opened = self._connected()
        made = Change(do, self.idl.tables)
        txn = transaction.Transaction(self, opened, check_error=True, log_errors=False)
        txn.add(made)
        txn.commit()
        return made.result

    def wait(self, reached: Callable[[Tables], bool], seconds: float = PATIENCE) -> bool:
        """Whether it is so before long."""
        deadline = time.monotonic() + seconds
        while True:
            with self.reading() as tables:
                if reached(tables):
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.003)

    def close(self) -> None:
        with self._opening:
            if self._opened is not None:
                self._opened.stop(PATIENCE)
                self._opened = None


def only(table: Any) -> Present:
    """The row of a table that has one."""
    return next(iter(table.rows.values()))


# Reading


def of_cloud(tables: Tables, cloud: str, vpc_id: UUID | None = None) -> Iterator[tuple[Key, Present]]:
    """The rows of a VPC, or those that VPCs share."""
    wanted = str(vpc_id) if vpc_id else None
    for name in TABLES:
        for row in tables[name].rows.values():
            ids = row.external_ids
            if ids.get(CLOUD) == cloud and ids.get(VPC) == wanted:
                yield (name, ids[ROW]), row


def named(tables: Tables, name: str, row: str) -> Present | None:
    """The row with that name."""
    for one in tables[name].rows.values():
        if one.name == row:
            return one
    return None


def value(seen: Any) -> Any:
    """What a column has, the way that wanted rows say it."""
    if isinstance(seen, list):
        return frozenset(map(value, seen))
    if isinstance(seen, Present):
        return seen._table.name, seen.external_ids.get(ROW)
    return seen


def recorded(router: Present) -> Topology | None:
    """The topology that a VPC's router was made for; None when another version of this program made it."""
    try:
        made: Topology = decoded(Topology, orjson.loads(decompress(b85decode(router.external_ids[TOPOLOGY]))))
    except (KeyError, TypeError, ValueError):
        return None
    return made


def packed(topology: Topology) -> str:
    return b85encode(compress(orjson.dumps(topology, default=str))).decode()


# Choosing addresses


def transits(tables: Tables, topology: Topology, prefix: str) -> dict[UUID, IPv4Network]:
    """A network for each link from the VPC's router to another, that is there already or that neither router has."""
    found: dict[UUID, IPv4Network] = {}
    asked: dict[UUID, tuple[UUID | None, list[str]]] = {id: (None, [f"g-{id.hex}"]) for id in gateways(topology)}
    asked |= {
        one.id: (one.peer_vpc_id, [peer_port(one.id, id) for id in sorted((topology.vpc_id, one.peer_vpc_id))])
        for one in topology.peerings
    }
    if not asked:
        return found
    ports = {port.name: port for port in tables["Logical_Router_Port"].rows.values()}
    for id, (_, names) in asked.items():
        there = next((ports[name] for name in names if name in ports), None)
        if there:
            found[id] = IPv4Network(there.networks[0], strict=False)
    for id, (peer, _) in asked.items():
        if id in found:
            continue
        routers = [named(tables, "Logical_Router", f"{prefix}{one}") for one in (topology.vpc_id, peer) if one]
        taken = {IPv4Network(network, strict=False) for router in routers if router
                 for port in router.ports for network in port.networks}  # fmt: skip
        found[id] = free_transit(id, taken | set(found.values()))
    return found


def free_transit(id: UUID, taken: set[IPv4Network]) -> IPv4Network:
    count = TRANSITS.num_addresses // 4
    first = int.from_bytes(hashlib.sha256(id.bytes).digest()[:8], "big")
    for number in range(count):
        network = IPv4Network((int(TRANSITS[0]) + 4 * ((first + number) % count), 30))
        if network not in taken:
            return network
    raise RuntimeError("a VPC has more links than there are addresses for")


def legs(tables: Tables, topology: Topology, cidr: str, gateway: str) -> dict[UUID, str]:
    """The address of each gateway in the external network: a NAT gateway's public one, else the last that is free."""
    network = IPv4Network(cidr)
    found = {one.id: one.public_ip for one in topology.nat_gateways}
    if (igw := topology.internet_gateway) is None:
        return found
    taken = {gateway, *found.values(), *(one.public_ip for one in topology.elastic_ips)}
    taken |= {row.external_ip for row in tables["NAT"].rows.values()}
    for port in tables["Logical_Router_Port"].rows.values():
        for address in (one.partition("/")[0] for one in port.networks):
            if port.name == f"e-{igw.hex}" and address not in taken and IPv4Address(address) in network:
                return found | {igw: address}
            taken.add(address)
    for number in range(2, network.num_addresses):
        if (address := str(network[-number])) not in taken:
            return found | {igw: address}
    raise RuntimeError(f"no address is free in {cidr}")


# Writing


def make(tables: Tables, txn: Txn, wanted: Rows, present: list[tuple[Key, Present]], ids: dict[str, str],
         outside: Present | None) -> bool:  # fmt: skip
    """Have these rows instead of those, and tell whether that is a change.

    `ids` is what all rows of the VPC have; `outside` is the switch that the cloud shares.
    """
    rows: dict[Key, Present] = {}
    gone = []
    for key, row in present:
        if key in wanted and key not in rows:
            rows[key] = row
        else:
            gone.append(row)
    changed = bool(gone) or len(rows) < len(wanted)
    new = {key: txn.insert(tables[key[0]]) for key in wanted if key not in rows}
    rows |= new

    def written(one: Any) -> Any:
        if isinstance(one, frozenset):
            return [rows[each] if isinstance(each, tuple) else each for each in one]
        return one

    for key, row in wanted.items():
        columns = dict(row.columns)
        columns["external_ids"] = ids | {ROW: key[1]} | row.columns.get("external_ids", {})
        for name, one in columns.items():
            if key in new or value(getattr(rows[key], name)) != one:
                setattr(rows[key], name, written(one))
                changed = True
        if row.outside and outside is not None and key in new:
            outside.addvalue("ports", rows[key])
    for row in gone:  # last, since a row that goes is in no column any longer, as far as one can see
        row.delete()
    return changed


def external_switch(tables: Tables, txn: Txn, cloud: str, name: str, network: str) -> Present:
    """The switch that the cloud's gateways meet on, made when it is not there."""
    for key, row in list(of_cloud(tables, cloud)):
        if key == ("Logical_Switch", name):
            row.verify("ports")  # who chooses an address there is alone
            return row
    cable = txn.insert(tables["Logical_Switch_Port"])
    switch = txn.insert(tables["Logical_Switch"])
    cable.name, cable.type, cable.addresses = f"{name}-{cloud}", "localnet", ["unknown"]
    cable.options = {"network_name": network}
    switch.name, switch.ports = f"{name}-{cloud}", [cable]
    switch.external_ids, cable.external_ids = {CLOUD: cloud, ROW: name}, {CLOUD: cloud, ROW: "cable"}
    return switch


def drop_unused(tables: Tables, cloud: str, wanted: Rows, present: list[tuple[Key, Present]]) -> None:
    """Take ports that go off the switch that the cloud shares, and it too when no gateway is left."""
    gone = {row for key, row in present if key not in wanted and key[0] == "Logical_Switch_Port"}
    for key, switch in list(of_cloud(tables, cloud)):
        if key[0] == "Logical_Switch":
            leaving = [port for port in switch.ports if port in gone]
            staying = any(row.outside for row in wanted.values()) or len(switch.ports) > len(leaving) + 1
            if not staying:
                switch.delete()
            for port in leaving if staying else ():
                switch.delvalue("ports", port)


def differing(wanted: Rows, present: list[tuple[Key, Present]]) -> Iterator[Row]:
    """The rows that are not there, or not as wanted."""
    there = dict(present)
    for key, row in wanted.items():
        found = there.get(key)
        if found is None or any(value(getattr(found, name)) != one for name, one in row.columns.items()
                                if name != "external_ids"):  # fmt: skip
            yield row
