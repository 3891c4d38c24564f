"""Presigned addresses of Signature Version 2, against botocore's signer and the example of Amazon's documentation."""

import time
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from botocore.auth import HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from server.s3 import signature_v2
from server.s3.errors import S3Error
from server.s3.request import split_query
from tests.s3.test_signature import ID, SECRET, clock, keys

URL = "http://127.0.0.1:9000/bucket/key"


def presigned(method: str, url: str, seconds: int = 60, headers: dict[str, str] | None = None) -> str:
    request = AWSRequest(method, url, headers=headers or {}, auth_path=urlsplit(url).path)
    HmacV1QueryAuth(Credentials(ID, SECRET), seconds).add_auth(request)
    return str(request.url)


def judge(method: str, url: str, headers: dict[str, str] | None = None, secret: str = SECRET, hosted: str = "") -> None:
    parts = urlsplit(url)
    pairs = split_query(parts.query.encode())
    claim = signature_v2.read(dict(pairs))
    assert claim and claim.access_key_id == ID
    signature_v2.verify(claim, secret, method, hosted + parts.path, pairs, headers or {})


def refusal(method: str, url: str, headers: dict[str, str] | None = None) -> str:
    with pytest.raises(S3Error) as refused:
        judge(method, url, headers)
    return refused.value.code


def test_the_documentations_example_is_right() -> None:
    url = (
        "http://johnsmith.s3.amazonaws.com/photos/puppy.jpg?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE"
        "&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620"
    )
    with clock(1175139600):
        judge("GET", url, hosted="/johnsmith")


@given(keys, st.dictionaries(st.sampled_from(["versionId", "response-content-type", "prefix", "uploadId"]),
                             st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)))  # fmt: skip
def test_what_botocore_presigns_is_right(key: str, query: dict[str, str]) -> None:
    url = f"http://127.0.0.1:9000/bucket/{quote(key)}"
    if query:
        url += "?" + "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in query.items())
    judge("GET", presigned("GET", url))


def test_anything_else_is_refused() -> None:
    url = presigned("GET", URL)
    judge("GET", url)
    for method, other in (("PUT", url), ("GET", url.replace("key?", "kex?")), ("GET", f"{url}&acl"),
                          ("GET", f"{url}&attributes"), ("GET", f"{url}&versionId=1"), ("GET", f"{url}&x-amz-acl=x"),
                          ("GET", url.replace("Expires=1", "Expires=2"))):  # fmt: skip
        assert refusal(method, other) in ("SignatureDoesNotMatch", "AccessDenied")
    assert refusal("GET", url, {"x-amz-checksum-mode": "ENABLED"}) == "SignatureDoesNotMatch"
    with pytest.raises(S3Error):
        judge("GET", url, secret="other")


def test_headers_that_were_signed_have_to_be_sent() -> None:
    url = presigned("PUT", URL, headers={"Content-Type": "text/plain", "x-amz-acl": "public-read"})
    judge("PUT", url, {"content-type": "text/plain", "x-amz-acl": "public-read"})
    assert refusal("PUT", url, {"content-type": "text/html"}) == "SignatureDoesNotMatch"


def test_it_ends_and_not_too_late() -> None:
    url = presigned("GET", URL, 60)
    with clock(time.time() + 61):
        assert refusal("GET", url) == "AccessDenied"
    assert refusal("GET", presigned("GET", URL, 8 * 24 * 3600)) == "AccessDenied"


@pytest.mark.parametrize("drop", ["Expires", "Signature"])
def test_what_is_malformed_is_refused(drop: str) -> None:
    query = {name: values[0] for name, values in parse_qs(urlsplit(presigned("GET", URL)).query).items()}
    with pytest.raises(S3Error, match=drop):
        signature_v2.read({name: value for name, value in query.items() if name != drop})
    with pytest.raises(S3Error):
        signature_v2.read(query | {drop: "ä\udcff"}) and judge(
            "GET", f"{URL}?AWSAccessKeyId={ID}&Expires=x&Signature=y"
        )
    assert signature_v2.read({}) is None
