"""From POST of a security group's rule until a packet that it allows gets through, over a real `thecloud up`.

A connection between two containers of a VPC is tried every millisecond or two. Against it: writing one
rule with `nft` by hand, until its process has ended. The rule is removed again between the rounds.
"""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.figure import figure, medians
from bench.launch import IMAGE, TYPE, Client, docker, missing
from bench.memory import up
from bench.processes import running
from drivers import linux_kernel

NAME = "rule to effect"
ROUNDS, PATIENCE = 12, 20.0
EXTERNAL = "198.18.77.0/24"  # for benchmarks: RFC 2544
LISTENING = ["sh", "-c", "httpd -f -p 80"]


def figures() -> Iterator[dict[str, Any]]:
    if reason := lacking():
        yield figure(NAME, None, "ms", "nft -f", None, None, reason=reason)
        return
    environment = {"THECLOUD_EXTERNAL_NETWORK": EXTERNAL}
    with TemporaryDirectory() as folder, running(*up(Path(folder)), environment=environment) as server:
        client = Client(server.wait_for(r"http://(\S+)"))
        server.wait_for("ready")
        network = Network(client)
        try:
            network.make()
            ours, theirs = medians(ROUNDS, network.allow, nft)
        finally:
            network.remove()
    yield figure(NAME, round(ours * 1000, 1), "ms", "nft -f of one rule", ours / theirs, None)


def lacking() -> str:
    if os.geteuid() != 0 or not shutil.which("nft"):
        return "networks are made as root, with nftables"
    return missing()


def nft() -> float:
    """Seconds of one rule, written by hand. Its table goes again."""
    began = time.perf_counter()
    linux_kernel.nft("add table inet bench\nadd chain inet bench one\nadd rule inet bench one tcp dport 80 accept\n")
    taken = time.perf_counter() - began
    linux_kernel.nft("delete table inet bench\n")
    return taken


class Network:
    """A VPC with two instances, one of them behind a group."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.instances: list[str] = []

    def make(self) -> None:
        call = self.client.call
        self.vpc = call("POST", "/vpcs", {"name": "bench"})[1]["id"]
        subnet = call("POST", f"/vpcs/{self.vpc}/subnets", {"name": "one", "cidr_block": "10.0.1.0/24"})[1]["id"]
        self.group = call("POST", "/security-groups", {"vpc_id": self.vpc, "name": "closed"})[1]["id"]
        for groups in ([self.group], []):
            body = {"name": "bench", "image": IMAGE, "instance_type": TYPE, "subnet_id": subnet, "cmd": LISTENING,
                    "security_groups": groups}  # fmt: skip
            self.instances.append(call("POST", "/instances", body)[1]["id"])
        self._until(lambda: all(self._status(id) == "RUNNING" for id in self.instances))
        key = "{{.NetworkSettings.SandboxKey}}"
        self.caller = docker("inspect", "-f", key, f"thecloud-{self.instances[1]}").stdout.decode().strip()

    def allow(self) -> float:
        """Seconds from asking for a rule to the first connection."""
        self._until(lambda: not self._connects())
        body = {"direction": "ingress", "protocol": "tcp", "port_min": 80, "port_max": 80, "cidr": "10.0.0.0/16"}
        began = time.perf_counter()
        status, rule = self.client.call("POST", f"/security-groups/{self.group}/rules", body)
        assert status == 201, rule
        self._until(self._connects)
        taken = time.perf_counter() - began
        self.client.call("DELETE", f"/security-groups/rules/{rule['id']}")
        return taken

    def remove(self) -> None:
        for id in self.instances:
            self.client.remove(f"/instances/{id}")
        with suppress(AttributeError):
            self.client.call("DELETE", f"/vpcs/{self.vpc}")
            self._until(lambda: not [one for one in linux_kernel.namespaces() if one.endswith(self.vpc)])

    def _status(self, id: str) -> str:
        return str(self.client.call("GET", f"/instances/{id}")[1]["status"])

    def _connects(self) -> bool:
        with linux_kernel.entered(self.caller):
            one = socket.socket()
        one.settimeout(0.002)
        with one, suppress(OSError):
            one.connect(("10.0.1.2", 80))
            return True
        return False

    def _until(self, so: Any) -> None:
        deadline = time.perf_counter() + PATIENCE
        while not so():
            assert time.perf_counter() < deadline
            time.sleep(0.0005)
