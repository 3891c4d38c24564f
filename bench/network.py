"""The linux network driver: TCP through it against Docker's bridge, and what apply costs.

Throughput is that of one connection between two containers, as sent and received by two threads of
this process whose sockets are in the containers' namespaces; our pair has one subnet and a group, the
other pair Docker's own bridge. They take turns. Ports of `apply` are many interfaces in one namespace.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any
from uuid import uuid4

from bench.figure import figure, medians
from drivers import linux_kernel as kernel
from drivers.linux import LinuxNetwork
from drivers.network import Group, Port, Route, RouteTable, Rule, Subnet, Topology

IMAGE = "busybox"
ROUNDS, SECONDS = 7, 1.0  # of throughput: rounds, and how long each side sends
CHANGES = 9
BRIDGE, TENFOLD, LIMIT = "two containers on Docker's bridge", "ten times that of a tenth of the ports", 100.0  # ms


def figures() -> Iterator[dict[str, Any]]:
    if reason := missing():
        yield figure("network throughput", None, "Gbit/s", BRIDGE, None, 0.9, reason=reason)
        return
    with TemporaryDirectory() as folder:
        driver = LinuxNetwork(f"bench-{uuid4()}", state=Path(folder))
        yield from throughput(driver)
        yield from costs(driver)


def missing() -> str:
    """What this machine lacks for it."""
    if os.geteuid() or not all(shutil.which(program) for program in ("nft", "ip", "dnsmasq")):
        return "the network is made as root, with nft, ip and dnsmasq"
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode
    ):
        return f"no Docker Engine answers here, or it has no image {IMAGE}"
    return ""


def throughput(driver: LinuxNetwork) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        ours, theirs = ([stack.enter_context(Container(network)) for _ in range(2)] for network in ("none", "bridge"))
        vpc = topology([one.netns for one in ours], "eth0")
        stack.callback(lambda: asyncio.run(driver.delete(vpc.vpc_id)))
        asyncio.run(driver.apply(vpc))

        def routed() -> float:
            return sent(ours[0].netns, ours[1].netns, vpc.ports[1].address)

        def bridged() -> float:
            return sent(theirs[0].netns, theirs[1].netns, theirs[1].address)

        mine, other = medians(ROUNDS, routed, bridged)
    sys.stderr.write(f"  {mine:.2f} Gbit/s, on Docker's bridge {other:.2f}\n")
    yield figure("network throughput", round(mine, 2), "Gbit/s", BRIDGE, mine / other, 0.9)


class Container:
    """A container that does nothing, and its network namespace."""

    def __init__(self, network: str) -> None:
        command = ["docker", "run", "-d", "--rm", f"--network={network}", IMAGE, "sleep", "300"]
        self._id = run(*command)
        shown = "{{.NetworkSettings.SandboxKey}} {{.NetworkSettings.IPAddress}}"
        self.netns, _, self.address = run("docker", "inspect", "-f", shown, self._id).partition(" ")

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        run("docker", "rm", "-f", self._id)


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def sent(source: str, target: str, address: str) -> float:
    """Gbit/s of one connection between two namespaces."""
    with kernel.entered(target):
        listener = socket.create_server((address, 5000))
    with listener:
        with kernel.entered(source):
            sender = socket.create_connection((address, 5000), 5)
        receiver, _ = listener.accept()
    received, buffer, data = 0, bytearray(1 << 18), bytes(1 << 18)
    deadline = time.perf_counter() + SECONDS

    def send() -> None:
        with sender, suppress(OSError):
            while time.perf_counter() < deadline:
                sender.sendall(data)

    thread = Thread(target=send)
    began = time.perf_counter()
    with receiver:
        receiver.settimeout(5)
        thread.start()
        while count := receiver.recv_into(buffer):
            received += count
        taken = time.perf_counter() - began
    thread.join()
    return received * 8 / taken / 1e9


def topology(namespaces: list[str], *names: str) -> Topology:
    """A subnet of ports, one of each name in each namespace, in ten groups of one rule each."""
    table = RouteTable(id=uuid4(), routes=(Route(destination="10.64.0.0/16", target="local"),))
    subnet = Subnet(id=uuid4(), cidr="10.64.0.0/16", gateway_ip="10.64.0.1", route_table_id=table.id)
    groups = tuple(
        Group(id=uuid4(), rules=(Rule(id=uuid4(), direction="ingress", protocol="tcp", cidr="10.64.0.0/16"),))
        for _ in range(10)
    )
    free = IPv4Network(subnet.cidr).hosts()
    next(free)
    ports = tuple(
        Port(
            id=uuid4(), instance_id=uuid4(), subnet_id=subnet.id, address=str(address), netns=namespace, name=name,
            mac="02:00:" + ":".join(f"{byte:02x}" for byte in address.packed), groups=(groups[int(address) % 10].id,),
        )
        for (namespace, name), address in zip(((one, name) for one in namespaces for name in names), free, strict=False)
    )  # fmt: skip
    return Topology(vpc_id=uuid4(), tenant_id=uuid4(), cidrs=(subnet.cidr,), subnets=(subnet,), ports=ports,
                    groups=groups, route_tables=(table,))  # fmt: skip


def costs(driver: LinuxNetwork) -> Iterator[dict[str, Any]]:
    before: float | None = None
    for number in (10, 100, 1000):
        first, again, changed = asyncio.run(cost(driver, number))
        sys.stderr.write(f"  {number} ports: {first:.2f} s, again {again:.0f} ms, one rule changed {changed:.0f} ms\n")
        yield figure(f"network apply, {number} ports", round(first * 1000), "ms", TENFOLD if before else "",
                     first / before / 10 if before else None, 1 if before else None, at_most=True)  # fmt: skip
        before = first
    yield figure("network rule, 1000 ports", round(changed, 1), "ms", "100 ms", changed / LIMIT, 1, at_most=True)


async def cost(driver: LinuxNetwork, number: int) -> tuple[float, float, float]:
    """Seconds of the first apply, milliseconds of one that changes nothing, and of one that changes a rule."""
    name = f"bench-{uuid4()}"
    run("ip", "netns", "add", name)
    vpc = topology([f"/run/netns/{name}"], *(f"eth{one + 1}" for one in range(number)))

    async def timed(make: Callable[[int], Topology], rounds: int) -> float:
        taken = []
        for one in range(rounds):
            wanted = make(one)
            began = time.perf_counter()
            await driver.apply(wanted)
            taken.append(time.perf_counter() - began)
        return median(taken)

    def with_port(port: int) -> Topology:
        rule = replace(vpc.groups[0].rules[0], port_min=port + 1)
        return replace(vpc, groups=(replace(vpc.groups[0], rules=(rule,)), *vpc.groups[1:]))

    try:
        first = await timed(lambda _: vpc, 1)
        again = await timed(lambda _: vpc, CHANGES)
        changed = await timed(lambda one: with_port(one + 1), CHANGES)
    finally:
        await driver.delete(vpc.vpc_id)
        run("ip", "netns", "delete", name)
    return first, again * 1000, changed * 1000
