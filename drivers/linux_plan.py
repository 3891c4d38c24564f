"""A topology as links, rules and routes of one namespace. Nothing here touches the kernel."""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Network
from uuid import UUID

from drivers.network import Peering, Port, Route, Topology

UNICAST, BLACKHOLE, UNREACHABLE, THROW = 1, 6, 7, 9  # types of routes
MAIN = 254
TO_PUBLISHER, FROM_GATEWAY, FROM_FORWARDER, FROM_OUTSIDE, FROM_SUBNET = 100, 150, 200, 300, 400  # priorities of rules
IGW = "igw"
PUBLISH = "publish"
PEER = "169.254.0.1"  # the next hop on every peering: the other end of the link

RouteSpec = tuple[str, int, str | None, str | None]  # destination, type, link, next hop
RuleSpec = tuple[int, str | None, str | None, str | None, int]  # priority, from, to, incoming link, table


@dataclass(frozen=True)
class External:
    """The network outside of all VPCs. `name` is the host's link into it, which has the address `gateway`."""

    name: str = "thecloud-ext"
    cidr: str = "100.64.0.0/16"
    gateway: str = "100.64.0.1"

    @classmethod
    def of(cls, cidr: str) -> "External":
        """The network with this range: clouds of one host that name the same share it. Raises ValueError."""
        network = IPv4Network(cidr)
        if network.prefixlen > 29:
            raise ValueError(f"{cidr} has too few addresses; it is /29 at most")
        if cidr == cls.cidr:
            return cls()
        return cls(f"ext-{hashlib.sha256(cidr.encode()).hexdigest()[:8]}", cidr, str(network.network_address + 1))


@dataclass(frozen=True)
class Publisher:
    """The two ends of the link between the host and a VPC, over which published ports lead."""

    host: str
    vpc: str


def link(kind: str, id: UUID) -> str:
    """A link's name: of the id the last digits, since the first may be a moment that many share."""
    return f"{kind}-{id.hex[-13:]}"


def table(route_table_id: UUID) -> int:
    return 1000 + route_table_id.int % 2**30


def mac(peering: Peering, vpc_id: UUID) -> str:
    """The address of that VPC's end of a peering."""
    digest = hashlib.sha256(peering.id.bytes + vpc_id.bytes).digest()
    return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])


def forwarders(topology: Topology) -> frozenset[UUID]:
    """The ports that routes lead to."""
    return frozenset(
        route.target_id
        for routes in topology.route_tables
        for route in routes.routes
        if route.target == "instance" and route.target_id
    )


def working_nat_gateways(topology: Topology) -> dict[UUID, str]:
    """The links of the NAT gateways whose own subnet leads everything to the internet gateway."""
    if topology.internet_gateway is None:
        return {}
    way_out = Route(destination="0.0.0.0/0", target="internet_gateway", target_id=topology.internet_gateway)
    public = {one.id for one in topology.route_tables if way_out in one.routes}
    subnets = {subnet.id for subnet in topology.subnets if subnet.route_table_id in public}
    return {gateway.id: link("n", gateway.id) for gateway in topology.nat_gateways if gateway.subnet_id in subnets}


def rules(topology: Topology, plugged: set[UUID], publisher: Publisher | None) -> set[RuleSpec]:
    subnets = {subnet.id: subnet for subnet in topology.subnets}
    outside = [IGW] if topology.internet_gateway else []
    outside += [link("n", gateway.id) for gateway in topology.nat_gateways]
    outside += [link("x", peering.id) for peering in topology.peerings]
    wanted: set[RuleSpec] = {(FROM_OUTSIDE, None, None, name, MAIN) for name in outside}
    wanted |= {(FROM_SUBNET, one.cidr, None, None, table(one.route_table_id)) for one in topology.subnets}
    # What the router itself answers gets there, whatever routes the subnet has.
    wanted |= {(FROM_GATEWAY, f"{one.gateway_ip}/32", None, "lo", MAIN) for one in topology.subnets}
    leading = forwarders(topology)
    for port in topology.ports:
        if port.id in leading and port.id in plugged:
            own = table(subnets[port.subnet_id].route_table_id)
            wanted.add((FROM_FORWARDER, None, None, link("p", port.id), own))
    if publisher:
        wanted.add((TO_PUBLISHER, None, f"{publisher.host}/32", None, MAIN))
    return wanted


def routes(topology: Topology, plugged: set[UUID], peered: set[UUID], external: External) -> dict[int, set[RouteSpec]]:
    """Of each route table, its routes; one whose target is not there (yet) is a blackhole."""
    ports = {port.id: port for port in topology.ports if port.id in plugged}
    nats = working_nat_gateways(topology)
    wanted: dict[int, set[RouteSpec]] = {}
    for routes in topology.route_tables:
        specs = {spec.destination: resolve(spec, topology, ports, nats, peered, external) for spec in routes.routes}
        for destination, kind, device, via in list(specs.values()):
            # What is in the external network itself is next door, not behind its gateway.
            if via == external.gateway and IPv4Network(external.cidr).subnet_of(IPv4Network(destination)):
                specs.setdefault(external.cidr, (external.cidr, kind, device, None))
        wanted[table(routes.id)] = set(specs.values())
    return wanted


def resolve(
    route: Route,
    topology: Topology,
    ports: dict[UUID, Port],
    nats: dict[UUID, str],
    peered: set[UUID],
    external: External,
) -> RouteSpec:
    outside = None if IPv4Network(route.destination).subnet_of(IPv4Network(external.cidr)) else external.gateway
    match route.target:
        case "local":
            return (route.destination, THROW, None, None)
        case "internet_gateway" if route.target_id and route.target_id == topology.internet_gateway:
            return (route.destination, UNICAST, IGW, outside)
        case "nat_gateway" if route.target_id in nats:
            return (route.destination, UNICAST, nats[route.target_id], outside)
        case "peering" if route.target_id in peered:
            return (route.destination, UNICAST, link("x", route.target_id), PEER)
        case "instance" if route.target_id in ports:
            return (route.destination, UNICAST, link("p", route.target_id), ports[route.target_id].address)
    return (route.destination, BLACKHOLE, None, None)
