"""A tiny guest for virtual machines, made of Debian's kernel and busybox: a disk that boots by itself in seconds.

It is to a virtual machine what the busybox image is to a container. It takes its name and its address
from a NoCloud seed, runs the user data when that is a script, serves a page on port 80, mounts every
further disk (one without a file system gets one) and shows it under /disks, and where the seed's vendor
data want it, leaves a shell on the serial
console and powers off when the power button is pressed. `GUEST_READY` on the console says that it is up.
"""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from server.images import BuildFailed, run

KERNEL = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_balloon", "virtio_rng", "isofs", "button", "evdev")
SIZE_MB = 32  # of the disk: the kernel and 2 MB of everything else
FOLDERS = (
    "bin", "sbin", "proc", "sys", "dev", "tmp", "etc/acpi/PWRF", "seed", "disks", "modules", "var/log", "var/run", "www"
)  # fmt: skip

INIT = r"""#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read module; do insmod /modules/$module; done < /modules/order
ip link set lo up
for disk in /dev/vd?; do
  mount -o ro -t iso9660 $disk /seed 2>/dev/null || continue
  [ -e /seed/meta-data ] && { echo "SEED $disk"; break; }
  umount /seed
done
of_seed() { sed -n "s/$2/\1/p" /seed/$1 2>/dev/null | head -n 1; }
name=$(of_seed meta-data '^local-hostname: *"*\([^"]*\)"*$')
hostname "${name:-guest}"
address=$(of_seed network-config '.*addresses: \["\([0-9./]*\)".*')
gateway=$(of_seed network-config '.*via: "\([0-9.]*\)".*')
resolver=$(of_seed network-config '.*nameservers:.*addresses: \["\([0-9.]*\)".*')
for link in $(ls /sys/class/net | grep -v '^lo$'); do
  ip link set $link up
  [ -n "$address" ] || continue
  ip addr add $address dev $link
  [ -n "$gateway" ] && ip route add default via $gateway
done
[ -n "$resolver" ] && echo "nameserver $resolver" > /etc/resolv.conf
for disk in /dev/vd?; do ACTION=add SUBSYSTEM=block DEVNAME=${disk#/dev/} /sbin/changed; done
uevent /sbin/changed &
acpid
echo "hello from $(hostname)" > /www/index.html
ln -s /disks /www/disks
head -c 2 /seed/user-data 2>/dev/null | grep -q '^#!' && { cp /seed/user-data /tmp/user-data; sh /tmp/user-data; }
httpd -p 80 -h /www
echo "GUEST_READY $(hostname) $address uptime=$(cut -d' ' -f1 /proc/uptime)" \
  "cpus=$(grep -c ^processor /proc/cpuinfo) kib=$(sed -n 's/MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)"
while :; do setsid cttyhack /bin/sh -l; sleep 1; done
"""

CHANGED = r"""#!/bin/sh
# What came or went, by the kernel's word.
case "$ACTION $SUBSYSTEM" in
"add cpu") echo 1 > /sys$DEVPATH/online ;;
"add block")
  [ -e /disks/$DEVNAME ] || grep -q "^/dev/$DEVNAME " /proc/mounts && exit
  [ "$(cat /sys/block/$DEVNAME/ro)" = 1 ] && only=-oro || only=
  [ -n "$(head -c 4096 /dev/$DEVNAME | tr -d '\0')" ] || [ -n "$only" ] || mke2fs /dev/$DEVNAME >/dev/null 2>&1
  mkdir /disks/$DEVNAME
  if mount $only -t ext4 /dev/$DEVNAME /disks/$DEVNAME 2>/dev/null; then
    serial=$(cat /sys/block/$DEVNAME/serial)
    path=$(sed -n "s|^- \[\"/dev/disk/by-id/virtio-$serial\", \"\([^\"]*\)\".*|\1|p" /seed/vendor-data 2>/dev/null)
    [ -n "$path" ] && mkdir -p "$path" && mount --bind /disks/$DEVNAME "$path"
    echo "DISK $DEVNAME $(cat /sys/block/$DEVNAME/serial) $(cat /sys/block/$DEVNAME/size)" > /dev/console
  else
    rmdir /disks/$DEVNAME
  fi ;;
"remove block")
  for path in $(sed -n "s|^/dev/$DEVNAME \(/[^ ]*\) .*|\1|p" /proc/mounts); do umount -l $path; done
  [ -d /disks/$DEVNAME ] && rmdir /disks/$DEVNAME && echo "DISK_GONE $DEVNAME" > /dev/console ;;
esac
"""

POWER_BUTTON = """#!/bin/sh
echo SHUTDOWN > /dev/console
sync
poweroff -f
"""

BOOT = "DEFAULT guest\nPROMPT 0\nLABEL guest\n KERNEL vmlinuz\n INITRD initrd\n APPEND console=ttyS0 quiet\n"


async def build(target: Path, *, rebuild: bool = False, say: Callable[[str], None]) -> Path:
    """Have the image there, as qcow2. One that is there is left alone, unless asked to rebuild. Raises BuildFailed."""
    if target.exists() and not rebuild:
        say(f"guest: {target} is there")
        return target
    say(f"guest: building {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".guest-") as name:
        folder = Path(name)
        await _unpack(folder, "busybox-static", "busybox")
        await _unpack(folder, await _kernel(folder), "kernel")
        [version] = os.listdir(folder / "kernel/lib/modules")
        await run("depmod", "-b", "kernel", version, folder=folder)
        tree = await _tree(folder, version)
        (folder / "initrd").write_bytes(gzip.compress(b"".join(archive(tree)), mtime=0))
        (folder / "syslinux.cfg").write_text(BOOT)
        disk = folder / "disk.raw"
        with disk.open("wb") as file:
            file.truncate(SIZE_MB * 2**20)
        await run("mformat", "-i", "disk.raw", "-T", str(SIZE_MB * 2048), "-h", "64", "-s", "32", "::", folder=folder)
        await run("syslinux", "--install", "disk.raw", folder=folder)
        for source, name in (
            (f"kernel/boot/vmlinuz-{version}", "vmlinuz"), ("initrd", "initrd"), ("syslinux.cfg", "syslinux.cfg")
        ):  # fmt: skip
            await run("mcopy", "-i", "disk.raw", source, f"::{name}", folder=folder)
        await run("qemu-img", "convert", "-c", "-O", "qcow2", "disk.raw", "disk.qcow2", folder=folder)
        (folder / "disk.qcow2").replace(target)
    say("guest: done")
    return target


async def _kernel(folder: Path) -> str:
    """The package with the kernel that Debian has for clouds now."""
    listed = (await run("apt-cache", "depends", KERNEL, folder=folder)).decode().split()
    found = [word for word in listed if word.startswith("linux-image-") and word != KERNEL]
    if not found:
        raise BuildFailed(f"apt knows no {KERNEL}; is `apt-get update` up to date?")
    return found[0]


async def _unpack(folder: Path, package: str, into: str) -> None:
    """What is in a package, which is not installed."""
    await run("apt-get", "download", package, folder=folder)
    [file] = folder.glob(f"{package}_*.deb")
    await run("dpkg-deb", "-x", file.name, into, folder=folder)
    file.unlink()


async def _tree(folder: Path, version: str) -> dict[str, tuple[int, bytes]]:
    """Every path of the initial file system, with its mode and content (of a link: where it leads)."""
    busybox = folder / "busybox/bin/busybox"
    tree = dict.fromkeys((str(parent) for name in FOLDERS for parent in reversed(Path(name).parents)), (0o40755, b""))
    tree |= dict.fromkeys(FOLDERS, (0o40755, b""))
    del tree["."]
    tree["bin/busybox"] = (0o100755, busybox.read_bytes())
    for applet in (await run(str(busybox), "--list", folder=folder)).decode().split():
        tree.setdefault(f"bin/{applet}", (0o120777, b"busybox"))
    order = []
    for module in MODULES:
        command = ("modprobe", "-d", str(folder / "kernel"), "-S", version, "--show-depends", module)
        for line in (await run(*command, folder=folder)).decode().splitlines():
            if line.startswith("insmod "):  # the rest is built into the kernel
                file = Path(line.split()[1])
                if file.name not in order:
                    order.append(file.name)
                    tree[f"modules/{file.name}"] = (0o100644, file.read_bytes())
    tree["modules/order"] = (0o100644, "".join(f"{name}\n" for name in order).encode())
    tree["etc/passwd"] = (0o100644, b"root:x:0:0:root:/:/bin/sh\n")
    tree["init"] = (0o100755, INIT.encode())
    tree["sbin/changed"] = (0o100755, CHANGED.encode())
    tree["etc/acpi/PWRF/00000080"] = (0o100755, POWER_BUTTON.encode())
    return tree


def archive(tree: dict[str, tuple[int, bytes]]) -> Iterator[bytes]:
    """The tree as the kernel unpacks it: cpio, "newc" (Documentation/driver-api/early-userspace/buffer-format)."""
    for number, (path, (mode, content)) in enumerate({**tree, "TRAILER!!!": (0, b"")}.items(), start=1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        yield head + bytes(-len(head) % 4)
        yield content + bytes(-len(content) % 4)
