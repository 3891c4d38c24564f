"""A cloud to measure: an embedded database, somebody with a key, and twenty instances and VPCs of theirs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

from drivers import load
from server import app as server_app
from server import auth, db, migrate, postgres, process
from server.auth import Member, User
from server.config import Config
from server.db import Database, Tx
from server.instances import Instance
from server.networks import Vpc
from server.services.tenants import Tenant

INSTANCES = 20
NO_LIMIT = 10**9  # calls a minute: a token is taken for every call, and there always is one


@dataclass(frozen=True)
class Prepared:
    """A database with everything in it, and a key to read it with."""

    url: str
    key: str
    tenant_id: UUID


@asynccontextmanager
async def prepared() -> AsyncIterator[Prepared]:
    """A database of its own, durable, in a temporary folder."""
    with TemporaryDirectory() as folder:
        async with postgres.embedded(Path(folder)) as url:
            await migrate.upgrade(url)
            server_app.load_services()
            async with Database(url, 1) as database, database.transaction() as tx:
                yielded = await fill(tx, url)
            yield yielded


async def fill(tx: Tx, url: str) -> Prepared:
    user_id, tenant_id, key = uuid4(), uuid4(), auth.new_key()
    await tx.connection.execute("insert into hosts values ('local', 'docker', 64, 65536, now())")
    await db.insert(tx, User, id=user_id, email="ada@example.com", name="ada", password_hash="", default_tenant_id=None)
    await db.insert(tx, Tenant, id=tenant_id, name="ada", slug="ada", owner_id=user_id)
    await db.insert(tx, Member, id=uuid4(), tenant_id=tenant_id, user_id=user_id, role="owner")
    await tx.connection.execute("update users set default_tenant_id = $1", tenant_id)
    await tx.connection.execute(
        "insert into api_keys (id, user_id, name, hash, prefix, last_used) values ($1, $2, 'bench', $3, $4, now())",
        uuid4(), user_id, auth.digest(key), key[:15],
    )  # fmt: skip
    for number in range(INSTANCES):
        await db.insert(
            tx, Instance, id=uuid4(), tenant_id=tenant_id, user_id=user_id, host="local", driver="docker",
            name=f"web-{number:02}", netns=None, tap=None,
            image="nginx", instance_type="basic-2", vcpus=1, memory_mb=1024, ports=f"{20000 + number}:80",
            env=["MODE=production"], cmd=[], labels={"tier": "web"}, metadata={"owner": "ops"}, vpc_id=None,
            subnet_id=None, private_ip=f"10.0.0.{number + 2}", container_id=uuid4().hex[:12], desired="RUNNING",
            generation=1, status="RUNNING", status_message=None, observed_generation=1,
        )  # fmt: skip
    for number in range(INSTANCES):
        await db.insert(
            tx, Vpc, id=uuid4(), tenant_id=tenant_id, user_id=user_id, host="local", name=f"vpc-{number:02}",
            cidr_block=f"10.{number}.0.0/16", automatic=False, desired="ACTIVE", generation=1, status="active",
            status_message=None, observed_generation=1,
        )  # fmt: skip
    return Prepared(url, key, tenant_id)


@asynccontextmanager
async def app(url: str, folder: Path) -> AsyncIterator[server_app.App]:
    """The server's app on this database, with its listener and its real drivers, serving nothing yet."""
    server_app.load_services()
    config = Config(data=folder, grpc="127.0.0.1:0", http="127.0.0.1:0", rate_limit=NO_LIMIT)
    this_cloud = await process.read_cloud(url)
    drivers = load.load(
        compute=config.compute, network=config.network, cloud_id=str(this_cloud.id), publish=config.publish,
        external=config.external_network, data=folder, smtp_url="", mail_from=config.mail_from,
    )  # fmt: skip
    async with server_app.opened(config, url, drivers, this_cloud) as opened:
        yield opened
