"""The libvirt driver against a libvirtd and QEMU of the test's own, with machines that boot.

Most tests run a machine whose whole program is one sector (drivers/libvirt_probe.py): it sends back what it
receives and heeds the power button, and boots in a second. What needs an operating system runs the tiny guest.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import libvirt
import pytest

from drivers import libvirt_files, libvirt_logs, libvirt_probe
from drivers.contracts import (
    BootDisk,
    InstanceSpec,
    LogBatch,
    PortBinding,
    Power,
    Refused,
    Seed,
    SupportsEvents,
    Volume,
)
from drivers.libvirt import LibvirtCompute
from drivers.libvirt_engine import LibvirtLost
from tests.drivers.contract import ComputeContract, read_until, settled, until
from tests.engines import require
from tests.libvirtd import Libvirtd, printed

MIB = 2**20


@pytest.fixture
def echo(tmp_path: Path) -> BootDisk:
    """The image of one sector."""
    path = tmp_path / "echo.img"
    path.write_bytes(libvirt_probe.SECTOR.ljust(MIB, b"\0"))
    return BootDisk(path=str(path), format="raw", size_gb=1)


def domains(libvirtd: Libvirtd) -> list[str]:
    connection = libvirt.open(libvirtd.uri)
    try:
        return [domain.name() for domain in connection.listAllDomains()]
    finally:
        connection.close()


class TestLibvirtCompute(ComputeContract):
    IMAGE = "echo"
    CANNOT = frozenset({"commands", "ports", "addresses", "traffic"})

    @pytest.fixture
    def driver(self, virtual: LibvirtCompute) -> LibvirtCompute:
        return virtual

    @pytest.fixture
    async def spec(self, driver: LibvirtCompute, echo: BootDisk) -> AsyncIterator[InstanceSpec]:
        spec = InstanceSpec(
            id=uuid4(), tenant_id=uuid4(), name="web-01", image=self.IMAGE, vcpus=0.5, memory_mb=64, disk=echo
        )
        yield spec
        await driver.delete(spec.id)

    @pytest.fixture
    def guest(self, spec: InstanceSpec, tiny: BootDisk) -> InstanceSpec:
        return replace(spec, memory_mb=192, disk=tiny)

    def of_no_image(self, spec: InstanceSpec) -> InstanceSpec:
        return replace(spec, disk=BootDisk(path="/nowhere/no-such-image", format="qcow2", size_gb=1))

    # Images of it

    @pytest.mark.parametrize("power", ["RUNNING", "PAUSED", "STOPPED"])
    async def test_an_image_taken_of_it_is_its_disk_as_it_was(
        self, driver: LibvirtCompute, guest: InstanceSpec, other: InstanceSpec, tmp_path: Path, power: Power
    ) -> None:
        await settled(driver, guest)
        await printed(driver, guest, b"GUEST_READY")
        terminal = await driver.console(guest.id)
        await terminal.write(b"\necho marked | dd of=/dev/vda bs=512 seek=100000; sync; echo do''ne\n")
        await read_until(terminal, b"done")
        await terminal.close()
        await settled(driver, replace(guest, power=power))
        taken, raw = tmp_path / "taken", tmp_path / "raw"
        taken.write_bytes(b"".join([piece async for piece in driver.snapshot(guest.id)]))
        assert not driver._files(guest.id).snapshot.exists()
        told = json.loads(libvirt_files.qemu_img("info", "--output=json", str(taken)))
        assert (told["format"], told["virtual-size"]) == ("qcow2", 2**30)
        assert "backing-filename" not in told
        libvirt_files.qemu_img("convert", "-O", "raw", str(taken), str(raw))
        with raw.open("rb") as disk:
            disk.seek(512 * 100000)
            assert disk.read(7) == b"marked\n"
        if power == "RUNNING":
            assert (await driver.observe(guest.id)).power == "RUNNING"  # type: ignore[union-attr]
            clone = replace(other, memory_mb=192, disk=BootDisk(path=str(taken), format="qcow2", size_gb=1))
            await settled(driver, clone)
            await printed(driver, clone, b"GUEST_READY web-02")

    async def test_an_image_cut_off_is_begun_anew(self, driver: LibvirtCompute, spec: InstanceSpec) -> None:
        await settled(driver, spec)
        cut = driver.snapshot(spec.id)
        taking = asyncio.create_task(anext(cut))
        await asyncio.sleep(0.05)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await cut.aclose()
        assert [piece async for piece in driver.snapshot(spec.id)]
        assert (await driver.observe(spec.id)).power == "RUNNING"  # type: ignore[union-attr]

    # Disks of it

    async def test_a_guest_that_was_asked_for_a_disk_as_it_booted_is_asked_again(
        self, driver: LibvirtCompute, guest: InstanceSpec, tmp_path: Path
    ) -> None:
        volume = self.volume(tmp_path, "vdb")
        await settled(driver, replace(guest, volumes=(volume,)))
        with pytest.raises(TimeoutError, match=str(volume.id)):
            await driver.detach_volume(guest.id, volume.id)
        await printed(driver, guest, b"GUEST_READY")

        async def let_go() -> bool:
            with suppress(TimeoutError):
                await driver.detach_volume(guest.id, volume.id)
                return True
            return False

        await until(let_go, 60)
        await printed(driver, guest, b"DISK_GONE")

    async def test_a_guest_that_was_paused_goes_on_and_lets_go(
        self, driver: LibvirtCompute, guest: InstanceSpec, tmp_path: Path
    ) -> None:
        given = replace(guest, volumes=(self.volume(tmp_path, "vdb"),))
        await settled(driver, given)
        await printed(driver, guest, b"GUEST_READY")
        await settled(driver, replace(given, power="PAUSED"))
        assert (await driver.apply(guest)).power == "RUNNING"
        await printed(driver, guest, b"DISK_GONE")

    # What the machine is

    async def test_it_is_named_and_tagged_after_the_instance_and_in_its_own_folder(
        self, driver: LibvirtCompute, libvirtd: Libvirtd, spec: InstanceSpec
    ) -> None:
        seen = await settled(driver, replace(spec, name="<&'\">", power="STOPPED"))
        assert seen.backend_id in domains(libvirtd)
        assert seen.backend_id == f"{driver._prefix}{spec.id}"
        text = driver._find(spec.id).XMLDesc()
        assert f'cloud="{driver._cloud_id}" id="{spec.id}" tenant="{spec.tenant_id}"' in text
        files = {path.name for path in (driver._folder / str(spec.id)).iterdir()}
        assert files == {"disk.qcow2", "seed.iso"}

    async def test_delete_leaves_no_domain_file_or_process(
        self, driver: LibvirtCompute, libvirtd: Libvirtd, spec: InstanceSpec
    ) -> None:
        await settled(driver, spec)
        pid = next(libvirtd.folder.glob(f"run/libvirt/qemu/{driver._prefix}{spec.id}*.pid")).read_text()
        await driver.delete(spec.id)
        assert not domains(libvirtd)
        assert list(driver._folder.iterdir()) == []
        assert not list(libvirtd.folder.glob(f"*/**/*{spec.id}*.xml"))
        assert not Path("/proc", pid).exists()

    async def test_a_new_driver_finds_what_the_old_one_made_and_another_cloud_does_not(
        self, driver: LibvirtCompute, libvirtd: Libvirtd, spec: InstanceSpec
    ) -> None:
        seen = await settled(driver, spec)
        again = LibvirtCompute(driver._cloud_id, folder=driver._folder, uri=libvirtd.uri)
        stranger = LibvirtCompute("another", folder=driver._folder, uri=libvirtd.uri)
        assert await again.list() == {spec.id: seen}
        assert await again.apply(spec) == seen
        assert await stranger.list() == {}
        assert await stranger.observe(spec.id) is None
        await again.close()
        await stranger.close()

    @pytest.mark.parametrize("format", ["qcow2", "raw"])
    async def test_its_disk_has_the_size_asked_for_and_grows(
        self, driver: LibvirtCompute, spec: InstanceSpec, echo: BootDisk, format: str
    ) -> None:
        if format == "qcow2":
            libvirt_files.qemu_img("convert", "-O", "qcow2", echo.path, f"{echo.path}.qcow2")
            echo = replace(echo, path=f"{echo.path}.qcow2", format="qcow2")

        def size() -> int:
            capacity: int = driver._find(spec.id).blockInfo("vda")[0]
            return capacity

        stopped = replace(spec, power="STOPPED", disk=echo)
        await settled(driver, stopped)
        assert size() == 2**30
        await driver.apply(replace(stopped, disk=replace(echo, size_gb=2)))
        assert size() == 2 * 2**30
        await driver.apply(replace(spec, disk=replace(echo, size_gb=3)))
        assert size() == 3 * 2**30
        await driver.apply(replace(spec, disk=replace(echo, size_gb=4)))
        assert size() == 4 * 2**30
        await driver.apply(replace(spec, disk=echo))
        assert size() == 4 * 2**30

    async def test_processors_are_added_while_it_runs(self, driver: LibvirtCompute, spec: InstanceSpec) -> None:
        await settled(driver, replace(spec, vcpus=1))
        ran = driver._find(spec.id).ID()
        await driver.apply(replace(spec, vcpus=2))
        assert driver._find(spec.id).ID() == ran
        assert driver._find(spec.id).vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE) == 2
        await driver.apply(replace(spec, vcpus=1))  # taking one away needs a restart
        assert driver._find(spec.id).ID() != ran
        assert driver._find(spec.id).vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE) == 1

    # What can never work

    async def test_an_image_that_is_not_what_it_is_said_to_be_is_refused(
        self, driver: LibvirtCompute, spec: InstanceSpec, echo: BootDisk, tmp_path: Path
    ) -> None:
        assert "format qcow2" in await self.refused(driver, replace(spec, disk=replace(echo, format="qcow2")))
        assert "which a virtual machine starts from" in await self.refused(driver, replace(spec, disk=None))
        evil = tmp_path / "evil.qcow2"
        libvirt_files.qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", str(evil), "1G")
        leading = BootDisk(path=str(evil), format="qcow2", size_gb=1)
        assert "leads to another file" in await self.refused(driver, replace(spec, disk=leading))
        large = tmp_path / "large.qcow2"
        libvirt_files.qemu_img("create", "-q", "-f", "qcow2", str(large), "2T")
        disk = BootDisk(path=str(large), format="qcow2", size_gb=1)
        assert "2048 GiB" in await self.refused(driver, replace(spec, disk=disk))

    async def test_ports_of_the_host_without_a_vpc_are_refused(
        self, driver: LibvirtCompute, spec: InstanceSpec
    ) -> None:
        published = replace(spec, ports=(PortBinding(host=8080, container=80),))
        assert "only in a VPC" in await self.refused(driver, published)
        with pytest.raises(Refused):
            await driver.check(published)

    # Screen and events

    async def test_its_screen_answers_on_the_loopback_address_only(
        self, driver: LibvirtCompute, spec: InstanceSpec
    ) -> None:
        seen = await settled(driver, spec)
        assert seen.vnc_port
        reader, writer = await asyncio.open_connection("127.0.0.1", seen.vnc_port)
        assert (await reader.readexactly(12)).startswith(b"RFB 003.")
        writer.close()
        listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        assert re.findall(rf"(\w+):{seen.vnc_port:04X} \w+:0000 0A", listening) == ["0100007F"]
        assert (await driver.apply(replace(spec, power="STOPPED"))).vnc_port is None

    async def test_starts_and_ends_are_told(
        self, driver: LibvirtCompute, libvirtd: Libvirtd, spec: InstanceSpec
    ) -> None:
        assert isinstance(driver, SupportsEvents)
        told: list[UUID] = []
        started = asyncio.Event()

        async def listen() -> None:
            async for id in driver.events():
                told.append(id)
                started.set()

        listening = asyncio.create_task(listen())
        stranger = LibvirtCompute("another", folder=driver._folder, uri=libvirtd.uri, virt_type="qemu")
        other = replace(spec, id=uuid4())
        try:

            async def heard() -> bool:  # from when on it listens is not told: try until something is
                await driver.apply(replace(spec, power="STOPPED"))
                await driver.apply(spec)
                return bool(told)

            await until(heard)
            await settled(stranger, other)
            told.clear()
            await driver.delete(spec.id)

            async def ended() -> bool:
                return told == [spec.id]

            await until(ended)
        finally:
            await stranger.delete(other.id)
            await stranger.close()
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening

    # The console's log

    async def test_batches_go_on_after_the_log_was_put_aside(self, driver: LibvirtCompute, spec: InstanceSpec) -> None:
        await settled(driver, replace(spec, power="STOPPED"))
        log = driver._files(spec.id).console
        log.write_bytes(b"one\r\ntwo\r\nthr")
        batch = await driver.logs_since(spec.id, "", 3)
        assert ([line.text for line in batch.lines], batch.more) == ([b"one"], True)
        with log.open("ab") as file:
            file.write(b"ee\r\n" + b"x" * 40_000 + b"\r\nunfinished")
        log.rename(f"{log}.0")
        log.write_bytes(b"five\r\nsix")
        batch = await driver.logs_since(spec.id, batch.position, 2**20)
        found = [(line.text[:12], line.cut) for line in batch.lines]
        assert found == [
            (b"two", False),
            (b"three", False),
            (b"x" * 12, True),
            (b"unfinished", False),
            (b"five", False),
        ]
        assert await driver.logs_since(spec.id, batch.position, 2**20) == LogBatch((), batch.position)
        assert await driver.logs(spec.id, 2) == b"unfinishedfive\nsix"
        log.with_name("console.log.0").unlink()
        assert [line.text for line in (await driver.logs_since(spec.id, "1:5", 2**20)).lines] == [b"five"]

    # A guest with an operating system

    async def test_a_guest_has_its_seed_volumes_and_console(
        self, driver: LibvirtCompute, guest: InstanceSpec, tmp_path: Path
    ) -> None:
        script = "#!/bin/sh\necho from the user > /dev/console\n"
        guest = replace(guest, seed=Seed(hostname="my-guest", ssh_keys=("ssh-ed25519 AAAA me",), user_data=script))
        one, two = (self.volume(tmp_path, device) for device in ("vdc", "vdd"))
        guest = replace(guest, volumes=(one,))
        await settled(driver, guest)
        text = await printed(driver, guest, b"GUEST_READY")
        assert b"GUEST_READY my-guest " in text
        assert b"from the user" in text
        assert re.search(rf"DISK vd\w {one.id.hex[:20]} {32 * 2048}\n".encode(), text)
        stats = await driver.stats(guest.id)
        assert stats.disk_read_bytes
        assert 0 < stats.memory_usage_bytes < stats.memory_limit_bytes

        await driver.attach_volume(guest.id, two)
        await driver.attach_volume(guest.id, two)
        text = await printed(driver, guest, f" {two.id.hex[:20]} ".encode())
        [disk] = re.findall(rf"DISK (vd\w) {two.id.hex[:20]}", text.decode())
        terminal = await driver.console(guest.id)
        await terminal.write(f"echo kept > /disks/{disk}/note; cat /seed/meta-data; sync; echo d''one\n".encode())
        assert b'public-keys: ["ssh-ed25519 AAAA me"]' in await read_until(terminal, b"done")
        with socket.create_connection(("127.0.0.1", (await settled_port(driver, guest.id)))) as screen:
            assert screen.recv(12).startswith(b"RFB 003.")
        await driver.detach_volume(guest.id, two.id)
        await driver.detach_volume(guest.id, two.id)
        await printed(driver, guest, f"DISK_GONE {disk}".encode())
        # All of them are what the spec says: the first goes, and the second comes back, read-only.
        guest = replace(guest, volumes=(replace(two, device="vde", read_only=True),))
        await driver.apply(guest)
        await printed(driver, guest, f" {two.id.hex[:20]}".encode(), times=2)
        await terminal.write(b"cat /disks/vd*/note; touch /disks/vd?/more || echo read''only\n")
        assert b"kept" in await read_until(terminal, b"readonly")
        await terminal.close()

        await driver.apply(replace(guest, power="STOPPED"))
        assert b"SHUTDOWN" in await driver.logs(guest.id, 5)  # by its power button
        await driver.detach_volume(guest.id, two.id)
        assert b"<serial>" not in driver._find(guest.id).XMLDesc().encode()
        await driver.attach_volume(guest.id, one)
        assert one.id.hex[:20] in driver._find(guest.id).XMLDesc()

    async def test_five_kills_of_libvirtd_are_gone_through(
        self, driver: LibvirtCompute, libvirtd: Libvirtd, guest: InstanceSpec, spec: InstanceSpec, tmp_path: Path
    ) -> None:
        volume, other = self.volume(tmp_path, "vdc"), replace(spec, id=uuid4())
        await settled(driver, guest)
        await printed(driver, guest, b"GUEST_READY")
        ran = driver._find(guest.id).ID()
        try:
            for number in range(5):
                wanted = replace(guest, volumes=(volume,) if number % 2 == 0 else ())
                power = "PAUSED" if number % 2 else "RUNNING"
                work = asyncio.gather(
                    again(lambda: driver.apply(wanted)),  # noqa: B023 - done within the turn
                    again(lambda: driver.apply(replace(other, power=power))),  # type: ignore[arg-type] # noqa: B023
                )
                await asyncio.sleep(0.1 * number)
                libvirtd.kill()
                with pytest.raises(LibvirtLost):
                    await driver.capacity()
                await asyncio.to_thread(libvirtd.start)
                await work
                found = await driver.list()
                assert {id: seen.power for id, seen in found.items()} == {guest.id: "RUNNING", other.id: power}
                assert (volume.id.hex[:20] in driver._find(guest.id).XMLDesc()) == bool(wanted.volumes)
            assert driver._find(guest.id).ID() == ran  # it was never started anew
            terminal = await driver.console(guest.id)
            await terminal.write(b"echo still''here\n")
            await read_until(terminal, b"stillhere")
            await terminal.close()
        finally:
            await again(lambda: driver.delete(other.id))

    async def test_events_and_consoles_end_with_libvirtd(
        self, driver: LibvirtCompute, libvirtd: Libvirtd, spec: InstanceSpec
    ) -> None:
        async def listen() -> None:
            async for _ in driver.events():
                pass

        await settled(driver, spec)
        terminal = await driver.console(spec.id)
        listening = asyncio.create_task(listen())
        await terminal.write(b"\rhello\r")
        await read_until(terminal, b"hello")
        libvirtd.kill()
        try:
            async with asyncio.timeout(10):
                async for _ in terminal.output():
                    pass
                with pytest.raises(LibvirtLost):
                    await listening
        finally:
            await asyncio.to_thread(libvirtd.start)
        await terminal.close()
        assert (await driver.apply(spec)).power == "RUNNING"

    @staticmethod
    def volume(folder: Path, device: str) -> Volume:
        id = uuid4()
        libvirt_files.qemu_img("create", "-q", "-f", "qcow2", str(folder / f"{id}.qcow2"), "32M")
        return Volume(id=id, path=str(folder / f"{id}.qcow2"), format="qcow2", device=device)


async def settled_port(driver: LibvirtCompute, id: UUID) -> int:
    seen = await driver.observe(id)
    assert seen is not None
    assert seen.vnc_port
    return seen.vnc_port


async def again(work: Callable[[], Awaitable[object]]) -> None:
    """Until it succeeds, as a reconciler does it."""
    async with asyncio.timeout(60):
        while True:
            try:
                await work()
                return
            except (LibvirtLost, libvirt.libvirtError, TimeoutError, LookupError):
                await asyncio.sleep(0.2)


def test_what_virt_type_works_is_found_out_once(tmp_path: Path) -> None:
    require("libvirt")
    file = tmp_path / "virt-type"
    found = libvirt_probe.virt_type(file)
    assert libvirt_probe.runs(found)
    assert file.read_text() == f"{found}\n"
    file.write_text("kvm\n")  # is not found out again
    assert libvirt_probe.virt_type(file) == "kvm"


def test_a_machine_that_does_not_answer_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    require("libvirt")
    halted = bytes.fromhex("f4 ebfd")  # wait: hlt; jmp wait
    monkeypatch.setattr(libvirt_probe, "SECTOR", halted.ljust(510, b"\0") + b"\x55\xaa")
    assert not libvirt_probe.runs("qemu", patience=2)


def test_kept_logs_are_the_oldest_first(tmp_path: Path) -> None:
    for name in ("console.log", "console.log.0", "console.log.2", "console.log.10", "console.log.gz"):
        (tmp_path / name).touch()
    found = [path.name for path in libvirt_logs.kept(tmp_path / "console.log")]
    assert found == ["console.log.10", "console.log.2", "console.log.0", "console.log"]
