"""What buckets themselves say of who may: their policies, and that they are public.

It is asked for in S3's actions, which a request tells: its type, and which of its fields are there.

  * What a bucket's policy denies is denied, to everybody. That is seen where the bucket's row is read.
  * What the caller's own policies do not allow, and do not deny either, a bucket may: to its own tenant anything, to
    others and to callers without a key only to read. The pipeline asks for that.
  * Whoever may change the policy sees it, and may change it, whatever it says.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from thecloud.v1 import bucket_settings_pb2, storage_pb2

from server import bucket_policies, db, object_rows
from server.access import Decision, Matched
from server.auth import NOBODY
from server.bucket_policies import OF_OBJECTS, READS, BucketPolicy, Caller, compiled
from server.call import Call
from server.db import Tx
from server.errors import ApiError
from server.object_rows import Bucket, Object, Upload
from server.resources import Resource

if TYPE_CHECKING:
    from server.app import App

PUBLIC_OBJECT = frozenset({"s3:GetObject", "s3:GetObjectVersion"})
PUBLIC = PUBLIC_OBJECT | {"s3:ListBucket", "s3:ListBucketVersions"}
ASKED = {  # by a request, less "Request"; what has several objects asks for each
    "AbortMultipartUpload": ("s3:AbortMultipartUpload",),
    "BeginMultipartUpload": ("s3:PutObject",),
    "CompleteMultipartUpload": ("s3:PutObject",),
    "CopyObject": ("s3:PutObject",),
    "CopyPart": ("s3:PutObject",),
    "CreateLifecycleRule": ("s3:PutLifecycleConfiguration",),
    "DeleteBucket": ("s3:DeleteBucket",),
    "DeleteBucketPolicy": (),
    "DeleteLifecycleRule": ("s3:PutLifecycleConfiguration",),
    "DeleteObject": ("s3:DeleteObject",),
    "DeleteObjects": (),
    "DownloadObject": ("s3:GetObject",),
    "GetBucket": ("s3:ListBucket",),
    "GetObject": ("s3:GetObject",),
    "ListAllVersions": ("s3:ListBucketVersions",),
    "ListLifecycleRules": ("s3:GetLifecycleConfiguration",),
    "ListMultipartUploads": ("s3:ListBucketMultipartUploads",),
    "ListObjectKeys": ("s3:ListBucket",),
    "ListObjectVersions": ("s3:ListBucketVersions",),
    "ListObjects": ("s3:ListBucket",),
    "ListParts": ("s3:ListMultipartUploadParts",),
    "PreviewLifecycle": ("s3:GetLifecycleConfiguration",),
    "SetBucketPolicy": (),
    "SetBucketVersioning": ("s3:PutBucketVersioning",),
    "SetLifecycleRules": ("s3:PutLifecycleConfiguration",),
    "SetObjectAccess": ("s3:PutObjectAcl",),
    "SetObjectTags": ("s3:PutObjectTagging",),
    "UpdateBucket": (),
    "UploadObject": ("s3:PutObject",),
    "UploadPart": ("s3:PutObject",),
}
_stored = {"tags": "s3:PutObjectTagging", "is_public": "s3:PutObjectAcl"}
FURTHER = {  # by a request, what it asks for with a field
    "BeginMultipartUpload": _stored, "CopyObject": _stored, "UploadObject": _stored,
    "UpdateBucket": {"is_public": "s3:PutBucketAcl", "encryption_enabled": "s3:PutEncryptionConfiguration",
                     "tags": "s3:PutBucketTagging", "cors": "s3:PutBucketCORS"},
}  # fmt: skip
OF_VERSION = {  # in place of what, where a request names a version
    "s3:GetObject": "s3:GetObjectVersion", "s3:GetObjectTagging": "s3:GetObjectVersionTagging",
    "s3:DeleteObject": "s3:DeleteObjectVersion", "s3:PutObjectTagging": "s3:PutObjectVersionTagging",
    "s3:PutObjectAcl": "s3:PutObjectVersionAcl", "s3:DeleteObjectTagging": "s3:DeleteObjectVersionTagging",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """Whether a caller may do with a bucket, or an object in it, what a request says."""

    call: Call
    request: Any
    key: str = ""  # of the object, where the request does not name it

    def actions(self) -> tuple[str, ...]:
        name = self.request.DESCRIPTOR.name.removesuffix("Request")
        further = FURTHER.get(name, {})
        asked = ASKED[name] + tuple(further[each.name] for each, _ in self.request.ListFields() if each.name in further)
        if name == "SetObjectTags" and not self.request.tags.tags:
            asked = ("s3:DeleteObjectTagging",)
        if getattr(self.request, "version_id", ""):
            return tuple(OF_VERSION.get(action, action) for action in asked)
        return asked

    def obey(self, bucket: Bucket, *further: str) -> None:
        """Raise PERMISSION_DENIED if the bucket's policy denies it, or one of these actions besides."""
        if bucket.policy is None or (denied := self._denied(bucket, (*self.actions(), *further))) is None:
            return
        action, statement = denied
        text = f"{action} is denied by statement {statement.sid} of the policy of bucket {bucket.name}"
        self.call.decision = Decision(False, text, (statement,))
        raise ApiError("PERMISSION_DENIED", f"{text}; whoever has storage_policy:update can change it",
                       permission=self.call.method.permission)  # fmt: skip

    def granted(self, bucket: Bucket, row: Object | None = None) -> bool:
        """Whether the bucket lets the caller do it, by its policy or since it is public, or this object of it is."""
        asked = self.actions()
        if not asked or self._denied(bucket, asked):
            return False
        is_public = row is not None and row.is_public and PUBLIC_OBJECT.issuperset(asked)
        return is_public or self._allowed(bucket, asked)

    def denies(self, bucket: Bucket) -> bool:
        """Whether the bucket's policy denies it."""
        return self._denied(bucket, self.actions()) is not None

    def shows(self, bucket: Bucket, action: str) -> bool:
        """Whether who sees the bucket, or an object in it, sees what this action is about too."""
        if action not in OF_OBJECTS and self._governs(bucket):
            return True
        if getattr(self.request, "version_id", ""):
            action = OF_VERSION.get(action, action)
        by_own_policies = bucket.tenant_id == self.call.tenant and not self.call.admitted
        return (by_own_policies or self._allowed(bucket, (action,))) and self._denied(bucket, (action,)) is None

    def _allowed(self, bucket: Bucket, actions: tuple[str, ...]) -> bool:
        if bucket.is_public and PUBLIC.issuperset(actions):
            return True
        if bucket.policy is None or not (bucket.tenant_id == self.call.tenant or READS.issuperset(actions)):
            return False
        policy = compiled(bucket.policy, bucket.name)
        return all(policy.allows(self._caller(), each, self._on(bucket, each)) for each in actions)

    def _denied(self, bucket: Bucket, actions: Iterable[str]) -> tuple[str, Matched] | None:
        """The action and the statement that denies it, if one does."""
        if bucket.policy is None:
            return None
        policy: BucketPolicy = compiled(bucket.policy, bucket.name)
        for action in actions:
            if statement := policy.denying(self._caller(), action, self._on(bucket, action)):
                sees = isinstance(self.request, bucket_settings_pb2.GetBucketRequest) and self._governs(bucket)
                return None if sees else (action, statement)
        return None

    def _governs(self, bucket: Bucket) -> bool:
        """Whether the caller may change the bucket's policy."""
        return self.call.tenant == bucket.tenant_id and self.call.may(
            "storage_policy:update", "bucket", str(bucket.id), bucket.name
        )

    def _on(self, bucket: Bucket, action: str) -> str:
        return bucket_policies.resource(bucket.name, action, self.key or getattr(self.request, "key", ""))

    def _caller(self) -> Caller:
        call = self.call
        if call.principal is not NOBODY:
            return Caller.of(call.principal.user_id, call.tenant, call.context)
        nobodys = ("aws:UserId", "aws:Username", "thecloud:TenantId")
        known = {key: value for key, value in call.context().items() if key not in nobodys}
        return Caller.of(None, None, lambda: known)


async def admits(app: "App", call: Call, request: Any) -> bool:
    """Whether a bucket lets the caller do what their own policies say nothing of. Of several objects, one is enough."""
    if request.DESCRIPTOR.name.removesuffix("Request") not in ASKED:
        return False
    key = ""
    async with app.db.reading() as tx:
        if "bucket" in request.DESCRIPTOR.fields_by_name:
            name = request.bucket
        elif upload := await _upload(tx, call, request.id):
            name, key = upload.bucket, upload.key
        else:
            return False
        bucket = await object_rows.named_bucket(tx, name)
        if bucket is None:
            return False
        if any(Question(call, each, key).granted(bucket) for each in _single(request)):
            return True
        question = Question(call, request)
        asked = question.actions()
        if not asked or not PUBLIC_OBJECT.issuperset(asked):
            return False
        row = await object_rows.version(tx, bucket, request.key, request.version_id)
        return question.granted(bucket, row)


async def may_read(app: "App", call: Call, request: Any) -> bool:
    """Whether the caller may read the object of a download, wherever it is: by policies of their own, or since its
    bucket lets them."""
    resource = Resource("object", name=f"{request.bucket}/{request.key}", tenant=str(call.tenant or ""))
    if call.access.may("storage:read", resource, call.context):
        return True
    return call.access.may("storage:read", resource, call.context, default=True) and await admits(app, call, request)


def may(permission: str, bucket: Bucket, question: Question) -> bool:
    """Whether the caller may do this to one object: by policies of their own, or since the bucket lets them."""
    call, name = question.call, f"{bucket.name}/{question.key or question.request.key}"
    resource = Resource("object", name=name, tenant=str(call.tenant or ""))
    if call.access.may(permission, resource, call.context):
        return not question.denies(bucket)
    return call.access.may(permission, resource, call.context, default=True) and question.granted(bucket)


async def _upload(tx: Tx, call: Call, id: str) -> Upload | None:
    try:
        found = await db.find(tx, Upload, UUID(id))
    except ValueError:
        return None
    return found if found and found.tenant_id == call.tenant else None


def _single(request: Any) -> list[Any]:
    """The request as those about one object each."""
    if not request.DESCRIPTOR.name.startswith("DeleteObjects"):
        return [request]
    return [
        storage_pb2.DeleteObjectRequest(bucket=request.bucket, key=each.key, version_id=each.version_id)
        for each in request.objects
    ]


def may_see(call: Call, kind: str, id: str, name: str) -> bool:
    """Whether a list of what buckets have shows this to the caller, as the pipeline leaves it in lists of messages."""
    resource = Resource(kind, id, name, str(call.tenant or ""))
    return call.access.may("storage:read", resource, call.context, default=call.admitted)


def seen_of(call: Call, bucket: Bucket, kind: str) -> Callable[[Any], bool] | None:
    """What tells whether a list shows a record, of a key or a common prefix, to the caller; None where it shows all."""
    if call.access.always("storage:read"):
        return None

    def sees(record: Any) -> bool:
        common = record.get("common")
        id, name = ("", common) if common else (str(record["id"]), record["key"])
        return may_see(call, kind, id, f"{bucket.name}/{name}")

    return sees


def open_records(call: Call, bucket: Bucket, records: Sequence[Any]) -> Sequence[Any]:
    """Those of objects that the caller may see."""
    sees = seen_of(call, bucket, Object.KIND)
    return records if sees is None else [*filter(sees, records)]
