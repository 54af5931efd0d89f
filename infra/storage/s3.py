"""S3 as an audit needs it: s3fs, with every request and every error of it passing through one method.

Endpoint, region and credentials are the environment's, found as every AWS tool finds them (variables, profiles, roles). Where there
are none at all, requests are not signed, which is what a public bucket wants. Nothing is remembered of listings, because other
writers' keys must be seen.

Requests are repeated in one loop, here, with exponential backoff and full jitter, bounded in number and in time. botocore's own
repeats are switched off: they know nothing of bodies that break off, and share a quota that a store with many failures empties. Where
AWS_RETRY_MODE or AWS_MAX_ATTEMPTS is set, botocore does as it says, and only what botocore never repeats is repeated here. Below both,
aiohttp replaces a connection that turns out to be closed by another, once and at once.
Every request may be repeated, also one whose answer was lost: reads, copies, removals and plain writes give the same again, a create
meets its own bytes (see `infra.storage`), an upload that is completed or given up twice is no more than that.
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
from infra.storage.s3_errors import CutOff, botocore_never_repeats, code_of, explain, passes

PROTOCOLS = ("s3", "s3a")


TRIES, PATIENCE_SECONDS = 10, 60


FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 5.0


CONNECT_SECONDS, ANSWER_SECONDS = 5, 15


PART_BYTES, MOST_PARTS, PARTS_AT_ONCE = 16 << 20, 10_000, 4


SINGLE_PUT_BYTES = 5 << 30


BLOCK_BYTES, BLOCKS = 4 << 20, 8


RETRIES_OF_ENVIRONMENT = frozenset({"AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"})


Parameters = Mapping[str, object]


REASON_ASKED_BY: Mapping[str, tuple[str, Parameters]] = {
    "head_object": ("get_object", {"Range": "bytes=0-0"}),
    "head_bucket": ("list_objects_v2", {"MaxKeys": 1}),
}


def open_s3(url: str) -> tuple["S3", str]:
    """The filesystem of an S3 URL, one for each environment of this process, and the path in it.

    Raises:
        StorageError: the URL names no bucket.
    """
    path = str(S3._strip_protocol(url)).lstrip("/")
    if not path:
        raise StorageError(f"{url}: names no bucket; write s3://BUCKET/FOLDER")
    return S3(environment=_fingerprint()), path


class S3(S3FileSystem):
    """An s3fs filesystem. Its errors are this project's, its creates are single requests, its reads are ranged and kept small."""

    retries = 1  # s3fs's own, which would multiply those of this class
    anon: bool
    session: AioSession | None

    def __init__(self, environment: str, **options: object):
        """`environment` tells clients of different credentials apart, wherever s3fs keeps them for reuse."""
        super().__init__(use_listings_cache=False, config_kwargs=_settings(), **options)
        self.environment = environment
        self._worth_repeating = botocore_never_repeats if RETRIES_OF_ENVIRONMENT & os.environ.keys() else passes

    async def set_session(self, refresh: bool = False, kwargs: Parameters | None = None) -> object:
        """Connects, unsigned where there are no credentials."""
        if self._s3 is None and not self.anon:
            self.session = self.session or AioSession()
            self.anon = await self.session.get_credentials() is None
        return await super().set_session(refresh)

    async def _call_s3(self, method: str, *defaults: Parameters, **parameters: object) -> Parameters:
        """One request with its whole answer.

        An answer to a HEAD says nothing of why it failed, so the same is asked by a GET. An upload that is gone when it is completed
        has been completed: an earlier answer was lost.
        """
        try:
            return await self._ask(method, defaults, parameters)
        except (ClientError, BotoCoreError, ResponseParserError, CutOff, ValueError) as error:
            where = {name: parameters[name] for name in ("Bucket", "Key") if name in parameters}
            if method in REASON_ASKED_BY and (code_of(error) in ("400", "403") or method == "head_bucket"):
                telling, more = REASON_ASKED_BY[method]
                await self._call_s3(telling, **where, **more)
            if method == "complete_multipart_upload" and code_of(error) == "NoSuchUpload":
                return await self._call_s3("head_object", **where)
            endpoint = self._s3.meta.endpoint_url if self._s3 is not None else os.environ.get("AWS_ENDPOINT_URL", "AWS")
            raise explain(error, method, parameters, str(endpoint), anonymous=self.anon) from error

    async def _ask(self, method: str, defaults: tuple[Parameters, ...], parameters: Parameters) -> Parameters:
        """Asks until there is an answer, or an error that will not pass; at most TRIES times, no time later than PATIENCE_SECONDS after the first."""
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
        """In one request: parallel ones would first ask for the size."""
        return bytes(await super()._cat_file(path, version_id, start, end, max_concurrency=1))

    def _open(self, path: str, mode: str = "rb", **options: object) -> IO[bytes]:
        """For ranged reads in blocks, of which the last few are kept: a reader of columns goes back and forth between them."""
        blocks = {"block_size": BLOCK_BYTES, "cache_type": "blockcache", "cache_options": {"maxblocks": BLOCKS}}
        file: IO[bytes] = super()._open(path, mode, **{**options, **blocks})
        return file

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
        if mode == "create":
            await self._create(path, value)
        else:
            await super()._pipe_file(path, value, chunksize=_part_bytes(len(value)), max_concurrency=PARTS_AT_ONCE)

    async def _create(self, path: str, value: bytes) -> None:
        """In a single request whatever the size: some stores ignore the condition when a multipart upload is completed."""
        if len(value) >= SINGLE_PUT_BYTES:
            raise StorageError(
                f"s3://{path}: {len(value)} bytes, one S3 request takes {SINGLE_PUT_BYTES}; what is created exclusively must be smaller"
            )
        bucket, key, _ = self.split_path(path)
        await self._call_s3("put_object", Bucket=bucket, Key=key, Body=value, IfNoneMatch="*")

    async def _put_file(self, lpath: str, rpath: str, **_: object) -> None:
        await super()._put_file(
            lpath, rpath, chunksize=_part_bytes(Path(lpath).stat().st_size), max_concurrency=PARTS_AT_ONCE
        )

    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        """Where this fails too, what failed first is the error to tell; a lifecycle rule of the bucket removes such parts."""
        try:
            await super()._abort_mpu(bucket, key, mpu)
        except StorageError:
            return

    async def _rm_file(self, path: str, **_: object) -> None:
        """S3 removes what is not there without a word."""
        await self._info(path)
        await super()._rm_file(path)

    async def _remove_keys(self, paths: Sequence[str]) -> None:
        """At most 1,000 objects of one bucket, in one request. What s3fs offers for this does not say what was refused."""
        bucket = self.split_path(paths[0])[0]
        keys = [{"Key": self.split_path(path)[1]} for path in paths]
        answer = await self._call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        refused = answer.get("Errors")
        if isinstance(refused, list) and refused:
            first = refused[0]
            raise Unwritable(
                f"s3://{bucket}/{first.get('Key')}: not removed ({first.get('Code')}: {first.get('Message')}), nor {len(refused) - 1:,} others"
                f" of {len(keys):,}; give this user the right to delete objects there"
            )

    remove_keys = sync_wrapper(_remove_keys)


class _Body:
    """The body of an answer, all of it read."""

    def __init__(self, data: bytes):
        self._data = io.BytesIO(data)

    async def read(self, amount: int = -1) -> bytes:
        """The next so many bytes, or all that are left."""
        return self._data.read(amount)

    def close(self) -> None:
        """Nothing is open."""


async def _whole(coming: Awaitable[Parameters]) -> Parameters:
    """An answer with all of its body. A refusal's document that breaks off is aiohttp's error where the answer would have been streamed."""
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
    """How long to wait after so many tries: anything up to a bound that doubles, so that workers that failed together do not come back together."""
    return random.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (tried - 1)))  # noqa: S311 - jitter is no secret


def _part_bytes(total: int) -> int:
    """Bytes a part, so that there are not too many parts."""
    return max(PART_BYTES, -(-total // MOST_PARTS))


def _settings() -> dict[str, object]:
    """Of botocore, where the environment says nothing else.

    Checksums in requests only where S3 demands them: older stores refuse the newer kinds, and digests of all files are kept anyway.
    """
    settings: dict[str, object] = {"connect_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS}
    if not RETRIES_OF_ENVIRONMENT & os.environ.keys():
        settings["retries"] = {"mode": "standard", "total_max_attempts": 1}
    if "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ:
        settings["request_checksum_calculation"] = "when_required"
    return settings


def _fingerprint() -> str:
    """A digest of what the environment says about S3: secrets do not travel with the filesystem."""
    said = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("AWS_"))
    return hashlib.sha256("\0".join(said).encode()).hexdigest()
