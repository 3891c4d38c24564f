"""The fake volumes keep the contract."""

from typing import Any

import pytest

from tests.drivers.fake_volumes import FakeVolumes
from tests.drivers.volume_contract import VolumeContract


class TestFakeVolumes(VolumeContract):
    @pytest.fixture
    def driver(self) -> FakeVolumes:
        return FakeVolumes()

    async def write(self, driver: Any, id: Any, text: str) -> None:
        await driver.write(id, text)

    async def read(self, driver: Any, id: Any) -> str:
        return str(await driver.read(id))
