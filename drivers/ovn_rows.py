"""A topology as rows of OVN's northbound database. Nothing here touches it.

A VPC is a router, a subnet a switch with a port of that router. Each gateway is a router of its own
between the VPC's router and the external network: what it translates is in no other's way, and one
address of the external network is one of its own.

Routes are policies of the VPC's router, since a policy may depend on the subnet a packet came from
and wins over what the router knows by itself: the subnets it is in. Every instance speaks to the
router alone (a rule allows nothing else), so that within a subnet routes hold as well. Who asks for
another's MAC is told the router's, since a virtual machine takes its whole subnet to be there.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from typing import Any
from uuid import UUID

from drivers.linux_plan import External, forwarders, working_nat_gateways
from drivers.network import Port, Route, Topology

Key = tuple[str, str]  # a table, and what we call a row of it
Part = tuple[str, UUID | None]  # what of a topology a row is for
LINK_LOCAL = "{127.0.0.0/8, 169.254.0.0/16}"
NAMES = IPv4Network("169.254.128.0/30")  # of each VPC's router and its name server
LAST, ROUTE, OWN, NEVER = 1, 1000, 20000, 30000  # priorities of policies


@dataclass(frozen=True)
class Row:
    """One row. In its columns sets are frozensets, and other rows are there by their keys."""

    part: Part
    columns: Mapping[str, Any]
    outside: bool = False  # a port of the switch that the whole cloud shares


Rows = dict[Key, Row]


@dataclass(frozen=True)
class Surroundings:
    """What the rows of a VPC depend on beyond its topology.

    `transits` has, by the id of a peering or gateway, the network of the link from the VPC's router to
    what is on the other side; `legs` by the id of a gateway its address in the external network.
    """

    external: External
    chassis: tuple[str, ...] = ()  # that are in the external network
    transits: Mapping[UUID, IPv4Network] = field(default_factory=dict)
    legs: Mapping[UUID, str] = field(default_factory=dict)


def mac(*of: UUID | str) -> str:
    digest = hashlib.sha256(":".join(map(str, of)).encode()).digest()
    return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])


def gateways(topology: Topology) -> tuple[UUID, ...]:
    """Those that need a leg in the external network."""
    igw = (topology.internet_gateway,) if topology.internet_gateway else ()
    return (*igw, *(one.id for one in topology.nat_gateways))


def ends(network: IPv4Network, first: bool) -> tuple[str, str]:
    """The addresses of the one side of a link and of the other. The VPC's router is first towards gateways."""
    near, far = (str(network[1]), str(network[2])) if first else (str(network[2]), str(network[1]))
    return near, far


def peer_port(peering_id: UUID, vpc_id: UUID) -> str:
    return f"x-{peering_id.hex}-{vpc_id.hex[-12:]}"


def some(values: Any) -> str:
    """Any of these, in a match."""
    return "{" + ", ".join(sorted(values)) + "}"


def render(topology: Topology, name: str, around: Surroundings) -> Rows:
    """All rows of a VPC whose router has this name."""
    rows: Rows = {}
    ports = [*subnets(topology, rows), *links_to_peers(topology, rows, around)]
    ports += [gateway(topology, rows, id, around) for id in gateways(topology)]
    if topology.subnets:
        route(rows, "any", {"ip_prefix": "0.0.0.0/0", "nexthop": str(IPv4Network(topology.subnets[0].cidr)[-2]),
                            "output_port": frozenset([f"s-{topology.subnets[0].id.hex}"])})  # fmt: skip
    rules = frozenset(policies(topology, rows, around))
    rows["Logical_Router", name] = Row(("vpc", None), {
        "name": name, "ports": frozenset(("Logical_Router_Port", one) for one in ports), "policies": rules,
        "static_routes": frozenset([("Logical_Router_Static_Route", "any")] if topology.subnets else ()),
    })  # fmt: skip
    return rows


def route(rows: Rows, key: str, columns: dict[str, Any], part: Part = ("routes", None)) -> Key:
    rows["Logical_Router_Static_Route", key] = Row(part, columns)
    return "Logical_Router_Static_Route", key


def policy(rows: Rows, part: Part, priority: int, match: str, action: str, to: str | None = None) -> Key:
    """What a router does with what matches. `to` is where "reroute" leads."""
    key = ("Logical_Router_Policy", f"{part[1] or ''} {priority} {match}")
    rows[key] = Row(part, {"priority": priority, "match": match, "action": action,
                           "nexthops": frozenset([to] if to else ())})  # fmt: skip
    return key


# Subnets and ports


def subnets(topology: Topology, rows: Rows) -> Iterator[str]:
    """The switches with what is in them. Yields the router's ports."""
    asked = frozenset(names(topology, rows))
    leading = forwarders(topology)
    for subnet in topology.subnets:
        part: Part = ("subnet", subnet.id)
        ports = [port for port in topology.ports if port.subnet_id == subnet.id]
        here, to_router, of_router = [], f"r-{subnet.id.hex}", f"s-{subnet.id.hex}"
        for port in ports:
            here.append(("Logical_Switch_Port", port.id.hex))
            rows[here[-1]] = instance(port, port.id in leading)
        answered = {"arp_proxy": " ".join(port.address for port in ports)} if ports else {}
        rows["Logical_Switch_Port", to_router] = to_port_of_router(part, to_router, of_router, **answered)
        rows["Logical_Switch", subnet.id.hex] = Row(part, {
            "name": subnet.id.hex, "other_config": {"mcast_snoop": "false"},
            "ports": frozenset([*here, ("Logical_Switch_Port", to_router)]),
            "load_balancer": asked, "qos_rules": frozenset(rates(ports, rows)),
        })  # fmt: skip
        length = IPv4Network(subnet.cidr).prefixlen
        rows["Logical_Router_Port", of_router] = Row(part, {
            "name": of_router, "mac": mac(topology.vpc_id), "networks": frozenset([f"{subnet.gateway_ip}/{length}"]),
        })  # fmt: skip
        yield of_router
    if asked:
        yield f"n-{topology.vpc_id.hex}"


def names(topology: Topology, rows: Rows) -> Iterator[Key]:
    """Where names are asked for: a server on every host that the VPC has instances on, reached at any gateway address.

    Yields what sends the questions there from each subnet.
    """
    if not has_names(topology):
        return
    part, vpc = ("names", None), topology.vpc_id.hex
    rows["Logical_Switch_Port", vpc] = Row(part, {
        "name": vpc, "type": "localport", "addresses": frozenset([f"{mac('names', topology.vpc_id)} {NAMES[2]}"]),
    })  # fmt: skip
    rows["Logical_Switch_Port", f"r-{vpc}"] = to_port_of_router(part, f"r-{vpc}", f"n-{vpc}")
    rows["Logical_Switch", vpc] = Row(part, {
        "name": vpc, "ports": frozenset(("Logical_Switch_Port", one) for one in (vpc, f"r-{vpc}")),
    })  # fmt: skip
    rows["Logical_Router_Port", f"n-{vpc}"] = Row(part, {
        "name": f"n-{vpc}", "mac": mac(topology.vpc_id), "networks": frozenset([f"{NAMES[1]}/{NAMES.prefixlen}"]),
    })  # fmt: skip
    for protocol in ("udp", "tcp"):
        rows["Load_Balancer", f"{protocol}-{vpc}"] = Row(part, {
            "name": f"{protocol}-{vpc}", "protocol": frozenset([protocol]),
            "vips": {f"{subnet.gateway_ip}:53": f"{NAMES[2]}:53" for subnet in topology.subnets},
        })  # fmt: skip
        yield "Load_Balancer", f"{protocol}-{vpc}"


def has_names(topology: Topology) -> bool:
    return any(port.hostnames for port in topology.ports)


def instance(port: Port, leading: bool) -> Row:
    """With "unknown", which nobody sends to, OVN does not tell others the MAC; the router is asked in its place."""
    whole = f"{port.mac} {port.address}"
    return Row(("port", port.id), {
        "name": port.id.hex, "addresses": frozenset([whole, "unknown"]),
        "port_security": frozenset([port.mac if leading else whole]),
    })  # fmt: skip


def rates(ports: list[Port], rows: Rows) -> Iterator[Key]:
    """What virtual machines may send: at once, what was left unused in the last second. Others limit themselves."""
    for port in ports:
        if port.tap and port.mbps is not None:
            kilobits = port.mbps * 1000
            rows["QoS", port.id.hex] = Row(("port", port.id), {
                "direction": "from-lport", "priority": LAST, "match": f'inport == "{port.id.hex}"',
                "bandwidth": {"rate": kilobits, "burst": kilobits},
            })  # fmt: skip
            yield "QoS", port.id.hex


def to_port_of_router(part: Part, name: str, of_router: str, **options: str) -> Row:
    return Row(part, {"name": name, "type": "router", "addresses": frozenset(["router"]),
                      "options": {"router-port": of_router} | options})  # fmt: skip


# Routes


def policies(topology: Topology, rows: Rows, around: Surroundings) -> Iterator[Key]:
    """What the VPC's router does, as keys of rows."""
    part: Part = ("routes", None)
    tables = {table.id: table for table in topology.route_tables}
    near = "ip4.dst == " + some(subnet.cidr for subnet in topology.subnets) if topology.subnets else "0"
    yield policy(rows, part, LAST, "1", "drop")
    if has_names(topology):
        answer = f'inport == "n-{topology.vpc_id.hex}" && ip4.src == {NAMES[2]} && {near}'
        yield policy(rows, part, NEVER + 1, answer, "allow")
        yield policy(
            rows, part, NEVER + 1, f"ip4.src == {near.removeprefix('ip4.dst == ')} && ip4.dst == {NAMES[2]}", "allow"
        )
    yield policy(rows, part, NEVER, f"ip4.dst == {LINK_LOCAL} || ip4.src == {LINK_LOCAL}", "drop")
    for subnet in topology.subnets:
        came = f'inport == "s-{subnet.id.hex}"'
        # What the router itself answers gets there, whatever routes the subnet has.
        answer = f"{came} && ip4.src == {subnet.gateway_ip} && ip4.dst == {subnet.cidr}"
        yield policy(rows, part, OWN, answer, "allow")
        for one in tables[subnet.route_table_id].routes if subnet.route_table_id in tables else ():
            match = f"{came} && ip4.dst == {one.destination}"
            priority = ROUTE + 10 * IPv4Network(one.destination).prefixlen
            action, to, only = resolve(one, topology, around, near)
            if only:
                yield policy(rows, part, priority + 1, f"{match} && {only}", action, to)
                action, to = "drop", None
            yield policy(rows, part, priority, match, action, to)
    for id in gateways(topology):
        yield policy(rows, part, ROUTE, f'inport == "g-{id.hex}" && {near}', "allow")
    for peering in topology.peerings:
        came = f'inport == "{peer_port(peering.id, topology.vpc_id)}"'
        match = f"{came} && ip4.src == {some(peering.peer_cidrs)} && {near}"
        yield policy(rows, part, ROUTE, match, "allow")


def resolve(route: Route, topology: Topology, around: Surroundings, near: str) -> tuple[str, str | None, str]:
    """The action of a route, where it leads, and what alone it is for, if not for all. The rest is dropped."""
    ports = {port.id: port for port in topology.ports if port.netns or port.tap}
    match route.target:
        case "local":
            return "allow", None, near
        case "internet_gateway" if route.target_id and route.target_id == topology.internet_gateway:
            private = [one for _, one in elastic(topology).values()]
            to = ends(around.transits[route.target_id], first=True)[1]
            return ("reroute", to, f"ip4.src == {some(private)}") if private else ("drop", None, "")
        case "nat_gateway" if route.target_id in working_nat_gateways(topology):
            return "reroute", ends(around.transits[route.target_id], first=True)[1], ""
        case "peering":
            for peering in topology.peerings:
                if peering.id == route.target_id:
                    first = topology.vpc_id < peering.peer_vpc_id
                    return "reroute", ends(around.transits[peering.id], first)[1], ""
        case "instance" if route.target_id in ports:
            return "reroute", ports[route.target_id].address, ""
    return "drop", None, ""


def links_to_peers(topology: Topology, rows: Rows, around: Surroundings) -> Iterator[str]:
    """This VPC's ends of its peerings."""
    for peering in topology.peerings:
        name, peer = peer_port(peering.id, topology.vpc_id), peer_port(peering.id, peering.peer_vpc_id)
        network = around.transits[peering.id]
        own = ends(network, topology.vpc_id < peering.peer_vpc_id)[0]
        rows["Logical_Router_Port", name] = Row(("peering", peering.id), {
            "name": name, "mac": mac(peering.id, topology.vpc_id), "peer": frozenset([peer]),
            "networks": frozenset([f"{own}/{network.prefixlen}"]),
        })  # fmt: skip
        yield name


# Gateways


def elastic(topology: Topology) -> dict[UUID, tuple[str, str]]:
    """Of the elastic IPs that lead to a port, the public and the private address."""
    ports = {port.id: port.address for port in topology.ports}
    return {one.id: (one.public_ip, ports[one.port_id]) for one in topology.elastic_ips if one.port_id in ports}


def gateway(topology: Topology, rows: Rows, id: UUID, around: Surroundings) -> str:
    """The router of an internet or NAT gateway. Returns the VPC's router's port towards it."""
    part: Part = ("gateway", id)
    to, back, out, switch_port = (f"{kind}-{id.hex}" for kind in "gveo")
    network, leg, external = around.transits[id], around.legs[id], around.external
    # Another internet gateway of the VPC has the same MAC, since others remember where elastic IPs are.
    own = mac(topology.vpc_id, "igw") if id == topology.internet_gateway else mac(out)
    near, far = ends(network, first=True)
    for name, peer, address in ((to, back, near), (back, to, far)):
        rows["Logical_Router_Port", name] = Row(part, {
            "name": name, "mac": mac(name), "peer": frozenset([peer]),
            "networks": frozenset([f"{address}/{network.prefixlen}"]),
        })  # fmt: skip
    rows["Logical_Switch_Port", switch_port] = replace(
        to_port_of_router(part, switch_port, out, **{"nat-addresses": "router"}), outside=True
    )
    # Each gateway has an order of its own, so that they spread over the machines.
    order = sorted(around.chassis, key=lambda one: mac(id, one))
    for number, one in enumerate(order):
        rows["Gateway_Chassis", f"{out}-{one}"] = Row(part, {"name": f"{out}-{one}", "chassis_name": one,
                                                             "priority": number + 1})  # fmt: skip
    rows["Logical_Router_Port", out] = Row(part, {
        "name": out, "mac": own, "networks": frozenset([f"{leg}/{IPv4Network(external.cidr).prefixlen}"]),
        "gateway_chassis": frozenset(("Gateway_Chassis", f"{out}-{one}") for one in order),
    })  # fmt: skip
    routes = [route(rows, f"{id} {one}", {"ip_prefix": one, "nexthop": near, "output_port": frozenset([back])}, part)
              for one in topology.cidrs]  # fmt: skip
    routes.append(route(rows, f"{id} any", {"ip_prefix": "0.0.0.0/0", "nexthop": external.gateway,
                                            "output_port": frozenset([out])}, part))  # fmt: skip
    nats: set[Key] = set()
    came, inward = f'inport == "{out}"', some(topology.cidrs)
    reply = f"{came} && ct.est && ip4.dst == {inward}"
    if id == topology.internet_gateway:
        public = elastic(topology)
        for ip, (address, private) in public.items():
            nats.add(nat(rows, ("elastic", ip), ip.hex, "dnat_and_snat", address, private))
        reply = f"{came} && ip4.dst == {some(private for _, private in public.values())}" if public else "0"
    else:
        nats |= {nat(rows, part, f"{id} {one}", "snat", leg, one) for one in topology.cidrs}
    what_to_do = [
        (NEVER, f"ip4.src == {some((leg, near, far))}", "drop"),  # what it answers itself
        (ROUTE, reply, "allow"),
        (ROUTE - 1, came, "drop"),
        (ROUTE, f'inport == "{back}" && ip4.dst == {inward}', "drop"),
    ]
    rows["Logical_Router", id.hex] = Row(part, {
        "name": id.hex, "ports": frozenset(("Logical_Router_Port", one) for one in (back, out)),
        "policies": frozenset(policy(rows, part, *one) for one in what_to_do),
        "static_routes": frozenset(routes), "nat": frozenset(nats),
    })  # fmt: skip
    return to


def nat(rows: Rows, part: Part, key: str, kind: str, public: str, private: str) -> Key:
    rows["NAT", key] = Row(part, {"type": kind, "external_ip": public, "logical_ip": private})
    return "NAT", key
