"""When what is in a bucket goes: S3's lifecycle configuration, as far as there are rules for it."""

from xml.etree.ElementTree import Element

from thecloud.v1 import storage_pb2

from server.s3 import xml
from server.s3.errors import S3Error, not_implemented, readable_xml
from server.s3.request import Answer, Request
from server.s3.xml import element, escape, tag

MOST = 1000  # rules
FUTURE = ("Transition", "NoncurrentVersionTransition")


async def get_lifecycle(request: Request) -> Answer:
    rules: list[storage_pb2.LifecycleRule] = []
    token, more = "", True
    while more:
        message = storage_pb2.ListLifecycleRulesRequest(bucket=request.bucket, page_token=token)
        page = await request.call("StorageService/ListLifecycleRules", message)
        rules += page.rules
        token, more = page.next_page_token, bool(page.next_page_token)
    if not rules:
        raise S3Error("NoSuchLifecycleConfiguration", "the bucket has no lifecycle rules")
    return Answer(body=element("LifecycleConfiguration", "".join(map(_shown, reversed(rules)))))


def _shown(rule: storage_pb2.LifecycleRule) -> str:
    expiration = f"<Days>{rule.expiration_days}</Days>" if rule.HasField("expiration_days") else ""
    if rule.expired_markers:
        expiration += "<ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker>"
    said = [f"<Expiration>{expiration}</Expiration>"] if expiration else []
    if rule.HasField("noncurrent_days"):
        days = f"<NoncurrentDays>{rule.noncurrent_days}</NoncurrentDays>"
        said.append(f"<NoncurrentVersionExpiration>{days}</NoncurrentVersionExpiration>")
    if rule.HasField("abort_upload_days"):
        days = f"<DaysAfterInitiation>{rule.abort_upload_days}</DaysAfterInitiation>"
        said.append(f"<AbortIncompleteMultipartUpload>{days}</AbortIncompleteMultipartUpload>")
    return (
        f"<Rule>{tag('ID', rule.name or rule.id)}<Filter><Prefix>{escape(rule.prefix)}</Prefix></Filter>"
        f"<Status>{'Enabled' if rule.enabled else 'Disabled'}</Status>{''.join(said)}</Rule>"
    )


async def put_lifecycle(request: Request) -> Answer:
    root = await request.document("LifecycleConfiguration")
    with readable_xml():
        xml.only(root, ("Rule",))
        if not 1 <= len(root) <= MOST:
            raise xml.Malformed(f"it wants 1 to {MOST} rules")
        rules = [_rule(each) for each in root]
    message = storage_pb2.SetLifecycleRulesRequest(bucket=request.bucket, rules=rules)
    await request.call("StorageService/SetLifecycleRules", message)
    return Answer()


def _rule(said: Element) -> storage_pb2.LifecycleRuleSettings:
    """One rule. Raises Malformed, and S3Error for what no rule can do here."""
    for child in said:
        if child.tag in FUTURE:
            raise not_implemented("storage class but STANDARD, so nothing to move to")
    xml.only(said, ("ID", "Prefix", "Filter", "Status", "Expiration", "NoncurrentVersionExpiration",
                    "AbortIncompleteMultipartUpload"))  # fmt: skip
    status = xml.text(said, "Status")
    if status not in ("Enabled", "Disabled"):
        raise xml.Malformed("<Status> has to be Enabled or Disabled")
    rule = storage_pb2.LifecycleRuleSettings(
        name=xml.text(said, "ID", default=""), prefix=_prefix(said), enabled=status == "Enabled"
    )
    if (expiration := said.find("Expiration")) is not None:
        if expiration.find("Date") is not None:
            raise not_implemented("expiration on a date, but after days")
        xml.only(expiration, ("Days", "ExpiredObjectDeleteMarker"))
        if expiration.find("Days") is not None:
            rule.expiration_days = xml.number(expiration, "Days")
        rule.expired_markers = xml.text(expiration, "ExpiredObjectDeleteMarker", default="false") == "true"
    if (noncurrent := said.find("NoncurrentVersionExpiration")) is not None:
        if noncurrent.find("NewerNoncurrentVersions") is not None:
            raise not_implemented("number of versions to keep, but days")
        rule.noncurrent_days = xml.number(noncurrent, "NoncurrentDays")
    if (abort := said.find("AbortIncompleteMultipartUpload")) is not None:
        rule.abort_upload_days = xml.number(abort, "DaysAfterInitiation")
    return rule


def _prefix(said: Element) -> str:
    """The prefix of the keys that a rule is about. A filter by anything else is not known here."""
    chosen = said.find("Filter")
    if chosen is None:
        return _text(said)
    if (both := chosen.find("And")) is not None:
        chosen = both
    for child in chosen:
        if child.tag != "Prefix":
            raise not_implemented(f"lifecycle filter by {child.tag[:100]}, but by Prefix")
    return _text(chosen)


def _text(parent: Element) -> str:
    return parent.findtext("Prefix") or ""


async def delete_lifecycle(request: Request) -> Answer:
    await request.call("StorageService/SetLifecycleRules", storage_pb2.SetLifecycleRulesRequest(bucket=request.bucket))
    return Answer(204)
