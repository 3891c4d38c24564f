"""Objects in a bucket of an S3 server, such as Ceph's gateway: `<cloud>/<id>`.

What is put in pieces is an upload of several parts, and an object once that is completed. Uploads that were never
completed are listed, and removed with their object.
"""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from drivers.objects import Hashes, NoRoom, StorageNode, Stored, pieces, settled

PART = 8 * 2**20  # 10,000 of them are the most of one object
LEAST, MOST, PARTS = 5 * 2**20, 5 * 2**30, 10_000  # S3's limits of a part, though the last may be smaller
PIECE = 2**18
HEADS = 16  # requests at once
PROBE_SECONDS = 5.0
ABSENT, FULL = ("NoSuchKey", "404"), ("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull")
T = TypeVar("T")


class S3Objects:
    """See ObjectStore. The bucket has to be there; others' keys in it are left alone.

    Raises LookupError where a setting is missing.
    """

    one_host = False

    def __init__(
        self, cloud_id: str, *, endpoint: str, bucket: str, access_key: str, secret_key: str, region: str
    ) -> None:
        settings = {"endpoint": endpoint, "bucket": bucket, "access_key": access_key, "secret_key": secret_key}
        if missing := [f"THECLOUD_OBJECTS_S3_{name.upper()}" for name, value in settings.items() if not value]:
            raise LookupError(f"the objects driver 's3' needs {', '.join(missing)}")
        self._endpoint, self._bucket, self._prefix = endpoint, bucket, f"{cloud_id}/"
        self._account = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key, "region_name": region}
        self._stack, self._opening = AsyncExitStack(), asyncio.Lock()
        self._opened: Any = None
        self._seen = datetime.now(UTC)

    async def close(self) -> None:
        await self._stack.aclose()

    async def put(self, id: UUID, data: AsyncIterator[bytes]) -> Stored:
        client, hashes = await self._client(), Hashes()
        async with aclosing(pieces(data, PART)) as cut:
            piece = await anext(cut, b"")
            if len(piece) < PART:
                md5 = await asyncio.to_thread(taken, piece, hashes)
                with named(id):
                    await finished(client.put_object(**self._at(id), Body=piece, ContentMD5=md5))
                return hashes.stored()
            upload = await self._begun(id)
            try:
                while piece:
                    _, piece = await both(upload.add(piece, hashes), anext(cut, b""))
                await upload.complete()
            except BaseException:
                await upload.abort()
                raise
        return hashes.stored()

    async def compose(self, id: UUID, parts: Sequence[UUID]) -> Stored:
        sizes = await self._sizes(parts)
        fitting = all(LEAST <= size <= MOST for size in sizes[:-1]) and all(0 < size <= MOST for size in sizes[-1:])
        if not sizes or not fitting or len(sizes) > PARTS:
            async with aclosing(self._one_by_one(parts)) as data:
                return await self.put(id, data)
        upload, hashes = await self._begun(id), Hashes()
        try:
            for part in parts:
                await both(upload.copy(part, self._at(part)), self._hash(part, hashes))
            await upload.complete()
        except BaseException:
            await upload.abort()
            raise
        return hashes.stored()

    async def get(self, id: UUID, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        client = await self._client()
        if end is not None and end <= start:
            await self._size(id)
            return
        whole = start == 0 and end is None
        wanted = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        try:
            with named(id):
                reply = await client.get_object(**self._at(id), **wanted)
        except ClientError as error:
            if code(error) == "InvalidRange":  # it begins where the object has ended
                return
            raise
        async with reply["Body"] as body:
            while piece := await body.read(PIECE):
                yield piece

    async def delete(self, id: UUID) -> None:
        client = await self._client()
        await client.delete_object(**self._at(id))
        async with aclosing(self._uploads(self._at(id)["Key"])) as uploads:
            async for each in uploads:
                await Upload(client, self._at(id), each["UploadId"], id).abort()

    async def list(self) -> AsyncGenerator[tuple[UUID, datetime]]:
        """Of an upload that was not completed, the moment is that of its beginning."""
        async with aclosing(self._uploads(self._prefix)) as uploads:
            async for each in uploads:
                yield UUID(each["Key"].removeprefix(self._prefix)), each["Initiated"]
        pages = (await self._client()).get_paginator("list_objects_v2")
        async for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
            for each in page.get("Contents", ()):
                yield UUID(each["Key"].removeprefix(self._prefix)), each["LastModified"]

    async def verify(self, id: UUID) -> Stored | None:
        hashes = Hashes()
        try:
            await self._hash(id, hashes)
        except LookupError:
            return None
        return hashes.stored()

    async def nodes(self) -> Sequence[StorageNode]:
        status = await self._probed()
        if status != "dead":
            self._seen = datetime.now(UTC)
        address = urlsplit(self._endpoint).netloc
        return [StorageNode(
            id=address, address=address, data_dir=f"s3://{self._bucket}/{self._prefix}", status=status,
            last_seen=self._seen,
        )]  # fmt: skip

    async def _client(self) -> Any:
        async with self._opening:
            if self._opened is None:
                config = AioConfig(
                    max_pool_connections=64, connect_timeout=10, read_timeout=300,
                    s3={"addressing_style": "path", "payload_signing_enabled": False},
                    retries={"mode": "standard"}, request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                )  # fmt: skip
                opening = get_session().create_client(
                    "s3", endpoint_url=self._endpoint, config=config, **self._account
                )  # fmt: skip
                self._opened = await self._stack.enter_async_context(opening)
        return self._opened

    def _at(self, id: UUID) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{id}"}

    async def _begun(self, id: UUID) -> "Upload":
        client = await self._client()
        with named(id):
            begun = await client.create_multipart_upload(**self._at(id))
        return Upload(client, self._at(id), begun["UploadId"], id)

    async def _size(self, id: UUID) -> int:
        client = await self._client()
        with named(id):
            return int((await client.head_object(**self._at(id)))["ContentLength"])

    async def _sizes(self, ids: Sequence[UUID]) -> Sequence[int]:
        sizes: list[int] = []
        for at in range(0, len(ids), HEADS):
            sizes += await asyncio.gather(*map(self._size, ids[at : at + HEADS]))
        return sizes

    async def _hash(self, id: UUID, hashes: Hashes) -> None:
        async with aclosing(self.get(id)) as data, aclosing(pieces(data, PART)) as cut:
            async for piece in cut:
                await asyncio.to_thread(hashes.update, piece)

    async def _one_by_one(self, ids: Sequence[UUID]) -> AsyncGenerator[bytes]:
        for id in ids:
            async with aclosing(self.get(id)) as data:
                async for piece in data:
                    yield piece

    async def _uploads(self, prefix: str) -> AsyncGenerator[dict[str, Any]]:
        """Those that were not completed."""
        pages = (await self._client()).get_paginator("list_multipart_uploads")
        async for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
            for each in page.get("Uploads", ()):
                yield each

    async def _probed(self) -> Literal["alive", "suspect", "dead"]:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await (await self._client()).head_bucket(Bucket=self._bucket)
        except ClientError as error:
            return "dead" if int(error.response["ResponseMetadata"]["HTTPStatusCode"]) >= 500 else "suspect"
        except (TimeoutError, BotoCoreError):
            return "dead"
        return "alive"


class Upload:
    """An object that is not whole: the parts of it that are there."""

    def __init__(self, client: Any, at: dict[str, str], upload_id: str, id: UUID) -> None:
        self._client, self._upload, self._id = client, at | {"UploadId": upload_id}, id
        self._parts: list[dict[str, Any]] = []

    async def add(self, data: bytes, hashes: Hashes) -> None:
        number = len(self._parts) + 1
        md5 = await asyncio.to_thread(taken, data, hashes)
        with named(self._id):
            part = await self._client.upload_part(**self._upload, PartNumber=number, Body=data, ContentMD5=md5)
        self._parts.append({"PartNumber": number, "ETag": part["ETag"]})

    async def copy(self, part: UUID, at: dict[str, str]) -> None:
        number = len(self._parts) + 1
        with named(part):
            copied = await self._client.upload_part_copy(**self._upload, PartNumber=number, CopySource=at)
        self._parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})

    async def complete(self) -> None:
        with named(self._id):
            await finished(
                self._client.complete_multipart_upload(**self._upload, MultipartUpload={"Parts": self._parts})
            )

    async def abort(self) -> None:
        """Have it gone. Nothing there is success."""
        try:
            await finished(self._client.abort_multipart_upload(**self._upload))
        except ClientError as error:
            if code(error) != "NoSuchUpload":
                raise


@contextmanager
def named(id: UUID) -> Iterator[None]:
    """Raises LookupError for what S3 says when the object is not there, NoRoom when its room is used up."""
    try:
        yield
    except ClientError as error:
        if code(error) in ABSENT:
            raise LookupError(f"object {id} is not there") from None
        if code(error) in FULL:
            raise NoRoom(str(error)) from None
        raise


def taken(data: bytes, hashes: Hashes) -> str:
    """Take it into the hashes; its MD5 as the server checks it, who then need not have it signed as well."""
    hashes.update(data)
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


async def finished(request: Coroutine[Any, Any, T]) -> T:
    """Do it to its end, also when this is cancelled meanwhile: what has been sent cannot be called back."""
    running = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await settled(running)
        raise


async def both(one: Coroutine[Any, Any, T], other: Any) -> tuple[T, Any]:
    """What both return, at once. Where one raises, the other is cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(one), group.create_task(other)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return first.result(), second.result()
