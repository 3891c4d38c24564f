"""Requests for objects, as bytes that are made, and signed where S3 is spoken, before any clock starts.

Those of S3 are signed by botocore as boto3 signs: in a header, with the SHA-256 of the body.
"""

import os
from collections.abc import Callable
from typing import Any

Sign = Callable[[str, str, bytes], dict[str, str]]


def made(what: dict[str, Any]) -> list[bytes]:
    """`count` requests of this `verb`, the number of each in its `path`, all with a body of so many `bytes`.

    They have these `headers`, or, if there are `keys`, are signed with those.
    """
    body = os.urandom(what["bytes"])
    sign = signer(what["address"], *what["keys"]) if "keys" in what else None
    return [
        request(what["verb"], what["path"].format(number), what["address"], body, what.get("headers", {}), sign)
        for number in range(what["count"])
    ]


def request(
    verb: str, path: str, address: str, body: bytes, headers: dict[str, str], sign: Sign | None = None
) -> bytes:
    if sign:
        headers = sign(verb, path, body)
    length = {"Content-Length": str(len(body))} if verb == "PUT" else {}
    lines = [f"{verb} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in ({"Host": address} | length | headers).items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def signer(address: str, access_key: str, secret_key: str) -> Sign:
    """What makes the headers of a request that is signed with these keys."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    auth = S3SigV4Auth(Credentials(access_key, secret_key), "s3", "us-east-1")

    def sign(verb: str, path: str, body: bytes) -> dict[str, str]:
        unsigned = AWSRequest(verb, f"http://{address}{path}", data=body)
        # which has boto3 sign the hash of the body, as it does over plain HTTP
        unsigned.context["payload_signing_enabled"] = True
        auth.add_auth(unsigned)
        return dict(unsigned.headers.items())

    return sign
