"""Instances of this host on its switch, and the host in the external network.

A port is plugged with a link between the switch and the instance's namespace, or with the tap that a
virtual machine is behind. The switch's own row of that interface is the record of it: it is there before
the link is and goes after it, and tells what was made. A link is never made anew with the same name: the
switch would go on with the old one. A tap is, by its machine: the switch is made to forget the old one first.

What comes in over a link of a switch in user space reaches the host's own network too, beside the switch:
a firewall on each link drops it there, where the switch has its copy already. The kernel's switch takes it
away, and would get nothing past such a firewall.
"""

import fcntl
import secrets
import socket
import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Network
from uuid import UUID

from ovs.db.idl import Transaction as Txn

from drivers import linux_external as outer
from drivers import linux_kernel as kernel
from drivers.linux_kernel import HOST, Netlink
from drivers.linux_parts import bound
from drivers.linux_plan import External
from drivers.network import Port, Subnet, Topology
from drivers.ovn_database import CLOUD, VPC, Database, Tables, named, only
from drivers.ovn_rows import NAMES, has_names, mac

MTU = 1442  # what a tunnel between machines leaves of 1500
NO_PREFIX_ROUTE = 0x200
SIOCETHTOOL, SET_TX_CHECKSUM = 0x8946, 0x17
OWN = "o-"  # how the names of links begin that are made here
PLUG, RATE, PORT = "thecloud-plug", "thecloud-rate", "iface-id"


@dataclass(frozen=True)
class Plugged:
    """An interface of the switch, as its row tells. `plug` says for what it was made, `port` whose it is."""

    name: str
    port: str
    vpc: str
    plug: str
    rate: str
    working: bool


@dataclass(frozen=True)
class Plug:
    """An interface there is to be."""

    port: Port
    subnet: Subnet
    identity: int  # of the namespace, or the number of the tap

    def __str__(self) -> str:
        parts = (self.identity, self.port.name, self.port.mac, self.port.address, self.subnet.cidr,
                 self.subnet.gateway_ip)  # fmt: skip
        return " ".join(map(str, parts))


def living(topology: Topology) -> dict[UUID, int]:
    """Of the ports whose instance runs on this host, the identity of its namespace or the number of its tap."""
    own = kernel.identity(HOST)
    found = {port.id: kernel.identity(port.netns) for port in topology.ports if port.netns}
    if own in found.values():
        raise ValueError("a port would be plugged into the namespace of the host")
    found |= {port.id: kernel.index(port.tap) for port in topology.ports if port.tap}
    return {id: identity for id, identity in found.items() if identity}


def wanted(topology: Topology, servers: str) -> dict[str, Plug]:
    """By the port's name in OVN, what is to be plugged here. `servers` is the name server's namespace."""
    here, subnets = living(topology), {subnet.id: subnet for subnet in topology.subnets}
    found = {port.id.hex: Plug(port, subnets[port.subnet_id], here[port.id]) for port in topology.ports
             if port.id in here}  # fmt: skip
    file, id = kernel.file_of(servers), topology.vpc_id
    identity = kernel.identity(file)
    if needs_names(topology) and identity is not None:
        subnet = Subnet(id=id, cidr=str(NAMES), gateway_ip=str(NAMES[1]), route_table_id=id)
        server = Port(id=id, instance_id=id, subnet_id=id, mac=mac("names", id), address=str(NAMES[2]), netns=file)
        found[id.hex] = Plug(server, subnet, identity)
    return found


def needs_names(topology: Topology) -> bool:
    """Whether somebody here may ask for names."""
    return has_names(topology) and bool(living(topology))


def at_server(topology: Topology) -> Topology:
    """The names for a server that listens at its own address, instead of at each gateway's."""
    own = Subnet(id=topology.vpc_id, cidr=str(NAMES), gateway_ip=str(NAMES[2]), route_table_id=topology.vpc_id)
    return replace(topology, subnets=(own,))


def there(tables: Tables, cloud: str) -> list[Plugged]:
    """The cloud's interfaces on this host's switch."""
    found, links = [], kernel.links()
    for row in tables["Interface"].rows.values():
        ids = row.external_ids
        if ids.get(CLOUD) == cloud:
            working = row.name in links and bool(row.ofport) and row.ofport[0] > 0
            found.append(Plugged(row.name, ids[PORT], ids[VPC], ids.get(PLUG, ""), ids.get(RATE, ""), working))
    return found


def present(switch: Database, cloud: str) -> list[Plugged]:
    with switch.reading() as tables, kernel.entered(HOST):
        return there(tables, cloud)


def is_in_user_space(switch: Database) -> bool:
    """Whether the switch is a program, instead of the kernel."""
    with switch.reading() as tables:
        bridge = named(tables, "Bridge", only(tables["Open_vSwitch"]).external_ids.get("ovn-bridge", "br-int"))
        return bridge is not None and bool(bridge.datapath_type == "netdev")


def plug_all(switch: Database, cloud: str, vpc_id: UUID, plugs: dict[str, Plug]) -> bool:
    """Have these interfaces of the VPC here, and no others of it. Tells whether any was not there."""
    old, kept = [], set()
    for one in present(switch, cloud):
        plug = plugs.get(one.port)
        if one.vpc != str(vpc_id):
            continue
        if plug is None or not one.working or one.plug != str(plug) or one.port in kept:
            old.append(one.name)
            continue
        kept.add(one.port)
        if one.rate != str(plug.port.mbps):
            limit(one.name, plug.port)
            switch.change(partial(note, {one.name: plug}))
    unplug(switch, cloud, old)
    new = {plug.port.tap or f"{OWN}{secrets.token_hex(6)}": plug for id, plug in plugs.items() if id not in kept}
    if new:
        if not switch.wait(has_forgotten):
            raise TimeoutError("this host's switch does not let go of what is unplugged; is ovs-vswitchd running?")
        switch.change(lambda tables, txn: add(tables, txn, cloud, vpc_id, new))
        in_user_space = is_in_user_space(switch)
        for name, plug in new.items():
            link(cloud, name, plug, in_user_space)
        switch.change(partial(note, new))
        switch.wait(lambda tables: all(one.working for one in there(tables, cloud) if one.name in new))
    return bool(new)


def has_forgotten(tables: Tables) -> bool:
    """Whether the switch did all it was asked to. A new tap may have the name of one that it was to forget."""
    everything = only(tables["Open_vSwitch"])
    return bool(everything.cur_cfg >= everything.next_cfg)


def note(done: dict[str, Plug], tables: Tables, _: Txn) -> None:
    """Keep in mind what these interfaces were made for. One left half done has no such note, and is made anew."""
    for row in tables["Interface"].rows.values():
        if row.name in done:
            row.setkey("external_ids", PLUG, str(done[row.name]))
            row.setkey("external_ids", RATE, str(done[row.name].port.mbps))


def add(tables: Tables, txn: Txn, cloud: str, vpc_id: UUID, new: dict[str, Plug]) -> None:
    """Tell the switch of interfaces that will be."""
    ids = only(tables["Open_vSwitch"]).external_ids
    bridge = named(tables, "Bridge", ids.get("ovn-bridge", "br-int"))
    if bridge is None:
        raise RuntimeError("the switch of this host has no bridge for OVN yet")
    for name, plug in new.items():
        interface, port = txn.insert(tables["Interface"]), txn.insert(tables["Port"])
        interface.name = port.name = name
        interface.external_ids = {PORT: plug.port.id.hex, CLOUD: cloud, VPC: str(vpc_id)}
        port.interfaces = [interface]
        bridge.addvalue("ports", port)


def unplug(switch: Database, cloud: str, names: Iterable[str]) -> None:
    gone = set(names)
    if not gone:
        return
    with kernel.inside(HOST) as host:
        for name in gone:
            if name.startswith(OWN):
                host.remove(name)
            elif number := kernel.index(name):
                host.do("link", "set", index=number, state="down")
            kernel.nft(unguard(table(cloud), name))

    def forget(tables: Tables, _: Txn) -> None:
        for bridge in tables["Bridge"].rows.values():
            for port in bridge.ports:
                if port.name in gone:
                    bridge.delvalue("ports", port)
        everything = only(tables["Open_vSwitch"])
        everything.verify("next_cfg")  # others count there too
        everything.next_cfg += 1  # has the switch tell when it did

    switch.change(forget)
    if not present(switch, cloud):
        with kernel.entered(HOST):
            kernel.nft(f"add table {table(cloud)}\ndelete table {table(cloud)}\n")


def table(cloud: str) -> str:
    return f"netdev thecloud_{cloud}"


def guard(table: str, name: str) -> str:
    """What keeps the host's own network from hearing what the switch does."""
    hook = f'type filter hook ingress device "{name}" priority 0; policy drop;'
    return f"add table {table}\nadd chain {table} {name} {{ {hook} }}\n"


def unguard(table: str, name: str) -> str:
    """Have that gone again: it outlives the link."""
    return f"add table {table}\nadd chain {table} {name}\ndelete chain {table} {name}\n"


def link(cloud: str, name: str, plug: Plug, in_user_space: bool) -> None:
    """The link of an interface, guarded before it is up."""
    port = plug.port
    with kernel.inside(HOST) as host:
        if port.netns:
            join(host, name, port)
        if kernel.index(name) != plug.identity and port.tap:
            raise RuntimeError(f"the tap {port.tap} went away")
        if in_user_space:
            kernel.nft(guard(table(cloud), name))
        kernel.setting(f"ipv6/conf/{name}/disable_ipv6", "1")
        host.do("link", "set", index=kernel.index(name), mtu=MTU, state="up")
    if port.mbps is not None:
        limit(name, port)
    if port.netns:
        with kernel.inside(port.netns) as instance:
            settle(instance, port, plug.subnet)
        if in_user_space:
            sum_itself(port.netns, port.name)


def join(host: Netlink, name: str, port: Port) -> None:
    """A pair of links, of which the other is in the instance's namespace."""
    assert port.netns
    with outer.opened(port.netns) as namespace:
        host.do("link", "add", ifname=name, kind="veth", mtu=MTU,
                peer={"ifname": port.name, "net_ns_fd": namespace, "address": port.mac, "mtu": MTU})  # fmt: skip
    if not kernel.index(name):
        raise RuntimeError(f"the instance of port {port.id} has a link {port.name} that is not ours")


def settle(instance: Netlink, port: Port, subnet: Subnet) -> None:
    """The interface inside: it speaks to the router alone, also when it means its own subnet."""
    number, length = kernel.index(port.name), IPv4Network(subnet.cidr).prefixlen
    instance.up("lo")
    instance.do("addr", "add", index=number, address=port.address, prefixlen=length, flags=NO_PREFIX_ROUTE)
    instance.up(port.name)
    instance.do("route", "replace", dst=f"{subnet.gateway_ip}/32", oif=number, scope="link")
    instance.do("route", "replace", dst=subnet.cidr, gateway=subnet.gateway_ip, oif=number)
    if port.name == "eth0":
        instance.do("route", "replace", dst="0.0.0.0/0", gateway=subnet.gateway_ip, oif=number)


def sum_itself(namespace: str, name: str) -> None:
    """Have what an instance sends have its checksum.

    A switch in user space forgets that one is still to be made when OVN keeps a packet until it knows where its
    next hop is, and then neither translates it nor drops it.
    """
    value = array("B", struct.pack("II", SET_TX_CHECKSUM, 0))
    with kernel.entered(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sP", name.encode(), value.buffer_info()[0]))


def limit(name: str, port: Port) -> None:
    """The rate at both ends of the link: what the instance gets, and what it sends.

    Into a virtual machine nobody reaches: what that sends over its rate is dropped by OVN.
    """
    with kernel.inside(HOST) as host:
        bound(host, name, port.mbps)
    if port.netns:
        with kernel.inside(port.netns) as instance:
            bound(instance, port.name, port.mbps)


# The external network


def bridge_to(switch: Database, network: str) -> str | None:
    """The bridge that leads this host into that network, if any does."""
    with switch.reading() as tables:
        mappings = only(tables["Open_vSwitch"]).external_ids.get("ovn-bridge-mappings", "")
    return dict(one.split(":", 1) for one in mappings.split(",") if ":" in one).get(network)


def is_outside(external: External, bridge: str) -> bool:
    """Whether the host is in the external network, and guarded."""
    with kernel.inside(HOST) as host:
        there = f"{external.gateway}/{IPv4Network(external.cidr).prefixlen}" in host.addresses(bridge)
        return there and outer.table(replace(external, name=bridge)) in kernel.tables()


def step_outside(external: External, bridge: str) -> None:
    """Have the host in the external network with the gateway's address. It takes replies alone and forwards none."""
    if is_outside(external, bridge):
        return
    with kernel.inside(HOST) as host:
        kernel.nft(outer.guard(replace(external, name=bridge)))
        kernel.setting(f"ipv6/conf/{bridge}/disable_ipv6", "1")
        length = IPv4Network(external.cidr).prefixlen
        host.do("addr", "add", index=kernel.index(bridge), address=external.gateway, prefixlen=length)
        host.up(bridge)


def step_inside(external: External, bridge: str) -> None:
    """Have the host out of the external network again."""
    name = outer.table(replace(external, name=bridge))
    with kernel.inside(HOST) as host:
        length = IPv4Network(external.cidr).prefixlen
        host.do("addr", "del", index=kernel.index(bridge), address=external.gateway, prefixlen=length)
        if name in kernel.tables():
            kernel.nft(f"delete table {name}\n")
