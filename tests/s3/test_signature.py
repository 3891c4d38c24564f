"""Signatures, against botocore's own signers and the examples of Amazon's documentation."""

import datetime
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from server.s3 import signature
from server.s3.errors import S3Error
from server.s3.request import split_query

ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
HOST = "examplebucket.s3.amazonaws.com"
EMPTY = hashlib.sha256().hexdigest()
MAY_24_2013 = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC).timestamp()

keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
names = st.text(st.sampled_from("abcdefghijklmnop-"), min_size=1, max_size=10)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)


@contextmanager
def clock(moment: float) -> Iterator[None]:
    """The server's clock says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: moment)
        yield


@pytest.fixture
def in_2013() -> Iterator[None]:
    """The moment of the documentation's examples."""
    with clock(MAY_24_2013):
        yield


def judge(method: str, url: str, headers: dict[str, str], secret: str = SECRET) -> signature.Claim:
    """Whose the request is. Raises S3Error when the signature is wrong."""
    parts = urlsplit(url)
    pairs = split_query(parts.query.encode())
    lowered = {name.lower(): value for name, value in headers.items()} | {"host": parts.netloc}
    claim = signature.read(lowered, dict(pairs))
    assert claim
    signature.verify(claim, secret, method, parts.path, pairs, lowered)
    return claim


def signed(method: str, url: str, headers: dict[str, str], body: bytes = b"") -> dict[str, str]:
    request = AWSRequest(method, url, headers=headers, data=body)
    S3SigV4Auth(Credentials(ID, SECRET), "s3", "eu-central-1").add_auth(request)
    return dict(request.headers)


def presigned(method: str, url: str, seconds: int = 60) -> str:
    request = AWSRequest(method, url)
    S3SigV4QueryAuth(Credentials(ID, SECRET), "s3", "us-east-1", seconds).add_auth(request)
    return str(request.url)


def refusal(method: str, url: str, headers: dict[str, str], secret: str = SECRET) -> str:
    with pytest.raises(S3Error) as caught:
        judge(method, url, headers, secret)
    return caught.value.code


# https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
EXAMPLES: list[tuple[str, str, dict[str, str], str]] = [
    ("GET", "/test.txt", {"range": "bytes=0-9", "x-amz-content-sha256": EMPTY},
     "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
    ("PUT", "/test%24file.text", {
        "date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "x-amz-content-sha256": "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
     }, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
    ("GET", "/?lifecycle", {"x-amz-content-sha256": EMPTY},
     "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
    ("GET", "/?max-keys=2&prefix=J", {"x-amz-content-sha256": EMPTY},
     "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "headers", "expected"), EXAMPLES)
@pytest.mark.usefixtures("in_2013")
def test_the_documentations_examples_are_right(method: str, path: str, headers: dict[str, str], expected: str) -> None:
    headers = headers | {"x-amz-date": "20130524T000000Z"}
    names = ";".join(sorted(["host", *headers]))
    credential = f"{ID}/20130524/us-east-1/s3/aws4_request"
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={names},Signature={expected}"
    assert judge(method, f"https://{HOST}{path}", headers).access_key_id == ID
    headers["authorization"] = headers["authorization"].replace(expected, "0" * 64)
    assert refusal(method, f"https://{HOST}{path}", headers) == "SignatureDoesNotMatch"


@pytest.mark.usefixtures("in_2013")
def test_the_documentations_presigned_example_is_right() -> None:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    url = (
        f"https://{HOST}/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ID}%2F20130524%2Fus-east-1%2Fs3"
        "%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature="
        "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    assert judge("GET", url, {}).presigned
    assert refusal("PUT", url, {}) == "SignatureDoesNotMatch"


@given(keys, st.dictionaries(names, keys, max_size=4), st.dictionaries(names, values, max_size=4))
def test_what_botocore_signs_is_right(key: str, query: dict[str, str], metadata: dict[str, str]) -> None:
    url = f"http://127.0.0.1:9000/bucket/{quote(key)}"
    if query:
        url += "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
    sent = signed("PUT", url, headers, b"hello")
    assert judge("PUT", url, sent).payload == hashlib.sha256(b"hello").hexdigest()
    assert refusal("PUT", url, sent, "another") == "SignatureDoesNotMatch"
    assert refusal("DELETE", url, sent) == "SignatureDoesNotMatch"
    assert refusal("PUT", url + "0", sent) == "SignatureDoesNotMatch"
    assert refusal("PUT", url, sent | {"x-amz-acl": "public-read"}) == "AccessDenied"


@given(keys, st.dictionaries(names, keys, max_size=4))
def test_what_botocore_presigns_is_right(key: str, query: dict[str, str]) -> None:
    url = f"http://127.0.0.1:9000/bucket/{quote(key)}"
    if query:
        url += "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    made = presigned("GET", url)
    claim = judge("GET", made, {})
    assert claim.presigned and claim.payload == signature.UNSIGNED
    assert refusal("GET", made + "&versionId=1", {}) == "SignatureDoesNotMatch"
    assert refusal("GET", made, {"x-amz-acl": "public-read"}) == "AccessDenied"


@pytest.mark.parametrize("path", ["/bucket/a(1)!.txt", "/bucket/a%281%29%21.txt", "/bucket/a%2fb"])
def test_a_path_may_be_signed_as_amazon_wants_it_or_as_it_is_sent(path: str) -> None:
    url = f"http://127.0.0.1:9000{path}"
    judge("GET", url, signed("GET", url, {}))
    canonical = f"http://127.0.0.1:9000{signature.canonical_path(path)}"
    judge("GET", url, signed("GET", canonical, {}))


@pytest.mark.parametrize(("seconds", "code"), [(16 * 60, "RequestTimeTooSkewed"), (-16 * 60, "RequestTimeTooSkewed")])
def test_a_clock_may_be_wrong_by_a_quarter_of_an_hour(seconds: int, code: str) -> None:
    url = "http://127.0.0.1:9000/bucket/key"
    sent = signed("GET", url, {})
    with clock(time.time() + seconds):
        assert refusal("GET", url, sent) == code
    with clock(time.time() + seconds / 2):
        judge("GET", url, sent)


def test_an_address_ends_and_does_not_begin_early() -> None:
    made = presigned("GET", "http://127.0.0.1:9000/bucket/key", 60)
    for seconds in (62, -16 * 60):
        with clock(time.time() + seconds):
            assert refusal("GET", made, {}) == "AccessDenied"
    too_long = presigned("GET", "http://127.0.0.1:9000/bucket/key", 604801)
    assert refusal("GET", too_long, {}) == "AuthorizationQueryParametersError"


HEADER = "AWS4-HMAC-SHA256 Credential=ID/20130524/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=" + "0" * 64


def test_what_ends_like_a_blank_is_signed_as_it_is() -> None:
    title = "voilà".encode().decode("latin-1")  # whose last byte is a space to those who take it for Latin-1
    names = ["x-amz-meta-title"]
    claim = signature.Claim("id", "20130524", "us-east-1", "20130524T000000Z", names, "", "", presigned=False)
    said = signature.canonical_request(claim, "PUT", "/", [], {"x-amz-meta-title": f" \t{title}  x {title} "})
    assert f"x-amz-meta-title:{title} x {title}\n" in said


@pytest.mark.parametrize(("authorization", "code"), [
    ("AWS ID:c2lnbmF0dXJl", "InvalidRequest"),
    ("AWS4-ECDSA-P256-SHA256 Credential=x", "InvalidRequest"),
    ("Bearer thecloud_0", "InvalidRequest"),
    ("AWS4-HMAC-SHA256", "AuthorizationHeaderMalformed"),
    ("AWS4-HMAC-SHA256 Credential=ID, Signature=x", "AuthorizationHeaderMalformed"),
    (HEADER.replace("/s3/", "/ec2/"), "AuthorizationHeaderMalformed"),
    (HEADER.replace("ID/", "/"), "AuthorizationHeaderMalformed"),
    (HEADER.replace("20130524", "20130525"), "AuthorizationHeaderMalformed"),
    (HEADER.replace("host", "range"), "AuthorizationHeaderMalformed"),
    (HEADER.replace("0" * 64, "0" * 63), "SignatureDoesNotMatch"),
])  # fmt: skip
@pytest.mark.usefixtures("in_2013")
def test_what_is_malformed_is_refused(authorization: str, code: str) -> None:
    headers = {"authorization": authorization, "x-amz-date": "20130524T000000Z", "x-amz-content-sha256": EMPTY}
    assert refusal("GET", "http://127.0.0.1:9000/", headers) == code


@pytest.mark.parametrize(
    "moment", ["", "20130524", "20131324T000000Z", "20130500T000000Z", "20130524T240000Z", "x" * 16]
)
@pytest.mark.usefixtures("in_2013")
def test_a_time_that_is_none_is_refused(moment: str) -> None:
    headers = {"authorization": HEADER, "x-amz-date": moment, "x-amz-content-sha256": EMPTY}
    assert refusal("GET", "http://127.0.0.1:9000/", headers) in ("AccessDenied", "AuthorizationHeaderMalformed")


@given(st.dictionaries(st.sampled_from([
    "authorization", "x-amz-date", "date", "x-amz-content-sha256", "host", "X-Amz-Algorithm", "X-Amz-Credential",
    "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature", "AWSAccessKeyId",
]), st.one_of(st.text(st.characters(max_codepoint=255), max_size=50), st.sampled_from([
    "AWS4-HMAC-SHA256", HEADER, "ID/20130524/us-east-1/s3/aws4_request", "20130524T000000Z", "host", "60", "0" * 64,
    "Fri, 24 May 2013 00:00:00 GMT", "Fri, 24 May 99999 00:00:00 +9999",
]))))  # fmt: skip
def test_nothing_else_happens_than_a_claim_or_an_error(said: dict[str, Any]) -> None:
    headers = {name: value for name, value in said.items() if name.islower()}
    try:
        claim = signature.read(headers, said)
        if claim:
            signature.verify(claim, SECRET, "GET", "/", list(said.items()), headers)
    except S3Error:
        pass
