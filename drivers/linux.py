"""VPCs of this host as network namespaces: the kernel's own routing and nftables, and a daemon for names alone.

The namespace of a VPC is its router, named after the VPC. Each instance hangs on a link of its own
in it and is told that its whole subnet is there: the router answers ARP for all of it, so that every
packet, within a subnet too, passes the IP layer, which keeps track of flows. (This kernel tracks none
on a bridge.) The table of a sender's subnet is chosen by its address, which cannot be another's.

apply() compares with the kernel and programs the difference: the firewall first, so that no link is
there without it, and as the last thing of each interface the route that leads to it, so that one
without that route was left half done and is made anew.
"""

import asyncio
import errno
import hashlib
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from drivers import linux_external as outer
from drivers import linux_firewall as firewall
from drivers import linux_kernel as kernel
from drivers import linux_names as names
from drivers import linux_parts as parts
from drivers import linux_plan as plan
from drivers.contracts import Wire
from drivers.linux_kernel import HOST
from drivers.linux_plan import IGW, External, Publisher, link
from drivers.linux_record import Record, Records
from drivers.network import METADATA, ElasticIp, Topology

STATE = Path("/run/thecloud-network")


class LinuxNetwork:
    """See NetworkDriver and SupportsMetadata. It keeps apart from other clouds on the same host by `cloud_id`."""

    one_host = True
    publishes = True

    def __init__(
        self,
        cloud_id: str,
        external: External | None = None,
        publish_address: str = "127.0.0.1",
        state: Path = STATE,
    ) -> None:
        self._prefix = f"thecloud-{hashlib.sha256(cloud_id.encode()).hexdigest()[:8]}-"
        self._external = external or External()
        self._publish_address = publish_address
        self._state = state
        self._records = Records(state)

    async def apply(self, topology: Topology) -> None:
        await asyncio.to_thread(self._apply, topology)

    async def observe(self, vpc_id: UUID) -> Topology | None:
        return await asyncio.to_thread(self._observe, vpc_id)

    async def delete(self, vpc_id: UUID) -> None:
        await asyncio.to_thread(self._delete, vpc_id)

    async def list(self) -> set[UUID]:
        there = {*await asyncio.to_thread(kernel.namespaces), *await asyncio.to_thread(names.served)}
        return {UUID(name.removeprefix(self._prefix)) for name in there if name.startswith(self._prefix)}

    async def wire(self) -> Wire:
        return Wire()

    async def routers(self) -> dict[UUID, int]:
        return await asyncio.to_thread(self._routers)

    async def listen(self, vpc_id: UUID) -> socket.socket:
        return await asyncio.to_thread(self._listen, vpc_id)

    def _name(self, vpc_id: UUID) -> str:
        return f"{self._prefix}{vpc_id}"

    def _apply(self, topology: Topology) -> None:
        with outer.locked(self._state / f"{self._name(topology.vpc_id)}.lock"):
            waiting = self._program(topology)
        for peer in waiting:
            self._apply_again(peer)

    def _apply_again(self, vpc_id: UUID) -> None:
        """Bring in what became possible, or stopped to be, with a change of another VPC.

        What is recorded is read under the lock: what was read before may be older than what is there by now.
        """
        with outer.locked(self._state / f"{self._name(vpc_id)}.lock"):
            record = self._records.read(self._name(vpc_id))
            waiting = self._program(record.topology) if record else set()
        for peer in waiting:
            self._apply_again(peer)

    def _program(self, topology: Topology) -> set[UUID]:
        """Make it so. Returns the VPCs that wait for a peering which is there now."""
        name = self._name(topology.vpc_id)
        if not kernel.is_namespace(kernel.file_of(name)):
            names.stop(name)  # it would keep alive one that somebody removed, with its ends of our links
        kernel.make_namespace(name)
        publisher = outer.publisher(topology, name, self._publish_address)
        record = self._records.read(name)
        with kernel.entered(kernel.file_of(name)):
            here = kernel.links()
        living = identities(topology, here)
        with ExitStack() as stack:
            host = stack.enter_context(kernel.inside(HOST))
            home = stack.enter_context(outer.opened(HOST))
            if parts.outer_legs(topology):
                stack.enter_context(outer.locked())
                outer.ensure(self._external)
            vpc = stack.enter_context(kernel.inside(kernel.file_of(name)))
            parts.settle(vpc)
            before = record if record and record.generation == kernel.generation() else None
            program_firewall(before, topology, publisher)
            parts.link_outside(vpc, topology, self._external)
            parts.link_publisher(vpc, publisher)
            peered, waiting = parts.link_peers(vpc, topology, self._names_of_peers(topology))
            parts.set_gateways(vpc, topology)
            parts.return_taps(vpc, home, record, topology)
            parts.plug_all(host, vpc, topology, living, record)
            parts.set_routes(vpc, plan.routes(topology, set(living), peered, self._external))
            parts.set_rules(vpc, plan.rules(topology, set(living), publisher))
            generation = kernel.generation()
        taken = {port.id for port in topology.ports if port.tap}
        plugged = {str(id): parts.TAKEN if id in taken else identity for id, identity in living.items()}
        self._records.write(
            name, Record(topology=topology, publisher=publisher, generation=generation, plugged=plugged)
        )
        with kernel.entered(kernel.file_of(name)):
            names.serve(name, topology)
        if not parts.outer_legs(topology):
            with outer.locked():
                outer.remove_if_unused(self._external)
        return waiting

    def _observe(self, vpc_id: UUID) -> Topology | None:
        name = self._name(vpc_id)
        if not kernel.is_namespace(kernel.file_of(name)):
            return None
        with outer.locked(self._state / f"{name}.lock"):  # not in the middle of a change
            return self._seen(vpc_id, name)

    def _seen(self, vpc_id: UUID, name: str) -> Topology:
        record = self._records.read(name)
        if record is None:
            return Topology(vpc_id=vpc_id, tenant_id=UUID(int=0), cidrs=())
        wanted = record.topology
        guarded, published = outer.standing(self._external, vpc_id)
        with kernel.inside(kernel.file_of(name)) as vpc:
            present, reached = kernel.links(), kernel.neighbourly_routes()
            public = vpc.addresses(IGW) if IGW in present and guarded else set()
            peered = {one.id for one in wanted.peerings if link("x", one.id) in present}
            plugged = {one.id for one in wanted.ports if (one.address, link("p", one.id)) in reached}
            routes = plan.routes(wanted, plugged, peered, self._external)
            as_wanted = all(kernel.routes(table) == specs for table, specs in routes.items())
            as_wanted &= vpc.rules() == plan.rules(wanted, plugged, record.publisher)
            untouched = record.generation == kernel.generation()
        there = (one for one in wanted.ports if (one.netns or one.tap) is None or one.id in plugged)
        named, led = names.serving(name, wanted), published or not record.publisher
        return replace(
            wanted,
            ports=tuple(
                replace(one, hostnames=one.hostnames if named else (), published=one.published if led else ())
                for one in there
            ),
            groups=wanted.groups if untouched else (),
            route_tables=wanted.route_tables if as_wanted else (),
            internet_gateway=wanted.internet_gateway if IGW in present and guarded else None,
            nat_gateways=tuple(one for one in wanted.nat_gateways if link("n", one.id) in present and guarded),
            elastic_ips=tuple(one for one in wanted.elastic_ips if working(one, wanted, public)),
            peerings=tuple(one for one in wanted.peerings if one.id in peered),
        )

    def _delete(self, vpc_id: UUID) -> None:
        name = self._name(vpc_id)
        with outer.locked(self._state / f"{name}.lock"):
            record = self._records.read(name)
            outer.unpublish(vpc_id)
            names.stop(name)
            if kernel.is_namespace(kernel.file_of(name)):
                with outer.opened(HOST) as home, kernel.inside(kernel.file_of(name)) as vpc:
                    parts.return_taps(vpc, home, record, None)
                    for one in kernel.links():
                        if one == IGW or one[:2] in ("n-", "x-"):
                            vpc.remove(one)
            kernel.remove_namespace(name)
            with outer.locked():
                outer.remove_if_unused(self._external)
            self._records.remove(name)
            (self._state / f"{name}.lock").unlink()
        for peering in record.topology.peerings if record else ():
            self._apply_again(peering.peer_vpc_id)

    def _routers(self) -> dict[UUID, int]:
        own = (name for name in kernel.namespaces() if name.startswith(self._prefix))
        seen = {UUID(name.removeprefix(self._prefix)): kernel.identity(kernel.file_of(name)) for name in own}
        return {id: identity for id, identity in seen.items() if identity is not None}

    def _listen(self, vpc_id: UUID) -> socket.socket:
        try:
            return kernel.bound_there(kernel.file_of(self._name(vpc_id)), METADATA, 80)
        except OSError as error:
            # No file; a file without a namespace; a namespace without the address.
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.EADDRNOTAVAIL):
                raise LookupError(f"VPC {vpc_id} has no router yet") from None
            raise

    def _names_of_peers(self, topology: Topology) -> dict[UUID, str]:
        """The namespaces of the peers that are there."""
        called = {one.id: self._name(one.peer_vpc_id) for one in topology.peerings}
        return {id: name for id, name in called.items() if kernel.is_namespace(kernel.file_of(name))}


def working(elastic_ip: ElasticIp, topology: Topology, public: set[str]) -> bool:
    """Whether its address is there, where there is to be one."""
    ports = {port.id for port in topology.ports}
    wanted = topology.internet_gateway is not None and elastic_ip.port_id in ports
    return not wanted or f"{elastic_ip.public_ip}/32" in public


def identities(topology: Topology, here: set[str]) -> dict[UUID, int]:
    """Of the ports whose instance runs, the identity of its namespace, or the number of its tap on the host.

    One of the taps that are in the VPC, whose links are in `here`, is TAKEN.
    """
    own = kernel.identity(HOST)
    taps = {port.id: kernel.index(port.tap) for port in topology.ports if port.tap}
    taps = {id: number or parts.TAKEN for id, number in taps.items() if number or link("p", id) in here}
    found = {port.id: kernel.identity(port.netns) for port in topology.ports if port.netns}
    if own in found.values():
        raise ValueError("a port would be plugged into the namespace of the host")
    return taps | {id: identity for id, identity in found.items() if identity is not None}


def program_firewall(record: Record | None, topology: Topology, publisher: Publisher | None) -> None:
    """In one transaction: the difference from what is recorded, or all of it anew."""
    after = firewall.render(topology, publisher)
    if record is None:
        kernel.nft("".join(firewall.replacement(table) for table in after))
        return
    before = firewall.render(record.topology, record.publisher)
    kernel.nft("".join(map(firewall.difference, before, after)))
