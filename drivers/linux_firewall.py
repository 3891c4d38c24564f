"""A topology as the nftables of its namespace.

The verdict on a packet is read off the flow it belongs to, never off its state: `ct original ip saddr`
is who began the flow, `ct reply ip saddr` who answers and `ct reply proto-src` at which port, in both
directions and behind any address translation. So a rule that is gone ends the flows it allowed, and
the whole table may be replaced at once without one that is still allowed noticing.

A group is a chain. Ports with the same groups share one that visits them, found by the instance's
address in a map: one changed rule is one changed chain, and one more port a few elements more.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from drivers.linux_plan import IGW, PUBLISH, Publisher, forwarders, link
from drivers.network import METADATA, Group, Port, Rule, Topology


@dataclass
class Table:
    """What is in one table. Elements of a set have an empty value."""

    name: str  # with its family
    sets: dict[str, str] = field(default_factory=dict)  # name → "set" or "map" and type
    elements: dict[str, dict[str, str]] = field(default_factory=dict)
    chains: dict[str, str] = field(default_factory=dict)  # name → hook; empty: only jumped to
    rules: dict[str, list[str]] = field(default_factory=dict)

    def set(self, name: str, type: str, elements: Iterable[str]) -> None:
        self.sets[name] = f"set|{type}"
        self.elements[name] = dict.fromkeys(elements, "")

    def map(self, name: str, type: str, elements: dict[str, str]) -> None:
        self.sets[name] = f"map|{type}"
        self.elements[name] = elements

    def chain(self, name: str, rules: list[str], hook: str = "") -> None:
        self.chains[name] = hook
        self.rules[name] = rules


def replacement(table: Table) -> str:
    """The table as given, in place of whatever is there."""
    start = f"add table {table.name}\ndelete table {table.name}\nadd table {table.name}\n"
    return start + difference(Table(table.name), table)


def difference(before: Table, after: Table) -> str:
    """What makes the one of the other, in an order in which everything that is named is there."""
    lines = []
    name = after.name
    for one, declared in after.sets.items():
        if before.sets.get(one) != declared:
            kind, _, type = declared.partition("|")
            lines.append(f"add {kind} {name} {one} {{ type {type}; }}")
    for one, hook in after.chains.items():
        if one not in before.chains:
            lines.append(f"add chain {name} {one}" + (f" {{ {hook} }}" if hook else ""))
    for one, rules in after.rules.items():
        if before.rules.get(one) != rules:
            if one in before.chains:
                lines.append(f"flush chain {name} {one}")
            lines += [f"add rule {name} {one} {rule}" for rule in rules]
    for one, elements in after.elements.items():
        old = before.elements.get(one, {})
        lines += change("delete", name, one, {key: "" for key, value in old.items() if elements.get(key) != value})
        lines += change("add", name, one, {key: value for key, value in elements.items() if old.get(key) != value})
    gone = [one for one in before.chains if one not in after.chains]
    lines += [f"flush chain {name} {one}" for one in gone]
    stale = [one for one in before.sets if one not in after.sets]
    lines += [f"flush {before.sets[one].partition('|')[0]} {name} {one}" for one in stale]
    lines += [f"delete chain {name} {one}" for one in gone]
    lines += [f"delete {before.sets[one].partition('|')[0]} {name} {one}" for one in stale]
    return "".join(line + "\n" for line in lines)


def change(verb: str, table: str, name: str, elements: dict[str, str]) -> list[str]:
    if not elements:
        return []
    listed = ", ".join(f"{key} : {value}" if value else key for key, value in elements.items())
    return [f"{verb} element {table} {name} {{ {listed} }}"]


def render(topology: Topology, publisher: Publisher | None) -> tuple[Table, Table]:
    """The table that IP packets pass, and the one for ARP."""
    ip, arp = Table("ip vpc"), Table("arp vpc")
    ports = {port.id: port for port in topology.ports}
    addresses = [port.address for port in topology.ports]
    senders = [f'"{link("p", port.id)}" . {port.mac} . {port.address}' for port in topology.ports]
    leading = [ports[id] for id in sorted(forwarders(topology)) if id in ports]

    ip.set("senders", "ifname . ether_addr . ipv4_addr", senders)
    routers = [f'"{link("p", port.id)}" . {port.mac}' for port in leading]
    ip.set("forwarders", "ifname . ether_addr", routers)
    ip.set("addresses", "ipv4_addr", addresses)
    ip.set("gateways", "ipv4_addr", [subnet.gateway_ip for subnet in topology.subnets])
    filter_spoofed(ip, topology, publisher)
    filter_forwarded(ip, topology, publisher)
    translate(ip, topology, publisher)
    filter_groups(ip, topology)

    arp.set("senders", "ifname . ether_addr . ipv4_addr", senders)
    legs = [f'iifname "{name}" accept' for name in [*outer_links(topology), *([PUBLISH] if publisher else [])]]
    arp.set("forwarders", "ifname . ether_addr", routers)
    known = [
        "iifname . arp saddr ether . arp saddr ip @senders accept",
        "iifname . arp saddr ether @forwarders accept",
    ]
    arp.chain("input", known + legs, "type filter hook input priority filter; policy drop;")
    return ip, arp


def outer_links(topology: Topology) -> list[str]:
    """The links into the external network."""
    return [IGW] * bool(topology.internet_gateway) + [link("n", gateway.id) for gateway in topology.nat_gateways]


def filter_spoofed(ip: Table, topology: Topology, publisher: Publisher | None) -> None:
    inner = ", ".join([*topology.cidrs, *(cidr for peering in topology.peerings for cidr in peering.peer_cidrs)])
    rules = [
        f'iifname "{link("p", port.id)}" limit rate over {port.mbps * 125_000} bytes/second drop'
        for port in topology.ports
        if port.tap and port.mbps is not None
    ]
    rules += [
        "iifname . ether saddr . ip saddr @senders accept",
        "iifname . ether saddr @forwarders accept",
        'iifname "lo" accept',
    ]
    rules += [f'iifname "{name}" ip saddr != {{ {inner} }} accept' for name in outer_links(topology)]
    rules += [
        f'iifname "{link("x", peering.id)}" ip saddr {{ {", ".join(peering.peer_cidrs)} }} accept'
        for peering in topology.peerings
    ]
    rules += [f'iifname "{PUBLISH}" ip saddr {publisher.host} accept'] if publisher else []
    ip.chain("spoofed", rules, "type filter hook prerouting priority raw; policy drop;")


def filter_forwarded(ip: Table, topology: Topology, publisher: Publisher | None) -> None:
    rules = ["ct state invalid drop"]
    if publisher:
        from_host = f"ct original ip saddr {publisher.host} ct status dnat"
        rules += [
            f'iifname "{PUBLISH}" {from_host} accept',
            f'oifname "{PUBLISH}" ct direction reply {from_host} accept',
            f'iifname "{PUBLISH}" drop',
            f'oifname "{PUBLISH}" drop',
        ]
    rules += [
        "ip daddr { 127.0.0.0/8, 169.254.0.0/16 } drop",
        f'iifname "{IGW}" jump elastic_only',
        "ct original ip saddr vmap @egress",
        "goto inward",
    ]
    ip.chain("forward", rules, "type filter hook forward priority filter; policy drop;")
    ip.chain("inward", ["ct reply ip saddr vmap @ingress", "ct original ip saddr @addresses accept", "drop"])
    asked = ["icmp type echo-request"]
    if any(port.hostnames for port in topology.ports):
        asked += ["udp dport 53", "tcp dport 53"]
    mine = [f"ip saddr @addresses ip daddr @gateways {what} accept" for what in asked]
    # Not of forwarders, which may send with the address of another instance.
    to_metadata = f"ip daddr {METADATA} tcp dport 80"
    mine += [
        f"{to_metadata} ct state new limit rate over 500/second burst 500 packets drop",
        f"{to_metadata} iifname . ether saddr . ip saddr @senders accept",
    ]
    ip.chain("input", ['iifname "lo" accept', *mine], "type filter hook input priority filter; policy drop;")


def translate(ip: Table, topology: Topology, publisher: Publisher | None) -> None:
    """Elastic IPs, NAT gateways and published ports. A flow whose translation is no longer wanted is dropped."""
    ports = {port.id: port for port in topology.ports}
    subnets = {subnet.id: subnet for subnet in topology.subnets}
    pairs = [(ports[one.port_id].address, one.public_ip) for one in topology.elastic_ips if one.port_id in ports]
    ip.set("elastic", "ipv4_addr . ipv4_addr", [f"{private} . {public}" for private, public in pairs])
    ip.map("to_private", "ipv4_addr : ipv4_addr", {public: private for private, public in pairs})
    ip.map("to_public", "ipv4_addr : ipv4_addr", dict(pairs))
    ip.chain(
        "elastic_only",
        [
            "ct original ip saddr . ct reply ip daddr @elastic return",
            "ct reply ip saddr . ct original ip daddr @elastic return",
            "drop",
        ],
    )
    inward = [f'iifname "{IGW}" dnat to ip daddr map @to_private']
    outward = [f'oifname "{IGW}" snat to ip saddr map @to_public']
    leaving = [f'oifname "{IGW}" goto elastic_only']
    for gateway in topology.nat_gateways:
        outward.append(f'oifname "{link("n", gateway.id)}" snat to {gateway.public_ip}')
        leaving.append(f'oifname "{link("n", gateway.id)}" ct reply ip daddr != {gateway.public_ip} drop')
    if publisher:
        bindings = {
            str(one.host): f"{port.address} . {one.container}" for port in ports.values() for one in port.published
        }
        senders = {port.address: subnets[port.subnet_id].gateway_ip for port in ports.values() if port.published}
        ip.map("published", "inet_service : ipv4_addr . inet_service", bindings)
        ip.map("as_gateway", "ipv4_addr : ipv4_addr", senders)
        inward.append(f'iifname "{PUBLISH}" dnat ip to tcp dport map @published')
        outward.append(f"ip saddr {publisher.host} snat to ip daddr map @as_gateway")
    ip.chain("inward_nat", inward, "type nat hook prerouting priority dstnat; policy accept;")
    ip.chain("outward_nat", outward, "type nat hook postrouting priority srcnat; policy accept;")
    ip.chain("leaving", leaving, "type filter hook postrouting priority 150; policy accept;")


def filter_groups(ip: Table, topology: Topology) -> None:
    groups = {group.id: group for group in topology.groups}
    members: dict[UUID, list[str]] = {id: [] for id in groups}
    ingress, egress = {}, {}
    for port in topology.ports:
        known = [groups[id] for id in port.groups if id in groups]
        for group in known:
            members[group.id].append(port.address)
        ingress[port.address] = f"goto {visits(ip, 'in', port, groups)}"
        if any(rule.direction == "egress" for group in known for rule in group.rules):
            egress[port.address] = f"goto {visits(ip, 'out', port, groups)}"
    ip.map("ingress", "ipv4_addr : verdict", ingress)
    ip.map("egress", "ipv4_addr : verdict", egress)
    ip.chain("in_open", ["ct original ip saddr @addresses accept", "drop"])
    for id, group in groups.items():
        ip.set(f"members_{id.hex}", "ipv4_addr", members[id])
        rules = [rule for rule in group.rules if rule.group_id is None or rule.group_id in groups]
        ip.chain(f"in_{id.hex}", [f"{allowed(rule)} accept" for rule in rules if rule.direction == "ingress"])
        ip.chain(f"out_{id.hex}", [f"{allowed(rule)} goto inward" for rule in rules if rule.direction == "egress"])


def visits(ip: Table, prefix: str, port: Port, groups: dict[UUID, Group]) -> str:
    """The chain for all ports with the same groups. A group that is gone allows nothing."""
    if not port.groups:
        return "in_open"
    ids = sorted(id.hex for id in port.groups if id in groups)
    name = f"{prefix}_all_{hashlib.sha256(''.join(ids).encode()).hexdigest()[:16]}"
    if name not in ip.chains:
        ip.chain(name, [*(f"jump {prefix}_{id}" for id in ids), "drop"])
    return name


def allowed(rule: Rule) -> str:
    """What the rule matches: the far end, the protocol, the port of the end that answers."""
    far = "ct original ip saddr" if rule.direction == "ingress" else "ct reply ip saddr"
    match = f"{far} @members_{rule.group_id.hex}" if rule.group_id else f"{far} {rule.cidr}"
    if rule.protocol == "all":
        return match
    match += f" ct original protocol {rule.protocol}"
    if rule.protocol == "icmp":
        return match
    return f"{match} ct reply proto-src {rule.port_min}-{rule.port_max}"
