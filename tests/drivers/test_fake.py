"""The fake is what other tests trust: it passes the contract, and its own knobs work."""

from dataclasses import replace

import pytest

from drivers.contracts import InstanceSpec
from tests.drivers.contract import ComputeContract
from tests.drivers.fake import FakeCompute


class TestFakeCompute(ComputeContract):
    IMAGE = "any"
    CANNOT = frozenset({"traffic"})

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
