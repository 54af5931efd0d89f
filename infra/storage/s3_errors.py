"""Errors of S3 and its client as this project's errors: one sentence each with the place, the reason and the remedy."""

from collections.abc import Mapping

import aiohttp
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

from infra.errors import AlreadyExists, Changed, Missing, StorageError, Unwritable
from infra.storage.urls import masked

CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE"

RIGHTS = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "head_bucket": "s3:ListBucket",
    "list_objects_v2": "s3:ListBucket",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
    "copy_object": "s3:GetObject and s3:PutObject",
}

CONFLICT = "ConditionalRequestConflict"
THROTTLED = (
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestThrottled",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "TooManyRequests",
    "429",
)
FAILING = ("ServiceUnavailable", "InternalError", "OperationAborted", "RequestTimeout", "500", "502", "503", "504")
TRANSIENT = (CONFLICT, *THROTTLED, *FAILING)
UNKNOWN_CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidSecurity",
    "InvalidClientTokenId",
    "400",
)
EXPIRED_CREDENTIALS = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
FORBIDDEN = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "403")
OTHER_REGION = (
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
    "301",
    "307",
)
GONE = ("NoSuchKey", "NoSuchUpload")

BUSY = (
    "{endpoint} is overloaded or failing ({code}, after several tries);"
    " run again later, or with fewer workers; what is done is kept"
)
UNKNOWN = (
    f"{{endpoint}} does not accept these credentials ({{code}});"
    f" check {CREDENTIALS}, and that AWS_ENDPOINT_URL names the store they are for"
)
EXPIRED = f"the credentials have expired; renew them ({CREDENTIALS}) and run again, what is done is kept"
DENIED = (
    "these credentials are not allowed to do this (it needs {right});"
    " ask the bucket's owner for the right, or name another place"
)
UNSIGNED = f"not public, and no credentials were found to sign with; set {CREDENTIALS}"
REGION = (
    "the bucket is in another region than the requests are signed for ({code}); set AWS_DEFAULT_REGION to the bucket's"
)
NO_BUCKET = (
    "there is no bucket {bucket!r} at {endpoint}; make it first (`aws s3 mb s3://{bucket}`), or correct the name or"
    " AWS_ENDPOINT_URL"
)

REASONS = {
    **dict.fromkeys(TRANSIENT, BUSY),
    **dict.fromkeys(UNKNOWN_CREDENTIALS, UNKNOWN),
    **dict.fromkeys(EXPIRED_CREDENTIALS, EXPIRED),
    **dict.fromkeys(FORBIDDEN, DENIED),
    **dict.fromkeys(OTHER_REGION, REGION),
    "NoSuchBucket": NO_BUCKET,
    "InvalidBucketName": "{bucket!r} is not a valid bucket name; correct it",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the store's; set the clock",
    "InvalidRange": "the requested range cannot be read, the file is shorter",
    "QuotaExceeded": "the store's quota is used up; make room or raise it, then run again",
    "EntityTooLarge": "too large for a single request; write less at once",
}
OTHER_REASON = "{message}; {endpoint} answered {code} to {method}"

CLIENT_REASONS = {
    "EndpointConnectionError": "{endpoint} cannot be reached",
    "ConnectTimeoutError": "{endpoint} cannot be reached in time",
    "ReadTimeoutError": "{endpoint} does not answer in time",
    "ConnectionClosedError": "{endpoint} closes the connection without an answer",
    "CutOff": "{endpoint} breaks off in the middle of its answers",
    "SSLError": "no secure connection to {endpoint} ({error})",
    "ProxyConnectionError": "the proxy to {endpoint} cannot be reached",
    "ResponseParserError": "{endpoint} does not answer as an S3 store does",
    "HTTPClientError": "{endpoint} does not answer as an S3 store does ({error})",
}
NOT_KEPT = "nothing that was read of it is kept; run again"
REACHED = "; tried several times; check AWS_ENDPOINT_URL and the network, then run again, what is done is kept"


class CutOff(Exception):
    """The body of an answer broke off."""


def code_of(error: BaseException) -> str:
    """The code that S3 gave an error; empty where the error is not from S3."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status_of(error: BaseException) -> int:
    """The HTTP status of an error from S3; 0 where the error is not from S3."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_transient(error: BaseException) -> bool:
    """Whether the same request may soon succeed: the store is busy, or the connection to it is disturbed.

    Status 501 means that the store will never do this; a certificate that is not trusted now will not be later.
    """
    if isinstance(error, ClientError):
        status = status_of(error)
        failing = status >= 500 and status != 501
        return failing or status in (408, 429) or code_of(error) in TRANSIENT
    if isinstance(error, ConnectionError | HTTPClientError):
        return not isinstance(error.kwargs.get("error"), aiohttp.ClientConnectorCertificateError)
    return isinstance(error, CutOff)


def botocore_never_retries(error: BaseException) -> bool:
    """Whether an error is transient and botocore never retries it, whatever its settings."""
    return isinstance(error, CutOff) or code_of(error) == CONFLICT


def explain(
    error: BaseException, method: str, parameters: Mapping[str, object], endpoint: str, anonymous: bool
) -> StorageError:
    """The error to raise instead.

    Args:
        error: what botocore or aiohttp raised.
        method: the request that failed, by botocore's name.
        parameters: its parameters; `Bucket`, `Key` and `Prefix` name the place.
        endpoint: the store's URL.
        anonymous: whether the request was unsigned.
    """
    bucket = str(parameters.get("Bucket", ""))
    endpoint = masked(endpoint)  # an endpoint may have a password before its host
    place = f"s3://{bucket}/{parameters.get('Key', parameters.get('Prefix', ''))}"
    code = code_of(error)
    if not code:
        return StorageError(f"{place}: {masked(_of_client(error, endpoint))}")
    if code in GONE or (code == "404" and method in ("get_object", "head_object")):
        return Missing(f"{place}: no such file")
    if code in ("PreconditionFailed", "412") and "IfNoneMatch" in parameters:
        return AlreadyExists(f"{place}: already exists")
    if code in ("PreconditionFailed", "412") and "IfMatch" in parameters:
        return Changed(f"{place}: changed while the audit ran (it has another ETag); {NOT_KEPT}")
    reason = UNSIGNED if anonymous and code in FORBIDDEN else REASONS.get(code, OTHER_REASON)
    details = {
        "bucket": bucket,
        "endpoint": endpoint,
        "code": code,
        "right": RIGHTS.get(method, "s3:PutObject"),
        "message": str(error).partition(": ")[2] or str(error),
        "method": method,
    }
    kind = Unwritable if code == "QuotaExceeded" else StorageError
    return kind(f"{place}: {reason.format(**details)}")


def _of_client(error: BaseException, endpoint: str) -> str:
    for kind in type(error).__mro__:
        if kind.__name__ in CLIENT_REASONS:
            return CLIENT_REASONS[kind.__name__].format(endpoint=endpoint, error=error) + REACHED
    return (
        f"{str(error).rstrip('.')}; check the environment's AWS settings"
        f" ({CREDENTIALS}; AWS_ENDPOINT_URL, AWS_DEFAULT_REGION)"
    )
