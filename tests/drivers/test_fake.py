"""The fake is what other tests trust: it passes the contract, and its own knobs work."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from drivers.contracts import BootDisk, InstanceSpec
from tests.drivers.contract import ComputeContract
from tests.drivers.fake import FakeCompute, FakeMachines


class TestFakeCompute(ComputeContract):
    IMAGE = "any"
    CANNOT = frozenset({"traffic", "screen", "volumes", "snapshots"})

    @pytest.fixture
    def driver(self) -> FakeCompute:
        return FakeCompute()

    async def test_a_slow_image_takes_some_applies(self, driver: FakeCompute, spec: InstanceSpec) -> None:
        driver.slow_images.add("slow")
        slow = replace(spec, image="slow")
        assert [(await driver.apply(slow)).power for _ in range(3)] == [None, None, "RUNNING"]

    async def test_a_crash_is_seen_and_mended(self, driver: FakeCompute, spec: InstanceSpec) -> None:
        await driver.apply(spec)
        driver.crash(spec.id)
        seen = await driver.observe(spec.id)
        assert seen is not None
        assert (seen.power, seen.exit_code) == ("STOPPED", 1)
        assert (await driver.apply(spec)).power == "RUNNING"


class TestFakeMachines(ComputeContract):
    IMAGE = "any"
    CANNOT = frozenset({"addresses", "traffic", "screen"})

    @pytest.fixture
    def driver(self) -> FakeMachines:
        return FakeMachines()

    @pytest.fixture
    def spec(self, driver: FakeMachines, tmp_path: Path) -> InstanceSpec:
        path = tmp_path / "disk"
        path.write_bytes(b"disk")
        disk = BootDisk(path=str(path), format="raw", size_gb=1)
        return InstanceSpec(id=uuid4(), tenant_id=uuid4(), name="a", image="any", vcpus=0.5, memory_mb=64, disk=disk)
