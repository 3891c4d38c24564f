"""AWS Signature Version 2 in the query: presigned addresses as boto3 and the AWS command line make them unless told
otherwise (Amazon S3 Developer Guide, "Signing and Authenticating REST Requests").

It signs the method, the path, the moment it ends, `x-amz-…` headers, and of the query what says what is asked for: here
all sub-resources, more than Amazon lists, so that an address of an object opens nothing else of it. A header that signs
in this way is not taken: nobody makes them any more.
"""

import base64
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.s3.errors import S3Error
from server.s3.request import SUBRESOURCES
from server.s3.signature import LONGEST

SIGNED = SUBRESOURCES | {"partNumber", "versionId", "select-type", "storageClass", "defaultObjectAcl"}


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose an address says that it is."""

    access_key_id: str
    expires: str  # Unix time
    signature: str


def read(query: Mapping[str, str]) -> Claim | None:
    """Whose the request says that it is; None when it does not, or by another way. Raises S3Error."""
    if "AWSAccessKeyId" not in query:
        return None
    for name in ("Expires", "Signature"):
        if name not in query:
            raise S3Error("AccessDenied", f"the query has no {name}")
    expires = query["Expires"]
    if not re.fullmatch(r"[0-9]{1,12}", expires, re.ASCII):
        raise S3Error("AccessDenied", "Expires has to be a moment in Unix time")
    left = int(expires) - time.time()
    if left < 0:
        raise S3Error("AccessDenied", "Request has expired")
    if left > LONGEST:
        raise S3Error("AccessDenied", f"Expires may be at most {LONGEST} seconds ahead")
    return Claim(query["AWSAccessKeyId"], expires, query["Signature"])


def verify(
    claim: Claim, secret: str, method: str, resource: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str]
) -> None:
    """Raise S3Error unless the address was made with this secret.

    `resource`: the path as it was sent, below the bucket's name if that is in the host; `pairs`: the query, decoded.
    """
    said = string_to_sign(claim, method, resource, pairs, headers)
    made = base64.b64encode(hmac.digest(secret.encode(), said, "sha1"))
    if not hmac.compare_digest(made, claim.signature.encode()):
        raise S3Error("SignatureDoesNotMatch", "the signature is not that of this request with the secret key; check "
                                               "the key, and how it is signed")  # fmt: skip


def string_to_sign(
    claim: Claim, method: str, resource: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str]
) -> bytes:
    """The request as its signature sees it."""
    sent = {**headers, **{name: value for name, value in pairs if name.startswith("x-amz-")}}
    in_query = dict(pairs)
    plain = [headers.get(name, "") or in_query.get(name, "") for name in ("content-md5", "content-type")]
    amazon = [name + ":" + sent[name].strip(" \t") for name in sorted(sent) if name.startswith("x-amz-")]
    asked = sorted((name, value) for name, value in pairs if name in SIGNED or name.startswith("response-"))
    query = "&".join(f"{name}={value}" if value else name for name, value in asked)
    head = "\n".join([method, *plain, claim.expires, *amazon, resource]).encode("latin-1", "replace")
    return head + b"?" + query.encode() if query else head
