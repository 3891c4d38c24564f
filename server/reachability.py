"""Whether a packet gets there and its reply back, read off a topology: drivers/network.py without packets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Literal
from uuid import UUID

from drivers.network import Direction, NatGateway, Port, Route, RouteTable, Target, Topology, Transport

NEVER = (IPv4Network("127.0.0.0/8"), IPv4Network("169.254.0.0/16"))


@dataclass(frozen=True)
class Obstacle:
    """The first thing in the way. `id` is that of the route table, group's port, gateway or peering."""

    kind: Literal["instance", "route", "group", "gateway", "peering", "target"]
    id: UUID | None
    text: str


def obstacle(
    topology: Topology,
    source: Port,
    address: str,
    protocol: Transport,
    port: int = 0,
    peers: Mapping[UUID, Topology] | None = None,
) -> Obstacle | None:
    """What keeps the source from that address; None when nothing of ours does. `peers` has the peered VPCs."""
    if any(IPv4Address(address) in network for network in NEVER):
        return Obstacle("target", None, f"{address} is not reached from a VPC")
    if address in own_addresses(topology):
        return at_the_router(topology, address, protocol, port)
    table, route = lookup(topology, source, address)
    if route is None:
        return Obstacle("route", table.id, f"no route leads to {address}")
    if has_egress_rule(topology, source) and not allowed(topology, source, "egress", address, topology, protocol, port):
        return Obstacle("group", source.id, f"no egress rule allows {protocol} to {address}")
    known = peers or {}
    match route.target:
        case "local":
            return arrival(topology, topology, source, address, protocol, port, route)
        case "peering":
            peering = next((one for one in topology.peerings if one.id == route.target_id), None)
            peer = known.get(peering.peer_vpc_id) if peering else None
            if peer is None or route.target_id not in {one.id for one in peer.peerings}:
                return Obstacle("peering", route.target_id, "the peering is not there on both sides")
            return arrival(topology, peer, source, address, protocol, port, route)
        case "internet_gateway":
            if route.target_id is None or route.target_id != topology.internet_gateway:
                return Obstacle("gateway", route.target_id, "the internet gateway is gone")
            public = next((one.public_ip for one in topology.elastic_ips if one.port_id == source.id), None)
            if public is None:
                return Obstacle("gateway", route.target_id, "the instance has no elastic IP")
            return arrival_from_outside([topology, *known.values()], public, address, protocol, port)
        case "nat_gateway":
            gateway = next((one for one in topology.nat_gateways if one.id == route.target_id), None)
            if gateway is None:
                return Obstacle("gateway", route.target_id, "the NAT gateway is gone")
            if not leads_out(topology, gateway):
                text = "the NAT gateway's own subnet does not lead to the internet gateway"
                return Obstacle("gateway", gateway.id, text)
            return arrival_from_outside([topology, *known.values()], gateway.public_ip, address, protocol, port)
        case "instance":
            forwarder = next((one for one in topology.ports if one.id == route.target_id and one.runs), None)
            if forwarder is None:
                return Obstacle("route", table.id, "the instance that the route leads to is gone")
            return way_back(topology, forwarder, source.address, "local", None)
    return Obstacle("route", table.id, f"{route.destination} is a blackhole")


def own_addresses(topology: Topology) -> set[str]:
    """The addresses that the VPC's router has itself."""
    ports = {one.id for one in topology.ports}
    elastic = {one.public_ip for one in topology.elastic_ips if one.port_id in ports and topology.internet_gateway}
    gateways = {one.gateway_ip for one in topology.subnets}
    return gateways | elastic | {one.public_ip for one in topology.nat_gateways}


def at_the_router(topology: Topology, address: str, protocol: Transport, port: int) -> Obstacle | None:
    if address not in {one.gateway_ip for one in topology.subnets}:
        return Obstacle("target", None, f"{address} is this VPC's own, and reached from outside of it only")
    names = port == 53 and protocol in ("tcp", "udp") and any(one.hostnames for one in topology.ports)
    if protocol == "icmp" or names:
        return None
    return Obstacle("target", None, "a gateway answers to ping and to questions for names only")


def lookup(topology: Topology, port: Port, address: str) -> tuple[RouteTable, Route | None]:
    """The table of the port's subnet, and its most specific route to the address."""
    subnet = next(one for one in topology.subnets if one.id == port.subnet_id)
    table = next(one for one in topology.route_tables if one.id == subnet.route_table_id)
    matching = [one for one in table.routes if IPv4Address(address) in IPv4Network(one.destination)]
    return table, max(matching, key=lambda one: IPv4Network(one.destination).prefixlen, default=None)


def arrival(
    topology: Topology, there: Topology, source: Port, address: str, protocol: Transport, port: int, route: Route
) -> Obstacle | None:
    """What keeps a packet from the instance with the address, or its reply from coming back the same way."""
    target = next((one for one in there.ports if one.address == address), None)
    if target is None or not target.runs:
        return Obstacle("target", None, f"no running instance has the address {address}")
    if target.groups:
        if not allowed(there, target, "ingress", source.address, topology, protocol, port):
            return Obstacle("group", target.id, f"no ingress rule allows {protocol} from {source.address}")
    elif there is not topology:
        return Obstacle("group", target.id, "without a group an instance is closed to other VPCs")
    return way_back(there, target, source.address, route.target, route.target_id)


def way_back(there: Topology, port: Port, address: str, target: Target, id: UUID | None) -> Obstacle | None:
    """What keeps the port's replies from going to that address over that target."""
    table, back = lookup(there, port, address)
    if back is None or (back.target, back.target_id) != (target, id):
        return Obstacle("route", table.id, f"the way back to {address} is another or none")
    return None


def arrival_from_outside(
    known: Iterable[Topology], sender: str, address: str, protocol: Transport, port: int
) -> Obstacle | None:
    """What keeps a packet of that public address from one that a VPC we know has. Others may do as they like."""
    for there in known:
        if any(IPv4Address(address) in IPv4Network(cidr) for cidr in there.cidrs):
            return Obstacle("target", None, f"{address} is a private address, and the route leads outside")
        if address in {one.public_ip for one in there.nat_gateways}:
            return Obstacle("target", None, "a NAT gateway lets nothing in")
        elastic = next((one for one in there.elastic_ips if one.public_ip == address), None)
        if elastic is None:
            continue
        target = next((one for one in there.ports if one.id == elastic.port_id and one.runs), None)
        if target is None or there.internet_gateway is None:
            return Obstacle("target", None, f"no running instance has the address {address}")
        if not allowed(there, target, "ingress", sender, there, protocol, port):
            return Obstacle("group", target.id, f"no ingress rule allows {protocol} from {sender}")
        return way_back(there, target, sender, "internet_gateway", there.internet_gateway)
    return None


def leads_out(topology: Topology, gateway: NatGateway) -> bool:
    """Whether the gateway's own subnet leads everything to the internet gateway."""
    subnet = next(one for one in topology.subnets if one.id == gateway.subnet_id)
    table = next(one for one in topology.route_tables if one.id == subnet.route_table_id)
    out = Route(destination="0.0.0.0/0", target="internet_gateway", target_id=topology.internet_gateway)
    return topology.internet_gateway is not None and out in table.routes


def has_egress_rule(topology: Topology, port: Port) -> bool:
    own = (group for group in topology.groups if group.id in port.groups)
    return any(rule.direction == "egress" for group in own for rule in group.rules)


def allowed(
    topology: Topology, port: Port, direction: Direction, far: str, of: Topology, protocol: Transport, number: int
) -> bool:
    """Whether a rule of the port's groups allows the far end, an address of the VPC `of` or outside."""
    members = {group.id: set(addresses(topology, group.id)) for group in topology.groups} if of is topology else {}
    for group in topology.groups:
        for rule in group.rules if group.id in port.groups else ():
            if rule.direction != direction or rule.protocol not in ("all", protocol):
                continue
            if rule.protocol in ("tcp", "udp") and not rule.port_min <= number <= rule.port_max:
                continue
            if rule.cidr and IPv4Address(far) in IPv4Network(rule.cidr):
                return True
            if rule.group_id and far in members.get(rule.group_id, ()):
                return True
    return False


def addresses(topology: Topology, group_id: UUID) -> Iterable[str]:
    return (port.address for port in topology.ports if group_id in port.groups)
