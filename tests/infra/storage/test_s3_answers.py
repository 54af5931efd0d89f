"""Answers of S3 that are lost or cut off between a client and a store that has executed the request."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.commits import CommitLog, Measures
from infra.errors import AlreadyExists
from infra.storage.s3 import PART_BYTES
from infra.storage.storage import Storage
from tests.infra.asks import complaint
from tests.infra.wires import Fault, broken_wire, error_answer
from tests.services import Service, speak_to

MEASURES = Measures(rows=1, seconds=0, peak_memory_bytes=0)

Lossy = Callable[[Fault], Storage]


@pytest.fixture
def lossy(s3: Storage, service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lossy]:
    """The storage behind a wire with a fault."""
    with ExitStack() as wires:

        def behind(fault: Fault) -> Storage:
            speak_to(wires.enter_context(broken_wire(service.port, fault)), service.owner, monkeypatch)
            return Storage(s3.url)

        yield behind


class TestLostAnswers:
    """The client repeats the request, and finds that it has taken effect."""

    @pytest.mark.parametrize("times", [1, 2])
    def test_a_create_is_recognised_as_ones_own(self, lossy: Lossy, times: int) -> None:
        fault = Fault(b"PUT ", times=times)
        storage = lossy(fault)
        storage.create("receipt", b"mine")
        assert fault.done == times
        assert storage.read("receipt") == b"mine"
        with pytest.raises(AlreadyExists):
            storage.create("receipt", b"another's")

    def test_another_writers_create_is_not(self, lossy: Lossy, s3: Storage) -> None:
        s3.create("receipt", b"another's")
        fault = Fault(b"PUT ")
        with pytest.raises(AlreadyExists):
            lossy(fault).create("receipt", b"mine")
        assert fault.done == 1
        assert s3.read("receipt") == b"another's"

    def test_writes_that_collide_are_tried_again(self, lossy: Lossy) -> None:
        fault = Fault(b"PUT ", times=2, answer=error_answer("409 Conflict", "ConditionalRequestConflict"))
        storage = lossy(fault)
        storage.create("receipt", b"mine")
        assert fault.done == 2
        assert storage.read("receipt") == b"mine"

    def test_a_commit_counts(self, lossy: Lossy, s3: Storage) -> None:
        fault = Fault(b"PUT ", times=2)
        receipt = CommitLog(lossy(fault), "stage").commit("000", {"rows": b"1"}, MEASURES)
        assert fault.done == 2
        assert CommitLog(s3, "stage").receipts() == {"000": receipt}

    def test_an_upload_in_parts_is_there(self, lossy: Lossy, tmp_path: Path) -> None:
        data = bytes(2 * PART_BYTES)
        (tmp_path / "local").write_bytes(data)
        fault = Fault(b"POST ", times=2)
        storage = lossy(fault)
        storage.upload("table", tmp_path / "local")
        assert fault.done == 2
        assert storage.read("table") == data

    def test_a_body_that_is_cut_off_is_read_again(self, lossy: Lossy, s3: Storage) -> None:
        data = os.urandom(3 << 20)
        s3.write("file", data)
        fault = Fault(b"GET ", passed=1 << 20, times=2)
        assert lossy(fault).read("file") == data
        assert fault.done == 2

    def test_a_body_that_is_always_cut_off_is_told(self, lossy: Lossy, s3: Storage) -> None:
        s3.write("file", os.urandom(3 << 20))
        storage = lossy(Fault(b"GET ", passed=1 << 20, times=100))
        assert "breaks off in the middle of its answers; tried several times" in complaint(lambda: storage.read("file"))

    def test_what_answers_is_no_store(self, lossy: Lossy, monkeypatch: pytest.MonkeyPatch) -> None:
        url = lossy(Fault(b"GET ", times=1000, answer=b"SSH-2.0-OpenSSH_9.2\r\n\r\n")).url
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        assert "does not answer as an S3 store does" in complaint(lambda: Storage(url).read("file"))
