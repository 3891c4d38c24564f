"""What every driver must do: drivers/contracts.py as tests.

A driver's test subclasses the contract and gives it a `driver` fixture that no other test
shares. What the driver cannot do is named in its CANNOT, and only that is skipped.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import uuid4

import pytest

from drivers.contracts import (
    ComputeDriver,
    InstanceSeen,
    InstanceSpec,
    LogBatch,
    LogLine,
    PortBinding,
    Power,
    Refused,
    SupportsConsole,
    SupportsLogs,
    SupportsLogsSince,
    SupportsScreen,
    SupportsSnapshots,
    SupportsStats,
    SupportsVolumes,
    Terminal,
)

POWERS: tuple[Power, ...] = get_args(Power)


async def until(look: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(seconds):
        while not await look():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.05)


async def settled(driver: ComputeDriver, spec: InstanceSpec) -> InstanceSeen:
    """Applied, as often as it takes for the backend to get there."""
    async with asyncio.timeout(60):
        while True:
            seen = await driver.apply(spec)
            if seen.power is not None:
                return seen
            await asyncio.sleep(0.05)


async def read_until(terminal: Terminal, wanted: bytes, seconds: float = 10) -> bytes:
    """What the terminal prints, up to these words."""
    printed = b""
    async with asyncio.timeout(seconds):
        async for data in terminal.output():
            printed += data
            if wanted in printed:
                return printed
    raise AssertionError(f"the terminal ended after {printed!r}")


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ComputeContract:
    """CANNOT may name: pause, resize, commands, ports, addresses, traffic, stats, logs, logs since, console, screen,
    volumes (given while it runs), snapshots.

    What cannot do addresses gives an instance without a VPC no network, so that it has no ports either.
    """

    IMAGE: str
    CMD: tuple[str, ...] = ()  # one that ends at once when told to; empty: the image's own
    CANNOT: frozenset[str] = frozenset()

    @pytest.fixture
    async def spec(self, driver: ComputeDriver) -> AsyncIterator[InstanceSpec]:
        spec = InstanceSpec(
            id=uuid4(), tenant_id=uuid4(), name="web-01", image=self.IMAGE, vcpus=0.5, memory_mb=64, cmd=self.CMD
        )
        yield spec
        await driver.delete(spec.id)

    @pytest.fixture
    async def other(self, driver: ComputeDriver, spec: InstanceSpec) -> AsyncIterator[InstanceSpec]:
        other = replace(spec, id=uuid4(), tenant_id=uuid4(), name="web-02")
        yield other
        await driver.delete(other.id)

    def needs(self, *abilities: str) -> None:
        for ability in abilities:
            if ability in self.CANNOT:
                pytest.skip(f"{type(self).__name__[4:]} cannot: {ability}")

    def test_only_what_it_cannot_do_is_left_out(self, driver: ComputeDriver) -> None:
        assert isinstance(driver, SupportsStats) == ("stats" not in self.CANNOT)
        assert isinstance(driver, SupportsLogs) == ("logs" not in self.CANNOT)
        assert isinstance(driver, SupportsLogsSince) == ("logs since" not in self.CANNOT)
        assert isinstance(driver, SupportsConsole) == ("console" not in self.CANNOT)
        assert isinstance(driver, SupportsScreen) == ("screen" not in self.CANNOT)
        assert isinstance(driver, SupportsVolumes) == ("volumes" not in self.CANNOT)
        assert isinstance(driver, SupportsSnapshots) == ("snapshots" not in self.CANNOT)

    async def test_a_snapshot_is_a_file_and_the_instance_goes_on(
        self, driver: ComputeDriver, spec: InstanceSpec
    ) -> None:
        self.needs("snapshots")
        assert isinstance(driver, SupportsSnapshots)
        before = await settled(driver, spec)
        assert [piece async for piece in driver.snapshot(spec.id)]
        assert await driver.observe(spec.id) == before
        with pytest.raises(LookupError):
            assert [piece async for piece in driver.snapshot(uuid4())]

    async def test_a_screen_is_that_of_a_running_instance(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("screen")
        assert isinstance(driver, SupportsScreen)
        await settled(driver, spec)
        screen = await driver.screen(spec.id)
        assert await read_until(screen, b"\n") == b"RFB 003.008\n"
        await screen.close()
        with pytest.raises(LookupError):
            await driver.screen(uuid4())

    async def test_the_host_has_a_size(self, driver: ComputeDriver) -> None:
        capacity = await driver.capacity()
        assert capacity.vcpus >= 1
        assert capacity.memory_mb >= 64

    # Apply, observe, list

    async def test_apply_makes_what_observe_sees(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        assert await driver.observe(spec.id) is None
        seen = await settled(driver, spec)
        assert seen == await driver.observe(spec.id)
        assert seen.power == "RUNNING"
        assert bool(seen.private_ip) == ("addresses" not in self.CANNOT)
        assert seen.backend_id
        assert seen.exit_code is None

    async def test_apply_may_be_repeated(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        assert await settled(driver, spec) == await driver.apply(spec)

    async def test_list_tells_what_observe_tells_of_each(
        self, driver: ComputeDriver, spec: InstanceSpec, other: InstanceSpec
    ) -> None:
        assert await driver.list() == {}
        await settled(driver, spec)
        await settled(driver, replace(other, power="STOPPED"))
        assert await driver.list() == {id: await driver.observe(id) for id in (spec.id, other.id)}

    async def test_what_is_made_stopped_never_ran(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        seen = await settled(driver, replace(spec, power="STOPPED"))
        assert (seen.power, seen.exit_code, seen.private_ip) == ("STOPPED", None, None)

    async def test_two_instances_differ(self, driver: ComputeDriver, spec: InstanceSpec, other: InstanceSpec) -> None:
        one, two = await settled(driver, spec), await settled(driver, other)
        assert one.private_ip != two.private_ip or "addresses" in self.CANNOT
        assert one.backend_id != two.backend_id

    @pytest.mark.parametrize("before", POWERS)
    @pytest.mark.parametrize("after", POWERS)
    async def test_apply_gets_from_any_power_to_any(
        self, driver: ComputeDriver, spec: InstanceSpec, before: Power, after: Power
    ) -> None:
        if "PAUSED" in (before, after):
            self.needs("pause")
        first = await settled(driver, replace(spec, power=before))
        assert first.power == before
        seen = await driver.apply(replace(spec, power=after))
        assert seen.power == after
        assert seen == await driver.observe(spec.id)
        assert seen.backend_id == first.backend_id

    @pytest.mark.parametrize("power", POWERS)
    async def test_apply_grows_and_shrinks(self, driver: ComputeDriver, spec: InstanceSpec, power: Power) -> None:
        self.needs("resize", "stats", *(["pause"] if power == "PAUSED" else []))
        assert isinstance(driver, SupportsStats)
        first = await settled(driver, replace(spec, power=power))
        for memory_mb, vcpus in ((160, 0.9), (80, 0.25)):
            resized = replace(spec, power=power, memory_mb=memory_mb, vcpus=vcpus)
            seen = await driver.apply(resized)
            assert replace(seen, vnc_port=first.vnc_port) == first, "a restart may give it another port"
            if power == "STOPPED":
                assert (await driver.apply(replace(resized, power="RUNNING"))).power == "RUNNING"
            stats = await driver.stats(spec.id)
            assert stats.memory_limit_bytes == pytest.approx(memory_mb * 2**20, rel=0.1)
            assert 0 <= stats.memory_usage_bytes <= stats.memory_limit_bytes
            if power == "STOPPED":
                first = await driver.apply(resized)

    async def test_applies_at_once_make_one(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        await settled(driver, replace(spec, power="STOPPED"))  # the image is there
        await driver.delete(spec.id)
        seen = await asyncio.gather(*(driver.apply(spec) for _ in range(5)))
        assert {one.backend_id for one in seen} == {seen[0].backend_id}
        assert {one.power for one in seen} == {"RUNNING"}
        assert list(await driver.list()) == [spec.id]

    @pytest.mark.parametrize("seconds", [0, 0.005, 0.02, 0.05, 0.1, 0.3])
    async def test_an_apply_cut_off_is_finished_by_the_next(
        self, driver: ComputeDriver, spec: InstanceSpec, seconds: float
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await driver.apply(spec)
        assert (await settled(driver, spec)).power == "RUNNING"
        assert list(await driver.list()) == [spec.id]

    # Delete

    @pytest.mark.parametrize("power", POWERS)
    async def test_delete_leaves_nothing_whatever_the_power(
        self, driver: ComputeDriver, spec: InstanceSpec, power: Power
    ) -> None:
        if power == "PAUSED":
            self.needs("pause")
        await settled(driver, replace(spec, power=power))
        await driver.delete(spec.id)
        assert await driver.observe(spec.id) is None
        assert await driver.list() == {}

    async def test_delete_may_be_repeated(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        await settled(driver, spec)
        await driver.delete(spec.id)
        await driver.delete(spec.id)
        assert await driver.observe(spec.id) is None

    async def test_deletes_at_once_all_succeed(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        await settled(driver, spec)
        await asyncio.gather(*(driver.delete(spec.id) for _ in range(5)))
        assert await driver.observe(spec.id) is None

    async def test_delete_of_what_never_was_succeeds(self, driver: ComputeDriver) -> None:
        await driver.delete(uuid4())

    async def test_delete_leaves_the_others(
        self, driver: ComputeDriver, spec: InstanceSpec, other: InstanceSpec
    ) -> None:
        await settled(driver, spec)
        kept = await settled(driver, other)
        await driver.delete(spec.id)
        assert await driver.list() == {other.id: kept}

    async def test_what_was_deleted_can_be_made_anew(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        await settled(driver, spec)
        await driver.delete(spec.id)
        assert (await settled(driver, spec)).power == "RUNNING"

    # What can never work

    async def refused(self, driver: ComputeDriver, spec: InstanceSpec) -> str:
        """Why apply refuses it, having left nothing behind."""
        with pytest.raises(Refused) as refusal:
            await settled(driver, spec)
        assert await driver.observe(spec.id) is None
        return str(refusal.value)

    def of_no_image(self, spec: InstanceSpec) -> InstanceSpec:
        return replace(spec, image="no-such-image")

    async def test_an_image_that_is_nowhere_is_refused(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        nowhere = self.of_no_image(spec)
        assert "no-such-image" in await self.refused(driver, nowhere)
        assert "no-such-image" in await self.refused(driver, nowhere)
        with pytest.raises(Refused, match="no-such-image"):
            await driver.check(nowhere)

    @pytest.mark.parametrize("size", [{"vcpus": 100_000}, {"memory_mb": 2**30}])
    async def test_more_than_the_host_has_is_refused(
        self, driver: ComputeDriver, spec: InstanceSpec, size: dict[str, int]
    ) -> None:
        giant = replace(spec, **size)  # type: ignore[arg-type]
        await self.refused(driver, giant)
        with pytest.raises(Refused):
            await driver.check(giant)

    async def test_growing_beyond_the_host_is_refused_and_changes_nothing(
        self, driver: ComputeDriver, spec: InstanceSpec
    ) -> None:
        self.needs("resize")
        seen = await settled(driver, spec)
        with pytest.raises(Refused):
            await driver.apply(replace(spec, memory_mb=2**30))
        assert await driver.observe(spec.id) == seen

    async def test_a_command_that_is_not_in_the_image_is_refused(
        self, driver: ComputeDriver, spec: InstanceSpec
    ) -> None:
        self.needs("commands")
        assert "no-such-command" in await self.refused(driver, replace(spec, cmd=("no-such-command",)))

    async def test_a_port_another_instance_has_is_refused(
        self, driver: ComputeDriver, spec: InstanceSpec, other: InstanceSpec
    ) -> None:
        self.needs("ports")
        port = PortBinding(host=free_port(), container=80)
        await settled(driver, replace(spec, ports=(port,)))
        assert str(port.host) in await self.refused(driver, replace(other, ports=(port,)))
        with pytest.raises(Refused, match=str(port.host)):
            await driver.check(replace(other, ports=(port,)))

    async def test_a_port_the_instance_itself_has_is_fine(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("ports")
        published = replace(spec, ports=(PortBinding(host=free_port(), container=80),))
        await driver.check(published)
        await settled(driver, published)
        await driver.check(published)

    async def test_check_makes_nothing(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        await driver.check(spec)
        assert await driver.observe(spec.id) is None
        assert await driver.list() == {}

    # Commands

    async def ended(self, driver: ComputeDriver, spec: InstanceSpec) -> InstanceSeen:
        """What is seen when its command has ended."""

        async def stopped() -> bool:
            seen = await driver.observe(spec.id)
            return seen is not None and seen.power == "STOPPED"

        await settled(driver, spec)
        await until(stopped)
        seen = await driver.observe(spec.id)
        assert seen is not None
        return seen

    async def logged(self, driver: ComputeDriver, spec: InstanceSpec, wanted: bytes) -> None:
        assert isinstance(driver, SupportsLogs)

        async def printed() -> bool:
            return await driver.logs(spec.id, tail=100) == wanted

        await until(printed)

    @pytest.mark.parametrize("code", [0, 3])
    async def test_the_exit_code_of_a_command_that_ended_is_seen(
        self, driver: ComputeDriver, spec: InstanceSpec, code: int
    ) -> None:
        self.needs("commands")
        spec = replace(spec, cmd=shell(f"exit {code}"))
        seen = await self.ended(driver, spec)
        assert (seen.power, seen.exit_code, seen.private_ip) == ("STOPPED", code, None)
        assert await driver.list() == {spec.id: seen}

    async def test_a_command_that_ended_is_started_again(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("commands", "logs")
        spec = replace(spec, cmd=shell("echo here; exit 1"))
        await self.ended(driver, spec)
        await self.ended(driver, spec)
        await self.logged(driver, spec, b"here\nhere\n")

    async def test_command_and_environment_are_as_asked(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("commands", "logs")
        spec = replace(spec, cmd=shell("echo $COLOUR $SHAPE; exit 0"), env=("COLOUR=blue=1", "SHAPE=round"))
        await self.ended(driver, spec)
        await self.logged(driver, spec, b"blue=1 round\n")

    async def test_ports_lead_in(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("commands", "traffic")
        port = free_port()
        serve = shell("echo it is me > /tmp/index.html; exec httpd -f -p 8080 -h /tmp")
        await settled(driver, replace(spec, cmd=serve, ports=(PortBinding(host=port, container=8080),)))

        async def answers() -> bool:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                page = await reader.read()
                writer.close()
                return page.endswith(b"it is me\n")
            return False

        await until(answers)

    # Capabilities

    async def test_logs_are_the_last_lines_oldest_first(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("commands", "logs")
        assert isinstance(driver, SupportsLogs)
        spec = replace(spec, cmd=shell("echo one; echo two; echo three; exit 0"))
        await self.ended(driver, spec)
        await self.logged(driver, spec, b"one\ntwo\nthree\n")
        assert await driver.logs(spec.id, tail=2) == b"two\nthree\n"
        assert await driver.logs(spec.id, tail=0) == b""

    async def read(
        self, driver: ComputeDriver, spec: InstanceSpec, position: str = "", most_bytes: int = 2**20
    ) -> tuple[list[LogLine], str]:
        """All lines after the position, and the position after them."""
        assert isinstance(driver, SupportsLogsSince)
        lines: list[LogLine] = []
        async with asyncio.timeout(30):
            while True:
                batch = await driver.logs_since(spec.id, position, most_bytes)
                assert batch.lines or not batch.more
                assert sum(len(line.text) for line in batch.lines) <= most_bytes or len(batch.lines) == 1
                lines += batch.lines
                if not batch.lines:
                    assert batch == LogBatch((), position)
                    return lines, position
                position = batch.position

    @pytest.mark.parametrize("most_bytes", [1, 100, 1000, 2**20])
    async def test_batches_have_every_line_once_and_in_order(
        self, driver: ComputeDriver, spec: InstanceSpec, most_bytes: int
    ) -> None:
        self.needs("commands", "logs since")
        spec = replace(spec, cmd=shell(";".join(f"echo {number}" for number in range(40)) + "; exit 0"))
        before = datetime.now(UTC)
        await self.ended(driver, spec)
        lines, position = await self.read(driver, spec, most_bytes=most_bytes)
        assert [line.text for line in lines] == [b"%d" % number for number in range(40)]
        assert {line.stream for line in lines} == {"stdout"}
        assert before - timedelta(seconds=2) < min(line.at for line in lines)
        assert sorted(line.at for line in lines) == [line.at for line in lines]
        assert await self.read(driver, spec, position) == ([], position)
        await self.ended(driver, spec)  # started again
        assert [line.text for line in (await self.read(driver, spec, position))[0]] == [line.text for line in lines]

    async def test_the_beginning_can_be_read_again(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("commands", "logs since")
        await self.ended(driver, replace(spec, cmd=shell("echo one; echo two; exit 0")))
        assert await self.read(driver, spec) == await self.read(driver, spec)

    async def test_a_line_knows_its_stream(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("commands", "logs since")
        await self.ended(driver, replace(spec, cmd=shell("echo fine; echo wrong >&2; exit 0")))
        found = {(line.stream, line.text) for line in (await self.read(driver, spec))[0]}
        assert found == {("stdout", b"fine"), ("stderr", b"wrong")}

    async def test_what_has_written_nothing_has_no_lines(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("logs since")
        for power in ("STOPPED", "RUNNING"):
            await settled(driver, replace(spec, power=power, cmd=self.CMD))
            assert await self.read(driver, spec) == ([], "")

    async def test_nothing_has_no_logs_stats_or_console(self, driver: ComputeDriver) -> None:
        if isinstance(driver, SupportsLogs):
            with pytest.raises(LookupError):
                await driver.logs(uuid4(), tail=10)
        if isinstance(driver, SupportsLogsSince):
            with pytest.raises(LookupError):
                await driver.logs_since(uuid4(), "", 2**20)
        if isinstance(driver, SupportsStats):
            with pytest.raises(LookupError):
                await driver.stats(uuid4())
        if isinstance(driver, SupportsConsole):
            with pytest.raises(LookupError):
                await driver.console(uuid4())

    async def test_what_is_stopped_has_no_stats_or_console(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        await settled(driver, replace(spec, power="STOPPED"))
        if isinstance(driver, SupportsStats):
            with pytest.raises(LookupError):
                await driver.stats(spec.id)
        if isinstance(driver, SupportsConsole):
            with pytest.raises(LookupError):
                await driver.console(spec.id)

    async def test_what_is_paused_has_stats(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("pause", "stats")
        assert isinstance(driver, SupportsStats)
        await settled(driver, replace(spec, power="PAUSED"))

        async def at_rest() -> bool:
            return (await driver.stats(spec.id)).cpu_percentage < 1

        await until(at_rest)  # a machine monitor has a little to do after a start

    async def test_a_console_answers_what_is_typed(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("console")
        assert isinstance(driver, SupportsConsole)
        await settled(driver, spec)
        terminal = await driver.console(spec.id)
        await terminal.resize(100, 30)
        await terminal.write(b"echo and-back\n")
        await read_until(terminal, b"and-back")
        await terminal.close()
        await terminal.close()

    async def test_a_closed_console_prints_no_more(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("console")
        assert isinstance(driver, SupportsConsole)
        await settled(driver, spec)
        terminal = await driver.console(spec.id)

        async def drain() -> None:
            async for _ in terminal.output():
                pass

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(drain())
            await asyncio.sleep(0)
            await terminal.close()

    async def test_a_console_ends_with_its_instance(self, driver: ComputeDriver, spec: InstanceSpec) -> None:
        self.needs("console")
        assert isinstance(driver, SupportsConsole)
        await settled(driver, spec)
        terminal = await driver.console(spec.id)
        await driver.delete(spec.id)
        async with asyncio.timeout(10):
            async for _ in terminal.output():
                pass
        await terminal.close()
