"""Whether a packet gets there and its reply back, read off a topology: drivers/network.py without packets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Literal
from uuid import UUID

from drivers.network import Direction, Port, Route, RouteTable, Topology, Transport

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
    table, route = lookup(topology, source, address)
    if route is None:
        return Obstacle("route", table.id, f"no route leads to {address}")
    if has_egress_rule(topology, source) and not allowed(topology, source, "egress", address, topology, protocol, port):
        return Obstacle("group", source.id, f"no egress rule allows {protocol} to {address}")
    match route.target:
        case "local":
            return arrival(topology, topology, source, address, protocol, port, route)
        case "peering":
            peering = next((one for one in topology.peerings if one.id == route.target_id), None)
            peer = (peers or {}).get(peering.peer_vpc_id) if peering else None
            if peer is None or route.target_id not in {one.id for one in peer.peerings}:
                return Obstacle("peering", route.target_id, "the peering is not there on both sides")
            return arrival(topology, peer, source, address, protocol, port, route)
        case "internet_gateway":
            if route.target_id is None or route.target_id != topology.internet_gateway:
                return Obstacle("gateway", route.target_id, "the internet gateway is gone")
            if source.id not in {one.port_id for one in topology.elastic_ips}:
                return Obstacle("gateway", route.target_id, "the instance has no elastic IP")
            return None
        case "nat_gateway":
            return through_nat(topology, route)
        case "instance":
            there = any(one.id == route.target_id and one.netns for one in topology.ports)
            return None if there else Obstacle("route", table.id, "the instance that the route leads to is gone")
    return Obstacle("route", table.id, f"{route.destination} is a blackhole")


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
    if target is None or target.netns is None:
        return Obstacle("target", None, f"no running instance has the address {address}")
    if target.groups:
        if not allowed(there, target, "ingress", source.address, topology, protocol, port):
            return Obstacle("group", target.id, f"no ingress rule allows {protocol} from {source.address}")
    elif there is not topology:
        return Obstacle("group", target.id, "without a group an instance is closed to other VPCs")
    table, back = lookup(there, target, source.address)
    if back is None or (back.target, back.target_id) != (route.target, route.target_id):
        return Obstacle("route", table.id, f"the way back to {source.address} is another or none")
    return None


def through_nat(topology: Topology, route: Route) -> Obstacle | None:
    gateway = next((one for one in topology.nat_gateways if one.id == route.target_id), None)
    if gateway is None:
        return Obstacle("gateway", route.target_id, "the NAT gateway is gone")
    subnet = next(one for one in topology.subnets if one.id == gateway.subnet_id)
    table = next(one for one in topology.route_tables if one.id == subnet.route_table_id)
    out = Route(destination="0.0.0.0/0", target="internet_gateway", target_id=topology.internet_gateway)
    if topology.internet_gateway is None or out not in table.routes:
        return Obstacle("gateway", gateway.id, "the NAT gateway's own subnet does not lead to the internet gateway")
    return None


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
