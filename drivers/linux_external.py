"""The network outside of all VPCs, and the ports of the host that lead into one.

The external network is a bridge in a namespace of its own, where no firewall of the host's (the
Docker Engine's, say) gets between two VPCs. The host has one link into it, with the gateway's
address. What comes in over that link, or over the links of published ports, the host takes only
as replies to what it began itself, and forwards none of it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID

from drivers import linux_kernel as kernel
from drivers.linux_kernel import HOST, Netlink
from drivers.linux_plan import PUBLISH, External, Publisher
from drivers.linux_plan import link as link_name
from drivers.network import Topology

BRIDGE = "outside"
LOCK = Path("/run/thecloud-network.lock")
PUBLISH_RANGE = IPv4Network("169.254.64.0/18")  # two addresses for each VPC that publishes ports


@contextmanager
def locked(path: Path = LOCK) -> Iterator[None]:
    """Alone on this host. The file may be removed by its holder: who waited for it then starts over with the next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if kernel.inode(path) == os.fstat(file).st_ino:
                yield
                return
        finally:
            os.close(file)


def table(external: External) -> str:
    return f"inet {external.name.replace('-', '_')}"


def ensure(external: External) -> None:
    """Have the external network there, with the host on it."""
    kernel.make_namespace(external.name)
    with kernel.inside(kernel.file_of(external.name)) as outside:
        kernel.setting("ipv6/conf/default/disable_ipv6", "1")
        if not kernel.index(BRIDGE):
            outside.do("link", "add", ifname=BRIDGE, kind="bridge")
        kernel.setting("bridge/bridge-nf-call-iptables", "0")
        kernel.setting("bridge/bridge-nf-call-arptables", "0")
        outside.up(BRIDGE)
    with kernel.inside(HOST) as host:
        if table(external) not in kernel.tables():
            kernel.nft(guard(external))  # before there is anything to guard against
        if not kernel.index(external.name):
            with opened(kernel.file_of(external.name)) as namespace:
                host.do("link", "add", ifname=external.name, kind="veth",
                        peer={"ifname": "host", "net_ns_fd": namespace})  # fmt: skip
    attach(external, "host")
    with kernel.inside(HOST) as host:
        kernel.setting(f"ipv6/conf/{external.name}/disable_ipv6", "1")
        length = IPv4Network(external.cidr).prefixlen
        if not host.addresses(external.name):
            host.do("addr", "add", index=kernel.index(external.name), address=external.gateway, prefixlen=length)
        host.up(external.name)


def standing(external: External, vpc_id: UUID) -> tuple[bool, bool]:
    """Whether the host's firewall towards the external network is there, and that VPC's for published ports."""
    with kernel.inside(HOST):
        tables = kernel.tables()
        return table(external) in tables, f"ip thecloud_{vpc_id.hex}" in tables and bool(
            kernel.index(link_name("t", vpc_id))
        )


def guard(external: External) -> str:
    name = table(external)
    return f"""add table {name}
delete table {name}
add table {name}
add chain {name} input {{ type filter hook input priority -10; }}
add chain {name} forward {{ type filter hook forward priority -10; }}
add rule {name} input iifname "{external.name}" ct state != {{ established, related }} drop
add rule {name} forward iifname "{external.name}" drop
add rule {name} forward oifname "{external.name}" drop
"""


@contextmanager
def opened(path: str) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def attach(external: External, name: str) -> None:
    """Put a link that is in the external namespace onto its bridge."""
    with kernel.inside(kernel.file_of(external.name)) as outside:
        outside.do("link", "set", index=kernel.index(name), master=kernel.index(BRIDGE))
        outside.up(name)


def leg(external: External, vpc: Netlink, name: str, id: UUID) -> None:
    """A link from the VPC this thread is in to the external network, up. The other end is named after the id."""
    other = link_name("l", id)
    with kernel.entered(kernel.file_of(external.name)):
        there = kernel.index(other)
    if not there:
        vpc.remove(name)  # that of a gateway with another id
    if not kernel.index(name):
        with opened(kernel.file_of(external.name)) as namespace:
            vpc.do("link", "add", ifname=name, kind="veth", peer={"ifname": other, "net_ns_fd": namespace})
    kernel.setting(f"ipv4/conf/{name}/proxy_arp", "0")
    kernel.setting(f"ipv4/conf/{name}/arp_ignore", "1")
    attach(external, other)
    vpc.up(name)


def remove_if_unused(external: External) -> None:
    """Have the external network gone when no VPC has a leg in it."""
    if not kernel.is_namespace(kernel.file_of(external.name)):
        return
    with kernel.inside(kernel.file_of(external.name)):
        if any(name.startswith("l-") for name in kernel.links()):
            return
    with kernel.inside(HOST) as host:
        host.remove(external.name)
        kernel.nft(f"add table {table(external)}\ndelete table {table(external)}\n")
    kernel.remove_namespace(external.name)


def publisher(topology: Topology, namespace: str, address: str) -> Publisher | None:
    """The link for the VPC's published ports, made when it has any, gone when it has none."""
    name = link_name("t", topology.vpc_id)
    bindings = [one for port in topology.ports for one in port.published]
    if not bindings:
        unpublish(topology.vpc_id)
        return None
    with locked(), kernel.inside(HOST) as host:
        if not kernel.index(name):
            with opened(kernel.file_of(namespace)) as inner:
                host.do("link", "add", ifname=name, kind="veth", peer={"ifname": PUBLISH, "net_ns_fd": inner})
        addresses = host.addresses(name)
        if not addresses:
            used = {one.partition("/")[0] for other in kernel.links() if other.startswith("t-")
                    for one in host.addresses(other)}  # fmt: skip
            free = next(pair for pair in PUBLISH_RANGE.subnets(new_prefix=31) if str(pair[0]) not in used)
            host.do("addr", "add", index=kernel.index(name), address=str(free[0]), prefixlen=31)
            addresses = host.addresses(name)
        own = IPv4Address(addresses.pop().partition("/")[0])
        ends = Publisher(str(own), str(own + 1))
        kernel.nft(published(topology.vpc_id, ends, address, sorted(one.host for one in bindings)))
        kernel.setting(f"ipv6/conf/{name}/disable_ipv6", "1")
        kernel.setting(f"ipv4/conf/{name}/route_localnet", "1")
        host.up(name)
    return ends


def published(vpc_id: UUID, ends: Publisher, address: str, ports: list[int]) -> str:
    """The host's side of published ports: to the VPC's end of the link, at the same port. Replies alone come back."""
    name = f"ip thecloud_{vpc_id.hex}"
    link = link_name("t", vpc_id)
    here = "fib daddr type local" if address == "0.0.0.0" else f"ip daddr {address}"  # noqa: S104
    to = f"{here} tcp dport {{ {', '.join(map(str, ports))} }} dnat to {ends.vpc}"
    return f"""add table {name}
delete table {name}
add table {name}
add chain {name} guard {{ type filter hook prerouting priority mangle; }}
add chain {name} arriving {{ type nat hook prerouting priority dstnat; }}
add chain {name} output {{ type nat hook output priority -100; }}
add chain {name} leaving {{ type nat hook postrouting priority srcnat; }}
add rule {name} guard iifname "{link}" ct state != {{ established, related }} drop
add rule {name} arriving {to}
add rule {name} output {to}
add rule {name} leaving oifname "{link}" snat to {ends.host}
"""


def unpublish(vpc_id: UUID) -> None:
    with kernel.inside(HOST) as host:
        if kernel.index(name := link_name("t", vpc_id)):
            kernel.nft(f"add table ip thecloud_{vpc_id.hex}\ndelete table ip thecloud_{vpc_id.hex}\n")
            host.remove(name)
