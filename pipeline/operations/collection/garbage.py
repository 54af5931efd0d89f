"""Garbage: the stored files that no kept run refers to, in the order in which to remove them."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from infra.commits import CommitLog
from infra.errors import Corrupt, Missing
from infra.events import stamp_of
from infra.storage.removal import Entry, entries
from infra.storage.storage import SCRATCH, Storage
from pipeline.operations.collection.retention import Retained, find_kept, summarised_models
from pipeline.root.layout import collected_file, run_summary_file, runs, table_run
from pipeline.root.logs import LOGGED, log_folder
from pipeline.root.mark import open_root

UNCLAIMED_SECONDS = 86400.0  # that an attempt without a receipt stays


RUNS, SCORES = "runs", "scores"


Attempt = tuple[str, str]  # a task and one of its attempts


# The order of removal. The mark of a run that is removed goes after the run's other files.
TABLE, SUMMARY, RECORD, MARK, MANIFEST, RECEIPT, FILE = range(7)


@dataclass(frozen=True)
class Removal:
    """A stored file to remove. `model` is "" for a file of a whole run; `stage` is a stage, `scores` or `runs`."""

    order: int
    entry: Entry
    model: str
    stage: str

    @property
    def unit(self) -> str:
        """The run or commit log that it is part of, whose files go in their order; a scratch file is its own."""
        path = self.entry.path
        run_id = path.split("/")[1] if path.startswith(f"{RUNS}/") else table_run(path)
        return run_id or log_folder(path) or path


@dataclass
class Garbage:
    """What no kept run refers to, in the order in which to remove it.

    `marked`: runs that lose results. `gone`: those that are removed whole. `kept`: how many runs stay. `notes`: what
    stays because it cannot be read.
    """

    removals: list[Removal] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    kept: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes of all that is removed."""
        return sum(removal.entry.bytes for removal in self.removals)

    def by_model_and_stage(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(objects, bytes) by (model, stage), in the order of their names."""
        objects, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for removal in self.removals:
            objects[removal.model, removal.stage] += 1
            sizes[removal.model, removal.stage] += removal.entry.bytes
        return {place: (objects[place], sizes[place]) for place in sorted(objects)}


def find_garbage(storage: Storage, keep_seconds: float, now: float | None = None) -> Garbage:
    """All that no kept run refers to. Writes nothing.

    Args:
        storage: of the root.
        keep_seconds: runs that began or ended within so many seconds stay, and the latest result of each model,
            however old.
        now: seconds since 1970; None is the present.

    Raises:
        RootError: it is not a root.
        Corrupt: a document of a run cannot be read, so what the run refers to is unknown.
    """
    open_root(storage)
    now = time.time() if now is None else now
    search = _Search(
        storage,
        find_kept(storage, stamp_of(now - keep_seconds)),
        now - keep_seconds,
        now - max(keep_seconds, UNCLAIMED_SECONDS),
    )
    found = search.found
    search.runs()
    for name in storage.list(""):
        for stage in LOGGED:
            search.stage(name, stage)
    found.removals += [
        Removal(FILE, entry, "", RUNS)
        for entry in entries(storage, SCRATCH)
        if entry.modified < search.unclaimed_before
    ]
    found.removals.sort(key=lambda removal: (removal.order, removal.entry.path))
    return found


@dataclass(frozen=True)
class _Search:
    """A search through a root.

    What was written at or after `cutoff` is young and stays, and so do attempts without a receipt that were written at
    or after `unclaimed_before`.
    """

    storage: Storage
    kept: Retained
    cutoff: float
    unclaimed_before: float
    found: Garbage = field(default_factory=Garbage)

    def runs(self) -> None:
        """Find the summaries and tables of results that go, and the records of runs that go whole."""
        for run_id in runs(self.storage):
            names = summarised_models(self.storage, run_id)
            going = [name for name in names if not self.kept.summary_stays(run_id, name)]
            whole = run_id not in self.kept.runs
            self.found.kept += not whole
            if whole or going:
                self.found.marked.append(run_id)
            if whole:
                self.found.gone.append(run_id)
            summaries = {run_summary_file(run_id, name): name for name in going}
            for entry in entries(self.storage, f"{RUNS}/{run_id}"):
                if entry.path in summaries:
                    self.found.removals.append(Removal(SUMMARY, entry, summaries[entry.path], RUNS))
                elif whole and entry.path != collected_file(run_id):
                    self.found.removals.append(Removal(RECORD, entry, "", RUNS))
        self._tables()

    def _tables(self) -> None:
        """Find the tables whose results go. A table whose run has no record was not written by mad."""
        going = set(self.found.marked)
        for name in self.storage.list(""):
            for entry in entries(self.storage, f"{name}/{SCORES}"):
                run_id = table_run(entry.path)
                if run_id in going and not self.kept.summary_stays(str(run_id), name):
                    self.found.removals.append(Removal(TABLE, entry, name, SCORES))

    def stage(self, model: str, stage: str) -> None:
        """Find the manifests, receipts and attempts of a model's stage that go."""
        logs: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries(self.storage, f"{model}/{stage}"):
            folder = log_folder(entry.path)
            if folder is not None and folder not in self.kept.folders:
                logs[folder].append(entry)
        for folder, inside in logs.items():
            try:
                going = list(self._of_log(CommitLog(self.storage, folder), inside))
            except Corrupt as error:
                self.found.notes.append(f"{error}; all of {folder} stays")
            else:
                self.found.removals += [Removal(order, entry, model, stage) for order, entry in going]

    def _of_log(self, log: CommitLog, inside: Sequence[Entry]) -> Iterator[tuple[int, Entry]]:
        """What goes of a commit log, each with its place in the order of removal."""
        files = _LogFiles.of(log.folder, inside)
        staying = [one for one in files.manifests if one.path in self.kept.manifests or one.modified >= self.cutoff]
        going = [one for one in files.manifests if one not in staying]
        yield from ((MANIFEST, one) for one in going)
        listed = [receipt for one in staying for receipt in log.manifest(one.path).receipts]
        names = {log.receipt_name(receipt.task, receipt.generation) for receipt in listed}
        unlisted = {name: one for name, one in files.receipts.items() if name not in names}
        yield from ((RECEIPT, one) for one in unlisted.values() if one.modified < self.cutoff)
        young = {_task_of(name) for name, one in unlisted.items() if one.modified >= self.cutoff}
        claimed = {(receipt.task, receipt.attempt) for receipt in listed}
        closed = self._closed(log, going)
        for attempt, written in files.attempts.items():
            # A task with a young receipt that no kept manifest lists keeps all its attempts.
            if attempt in claimed or attempt[0] in young:
                continue
            if max(one.modified for one in written) < (self.cutoff if attempt in closed else self.unclaimed_before):
                yield from ((FILE, one) for one in written)

    def _closed(self, log: CommitLog, going: Sequence[Entry]) -> set[Attempt]:
        """Attempts whose workers are known to have ended, because a manifest that goes lists their receipts."""
        found = set[Attempt]()
        for entry in going:
            with suppress(Corrupt, Missing):  # a manifest that cannot be read names none
                found.update((receipt.task, receipt.attempt) for receipt in log.manifest(entry.path).receipts)
        return found


@dataclass(frozen=True)
class _LogFiles:
    """The files of a commit log: its manifests, its receipts by name, and the files of its attempts."""

    manifests: list[Entry]
    receipts: dict[str, Entry]
    attempts: dict[Attempt, list[Entry]]

    @classmethod
    def of(cls, folder: str, inside: Sequence[Entry]) -> "_LogFiles":
        """Sort the files in a log's folder."""
        files = cls([], {}, defaultdict(list))
        for entry in inside:
            first, *rest = entry.path[len(folder) + 1 :].split("/")
            if first == "manifests":
                files.manifests.append(entry)
            elif first == "receipts":
                files.receipts[rest[-1]] = entry
            elif len(rest) > 1:
                files.attempts[first, rest[0]].append(entry)
        return files


def _task_of(receipt_name: str) -> str:
    return receipt_name.rpartition(".")[0].rpartition(".")[0]
