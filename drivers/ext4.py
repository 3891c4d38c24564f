"""The file systems of volumes: ext4 on a disk, be that a file or a block device."""

import subprocess
from contextlib import suppress
from pathlib import Path

PATIENCE = 600.0  # seconds of one command: copies take long
OPTIONS = "nodev,nosuid"


def make(disk: str) -> None:
    """An empty file system, as large as the disk, which is all zeros."""
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "assume_storage_prezeroed=1,nodiscard", disk)
    run("debugfs", "-w", "-R", "set_inode_field / mode 040777", disk)  # whoever the container's user is


def grow(disk: str) -> None:
    """Have the file system as large as the disk. It is not mounted."""
    checked = run("e2fsck", "-f", "-p", disk, fine=(0, 1))  # 1: something was mended
    run("resize2fs", disk, said=checked)


def mount(disk: str, folder: Path, *, options: str = OPTIONS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run("mount", "-o", options, disk, str(folder))
    with suppress(OSError):
        (folder / "lost+found").rmdir()  # programs take an empty folder for their data, and no other


def unmount(folder: Path) -> None:
    """Have it mounted no longer, and the folder gone. Not mounted is success."""
    while device(folder):
        run("umount", str(folder))
    if folder.exists():
        folder.rmdir()


def device(folder: Path) -> str | None:
    """The device that is mounted there."""
    there = str(folder.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        parts = line.split()
        if parts[4] == there:
            return parts[parts.index("-") + 2]
    return None


def run(*command: str, fine: tuple[int, ...] = (0,), said: str = "") -> str:
    """What the command prints. Raises RuntimeError with that, and what was said before, when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode not in fine:
        said += done.stdout + done.stderr
        raise RuntimeError(f"{' '.join(command)}: {said.strip()[-500:]}")
    return done.stdout
