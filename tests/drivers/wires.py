"""Namespaces in the place of instances, and topologies of them, for tests of network drivers."""

import subprocess
from contextlib import ExitStack
from dataclasses import replace
from uuid import UUID, uuid4

from drivers.network import Group, Port, Route, RouteTable, Rule, Subnet, Topology
from tests.drivers.packets import Box

ANYWHERE = "0.0.0.0/0"


def allow(protocol: str = "tcp", first: int = 80, last: int = 80, **more: object) -> Rule:
    """An ingress rule, from anywhere."""
    source: dict[str, object] = {} if "group_id" in more else {"cidr": ANYWHERE}
    parts = {"direction": "ingress", "port_min": first, "port_max": last} | source | more
    return Rule(id=uuid4(), protocol=protocol, **parts)  # type: ignore[arg-type]


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10).stdout


def addresses_of_the_host() -> list[str]:
    lines = ip("-4", "-o", "address", "show", "scope", "global").splitlines()
    return [line.split()[3].partition("/")[0] for line in lines]


class Wires:
    """Namespaces in the place of instances, and the topologies they are in; all gone at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.boxes: dict[UUID, Box] = {}
        self._macs = 0

    def box(self) -> Box:
        name = f"test-{uuid4()}"
        ip("netns", "add", name)
        self._stack.callback(ip, "netns", "delete", name)
        box = Box(f"/run/netns/{name}").listen(80, 81, 82)
        self._stack.callback(box.close)
        return box

    def port(self, subnet: Subnet, last: int, *groups: UUID) -> Port:
        """A port with a running instance."""
        self._macs += 1
        box = self.box()
        port = Port(
            id=uuid4(),
            instance_id=uuid4(),
            subnet_id=subnet.id,
            mac=f"02:00:00:00:00:{self._macs:02x}",
            address=f"{subnet.cidr.rpartition('.')[0]}.{last}",
            groups=groups,
            netns=box.path,
        )
        self.boxes[port.id] = box
        return port

    def vpc(self, net: str = "10.0", first: int = 10) -> Topology:
        """Two subnets, two instances in the first and one in the second, local routes."""
        table = RouteTable(id=uuid4(), routes=(Route(destination=f"{net}.0.0/16", target="local"),))
        one, two = (
            Subnet(id=uuid4(), cidr=f"{net}.{n}.0/24", gateway_ip=f"{net}.{n}.1", route_table_id=table.id)
            for n in (1, 2)
        )
        ports = (self.port(one, first), self.port(one, first + 1), self.port(two, first))
        return Topology(
            vpc_id=uuid4(), tenant_id=uuid4(), cidrs=(f"{net}.0.0/16",), subnets=(one, two), ports=ports,
            route_tables=(table,),
        )  # fmt: skip


def with_route(vpc: Topology, destination: str, target: str, id: UUID | None = None) -> Topology:
    table = vpc.route_tables[0]
    route = Route(destination=destination, target=target, target_id=id)  # type: ignore[arg-type]
    return replace(vpc, route_tables=(replace(table, routes=(*table.routes, route)), *vpc.route_tables[1:]))


def with_groups(vpc: Topology, number: int, *groups: Group) -> Topology:
    """The groups, and this port in all of them."""
    ports = list(vpc.ports)
    ports[number] = replace(ports[number], groups=tuple(group.id for group in groups))
    return replace(vpc, ports=tuple(ports), groups=groups)
