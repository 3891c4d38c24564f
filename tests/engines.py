"""The engines that tests run against: one that is missing skips on a laptop and fails where it is required."""

import os
import shutil
import socket
from collections.abc import Callable
from importlib.util import find_spec

import pytest


def _docker() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        return probe.connect_ex("/var/run/docker.sock") == 0


def _nftables() -> bool:
    """As root only: namespaces and firewalls are nobody else's to make."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in ("nft", "ip", "dnsmasq"))


def _qemu_img() -> bool:
    return shutil.which("qemu-img") is not None


def _loop_devices() -> bool:
    """As root only: nobody else mounts."""
    return os.geteuid() == 0 and os.path.exists("/dev/loop-control") and shutil.which("mkfs.ext4") is not None


def _ovn() -> bool:
    """Its programs, which the tests run themselves."""
    programs = ("ovsdb-server", "ovs-vswitchd", "ovn-northd", "ovn-controller", "ovn-nbctl")
    return _nftables() and find_spec("ovsdbapp") is not None and all(shutil.which(program) for program in programs)


def _libvirt() -> bool:
    """As root only: tests start a libvirtd of their own."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    programs = ("libvirtd", "virtlogd", "qemu-system-x86_64", "qemu-img", "unshare")
    there = all(shutil.which(program, path=path) for program in programs)
    return os.geteuid() == 0 and there and find_spec("libvirt") is not None


PROBES: dict[str, Callable[[], bool]] = {
    "docker": _docker,
    "nftables": _nftables,
    "qemu-img": _qemu_img,
    "loop devices": _loop_devices,
    "ovn": _ovn,
    "libvirt": _libvirt,
}


def require(name: str) -> None:
    """Go on only when the engine answers. REQUIRE_ENGINES=docker,… or all makes a missing one a failure."""
    if PROBES[name]():
        return
    reason = f"the engine {name} does not answer: `thecloud doctor` tells what to install or start"
    required = os.environ.get("REQUIRE_ENGINES", "").split(",")
    if name in required or "all" in required:
        pytest.fail(reason)
    pytest.skip(reason)
