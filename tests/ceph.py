"""A Ceph for tests: one monitor and one store in memory, on loopback, with a pool named rbd. Ready in seconds."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

PATIENCE = 60.0
BYTES = 8 * 2**30  # that it has room for; memory is taken as they are written
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
PROGRAMS = ("ceph-mon", "ceph-osd", "monmaptool", "ceph", "rbd")
CONFIG = """[global]
fsid = {id}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
keyring = /dev/null
run dir = {folder}
crash dir = {folder}
admin socket = {folder}/$name.$pid.socket
pid file = {folder}/$name.pid
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
mon data = {folder}/mon
mon data avail crit = 1
mon allow pool size one = true
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = {bytes}
osd pool default size = 1
osd crush chooseleaf type = 0
"""


class Ceph:
    """Started once made."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="thecloud-ceph-"))  # short: a socket's path has 108 characters at most
        self.config = self.folder / "ceph.conf"
        cluster, store = uuid4(), uuid4()
        monitor = f"[v2:127.0.0.1:{port()},v1:127.0.0.1:{port()}]"  # the kernel speaks v1
        self.config.write_text(CONFIG.format(id=cluster, monitor=monitor, folder=self.folder, bytes=BYTES))
        for folder in ("mon", "osd"):
            (self.folder / folder).mkdir()
        self._daemons: list[subprocess.Popen[bytes]] = []
        monitors = str(self.folder / "monitors")
        self._run("monmaptool", "--create", "--fsid", str(cluster), "--addv", "a", monitor, monitors)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monitors)
        self._start("ceph-mon", "-i", "a")
        self._run("ceph", "osd", "new", str(store))
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", str(store))
        self._start("ceph-osd", "-i", "0")
        self._run("ceph", "osd", "pool", "create", "rbd", "8")
        self._run("rbd", "pool", "init", "rbd")  # answers once the store does

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
        shutil.rmtree(self.folder)

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.printed").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    [*self._configured(command), "-f"], stdout=log, stderr=log, env=os.environ | {"PATH": PATH}
                )
            )

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            self._configured(command), capture_output=True, text=True, timeout=PATIENCE, env=os.environ | {"PATH": PATH}
        )
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"

    def _configured(self, command: tuple[str, ...]) -> list[str]:
        return [*command] if command[0] == "monmaptool" else [command[0], "--conf", str(self.config), *command[1:]]


def port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
