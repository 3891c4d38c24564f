"""An instance as libvirt's domain XML, and what the XML of a domain tells (https://libvirt.org/formatdomain.html)."""

from dataclasses import dataclass
from math import ceil
from uuid import UUID
from xml.etree.ElementTree import Element, fromstring
from xml.sax.saxutils import quoteattr

from drivers.contracts import Attachment, InstanceSpec, Volume
from drivers.libvirt_files import Files, serial

SPARE_PORTS = 26  # where disks are plugged in while it runs, and what else may come: q35 cannot grow more later
VOLUME = "ua-volume-"  # libvirt keeps aliases that begin with "ua-"


@dataclass(frozen=True)
class Size:
    """Whole processors, and memory."""

    vcpus: int
    memory_mb: int

    @classmethod
    def of(cls, spec: InstanceSpec) -> "Size":
        """A part of a processor counts as one."""
        return cls(ceil(spec.vcpus), spec.memory_mb)


@dataclass(frozen=True)
class Live:
    """What the XML of a running domain tells."""

    size: Size
    volumes: frozenset[UUID]
    tap: str | None
    vnc_port: int | None


def tap(id: UUID) -> str:
    """The name of the host's end of the interface: of the id the last digits, since the first may be a moment."""
    return f"v-{id.hex[-13:]}"


def domain(spec: InstanceSpec, name: str, cloud_id: str, files: Files, virt_type: str, host_vcpus: int) -> str:
    """A persistent domain, with room for as many processors as the host has."""
    assert spec.disk
    size = Size.of(spec)
    tags = {"cloud": cloud_id, "id": str(spec.id), "tenant": str(spec.tenant_id), "name": spec.name}
    attributes = " ".join(f"{key}={quoteattr(value)}" for key, value in tags.items())
    return f"""<domain type='{virt_type}'>
  <name>{name}</name>
  <uuid>{spec.id}</uuid>
  <metadata><thecloud:instance xmlns:thecloud='urn:thecloud' {attributes}/></metadata>
  <memory unit='MiB'>{size.memory_mb}</memory>
  <vcpu current='{size.vcpus}'>{max(size.vcpus, host_vcpus)}</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/><apic/></features>
  <cpu mode='maximum'/>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>
  <devices>
    <controller type='pci' index='0' model='pcie-root'/>
    {"<controller type='pci' model='pcie-root-port'/>" * SPARE_PORTS}
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file={quoteattr(str(files.disk))}/>
      <backingStore type='file'>
        <format type='{spec.disk.format}'/><source file={quoteattr(spec.disk.path)}/><backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <boot order='1'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file={quoteattr(str(files.seed))}/>
      <target dev='vdz' bus='virtio'/>
      <readonly/>
    </disk>
    {"".join(map(disk, spec.volumes))}
    {interface(spec.id, spec.attachment) if spec.attachment else ""}
    <serial type='pty'><log file={quoteattr(str(files.console))} append='on'/><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <graphics type='vnc' port='-1' autoport='yes'><listen type='address' address='127.0.0.1'/></graphics>
    <video><model type='vga' vram='16384'/></video>
    <memballoon model='virtio'><stats period='5'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>"""


def disk(volume: Volume) -> str:
    kind, source = ("block", "dev") if volume.path.startswith("/dev/") else ("file", "file")
    return f"""<disk type='{kind}' device='disk'>
  <driver name='qemu' type='{volume.format}' discard='unmap'/>
  <source {source}={quoteattr(volume.path)}/>
  <target dev={quoteattr(volume.device)} bus='virtio'/>
  {"<readonly/>" if volume.read_only else ""}
  <serial>{serial(volume.id)}</serial>
  <alias name='{VOLUME}{volume.id}'/>
</disk>"""


def interface(id: UUID, attachment: Attachment) -> str:
    """A link of which the host's end is a tap that libvirt makes at each start, and nothing else touches."""
    if attachment.mac is None:
        raise ValueError("a virtual machine in a VPC has to be told its MAC")
    mtu = f"<mtu size='{attachment.wire.mtu}'/>" if attachment.wire.mtu else ""  # the guest hears of it too
    offloads = "" if attachment.wire.offloads else "<driver><host csum='off'/></driver>"  # nor is it told to cut then
    return f"""<interface type='ethernet'>
  <mac address='{attachment.mac}'/>
  <target dev='{tap(id)}'/>
  <model type='virtio'/>{offloads}
  <rom enabled='no'/>{mtu}
</interface>"""


def size(tree: Element) -> Size:
    vcpu = tree.find("vcpu")
    assert vcpu is not None
    return Size(int(vcpu.get("current") or vcpu.text or 0), int(tree.findtext("memory", "0")) // 1024)


def volumes(tree: Element) -> dict[UUID, Element]:
    """The volumes among its disks."""
    found = {}
    for one in tree.iterfind("devices/disk"):
        alias = one.find("alias")
        name = alias.get("name", "") if alias is not None else ""
        if name.startswith(VOLUME):
            found[UUID(name.removeprefix(VOLUME))] = one
    return found


def disks(text: str) -> list[str]:
    """The names of a domain's disks."""
    targets = fromstring(text).iterfind("devices/disk/target")  # noqa: S314 - libvirtd's own
    return [target.get("dev", "") for target in targets]


def read(text: str) -> Live:
    tree = fromstring(text)  # noqa: S314 - libvirtd's own
    target, screen = tree.find("devices/interface/target"), tree.find("devices/graphics")
    port = int(screen.get("port", "-1")) if screen is not None else -1
    return Live(
        size(tree),
        frozenset(volumes(tree)),
        target.get("dev") if target is not None else None,
        port if port > 0 else None,
    )
