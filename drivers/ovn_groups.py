"""The groups of a topology as rows of OVN's northbound database. Nothing here touches it.

A group is a port group, and its rules are of that. Of all ports there is one too, whose rules drop what no
other allows: so nothing is open by mistake, not even for a moment.
"""

from collections.abc import Iterable

from drivers.network import Port, Rule, Topology
from drivers.ovn_rows import LINK_LOCAL, NAMES, Part, Row, Rows, mac, some

DROP, ALLOW, GATE, NEVER = 1000, 1002, 1003, 1004  # priorities of rules


def render(topology: Topology) -> Rows:
    """Port groups and their rules. Of a group, rules only allow; what none allows is dropped."""
    rows: Rows = {}
    part: Part = ("groups", None)
    outward = {group.id for group in topology.groups if any(rule.direction == "egress" for rule in group.rules)}
    to_router = f"ip4 && eth.dst == {mac(topology.vpc_id)}"
    every, alone, free = (f"{kind}_{topology.vpc_id.hex}" for kind in ("all", "alone", "free"))
    gateways = some(subnet.gateway_ip for subnet in topology.subnets) if topology.subnets else "0.0.0.0"  # noqa: S104
    asking = f"ip4.dst == {gateways} && (icmp4.type == 8 || udp.dst == 53 || tcp.dst == 53)"
    port_group(rows, every, topology.ports, (
        # Who may send for others could say that it is the router.
        ("from-lport", NEVER, f"arp && arp.spa == {gateways}", "drop"),
        # The router answers for all of a subnet: a machine that asks who else has its address would hear of one.
        *(("from-lport", NEVER, f'inport == "{port.id.hex}" && arp.tpa == {port.address}', "drop")
          for port in topology.ports if port.tap),
        ("from-lport", DROP, "1", "drop"), ("to-lport", DROP, "1", "drop"),
        ("from-lport", GATE, "arp", "allow"), ("to-lport", GATE, "arp", "allow"),
        # A question that went to a gateway address is seen here with the server's from its second packet on.
        ("from-lport", NEVER + 1, f"{to_router} && ip4.dst == {NAMES[2]} && ct.est", "allow-related"),
        ("from-lport", NEVER, f"ip4.dst == {LINK_LOCAL}", "drop"),
        ("from-lport", GATE, f"{to_router} && {asking}", "allow-related"),
    ), part)  # fmt: skip
    port_group(rows, alone, [port for port in topology.ports if not port.groups], (
        ("to-lport", ALLOW, f"ip4.src == {some(topology.cidrs)}", "allow-related"),
    ), part)  # fmt: skip
    port_group(rows, free, [port for port in topology.ports if not outward & set(port.groups)], (
        ("from-lport", ALLOW, to_router, "allow-related"),
    ), part)  # fmt: skip
    for group in topology.groups:
        port_group(rows, f"pg_{group.id.hex}", [port for port in topology.ports if group.id in port.groups], [
            ("from-lport", ALLOW, f"{to_router} && {matching(rule)}", "allow-related") if rule.direction == "egress"
            else ("to-lport", ALLOW, matching(rule), "allow-related") for rule in group.rules
        ], part)  # fmt: skip
    return rows


def port_group(
    rows: Rows, name: str, ports: Iterable[Port], rules: Iterable[tuple[str, int, str, str]], part: Part
) -> None:
    acls = set()
    for direction, priority, match, action in rules:
        side = "inport" if direction == "from-lport" else "outport"
        key = ("ACL", f"{name} {direction} {match}")
        rows[key] = Row(part, {"direction": direction, "priority": priority, "action": action,
                               "match": f"{side} == @{name} && {match}"})  # fmt: skip
        acls.add(key)
    rows["Port_Group", name] = Row(part, {
        "name": name, "acls": frozenset(acls), "ports": frozenset(("Logical_Switch_Port", one.id.hex) for one in ports),
    })  # fmt: skip


def matching(rule: Rule) -> str:
    """What a rule allows: of the other end's addresses, and of ports."""
    other = "ip4.src" if rule.direction == "ingress" else "ip4.dst"
    addresses = rule.cidr if rule.group_id is None else f"$pg_{rule.group_id.hex}_ip4"
    parts = ["ip4"] if addresses == "0.0.0.0/0" else [f"{other} == {addresses}"]
    match rule.protocol:
        case "icmp":
            parts.append("icmp4")
        case "tcp" | "udp" as transport if (rule.port_min, rule.port_max) == (1, 65535):
            parts.append(transport)  # fragments without ports too
        case "tcp" | "udp" as transport:
            parts.append(f"{transport}.dst >= {rule.port_min} && {transport}.dst <= {rule.port_max}")
    return " && ".join(parts)
