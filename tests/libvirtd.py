"""A libvirtd for tests, with its own configuration, state and machines: the host's is left alone.

libvirt's folders are compiled in, so it and its virtlogd run in a mount namespace where those are others.
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import libvirt

from drivers.contracts import InstanceSpec
from drivers.libvirt import LibvirtCompute
from drivers.libvirt_engine import run_events
from server.engines import QEMU_SETTINGS
from tests.drivers.contract import until

PATIENCE = 20.0
BOOT = 90.0  # seconds for the guest to be ready: ten, on a machine that does nothing else
FOLDERS = ("etc/libvirt", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt", "run/libvirt")
# Of several libvirtds that look for a free port for a screen at once, two may find the same: each begins elsewhere.
SCREENS = 5900 + os.getpid() % 90
SOCKETS = 'auth_unix_rw = "none"\nunix_sock_group = "root"\n'


class Libvirtd:
    """Started once made; `kill` and `start` as often as wanted."""

    def __init__(self) -> None:
        run_events()
        self.folder = Path(mkdtemp(prefix="thecloud-libvirtd-"))  # short: a socket's path has 108 characters at most
        self.folder.chmod(0o755)
        for folder in FOLDERS:
            (self.folder / folder).mkdir(parents=True)
            Path("/", folder).mkdir(parents=True, exist_ok=True)
        (self.folder / "etc/libvirt/qemu.conf").write_text(f"{QEMU_SETTINGS}remote_display_port_min = {SCREENS}\n")
        (self.folder / "etc/libvirt/libvirtd.conf").write_text(SOCKETS)
        self.uri = f"qemu+unix:///system?socket={self.folder}/run/libvirt/libvirt-sock"
        self._logger = self._run("virtlogd")
        self._daemon: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._daemon = self._run("libvirtd")
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "libvirtd.log").read_text()[-2000:]
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash would. Machines run on."""
        assert self._daemon
        self._daemon.send_signal(signal.SIGKILL)
        self._daemon.wait()

    def clear(self) -> None:
        """Have no machine left."""
        connection = libvirt.open(self.uri)
        for domain in connection.listAllDomains():
            with suppress(libvirt.libvirtError):
                domain.destroy()
            domain.undefine()
        connection.close()

    def close(self) -> None:
        self.clear()
        self.kill()
        self._logger.kill()
        self._logger.wait()
        shutil.rmtree(self.folder)

    def _run(self, program: str) -> subprocess.Popen[bytes]:
        mounts = "".join(f"mount --bind {self.folder}/{folder} /{folder} && " for folder in FOLDERS)
        command = f"{mounts}exec {program} -p {self.folder}/{program}.pid"
        environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        with (self.folder / f"{program}.log").open("ab") as log:
            return subprocess.Popen(["unshare", "--mount", "sh", "-c", command], stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log, env=environment)  # fmt: skip

    def _answers(self) -> bool:
        try:
            libvirt.open(self.uri).close()
        except libvirt.libvirtError:
            return False
        return True


async def printed(driver: LibvirtCompute, spec: InstanceSpec, wanted: bytes, times: int = 1) -> bytes:
    """All that the console has printed, once these words are in it so many times."""

    async def there() -> bool:
        return (await driver.logs(spec.id, 1000)).count(wanted) >= times

    await until(there, seconds=BOOT)
    return await driver.logs(spec.id, 1000)
