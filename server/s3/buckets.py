"""Buckets: which there are, and that they come and go."""

from uuid import UUID

from thecloud.v1 import bucket_settings_pb2, storage_pb2

from server.errors import ApiError
from server.s3 import xml
from server.s3.errors import S3Error, not_implemented
from server.s3.request import Answer, Request, iso
from server.s3.xml import element, tag

REGION = "us-east-1"  # the only one; requests may be signed for any
ACLS = {"private": False, "public-read": True}


async def list_buckets(request: Request) -> Answer:
    prefix, after = request.query.get("prefix", ""), request.query.get("continuation-token", "")
    most = request.count("max-buckets") if "max-buckets" in request.query else 0
    found: list[storage_pb2.Bucket] = []
    token = ""
    while token or not found:
        message = storage_pb2.ListBucketsRequest(page_token=token, own=True)
        page = await request.call("StorageService/ListBuckets", message)
        found += page.buckets
        if not (token := page.next_page_token):
            break
    shown = sorted(each for each in ((bucket.name, iso(bucket.created_at)) for bucket in found)
                   if each[0] > after and each[0].startswith(prefix))  # fmt: skip
    following = shown[most - 1][0] if most and len(shown) > most else ""
    listed = "".join([
        f"<Bucket><Name>{name}</Name><CreationDate>{created}</CreationDate>"
        f"<BucketRegion>{REGION}</BucketRegion></Bucket>"
        for name, created in (shown[:most] if most else shown)
    ])  # fmt: skip
    rest = tag("ContinuationToken", following) + tag("Prefix", prefix)
    inside = f"{owner(request.owner)}<Buckets>{listed}</Buckets>{rest}"
    return Answer(body=element("ListAllMyBucketsResult", inside))


async def create_bucket(request: Request) -> Answer:
    if request.flag("x-amz-bucket-object-lock-enabled"):
        raise not_implemented("object lock")
    if request.headers.get("x-amz-object-ownership", "BucketOwnerPreferred") == "ObjectWriter":
        raise not_implemented("object ownership but the bucket owner's")
    is_public = canned(request)
    if body := await request.body():
        wanted = request.parsed(body, "CreateBucketConfiguration")
        if wanted.find("Bucket") is not None or wanted.find("Location") is not None:
            raise not_implemented("directory bucket")
        if tags := wanted.find("Tags"):
            raise not_implemented(f"<{tags.tag}> at the making of a bucket, but PutBucketTagging")
    try:
        message = storage_pb2.CreateBucketRequest(name=request.bucket, is_public=is_public)
        await request.call("StorageService/CreateBucket", message)
    except ApiError as error:
        raise await _not_made(request, error) from None
    return Answer(headers=[("location", f"/{request.bucket}")])


async def _not_made(request: Request, error: ApiError) -> ApiError:
    if error.reason == "INVALID_ARGUMENT" and error.metadata.get("field") == "name":
        return S3Error("InvalidBucketName", error.message)
    if error.reason != "ALREADY_EXISTS":
        return error
    try:
        if (await read(request)).bucket.tenant_id == request.owner:
            return S3Error("BucketAlreadyOwnedByYou", error.message)
    except ApiError:  # which is not for them to see
        pass
    return S3Error("BucketAlreadyExists", error.message)


async def delete_bucket(request: Request) -> Answer:
    await request.call("StorageService/DeleteBucket", storage_pb2.DeleteBucketRequest(bucket=request.bucket))
    return Answer(204)


async def head_bucket(request: Request) -> Answer:
    await read(request)
    return Answer(headers=[("x-amz-bucket-region", REGION)])


async def get_location(request: Request) -> Answer:
    await read(request)
    return Answer(body=element("LocationConstraint", ""))


async def read(request: Request, bucket: str = "") -> bucket_settings_pb2.BucketSettings:
    """The bucket, and what is set on it as far as the caller may see that. Raises ApiError."""
    message = bucket_settings_pb2.GetBucketRequest(bucket=bucket or request.bucket)
    return await request.call("BucketSettingsService/GetBucket", message)  # type: ignore[no-any-return]


async def check_owner(request: Request, bucket: str, expected: str) -> None:
    """Raise S3Error unless the bucket is this tenant's."""
    try:
        UUID(expected)
    except ValueError:
        raise S3Error("InvalidArgument", "the expected owner has to be the id of a tenant") from None
    if (await read(request, bucket)).bucket.tenant_id != expected.lower():
        raise S3Error("AccessDenied", "the bucket has another owner than the one expected")


def canned(request: Request) -> bool:
    """Whether the request's headers let everybody read. Raises S3Error for what else they may ask for."""
    for name in request.headers:
        if name.startswith("x-amz-grant-"):
            raise not_implemented(f"header {name}, but x-amz-acl private and public-read")
    said = request.headers.get("x-amz-acl", "private")
    if said not in ACLS:
        raise not_implemented(f"x-amz-acl {said[:100]}, but private and public-read")
    return ACLS[said]


def owner(id: str, element: str = "Owner") -> str:
    return f"<{element}><ID>{id}</ID><DisplayName>{id}</DisplayName></{element}>"


ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"
_INSTANCE = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


def access_control(tenant_id: str, *, is_public: bool) -> Answer:
    """An access control list that says what a canned one did."""
    everybody = (
        f'<Grant><Grantee {_INSTANCE} xsi:type="Group"><URI>{ALL_USERS}</URI></Grantee>'
        "<Permission>READ</Permission></Grant>"
    )
    own = (
        f'<Grant><Grantee {_INSTANCE} xsi:type="CanonicalUser"><ID>{tenant_id}</ID>'
        f"<DisplayName>{tenant_id}</DisplayName></Grantee><Permission>FULL_CONTROL</Permission></Grant>"
    )
    grants = f"<AccessControlList>{own}{everybody if is_public else ''}</AccessControlList>"
    return Answer(body=element("AccessControlPolicy", owner(tenant_id) + grants))


async def wanted_access(request: Request, tenant_id: str) -> bool:
    """Whether the access control list that is put lets everybody read. Raises S3Error for any but a canned one."""
    body = await request.body()
    if "x-amz-acl" in request.headers or not body:
        return canned(request)
    root = request.parsed(body, "AccessControlPolicy")
    grants = set()
    for grant in root.iterfind("AccessControlList/Grant"):
        grantee = grant.find("Grantee")
        if grantee is None:
            raise S3Error("MalformedACLError", "a <Grant> has no <Grantee>")
        try:
            who = xml.text(grantee, "URI", default="") or xml.text(grantee, "ID", default="")
            grants.add((who, xml.text(grant, "Permission")))
        except xml.Malformed as malformed:
            raise S3Error("MalformedACLError", str(malformed)) from None
    private = {(tenant_id, "FULL_CONTROL")}
    if grants == private:
        return False
    if grants == private | {(ALL_USERS, "READ")}:
        return True
    raise not_implemented("access control list but those of private and public-read")
