"""OVN for tests: its databases, its translator and machines that carry it out, all in one folder and gone at the end.

The first machine is this one: its switch is where the test is. More of them are namespaces, joined to it by a link.
"""

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from drivers import linux_kernel as kernel
from drivers.ovn_plug import guard

SCHEMAS = {
    "northbound": "/usr/share/ovn/ovn-nb.ovsschema",
    "southbound": "/usr/share/ovn/ovn-sb.ovsschema",
    "switch": "/usr/share/openvswitch/vswitch.ovsschema",
}
QUIET = ("--no-chdir", "-vconsole:off", "-vsyslog:off", "-vfile:info")
PATIENCE = 20.0


@dataclass(frozen=True)
class Chassis:
    """A machine with a switch. `namespace` is where that is, None for the test's own."""

    name: str
    folder: Path
    namespace: str | None

    @property
    def database(self) -> str:
        return f"unix:{self.folder}/db.sock"

    @property
    def inside(self) -> tuple[str, ...]:
        """What tells `ip` where the machine is."""
        return ("-n", self.namespace) if self.namespace else ()

    def ask(self, *command: str) -> str:
        """What ovs-vsctl says."""
        return run("ovs-vsctl", f"--db={self.database}", "--timeout=10", *command)

    def appctl(self, *command: str) -> str:
        """What the switch says."""
        return run("ovs-appctl", "-T", "10", "-t", f"{self.folder}/ovs-vswitchd.ctl", *command)


class Machines:
    """A running OVN."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.name = f"t{secrets.token_hex(3)}"  # what is in the host's own namespace begins with it
        self.tunnel = f"{self.name}-link"
        self._stack = stack
        for name in ("northbound", "southbound"):
            self._serve(folder, name, name)
        self._start(folder, "ovn-northd", f"--ovnnb-db={self.northbound}", f"--ovnsb-db={self.southbound}",
                    f"--unixctl={folder}/ovn-northd.ctl")  # fmt: skip

    @property
    def northbound(self) -> str:
        return f"unix:{self.folder}/northbound.sock"

    @property
    def southbound(self) -> str:
        return f"unix:{self.folder}/southbound.sock"

    def nbctl(self, *command: str) -> str:
        return run("ovn-nbctl", f"--db={self.northbound}", "--no-leader-only", "--timeout=10", *command)

    def chassis(self, name: str, address: str, namespace: str | None = None) -> Chassis:
        """One more machine, whose tunnels begin at that address. Only this host is in the external network."""
        folder = self.folder / name
        folder.mkdir()
        inner, outer = f"{name}-int", f"{name}-ext"
        one = Chassis(name, folder, namespace)
        self._serve(folder, "switch", "db")
        one.ask("--no-wait", "init")
        one.ask("--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true", *(
            f"external_ids:{key}={value}" for key, value in {
                "system-id": name, "hostname": name, "ovn-remote": f'"{self.southbound}"',
                "ovn-encap-type": "geneve", "ovn-encap-ip": address, "ovn-bridge": inner,
                "ovn-bridge-datapath-type": "netdev", "ovn-monitor-all": "true",
                **({} if namespace else {"ovn-bridge-mappings": f"public:{outer}"}),
            }.items()))  # fmt: skip
        self._start(folder, "ovs-vswitchd", "--disable-system", f"--unixctl={folder}/ovs-vswitchd.ctl", one.database,
                    namespace=namespace, leave=lambda: one.appctl("exit", "--cleanup"))  # fmt: skip
        for bridge in (inner, outer):
            one.ask("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev")
        with kernel.entered(kernel.file_of(namespace) if namespace else kernel.HOST):
            kernel.setting(f"ipv6/conf/{outer}/disable_ipv6", "1")
            run("ip", "link", "set", outer, "up")
        one.ask("set", "bridge", inner, "fail_mode=secure", "other_config:disable-in-band=true")
        self._start(folder, "ovn-controller", one.database, namespace=namespace)
        return one

    def join(self, one: Chassis, link: str, address: str) -> None:
        """Have the machine's tunnels go over a link. In user space they need a bridge of their own."""
        bridge = f"{one.name}-tun"
        one.ask("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev",
                "--", "add-port", bridge, link)  # fmt: skip
        for command in (f"link set {link} up", f"addr add {address}/24 dev {bridge}", f"link set {bridge} up"):
            run("ip", *one.inside, *command.split())

    def second(self, first: Chassis) -> Chassis:
        """Another machine beside the first: a namespace, a link, and geneve between 198.19.0.1 and 198.19.0.2."""
        name = f"{self.name}-2"
        run("ip", "netns", "add", name)
        self._stack.callback(run, "ip", "netns", "delete", name)
        run("ip", "link", "add", self.tunnel, "type", "veth", "peer", "name", self.tunnel, "netns", name)
        kernel.nft(guard(f"netdev {self.name}", self.tunnel))
        self._stack.callback(kernel.nft, f"delete table netdev {self.name}\n")
        self.join(first, self.tunnel, "198.19.0.1")
        made = self.chassis(name, "198.19.0.2", name)
        self.join(made, self.tunnel, "198.19.0.2")
        return made

    def _serve(self, folder: Path, schema: str, name: str) -> None:
        run("ovsdb-tool", "create", f"{folder}/{name}.db", SCHEMAS[schema])
        self._start(folder, "ovsdb-server", f"--remote=punix:{folder}/{name}.sock", f"--unixctl={folder}/{name}.ctl",
                    f"{folder}/{name}.db", called=name)  # fmt: skip
        wait(lambda: (folder / f"{name}.sock").exists())

    def _start(self, folder: Path, program: str, *arguments: str, called: str = "", namespace: str | None = None,
               leave: Callable[[], object] | None = None) -> None:  # fmt: skip
        """Run it until the end. `leave` asks it to go and take along what it made, which a signal does not."""
        command = [program, *QUIET, f"--log-file={folder}/{called or program}.log", *arguments]
        if namespace:
            command = ["ip", "netns", "exec", namespace, *command]  # which becomes the program
        rundir = {"OVS_RUNDIR": str(folder), "OVN_RUNDIR": str(folder), "OVS_LOGDIR": str(folder)}
        process = subprocess.Popen(command, env=os.environ | rundir, stdin=subprocess.DEVNULL)
        self._stack.callback(end, process, leave)


def end(process: "subprocess.Popen[bytes]", leave: Callable[[], object] | None) -> None:
    try:
        (leave or process.terminate)()
        process.wait(PATIENCE)
    finally:
        process.kill()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def wait(reached: Callable[[], object]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


@contextmanager
def machines(folder: Path) -> Iterator[tuple[Machines, Chassis]]:
    """OVN, and this machine in it."""
    with ExitStack() as stack:
        made = Machines(folder, stack)
        here = made.chassis(f"{made.name}-1", "198.19.0.1")
        yield made, here
