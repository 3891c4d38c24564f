"""The driver that seals secrets with a key in a file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drivers.sealed import SealedSecrets
from tests.drivers.secret_contract import SecretContract


class TestSealedSecrets(SecretContract):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> SealedSecrets:
        return SealedSecrets(tmp_path / "sealing.key")


async def test_the_key_stays_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    wrapped = await SealedSecrets(tmp_path / "sealing.key").wrap(b"secret", b"")
    assert [each.name for each in tmp_path.iterdir()] == ["sealing.key"]
    assert (tmp_path / "sealing.key").stat().st_mode & 0o777 == 0o600
    assert await SealedSecrets(tmp_path / "sealing.key").unwrap(wrapped, b"") == b"secret"


def test_of_many_that_begin_at_once_all_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        stores = list(threads.map(lambda _: SealedSecrets(tmp_path / "sealing.key"), range(64)))
    assert len({each.key_id for each in stores}) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["sealing.key"]


async def test_a_new_first_key_leaves_what_the_old_one_sealed_to_be_read(tmp_path: Path) -> None:
    file, another = tmp_path / "sealing.key", tmp_path / "another.key"
    wrapped = await SealedSecrets(file).wrap(b"secret", b"")
    newer = await SealedSecrets(another).wrap(b"newer", b"")
    with pytest.raises(LookupError, match=r"another\.key"):
        await SealedSecrets(another).unwrap(wrapped, b"")
    file.write_text(another.read_text() + file.read_text())
    both = SealedSecrets(file)
    assert await both.unwrap(wrapped, b"") == b"secret"
    assert await both.unwrap(newer, b"") == b"newer"


@pytest.mark.parametrize("text", ["", "\n", "xyz\n", "abcd\n", "00" * 31 + "\n"])
def test_a_file_without_a_key_is_said_to_be_one_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "sealing.key").write_text(text)
    with pytest.raises(LookupError, match=r"sealing\.key"):
        SealedSecrets(tmp_path / "sealing.key")
    assert (tmp_path / "sealing.key").read_text() == text
