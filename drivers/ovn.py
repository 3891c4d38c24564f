"""VPCs in Open Virtual Network, which may span hosts.

What is wanted goes into OVN's northbound database, where OVN itself makes flows of it on every host;
each host's driver plugs the instances that run on it. The router of a VPC has the topology it was
made for beside it, so that every host can tell what of it is in place.
"""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import UUID

from ovs.db.idl import Transaction as Txn

from drivers import linux_kernel as kernel
from drivers import linux_names as names
from drivers import ovn_database as database
from drivers import ovn_groups
from drivers import ovn_plug as plugs
from drivers.contracts import Wire
from drivers.linux_external import locked
from drivers.linux_plan import External
from drivers.network import Topology
from drivers.ovn_database import CLOUD, PATIENCE, TOPOLOGY, VPC, Database, Tables, only
from drivers.ovn_rows import NAMES, Part, Rows, Surroundings, gateways, peer_port, render

STATE = Path("/run/thecloud-network")


class OvnNetwork:
    """See NetworkDriver. `network` is the name that hosts' bridge mappings have for the external network."""

    one_host = False
    publishes = False  # a host's port leads nowhere: no host has a link of its own into a VPC

    def __init__(
        self,
        cloud_id: str,
        external: External | None = None,
        northbound: str = "unix:/run/ovn/ovnnb_db.sock",
        southbound: str = "unix:/run/ovn/ovnsb_db.sock",
        switch: str = "unix:/run/openvswitch/db.sock",
        network: str = "public",
        state: Path = STATE,
    ) -> None:
        self._cloud = hashlib.sha256(cloud_id.encode()).hexdigest()[:8]
        self._prefix = f"thecloud-{self._cloud}-"
        self._external, self._network = external or External(), network
        self._northbound = Database(northbound, "OVN_Northbound", (*database.TABLES, "NB_Global"))
        self._southbound = Database(
            southbound, "OVN_Southbound", ("Chassis", "Chassis_Private", "Port_Binding"),
            {"Port_Binding": [["type", "==", "chassisredirect"]]},
        )  # fmt: skip
        self._switch = Database(switch, "Open_vSwitch", ("Open_vSwitch", "Bridge", "Port", "Interface"))
        self._lock_file, self._lock = state / f"{self._prefix}ovn.lock", Lock()

    async def apply(self, topology: Topology) -> None:
        await asyncio.to_thread(self._apply, topology)

    async def observe(self, vpc_id: UUID) -> Topology | None:
        return await asyncio.to_thread(self._observe, vpc_id)

    async def delete(self, vpc_id: UUID) -> None:
        await asyncio.to_thread(self._delete, vpc_id)

    async def list(self) -> set[UUID]:
        return await asyncio.to_thread(self._list)

    async def wire(self) -> Wire:
        in_user_space = await asyncio.to_thread(plugs.is_in_user_space, self._switch)
        return Wire(mtu=plugs.MTU, offloads=not in_user_space)

    async def close(self) -> None:
        for one in (self._northbound, self._southbound, self._switch):
            await asyncio.to_thread(one.close)

    def _apply(self, topology: Topology) -> None:
        chassis = self._chassis() if gateways(topology) else ()
        with self._lock, locked(self._lock_file):
            self._serve_names(topology)
            living = plugs.wanted(topology, self._name(topology.vpc_id))
            plugged = plugs.plug_all(self._switch, self._cloud, topology.vpc_id, living)
            version = self._northbound.change(lambda tables, txn: self._write(tables, txn, topology, chassis, plugged))
            self._step(bool(gateways(topology)))
        self._settle(version, set(living) - {topology.vpc_id.hex})
        if version is not None and chassis:
            self._settle_gateways(topology)

    def _name(self, vpc_id: UUID) -> str:
        return f"{self._prefix}{vpc_id}"

    def _serve_names(self, topology: Topology) -> None:
        """Have a name server here where instances of the VPC run here."""
        name = self._name(topology.vpc_id)
        if not plugs.needs_names(topology):
            self._stop_names(name)
            return
        kernel.make_namespace(name)
        with kernel.inside(kernel.file_of(name)) as there:
            there.up("lo")
            there.do("addr", "add", index=kernel.index("lo"), address=str(NAMES[2]), prefixlen=32)
            names.serve(name, plugs.at_server(topology))

    def _stop_names(self, name: str) -> None:
        names.stop(name)
        kernel.remove_namespace(name)

    def _write(
        self, tables: Tables, txn: Txn, topology: Topology, chassis: tuple[str, ...], plugged: bool
    ) -> int | None:
        """Have the VPC's rows as they should be. Returns the number to wait for, None when there is nothing to."""
        outside = None
        if gateways(topology):
            outside = database.external_switch(tables, txn, self._cloud, self._external.name, self._network)
        rows = self._render(tables, topology, chassis)
        router = "Logical_Router", self._name(topology.vpc_id)
        record = {"external_ids": {TOPOLOGY: database.packed(topology)}}
        rows[router] = replace(rows[router], columns={**rows[router].columns, **record})
        return self._put(tables, txn, topology.vpc_id, rows, outside, plugged)

    def _put(
        self, tables: Tables, txn: Txn, vpc_id: UUID, rows: Rows, outside: Any = None, plugged: bool = False
    ) -> int | None:
        present = list(database.of_cloud(tables, self._cloud, vpc_id))
        database.drop_unused(tables, self._cloud, rows, present)
        changed = database.make(tables, txn, rows, present, {CLOUD: self._cloud, VPC: str(vpc_id)}, outside)
        if not changed and not plugged:
            return None
        return next_version(tables, txn)

    def _render(self, tables: Tables, topology: Topology, chassis: tuple[str, ...]) -> Rows:
        around = Surroundings(
            external=self._external,
            chassis=chassis,
            transits=database.transits(tables, topology, self._prefix),
            legs=database.legs(tables, topology, self._external.cidr, self._external.gateway),
        )
        return render(topology, self._name(topology.vpc_id), around) | ovn_groups.render(topology)

    def _chassis(self) -> tuple[str, ...]:
        """The machines that are in the external network."""
        with self._southbound.reading() as tables:
            return tuple(sorted(
                row.name for row in tables["Chassis"].rows.values()
                if f"{self._network}:" in (row.other_config.get("ovn-bridge-mappings") or "")
            ))  # fmt: skip

    def _step(self, needed: bool) -> None:
        """Have this host in the external network while the cloud has gateways there."""
        bridge = plugs.bridge_to(self._switch, self._network)
        if bridge is None:
            return
        with self._northbound.reading() as tables:
            needed = needed or any(key[0] == "Logical_Switch" for key, _ in database.of_cloud(tables, self._cloud))
        (plugs.step_outside if needed else plugs.step_inside)(self._external, bridge)

    def _settle(self, version: int | None, here: set[str]) -> None:
        """Until what was asked for is so: on this host in any case, on others unless they take long."""

        def up(tables: Tables) -> bool:
            ports = tables["Logical_Switch_Port"].rows.values()
            return len(here & {row.name for row in ports if row.up == [True]}) == len(here)

        if here and not self._northbound.wait(up):
            raise TimeoutError("OVN does not say that the ports of this host are up; is ovn-controller running?")
        if version is not None:
            with self._switch.reading() as tables:
                own = only(tables["Open_vSwitch"]).external_ids.get("system-id")

            def done(tables: Tables, names: set[str] | None = None) -> bool:
                machines = tables["Chassis_Private"].rows.values()
                return not any(row.nb_cfg < version for row in machines if names is None or row.name in names)

            if not self._southbound.wait(lambda tables: done(tables, {own})):
                raise TimeoutError("OVN does not say that this host did what changed; is ovn-northd running?")
            self._southbound.wait(done, PATIENCE / 5)

    def _settle_gateways(self, topology: Topology) -> None:
        """Until each gateway is on a machine, and this one knows."""
        wanted = {f"cr-e-{id.hex}" for id in gateways(topology)}

        def claimed(tables: Tables) -> bool:
            return wanted <= {row.logical_port for row in tables["Port_Binding"].rows.values() if row.chassis}

        if not self._southbound.wait(claimed):
            raise TimeoutError("OVN does not say that the VPC's gateways are on a machine")
        self._settle(self._northbound.change(next_version), set())

    def _observe(self, vpc_id: UUID) -> Topology | None:
        chassis = self._chassis()
        with self._northbound.reading() as tables:
            present = list(database.of_cloud(tables, self._cloud, vpc_id))
            if not present:
                return None
            router = dict(present).get(("Logical_Router", self._name(vpc_id)))
            topology = database.recorded(router) if router else None
            if topology is None:
                return Topology(vpc_id=vpc_id, tenant_id=UUID(int=0), cidrs=())
            rows = self._render(tables, topology, chassis if gateways(topology) else ())
            wrong = {row.part for row in database.differing(rows, present)}
            joined = {port.name for port in tables["Logical_Router_Port"].rows.values()}
        return self._seen(topology, wrong, joined)

    def _seen(self, wanted: Topology, wrong: set[Part], joined: set[str]) -> Topology:
        """What is in place, where these parts are not."""
        bridge = plugs.bridge_to(self._switch, self._network)
        guarded = bridge is None or not gateways(wanted) or plugs.is_outside(self._external, bridge)
        present = plugs.present(self._switch, self._cloud)
        here = {one.port: one for one in present if one.working}
        name = self._name(wanted.vpc_id)
        plugged = plugs.wanted(wanted, name)
        missing = {id for id, plug in plugged.items() if id not in here or here[id].plug != str(plug)}
        missing |= {one.port for one in present} - set(here)
        whole = not wrong & {("vpc", None), ("routes", None)}
        named = ("names", None) not in wrong and wanted.vpc_id.hex not in missing
        named &= not plugs.needs_names(wanted) or names.serving(name, plugs.at_server(wanted))

        def there(kind: str, id: UUID | None) -> bool:
            return (kind, id) not in wrong

        igw = wanted.internet_gateway
        return replace(
            wanted,
            subnets=tuple(one for one in wanted.subnets if there("subnet", one.id)),
            ports=tuple(
                replace(one, hostnames=one.hostnames if named else ())
                for one in wanted.ports if there("port", one.id) and one.id.hex not in missing
            ),
            groups=wanted.groups if there("groups", None) else (),
            route_tables=wanted.route_tables if whole else (),
            internet_gateway=igw if there("gateway", igw) and guarded else None,
            nat_gateways=tuple(one for one in wanted.nat_gateways if there("gateway", one.id) and guarded),
            elastic_ips=tuple(one for one in wanted.elastic_ips if there("elastic", one.id)),
            peerings=tuple(
                one for one in wanted.peerings
                if there("peering", one.id) and peer_port(one.id, one.peer_vpc_id) in joined
            ),
        )  # fmt: skip

    def _delete(self, vpc_id: UUID) -> None:
        with self._lock, locked(self._lock_file):
            self._northbound.change(lambda tables, txn: self._put(tables, txn, vpc_id, {}))
            plugs.plug_all(self._switch, self._cloud, vpc_id, {})
            self._stop_names(self._name(vpc_id))
            self._step(False)

    def _list(self) -> set[UUID]:
        with self._northbound.reading() as tables:
            seen = [(row.external_ids.get(CLOUD), row.external_ids.get(VPC)) for name in database.TABLES
                    for row in tables[name].rows.values()]  # fmt: skip
        found = {UUID(vpc) for cloud, vpc in seen if cloud == self._cloud and vpc}
        found |= {UUID(one.vpc) for one in plugs.present(self._switch, self._cloud)}
        local = {*kernel.namespaces(), *names.served()}
        return found | {UUID(one.removeprefix(self._prefix)) for one in local if one.startswith(self._prefix)}


def next_version(tables: Tables, _: Txn) -> int:
    """Have OVN count one more change, and every machine tell when it did that one and all before."""
    everything = only(tables["NB_Global"])
    everything.nb_cfg += 1
    number: int = everything.nb_cfg
    return number
