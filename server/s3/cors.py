"""Which pages of other origins browsers let read what is in a bucket (WHATWG Fetch, "CORS protocol").

A browser asks before anybody has signed anything, so a bucket's rules are no secret, and are read without asking who
wants to know.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from server import db
from server.object_rows import B
from server.s3.errors import S3Error
from server.s3.request import Answer

if TYPE_CHECKING:
    from server.s3.front import Front

_RULES = sa.select(B.cors).where(B.name == sa.bindparam("name", type_=sa.Text), B.deleted_at.is_(None))
METHOD = "access-control-request-method"
HEADERS = "access-control-request-headers"
MOST_HEADERS = 50  # that a page may ask for
VARY = ("vary", f"Origin, {METHOD}, {HEADERS}")


async def rules_of(front: "Front", bucket: str, address: str) -> Sequence[Mapping[str, Any]]:
    """The bucket's rules. Raises S3Error to who asks too often."""
    most = front.app.config.rate_limit
    if most and front.pipeline.buckets.take(f"cors/{address}", most):
        raise S3Error("SlowDown", "too many requests; try again later")
    async with front.app.db.reading() as tx:
        return await db.value(tx, _RULES, name=bucket) or ()


async def preflight(front: "Front", bucket: str, origin: str, headers: Mapping[str, str], address: str) -> Answer:
    """What a browser may do that asks first. Raises S3Error when it may not."""
    method = headers.get(METHOD, "")
    wanted = dict.fromkeys(each.strip().lower() for each in headers.get(HEADERS, "").split(",") if each.strip())
    if len(wanted) > MOST_HEADERS:
        raise S3Error("AccessForbidden", f"CORSResponse: a page may ask for at most {MOST_HEADERS} headers")
    for rule in await rules_of(front, bucket, address):
        await asyncio.sleep(0)  # a bucket may have many rules, and who asks has not said who they are
        if _matches(rule, origin, method) and all(_any(rule.get("allowed_headers", ()), each) for each in wanted):
            answer = Answer(headers=_headers(rule, origin))
            answer.headers.append(("access-control-allow-methods", ", ".join(rule["allowed_methods"])))
            if wanted:
                answer.headers.append(("access-control-allow-headers", ", ".join(wanted)))
            if age := rule.get("max_age_seconds"):
                answer.headers.append(("access-control-max-age", str(age)))
            return answer
    raise S3Error("AccessForbidden", "CORSResponse: no rule of the bucket allows this; see PutBucketCors")


async def allowed(front: "Front", bucket: str, origin: str, method: str, address: str) -> list[tuple[str, str]]:
    """The headers that let a page of this origin read the answer; none if it may not."""
    for rule in await rules_of(front, bucket, address):
        if _matches(rule, origin, method):
            exposed = rule.get("expose_headers", ())
            more = [("access-control-expose-headers", ", ".join(exposed))] if exposed else []
            return [*_headers(rule, origin), *more]
    return []


def _headers(rule: Mapping[str, Any], origin: str) -> list[tuple[str, str]]:
    if "*" in rule["allowed_origins"]:
        return [("access-control-allow-origin", "*"), VARY]
    return [("access-control-allow-origin", origin), ("access-control-allow-credentials", "true"), VARY]


def _matches(rule: Mapping[str, Any], origin: str, method: str) -> bool:
    return method in rule["allowed_methods"] and _any(rule["allowed_origins"], origin)


def _any(patterns: Iterable[str], value: str) -> bool:
    """Whether the value is one of these, whatever its case; each may have one "*", for anything."""
    value = value.lower()
    return any(_fits(each.lower(), value) for each in patterns)


def _fits(pattern: str, value: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return value == pattern
    return len(value) >= len(before) + len(after) and value.startswith(before) and value.endswith(after)
