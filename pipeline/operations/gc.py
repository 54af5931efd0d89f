"""Garbage: what no kept run refers to, found and removed in an order that a kill at any moment leaves whole.

First the records of the runs go, each run marked beforehand as collected; then manifests, receipts, and last the
files that receipts name. So whatever is still there when a removal is cut off is named by nothing, or names only what
is still there, and the next goes on. An attempt that no receipt names stays for a day at least: a worker thought dead
may still be writing it.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

from pydantic import BaseModel, ConfigDict

from infra.commits import CommitLog
from infra.errors import AlreadyExists, Corrupt, Missing
from infra.events import Listener, Notice, StageEnded, StageStarted, Stopwatch, TaskEnded, ignore, stamp_of, utc_stamp
from infra.formats.documents import FORMAT, encode
from infra.locks import Lock
from infra.storage.removal import BATCH, Entry, entries, prune, remove_all
from infra.storage.storage import SCRATCH, Storage
from pipeline.errors import ConfigError
from pipeline.operations.retention import Retained, find_kept, summarised
from pipeline.root.layout import collected_file, run_summary_file, runs, table_run
from pipeline.root.logs import STAGES, log_folder
from pipeline.root.mark import open_root, root_lock

STEP = "gc"


UNCLAIMED_SECONDS = 86400.0


RUNS, SCORES = "runs", "scores"


# In this order they go. Marks of runs that are gone go after the runs' other files.
TABLE, SUMMARY, RECORD, MARK, MANIFEST, RECEIPT, FILE = range(7)


class Collected(BaseModel):
    """The mark of a run of which results were removed: when first."""

    model_config = ConfigDict(frozen=True)
    format: int = FORMAT
    at: str


@dataclass(frozen=True)
class Removal:
    """A stored file that goes. `model` is "" for what belongs to a run as a whole; `stage` is one, or `scores`, or `runs`."""

    order: int
    entry: Entry
    model: str
    stage: str


@dataclass
class Garbage:
    """What goes, in order. `marked`: runs that lose results; `gone`: those of them that go whole; `kept`: how many stay; `notes`: what stays unread."""

    removals: list[Removal] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    kept: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes of all that goes."""
        return sum(removal.entry.bytes for removal in self.removals)

    def by_model_and_stage(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(objects, bytes) by (model, stage), in the order of their names."""
        objects, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for removal in self.removals:
            objects[removal.model, removal.stage] += 1
            sizes[removal.model, removal.stage] += removal.entry.bytes
        return {place: (objects[place], sizes[place]) for place in sorted(objects)}


def find_garbage(storage: Storage, keep_seconds: float, now: float | None = None) -> Garbage:
    """What `collect` would remove. Writes nothing.

    Args:
        storage: of the root.
        keep_seconds: runs that began or ended within so many seconds stay, and the latest result of each model,
            however old.
        now: seconds since 1970; None is the present.

    Raises:
        RootError: it is not a root.
        Corrupt: a document of a run cannot be read, so that nobody can say what the run refers to.
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
        for stage in STAGES:
            search.stage(name, stage)
    found.removals += [
        Removal(FILE, entry, "", RUNS)
        for entry in entries(storage, SCRATCH)
        if entry.modified < search.unclaimed_before
    ]
    found.removals.sort(key=lambda removal: (removal.order, removal.entry.path))
    return found


def collect(storage: Storage, keep_seconds: float, listener: Listener = ignore, now: float | None = None) -> Garbage:
    """Removes what no kept run refers to, and returns it. Arguments and errors as `find_garbage`.

    Raises:
        LockHeld: a run is at work in the root.
        StorageError: the store does not let go of something; what is left, the next time removes.
    """
    open_root(storage)
    with root_lock(storage) as lock:
        found, watch = find_garbage(storage, keep_seconds, now), Stopwatch()
        for note in found.notes:
            listener(Notice(note))
        for run_id in found.marked:
            with suppress(AlreadyExists):
                storage.create(collected_file(run_id), encode(Collected(at=utc_stamp())))
        _remove(storage, found, lock, listener)
        listener(StageEnded(STEP, watch.seconds))
    return found


def _remove(storage: Storage, found: Garbage, lock: Lock, listener: Listener) -> None:
    """Batch after batch, each of one kind, so that within a batch the order does not matter."""
    removals = [
        *found.removals,
        *(Removal(MARK, Entry(collected_file(run_id), 0, 0), "", RUNS) for run_id in found.gone),
    ]
    removals.sort(key=lambda removal: removal.order)
    batches = [
        batch for _, group in groupby(removals, key=lambda removal: removal.order) for batch in _batches(list(group))
    ]
    listener(StageStarted(STEP, len(batches), 0))
    for batch in batches:
        lock.check()
        remove_all(storage, [removal.entry.path for removal in batch])
        if batch[0].order == MARK:
            prune(storage, RUNS)
        listener(TaskEnded(STEP, batch[0].model, 0))
    for folder in (RUNS, *(f"{name}/{part}" for name in storage.list("") for part in (*STAGES, SCORES))):
        prune(storage, folder)


def _batches(removals: Sequence[Removal]) -> Iterator[Sequence[Removal]]:
    for first in range(0, len(removals), BATCH):
        yield removals[first : first + BATCH]


@dataclass(frozen=True)
class _Search:
    """Looks through a root. What was written at or after `cutoff` is young, and stays; so do unclaimed attempts written at or after `unclaimed_before`."""

    storage: Storage
    kept: Retained
    cutoff: float
    unclaimed_before: float
    found: Garbage = field(default_factory=Garbage)

    def runs(self) -> None:
        """Summaries and tables of results that go, and records of runs that go whole."""
        for run_id in runs(self.storage):
            going = [name for name in summarised(self.storage, run_id) if not self.kept.summary_stays(run_id, name)]
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
        """Tables whose results go. One whose run has no record is none of this package's."""
        going = set(self.found.marked)
        for name in self.storage.list(""):
            for entry in entries(self.storage, f"{name}/{SCORES}"):
                run_id = table_run(entry.path)
                if run_id in going and not self.kept.summary_stays(str(run_id), name):
                    self.found.removals.append(Removal(TABLE, entry, name, SCORES))

    def stage(self, model: str, stage: str) -> None:
        """Manifests, receipts and attempts of a stage of a model."""
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
        """What goes of a commit log, by kind. A task of which a young receipt stays that no kept manifest lists keeps all its attempts."""
        parts = {entry: entry.path[len(log.folder) + 1 :].split("/") for entry in inside}
        manifests = [entry for entry in inside if parts[entry][0] == "manifests"]
        staying = [entry for entry in manifests if entry.path in self.kept.manifests or entry.modified >= self.cutoff]
        yield from ((MANIFEST, entry) for entry in manifests if entry not in staying)
        receipts = {
            log.receipt_name(receipt.task, receipt.generation): receipt
            for entry in staying
            for receipt in log.manifest(entry.path).receipts
        }
        claimed = {(receipt.task, receipt.attempt) for receipt in receipts.values()}
        closed = self._closed(log, [entry for entry in manifests if entry not in staying]) - claimed
        young = set[str]()
        for entry in inside:
            if parts[entry][0] == "receipts" and parts[entry][-1] not in receipts:
                if entry.modified < self.cutoff:
                    yield RECEIPT, entry
                else:
                    young.add(parts[entry][-1].rpartition(".")[0].rpartition(".")[0])
        attempts: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in inside:
            if parts[entry][0] not in ("manifests", "receipts") and len(parts[entry]) > 2:
                attempts[parts[entry][0], parts[entry][1]].append(entry)
        for place, files in attempts.items():
            old = max(entry.modified for entry in files) < (self.cutoff if place in closed else self.unclaimed_before)
            if old and place not in claimed and place[0] not in young:
                yield from ((FILE, entry) for entry in files)

    def _closed(self, log: CommitLog, going: Sequence[Entry]) -> set[tuple[str, str]]:
        """Attempts whose workers are known to have ended: a manifest that goes lists their receipts. One that cannot be read tells of none."""
        found = set[tuple[str, str]]()
        for entry in going:
            with suppress(Corrupt, Missing):
                found.update((receipt.task, receipt.attempt) for receipt in log.manifest(entry.path).receipts)
        return found


def check_keep(seconds: float) -> float:
    """A span to keep runs for, as it is.

    Raises:
        ConfigError: it reaches back before 1970.
    """
    if seconds > time.time():
        raise ConfigError(f"--keep reaches back {seconds / 86400:,.0f} days, to before 1970; give a shorter span")
    return seconds
