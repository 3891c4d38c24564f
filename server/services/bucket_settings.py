"""What holds for a bucket as a whole: who sees it, its tags, the pages that may read it, its policy."""

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict
from sqlalchemy.dialects import postgresql
from thecloud.v1 import bucket_settings_pb2 as pb

from server import bucket_access, bucket_policies, changes, db
from server.auth import Member
from server.bucket_access import Question
from server.call import Call
from server.conditions import Malformed
from server.errors import ApiError, invalid
from server.object_rows import Bucket, own_bucket, readable_bucket, shown_bucket

if TYPE_CHECKING:
    from server.app import App

CORS_BYTES = 64 * 1024

_M = Member.TABLE.c
_MEMBERS = sa.select(_M.user_id).where(
    _M.tenant_id == sa.bindparam("tenant_id", type_=postgresql.UUID),
    _M.user_id == sa.any_(sa.bindparam("users", type_=postgresql.ARRAY(postgresql.UUID))),
)


class BucketSettingsService:
    def __init__(self, app: "App") -> None:
        self.app = app

    async def admits(self, call: Call, request: Any) -> bool:
        return await bucket_access.admits(self.app, call, request)

    async def GetBucket(self, call: Call, request: pb.GetBucketRequest) -> pb.BucketSettings:
        question = Question(call, request)
        bucket = await readable_bucket(call.tx, request.bucket, call.tenant_id, question=question)
        return shown_settings(bucket, question)

    async def UpdateBucket(self, call: Call, request: pb.UpdateBucketRequest) -> pb.BucketSettings:
        question = Question(call, request)
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True, question=question)
        if request.cors.ByteSize() > CORS_BYTES:
            raise invalid("cors", f"the rules have at most {CORS_BYTES // 1024} KiB; send fewer")
        columns: dict[str, object] = {
            name: getattr(request, name) for name in ("is_public", "encryption_enabled") if request.HasField(name)
        }
        if request.HasField("tags"):
            columns["tags"] = dict(request.tags.tags)
        if request.HasField("cors"):
            columns["cors"] = [MessageToDict(each, preserving_proto_field_name=True) for each in request.cors.rules]
        return shown_settings(await changes.update(call.tx, bucket, **columns) if columns else bucket, question)

    async def SetBucketPolicy(self, call: Call, request: pb.SetBucketPolicyRequest) -> pb.BucketSettings:
        question = Question(call, request)
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True, question=question)
        try:
            policy = bucket_policies.parse(request.policy, bucket.name)
            found = await db.records(call.tx, _MEMBERS, tenant_id=bucket.tenant_id, users=list(policy.named_users()))
            policy.check_others(bucket.tenant_id, {each["user_id"] for each in found})
        except Malformed as malformed:
            raise refused(malformed) from None
        return shown_settings(await changes.update(call.tx, bucket, policy=request.policy), question)

    async def DeleteBucketPolicy(self, call: Call, request: pb.DeleteBucketPolicyRequest) -> Empty:
        question = Question(call, request)
        bucket = await own_bucket(call.tx, request.bucket, call.tenant_id, lock=True, question=question)
        await changes.update(call.tx, bucket, policy=None)
        return Empty()


def refused(malformed: Malformed) -> ApiError:
    """What is wrong with a policy, and where in it."""
    where = f"{malformed.path}: " if malformed.path else ""
    return invalid("policy", f"{where}{malformed.message}", problem="policy")


def shown_settings(bucket: Bucket, question: Question) -> pb.BucketSettings:
    """The bucket, with what the caller may see of its settings."""
    return pb.BucketSettings(
        bucket=shown_bucket(bucket),
        tags=bucket.tags if question.shows(bucket, "s3:GetBucketTagging") else None,
        cors=[pb.CorsRule(**each) for each in bucket.cors] if question.shows(bucket, "s3:GetBucketCORS") else None,
        policy=bucket.policy if question.shows(bucket, "s3:GetBucketPolicy") else None,
    )
