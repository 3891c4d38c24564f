"""What is set on a bucket, and what S3 says of what cannot be set here: that it is not."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from xml.etree.ElementTree import Element

from thecloud.v1 import bucket_settings_pb2, storage_pb2

from server.s3 import buckets, lifecycle, objects, xml
from server.s3.errors import S3Error, not_implemented, readable_xml
from server.s3.request import Answer, Request
from server.s3.xml import element, escape, tag

Handler = Callable[[Request], Awaitable[Answer]]

POLICY_BYTES = 20 * 1024
MOST_TAGS = 50


async def _update(request: Request, **fields: Any) -> Answer:
    message = bucket_settings_pb2.UpdateBucketRequest(bucket=request.bucket, **fields)
    await request.call("BucketSettingsService/UpdateBucket", message)
    return Answer()


async def get_versioning(request: Request) -> Answer:
    kinds = storage_pb2.Bucket
    said = {kinds.VERSIONING_ENABLED: "Enabled", kinds.VERSIONING_SUSPENDED: "Suspended"}
    status = said.get((await buckets.read(request)).bucket.versioning, "")
    return Answer(body=element("VersioningConfiguration", tag("Status", status)))


async def put_versioning(request: Request) -> Answer:
    root = await request.document("VersioningConfiguration")
    with readable_xml():
        status, deletion = xml.text(root, "Status"), xml.text(root, "MfaDelete", default="Disabled")
        xml.only(root, ("Status", "MfaDelete"))
    if status not in ("Enabled", "Suspended") or deletion not in ("Enabled", "Disabled"):
        raise S3Error("MalformedXML", "<Status> has to be Enabled or Suspended")
    if deletion == "Enabled":
        raise not_implemented("deletion with a second factor")
    message = storage_pb2.SetBucketVersioningRequest(bucket=request.bucket, enabled=status == "Enabled")
    await request.call("StorageService/SetBucketVersioning", message)
    return Answer()


async def get_tags(request: Request) -> Answer:
    tags = (await buckets.read(request)).tags
    if not tags:
        raise S3Error("NoSuchTagSet", "the bucket has no tags")
    return Answer(body=objects.tagging(tags))


async def put_tags(request: Request) -> Answer:
    tags = bucket_settings_pb2.BucketTags(tags=await objects.read_tags(request, MOST_TAGS))
    await _update(request, tags=tags)
    return Answer(204)


async def delete_tags(request: Request) -> Answer:
    await _update(request, tags=bucket_settings_pb2.BucketTags())
    return Answer(204)


async def get_acl(request: Request) -> Answer:
    seen = (await buckets.read(request)).bucket
    return buckets.access_control(seen.tenant_id, is_public=seen.is_public)


async def put_acl(request: Request) -> Answer:
    return await _update(request, is_public=await buckets.wanted_access(request, request.owner))


async def get_encryption(request: Request) -> Answer:
    if not (await buckets.read(request)).bucket.encryption_enabled:
        raise S3Error("ServerSideEncryptionConfigurationNotFoundError", "the bucket does not encrypt")
    return Answer(body=element(
        "ServerSideEncryptionConfiguration",
        "<Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm>"
        "</ApplyServerSideEncryptionByDefault><BucketKeyEnabled>false</BucketKeyEnabled></Rule>",
    ))  # fmt: skip


async def put_encryption(request: Request) -> Answer:
    root = await request.document("ServerSideEncryptionConfiguration")
    with readable_xml():
        xml.only(root, ("Rule",))
        if len(root) != 1:
            raise xml.Malformed("it wants one <Rule>")
        algorithm = xml.text(root, "Rule", "ApplyServerSideEncryptionByDefault", "SSEAlgorithm")
    if algorithm != "AES256":
        raise not_implemented(f"encryption called {algorithm[:100]}, but AES256")
    return await _update(request, encryption_enabled=True)


async def delete_encryption(request: Request) -> Answer:
    await _update(request, encryption_enabled=False)
    return Answer(204)


async def get_cors(request: Request) -> Answer:
    rules = (await buckets.read(request)).cors
    if not rules:
        raise S3Error("NoSuchCORSConfiguration", "the bucket has no CORS rules")
    return Answer(body=element("CORSConfiguration", "".join(map(_rule, rules))))


def _rule(rule: bucket_settings_pb2.CorsRule) -> str:
    lists = (("AllowedOrigin", rule.allowed_origins), ("AllowedMethod", rule.allowed_methods),
             ("AllowedHeader", rule.allowed_headers), ("ExposeHeader", rule.expose_headers))  # fmt: skip
    said = "".join([f"<{name}>{escape(value)}</{name}>" for name, values in lists for value in values])
    age = f"<MaxAgeSeconds>{rule.max_age_seconds}</MaxAgeSeconds>" if rule.max_age_seconds else ""
    return f"<CORSRule>{tag('ID', rule.id)}{said}{age}</CORSRule>"


async def put_cors(request: Request) -> Answer:
    root = await request.document("CORSConfiguration")
    with readable_xml():
        xml.only(root, ("CORSRule",))
        if not 1 <= len(root) <= 100:
            raise xml.Malformed("it wants 1 to 100 rules")
        rules = [_cors_rule(each) for each in root]
    return await _update(request, cors=bucket_settings_pb2.CorsRules(rules=rules))


def _cors_rule(each: Element) -> bucket_settings_pb2.CorsRule:
    xml.only(each, ("ID", "AllowedOrigin", "AllowedMethod", "AllowedHeader", "ExposeHeader", "MaxAgeSeconds"))
    return bucket_settings_pb2.CorsRule(
        id=xml.text(each, "ID", default=""), allowed_origins=_values(each, "AllowedOrigin"),
        allowed_methods=_values(each, "AllowedMethod"), allowed_headers=_values(each, "AllowedHeader"),
        expose_headers=_values(each, "ExposeHeader"), max_age_seconds=xml.number(each, "MaxAgeSeconds", default=0),
    )  # fmt: skip


def _values(parent: Element, name: str) -> list[str]:
    return [(child.text or "").strip() for child in parent.iterfind(name)]


async def delete_cors(request: Request) -> Answer:
    await _update(request, cors=bucket_settings_pb2.CorsRules())
    return Answer(204)


async def _policy(request: Request) -> str:
    if not (policy := (await buckets.read(request)).policy):
        raise S3Error("NoSuchBucketPolicy", "the bucket has no policy")
    return policy


async def get_policy(request: Request) -> Answer:
    return Answer(body=(await _policy(request)).encode(), content_type="application/json")


async def put_policy(request: Request) -> Answer:
    try:
        policy = (await request.body(POLICY_BYTES)).decode()
    except UnicodeDecodeError:
        policy = "\0"
    if "\0" in policy:
        raise S3Error("MalformedPolicy", "the policy is not JSON in UTF-8")
    message = bucket_settings_pb2.SetBucketPolicyRequest(bucket=request.bucket, policy=policy)
    await request.call("BucketSettingsService/SetBucketPolicy", message)
    return Answer(204)


async def delete_policy(request: Request) -> Answer:
    message = bucket_settings_pb2.DeleteBucketPolicyRequest(bucket=request.bucket)
    await request.call("BucketSettingsService/DeleteBucketPolicy", message)
    return Answer(204)


async def get_policy_status(request: Request) -> Answer:
    statements = json.loads(await _policy(request))["Statement"]
    public = any(
        each["Effect"] == "Allow" and not each.get("Condition") and _is_everybody(each["Principal"])
        for each in (statements if isinstance(statements, list) else [statements])
    )
    return Answer(body=element("PolicyStatus", f"<IsPublic>{'true' if public else 'false'}</IsPublic>"))


def _is_everybody(principal: Any) -> bool:
    named = principal.get("AWS", ()) if isinstance(principal, dict) else principal
    return "*" in ([named] if isinstance(named, str) else named)


async def _unset(code: str, what: str, request: Request) -> Answer:
    """Of a bucket that is there, that this is not set on it."""
    await buckets.read(request)
    raise S3Error(code, f"the bucket has no {what}")


async def _empty(root: str, inside: str, request: Request) -> Answer:
    """Of a bucket that is there, that nothing of this is set on it."""
    await buckets.read(request)
    return Answer(body=element(root, inside))


async def _no_lock(request: Request) -> Answer:
    await objects.read(request)
    raise S3Error("NoSuchObjectLockConfiguration", "the object has no lock: there is no object lock here")


OF_BUCKETS: dict[tuple[str, str], Handler] = {
    ("GET", "location"): buckets.get_location,
    ("GET", "versioning"): get_versioning,
    ("PUT", "versioning"): put_versioning,
    ("GET", "tagging"): get_tags,
    ("PUT", "tagging"): put_tags,
    ("DELETE", "tagging"): delete_tags,
    ("GET", "acl"): get_acl,
    ("PUT", "acl"): put_acl,
    ("GET", "encryption"): get_encryption,
    ("PUT", "encryption"): put_encryption,
    ("DELETE", "encryption"): delete_encryption,
    ("GET", "cors"): get_cors,
    ("PUT", "cors"): put_cors,
    ("DELETE", "cors"): delete_cors,
    ("GET", "policy"): get_policy,
    ("PUT", "policy"): put_policy,
    ("DELETE", "policy"): delete_policy,
    ("GET", "policyStatus"): get_policy_status,
    ("GET", "lifecycle"): lifecycle.get_lifecycle,
    ("PUT", "lifecycle"): lifecycle.put_lifecycle,
    ("DELETE", "lifecycle"): lifecycle.delete_lifecycle,
    ("GET", "website"): partial(_unset, "NoSuchWebsiteConfiguration", "website"),
    ("GET", "replication"): partial(_unset, "ReplicationConfigurationNotFoundError", "replication"),
    ("GET", "object-lock"): partial(_unset, "ObjectLockConfigurationNotFoundError", "object lock"),
    ("GET", "ownershipControls"): partial(_unset, "OwnershipControlsNotFoundError", "ownership controls"),
    ("GET", "publicAccessBlock"): partial(_unset, "NoSuchPublicAccessBlockConfiguration", "public access block"),
    ("GET", "logging"): partial(_empty, "BucketLoggingStatus", ""),
    ("GET", "notification"): partial(_empty, "NotificationConfiguration", ""),
    ("GET", "accelerate"): partial(_empty, "AccelerateConfiguration", ""),
    ("GET", "requestPayment"): partial(_empty, "RequestPaymentConfiguration", "<Payer>BucketOwner</Payer>"),
}
OF_OBJECTS: dict[tuple[str, str], Handler] = {
    ("GET", "retention"): _no_lock,
    ("GET", "legal-hold"): _no_lock,
}
