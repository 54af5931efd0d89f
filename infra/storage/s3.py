"""S3 as an audit needs it: s3fs, with every request and every error passing through one method.

Endpoint, region and credentials come from the environment, found as every AWS tool finds them (variables, profiles,
roles). Without any credentials, requests are not signed, which is what a public bucket needs. Listings are not cached,
because other writers' keys must be visible.

Requests are repeated in one loop, here, with exponential backoff and full jitter, bounded in number and in time.
botocore's
own retries are switched off: they ignore bodies that break off, and share a quota that a store with many failures
exhausts. Where AWS_RETRY_MODE or AWS_MAX_ATTEMPTS is set, botocore retries accordingly, and only what botocore never
retries is repeated here. Below both, aiohttp replaces a connection that turns out to be closed, once and immediately.
Every request may be repeated, even if it took effect and only its answer was lost: reads, copies, removals and plain
writes have the same result again, a create finds its own bytes (see `infra.storage.storage`), and completing or
aborting an upload twice has no further effect.
"""

import asyncio
import hashlib
import io
import os
import random
import time
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import IO

import aiohttp
from aiobotocore.response import StreamingBody
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from infra.errors import StorageError, Unwritable
from infra.storage.s3_errors import CutOff, botocore_never_retries, code_of, explain, is_transient

TRIES, PATIENCE_SECONDS = 10, 60
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 5.0
CONNECT_SECONDS, ANSWER_SECONDS = 5, 15
PART_BYTES, MOST_PARTS, PARTS_AT_ONCE = 16 << 20, 10_000, 4
SINGLE_PUT_BYTES = 5 << 30
BLOCK_BYTES, BLOCKS = 4 << 20, 8
RETRIES_OF_ENVIRONMENT = frozenset({"AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"})

Parameters = Mapping[str, object]

VERSION = "?versionId="

GET_OF_HEAD: Mapping[str, tuple[str, Parameters]] = {
    "head_object": ("get_object", {"Range": "bytes=0-0"}),
    "head_bucket": ("list_objects_v2", {"MaxKeys": 1}),
}


def open_s3(url: str) -> tuple["S3", str]:
    """The filesystem of an S3 URL, one per environment of this process, and the path in it.

    Raises:
        StorageError: the URL names no bucket, or a version of an object, which s3fs would leave out.
    """
    path = str(S3._strip_protocol(url)).lstrip("/")
    if not path:
        raise StorageError(f"{url}: names no bucket; write s3://BUCKET/FOLDER")
    if VERSION in path:
        raise StorageError(
            f"{url}: {VERSION!r} names a version of an object, and only latest versions are read; leave it out, or copy"
            " that version to a key of its own"
        )
    return S3(environment=_fingerprint()), path


class S3(S3FileSystem):
    """An s3fs filesystem with this project's errors, creates in a single request, and ranged reads in small blocks."""

    retries = 1  # of s3fs, which would multiply those of this class
    anon: bool
    session: AioSession | None

    def __init__(self, environment: str, **options: object):
        """`environment` keeps clients of different credentials apart where s3fs caches them for reuse."""
        super().__init__(use_listings_cache=False, config_kwargs=_settings(), **options)
        self.environment = environment
        self._worth_repeating = botocore_never_retries if RETRIES_OF_ENVIRONMENT & os.environ.keys() else is_transient

    async def set_session(self, refresh: bool = False, kwargs: Parameters | None = None) -> object:
        """Connect, unsigned where there are no credentials."""
        if self._s3 is None and not self.anon:
            self.session = self.session or AioSession()
            self.anon = await self.session.get_credentials() is None
        return await super().set_session(refresh)

    async def _call_s3(self, method: str, *defaults: Parameters, **parameters: object) -> Parameters:
        """Send one request and return its whole answer.

        A failed HEAD has no body that gives the reason, so a GET for the same follows. An upload that is gone when it
        is
        to be completed has been completed: an earlier answer was lost.
        """
        try:
            return await self._send(method, defaults, parameters)
        except (ClientError, BotoCoreError, ResponseParserError, CutOff, ValueError) as error:
            where = {name: parameters[name] for name in ("Bucket", "Key") if name in parameters}
            if method in GET_OF_HEAD and (code_of(error) in ("400", "403") or method == "head_bucket"):
                get, more = GET_OF_HEAD[method]
                await self._call_s3(get, **where, **more)
            if method == "complete_multipart_upload" and code_of(error) == "NoSuchUpload":
                return await self._call_s3("head_object", **where)
            endpoint = self._s3.meta.endpoint_url if self._s3 is not None else os.environ.get("AWS_ENDPOINT_URL", "AWS")
            raise explain(error, method, parameters, str(endpoint), anonymous=self.anon) from error

    async def _send(self, method: str, defaults: tuple[Parameters, ...], parameters: Parameters) -> Parameters:
        """Send until there is an answer or a lasting error; at most TRIES times within PATIENCE_SECONDS."""
        await self.set_session()
        call = getattr(self._s3, method)
        arguments = self._get_s3_method_kwargs(call, *defaults, **parameters)
        latest = time.monotonic() + PATIENCE_SECONDS
        for tried in range(1, TRIES + 1):
            try:
                return await _whole(call(**arguments))
            except (ClientError, BotoCoreError, CutOff) as error:
                wait = wait_seconds(tried)
                if tried == TRIES or time.monotonic() + wait > latest or not self._worth_repeating(error):
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _cat_file(
        self, path: str, version_id: str | None = None, start: int | None = None, end: int | None = None, **_: object
    ) -> bytes:
        """In one request: parallel ones would need another for the size."""
        return bytes(await super()._cat_file(path, version_id, start, end, max_concurrency=1))

    def _open(self, path: str, mode: str = "rb", **options: object) -> IO[bytes]:
        """For ranged reads in blocks; the last few are cached, since a reader of columns alternates between them."""
        blocks = {"block_size": BLOCK_BYTES, "cache_type": "blockcache", "cache_options": {"maxblocks": BLOCKS}}
        file: IO[bytes] = super()._open(path, mode, **{**options, **blocks})
        return file

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        if mode == "create":
            await self._create(path, value)
        else:
            await super()._pipe_file(path, value, chunksize=_part_bytes(len(value)), max_concurrency=PARTS_AT_ONCE)

    async def _create(self, path: str, value: bytes) -> None:
        """In a single request at any size: some stores ignore the condition when a multipart upload is completed."""
        if len(value) >= SINGLE_PUT_BYTES:
            raise StorageError(
                f"s3://{path}: {len(value)} bytes, one S3 request takes {SINGLE_PUT_BYTES};"
                " a file that is created exclusively must be smaller"
            )
        bucket, key, _ = self.split_path(path)
        await self._call_s3("put_object", Bucket=bucket, Key=key, Body=value, IfNoneMatch="*")

    async def _put_file(self, lpath: str, rpath: str, **_: object) -> None:
        chunksize = _part_bytes(Path(lpath).stat().st_size)
        await super()._put_file(lpath, rpath, chunksize=chunksize, max_concurrency=PARTS_AT_ONCE)

    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        """If this fails too, report the first failure; a lifecycle rule of the bucket removes the parts."""
        try:
            await super()._abort_mpu(bucket, key, mpu)
        except StorageError:
            return

    async def _rm_file(self, path: str, **_: object) -> None:
        """Check first that the object exists: S3 does not report that it removed nothing."""
        await self._info(path)
        await super()._rm_file(path)

    async def _remove_keys(self, paths: Sequence[str]) -> None:
        """At most 1,000 objects of one bucket, in one request; s3fs's own method does not report what was refused."""
        bucket = self.split_path(paths[0])[0]
        keys = [{"Key": self.split_path(path)[1]} for path in paths]
        answer = await self._call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        refused = answer.get("Errors")
        if isinstance(refused, list) and refused:
            first = refused[0]
            reason = f"{first.get('Code')}: {first.get('Message')}"
            raise Unwritable(
                f"s3://{bucket}/{first.get('Key')}: not removed ({reason}), nor {len(refused) - 1:,} others"
                f" of {len(keys):,}; give this user the right to delete objects there"
            )

    remove_keys = sync_wrapper(_remove_keys)


class _Body:
    """The body of an answer that has been read completely."""

    def __init__(self, data: bytes):
        self._data = io.BytesIO(data)

    async def read(self, amount: int = -1) -> bytes:
        """The next `amount` bytes, or all remaining ones."""
        return self._data.read(amount)

    def close(self) -> None:
        """Nothing is open."""


async def _whole(coming: Awaitable[Parameters]) -> Parameters:
    """An answer with its whole body.

    If the error document of a request that streams its answer breaks off, the request itself raises aiohttp's error.
    """
    try:
        answer = await coming
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CutOff(str(error)) from error
    body = answer.get("Body")
    if not isinstance(body, StreamingBody):
        return answer
    try:
        return {**answer, "Body": _Body(await body.read())}
    except (BotoCoreError, aiohttp.ClientError, TimeoutError) as error:
        raise CutOff(str(error)) from error
    finally:
        body.close()


def wait_seconds(tried: int) -> float:
    """How long to wait after `tried` tries: uniform up to a bound that doubles with each.

    The jitter keeps workers that failed together from returning together.
    """
    bound = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (tried - 1))
    return random.uniform(0, bound)  # noqa: S311 - jitter is no secret


def _part_bytes(total: int) -> int:
    """Bytes per part of an upload of `total` bytes, so that there are at most MOST_PARTS."""
    return max(PART_BYTES, -(-total // MOST_PARTS))


def _settings() -> dict[str, object]:
    """Settings of botocore that the environment does not set.

    Requests carry checksums only where S3 requires them: older stores refuse the newer kinds, and receipts hold digests
    of all files anyway.
    """
    settings: dict[str, object] = {"connect_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS}
    if not RETRIES_OF_ENVIRONMENT & os.environ.keys():
        settings["retries"] = {"mode": "standard", "total_max_attempts": 1}
    if "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ:
        settings["request_checksum_calculation"] = "when_required"
    return settings


def _fingerprint() -> str:
    """A digest of the environment's settings for S3: secrets do not travel with the filesystem."""
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("AWS_"))
    return hashlib.sha256("\0".join(settings).encode()).hexdigest()
