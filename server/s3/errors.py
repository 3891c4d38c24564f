"""S3's errors: its codes and their statuses, what ours are called there, and their XML."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from google.rpc.error_details_pb2 import RetryInfo

from server.errors import ApiError
from server.s3.xml import Malformed, element, escape

STATUSES = {
    "AccessControlListNotSupported": 400,
    "AccessDenied": 403,
    "AccessForbidden": 403,
    "AuthorizationHeaderMalformed": 400,
    "AuthorizationQueryParametersError": 400,
    "BadDigest": 400,
    "BucketAlreadyExists": 409,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "IncompleteBody": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidBucketName": 400,
    "InvalidChunkSizeError": 400,
    "InvalidDigest": 400,
    "InvalidPart": 400,
    "InvalidPartOrder": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "InvalidStorageClass": 400,
    "InvalidTag": 400,
    "InvalidToken": 400,
    "InvalidURI": 400,
    "KeyTooLongError": 400,
    "MalformedACLError": 400,
    "MalformedPolicy": 400,
    "MalformedTrailerError": 400,
    "MalformedXML": 400,
    "MaxMessageLengthExceeded": 400,
    "MetadataTooLarge": 400,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "MissingSecurityHeader": 400,
    "NoSuchBucket": 404,
    "NoSuchBucketPolicy": 404,
    "NoSuchCORSConfiguration": 404,
    "NoSuchKey": 404,
    "NoSuchLifecycleConfiguration": 404,
    "NoSuchObjectLockConfiguration": 404,
    "NoSuchPublicAccessBlockConfiguration": 404,
    "NoSuchTagSet": 404,
    "NoSuchUpload": 404,
    "NoSuchVersion": 404,
    "NoSuchWebsiteConfiguration": 404,
    "NotImplemented": 501,
    "ObjectLockConfigurationNotFoundError": 404,
    "OperationAborted": 409,
    "OwnershipControlsNotFoundError": 404,
    "PreconditionFailed": 412,
    "QuotaExceeded": 403,
    "ReplicationConfigurationNotFoundError": 404,
    "RequestTimeTooSkewed": 403,
    "RequestTimeout": 400,
    "ServerSideEncryptionConfigurationNotFoundError": 404,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "XAmzContentSHA256Mismatch": 400,
}
CODES = {  # of our reasons; what is not found, and what is invalid, has more of them
    "UNAUTHENTICATED": "InvalidAccessKeyId",
    "PERMISSION_DENIED": "AccessDenied",
    "ALREADY_EXISTS": "OperationAborted",
    "IN_USE": "OperationAborted",
    "WRONG_STATE": "InvalidRequest",
    "QUOTA_EXCEEDED": "QuotaExceeded",
    "BUDGET_EXCEEDED": "QuotaExceeded",
    "RATE_LIMITED": "SlowDown",
    "PAYLOAD_TOO_LARGE": "EntityTooLarge",
    "REQUEST_TIMEOUT": "RequestTimeout",
    "DEADLINE_EXCEEDED": "RequestTimeout",
    "UNSUPPORTED": "NotImplemented",
    "UNAVAILABLE": "ServiceUnavailable",
    "CHECKSUM_MISMATCH": "BadDigest",
    "PRECONDITION_FAILED": "PreconditionFailed",
    "RANGE_NOT_SATISFIABLE": "InvalidRange",
    "INTERNAL": "InternalError",
}
ABSENT = {"bucket": "NoSuchBucket", "object": "NoSuchKey", "multipart_upload": "NoSuchUpload"}
PROBLEMS = {
    "part_order": "InvalidPartOrder",
    "part_missing": "InvalidPart",
    "part_too_small": "EntityTooSmall",
    "policy": "MalformedPolicy",
}
FIELDS = {
    "bucket": "InvalidBucketName",
    "content_md5": "InvalidDigest",
    "tags": "InvalidTag",
    "properties": "InvalidRequest",
}


class S3Error(ApiError):
    """An error by S3's code. To a call that it ends it is an invalid argument, or a denial."""

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        denied = STATUSES[code] == 403
        super().__init__("PERMISSION_DENIED" if denied else "INVALID_ARGUMENT", message)
        self.code, self.status, self.headers = code, STATUSES[code], dict(headers or {})


def not_implemented(what: str) -> S3Error:
    return S3Error("NotImplemented", f"there is no {what} here; leave it out")


@contextmanager
def readable_xml() -> Iterator[None]:
    """Raise S3Error for what is Malformed within."""
    try:
        yield
    except Malformed as malformed:
        raise S3Error("MalformedXML", f"the body cannot be read: {malformed}") from None


def translated(error: ApiError, *, version_id: str = "", sha256: str = "") -> S3Error:
    """The error as S3 has it. `version_id` and `sha256` are what the request named: they tell its errors apart."""
    if isinstance(error, S3Error):
        return error
    kind, field = error.metadata.get("kind", ""), error.metadata.get("field", "")
    headers: dict[str, str] = {}
    code = CODES.get(error.reason, "InvalidRequest")
    match error.reason:
        case "NOT_FOUND":
            code = ABSENT.get(kind, "InvalidRequest")
            if kind == "object" and error.metadata.get("delete_marker") == "true":
                headers = {"x-amz-delete-marker": "true"}
                if marker := error.metadata.get("version_id"):
                    headers["x-amz-version-id"] = marker
                if version_id:
                    code, headers["allow"] = "MethodNotAllowed", "DELETE"
            elif kind == "object" and version_id:
                code = "NoSuchVersion"
        case "INVALID_ARGUMENT" if field == "X-Tenant-ID":  # nobody signed it
            code = "AccessDenied"
        case "INVALID_ARGUMENT":
            outermost = field.partition(".")[0].partition("[")[0]
            code = PROBLEMS.get(error.metadata.get("problem", "")) or FIELDS.get(outermost, "InvalidArgument")
        case "CHECKSUM_MISMATCH":
            if sha256 and error.metadata.get("expected") == sha256:
                code = "XAmzContentSHA256Mismatch"
        case "IN_USE" if kind == "bucket":
            code = "BucketNotEmpty"
        case "RATE_LIMITED":
            if (retry := error.detail(RetryInfo)) is not None:
                headers["retry-after"] = str(retry.retry_delay.seconds)  # type: ignore[attr-defined]
    return S3Error(code, error.message, headers)


def document(error: S3Error, resource: str, request_id: str) -> bytes:
    """The error's XML."""
    return element(
        "Error",
        f"<Code>{error.code}</Code><Message>{escape(error.message)}</Message><Resource>{escape(resource)}</Resource>"
        f"<RequestId>{escape(request_id)}</RequestId><HostId>{escape(request_id)}</HostId>",
        namespace="",
    )
