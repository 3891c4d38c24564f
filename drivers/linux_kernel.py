"""Ways into the kernel's network: namespaces, netlink, nft.

Every change goes through `Netlink.do` or `nft`, one atomic step each: what is killed is killed
between two of them.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from pyroute2 import IPRoute, NetlinkError, netns

CLONE_NEWNET = 0x40000000
NFNL_SUBSYS_NFTABLES = 10
NETLINK_NETFILTER = 12
NFT_MSG_GETGEN = 16
NFTA_GEN_ID = 1
SIOCGIFFLAGS = 0x8913
IFF_UP = 1
TYPES = {"unicast": 1, "blackhole": 6, "unreachable": 7, "throw": 9}
LAST = 4278198272  # the metric of a route that is taken when there is no other

_libc = ctypes.CDLL(None, use_errno=True)


class Netlink:
    """One netlink socket in the namespace it was opened in, where links are called by name."""

    def __init__(self, socket: IPRoute) -> None:
        self._socket = socket

    def do(self, thing: str, command: str, /, **parts: Any) -> None:
        """One change. What is asked to be added may be there, and what is asked to be deleted may be gone."""
        try:
            getattr(self._socket, thing)(command, **parts)
        except NetlinkError as error:
            forgiven = {"add": (errno.EEXIST,), "del": (errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL)}
            if error.code not in forgiven.get(command, ()):
                raise

    def up(self, name: str) -> None:
        self.do("link", "set", index=index(name), state="up")

    def remove(self, name: str) -> None:
        if number := index(name):
            self.do("link", "del", index=number)

    def addresses(self, name: str) -> set[str]:
        """The IPv4 addresses of a link, as 10.0.0.1/24."""
        found = self._socket.get_addr(family=socket.AF_INET, index=index(name))
        return {f"{one.get_attr('IFA_LOCAL')}/{one['prefixlen']}" for one in found}

    def rules(self) -> set[tuple[int, str | None, str | None, str | None, int]]:
        """Rules of our making, as (priority, from, to, incoming link, table)."""
        return {
            (
                rule.get_attr("FRA_PRIORITY"),
                _prefix(rule.get_attr("FRA_SRC"), rule["src_len"]),
                _prefix(rule.get_attr("FRA_DST"), rule["dst_len"]),
                rule.get_attr("FRA_IIFNAME"),
                rule.get_attr("FRA_TABLE"),
            )
            for rule in self._socket.get_rules(family=socket.AF_INET)
            if 0 < (rule.get_attr("FRA_PRIORITY") or 0) < 32766
        }


def _prefix(address: str | None, length: int) -> str | None:
    return f"{address}/{length}" if address else None


@contextmanager
def inside(path: str) -> Iterator[Netlink]:
    """This thread in the namespace of that file, for as long as the block runs, and a netlink socket there."""
    with entered(path), IPRoute(strict_check=True) as opened:
        yield Netlink(opened)


@contextmanager
def entered(path: str) -> Iterator[None]:
    """This thread in the namespace of that file, for as long as the block runs."""
    home = os.open(HOST, os.O_RDONLY)
    try:
        there = os.open(path, os.O_RDONLY)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def bound_there(path: str, address: str, port: int) -> socket.socket:
    """A TCP socket in the namespace of that file. Other processes may bind it too, and it sends one hop far."""
    with entered(path):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        for level, option in (
            (socket.SOL_SOCKET, socket.SO_REUSEADDR), (socket.SOL_SOCKET, socket.SO_REUSEPORT),
            (socket.IPPROTO_IP, socket.IP_TTL),
        ):  # fmt: skip
            made.setsockopt(level, option, 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made


HOST = "/proc/thread-self/ns/net"  # where this process is


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def namespaces() -> list[str]:
    return list(netns.listnetns())


def file_of(name: str) -> str:
    return f"/run/netns/{name}"


def make_namespace(name: str) -> None:
    if not is_namespace(file_of(name)):
        remove_namespace(name)  # a file that was left without its namespace
        netns.create(name)


def remove_namespace(name: str) -> None:
    """Unlink it. What is in it goes with its last user, a moment later."""
    path = Path(file_of(name))
    if is_namespace(str(path)):
        netns.remove(name)
    path.unlink(missing_ok=True)


def identity(path: str) -> int | None:
    """What tells the namespace of that file from others that live; None when the file is none."""
    try:
        there = os.stat(path)
    except OSError:
        return None
    return there.st_ino if there.st_dev == os.stat(HOST).st_dev else None


def inode(path: Path) -> int | None:
    """The number of the file that is there now."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def is_namespace(path: str) -> bool:
    return identity(path) is not None


def index(name: str) -> int:
    """The number of a link, 0 when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def is_up(name: str) -> bool:
    request = struct.pack("16sH14x", name.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            reply = fcntl.ioctl(probe, SIOCGIFFLAGS, request)
        except OSError:
            return False
    return bool(struct.unpack_from("H", reply, 16)[0] & IFF_UP)


def announce(name: str, address: str) -> None:
    """Tell everybody on the link that the address is here now."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((name, 0))
        own, ip = wire.getsockname()[4], socket.inet_aton(address)
        wire.send(b"\xff" * 6 + own + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + own + ip + b"\0" * 6 + ip)


def links() -> set[str]:
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines}


def neighbourly_routes() -> set[tuple[str, str]]:
    """The main table's routes to single hosts, as (address, link). Read as text: a hundred times faster at 1,000."""
    found = set()
    for line in Path("/proc/thread-self/net/route").read_text().splitlines()[1:]:
        name, destination, *_, mask, _, _, _ = line.split()
        if mask == "FFFFFFFF":
            found.add((socket.inet_ntoa(struct.pack("=I", int(destination, 16))), name))
    return found


def routes(table: int) -> set[tuple[str, int, str | None, str | None]]:
    """The routes of a table, as (destination, type, link, next hop). Read with `ip`: pyroute2 reads all tables."""
    command = ["ip", "-json", "-4", "route", "show", "table", str(table)]
    listed = subprocess.run(command, capture_output=True, timeout=10).stdout  # fails where there is no such table yet
    return {
        (_destination(one["dst"]), TYPES[one.get("type", "unicast")], one.get("dev"), one.get("gateway"))
        for one in orjson.loads(listed or b"[]")
        if one.get("metric") != LAST
    }


def _destination(text: str) -> str:
    if text == "default":
        return "0.0.0.0/0"
    return text if "/" in text else f"{text}/32"


def setting(path: str, value: str) -> None:
    """A sysctl of the namespace this thread is in."""
    file = Path("/proc/sys/net") / path
    if file.read_text().strip() != value:
        file.write_text(value)


def nft(text: str) -> None:
    """One transaction: all of it, or nothing."""
    if text:
        done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nft: {done.stderr.strip()[:2000]}")


def tables() -> set[str]:
    """The tables of the namespace's firewall, with their families."""
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True, timeout=10).stdout
    return {line.removeprefix("table ").strip() for line in listed.splitlines()}


def generation() -> int:
    """The number of the namespace's firewall, which every change by anybody raises."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        kernel.settimeout(5)
        kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN
        kernel.sendto(struct.pack("=IHHIIBBH", 20, kind, 1, 1, 0, 0, 0, 0), (0, 0))
        reply = kernel.recv(4096)
    at, end = 20, struct.unpack_from("=I", reply)[0]
    while at < end:
        length, attribute = struct.unpack_from("=HH", reply, at)
        if attribute & 0x3FFF == NFTA_GEN_ID:
            number: int = struct.unpack_from(">I", reply, at + 4)[0]
            return number
        at += (length + 3) & ~3
    raise RuntimeError("the kernel does not tell the generation of its firewall")
