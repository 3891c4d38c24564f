"""Objects in a real Ceph, through its S3 gateway."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiobotocore.session import get_session

from drivers import load
from drivers.objects import NoRoom
from drivers.s3 import S3Objects
from tests import ceph
from tests.drivers.object_contract import ObjectContract, got, made, sent
from tests.engines import require

BUCKET = "objects"


@pytest.fixture(scope="module")
def configuration() -> Iterator[Path]:
    """Of a Ceph of our own."""
    require("s3")
    with ceph.running() as config:
        yield config


@pytest.fixture(scope="module")
def endpoint(configuration: Path) -> Iterator[str]:
    """Of its gateway."""
    with ceph.gateway(configuration) as url:
        yield url


def store(endpoint: str, cloud_id: str = "", bucket: str = BUCKET) -> S3Objects:
    return S3Objects(cloud_id or str(uuid4()), endpoint=endpoint, bucket=bucket, access_key=ceph.ACCESS_KEY,
                     secret_key=ceph.SECRET_KEY, region="us-east-1")  # fmt: skip


@pytest.fixture(scope="module")
async def client(endpoint: str) -> AsyncIterator[Any]:
    """Of the S3 server, which has the bucket."""
    keys = {"aws_access_key_id": ceph.ACCESS_KEY, "aws_secret_access_key": ceph.SECRET_KEY}
    async with get_session().create_client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys) as client:
        await client.create_bucket(Bucket=BUCKET)
        yield client


@pytest.fixture
async def little(configuration: Path, client: Any) -> str:
    """A bucket that may have two MiB."""
    await client.create_bucket(Bucket="little")
    quota = ("--conf", str(configuration), "--name", "client.gateway", "--quota-scope", "bucket", "--bucket", "little")
    await asyncio.to_thread(ceph.run, "radosgw-admin", "quota", "set", *quota, "--max-size", str(2**21))
    await asyncio.to_thread(ceph.run, "radosgw-admin", "quota", "enable", *quota)
    return "little"


@pytest.fixture
async def driver(endpoint: str, client: Any) -> AsyncIterator[S3Objects]:
    driver = store(endpoint)
    yield driver
    for id in {id async for id, _ in driver.list()}:
        await driver.delete(id)
    await driver.close()


class TestS3Objects(ObjectContract):
    @pytest.fixture
    def driver(self, driver: S3Objects) -> S3Objects:
        return driver

    async def test_an_upload_that_was_not_completed_is_listed_and_deleted(self, driver: S3Objects, client: Any) -> None:
        [node] = await driver.nodes()
        cloud_id, id = node.data_dir.split("/")[3], uuid4()
        key = {"Bucket": BUCKET, "Key": f"{cloud_id}/{id}"}
        begun = await client.create_multipart_upload(**key)
        await client.upload_part(**key, UploadId=begun["UploadId"], PartNumber=1, Body=b"x")
        [(listed, moment)] = [found async for found in driver.list()]
        assert listed == id
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
        with pytest.raises(LookupError):
            await got(driver, id)
        await driver.delete(id)
        assert not [found async for found in driver.list()]

    async def test_large_parts_are_copied_where_they_are(
        self, driver: S3Objects, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parts, data = [uuid4(), uuid4()], made(9 * 2**20)
        for part in parts:
            await driver.put(part, sent(data))

        async def sending(*_: object) -> None:
            raise AssertionError("it is sent")

        monkeypatch.setattr("drivers.s3.Upload.add", sending)
        assert (await driver.compose(uuid4(), parts)).size_bytes == 2 * len(data)

    async def test_clouds_in_one_bucket_do_not_see_each_other(self, driver: S3Objects, endpoint: str) -> None:
        other, id = store(endpoint), uuid4()
        await driver.put(id, sent(b"mine"))
        assert not [found async for found in other.list()]
        await other.delete(id)
        with pytest.raises(LookupError):
            await got(other, id)
        await other.close()
        assert await got(driver, id) == b"mine"

    async def test_where_there_is_no_room_nothing_is_left(self, endpoint: str, little: str) -> None:
        driver, id = store(endpoint, bucket=little), uuid4()
        await driver.put(id, sent(made(2**20)))
        for size in (3 * 2**20, 20 * 2**20):
            with pytest.raises(NoRoom):
                await driver.put(uuid4(), sent(made(size)))
        assert [found async for found, _ in driver.list()] == [id]
        await driver.close()

    async def test_without_its_bucket_nothing_is_taken_for_gone(self, endpoint: str) -> None:
        driver = store(endpoint, bucket="absent")
        for step in (driver.verify(uuid4()), driver.put(uuid4(), sent(b"x")), driver.delete(uuid4())):
            with pytest.raises(Exception, match="NoSuchBucket"):
                await step
        [node] = await driver.nodes()
        assert node.status == "suspect"
        await driver.close()


async def test_where_nobody_answers_it_is_dead() -> None:
    driver = store(f"http://127.0.0.1:{ceph.port()}")
    [node] = await driver.nodes()
    assert node.status == "dead"
    await driver.close()


def test_what_is_not_set_is_said() -> None:
    with pytest.raises(LookupError, match="THECLOUD_OBJECTS_S3_ENDPOINT"):
        store("")


async def test_the_driver_is_loaded_by_its_name(tmp_path: Path) -> None:
    settings = {"endpoint": "http://127.0.0.1:1", "bucket": "b", "access_key": "a", "secret_key": "s", "region": "r"}
    loaded = load.load(compute="docker", network="linux", cloud_id="test", publish="127.0.0.1",
                       external="198.18.0.0/16", data=tmp_path, smtp_url="", mail_from="", objects="s3",
                       s3=settings)  # fmt: skip
    assert isinstance(loaded.objects, S3Objects)
    assert not loaded.objects.one_host
    await loaded.close()
