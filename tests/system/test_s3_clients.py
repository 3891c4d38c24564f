"""The programs that people use with S3, as they are, against the S3 port of a whole cloud."""

import asyncio
import filecmp
import hashlib
import os
import random
import re
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from aiodocker import Docker
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.engines import require
from tests.system.conftest import folder_of_a_cloud
from tests.system.process import Person, Thecloud

FILES = 2000
LARGE = 10**9
GROWTH = 64 * 2**20  # bytes of memory that a large object may take
REGION = "us-east-1"
PROGRAMS = Path(sys.executable).parent  # where those that are Python packages are


@dataclass(frozen=True)
class S3:
    """The port, and somebody's access key."""

    cloud: Thecloud
    person: Person
    url: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What the clients are told with. Nothing of whoever runs the tests reaches them."""
        home = str(self.cloud.folder / "home")
        return {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": home, "LANG": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true",
            "RCLONE_CONFIG": "", "RCLONE_CONFIG_CLOUD_TYPE": "s3", "RCLONE_CONFIG_CLOUD_PROVIDER": "Other",
            "RCLONE_CONFIG_CLOUD_ENDPOINT": self.url, "RCLONE_CONFIG_CLOUD_REGION": REGION,
            "RCLONE_CONFIG_CLOUD_ACCESS_KEY_ID": self.access_key,
            "RCLONE_CONFIG_CLOUD_SECRET_ACCESS_KEY": self.secret_key,
            "RESTIC_REPOSITORY": f"s3:{self.url}/backups/laptop", "RESTIC_PASSWORD": "correct horse",
        }  # fmt: skip

    async def run(self, *command: str | Path) -> str:
        """What a client's program prints. It has to succeed."""
        child = await asyncio.create_subprocess_exec(
            *command, env=self.environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            output, errors = await child.communicate()
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
        assert child.returncode == 0, f"{command}: {output.decode()[-2000:]} {errors.decode()[-2000:]}"
        return output.decode()

    def client(self) -> Any:
        """boto3's, as it is."""
        return boto3.client(
            "s3", endpoint_url=self.url, region_name=REGION, aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip


@pytest.fixture(scope="module")
async def s3(docker: Docker) -> AsyncIterator[S3]:
    async with folder_of_a_cloud(docker) as cloud:
        await cloud.up("--s3", "127.0.0.1:0")
        person = await cloud.person()
        made = await person.rest.post("/auth/keys", json={"name": "clients", "s3": True})
        assert made.status_code == 201, made.text
        keys = made.json()["s3"]
        (cloud.folder / "home").mkdir()
        yield S3(cloud, person, cloud.s3, keys["access_key_id"], keys["secret_access_key"])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 2,000 files, some with names that have to be quoted somewhere."""
    root, dice = tmp_path_factory.mktemp("tree"), random.Random(2000)
    folders = ["photos", "photos/2026", "a b+c", "naïve/日本語", "100%/~x", "deep/er/and/deeper"]
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        name = f"{dice.choice(folders)}/{dice.choice(['file', 'ünï', 'a&b=c', 'x y', '(1)'])}-{number}"
        (root / name).write_bytes(dice.randbytes(dice.choice([0, 10, 1_000, 20_000])))
    return root


def same(one: Path, other: Path) -> None:
    """Two folders have the same files with the same bytes."""
    names = sorted(str(file.relative_to(one)) for file in one.rglob("*") if file.is_file())
    assert names == sorted(str(file.relative_to(other)) for file in other.rglob("*") if file.is_file())
    assert len(names) == FILES
    _, different, unread = filecmp.cmpfiles(one, other, names, shallow=False)
    assert not different and not unread


def copy(tree: Path, folder: Path) -> Path:
    """The tree with its times, to be changed."""
    shutil.copytree(tree, folder / "copy")
    return folder / "copy"


def changed(tree: Path) -> str:
    """One of its files, which is another one now."""
    [file, *_] = sorted(tree.rglob("*-7"))
    file.write_bytes(b"changed")
    return str(file.relative_to(tree))


@pytest.mark.timeout(300)
async def test_rclone_syncs_a_tree(s3: S3, tree: Path, tmp_path: Path) -> None:
    mine, there = copy(tree, tmp_path), "cloud:rclone/tree"
    at_once = ("--transfers", "8", "--checkers", "8")
    await s3.run("rclone", "mkdir", "cloud:rclone")
    await s3.run("rclone", "sync", mine, there, *at_once)
    await s3.run("rclone", "check", mine, there, *at_once)
    assert len((await s3.run("rclone", "lsf", "-R", "--files-only", there)).splitlines()) == FILES
    name = changed(mine)
    report = await s3.run("rclone", "sync", mine, there, *at_once, "--combined", "-")
    assert [line for line in report.splitlines() if not line.startswith("= ")] == [f"* {name}"]
    await s3.run("rclone", "sync", there, tmp_path / "back", *at_once)
    same(mine, tmp_path / "back")
    await s3.run("rclone", "purge", "cloud:rclone")
    assert "rclone" not in await s3.run("rclone", "lsd", "cloud:")


@pytest.mark.timeout(300)
async def test_the_aws_command_line_syncs_a_tree(s3: S3, tree: Path, tmp_path: Path) -> None:
    mine, there = copy(tree, tmp_path), "s3://awscli/tree"
    await s3.run("aws", "s3", "mb", "s3://awscli")
    sent = await s3.run("aws", "s3", "sync", "--no-progress", mine, there)
    assert len([line for line in sent.splitlines() if line.startswith("upload:")]) == FILES
    assert not await s3.run("aws", "s3", "sync", "--no-progress", mine, there)
    name = changed(mine)
    [line] = (await s3.run("aws", "s3", "sync", "--no-progress", mine, there)).splitlines()
    assert line.endswith(f"{there}/{name}")
    await s3.run("aws", "s3", "sync", "--no-progress", there, tmp_path / "back")
    same(mine, tmp_path / "back")


@pytest.mark.timeout(300)
async def test_a_large_file_goes_up_and_down_in_parts(s3: S3, tmp_path: Path) -> None:
    assert s3.cloud.process
    large, back = tmp_path / "large", tmp_path / "back"
    hash = filled(large)
    await s3.run("aws", "s3", "mb", "s3://large")
    s3.cloud.process.forget_most()
    before = s3.cloud.process.memory()
    await s3.run("aws", "s3", "cp", "--no-progress", large, "s3://large/file")
    await s3.run("aws", "s3", "cp", "--no-progress", "s3://large/file", back)
    growth = s3.cloud.process.most_memory() - before
    print(f"{growth / 2**20:.1f} MiB")
    assert hash_of(back) == hash
    etag = s3.client().head_object(Bucket="large", Key="file")["ETag"]
    assert etag.strip('"').endswith(f"-{-(-LARGE // (8 * 2**20))}")  # of so many parts
    assert growth <= GROWTH
    await s3.run("aws", "s3", "rb", "--force", "s3://large")


def filled(path: Path) -> str:
    """Make a file of a gigabyte; its SHA-256."""
    with path.open("wb") as file:
        for number in range(LARGE // 10**6):
            file.write(random.Random(number).randbytes(10**6))
    return hash_of(path)


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.timeout(300)
async def test_restic_backs_up_checks_and_restores(s3: S3, tree: Path, tmp_path: Path) -> None:
    require("restic")
    await s3.run("restic", "init")
    await s3.run("restic", "backup", tree)
    await s3.run("restic", "check", "--read-data")
    await s3.run("restic", "restore", "latest", "--target", tmp_path)
    same(tree, tmp_path / tree.relative_to("/"))
    assert len((await s3.run("restic", "snapshots", "--compact")).split("laptop")) >= 1
    await s3.run("restic", "forget", "latest", "--prune")


async def test_whoever_has_a_presigned_url_needs_no_key(s3: S3) -> None:
    client = s3.client()
    client.create_bucket(Bucket="by-url")

    def url(method: str, **more: str) -> str:
        fields = {"Bucket": "by-url", "Key": "a b/ü+?&.txt"} | more
        return str(client.generate_presigned_url(method, Params=fields, ExpiresIn=60))

    async with httpx.AsyncClient(trust_env=False) as anybody:
        assert (await anybody.put(url("put_object"), content=b"hello")).status_code == 200
        reply = await anybody.get(url("get_object", ResponseContentType="text/x-said"))
        assert (reply.content, reply.headers["content-type"]) == (b"hello", "text/x-said")
        assert (await anybody.put(url("get_object"), content=b"other")).status_code == 403
        assert (await anybody.get(re.sub(r"Expires=\d", "Expires=9", url("get_object")))).status_code == 403
        assert (await anybody.get(url("get_object").partition("?")[0])).status_code == 403
    assert client.get_object(Bucket="by-url", Key="a b/ü+?&.txt")["Body"].read() == b"hello"


async def test_a_part_of_an_object_is_read_by_its_range(s3: S3) -> None:
    client, content = s3.client(), random.Random(1).randbytes(3_000_000)
    client.create_bucket(Bucket="ranges")
    client.put_object(Bucket="ranges", Key="bytes", Body=content)
    for range, wanted in {
        "bytes=0-0": content[:1], "bytes=1000000-1999999": content[1_000_000:2_000_000],
        "bytes=2999000-": content[2_999_000:], "bytes=-17": content[-17:], "bytes=2999999-9999999": content[-1:],
    }.items():  # fmt: skip
        reply = client.get_object(Bucket="ranges", Key="bytes", Range=range)
        assert (reply["ResponseMetadata"]["HTTPStatusCode"], reply["Body"].read()) == (206, wanted)
    with pytest.raises(ClientError) as refused:
        client.get_object(Bucket="ranges", Key="bytes", Range="bytes=3000000-")
    assert refused.value.response["Error"]["Code"] == "InvalidRange"


async def test_the_documented_api_has_the_same_objects(s3: S3) -> None:
    client, rest = s3.client(), s3.person.rest
    assert (await rest.post("/storage/buckets", json={"name": "shared"})).status_code == 201
    assert (await rest.put("/storage/shared/by/rest", content=b"rest")).status_code == 201
    client.put_object(Bucket="shared", Key="by/s3", Body=b"s3")
    assert client.get_object(Bucket="shared", Key="by/rest")["Body"].read() == b"rest"
    assert (await rest.get("/storage/shared/by/s3")).content == b"s3"
    listed = {each["key"]: each["etag"] for each in (await rest.get("/storage/shared")).json()}
    assert listed == {each["Key"]: each["ETag"].strip('"')
                      for each in client.list_objects_v2(Bucket="shared")["Contents"]}  # fmt: skip
