"""The fake object store keeps the contract."""

import pytest

from tests.drivers.fake_objects import FakeObjects
from tests.drivers.object_contract import ObjectContract


class TestFakeObjects(ObjectContract):
    CANNOT = frozenset({"little memory"})

    @pytest.fixture
    def driver(self) -> FakeObjects:
        return FakeObjects()
