"""The S3 port of the cloud for tests, on loopback, and clients of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import boto3
import httpx
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config as BotoConfig
from botocore.credentials import Credentials

from server.app import address_of, http_server, listening
from server.s3 import signature
from server.s3.front import Front
from server.s3.signature import Claim
from tests.conftest import Cloud, Person, until


@dataclass
class Port:
    """The S3 port, to one person's pair of keys."""

    cloud: Cloud
    address: str
    access_key_id: str
    secret_access_key: str
    http: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def signed(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> httpx.Request:
        """A request that botocore has signed, path and query as they are."""
        request = AWSRequest(method, self.url + path, headers=headers or {}, data=body)
        S3SigV4Auth(Credentials(self.access_key_id, self.secret_access_key), "s3", "us-east-1").add_auth(request)
        return raw(self.url, method, path, body, dict(request.headers))

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
        """Send a signed request; of a header's name "_" is "-"."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.send(self.signed(method, path, body, named))

    def signed_as(self, payload: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Request:
        """A request whose body is signed as this, in headers that are all signed."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        sent = {name.lower(): value for name, value in headers.items()} | {
            "host": self.address, "x-amz-date": moment, "x-amz-content-sha256": payload,
        }  # fmt: skip
        names = sorted(name for name in sent if name not in ("content-length", "transfer-encoding"))
        claim = Claim(self.access_key_id, moment[:8], "us-east-1", moment, names, "", payload, presigned=False)
        at, _, query = path.partition("?")
        text = signature.canonical_request(claim, method, at, parse_qsl(query, keep_blank_values=True), sent)
        key = signature.signing_key(self.secret_access_key, claim.date, claim.region)
        sent["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key_id}/{claim.scope}, SignedHeaders={';'.join(names)}, "
            f"Signature={signature.sign(key, signature.said(claim, text))}"
        )
        return raw(self.url, method, path, body, sent)

    def boto(self, **settings: Any) -> Any:
        """A client, whose calls block: run them with `asyncio.to_thread`."""
        return boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=self.access_key_id, region_name="us-east-1",
            aws_secret_access_key=self.secret_access_key,
            config=BotoConfig(**{"signature_version": "s3v4", "retries": {"max_attempts": 1},
                                 "s3": {"addressing_style": "path"}} | settings),
        )  # fmt: skip

    async def kept(self) -> tuple[int, int]:
        """How many objects and parts the database knows, and how many blobs the store has."""
        rows = await self.cloud.value("select (select count(*) from objects) + (select count(*) from upload_parts)")
        return rows, len([each async for each in self.cloud.app.drivers.objects.list()])


def raw(url: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Request:
    """A request whose path is sent as it is written."""
    return httpx.Request(method, url, content=body, headers=headers, extensions={"target": path.encode()})


@asynccontextmanager
async def serving(cloud: Cloud) -> AsyncIterator[str]:
    """The address of the port, while it is open."""
    bound = listening("127.0.0.1:0")
    server = http_server(Front(cloud.app, cloud.pipeline), cloud.app.config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    await until(lambda: asyncio.sleep(0, server.started))
    try:
        yield address_of(bound)
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def port(cloud: Cloud, ada: Person) -> AsyncIterator[Port]:
    """The S3 port, and ada's keys."""
    async with serving(cloud) as address:
        yield await opened(cloud, ada, address)


async def opened(cloud: Cloud, person: Person, address: str, **narrowed: Any) -> Port:
    """The port to this person, with a key of theirs that may have a `policy`."""
    reply = await person.rest.post("/auth/keys", json={"name": "s3", "s3": True, **narrowed})
    assert reply.status_code == 201, reply.text
    pair = reply.json()["s3"]
    http = await cloud.stack.enter_async_context(httpx.AsyncClient(timeout=20))
    return Port(cloud, address, pair["access_key_id"], pair["secret_access_key"], http)
