"""Which errors of S3 are transient, and how each is explained."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from infra.errors import AlreadyExists, Changed, Missing, StorageError, Unwritable
from infra.storage.s3_errors import CutOff, botocore_never_retries, code_of, explain, is_transient, status_of

ENDPOINT = "http://user:hunter2@store:9000"
KEY = {"Bucket": "audits", "Key": "root/mad.json"}


def refusal(code: str, status: int = 400, message: str = "because") -> ClientError:
    """An error as botocore raises it for an answer of S3."""
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutObject")


def test_code_and_status_are_those_of_the_answer_and_empty_without_one() -> None:
    assert (code_of(refusal("SlowDown", 503)), status_of(refusal("SlowDown", 503))) == ("SlowDown", 503)
    assert (code_of(ClientError({}, "PutObject")), status_of(ClientError({}, "PutObject"))) == ("", 0)
    assert (code_of(CutOff()), status_of(CutOff())) == ("", 0)


TRANSIENT = {
    "throttled": (refusal("SlowDown", 503), True),
    "a conflict of writers": (refusal("ConditionalRequestConflict", 409), True),
    "unknown code, 500": (refusal("Odd", 500), True),
    "unknown code, 507": (refusal("Odd", 507), True),
    "unknown code, 429": (refusal("Odd", 429), True),
    "never implemented": (refusal("NotImplemented", 501), False),
    "denied": (refusal("AccessDenied", 403), False),
    "lost the race": (refusal("PreconditionFailed", 412), False),
    "unreachable": (EndpointConnectionError(endpoint_url=ENDPOINT), True),
    "too slow": (ReadTimeoutError(endpoint_url=ENDPOINT), True),
    "broken off": (CutOff(), True),
    "no credentials": (NoCredentialsError(), False),
}


@pytest.mark.parametrize(("error", "transient"), TRANSIENT.values(), ids=TRANSIENT.keys())
def test_what_may_soon_succeed_is_transient(error: Exception, transient: bool) -> None:
    assert is_transient(error) == transient


def test_botocore_retries_all_but_bodies_that_break_off_and_conflicts() -> None:
    assert [name for name, (error, _) in TRANSIENT.items() if botocore_never_retries(error)] == [
        "a conflict of writers",
        "broken off",
    ]


EXPLAINED = {
    "gone": (refusal("NoSuchKey", 404), "get_object", Missing, "no such file"),
    "an empty 404 of a file": (refusal("404", 404), "head_object", Missing, "no such file"),
    "full": (
        refusal("QuotaExceeded", 403),
        "put_object",
        Unwritable,
        "the store's quota is used up; make room or raise it, then run again",
    ),
    "denied": (
        refusal("AccessDenied", 403),
        "delete_object",
        StorageError,
        "these credentials are not allowed to do this (it needs s3:DeleteObject);"
        " ask the bucket's owner for the right, or name another place",
    ),
    "an unknown code": (
        refusal("Teapot", 418, "short and stout"),
        "put_object",
        StorageError,
        "short and stout; http://***@store:9000 answered Teapot to put_object",
    ),
    "unreachable": (
        EndpointConnectionError(endpoint_url=ENDPOINT),
        "put_object",
        StorageError,
        "http://***@store:9000 cannot be reached; tried several times; check AWS_ENDPOINT_URL and the network,"
        " then run again, what is done is kept",
    ),
}


@pytest.mark.parametrize(("error", "method", "kind", "reason"), EXPLAINED.values(), ids=EXPLAINED.keys())
def test_an_error_is_explained_with_its_place_and_without_secrets(
    error: Exception, method: str, kind: type[StorageError], reason: str
) -> None:
    explained = explain(error, method, KEY, ENDPOINT, anonymous=False)
    assert (type(explained), str(explained)) == (kind, f"s3://audits/root/mad.json: {reason}")


def test_a_failed_condition_is_a_lost_race_only_for_a_create() -> None:
    lost = refusal("PreconditionFailed", 412)
    created = explain(lost, "put_object", {**KEY, "IfNoneMatch": "*"}, ENDPOINT, anonymous=False)
    read = explain(lost, "get_object", {**KEY, "IfMatch": "abc"}, ENDPOINT, anonymous=False)
    assert (type(created), type(read)) == (AlreadyExists, Changed)
    assert "root/mad.json: changed while the audit ran (it has another ETag)" in str(read)
    assert str(read).endswith("; run again")


def test_a_denied_request_without_credentials_asks_for_them() -> None:
    explained = explain(refusal("AccessDenied", 403), "get_object", KEY, ENDPOINT, anonymous=True)
    assert "not public, and no credentials were found to sign with; set AWS_ACCESS_KEY_ID" in str(explained)


def test_a_listing_is_named_by_its_prefix() -> None:
    listing = {"Bucket": "audits", "Prefix": "root/"}
    explained = explain(refusal("NoSuchBucket", 404), "list_objects_v2", listing, "http://store", anonymous=False)
    assert str(explained) == (
        "s3://audits/root/: there is no bucket 'audits' at http://store; make it first (`aws s3 mb s3://audits`),"
        " or correct the name or AWS_ENDPOINT_URL"
    )
