"""The commit protocol as a state machine: two writers and a reader on one store, against a dictionary as a model."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from infra.commits import CommitLog, Measures, Receipt
from infra.storage.storage import Storage
from tests.infra.stores import another_client, fresh_url

writers = st.integers(0, 1)
tasks = st.sampled_from(["000", "001", "rows-002.part"])

contents = st.sampled_from(
    [{"rows": b"one"}, {"rows": b"two"}, {"rows": b"two", "columns": b""}, {"folder/rows": b"one"}]
)

MEASURES = Measures(rows=3, seconds=0.5, peak_memory_bytes=1 << 20)


class Commits(RuleBasedStateMachine):
    """Two independent writers; `history` holds the receipts of each task, one per generation."""

    kind = "memory"
    seen = Bundle("seen")

    @initialize()
    def begin(self) -> None:
        """An empty store."""
        self.folder = tempfile.TemporaryDirectory()
        url = fresh_url(self.kind, Path(self.folder.name))
        *self.logs, self.reader = (CommitLog(another_client(Storage(url)), "stage/rows") for _ in range(3))
        self.history: dict[str, list[Receipt]] = {}
        self.written: dict[str, Mapping[str, bytes]] = {}
        self.published: dict[str, tuple[Receipt, ...]] = {}

    def teardown(self) -> None:
        """Remove the files of a local store."""
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def expect(self, receipt: Receipt, task: str, generation: int, files: Mapping[str, bytes]) -> Receipt:
        """The receipt of this generation is the first that was committed."""
        of_task = self.history.setdefault(task, [])
        if generation < len(of_task):
            assert receipt == of_task[generation]
        else:
            assert (receipt.task, receipt.generation, receipt.measures) == (task, generation, MEASURES)
            assert receipt.attempt not in self.written
            assert {file.name: file.bytes for file in receipt.files} == {
                name: len(data) for name, data in files.items()
            }
            of_task.append(receipt)
            self.written[receipt.attempt] = files
        return receipt

    @rule(target=seen, writer=writers, task=tasks, files=contents)
    def commit(self, writer: int, task: str, files: Mapping[str, bytes]) -> Receipt:
        """A task is committed, perhaps again by another writer: the first receipt counts."""
        return self.expect(self.logs[writer].commit(task, files, MEASURES), task, 0, files)

    @rule(target=seen, writer=writers, known=seen, files=contents)
    def retry(self, writer: int, known: Receipt, files: Mapping[str, bytes]) -> Receipt:
        """A task is tried again from what a writer knew, which may be stale: the same content supersedes nothing."""
        receipt = self.logs[writer].commit(known.task, files, MEASURES, supersedes=known)
        if self.written[known.attempt] == files:
            assert receipt == known
            return receipt
        return self.expect(receipt, known.task, known.generation + 1, files)

    @rule(task=tasks, attempt=st.text("abcdef0123456789", min_size=16, max_size=16))
    def die(self, task: str, attempt: str) -> None:
        """A worker writes its files and never its receipt."""
        self.reader.storage.write(f"stage/rows/{task}/{attempt}/rows", b"half")

    @rule(writer=writers, order=st.permutations(["000", "001", "rows-002.part"]), many=st.integers(0, 3))
    def publish(self, writer: int, order: list[str], many: int) -> None:
        """Some tasks' receipts are published, in some order; perhaps what was published before."""
        receipts = tuple(self.history[task][-1] for task in order[:many] if task in self.history)
        path = self.logs[writer].publish(receipts)
        assert self.published.setdefault(path, receipts) == receipts
        assert self.reader.manifest(path).receipts == receipts

    @rule(target=seen, known=consumes(seen))
    def restart(self, known: Receipt) -> object:
        """A writer restarts and learns what counts from the store alone."""
        receipts = CommitLog(Storage(self.reader.storage.url), "stage/rows").receipts()
        assert known.task in receipts
        return multiple(*receipts.values())

    @invariant()
    def what_counts_is_the_latest_generation(self) -> None:
        """Attempts without a receipt are invisible to every reader."""
        if hasattr(self, "reader"):
            assert self.reader.receipts() == {task: receipts[-1] for task, receipts in self.history.items()}
            assert set(self.reader.manifests()) == set(self.published)

    @invariant()
    def every_receipt_names_files_that_are_there(self) -> None:
        """Superseded ones too: nothing is ever overwritten."""
        for receipt in [receipt for receipts in getattr(self, "history", {}).values() for receipt in receipts]:
            for name, data in self.written[receipt.attempt].items():
                assert self.reader.storage.read(f"{self.reader.attempt_folder(receipt)}/{name}") == data


class CommitsOnDisk(Commits):
    """The same on a disk."""

    kind = "local"


class CommitsOnS3(Commits):
    """The same on S3, each party with a client of its own."""

    kind = "s3"


TestCommitsInMemory = Commits.TestCase
TestCommitsInMemory.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)
TestCommitsOnDisk = CommitsOnDisk.TestCase
TestCommitsOnDisk.settings = settings(max_examples=10, stateful_step_count=15, deadline=None, derandomize=True)


@pytest.mark.moto
@pytest.mark.usefixtures("on_moto")
class TestCommitsOnMoto(CommitsOnS3.TestCase):
    """On moto's server."""

    settings = settings(max_examples=4, stateful_step_count=12, deadline=None, derandomize=True)


@pytest.mark.s3
@pytest.mark.usefixtures("on_s3")
class TestCommitsOnRealS3(CommitsOnS3.TestCase):
    """On a real store."""

    settings = settings(max_examples=5, stateful_step_count=15, deadline=None, derandomize=True)
