"""The names of a VPC's instances: one dnsmasq in its namespace, as long as there are any.

It goes on when this process ends, and is found again by its pid file. A pid is nobody's for long: what
is signalled is held by a pidfd, and only once its command names our pid file. It has no server to ask, so
what it does not know does not exist; the firewall lets nobody but the VPC's own instances ask it.

The folder of a VPC is there before its dnsmasq is, and goes after it: without a folder there is no process.
"""

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drivers import linux_kernel as kernel
from drivers.network import Topology

FOLDER = Path("/run/thecloud-names")  # everybody may read it: dnsmasq gives up root
PATIENCE = 5.0  # seconds for a process to start, and for a killed one to be gone
READ = 0.5  # seconds for a file to be read


def hosts(topology: Topology) -> str:
    """Every name with its address, as dnsmasq reads it."""
    return "".join(f"{port.address} {hostname}\n" for port in topology.ports for hostname in port.hostnames)


def serve(name: str, topology: Topology) -> None:
    """Have the names of this namespace answered as the topology says. The calling thread is in it."""
    wanted = hosts(topology)
    if not wanted:
        stop(name)
        return
    file = _file(name, "hosts")
    for folder in (FOLDER, file.parent):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    if _text(file) != wanted:
        new = file.with_suffix(".new")
        new.write_text(wanted)
        new.chmod(0o644)
        new.replace(file)
    with _held(_pid(name)) as process:
        if process and _as_wanted(name, topology):
            os.utime(file, ns=(0, 0))  # each time: who changed the file may have died before it was read
            signal.pidfd_send_signal(process, signal.SIGHUP)
            _await_reading(file)
            return
    start(name, topology)


def _await_reading(file: Path) -> None:
    """Until dnsmasq, which answers nothing meanwhile, has read the file: its last access is no longer the one set.

    A file system that keeps no times of access (noatime) has it wait for as long as that takes at most.
    """
    deadline = time.monotonic() + READ
    while file.stat().st_atime_ns == 0 and time.monotonic() < deadline:
        time.sleep(0.001)


def start(name: str, topology: Topology) -> None:
    """Once it is there it has bound its sockets: no query is lost from then on."""
    _kill_all(name)
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    done = subprocess.run(_command(name, topology), capture_output=True, text=True, env=environment, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"dnsmasq: {done.stderr.strip()[:2000]}")


def stop(name: str) -> None:
    """Have nothing left of it."""
    folder = FOLDER / name
    if folder.exists():
        _kill_all(name)
        shutil.rmtree(folder)


def served() -> list[str]:
    """The namespaces, of any cloud, that there is something of here. One of them may be gone itself."""
    return os.listdir(FOLDER) if FOLDER.exists() else []


def serving(name: str, topology: Topology) -> bool:
    """Whether the names are answered as the topology says."""
    wanted = hosts(topology)
    return not wanted or (_text(_file(name, "hosts")) == wanted and _as_wanted(name, topology))


def _command(name: str, topology: Topology) -> list[str]:
    """Bound to each address: where it is bound to all, dnsmasq takes TCP only over links that have one."""
    return [
        "dnsmasq", "--conf-file=/dev/null", f"--pid-file={_file(name, 'pid')}", "--no-resolv", "--no-hosts",
        f"--addn-hosts={_file(name, 'hosts')}", "--address=/#/", "--no-ident", "--cache-size=0", "--bind-interfaces",
        *sorted(f"--listen-address={subnet.gateway_ip}" for subnet in topology.subnets),
    ]  # fmt: skip


def _file(name: str, what: str) -> Path:
    return FOLDER / name / what


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def _pid(name: str) -> int:
    """What the pid file says, 0 when it says nothing."""
    text = (_text(_file(name, "pid")) or "").strip()
    return int(text) if text.isdecimal() else 0


def _argv(pid: int) -> list[str]:
    """The command of a process, empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _as_wanted(name: str, topology: Topology) -> bool:
    """Whether the process of the pid file is ours, is run as we would now, and is in the namespace."""
    pid = _pid(name)
    here = kernel.identity(kernel.file_of(name))
    return bool(pid) and _argv(pid) == _command(name, topology) and kernel.identity(f"/proc/{pid}/ns/net") == here


def _kill_all(name: str) -> None:
    """The process, and after it those it answers over TCP with, so that it makes no more."""
    first, pids = _pid(name), (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    for pid in sorted(pids, key=lambda one: one != first):
        if _is_ours(name, pid):
            with _held(pid) as process:
                if process and _is_ours(name, pid):
                    signal.pidfd_send_signal(process, signal.SIGKILL)  # it has nothing to save
                    select.select([process], [], [], PATIENCE)


def _is_ours(name: str, pid: int) -> bool:
    return {"dnsmasq", f"--pid-file={_file(name, 'pid')}"} <= set(_argv(pid))


@contextmanager
def _held(pid: int) -> Iterator[int | None]:
    """A pidfd, which stays that of this process when its number is another's; None when there is no process."""
    try:
        file = os.pidfd_open(pid) if pid else None
    except ProcessLookupError:
        file = None
    try:
        yield file
    finally:
        if file is not None:
            os.close(file)
