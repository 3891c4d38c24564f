"""SecretStore as tests. A driver's test subclasses it and gives it a `driver` fixture."""

import pytest

from drivers.secrets import SecretStore


class SecretContract:
    @pytest.mark.parametrize("plain", [b"", b"secret", bytes(range(256)) * 16])
    async def test_what_is_wrapped_comes_back_and_is_not_to_be_seen(self, driver: SecretStore, plain: bytes) -> None:
        wrapped = await driver.wrap(plain, b"of whom")
        assert await driver.unwrap(wrapped, b"of whom") == plain
        assert not plain or plain not in wrapped

    async def test_each_time_it_looks_different(self, driver: SecretStore) -> None:
        assert await driver.wrap(b"secret", b"") != await driver.wrap(b"secret", b"")

    async def test_it_is_bound_to_its_context(self, driver: SecretStore) -> None:
        wrapped = await driver.wrap(b"secret", b"of one")
        with pytest.raises(ValueError, match="context"):
            await driver.unwrap(wrapped, b"of another")

    async def test_a_flipped_bit_anywhere_is_noticed(self, driver: SecretStore) -> None:
        wrapped = await driver.wrap(b"secret", b"of whom")
        for at in range(len(wrapped)):
            changed = wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :]
            with pytest.raises((ValueError, LookupError)):
                await driver.unwrap(changed, b"of whom")
        with pytest.raises((ValueError, LookupError)):
            await driver.unwrap(wrapped[:-1], b"of whom")
