"""What only S3 has: objects in parts, and connections, which threads share and processes do not."""

import gc
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from infra.errors import AlreadyExists
from infra.formats.arrays import encode, open_array, read
from infra.storage.files import open_input, read_input
from infra.storage.s3 import PART_BYTES
from infra.storage.storage import Storage
from tests.infra.asks import complaint
from tests.infra.stores import another_client
from tests.services import BUCKET, Service


class TestLargeObjects:
    """Written in parts, except for exclusive creates, which are one request."""

    def parts(self, service: Service, storage: Storage, path: str) -> int:
        """In how many parts an object was written."""
        etag = service.client().head_object(Bucket=BUCKET, Key=storage.full(path).partition("/")[2])["ETag"].strip('"')
        return int(etag.partition("-")[2] or 1)

    def test_uploads_and_writes_of_several_parts(self, service: Service, s3: Storage, tmp_path: Path) -> None:
        data = os.urandom(1 << 20) * (2 * PART_BYTES // (1 << 20)) + b"tail"
        (tmp_path / "local").write_bytes(data)
        s3.upload("uploaded", tmp_path / "local")
        s3.write("written", data)
        for path in ("uploaded", "written"):
            assert self.parts(service, s3, path) == 3
            assert s3.read(path) == data
        s3.publish("uploaded", "published")
        assert s3.read("published") == data

    def test_a_create_is_one_request_and_exclusive_whatever_its_size(self, service: Service, s3: Storage) -> None:
        data = bytes(3 * PART_BYTES)
        s3.create("large", data)
        assert self.parts(service, s3, "large") == 1
        with pytest.raises(AlreadyExists):
            s3.create("large", data + b"1")
        assert s3.read("large") == data

    def test_a_file_is_read_in_ranges(self, s3: Storage) -> None:
        data = os.urandom(1 << 20) * 9
        s3.write("inputs/large", data)
        with open_input(f"{s3.url}/inputs/large") as file:
            for start in (8 << 20, 0, (4 << 20) - 5, (8 << 20) + 1):
                file.seek(start)
                assert file.read(10) == data[start : start + 10]
        assert read_input(f"{s3.url}/inputs/large") == data

    def test_a_file_replaced_while_it_is_read_is_told(self, s3: Storage) -> None:
        s3.write("file", os.urandom(5 << 20))
        with s3.open("file") as file:
            file.read(10)
            s3.write("file", os.urandom(5 << 20))
            file.seek(9 << 19)
            assert (
                "changed while the audit ran (it has another ETag); nothing that was read of it is kept; run again"
                in complaint(lambda: file.read(10))
            )


def test_an_empty_folder_made_in_a_console_is_empty(service: Service, s3: Storage) -> None:
    """Consoles make an empty object whose name ends in a slash."""
    for folder in (s3.full(""), s3.full("inner")):
        service.client().put_object(Bucket=BUCKET, Key=f"{folder.partition('/')[2]}/", Body=b"")
    assert s3.list("inner") == []
    assert s3.list("") == ["inner"]
    assert list(s3.walk("")) == []


def _read_after_fork(storage: Storage, answers: "multiprocessing.Queue[tuple[bytes, float]]") -> None:
    answers.put((storage.read("file"), float(read(open_array(storage, "rows"), 0, 3).sum())))


class TestSharing:
    """One storage in many threads, in forked processes, and when its client is gone."""

    @pytest.fixture
    def filled(self, s3: Storage) -> Storage:
        """A root with a file and an array."""
        s3.write("file", b"data")
        for name, data in encode(np.ones((3, 2), np.float32), {}).items():
            s3.write(f"rows/{name}", data)
        return s3

    def test_many_threads_read_arrays_at_once(self, filled: Storage) -> None:
        start = Barrier(8)

        def work(_: int) -> float:
            start.wait()
            return float(sum(read(open_array(filled, "rows"), 0, 3).sum() for _ in range(5)))

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(work, range(8))) == [30.0] * 8

    def test_an_opened_array_is_read_by_other_threads(self, filled: Storage) -> None:
        array = open_array(filled, "rows")
        with ThreadPoolExecutor(4) as threads:
            sums = threads.map(lambda row: float(read(array, row % 3, row % 3 + 1).sum()), range(12))
            assert list(sums) == [2.0] * 12

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_forked_process_makes_its_own_connections(self, filled: Storage) -> None:
        filled = another_client(filled)
        gc.collect()  # clients of other tests would try to close their connections in the new process
        assert filled.read("file") == b"data"
        context = multiprocessing.get_context("fork")
        answers: multiprocessing.Queue[tuple[bytes, float]] = context.Queue()
        process = context.Process(target=_read_after_fork, args=(filled, answers))
        process.start()
        assert answers.get(timeout=60) == (b"data", 6.0)
        process.join()
        assert filled.read("file") == b"data"

    def test_connections_are_closed_with_their_client(self, filled: Storage) -> None:
        """An unclosed session would be a warning, which fails the test."""
        client = another_client(filled)
        assert read(open_array(client, "rows"), 0, 3).sum() == 6
        type(client.filesystem).clear_instance_cache()
        del client
        gc.collect()
