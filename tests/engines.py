"""The engines that tests run against: one that is missing skips on a laptop and fails where it is required."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from importlib.util import find_spec

import pytest

from tests import ceph


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


def _ceph() -> bool:
    """As root only, with rbd in the kernel. A Ceph that is there is named, or its programs make one."""
    kernel = os.path.exists("/sys/bus/rbd") or subprocess.run(["modprobe", "-q", "rbd"]).returncode == 0
    programs = ("rbd",) if "THECLOUD_TEST_CEPH_CONF" in os.environ else ceph.PROGRAMS
    return os.geteuid() == 0 and all(shutil.which(program, path=ceph.PATH) for program in programs) and kernel


def _s3() -> bool:
    """A Ceph with a gateway; its programs make one, in nobody's kernel."""
    programs = (*ceph.PROGRAMS, *ceph.GATEWAY_PROGRAMS)
    return all(shutil.which(program, path=ceph.PATH) for program in programs)


def _restic() -> bool:
    return shutil.which("restic") is not None


PROBES: dict[str, Callable[[], bool]] = {
    "docker": _docker,
    "nftables": _nftables,
    "qemu-img": _qemu_img,
    "loop devices": _loop_devices,
    "ovn": _ovn,
    "libvirt": _libvirt,
    "ceph": _ceph,
    "s3": _s3,
    "restic": _restic,
}
# Those that CI does not have to have, and what they want. Their tests are in shrinking/skipped.txt.
OPTIONAL = {
    "ceph": "it wants ceph-mon, ceph-osd and ceph-common, and rbd in the kernel: see docs/volumes.md",
}


def require(name: str) -> None:
    """Go on only when the engine answers. REQUIRE_ENGINES=docker,… or all makes a missing one a failure; `all` has
    none that is optional."""
    if PROBES[name]():
        return
    advice = OPTIONAL.get(name, "`thecloud doctor`, and `make engines-for-tests` with CI=1, install and start it")
    reason = f"the engine {name} does not answer: {advice}"
    required = os.environ.get("REQUIRE_ENGINES", "").split(",")
    if name in required or ("all" in required and name not in OPTIONAL):
        pytest.fail(reason)
    pytest.skip(reason)
