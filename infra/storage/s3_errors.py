"""What S3 and its client answer, as this project's errors: one sentence each of where, why and what to do."""

from collections.abc import Mapping

import aiohttp
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

from infra.errors import AlreadyExists, Missing, StorageError, Unwritable
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


UNKNOWN = f"{{endpoint}} does not accept these credentials ({{code}}); check {CREDENTIALS}, and that AWS_ENDPOINT_URL names the store they are for"


EXPIRED = f"the credentials have expired; renew them ({CREDENTIALS}) and run again, what is done is kept"


DENIED = "these credentials are not allowed to do this (it needs {right}); ask the bucket's owner for the right, or name another place"


UNSIGNED = f"not public, and no credentials were found to sign with; set {CREDENTIALS}"


REGION = (
    "the bucket is in another region than the requests are signed for ({code}); set AWS_DEFAULT_REGION to the bucket's"
)


BUSY = "{endpoint} is overloaded or failing ({code}, after several tries); run again later, or with fewer workers; what is done is kept"


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


PASSING = (
    CONFLICT,
    *THROTTLED,
    "ServiceUnavailable",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "500",
    "502",
    "503",
    "504",
)


REASONS = {
    "NoSuchBucket": "there is no bucket {bucket!r} at {endpoint}; make it first (`aws s3 mb s3://{bucket}`), or correct the name or AWS_ENDPOINT_URL",
    "InvalidBucketName": "{bucket!r} is no name of a bucket; correct it",
    **dict.fromkeys(
        (
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "InvalidSecurity",
            "InvalidClientTokenId",
            "400",
        ),
        UNKNOWN,
    ),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"), EXPIRED),
    "RequestTimeTooSkewed": "this machine's clock differs too much from the store's; set the clock",
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "AccountProblem", "403"), DENIED),
    **dict.fromkeys(
        (
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
            "PermanentRedirect",
            "TemporaryRedirect",
            "301",
            "307",
        ),
        REGION,
    ),
    **dict.fromkeys(PASSING, BUSY),
    "PreconditionFailed": "was replaced while it was read; run again",
    "InvalidRange": "the range asked for is not satisfiable, the file is shorter",
    "QuotaExceeded": "the store's quota is used up; make room or raise it, then run again",
    "EntityTooLarge": "too large for a single request; write less at once",
}


GONE = ("NoSuchKey", "NoSuchUpload")


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


REACHED = "; tried several times; check AWS_ENDPOINT_URL and the network, then run again, what is done is kept"


class CutOff(Exception):
    """An answer's body ended before its end."""


def code_of(error: BaseException) -> str:
    """S3's own code of an error; empty where it is none of S3's."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status_of(error: BaseException) -> int:
    """The HTTP status of an error of S3's; 0 where it is none of S3's."""
    return (
        int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if isinstance(error, ClientError)
        else 0
    )


def passes(error: BaseException) -> bool:
    """Whether the same request may be answered in a moment: the store is busy, or the way to it is disturbed.

    A status of 501 says that the store will never do this; a certificate that is not trusted now will not be later.
    """
    if isinstance(error, ClientError):
        return (
            code_of(error) in PASSING
            or status_of(error) in (408, 429)
            or (status_of(error) >= 500 and status_of(error) != 501)
        )
    if isinstance(error, ConnectionError | HTTPClientError):
        return not isinstance(error.kwargs.get("error"), aiohttp.ClientConnectorCertificateError)
    return isinstance(error, CutOff)


def botocore_never_repeats(error: BaseException) -> bool:
    """Whether an error passes, and is none that botocore repeats, however it is set."""
    return isinstance(error, CutOff) or code_of(error) == CONFLICT


def explain(
    error: BaseException, method: str, parameters: Mapping[str, object], endpoint: str, anonymous: bool
) -> StorageError:
    """The error to raise instead.

    Args:
        error: what botocore or aiohttp raised.
        method: the request that failed, by botocore's name.
        parameters: its parameters; `Bucket`, `Key` and `Prefix` name the place.
        endpoint: who was asked.
        anonymous: whether the request was unsigned.
    """
    bucket, endpoint = (
        str(parameters.get("Bucket", "")),
        masked(endpoint),
    )  # an endpoint may have a password before its host
    place = f"s3://{bucket}/{parameters.get('Key', parameters.get('Prefix', ''))}"
    code = code_of(error)
    if not code:
        return StorageError(f"{place}: {masked(_of_client(error, endpoint))}")
    if code in GONE or (code == "404" and method in ("get_object", "head_object")):
        return Missing(f"{place}: no such file")
    if code in ("PreconditionFailed", "412") and "IfNoneMatch" in parameters:
        return AlreadyExists(f"{place}: already exists")
    reason = (
        UNSIGNED
        if anonymous and REASONS.get(code) is DENIED
        else REASONS.get(code, "{message}; {endpoint} answered {code} to {method}")
    )
    message = str(error).partition(": ")[2] or str(error)
    right, kind = RIGHTS.get(method, "s3:PutObject"), Unwritable if code == "QuotaExceeded" else StorageError
    return kind(
        f"{place}: {reason.format(bucket=bucket, endpoint=endpoint, code=code, right=right, message=message, method=method)}"
    )


def _of_client(error: BaseException, endpoint: str) -> str:
    reason = next(
        (CLIENT_REASONS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in CLIENT_REASONS), None
    )
    if reason:
        return reason.format(endpoint=endpoint, error=error) + REACHED
    return f"{str(error).rstrip('.')}; check the environment's AWS settings ({CREDENTIALS}; AWS_ENDPOINT_URL, AWS_DEFAULT_REGION)"
