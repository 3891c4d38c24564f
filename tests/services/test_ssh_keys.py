"""SSH keys through the front door, and what hostile ones come to."""

import base64
import struct
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Cloud, Person
from tests.networks import made, message, pages, refusal

KINDS = {
    "ssh-ed25519": ("ed25519", ""), "ssh-rsa": ("rsa", "2048"), "ecdsa-sha2-nistp256": ("ecdsa", "256"),
    "ecdsa-sha2-nistp384": ("ecdsa", "384"), "ecdsa-sha2-nistp521": ("ecdsa", "521"),
}  # fmt: skip


def generate(folder: Path, kind: str = "ed25519", bits: str = "") -> str:
    """The public key of a new pair, whose files are <folder>/key and <folder>/key.pub."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "ada@example", "-f", str(folder / "key")]
    subprocess.run([*command, *(["-b", bits] if bits else [])], check=True)
    return (folder / "key.pub").read_text()


def fingerprint(file: Path) -> str:
    return subprocess.run(["ssh-keygen", "-l", "-f", file], capture_output=True, text=True).stdout.split()[1]


def blob(*parts: bytes) -> str:
    return base64.b64encode(b"".join(struct.pack("!I", len(part)) + part for part in parts)).decode()


ED25519 = f"ssh-ed25519 {blob(b'ssh-ed25519', bytes(range(32)))}"
SECURITY_KEY = b"sk-ssh-ed25519@openssh.com"


async def refused(person: Person, public_key: str, why: str) -> None:
    reply = await person.rest.post("/ssh-keys", json={"name": "bad", "public_key": public_key})
    assert refusal(reply) == (400, "INVALID_INPUT"), reply.text
    assert why in message(reply)
    assert (await person.rest.get("/ssh-keys")).json() == []


@pytest.mark.parametrize("type", KINDS)
async def test_a_key_is_kept_as_ssh_keygen_shows_it(ada: Person, tmp_path: Path, type: str) -> None:
    line = generate(tmp_path, *KINDS[type])
    key = await made(ada, "/ssh-keys", name="laptop", public_key=line)
    assert key["fingerprint"] == fingerprint(tmp_path / "key.pub")
    assert (key["public_key"], key["key_type"]) == (line.strip(), type)
    assert (key["user_id"], key["tenant_id"]) == (str(ada.user_id), str(ada.tenant_id))


async def test_a_key_lives_in_its_tenant_under_its_name(ada: Person, bob: Person) -> None:
    key = await made(ada, "/ssh-keys", name="laptop", public_key=ED25519)
    for reference in (key["id"], "laptop"):
        assert (await ada.rest.get(f"/ssh-keys/{reference}")).json() == key
    again = await ada.rest.post("/ssh-keys", json={"name": "laptop", "public_key": ED25519})
    assert again.status_code == 409
    assert (await bob.rest.get("/ssh-keys")).json() == []
    assert (await bob.rest.get(f"/ssh-keys/{key['id']}")).status_code == 404
    assert (await bob.rest.delete(f"/ssh-keys/{key['id']}")).status_code == 404
    await made(bob, "/ssh-keys", name="laptop", public_key=ED25519)
    others = [await made(ada, "/ssh-keys", name=f"key-{n}", public_key=ED25519) for n in range(2)]
    assert await pages(ada, "/ssh-keys") == [*(each["id"] for each in reversed(others)), key["id"]]
    assert (await ada.rest.delete("/ssh-keys/laptop")).json() == {"message": "ssh key deleted"}
    assert (await ada.rest.get(f"/ssh-keys/{key['id']}")).status_code == 404


async def test_a_key_of_a_security_key_is_taken(ada: Person) -> None:
    line = f"{SECURITY_KEY.decode()} {blob(SECURITY_KEY, bytes(32), b'ssh:')} token"
    assert (await made(ada, "/ssh-keys", name="token", public_key=line))["public_key"] == line


async def test_more_keys_than_the_quota_are_refused(cloud: Cloud, ada: Person) -> None:
    await cloud.value("insert into quotas values ($1, 'ssh_keys', 1)", ada.tenant_id)
    await made(ada, "/ssh-keys", name="one", public_key=ED25519)
    assert (await ada.rest.post("/ssh-keys", json={"name": "two", "public_key": ED25519})).status_code == 403


async def test_a_private_key_is_refused_and_in_no_log(cloud: Cloud, ada: Person, tmp_path: Path) -> None:
    generate(tmp_path)
    private = (tmp_path / "key").read_text()
    await refused(ada, private, "private key")
    await refused(ada, private.replace("\n", " "), "private key")
    await refused(ada, "PuTTY-User-Key-File-3: ssh-ed25519", "private key")
    assert private.splitlines()[1] not in await cloud.value("select string_agg(audit_log::text, '') from audit_log")


@pytest.mark.parametrize(
    "line",
    [
        ED25519.replace(" ", "\n"), f"{ED25519} a\n{ED25519} b", f"{ED25519} a\rb", f"{ED25519} \x1b[2J",
        f"{ED25519} a\u2028b", f"{ED25519}\u0085a", f"{ED25519} \u202ea",
    ],
)  # fmt: skip
async def test_a_key_of_several_lines_or_with_control_characters_is_refused(ada: Person, line: str) -> None:
    await refused(ada, line, "one line")


@pytest.mark.parametrize(
    "line",
    [
        f'command="sh" {ED25519}', "hello", ED25519.partition(" ")[2], f"ssh-dss {blob(b'ssh-dss', *[b'1'] * 4)}",
        f"ssh-ed25519-cert-v01@openssh.com {blob(b'ssh-ed25519-cert-v01@openssh.com', bytes(32))}",
        f"SSH-ED25519 {blob(b'SSH-ED25519', bytes(32))}",
    ],
)  # fmt: skip
async def test_what_does_not_begin_with_a_known_type_is_refused(ada: Person, line: str) -> None:
    await refused(ada, line, "begins with its type")


@pytest.mark.parametrize(
    "line",
    [
        "ssh-ed25519", "ssh-ed25519 ", "ssh-ed25519 !!!!", "ssh-ed25519 AAAA", ED25519[:-4], f"{ED25519}AAAA",
        ED25519.replace("IA", "I*A", 1), f"ssh-ed25519 {blob(b'ssh-rsa', bytes(range(32)))}",
        f"ssh-ed25519 {blob(b'ssh-ed25519', bytes(31))}", f"ssh-ed25519 {blob(b'ssh-ed25519', bytes(32), b'more')}",
        f"ssh-rsa {blob(b'ssh-rsa', b'', b'')}", f"ssh-rsa {blob(b'ssh-rsa', bytes([1, 0, 1]), b'')}",
        "ssh-rsa " + base64.b64encode(b"\x00\x00\x00\x07ssh-rsa\xff\xff\xff\xff").decode(),
        f"ecdsa-sha2-nistp256 {blob(b'ecdsa-sha2-nistp256', b'nistp256', bytes([4]) + bytes(64))}",
        f"ecdsa-sha2-nistp256 {blob(b'ecdsa-sha2-nistp256', b'nistp384', bytes([4]) + bytes(96))}",
        f"{SECURITY_KEY.decode()} {blob(SECURITY_KEY, bytes(32))}",
    ],
)  # fmt: skip
async def test_what_is_no_key_of_its_type_is_refused(ada: Person, line: str) -> None:
    await refused(ada, line, "no such key")


async def test_a_short_rsa_key_is_refused(ada: Person, tmp_path: Path) -> None:
    await refused(ada, generate(tmp_path, "rsa", "1024"), "2048")


async def seed(cloud: Cloud, instance: dict[str, Any]) -> Any:
    return cloud.compute.machines[UUID(instance["id"])].spec.seed


async def test_an_instance_has_the_key_as_it_was_at_its_launch(cloud: Cloud, ada: Person, bob: Person) -> None:
    key = await made(ada, "/ssh-keys", name="laptop", public_key=f"{ED25519} ada@example")
    by_id, by_name = await ada.running(ssh_key_id=key["id"]), await ada.running(ssh_key_id="laptop", name="b")
    await ada.rest.delete("/ssh-keys/laptop")
    for instance in (by_id, by_name):
        await ada.rest.post(f"/instances/{instance['id']}/stop")
        await cloud.settle()
        assert (await seed(cloud, instance)).ssh_keys == (f"{ED25519} laptop",)
    theirs = await made(bob, "/ssh-keys", name="desktop", public_key=ED25519)
    for id in (key["id"], str(uuid4()), theirs["id"]):
        reply = await ada.rest.post("/instances", json={"name": "c", "image": "nginx", "ssh_key_id": id})
        assert refusal(reply) == (404, "NOT_FOUND")
    assert (await seed(cloud, await ada.running(name="d"))).ssh_keys == ()


async def test_user_data_reach_the_instance_and_no_answer_and_no_log(cloud: Cloud, ada: Person) -> None:
    secret = "#!/bin/sh\necho pässword-1234\n"
    made = await ada.running(user_data=secret)
    assert (await seed(cloud, made)).user_data == secret
    assert (await seed(cloud, made)).hostname == "web-01"
    answers = [(await ada.rest.get(path)).text for path in (f"/instances/{made['id']}", "/instances", "/inventory")]
    for text in (
        *answers,
        await cloud.value("select string_agg(audit_log::text, '') from audit_log"),
        await cloud.value("select string_agg(changes::text, '') from changes"),
    ):
        assert made["id"] in text
        assert "ssword-1234" not in text


@pytest.mark.parametrize(("data", "status"), [("x" * 65536, 202), ("ä" * 32768, 202), ("ä" * 32769, 400),
                                              ("a\0", 400)])  # fmt: skip
async def test_user_data_have_at_most_64_kib(ada: Person, data: str, status: int) -> None:
    reply = await ada.rest.post("/instances", json={"name": "a", "image": "nginx", "user_data": data})
    assert reply.status_code == status
