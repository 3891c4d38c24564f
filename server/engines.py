"""The programs of this machine that the cloud drives: found or not, which version, and what to do."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from server import postgres

PATIENCE = 30.0  # seconds for an engine to answer after its start
DOCKER_SOCKET = Path("/var/run/docker.sock")
LIBVIRT_SOCKET = "/run/libvirt/libvirt-sock"
# With Debian's own, libvirt starts machines only where systemd has made cgroups and users for them.
QEMU_SETTINGS = """user = "root"
group = "root"
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
"""
# In a mount namespace, where these settings ($0) take the place of a file in which nobody has set anything.
START_LIBVIRT = """
grep -q '^[[:space:]]*[^#[:space:]]' /etc/libvirt/qemu.conf || {
  mkdir -p /run/thecloud && printf %s "$0" > /run/thecloud/qemu.conf &&
  mount --bind /run/thecloud/qemu.conf /etc/libvirt/qemu.conf
}
/usr/sbin/virtlogd -d
/usr/sbin/libvirtd -d
"""


@dataclass(frozen=True)
class Engine:
    """One program: how to see whether it is there, how to install it, how to start it."""

    name: str
    purpose: str
    packages: tuple[str, ...]  # Debian's
    version: Callable[[], str | None]  # None: not installed
    answers: Callable[[], bool]
    advice: str = "see why it does not answer"  # where it is installed and does not
    start: Callable[[], None] | None = None
    before_install: Callable[[], None] = lambda: None
    optional: bool = False  # only what asks for it by name needs it


@dataclass(frozen=True)
class Finding:
    """What is the matter with an engine; `advice` is empty when nothing is."""

    engine: Engine
    version: str | None
    answers: bool
    advice: str


def first_line(*command: str) -> str | None:
    """What a program says of its version; None when it is not there or fails."""
    try:
        reply = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return reply.stdout.strip().split("\n")[0]


def postgres_version() -> str | None:
    programs = postgres.binaries()
    return first_line(str(programs / "postgres"), "--version") if programs else None


def docker_answers() -> bool:
    reply = first_line("docker", "version", "--format", "{{.Server.Version}}")
    return bool(reply)


def docker_version() -> str | None:
    program = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin")
    return first_line(program, "--version") if program else None


def network_version() -> str | None:
    """That of nft, once every program is there that the network is made with."""
    there = all(shutil.which(program) for program in ("nft", "ip", "dnsmasq"))
    return first_line("nft", "--version") if there else None


def start_docker() -> None:
    """Start Docker Engine the way this machine starts services, else by hand. It goes on when we end."""
    if Path("/run/systemd/system").exists():
        subprocess.run([*as_root(), "systemctl", "start", "docker"], check=False)
        return
    with Path("/var/log/thecloud-dockerd.log" if os.geteuid() == 0 else os.devnull).open("ab") as output:
        subprocess.Popen([*as_root(), "dockerd"], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                         start_new_session=True)  # fmt: skip


def image_tools_version() -> str | None:
    """That of the tool for containers' images, once those for the guest are there too."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    there = all(shutil.which(program, path=path) for program in ("syslinux", "mcopy", "depmod"))
    return first_line("mmdebstrap", "--version") if there else None


def libvirt_version() -> str | None:
    """That of libvirtd, once QEMU is there too, and the driver's library or what that is built with."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    there = all(shutil.which(program, path=path) for program in ("virtlogd", "qemu-system-x86_64", "qemu-img"))
    there &= find_spec("libvirt") is not None or Path("/usr/include/libvirt/libvirt.h").exists()
    program = shutil.which("libvirtd", path=path)
    return first_line(program, "--version") if program and there else None


def libvirt_answers() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        return probe.connect_ex(LIBVIRT_SOCKET) == 0


def start_libvirt() -> None:
    """Start libvirtd, and what keeps the logs of consoles, the way this machine starts services, else by hand.

    By hand they get settings that start machines without systemd, unless there are some: no file is changed.
    """
    if Path("/run/systemd/system").exists():
        subprocess.run([*as_root(), "systemctl", "start", "virtlogd", "libvirtd"], check=False)
        return
    namespace = ("unshare", "--mount", "--propagation", "slave")  # what the host mounts later is seen in it
    subprocess.run([*as_root(), *namespace, "sh", "-c", START_LIBVIRT, QEMU_SETTINGS], check=False)


def no_cluster_of_its_own() -> None:
    """Debian's package would make and start a cluster; we start our own."""
    if not Path("/usr/share/postgresql-common").exists():
        folder = "/etc/postgresql-common/createcluster.d"
        script = f"mkdir -p {folder} && echo 'create_main_cluster = false' > {folder}/thecloud.conf"
        subprocess.run([*as_root(), "sh", "-c", script], check=True)


ENGINES = (
    Engine("postgresql", "the embedded database", ("postgresql",), postgres_version,
           lambda: postgres.binaries() is not None, before_install=no_cluster_of_its_own),
    Engine("docker", "instances in containers", ("docker.io",), docker_version, docker_answers,
           "start it as root (`thecloud doctor --fix`), and let this user in: usermod -aG docker $USER", start_docker),
    Engine("nftables", "the network of VPCs", ("nftables", "iproute2", "dnsmasq-base"),
           network_version, lambda: network_version() is not None),
    Engine("qemu-img", "disk images", ("qemu-utils",), lambda: first_line("qemu-img", "--version"),
           lambda: shutil.which("qemu-img") is not None),
    Engine("image tools", "`thecloud images build`", ("mmdebstrap", "syslinux", "mtools", "kmod"), image_tools_version,
           lambda: image_tools_version() is not None),
    # Without its -sysv package apt would install systemd, where there is none. libvirt-python is built from source.
    Engine("libvirt", "instances in virtual machines",
           ("libvirt-daemon-system", "libvirt-daemon-system-sysv", "qemu-system-x86", "qemu-utils",
            "libvirt-dev", "pkg-config", "gcc"),
           libvirt_version, libvirt_answers, "start it as root: `thecloud doctor --fix libvirt`", start_libvirt,
           optional=True),
)  # fmt: skip


def as_root() -> list[str]:
    """A prefix that runs a command as root: nothing for root, sudo where it asks for no password."""
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def may_install() -> bool:
    if shutil.which("apt-get") is None:
        return False
    return os.geteuid() == 0 or first_line("sudo", "-n", "true") is not None


def examine(engine: Engine) -> Finding:
    version, answers = engine.version(), engine.answers()
    if answers:
        return Finding(engine, version, True, "")
    if version is None:
        return Finding(engine, None, False, f"apt-get install {' '.join(engine.packages)}")
    return Finding(engine, version, False, engine.advice)


def fix(engine: Engine, say: Callable[[str], None]) -> Finding:
    """Install and start what is missing of an engine, where we may; then what is still the matter."""
    finding = examine(engine)
    if not finding.advice or not may_install():
        return finding
    if finding.version is None:
        say(f"installing {' '.join(engine.packages)}")
        engine.before_install()
        install(engine.packages)
    if engine.start and not engine.answers():
        say(f"starting {engine.name}")
        engine.start()
        asyncio.run(_until(engine.answers))
    return examine(engine)


def install(packages: tuple[str, ...]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = [*as_root(), "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    subprocess.run([*command, "update"], check=True, env=environment, stdout=subprocess.DEVNULL)
    subprocess.run([*command, "install", "-y", "--no-install-recommends", *packages], check=True, env=environment,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


async def _until(answers: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE / 0.2)):
        if answers():
            return
        await asyncio.sleep(0.2)
