"""Bodies in chunks, against the examples of Amazon's documentation."""

import asyncio
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thecloud.v1 import storage_pb2

from server.s3 import chunks
from server.s3.chunks import Payload
from server.s3.errors import S3Error
from server.s3.signature import ALGORITHM, Claim, sign, signing_key

ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEY = signing_key(SECRET, "20130524", "us-east-1")
DATA = b"a" * 66_560
# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
EXAMPLE = (
    b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n" + DATA[:65_536]
    + b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n" + DATA[65_536:]
    + b"\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"
)  # fmt: skip
# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
TRAILER_EXAMPLE = (
    b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n" + DATA[:65_536]
    + b"\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n" + DATA[65_536:]
    + b"\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n"
    b"x-amz-checksum-crc32c:sOO8/Q==\r\n"
    b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
)  # fmt: skip
CRC32C = {"x-amz-trailer": "x-amz-checksum-crc32c"}


def payload(kind: str, body: bytes, size: int | None, seed: str = "", piece: int = 1000, **more: str) -> Payload:
    """A body that comes in pieces of so many bytes."""
    sent = [body[at : at + piece] for at in range(0, len(body), piece)] or [b""]
    events = [{"type": "http.request", "body": each, "more_body": True} for each in sent]
    events[-1]["more_body"] = False

    async def receive() -> Any:
        return events.pop(0)

    headers = {name.replace("_", "-"): value for name, value in more.items()}
    if size is not None:
        headers["x-amz-decoded-content-length" if kind.startswith("STREAMING") else "content-length"] = str(size)
    claim = Claim(ID, "20130524", "us-east-1", "20130524T000000Z", ["host"], seed, kind, presigned=False)
    return Payload(receive, headers, claim, KEY)


def read(read: Payload) -> bytes:
    async def all() -> bytes:
        return b"".join([piece async for piece in read.pieces()])

    return asyncio.run(all())


def refusal(refused: Payload) -> str:
    with pytest.raises(S3Error) as caught:
        read(refused)
    return caught.value.code


@pytest.mark.parametrize("piece", [1, 7, 1000, 100_000])
def test_the_documentations_example_is_right(piece: int) -> None:
    assert read(payload(chunks.SIGNED, EXAMPLE, len(DATA), SEED, piece)) == DATA
    right = payload(chunks.SIGNED_TRAILER, TRAILER_EXAMPLE, len(DATA), TRAILER_SEED, piece, **CRC32C)
    assert read(right) == DATA
    assert right.trailers == {"x-amz-checksum-crc32c": "sOO8/Q=="}


@pytest.mark.parametrize(("before", "after", "code"), [
    (b"ad80", b"ad81", "SignatureDoesNotMatch"),  # of the first chunk
    (b"b6c6", b"b6c7", "SignatureDoesNotMatch"),  # of the last one
    (b"aaa\r\n", b"aab\r\n", "SignatureDoesNotMatch"),
    (b"\r\n400;", b"\r\n3ff;", "SignatureDoesNotMatch"),
    (b"\r\n400;", b"\r\n401;", "IncompleteBody"),
    (b";chunk-signature=0055", b";chunk-sig=0055", "InvalidRequest"),
    (b"10000;", b"x0000;", "InvalidRequest"),
    (b"10000;", b"-1;", "InvalidRequest"),
    (b"10000;", b"F" * 600, "InvalidRequest"),
])  # fmt: skip
def test_what_was_changed_is_refused(before: bytes, after: bytes, code: str) -> None:
    assert EXAMPLE.count(before) >= 1
    assert refusal(payload(chunks.SIGNED, EXAMPLE.replace(before, after), len(DATA), SEED)) == code


@pytest.mark.parametrize(("before", "after", "code"), [
    (b"sOO8", b"sOO9", "SignatureDoesNotMatch"),
    (b"d81f", b"d81e", "SignatureDoesNotMatch"),
    (b"crc32c", b"crc32", "MalformedTrailerError"),
    (b"x-amz-checksum-crc32c:sOO8/Q==\r\n", b"", "MalformedTrailerError"),
    (b"x-amz-trailer-signature:", b"x-another:", "MalformedTrailerError"),
    (b"\r\nx-amz-trailer-sig", b"\r\n\r\nx-amz-trailer-sig", "SignatureDoesNotMatch"),
    (b"sOO8/Q==", b"s\0", "MalformedTrailerError"),
])  # fmt: skip
def test_trailers_that_were_changed_are_refused(before: bytes, after: bytes, code: str) -> None:
    assert TRAILER_EXAMPLE.count(before) >= 1
    body = TRAILER_EXAMPLE.replace(before, after)
    assert refusal(payload(chunks.SIGNED_TRAILER, body, len(DATA), TRAILER_SEED, **CRC32C)) == code


@given(st.integers(0, len(EXAMPLE) - 3))
def test_what_breaks_off_is_refused(end: int) -> None:
    assert refusal(payload(chunks.SIGNED, EXAMPLE[:end], len(DATA), SEED)) == "IncompleteBody"


@pytest.mark.parametrize("size", [0, 65_536, len(DATA) - 1, len(DATA) + 1])
def test_another_length_than_announced_is_refused(size: int) -> None:
    assert refusal(payload(chunks.SIGNED, EXAMPLE, size, SEED)) == "IncompleteBody"
    assert refusal(payload(chunks.SIGNED, EXAMPLE, None, SEED)) == "MissingContentLength"


def test_chunks_are_not_taken_in_another_order_or_twice() -> None:
    first, rest = EXAMPLE[: 65_536 + 87], EXAMPLE[65_536 + 87 :]
    assert refusal(payload(chunks.SIGNED, first + first + rest, 2 * len(DATA), SEED)) == "SignatureDoesNotMatch"


@given(st.binary(max_size=50_000), st.integers(8192, 20_000), st.integers(1, 70_000))
def test_unsigned_chunks_are_put_together(data: bytes, size: int, piece: int) -> None:
    cut = [data[at : at + size] for at in range(0, len(data), size)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in cut) + b"0\r\nx-amz-checksum-crc32c: AAAA\r\n\r\n"
    right = payload(chunks.UNSIGNED_TRAILER, body, len(data), piece=piece, **CRC32C)
    assert read(right) == data
    assert right.trailers == {"x-amz-checksum-crc32c": "AAAA"}


@given(st.binary(max_size=20_000), st.integers(8192, 20_000))
def test_chunks_that_we_sign_are_right(data: bytes, size: int) -> None:
    before, body = SEED, b""
    for each in [*(data[at : at + size] for at in range(0, len(data), size)), b""]:
        said = f"{chunks.EMPTY}\n{hashlib.sha256(each).hexdigest()}"
        scope = "20130524T000000Z\n20130524/us-east-1/s3/aws4_request"
        before = sign(KEY, f"{ALGORITHM}-PAYLOAD\n{scope}\n{before}\n{said}")
        body += b"%x;chunk-signature=%b\r\n%b\r\n" % (len(each), before.encode(), each)
    assert read(payload(chunks.SIGNED, body, len(data), SEED)) == data


def test_many_tiny_chunks_are_refused() -> None:
    body = b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n"
    assert refusal(payload(chunks.UNSIGNED_TRAILER, body, 10_000, piece=65_536)) == "InvalidChunkSizeError"


@pytest.mark.parametrize("lines", [["a:1", "a:1"], ["a:"] * 60_000, [f"a{number}:1" for number in range(60_000)]])
def test_trailers_are_few_and_each_has_a_name(lines: list[str]) -> None:
    body = b"0\r\n" + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
    assert refusal(payload(chunks.UNSIGNED_TRAILER, body, 0, piece=250_000, x_amz_trailer="a")) == (
        "MalformedTrailerError"
    )  # fmt: skip


@pytest.mark.parametrize("kind", [chunks.UNSIGNED, chunks.SIGNED, chunks.EMPTY])
def test_a_trailer_is_announced_only_where_one_can_be(kind: str) -> None:
    with pytest.raises(S3Error) as refused:
        payload(kind, b"", 0, **CRC32C)
    assert refused.value.code == "InvalidRequest"


def test_only_known_ways_to_sign_are_taken() -> None:
    for kind, code in (("", "InvalidArgument"), ("0" * 63, "InvalidArgument"),
                       ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "NotImplemented")):  # fmt: skip
        with pytest.raises(S3Error) as caught:
            payload(kind, b"", 0)
        assert caught.value.code == code


def requests(sent: Payload) -> list[Any]:
    async def all() -> list[Any]:
        first = storage_pb2.UploadObjectRequest(bucket="b", key="k")
        return [request async for request in sent.requests(first)]

    return asyncio.run(all())


def test_the_checksum_is_in_the_last_request() -> None:
    data = bytes(3 * chunks.PIECE + 1000)
    body = b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32c:AAAA\r\n\r\n" % (len(data), data)
    made = requests(payload(chunks.UNSIGNED_TRAILER, body, len(data), piece=65_536, **CRC32C))
    assert b"".join(each.data for each in made) == data
    assert [each.checksum_value for each in made] == [*([""] * (len(made) - 1)), "AAAA"]
    assert [each.key for each in made] == ["k", *([""] * (len(made) - 1))]
    assert len(made) > 2 and max(len(each.data) for each in made) < chunks.PIECE + 65_536


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_what_is_small_is_in_one_request(size: int) -> None:
    [request] = requests(payload("UNSIGNED-PAYLOAD", bytes(size), size))
    assert (request.key, request.data) == ("k", bytes(size))


def test_a_whole_body_is_what_it_is_signed_as() -> None:
    right = hashlib.sha256(b"<a/>").hexdigest()
    assert asyncio.run(payload(right, b"<a/>", 4).whole(100, 1)) == b"<a/>"
    with pytest.raises(S3Error) as caught:
        asyncio.run(payload(right, b"<b/>", 4).whole(100, 1))
    assert caught.value.code == "XAmzContentSHA256Mismatch"
    with pytest.raises(S3Error) as caught:
        asyncio.run(payload("UNSIGNED-PAYLOAD", bytes(101), None).whole(100, 1))
    assert caught.value.code == "MaxMessageLengthExceeded"
