"""What an instance in a VPC may ask about itself, at http://169.254.169.254 in version 2 of EC2's protocol.

Each VPC's router has that address, and every process that works here listens at it. Who asks is known by
the VPC and the sender's address, which the network lets nobody forge. An answer needs a token that was
asked for with PUT and is good for this instance alone: what makes an instance's software send a GET for
somebody else gets nothing. Nobody who asks is trusted with anything: not with more than a few connections,
nor with a long one, nor with many.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import orjson
import sqlalchemy as sa
import structlog
import uvicorn
from sqlalchemy.dialects import postgresql
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from drivers.contracts import hostname
from drivers.network import SupportsMetadata
from server import db, networks
from server.http_protocol import BoundedHttp
from server.instances import Instance
from server.networks import ElasticIp
from server.ratelimit import Buckets
from server.topology import DOMAIN
from server.work import follows

if TYPE_CHECKING:
    from server.app import App

log = structlog.get_logger()
LOGGER = logging.getLogger("thecloud.metadata")  # of uvicorn: without a line for each bad request
LOGGER.setLevel(logging.ERROR)

LOOK = 0.5  # seconds between looks at which VPCs are here
TOKEN, TTL = "x-aws-ec2-metadata-token", "x-aws-ec2-metadata-token-ttl-seconds"
LONGEST = 21600  # seconds that a token is good for, as of EC2
RATE, BURST = 50, 100  # requests a second of one instance, and at once, in one process
CONNECTIONS = 16  # of one instance at once, in one process
LIFE = 10.0  # seconds of a connection, from its first packet to the last of the answer
LOOKUPS = 4  # at once, of all instances: the database has others to serve
PATIENCE = 5.0  # seconds for a lookup

_I, _E = Instance.TABLE.c, ElasticIp.TABLE.c
_ASKING = sa.select(
    *(_I[name] for name in ("id", "tenant_id", "name", "image", "instance_type", "private_ip", "labels", "ssh_keys",
                            "user_data", "created_at")),
    sa.select(_E.public_ip).where(_E.instance_id == _I.id).scalar_subquery().label("public_ip"),
).where(_I.vpc_id == sa.bindparam("vpc", type_=postgresql.UUID), _I.private_ip == sa.bindparam("address"))  # fmt: skip

Tree = Mapping[str, Any]  # of Trees and texts


@follows
async def serve(app: "App") -> None:
    """Listen in each VPC that is here, and in no other."""
    driver = app.drivers.network
    if not isinstance(driver, SupportsMetadata):
        return
    metadata, open = Metadata(app), dict[UUID, tuple[int, Listener]]()
    try:
        while True:
            routers = await driver.routers()
            for id, (identity, listener) in list(open.items()):
                if routers.get(id) != identity:
                    del open[id]
                    listener.close()
            for id in routers.keys() - open.keys():
                try:
                    open[id] = routers[id], await Listener.open(metadata, driver, id)
                except LookupError:
                    continue  # it is just being made, or deleted
                except OSError as error:
                    log.warning("metadata_not_served", vpc_id=str(id), error=str(error))
            await asyncio.sleep(LOOK)
    finally:
        for _, listener in open.values():
            listener.close()


class Listener:
    """Serves one VPC, until it is closed. What it has open keeps the VPC's namespace alive."""

    def __init__(self, server: asyncio.Server, state: ServerState) -> None:
        self.server, self.state = server, state

    @classmethod
    async def open(cls, metadata: "Metadata", driver: SupportsMetadata, vpc_id: UUID) -> Self:
        """Raises LookupError where the VPC is not, or not yet."""
        config = uvicorn.Config(
            partial(metadata.answer, vpc_id), http=Http, ws="none", interface="asgi3", lifespan="off", log_config=None,
            access_log=False, proxy_headers=False,
        )  # fmt: skip
        state, callers = ServerState(), Counter[str]()
        bound = await driver.listen(vpc_id)
        return cls(
            await asyncio.get_running_loop().create_server(lambda: Http(config, state, callers), sock=bound), state
        )

    def close(self) -> None:
        self.server.close()
        for connection in list(self.state.connections):
            connection.transport.abort()


class Http(BoundedHttp):
    """One request of somebody who is not to have more of us than that."""

    def __init__(self, config: uvicorn.Config, state: ServerState, callers: Counter[str]) -> None:
        super().__init__(config, state, {})
        self.logger, self.callers, self.caller = LOGGER, callers, ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end = self.loop.call_later(LIFE, transport.abort)
        self.caller = self.client[0] if self.client else ""
        self.callers[self.caller] += 1
        if self.callers[self.caller] > CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self.callers[self.caller] -= 1
        if not self.callers[self.caller]:
            del self.callers[self.caller]
        super().connection_lost(exc)


class Metadata:
    """The ASGI application, for all VPCs."""

    def __init__(self, app: "App") -> None:
        self.app, self.buckets, self.lookups = app, Buckets(), asyncio.Semaphore(LOOKUPS)

    async def answer(self, vpc_id: UUID, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                response = await self.respond(vpc_id, Request(scope))
        except db.LOST as error:
            log.warning("metadata_failed", vpc_id=str(vpc_id), error=repr(error))
            response = told(503, "try again")
        response.headers["connection"] = "close"
        await response(scope, receive, send)

    async def respond(self, vpc_id: UUID, request: Request) -> Response:
        address, path = request.client.host if request.client else "", request.scope["path"]
        if self.buckets.take((vpc_id, address), BURST, BURST / RATE):
            return told(429, f"more than {RATE} requests a second", {"retry-after": "1"})
        verbs = ("PUT",) if path == "/latest/api/token" else ("GET", "HEAD")
        if request.method not in verbs:
            return told(405, f"this takes {verbs[0]}", {"allow": ", ".join(verbs)})
        async with self.lookups, self.app.db.reading() as tx:
            found = await db.record(tx, _ASKING, vpc=vpc_id, address=address)
        if found is None:
            return told(404, "not found")
        if verbs == ("PUT",):
            return self.token(request, found["id"])
        claims = self.app.cloud.verify(request.headers.get(TOKEN, ""))
        if claims is None or claims.get("metadata") != str(found["id"]):
            return told(401, f"this takes a token of PUT /latest/api/token in {TOKEN}")
        there = find({"latest": tree(found)}, path.removeprefix("/"))
        if there is None:
            return told(404, "not found")
        return told(200, listing(there) if isinstance(there, Mapping) else there)

    def token(self, request: Request, instance_id: UUID) -> Response:
        if "x-forwarded-for" in request.headers:
            return told(403, "a token is for the instance itself, and not passed on")
        seconds = request.headers.get(TTL, "")
        if not re.fullmatch("[0-9]{1,5}", seconds) or not 1 <= int(seconds) <= LONGEST:
            return told(400, f"{TTL} is a number from 1 to {LONGEST}")
        return told(200, self.app.cloud.sign({"metadata": str(instance_id)}, int(seconds)), {TTL: seconds})


def told(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(text, status, {"cache-control": "no-store", **(headers or {})})


def tree(found: Any) -> Tree:
    """All that the instance may read. What has no value is not there."""
    called = hostname(found["name"])
    named, keys = f"{called}.{DOMAIN}" if called else "", found["ssh_keys"]
    document = {
        "accountId": found["tenant_id"], "imageId": found["image"], "instanceId": found["id"],
        "instanceType": found["instance_type"], "pendingTime": f"{found['created_at'].astimezone(UTC):%FT%TZ}",
        "privateIp": found["private_ip"],
    }  # fmt: skip
    data = {
        "ami-id": found["image"],
        "hostname": named,
        "instance-id": str(found["id"]),
        "instance-type": found["instance_type"],
        "local-hostname": named,
        "local-ipv4": found["private_ip"],
        "mac": networks.mac(found["private_ip"]),
        "public-ipv4": found["public_ip"],
        "public-keys": keys
        and {"": "\n".join(f"{number}={key.split(' ', 2)[2]}" for number, key in enumerate(keys))}
        | {str(number): {"openssh-key": key} for number, key in enumerate(keys)},
        "tags": found["labels"] and {"instance": found["labels"]},
    }
    return {
        "dynamic": {"instance-identity": {"document": orjson.dumps(document, default=str).decode()}},
        "meta-data": {name: value for name, value in data.items() if value},
        **({"user-data": found["user_data"]} if found["user_data"] else {}),
    }


def find(node: Any, path: str) -> Tree | str | None:
    """What is at this path. A name may have slashes in it: that of a label."""
    while path:
        if not isinstance(node, Mapping):
            return None
        if path in node:
            return node[path]  # type: ignore[no-any-return]
        head, _, path = path.partition("/")
        node = node.get(head)
    return node  # type: ignore[no-any-return]


def listing(node: Tree) -> str:
    """The names in it, a line each, or what it has for a listing under no name."""
    return node.get("") or "\n".join(f"{name}/" if isinstance(node[name], Mapping) else name for name in sorted(node))
