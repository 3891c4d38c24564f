"""What the control plane asks of the network below it: one VPC at a time, as a whole.

The parts of a VPC depend on each other, so `apply` takes all of them and finds the difference
itself. It may be repeated and may die anywhere: applied again, it ends the same. Applied with
what is there already it changes nothing, and no flow notices.

What holds for packets:

- Between two instances, all passes the VPC's router, within a subnet too. A packet goes where
  the most specific route of the table of the sender's subnet says; without a route it is refused.
  The reply needs a route of its own. A route whose target is gone is a blackhole.
- Groups only allow. Without a group an instance is open to its VPC and closed to what comes
  from outside it, over an elastic IP or a peering. With groups, only what a rule of one of them
  allows comes in. All goes out, unless one of the groups has an egress rule: then only what an
  egress rule allows. Replies pass. With its rule a flow ends that it allowed.
- An instance sends with its own MAC and address only. One that a route names as its target also
  sends for others.
- Through an internet gateway goes only what has an elastic IP, 1:1 both ways. Through a NAT
  gateway goes what routes lead to it, in one direction, while the table of the gateway's own
  subnet leads everything (0.0.0.0/0) to the internet gateway.
- A peering joins two VPCs and no third, and carries what both have routes for.
- Nothing reaches addresses of the host, link-local addresses (169.254.0.0/16) or routers of other VPCs. Of a driver
  that `SupportsMetadata`, an instance reaches TCP port 80 of METADATA, whatever its routes and groups are.
  Of its own router an instance may ping the gateway address and ask it for names: those of the VPC's
  ports have their address, others do not exist.
- A published port of the host leads to its instance whatever the groups say. The instance sees
  the gateway of its subnet as the sender.

tests/drivers/network_contract.py is this text as tests; every driver passes it.
"""

import socket
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable
from uuid import UUID

from drivers.contracts import PortBinding, Wire

METADATA = "169.254.169.254"

Direction = Literal["ingress", "egress"]
Transport = Literal["tcp", "udp", "icmp", "all"]
Target = Literal["local", "internet_gateway", "nat_gateway", "peering", "instance", "blackhole"]


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """A part of the VPC's range. `gateway_ip` is the router's address in it."""

    id: UUID
    cidr: str
    gateway_ip: str
    route_table_id: UUID


@dataclass(frozen=True, kw_only=True)
class Port:
    """Where an instance meets its subnet.

    `netns` is the file of the network namespace that the instance runs in now (of a container: the
    engine's SandboxKey), None while it does not run. Each start makes a new one; apply() puts the
    interface into it. A file that is gone counts as None.

    `tap` is that of a virtual machine: the link of the host that the machine is behind now, which apply()
    takes away from the host. Each start makes a new one of the same name. One that is gone counts as None.
    The machine sets its end up itself: `name` says nothing. Only one of `netns` and `tap` is set.
    """

    id: UUID
    instance_id: UUID
    subnet_id: UUID
    mac: str
    address: str
    groups: tuple[UUID, ...] = ()
    name: str = "eth0"  # of the interface inside the instance
    mbps: int | None = None  # each way; None: no limit
    netns: str | None = None
    tap: str | None = None
    published: tuple[PortBinding, ...] = ()
    hostnames: tuple[str, ...] = ()  # lower-case; instances of the VPC resolve them at their gateway address

    @property
    def runs(self) -> bool:
        """Whether the instance is there now."""
        return self.netns is not None or self.tap is not None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Allows what it matches. Exactly one of `cidr` and `group_id` is set; the ports are those of tcp and udp."""

    id: UUID
    direction: Direction
    protocol: Transport
    port_min: int = 1
    port_max: int = 65535
    cidr: str | None = None
    group_id: UUID | None = None  # the instances of this group of the VPC


@dataclass(frozen=True, kw_only=True)
class Group:
    """A security group."""

    id: UUID
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Route:
    """`target_id` is the id of the gateway or peering, or of the instance's port."""

    destination: str
    target: Target
    target_id: UUID | None = None


@dataclass(frozen=True, kw_only=True)
class RouteTable:
    """At most one route for each destination. `local` leads to the instances of this VPC; it is a route like others."""

    id: UUID
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NatGateway:
    """What leaves through it has `public_ip` as its source."""

    id: UUID
    subnet_id: UUID
    public_ip: str
    private_ip: str


@dataclass(frozen=True, kw_only=True)
class ElasticIp:
    """One public address for one port, both ways."""

    id: UUID
    public_ip: str
    port_id: UUID


@dataclass(frozen=True, kw_only=True)
class Peering:
    """The other VPC has it too, with the same id. The ranges of the two never overlap."""

    id: UUID
    peer_vpc_id: UUID
    peer_cidrs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Topology:
    """A VPC with all that is in it."""

    vpc_id: UUID
    tenant_id: UUID
    cidrs: tuple[str, ...]
    subnets: tuple[Subnet, ...] = ()
    ports: tuple[Port, ...] = ()
    groups: tuple[Group, ...] = ()
    route_tables: tuple[RouteTable, ...] = ()
    internet_gateway: UUID | None = None
    nat_gateways: tuple[NatGateway, ...] = ()
    elastic_ips: tuple[ElasticIp, ...] = ()
    peerings: tuple[Peering, ...] = ()


class NetworkDriver(Protocol):
    """Makes VPCs."""

    one_host: bool
    """Whether all of a VPC, and of the VPCs it is peered with, must be on one host."""
    publishes: bool
    """Whether it has ports of the host lead to instances. Where not, `published` is not looked at."""

    async def apply(self, topology: Topology) -> None:
        """Make the VPC so, from whatever is there.

        Every port with a `netns` has its interface in it afterwards, and one with a `tap` reaches its
        machine, also when the instance was started anew. A peering works as soon as both its VPCs were
        applied, in either order.
        """
        ...

    async def observe(self, vpc_id: UUID) -> Topology | None:
        """What is programmed now; None when there is nothing.

        Equal to what was applied last while all of that is in place. What is not (an interface that went
        with its container, a peering whose other side is missing, a firewall somebody else wrote to) is left out.
        """
        ...

    async def delete(self, vpc_id: UUID) -> None:
        """Have the VPC gone with all that was made for it. Nothing there is success.

        Instances lose their interface. A virtual machine's tap goes back to the host, and is down there.
        """
        ...

    async def list(self) -> set[UUID]:
        """The VPCs of this cloud that there is anything of."""
        ...

    async def wire(self) -> Wire:
        """What a virtual machine on this host has to be made for, to be plugged in here."""
        ...


@runtime_checkable
class SupportsMetadata(Protocol):
    """Can have this process answer the instances of a VPC at METADATA."""

    async def routers(self) -> dict[UUID, int]:
        """The VPCs whose router is on this host, each with a number that changes when the router is made anew."""
        ...

    async def listen(self, vpc_id: UUID) -> socket.socket:
        """A socket bound to TCP port 80 of METADATA in that VPC, as other processes may have too.

        Only the VPC's own instances reach it, each as its own address, and what it sends goes one hop. It keeps the
        router that it was made with alive: close it once `routers` has another, or none. Raises LookupError when
        there is no router, or one that is just being made.
        """
        ...
