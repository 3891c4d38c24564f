"""The sessions of the documentation, as they stand there but for the ports."""

import asyncio
import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

from server import images
from tests.drivers.contract import free_port
from tests.system.process import ROOT, Thecloud


def block(language: str, page: str = "README.md") -> str:
    """The block of this language that the page says is run by a test."""
    written = (ROOT / page).read_text()
    [text] = re.findall(rf"<!-- [^>]*test_[a-z_]+.py runs[^>]* -->\n```{language}\n(.*?)```", written, re.DOTALL)
    return str(text)


async def run(*command: str, folder: Path, seconds: float = 60) -> str:
    """What the command prints; it must succeed in time."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}", "no_proxy": "127.0.0.1"}
    child = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(seconds):
        output, _ = await child.communicate()
    assert child.returncode == 0, output.decode()
    return output.decode()


async def register(cloud: Thecloud) -> None:
    """Somebody whom the first session has left."""
    async with cloud.client() as client:
        ada = {"email": "ada@example.com", "password": "correct horse", "name": "Ada"}
        assert (await client.post("/auth/register", json=ada)).status_code == 201


async def test_the_first_session_ends_with_a_container_that_answers(cloud: Thecloud, tmp_path: Path) -> None:
    await images.build("nginx", say=print)
    await cloud.up()
    port = free_port()
    session = block("sh").replace("127.0.0.1:8080", urlsplit(cloud.http).netloc).replace("8081", str(port))
    said = await run("bash", "-e", "-o", "pipefail", "-c", session, folder=tmp_path)
    for expected in (
        '"message":"user created successfully"', '"id":"basic-2"', '"status":"STARTING"', '"status":"RUNNING"',
        "<html>", '"memory_limit_bytes":1073741824', "GET / HTTP", '"message":"instance terminated"',
    ):  # fmt: skip
        assert expected in said, said

    client = tmp_path / "session.py"
    client.write_text(block("python").replace("127.0.0.1:50051", cloud.grpc))
    assert re.search(r"web-02 STATE_RUNNING ports \d+:80", await run(sys.executable, str(client), folder=tmp_path))


async def test_the_session_about_networks_ends_with_a_page_over_an_elastic_ip(
    network_cloud: Thecloud, tmp_path: Path
) -> None:
    cloud = network_cloud
    await images.build("nginx", say=print)
    await cloud.up()
    await register(cloud)
    session = block("sh", "docs/networks.md").replace("127.0.0.1:8080", urlsplit(cloud.http).netloc)
    said = await run("bash", "-e", "-o", "pipefail", "-c", session, folder=tmp_path)
    for expected in (
        '"status":"associated"', "<html>", '{"reachable":true,"programmed":true}', "no ingress rule allows tcp",
        '"message":"vpc deleted"',
    ):  # fmt: skip
        assert expected in said, said
