"""Whether this machine runs virtual machines with its processor's help, found out by running one.

/dev/kvm may be there and start machines that never execute an instruction (inside of some virtual machines),
so its existence says nothing. The probe boots a sector that sends back what it receives on its serial line.
"""

import os
import select
import subprocess
import time
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal, get_args

VirtType = Literal["kvm", "qemu"]

PATIENCE = 10.0  # seconds for the probe to answer: without help it takes one
WORD = b"\r"  # sent again and again: the firmware swallows the first

# What it does, at 0x7c00: enables the power button (bit 8 of PM1_EN, 0x602), then for ever: when the button was
# pressed (PM1_STS, 0x600) it powers off (PM1_CNT, 0x604); when a byte has come (LSR, 0x3fd) it sends it back
# (0x3f8); when neither, it waits for the next tick of the clock.
SECTOR = (
    bytes.fromhex(
        "fa 31c0 8ed8 8ed0 bc007c fb"  # cli; ax = ds = ss = 0; sp = 0x7c00; sti
        "ba0206 b80001 ef"  # out 0x602, 0x100
        "ba0006 ed f6c401 7512"  # loop: in 0x600; test ah, 1; jnz off
        "bafd03 ec a801 7407"  # in 0x3fd; test al, 1; jz wait
        "baf803 ec ee ebe8"  # in 0x3f8; out 0x3f8; jmp loop
        "f4 ebe5"  # wait: hlt; jmp loop
        "ba0406 b80020 ef f4"  # off: out 0x604, 0x2000; hlt
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)
DISK_BYTES = 2**20


def virt_type(remembered: Path) -> VirtType:
    """The better one that works, found out once: the file keeps it, and is removed to have it found out anew.

    It takes up to ten seconds for each that does not work. Raises RuntimeError when none does.
    """
    try:
        known = remembered.read_text().strip()
    except FileNotFoundError:
        known = ""
    for one in get_args(VirtType):
        if known == one or (not known and runs(one)):
            remembered.parent.mkdir(parents=True, exist_ok=True)
            new = remembered.with_suffix(".new")
            new.write_text(f"{one}\n")
            new.replace(remembered)
            found: VirtType = one
            return found
    raise RuntimeError("no virtual machine runs here: see what `qemu-system-x86_64 -machine q35` says")


def runs(one: VirtType, patience: float = PATIENCE) -> bool:
    """Whether the probe answers within so many seconds."""
    with NamedTemporaryFile(prefix="thecloud-probe-", suffix=".img") as disk:
        disk.write(SECTOR)
        disk.truncate(DISK_BYTES)
        disk.flush()
        command = [
            "qemu-system-x86_64", "-machine", "q35", "-accel", {"kvm": "kvm", "qemu": "tcg"}[one], "-cpu", "max",
            "-m", "64", "-nodefaults", "-display", "none", "-serial", "stdio",
            "-drive", f"file={disk.name},format=raw,if=virtio",
        ]  # fmt: skip
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            with subprocess.Popen(command, **pipes) as machine:  # type: ignore[call-overload]
                try:
                    return _answers(machine, patience)
                finally:
                    machine.kill()
        except FileNotFoundError:
            return False


def _answers(machine: "subprocess.Popen[bytes]", patience: float) -> bool:
    assert machine.stdin
    assert machine.stdout
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and machine.poll() is None:
        try:
            os.write(machine.stdin.fileno(), WORD)
        except BrokenPipeError:
            return False
        if select.select([machine.stdout], [], [], 0.2)[0]:
            return WORD in os.read(machine.stdout.fileno(), 1000)
    return False
