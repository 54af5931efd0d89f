"""URLs that carry credentials are refused, and masked where other programs' messages quote them."""

import pytest

from infra.errors import StorageError
from infra.storage.urls import masked, refuse_credentials

REFUSED = {
    "a password": "https://user:hunter2@store/bucket",
    "a key and its secret": "s3://AKIAKEY:hunter2@bucket/root",
    "a secret with a slash": "s3://AKIAKEY:hun/ter2@bucket/root",
    "inside a chain": "simplecache::s3://AKIAKEY:hunter2@bucket/root",
    "a signature": "https://store/file?X-Amz-Signature=hunter2",
    "a token": "https://store/file?a=1&access_token=hunter2",
    "a SAS signature": "https://store/file?sv=2024&sig=hunter2",
}


@pytest.mark.parametrize("url", REFUSED.values(), ids=REFUSED.keys())
def test_a_url_with_credentials_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(StorageError, match=r"this URL carries credentials.* set them in the environment") as caught:
        refuse_credentials(url)
    assert str(caught.value).startswith(f"{url.partition('://')[0]}://...: ")
    assert "hunter2" not in str(caught.value) and "ter2@" not in str(caught.value)


ACCEPTED = (
    "/data/a:b@c.parquet",
    "s3://bucket/a:b@c",
    "s3://bucket/root?versionId=3",
    "https://store:9000/bucket",
    "https://user@store:9000/bucket",
    "https://[::1]:9000/bucket",
    "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/audits/root",
    "simplecache::s3://bucket/root",
)


@pytest.mark.parametrize("url", ACCEPTED)
def test_a_url_without_credentials_is_accepted(url: str) -> None:
    refuse_credentials(url)


MASKED = {
    "https://user:hunter2@store/bucket failed": "https://***@store/bucket failed",
    "Invalid endpoint: user:hunter2@store": "Invalid endpoint: ***@store",
    "GET https://store/f?sig=hunter2&v=1 failed": "GET https://store/f?sig=***&v=1 failed",
    "https://store/f?X-Amz-Credential=hunter2;token=hunter2": "https://store/f?X-Amz-Credential=***;token=***",
    "https://store:9000/bucket and user@host": "https://store:9000/bucket and user@host",
}


@pytest.mark.parametrize(("text", "expected"), MASKED.items())
def test_secrets_in_a_text_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected
