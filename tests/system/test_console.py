"""A terminal inside an instance, over the address that the API gives out."""

import base64
import hmac
import time
from typing import Any
from uuid import uuid4

import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.conftest import until
from tests.system.process import Person, Thecloud


@pytest.fixture(scope="module")
async def person(started: Thecloud) -> Person:
    return await started.person()


@pytest.fixture(scope="module")
async def instance(person: Person) -> dict[str, Any]:
    """One that runs."""
    return await person.running()


async def console(person: Person, instance: dict[str, Any]) -> str:
    """The address of a new terminal."""
    reply = await person.rest.get(f"/instances/{instance['id']}/console")
    assert reply.status_code == 200, reply.text
    return reply.json()["url"]  # type: ignore[no-any-return]


async def read_until(terminal: ClientConnection, text: bytes) -> bytes:
    """What the terminal prints, up to this text."""
    printed = b""
    while text not in printed:
        piece = await terminal.recv()
        printed += piece if isinstance(piece, bytes) else piece.encode()
    return printed


async def closing(url: str) -> tuple[int, str]:
    """The code and the reason with which the server closes this address."""
    async with connect(url, proxy=None) as terminal:
        with pytest.raises(ConnectionClosed) as closed:
            await terminal.recv()
    assert closed.value.rcvd
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def commands(cloud: Thecloud, instance: dict[str, Any]) -> list[str]:
    """What runs in the instance's container."""
    container = cloud.docker.containers.container((await cloud.container(instance["id"]))["Id"])
    return [row[-1] for row in (await container.top(ps_args="-eo pid,args"))["Processes"]]


async def test_what_is_typed_is_run_and_no_shell_is_left_afterwards(
    started: Thecloud, person: Person, instance: dict[str, Any]
) -> None:
    before = await commands(started, instance)
    async with connect(await console(person, instance), proxy=None) as terminal:
        await terminal.send(b"echo $((40+2)) && sleep 5000\n")
        await read_until(terminal, b"\r\n42\r\n")
        during = await commands(started, instance)
        assert len(during) > len(before)

    async def as_before() -> bool:
        return await commands(started, instance) == before

    await until(as_before, 30)


async def test_a_shell_that_is_left_with_exit_closes_the_connection(person: Person, instance: dict[str, Any]) -> None:
    async with connect(await console(person, instance), proxy=None) as terminal:
        await terminal.send("exit\n")
        with pytest.raises(ConnectionClosed) as closed:
            await read_until(terminal, b"never printed")
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1000


async def test_an_address_works_until_it_expires(started: Thecloud, person: Person, instance: dict[str, Any]) -> None:
    url = await console(person, instance)
    for _ in range(2):
        async with connect(url, proxy=None) as terminal:
            await terminal.send("echo $((40+2))\n")
            await read_until(terminal, b"42")
    address, token = url.split("?token=")
    claims = orjson.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    key = await started.value("select signing_key from cloud")
    assert signed(claims, key) == token
    expired = signed(claims | {"until": int(time.time()) - 1}, key)
    code, reason = await closing(f"{address}?token={expired}")
    assert code == 4401
    assert "expired" in reason


def signed(claims: dict[str, Any], key: bytes) -> str:
    payload = orjson.dumps(claims)
    parts = (payload, hmac.digest(key, payload, "sha256"))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


@pytest.mark.parametrize("token", ["", "nonsense", "bm9uc2Vuc2U.bm9uc2Vuc2U", "ä.ö"])
async def test_a_wrong_token_is_refused(person: Person, instance: dict[str, Any], token: str) -> None:
    address = (await console(person, instance)).split("?token=")[0]
    assert (await closing(f"{address}?token={token}"))[0] == 4401


async def test_a_token_opens_no_other_instance(person: Person, instance: dict[str, Any]) -> None:
    url = await console(person, instance)
    assert (await closing(url.replace(instance["id"], str(uuid4()))))[0] == 4401


async def test_a_token_ends_with_the_key_that_asked_for_it(
    started: Thecloud, instance: dict[str, Any], person: Person
) -> None:
    made = (await person.rest.post("/auth/keys", json={"name": "short-lived"})).json()
    async with started.client(headers={"x-api-key": made["key"]}) as other:
        url = (await other.get(f"/instances/{instance['id']}/console")).json()["url"]
    assert (await person.rest.delete(f"/auth/keys/{made['id']}")).is_success
    assert (await closing(url))[0] == 4401


async def test_an_instance_that_is_paused_has_no_console(person: Person) -> None:
    running = await person.running()
    url = await console(person, running)
    assert (await person.rest.post(f"/instances/{running['id']}/pause")).status_code == 200
    assert (await person.rest.get(f"/instances/{running['id']}/console")).status_code == 400
    await person.becomes(running["id"], "PAUSED")
    assert (await closing(url))[0] == 4400


async def test_an_open_terminal_does_not_keep_the_server_from_ending(cloud: Thecloud) -> None:
    cloud.environment |= {"THECLOUD_GRACE_SECONDS": "3"}
    await cloud.up()
    person = await cloud.person()
    running = await person.running()
    before = await commands(cloud, running)
    async with connect(await console(person, running), proxy=None) as terminal:
        await terminal.send("echo $((40+2))\n")
        await read_until(terminal, b"42")
        began = time.monotonic()
        assert await cloud.process.stop() == 0
        assert time.monotonic() - began < 8
        with pytest.raises(ConnectionClosed):
            await read_until(terminal, b"never printed")

    async def as_before() -> bool:
        return await commands(cloud, running) == before

    await until(as_before, 30)
    assert "Traceback" not in cloud.log.read_text()
