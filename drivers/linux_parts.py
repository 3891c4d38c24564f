"""The parts of a VPC's namespace, each brought to what a topology asks for. The calling thread is in the namespace."""

import socket
from ipaddress import IPv4Network
from uuid import UUID

from drivers import linux_external as outer
from drivers import linux_kernel as kernel
from drivers import linux_plan as plan
from drivers.linux_kernel import LAST, Netlink
from drivers.linux_plan import IGW, PEER, PUBLISH, UNREACHABLE, External, Publisher, RouteSpec, RuleSpec, link
from drivers.linux_record import Record
from drivers.network import METADATA, Port, Subnet, Topology

TAKEN = 0  # in the place of the number on the host of a tap that is there no longer

SETTINGS = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/default/proxy_arp": "1",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
}


def settle(vpc: Netlink) -> None:
    """Have the namespace route, and refuse what no route leads to."""
    for path, value in SETTINGS.items():
        kernel.setting(path, value)
    vpc.up("lo")
    close_table(vpc, plan.MAIN)


def close_table(vpc: Netlink, table: int) -> None:
    vpc.do("route", "add", dst="0.0.0.0/0", type=UNREACHABLE, table=table, priority=LAST, family=socket.AF_INET)


def outer_legs(topology: Topology) -> dict[str, tuple[UUID, set[str]]]:
    """The links into the external network: the id each is named after there, and its addresses."""
    legs = {link("n", one.id): (one.id, {one.public_ip}) for one in topology.nat_gateways}
    if topology.internet_gateway:
        ports = {port.id for port in topology.ports}
        public = {one.public_ip for one in topology.elastic_ips if one.port_id in ports}
        legs[IGW] = (topology.internet_gateway, public)
    return legs


def link_outside(vpc: Netlink, topology: Topology, external: External) -> None:
    legs = outer_legs(topology)
    for name in kernel.links():
        if (name == IGW or name.startswith("n-")) and name not in legs:
            vpc.remove(name)
    for name, (id, addresses) in legs.items():
        outer.leg(external, vpc, name, id)
        there = vpc.addresses(name)
        for address in there - {f"{one}/32" for one in addresses}:
            vpc.do("addr", "del", index=kernel.index(name), address=address.partition("/")[0], prefixlen=32)
        for address in addresses:
            if f"{address}/32" not in there:
                vpc.do("addr", "add", index=kernel.index(name), address=address, prefixlen=32)
                kernel.announce(name, address)


def link_publisher(vpc: Netlink, publisher: Publisher | None) -> None:
    if publisher is None:
        return
    if f"{publisher.vpc}/31" not in vpc.addresses(PUBLISH):
        vpc.do("addr", "add", index=kernel.index(PUBLISH), address=publisher.vpc, prefixlen=31)
    vpc.up(PUBLISH)


def link_peers(vpc: Netlink, topology: Topology, peers: dict[UUID, str]) -> tuple[set[UUID], set[UUID]]:
    """The peerings whose other VPC is there, and the VPCs that have not taken up theirs yet.

    `peers` has the namespace of each peer that is there, by peering.
    """
    present = kernel.links()
    wanted = {link("x", one.id) for one in topology.peerings if one.id in peers}
    for name in present:
        if name.startswith("x-") and name not in wanted:
            vpc.remove(name)
    waiting = set()
    for peering in topology.peerings:
        if peering.id not in peers:
            continue
        name, path = link("x", peering.id), kernel.file_of(peers[peering.id])
        own, other = plan.mac(peering, topology.vpc_id), plan.mac(peering, peering.peer_vpc_id)
        if name not in present:
            with outer.opened(path) as namespace:
                vpc.do("link", "add", ifname=name, kind="veth", address=own,
                       peer={"ifname": name, "net_ns_fd": namespace, "address": other})  # fmt: skip
        kernel.setting(f"ipv4/conf/{name}/proxy_arp", "0")
        neighbour(vpc, name, PEER, other)
        vpc.up(name)
        with kernel.inside(path):
            if not kernel.is_up(name):
                waiting.add(peering.peer_vpc_id)
    return {one.id for one in topology.peerings if one.id in peers}, waiting


def neighbour(vpc: Netlink, name: str, address: str, mac: str) -> None:
    vpc.do("neigh", "replace", dst=address, lladdr=mac, ifindex=kernel.index(name), state="permanent")


def set_gateways(vpc: Netlink, topology: Topology) -> None:
    """The router answers for METADATA and the gateways on every link, having their addresses on none in particular."""
    number = kernel.index("lo")
    there = {one for one in vpc.addresses("lo") if not one.startswith("127.")}
    wanted = {f"{address}/32" for address in (METADATA, *(subnet.gateway_ip for subnet in topology.subnets))}
    for address in there - wanted:
        vpc.do("addr", "del", index=number, address=address.partition("/")[0], prefixlen=32)
    for address in wanted - there:
        vpc.do("addr", "add", index=number, address=address.partition("/")[0], prefixlen=32)


def return_taps(vpc: Netlink, home: int, record: Record | None, topology: Topology | None) -> None:
    """Give the host, whose namespace `home` is, the taps of ports that are no longer there: a machine has but one."""
    kept = {port.id for port in topology.ports if port.tap} if topology else set()
    for port in record.topology.ports if record else ():
        if port.tap and port.id not in kept and (number := kernel.index(link("p", port.id))):
            vpc.do("link", "set", index=number, state="down")
            vpc.do("link", "set", index=number, net_ns_fd=home, ifname=port.tap)


def plug_all(host: Netlink, vpc: Netlink, topology: Topology, living: dict[UUID, int], record: Record | None) -> None:
    """Have a link to each instance in `living`, and no other."""
    wanted = {link("p", id) for id in living}
    present = kernel.links()
    for name in present:
        if name.startswith("p-") and name not in wanted:
            vpc.remove(name)
    reached = kernel.neighbourly_routes()
    subnets = {subnet.id: subnet for subnet in topology.subnets}
    before = {port.id: port for port in record.topology.ports} if record else {}
    networks = {subnet.id: subnet for subnet in record.topology.subnets} if record else {}
    for port in topology.ports:
        if port.id not in living:
            continue
        old, subnet = before.get(port.id), subnets[port.subnet_id]
        same = (
            old is not None
            and record is not None
            and record.plugged.get(str(port.id)) == living[port.id]
            and (port.address, link("p", port.id)) in reached
            and (old.mac, old.name, networks.get(old.subnet_id)) == (port.mac, port.name, subnet)
        )
        if not same:
            plug(host, vpc, port, subnet, living[port.id])
        elif old is not None and old.mbps != port.mbps:
            limit(vpc, port)


def plug(host: Netlink, vpc: Netlink, port: Port, subnet: Subnet, identity: int) -> None:
    """A new link to the instance, and at last the route to it. `identity` is that of its namespace or tap."""
    name = link("p", port.id)
    if port.tap:
        take(host, vpc, name, identity)
    else:
        join(vpc, port)
    kernel.setting(f"ipv4/neigh/{name}/proxy_delay", "0")
    neighbour(vpc, name, port.address, port.mac)
    vpc.up(name)
    if port.netns:
        settle_in(port.netns, port, subnet)
    if port.mbps is not None:
        limit(vpc, port)
    vpc.do("route", "replace", dst=f"{port.address}/32", oif=kernel.index(name), scope="link")


def join(vpc: Netlink, port: Port) -> None:
    """A pair of links, of which the other is in the instance's namespace."""
    name = link("p", port.id)
    assert port.netns
    vpc.remove(name)
    with outer.opened(port.netns) as namespace:
        vpc.do("link", "add", ifname=name, kind="veth",
               peer={"ifname": port.name, "net_ns_fd": namespace, "address": port.mac})  # fmt: skip
    if not kernel.index(name):
        raise RuntimeError(f"the instance of port {port.id} has a link {port.name} that is not ours")


def take(host: Netlink, vpc: Netlink, name: str, number: int) -> None:
    """The host's tap of this number, in one step here and of this name. It is down until it is brought up here."""
    if number != TAKEN:
        vpc.remove(name)
        with outer.opened(kernel.HOST) as here:
            host.do("link", "set", index=number, net_ns_fd=here, ifname=name)
    if not kernel.index(name):
        raise RuntimeError(f"the tap of {name} went away")


def settle_in(netns: str, port: Port, subnet: Subnet) -> None:
    """The instance's end of its link: address and way out."""
    with kernel.inside(netns) as instance:
        number = kernel.index(port.name)
        length = IPv4Network(subnet.cidr).prefixlen
        instance.up("lo")
        instance.do("addr", "add", index=number, address=port.address, prefixlen=length)
        instance.up(port.name)
        if port.name == "eth0":
            instance.do("route", "replace", dst="0.0.0.0/0", gateway=subnet.gateway_ip, oif=number)


def limit(vpc: Netlink, port: Port) -> None:
    """The rate at both ends of the link: what the instance gets, and what it sends.

    Into a virtual machine nobody reaches, and kernels come without a policer for links: what that sends over its
    rate is dropped by the firewall, which lets pass what was left unused in the last second.
    """
    bound(vpc, link("p", port.id), port.mbps)
    if port.netns:
        with kernel.inside(port.netns) as instance:
            bound(instance, port.name, port.mbps)


def bound(namespace: Netlink, name: str, mbps: int | None) -> None:
    number = kernel.index(name)
    if mbps is None:
        namespace.do("tc", "del", index=number, root=True)
        return
    rate = mbps * 125_000  # bytes a second
    burst = max(rate // 100, 64 * 1024)  # what 10 ms carry, and one large packet at least
    namespace.do("tc", "replace", kind="tbf", index=number, handle=0x10000, rate=rate, burst=burst, latency="50ms")


def set_routes(vpc: Netlink, wanted: dict[int, set[RouteSpec]]) -> None:
    for table, specs in wanted.items():
        close_table(vpc, table)
        there = kernel.routes(table)
        for spec in specs - there:
            route(vpc, "replace", table, spec)
        kept = {spec[0] for spec in specs}
        for spec in there:
            if spec[0] not in kept:
                route(vpc, "del", table, spec)


def route(vpc: Netlink, command: str, table: int, spec: RouteSpec) -> None:
    destination, kind, name, via = spec
    parts: dict[str, object] = {"dst": destination, "table": table, "type": kind, "family": socket.AF_INET}
    if name:
        parts |= {"oif": kernel.index(name)}
        parts |= {"gateway": via, "flags": 4} if via else {"scope": "link"}  # 4: onlink, no address of ours is near
    vpc.do("route", command, **parts)


def set_rules(vpc: Netlink, wanted: set[RuleSpec]) -> None:
    """A table that no rule leads to any longer is emptied first: without its rule nobody would find it."""
    there = vpc.rules()
    for spec in wanted - there:
        rule(vpc, "add", spec)
    for spec in there - wanted:
        if spec[-1] not in {plan.MAIN, *(one[-1] for one in wanted)}:
            for old in kernel.routes(spec[-1]):
                route(vpc, "del", spec[-1], old)
            vpc.do("route", "del", dst="0.0.0.0/0", type=UNREACHABLE, table=spec[-1], priority=LAST,
                   family=socket.AF_INET)  # fmt: skip
        rule(vpc, "del", spec)


def rule(vpc: Netlink, command: str, spec: RuleSpec) -> None:
    priority, source, destination, name, table = spec
    parts = {"src": source, "dst": destination, "iifname": name}
    vpc.do("rule", command, priority=priority, table=table, family=socket.AF_INET,
           **{part: value for part, value in parts.items() if value})  # fmt: skip
