"""AWS Signature Version 4: whose a request is, as its Authorization header or its query says (Amazon S3 API Reference,
"Authenticating Requests").

What is signed is the request as it came, so it is judged here and nowhere later: a signature opens this one request,
for a quarter of an hour or as long as it says. All `x-amz-…` headers have to be signed, and so nobody can add one.
"""

import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from server.s3.errors import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW = 15 * 60  # seconds that a clock may be wrong
LONGEST = 7 * 24 * 3600  # seconds that an address may be good for
UNSIGNED = "UNSIGNED-PAYLOAD"
UNRESERVED = "-_.~"
MOMENT = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)
SIGNATURE = re.compile(r"[0-9a-f]{64}")
PLAIN_PATH = re.compile(r"[A-Za-z0-9/\-_.~]*")
SPACES = re.compile(" {2,}")


@dataclass(slots=True)
class Claim:
    """Whose a request says that it is."""

    access_key_id: str
    date: str  # "20130524"
    region: str
    moment: str  # "20130524T000000Z"
    signed_headers: Sequence[str]
    signature: str
    payload: str  # the SHA-256 of the body, in hexadecimal, or how the body is signed
    presigned: bool

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/s3/aws4_request"


def read(headers: Mapping[str, str], query: Mapping[str, str]) -> Claim | None:
    """Whose the request says that it is; None when it does not. Raises S3Error when that is malformed, or too old."""
    authorization = headers.get("authorization")
    if authorization is not None:
        if "X-Amz-Signature" in query or "Signature" in query:
            raise S3Error("InvalidArgument", "only one way to authenticate is allowed: leave out the header "
                                             "Authorization, or the signature in the query")  # fmt: skip
        return _of_header(authorization, headers)
    if "X-Amz-Algorithm" in query or "X-Amz-Signature" in query:
        return _of_query(headers, query)
    return None


def _unsupported() -> S3Error:
    return S3Error("InvalidRequest", "this way to sign is not supported; use AWS4-HMAC-SHA256 (signature version s3v4)")


def _of_header(authorization: str, headers: Mapping[str, str]) -> Claim:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        raise _unsupported()
    parts = {}
    for part in rest.split(","):
        name, _, value = part.strip().partition("=")
        parts[name] = value
    try:
        credential, names, signature = parts["Credential"], parts["SignedHeaders"], parts["Signature"]
    except KeyError as missing:
        raise S3Error("AuthorizationHeaderMalformed", f"the header Authorization has no {missing.args[0]}") from None
    payload = headers.get("x-amz-content-sha256")
    if payload is None:
        raise S3Error("InvalidRequest", "the header x-amz-content-sha256 is missing: it has the SHA-256 of the body, "
                                        "or UNSIGNED-PAYLOAD")  # fmt: skip
    moment = headers.get("x-amz-date") or _of_date(headers.get("date", ""))
    claim = _claim("AuthorizationHeaderMalformed", credential, moment, names, signature, payload, presigned=False)
    if abs(time.time() - seconds_of(moment)) > SKEW:
        raise S3Error("RequestTimeTooSkewed", "the request's time and the server's differ by more than 15 minutes; set "
                                              "the clock")  # fmt: skip
    return claim


def _of_query(headers: Mapping[str, str], query: Mapping[str, str]) -> Claim:
    code = "AuthorizationQueryParametersError"
    if query.get("X-Amz-Algorithm") != ALGORITHM:
        raise S3Error(code, f"X-Amz-Algorithm has to be {ALGORITHM}")
    for name in ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"):
        if name not in query:
            raise S3Error(code, f"the query has no {name}")
    said = query["X-Amz-Expires"]
    if not re.fullmatch(r"[0-9]{1,6}", said, re.ASCII) or not 1 <= int(said) <= LONGEST:
        raise S3Error(code, f"X-Amz-Expires has to be between 1 and {LONGEST} seconds")
    payload = headers.get("x-amz-content-sha256") or query.get("X-Amz-Content-Sha256") or UNSIGNED
    claim = _claim(code, query["X-Amz-Credential"], query["X-Amz-Date"], query["X-Amz-SignedHeaders"],
                   query["X-Amz-Signature"], payload, presigned=True)  # fmt: skip
    since = time.time() - seconds_of(claim.moment)
    if since < -SKEW:
        raise S3Error("AccessDenied", "Request is not yet valid")
    if since > int(said):
        raise S3Error("AccessDenied", "Request has expired")
    return claim


def _claim(
    code: str, credential: str, moment: str, names: str, signature: str, payload: str, *, presigned: bool
) -> Claim:
    access_key_id, *scope = credential.rsplit("/", 4)
    if len(scope) != 4 or not access_key_id or scope[2:] != ["s3", "aws4_request"]:
        raise S3Error(code, "the credential has to be ACCESS_KEY_ID/YYYYMMDD/REGION/s3/aws4_request")
    date, region = scope[:2]
    if not MOMENT.fullmatch(moment):
        raise S3Error("AccessDenied", "the request needs a time of the form YYYYMMDDTHHMMSSZ in X-Amz-Date")
    if not moment.startswith(date) or len(date) != 8:
        raise S3Error(code, "the credential's date is not that of X-Amz-Date")
    signed = names.split(";")
    if not (names.isascii() and payload.isascii()):
        raise S3Error(code, "the names of the signed headers, and what is said of the body, have to be ASCII")
    if "host" not in signed:
        raise S3Error(code, "the header host has to be signed")
    if not SIGNATURE.fullmatch(signature):
        raise S3Error("SignatureDoesNotMatch", "the signature has to be 64 hexadecimal digits")
    return Claim(access_key_id, date, region, moment, signed, signature, payload, presigned)


def verify(
    claim: Claim, secret: str, method: str, raw_path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str]
) -> bytes:
    """The key it was signed with. Raises S3Error unless that is of this secret. `pairs`: the query, decoded."""
    signed = {*claim.signed_headers}
    for name in headers:
        if name.startswith("x-amz-") and name not in signed:
            raise S3Error("AccessDenied", f"the header {name} is not signed; sign it, or leave it out")
    key = signing_key(secret, claim.date, claim.region)
    # Clients sign a path as Amazon wants it, or as they send it. Both name the same object.
    for path in {canonical_path(raw_path): None, raw_path: None}:
        made = sign(key, said(claim, canonical_request(claim, method, path, pairs, headers)))
        if hmac.compare_digest(made, claim.signature):
            return key
    raise S3Error("SignatureDoesNotMatch", "the signature is not that of this request with the secret key; check the "
                                           "key, and how it is signed")  # fmt: skip


def canonical_request(
    claim: Claim, method: str, path: str, pairs: Sequence[tuple[str, str]], headers: Mapping[str, str]
) -> str:
    """The request as its signature sees it."""
    lines = "".join([f"{name}:{_trimmed(headers.get(name, ''))}\n" for name in claim.signed_headers])
    names = ";".join(claim.signed_headers)
    return f"{method}\n{path}\n{canonical_query(pairs)}\n{lines}\n{names}\n{claim.payload}"


def said(claim: Claim, canonical: str) -> str:
    """What is signed of it."""
    hashed = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    return f"{ALGORITHM}\n{claim.moment}\n{claim.scope}\n{hashed}"


@lru_cache(4096)
def signing_key(secret: str, date: str, region: str) -> bytes:
    """The key of one day and region."""
    key = hmac.digest(b"AWS4" + secret.encode(), date.encode(), "sha256")
    for part in (region.encode("latin-1", "replace"), b"s3", b"aws4_request"):
        key = hmac.digest(key, part, "sha256")
    return key


def sign(key: bytes, said: str) -> str:
    return hmac.digest(key, said.encode("latin-1", "replace"), "sha256").hex()


def canonical_path(raw_path: str) -> str:
    """The path with everything encoded that has to be, and nothing else."""
    if PLAIN_PATH.fullmatch(raw_path):
        return raw_path
    return quote(unquote_to_bytes(raw_path), safe="/" + UNRESERVED)


def canonical_query(pairs: Sequence[tuple[str, str]]) -> str:
    """The query in order, but for the signature itself."""
    if not pairs:
        return ""
    encoded = sorted([
        (quote(name, safe=UNRESERVED), quote(value, safe=UNRESERVED))
        for name, value in pairs if name != "X-Amz-Signature"
    ])  # fmt: skip
    return "&".join([f"{name}={value}" for name, value in encoded])


@lru_cache(1024)
def seconds_of(moment: str) -> int:
    """Unix time of "20130524T000000Z". Raises S3Error when there is no such moment."""
    found = MOMENT.fullmatch(moment)
    year, month, day, hour, minute, second = map(int, found.groups()) if found else (0,) * 6
    if not (year and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        raise S3Error("AccessDenied", "the request needs a time of the form YYYYMMDDTHHMMSSZ in X-Amz-Date")
    return calendar.timegm((year, month, day, hour, minute, second))


def _of_date(text: str) -> str:
    try:
        moment = parsedate_to_datetime(text)
        return (moment.astimezone(UTC) if moment.tzinfo else moment).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError):
        raise S3Error("AccessDenied", "the request needs a time: send x-amz-date") from None


def _trimmed(value: str) -> str:
    value = value.strip(" \t")  # what else counts as space for Python may be part of a character's UTF-8
    return SPACES.sub(" ", value) if "  " in value else value
