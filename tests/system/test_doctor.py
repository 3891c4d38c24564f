"""The commands that say something and end."""

import subprocess
import sys
from pathlib import Path

import pytest

from server import engines, images, postgres
from tests.engines import require
from tests.system.process import ROOT, command

DEBIANS = '#user = "libvirt-qemu"\n\n  # and so on\n'
# Starts libvirtd, and says what it sees, and whether it answers.
START = """
from pathlib import Path
from server import engines
engines.start_libvirt()
seen = Path("/proc", Path("/run/libvirtd.pid").read_text(), "root/etc/libvirt/qemu.conf").read_text()
print(seen + ("answers" if engines.libvirt_answers() else "does not answer"))
"""
COMMANDS = ("up", "serve", "work", "migrate", "doctor", "images")


async def test_doctor_names_every_engine_and_tells_by_its_exit_code_whether_one_is_missing() -> None:
    told = await command("doctor", COLUMNS="200")
    assert all(engine.name in told.output for engine in engines.ENGINES)
    missing = [finding for finding in map(engines.examine, engines.ENGINES) if finding.advice]
    assert told.code == (1 if any(not finding.engine.optional for finding in missing) else 0)
    assert all(finding.advice in told.output for finding in missing)
    assert told.errors == ""


async def test_doctor_tells_what_to_install_where_nothing_is_found(tmp_path: Path) -> None:
    told = await command("doctor", COLUMNS="200", PATH=str(tmp_path))
    assert told.code == 1
    assert "apt-get install mmdebstrap" in told.output


async def test_doctor_looks_at_what_it_is_asked_for_only() -> None:
    told = await command("doctor", "libvirt", COLUMNS="200")
    (libvirt,) = (engine for engine in engines.ENGINES if engine.name == "libvirt")
    assert told.code == (1 if engines.examine(libvirt).advice else 0)
    assert "libvirt" in told.output
    assert "postgresql" not in told.output
    told = await command("doctor", "nonsense")
    assert told.code == 2
    assert "there is no engine 'nonsense'; there is postgresql" in told.errors


async def test_doctor_finds_a_running_docker_engine() -> None:
    require("docker")
    told = await command("doctor", COLUMNS="200")
    (line,) = [line for line in told.output.splitlines() if " docker " in line]
    assert "yes" in line


@pytest.mark.parametrize("theirs", ["", "max_queued = 7\n"])
def test_libvirtd_started_by_hand_has_settings_of_ours_unless_there_are_some(theirs: str, tmp_path: Path) -> None:
    require("libvirt")
    mounts = ""
    for name in ("etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt", "run"):
        (tmp_path / name).mkdir(parents=True)
        mounts += f"mount --bind {tmp_path}/{name} /{name} && "
    configuration = tmp_path / "etc/libvirt/qemu.conf"
    configuration.write_text(DEBIANS + theirs)
    told = subprocess.run(
        # In a namespace of processes too: what is started ends with the first of them.
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", f'{mounts}exec "$0" -c "$1"',
         sys.executable, START],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert told.stdout == (DEBIANS + theirs if theirs else engines.QEMU_SETTINGS) + "answers\n", told.stderr
    assert configuration.read_text() == DEBIANS + theirs


async def test_help_names_every_command_a_user_needs() -> None:
    told = await command("--help", COLUMNS="200")
    assert told.code == 0
    assert all(f" {name} " in told.output for name in COMMANDS)
    assert " process " not in told.output


@pytest.mark.parametrize("name", COMMANDS)
async def test_every_command_has_help(name: str) -> None:
    told = await command(name, "--help", COLUMNS="200")
    assert told.code == 0
    assert "Usage" in told.output


@pytest.mark.parametrize("arguments", [("--nonsense",), ("up", "--nonsense"), ("nonsense",), ("up", "nonsense")])
async def test_what_is_not_known_is_told_and_ends_with_2(arguments: tuple[str, ...]) -> None:
    told = await command(*arguments)
    assert told.code == 2
    assert "nonsense" in told.errors
    assert "Traceback" not in told.errors


async def test_images_that_can_be_built_are_listed() -> None:
    told = await command("images", "list")
    assert told.code == 0
    assert told.output.split() == list(images.names())


async def test_an_image_without_a_recipe_is_told() -> None:
    told = await command("images", "build", "nonsense")
    assert told.code == 2
    assert "there is no recipe for 'nonsense'" in told.errors


async def test_migrating_twice_does_nothing_the_second_time(tmp_path: Path) -> None:
    async with postgres.embedded(tmp_path, durable=False) as url:
        first, second = [await command("migrate", "--database-url", url) for _ in range(2)]
    assert (first.code, first.output[:21]) == (0, "migrated to revision ")
    assert (second.code, second.output) == (0, "nothing to do\n")


@pytest.mark.parametrize("name", ["migrate", "serve", "work"])
async def test_without_a_database_a_command_says_how_to_get_one(name: str, tmp_path: Path) -> None:
    told = await command(name, "--data", str(tmp_path))
    assert told.code == 2
    assert told.errors == (
        f"thecloud: no database: set THECLOUD_DATABASE_URL, or start `thecloud up --data {tmp_path}` first\n"
    )


@pytest.mark.parametrize("name", ["migrate", "serve", "work"])
async def test_a_database_that_does_not_answer_is_told_in_a_line(name: str, tmp_path: Path) -> None:
    told = await command(name, "--data", str(tmp_path), "--database-url", "postgresql://nobody@127.0.0.1:1/none")
    assert told.code == 2
    assert told.errors.startswith("thecloud: ")
    assert "correct --database-url" in told.errors
    assert len(told.errors.splitlines()) == 1


@pytest.mark.parametrize("name", ["serve", "work"])
async def test_an_empty_database_is_told_in_a_line(name: str, tmp_path: Path) -> None:
    async with postgres.embedded(tmp_path, durable=False) as url:
        told = await command(name, "--data", str(tmp_path), "--database-url", url)
    assert (told.code, told.output) == (2, "")
    assert told.errors.startswith("thecloud: the database has not been prepared for this version")
    assert "run `thecloud migrate`" in told.errors
    assert len(told.errors.splitlines()) == 1
