"""The commit protocol under faults, as a state machine: writers killed or overtaken at any write, and lost answers.

It is checked against the same dictionary of what counts as without faults.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import multiple, rule

from infra.commits import Receipt
from tests.infra.stores import Operation, ScriptedFileSystem
from tests.infra.test_commit_protocol import MEASURES, Commits, contents, tasks, writers

places = st.integers(0, 2)  # of a write among those of a commit: its files, then its receipt
Script = Callable[[Operation], None]


class Killed(BaseException):
    """A writer was killed: nothing that it would do about an error is done."""


def at_write(place: int, what: Script) -> Script:
    """A script that does something else instead of the write at this place."""
    counted = iter(range(1000))
    return lambda operation: what(operation) if next(counted) == place else operation()


def killed_before(operation: Operation) -> None:
    raise Killed


def killed_after(operation: Operation) -> None:
    with suppress(FileExistsError):
        operation()
    raise Killed


def repeated(operation: Operation) -> None:
    """The answer is lost, and the client repeats the write."""
    with suppress(FileExistsError):
        operation()
    operation()


class CommitsOnABadDay(Commits):
    """The rules without faults, and these."""

    kind = "scripted"

    def killed(self, place: int, done: bool, work: Callable[[], object]) -> None:
        """Do work during which its writer is killed at a write, before or after it is done."""
        with (
            ScriptedFileSystem.scripted(at_write(place, killed_after if done else killed_before)),
            pytest.raises(Killed),
        ):
            work()

    def learn(self, task: str, generation: int, files: Mapping[str, bytes]) -> Receipt:
        """The receipt that a killed writer left counts, unless another was there first."""
        receipt = self.reader.receipt(self.reader.receipt_name(task, generation))
        return self.expect(receipt, task, generation, files)

    @rule(target=Commits.seen, writer=writers, task=tasks, files=contents, place=places, done=st.booleans())
    def killed_while_committing(
        self, writer: int, task: str, files: Mapping[str, bytes], place: int, done: bool
    ) -> object:
        """A task is done if and only if it has its receipt."""
        place = min(place, len(files))
        self.killed(place, done, lambda: self.logs[writer].commit(task, files, MEASURES))
        return self.learn(task, 0, files) if done and place == len(files) else multiple()

    @rule(target=Commits.seen, writer=writers, known=Commits.seen, files=contents, place=places, done=st.booleans())
    def killed_while_retrying(
        self, writer: int, known: Receipt, files: Mapping[str, bytes], place: int, done: bool
    ) -> object:
        """The generation that counts is the old one until the new one has its receipt."""
        if self.written[known.attempt] == files:
            return multiple()
        place = min(place, len(files))
        self.killed(place, done, lambda: self.logs[writer].commit(known.task, files, MEASURES, supersedes=known))
        return self.learn(known.task, known.generation + 1, files) if done and place == len(files) else multiple()

    @rule(target=Commits.seen, writer=writers, task=tasks, files=contents)
    def commit_though_answers_are_lost(self, writer: int, task: str, files: Mapping[str, bytes]) -> Receipt:
        """A writer that finds its own receipt has succeeded."""
        with ScriptedFileSystem.scripted(repeated):
            receipt = self.logs[writer].commit(task, files, MEASURES)
        return self.expect(receipt, task, 0, files)

    @rule(target=Commits.seen, writer=writers, task=tasks, files=contents, others=contents, place=places)
    def commit_and_be_overtaken(
        self, writer: int, task: str, files: Mapping[str, bytes], others: Mapping[str, bytes], place: int
    ) -> Receipt:
        """Another attempt begins and ends between two writes of the first, which learns that the other counts."""
        done: list[Receipt] = []

        def overtaken(operation: Operation) -> None:
            done.append(self.expect(self.logs[1 - writer].commit(task, others, MEASURES), task, 0, others))
            operation()

        with ScriptedFileSystem.scripted(at_write(min(place, len(files)), overtaken)):
            receipt = self.expect(self.logs[writer].commit(task, files, MEASURES), task, 0, files)
        assert [receipt] == done
        return receipt

    @rule(
        writer=writers,
        order=st.permutations(["000", "001", "rows-002.part"]),
        many=st.integers(1, 3),
        what=st.sampled_from(["before", "after", "lost"]),
    )
    def publish_on_a_bad_day(self, writer: int, order: list[str], many: int, what: str) -> None:
        """A manifest exists whole or not at all."""
        receipts = tuple(self.history[task][-1] for task in order[:many] if task in self.history)
        if what == "lost":
            with ScriptedFileSystem.scripted(repeated):
                path = self.logs[writer].publish(receipts)
        else:
            self.killed(0, what == "after", lambda: self.logs[writer].publish(receipts))
            path = next(
                (path for path in self.reader.manifests() if self.reader.manifest(path).receipts == receipts), ""
            )
        if path:
            assert self.published.setdefault(path, receipts) == receipts
        assert bool(path) or what == "before"


TestCommitsOnABadDay = CommitsOnABadDay.TestCase
TestCommitsOnABadDay.settings = settings(max_examples=100, stateful_step_count=25, deadline=None, derandomize=True)
