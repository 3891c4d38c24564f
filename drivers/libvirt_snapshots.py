"""Copies of what is on a virtual machine's disk at a moment, while the machine runs on or not.

Of a machine that runs libvirt makes a backup (https://libvirt.org/formatbackup.html): what is overwritten
meanwhile is copied first. It is as if the power had failed at that moment.
"""

import time
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import libvirt

from drivers.libvirt_engine import forgiving, wrong_state
from drivers.libvirt_files import qemu_img
from drivers.libvirt_xml import disks

LONGEST = 3600.0  # seconds of one copy
ENDED = (libvirt.VIR_DOMAIN_JOB_COMPLETED, libvirt.VIR_DOMAIN_JOB_FAILED, libvirt.VIR_DOMAIN_JOB_CANCELLED)


def copy_disk(domain: Any, disk: Path, path: Path) -> None:
    """Have the machine's disk at `path`, as qcow2 that needs no other file."""
    path.unlink(missing_ok=True)
    if domain.isActive():
        _back_up(domain, path)
    else:
        qemu_img("convert", "-O", "qcow2", str(disk), str(path), patience=LONGEST)


def _back_up(domain: Any, path: Path) -> None:
    with forgiving(wrong_state):  # the job of a server that died, for a file that nobody waits for
        domain.abortJob()
    others = "".join(f"<disk name={quoteattr(name)} backup='no'/>" for name in disks(domain.XMLDesc()) if name != "vda")
    domain.backupBegin(
        f"""<domainbackup mode='push'><disks>
  <disk name='vda' backup='yes' type='file'><driver type='qcow2'/><target file={quoteattr(str(path))}/></disk>{others}
</disks></domainbackup>""",
        None,
    )
    deadline = time.monotonic() + LONGEST
    while domain.jobInfo()[0] not in (libvirt.VIR_DOMAIN_JOB_NONE, *ENDED):
        if time.monotonic() > deadline:
            domain.abortJob()
            raise TimeoutError("the copy of the disk takes too long")
        time.sleep(0.1)
    ended = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    if ended.get("type") != libvirt.VIR_DOMAIN_JOB_COMPLETED:
        raise RuntimeError(f"the copy of the disk failed: {ended.get('errmsg', 'libvirt does not say why')}")
