"""Images: registered, uploaded, looked at, started from, deleted."""

import hashlib
from typing import Any

import httpx

from tests import image_samples as samples
from tests.conftest import Cloud, Person
from tests.engines import require

DOCUMENTED = {
    "name": "my-custom-image", "description": "My custom OS image", "os": "linux", "version": "22.04", "is_public": False,
}  # fmt: skip


async def registered(person: Person, **fields: Any) -> str:
    reply = await person.rest.post("/images", json=DOCUMENTED | fields)
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]  # type: ignore[no-any-return]


async def upload(person: Person, id: str, data: bytes, **headers: str) -> httpx.Response:
    """As the field `file` of a form."""
    return await person.rest.post(f"/images/{id}/upload", files={"file": ("disk.img", data)}, headers=headers)


async def shown(person: Person, id: str) -> dict[str, Any]:
    reply = await person.rest.get(f"/images/{id}")
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


def files(cloud: Cloud) -> list[str]:
    """What is in the folder of images."""
    folder = cloud.app.config.data / "images"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["reason"]


# Registered


async def test_an_image_lives_as_documented(cloud: Cloud, ada: Person) -> None:
    require("qemu-img")
    made = await ada.rest.post("/images", json=DOCUMENTED)
    assert made.status_code == 201
    body = made.json()
    assert DOCUMENTED.items() <= body.items()
    assert (body["status"], body["size_gb"], body["format"], body["received_bytes"]) == ("PENDING", 0, "", 0)
    assert "checksum" not in body
    data = samples.raw()
    reply = await upload(ada, body["id"], data)
    assert reply.status_code == 200, reply.text
    there = reply.json()
    assert (there["status"], there["format"], there["size_gb"]) == ("ACTIVE", "raw", 1)
    assert (there["size_bytes"], there["checksum"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert "received_bytes" not in there
    await cloud.settle()
    [listed] = (await ada.rest.get("/images")).json()
    assert listed["id"] == body["id"]
    assert (cloud.app.config.data / "images" / body["id"]).read_bytes() == data
    gone = await ada.rest.delete(f"/images/{body['id']}")
    assert (gone.status_code, gone.json()) == (200, {"message": "image deleted"})
    assert (await shown(ada, body["id"]))["status"] == "DELETING"
    await cloud.settle()
    assert (await ada.rest.get(f"/images/{body['id']}")).status_code == 404
    assert files(cloud) == []
    actions = [entry["action"] for entry in (await ada.rest.get("/audit")).json()]
    assert actions == ["IMAGE_DELETE", "IMAGE_UPLOAD", "IMAGE_CREATE"]
