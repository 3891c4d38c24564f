"""A Ceph for tests: one monitor and one store, on loopback, with a pool named rbd. Ready in seconds.

The store is in memory, for benchmarks on the disk. With a gateway it is an S3 server too.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from urllib.request import urlopen
from uuid import uuid4

PATIENCE = 60.0
BYTES = 8 * 2**30  # that it has room for; memory, or the disk, is taken as they are written
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
PROGRAMS = ("ceph-mon", "ceph-osd", "monmaptool", "ceph", "rbd")
GATEWAY_PROGRAMS = ("radosgw", "radosgw-admin")
ACCESS_KEY, SECRET_KEY = "tests", "secret-of-tests"
CONFIG = """[global]
fsid = {cluster}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
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
osd pool default size = 1
osd pool default pg num = 4
osd crush chooseleaf type = 0
"""
IN_MEMORY = f"""osd objectstore = memstore
memstore device bytes = {BYTES}
"""
ON_DISK = f"""osd objectstore = bluestore
bluestore block create = true
bluestore block size = {BYTES}
bluestore fsck on mount = false
osd memory target = {2**30}
"""


@contextmanager
def running(*, on_disk: bool = False) -> Iterator[Path]:
    """Its configuration. All of it is gone at the end.

    `on_disk`: the store is a file in the folder for temporary files, which then has to be on a disk and no tmpfs, and a
    write is answered when it is there for good.
    """
    cluster, store = str(uuid4()), str(uuid4())
    monitor = f"[v2:127.0.0.1:{port()},v1:127.0.0.1:{port()}]"  # the kernel speaks v1
    with ExitStack() as stack:
        folder = Path(mkdtemp(prefix="thecloud-ceph-"))  # short: a socket's path has 108 characters at most
        stack.callback(shutil.rmtree, folder)
        config, monitors = folder / "ceph.conf", folder / "monitors"
        store_kind = ON_DISK if on_disk else IN_MEMORY
        config.write_text(CONFIG.format(cluster=cluster, monitor=monitor, folder=folder) + store_kind)
        for data in ("mon", "osd"):
            (folder / data).mkdir()
        run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", monitor, str(monitors))
        run("ceph-mon", "-i", "a", "--mkfs", "--monmap", str(monitors), "--conf", str(config))
        start(stack, "ceph-mon", "-i", "a", "--conf", str(config))
        run("ceph", "osd", "new", store, "--conf", str(config))
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store, "--conf", str(config))
        start(stack, "ceph-osd", "-i", "0", "--conf", str(config))
        run("ceph", "osd", "pool", "create", "rbd", "8", "--conf", str(config))
        run("rbd", "pool", "init", "rbd", "--conf", str(config))  # which waits for the store
        yield config


@contextmanager
def gateway(config: Path) -> Iterator[str]:
    """Its URL, while it runs, with a user whose keys are those above."""
    at = f"127.0.0.1:{port()}"
    name = ("--conf", str(config), "--name", "client.gateway")
    with ExitStack() as stack:
        frontend = f"beast endpoint={at} tcp_nodelay=1"
        start(stack, "radosgw", *name, "--rgw-data", str(config.parent), "--rgw-frontends", frontend)
        run("radosgw-admin", "user", "create", *name, "--uid", "tests", "--display-name", "tests",
            "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)  # fmt: skip
        give_up = time.monotonic() + PATIENCE
        while not answers(at):
            assert time.monotonic() < give_up, (config.parent / "client.gateway.log").read_text()[-2000:]
            time.sleep(0.1)
        yield f"http://{at}"


def answers(at: str) -> bool:
    try:
        with urlopen(f"http://{at}/", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def start(stack: ExitStack, *command: str) -> None:
    daemon = subprocess.Popen([*command, "-f"], stderr=subprocess.DEVNULL, env=os.environ | {"PATH": PATH})
    stack.callback(daemon.wait)
    stack.callback(daemon.kill)


def run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=os.environ | {"PATH": PATH}
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"


def port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
