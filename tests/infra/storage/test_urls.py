"""URLs that carry credentials are refused, and masked where other programs' messages quote them."""

import os
from pathlib import Path

import pytest

from infra.errors import StorageError
from infra.storage.urls import absolute, masked, path_on_disk, refuse_credentials, refuse_encoded

REFUSED = {
    "a password": "https://user:hunter2@store/bucket",
    "a key and its secret": "s3://AKIAKEY:hunter2@bucket/root",
    "a secret with a slash": "s3://AKIAKEY:hun/ter2@bucket/root",
    "inside a chain": "simplecache::s3://AKIAKEY:hunter2@bucket/root",
    "before a chain": "zip://AKIAKEY:hunter2::s3://bucket/root",
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
    "zip://a.parquet::/data/archive.zip",
    "zip://*.parquet::s3://bucket/archive.zip",
    "filecache::zip://a.parquet::https://store:9000/archive.zip",
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


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/data/a::b", "/data/a::b"),
        ("/data/a%20b/?#*[1]", "/data/a%20b/?#*[1]"),
        ("file:///data/a::b", "/data/a::b"),
        ("local:///data/x/", "/data/x"),
        ("/", "/"),
        ("s3://bucket/x", None),
        ("memory://x", None),
        ("simplecache::s3://bucket/x", None),
    ],
)
def test_a_plain_path_is_taken_literally(url: str, path: str | None) -> None:
    assert path_on_disk(url) == path


def test_a_relative_path_counts_from_the_working_folder() -> None:
    assert path_on_disk("a/~b") == f"{os.getcwd()}/a/~b"


@pytest.mark.parametrize("url", ["file://data/x", "file://localhost/data/x", "file://~/x", "local://x"])
def test_a_url_of_a_disk_without_an_absolute_path_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match=r"names no absolute path of this machine .* write the plain path instead"):
        path_on_disk(url)


def test_an_encoded_character_is_refused_in_urls_of_disks_only() -> None:
    with pytest.raises(StorageError, match=r"%20 may stand for itself or for the character that it encodes"):
        refuse_encoded("file:///data/a%20b")
    for accepted in ("/data/a%20b", "s3://bucket/a%20b", "file:///data/100%", "https://host/a%20b"):
        refuse_encoded(accepted)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a//b/./c/", "/config/a/b/c"),
        ("../x", "/x"),
        ("//data/x", "/data/x"),
        ("a::b:c", "/config/a::b:c"),
        ("s3:/bucket", "/config/s3:/bucket"),
        ("-x %20#?[1]*", "/config/-x %20#?[1]*"),
        ("~/x", f"{Path.home()}/x"),
        ("x~", "/config/x~"),
        ("~nobody-of-this-name/x", "/config/~nobody-of-this-name/x"),
        (" ", "/config/ "),
    ],
)
def test_a_path_is_absolute_and_otherwise_as_it_is_written(path: str, expected: str) -> None:
    assert absolute(path, "/config") == expected


def test_a_folder_whose_name_begins_with_a_tilde_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "~root").mkdir()
    assert absolute("~root/x", str(tmp_path)) == f"{tmp_path}/~root/x"


def test_the_parent_of_a_link_is_that_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    assert absolute("near/../x", str(tmp_path)) == f"{tmp_path}/far/x"
    assert absolute("near/../*.x", str(tmp_path)) == f"{tmp_path}/far/*.x"
    assert absolute("far/away/../x", str(tmp_path)) == f"{tmp_path}/far/x"
