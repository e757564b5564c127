"""What an exception of botocore means: a wrong setting, an absent object, or a passing failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

NOT_FOUND = frozenset({"NoSuchKey", "404", "NotFound"})
# 412 is the answer by the book. 409 says that another conditional write of the key was under way: undecided.
REFUSED = frozenset({"PreconditionFailed", "412"})
UNDECIDED = frozenset({"ConditionalRequestConflict", "OperationAborted", "409"})

_TRANSIENT_CODES = frozenset(
    {
        *("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "RequestLimitExceeded"),
        *("Throttling", "ThrottlingException", "TooManyRequests", "BadDigest", "IncompleteBody"),
        *UNDECIDED,
    }
)
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_TYPES = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.ReadTimeoutError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    boto.FlexibleChecksumError,
    HTTPError,
    ConnectionError,
    TimeoutError,
)
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role is attached"
)
_DENIED = frozenset({"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"})
_BY_CODE = {
    "InvalidAccessKeyId": ("does not know this access key", _CREDENTIALS),
    "SignatureDoesNotMatch": (
        "rejects the signature: the secret key does not belong to the access key",
        "correct AWS_SECRET_ACCESS_KEY (and the clock of this machine)",
    ),
    "RequestTimeTooSkewed": ("rejects the time of this machine", "set this machine's clock"),
    "ExpiredToken": ("says that the session token has expired", "log in again for a new AWS_SESSION_TOKEN"),
    "InvalidToken": ("rejects the session token", "unset AWS_SESSION_TOKEN or log in again"),
    "InvalidBucketName": ("rejects the bucket's name", "correct the name after s3://"),
    "PermanentRedirect": ("keeps the bucket in another region", "set AWS_REGION to the bucket's region"),
    "301": ("keeps the bucket in another region", "set AWS_REGION to the bucket's region"),
    "AuthorizationHeaderMalformed": ("expects another region", "set AWS_REGION to the bucket's region"),
    "QuotaExceeded": ("refuses: the quota is used up", "free space or raise the quota"),
    "NotImplemented": (
        "does not implement PUT with If-None-Match",
        "use a store with conditional writes (AWS S3, Ceph, MinIO, R2 or a local folder)",
    ),
}


def error_code(error: BaseException) -> str:
    """Return the service's code (`NoSuchKey`, `412`, ...), or '' if the service did not answer."""
    if isinstance(error, boto.ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""


def is_transient(error: BaseException) -> bool:
    """Tell whether the same call may succeed later."""
    if isinstance(error, boto.SSLError):
        return False
    if isinstance(error, boto.ClientError):
        meta: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
        return error_code(error) in _TRANSIENT_CODES or (
            meta.get("HTTPStatusCode") in _TRANSIENT_STATUS and error_code(error) not in _BY_CODE
        )
    return isinstance(error, _TRANSIENT_TYPES)


def took_connection(error: BaseException) -> bool:
    """Tell whether something was there that broke the connection off."""
    return isinstance(error, boto.ConnectionClosedError)


def unreachable(error: BaseException, field: str, endpoint: str) -> ConfigurationError:
    """Return the error for an endpoint that has never answered."""
    if isinstance(error, boto.ClientError):
        kind = "does not speak S3"
    else:
        kind = "does not answer" if "imeout" in type(error).__name__ else "cannot be reached"
    return ConfigurationError(
        field,
        f"the S3 endpoint {endpoint} {kind}",
        "correct AWS_ENDPOINT_URL (or unset it for AWS) and the network",
    )


def configuration_error(error: Exception, field: str, bucket: str, endpoint: str) -> ConfigurationError:
    """Return the one clear line for an error that trying again does not help.

    Messages of the service are not repeated: they may hold signatures and access keys.
    """
    code = error_code(error)
    if code == "NoSuchBucket" or code in NOT_FOUND:
        return ConfigurationError(
            field,
            f"there is no bucket {bucket!r} at {endpoint}",
            "create the bucket, correct its name, or point AWS_ENDPOINT_URL at the right service",
        )
    if code in _DENIED:
        return ConfigurationError(
            field,
            f"{endpoint} denies access to bucket {bucket!r}",
            "grant s3:ListBucket, s3:GetObject and s3:PutObject to these credentials",
        )
    if code in _BY_CODE:
        message, remedy = _BY_CODE[code]
        return ConfigurationError(field, f"{endpoint} {message}", remedy)
    if isinstance(error, boto.NoCredentialsError):
        return ConfigurationError(field, f"no credentials for s3://{bucket}", _CREDENTIALS)
    if isinstance(error, boto.PartialCredentialsError):
        return ConfigurationError(field, f"incomplete credentials for s3://{bucket}", _CREDENTIALS)
    if isinstance(error, boto.ProfileNotFound):
        return ConfigurationError(field, "AWS_PROFILE names no profile", "correct it or ~/.aws/config")
    if isinstance(error, boto.SSLError):
        return ConfigurationError(
            field,
            f"the certificate of {endpoint} is not trusted",
            "set AWS_CA_BUNDLE, or use the right http(s)://",
        )
    if isinstance(error, boto.ParamValidationError):
        return ConfigurationError(
            field, f"{bucket!r} is no valid bucket name", "correct the name after s3://"
        )
    if isinstance(error, ResponseParserError):
        return ConfigurationError(
            field, f"{endpoint} does not speak S3", "correct AWS_ENDPOINT_URL (or unset it for AWS)"
        )
    detail = f"error {code}" if code else type(error).__name__
    return ConfigurationError(
        field, f"s3://{bucket} at {endpoint} fails with {detail}", "check the AWS_* variables and ~/.aws"
    )
