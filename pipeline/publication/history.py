"""The history of a root: two of its completed runs compared, model by model.

The result that a run has of a model is its own summary or, where it did not audit that model, the summary of the
latest run before it that did.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from infra.errors import Corrupt, Missing, StorageError
from infra.formats.documents import encode, parse
from infra.storage.storage import Storage
from pipeline.publication.comparison import ComparisonSettings, Difference, Table, difference, reviewed_flags
from pipeline.root.layout import history_file, table_file
from pipeline.root.records import ModelRecord, ModelResult
from pipeline.root.runs import Runs
from pipeline.root.summary import Summary

HISTORY_FORMAT = 1

RUNS_SHOWN, FLAGS_SHOWN = 30, 20

COMPARED_SECTIONS = ("estimator", "curvature", "score", "calibration")


class RunComparison(BaseModel):
    """Two runs of a model compared.

    `changed`: which of model, trusted set and settings differ. `problem`: why there is no difference, "" where there
    is one.
    """

    model_config = ConfigDict(frozen=True)
    before: ModelResult
    after: ModelResult
    changed: tuple[str, ...] = ()
    difference: Difference = Difference()
    problem: str = ""

    @property
    def differs(self) -> bool:
        """Whether the runs differ in anything that a person would look at."""
        flags = (self.difference.newly_flagged, self.difference.no_longer_flagged)
        return bool(
            self.problem or self.changed or self.difference.drifted_classes or any(kind.count for kind in flags)
        )


class ZooChanges(BaseModel):
    """How models differ between two runs: `added`, first audited after the earlier; `changed`, with another digest.

    `gone`: named by the config of the earlier run, but not by that of the latest run that names any of its models;
    runs of another zoo in the same root are ignored.
    """

    model_config = ConfigDict(frozen=True)
    before: str
    after: str
    added: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]


class History(BaseModel):
    """A model's latest completed runs, the newest first, and the newest compared with the one before, if there is one.

    `reviewed`: how many flagged samples of the newest have been reviewed, by the review's verdict.
    """

    model_config = ConfigDict(frozen=True)
    format: int = HISTORY_FORMAT
    runs: tuple[ModelResult, ...] = ()
    compared: RunComparison | None = None
    reviewed: dict[str, int] = {}


def compare(known: Runs, model: str, before: Summary, after: Summary, top: int) -> RunComparison:
    """Compares two runs of a model; names the first `top` flags of each kind."""
    found = RunComparison(
        before=ModelResult.of(before),
        after=ModelResult.of(after),
        changed=tuple(_changes(known, model, before, after)),
    )
    try:
        return found.model_copy(update={"difference": _difference(known, model, before, after, top)})
    except StorageError as error:
        return found.model_copy(update={"problem": str(error)})


def _difference(known: Runs, model: str, before: Summary, after: Summary, top: int) -> Difference:
    if before.table.sha256 == after.table.sha256:
        return Difference(common=after.counts.audited)
    old, new = (_files(known, model, summary).items() for summary in (before, after))
    settings = ComparisonSettings(frozenset(name for name, _ in old & new), known.reviews(after.run_id), top)
    return difference(_table(known, model, before), _table(known, model, after), settings)


def _table(known: Runs, model: str, summary: Summary) -> Table:
    return Table(known.storage, table_file(model, summary.table_run))


def _planned(known: Runs, model: str, summary: Summary) -> ModelRecord:
    return known.record(summary.run_id).models.get(model, ModelRecord())


def _files(known: Runs, model: str, summary: Summary) -> dict[str, tuple[str, str]]:
    """Place and identity of the files that a run read for a model, by name."""
    return {file.name: (file.url, file.identity) for file in _planned(known, model, summary).sources.values()}


def _changes(known: Runs, model: str, before: Summary, after: Summary) -> Iterator[str]:
    if before.model_digest != after.model_digest:
        yield "model"
    if _trusted(known, model, before) != _trusted(known, model, after):
        yield "trusted set"
    if _settings(known, model, before) != _settings(known, model, after):
        yield "settings"


def _trusted(known: Runs, model: str, summary: Summary) -> tuple[object, ...]:
    """The files of the trusted set as they were, and the samples left out of it."""
    files = _files(known, model, summary)
    trusted = {(file.name, files.get(file.name)) for file in summary.files.trusted}
    return trusted, _planned(known, model, summary).dropped or ()


def _settings(known: Runs, model: str, summary: Summary) -> dict[str, object]:
    own = known.record(summary.run_id).settings(model)
    return {name: own.get(name) for name in COMPARED_SECTIONS}


def zoo_between(known: Runs, models: Iterable[str], before: str, after: str) -> ZooChanges:
    """How these models of the root differ between two completed runs, and which of them the later one lacks."""
    now = {name: next(known.summaries(name, after), None) for name in sorted(models)}
    then = {name: next(known.summaries(name, before), None) for name in now}
    named = known.record(before).named
    latest = next(run_id for run_id in known.completed(after) if run_id == before or known.record(run_id).named & named)
    return ZooChanges(
        before=before,
        after=after,
        added=tuple(name for name in now if then[name] is None and now[name] is not None),
        changed=tuple(name for name in now if _digest(then[name]) and _digest(then[name]) != _digest(now[name])),
        gone=tuple(sorted(named - known.record(latest).named)),
    )


def _digest(summary: Summary | None) -> str:
    return summary.model_digest if summary is not None else ""


@dataclass(frozen=True)
class ChangesSince:
    """What changed since a run: the zoo, and each model that has been audited since (None: not audited by then)."""

    zoo: ZooChanges
    models: Mapping[str, RunComparison | None]


def changes_since(known: Runs, models: Sequence[str], text: str, top: int) -> ChangesSince:
    """Compares the latest results with those of the completed run whose id begins with a text.

    Raises:
        RootError: there is no such run.
    """
    run_id = known.find(text)
    found: dict[str, RunComparison | None] = {}
    for name in models:
        before, after = next(known.summaries(name, run_id), None), next(known.summaries(name), None)
        if after is not None:
            found[name] = compare(known, name, before, after, top) if before is not None else None
    return ChangesSince(zoo_between(known, models, run_id, next(known.completed())), found)


def latest_zoo_changes(known: Runs) -> ZooChanges | None:
    """The latest completed run against the latest one before it that audits some of the same models.

    None where there is no such run.
    """
    after = next(known.completed(), None)
    if after is None:
        return None
    names = known.record(after).named
    earlier = (run_id for run_id in known.completed() if run_id < after and known.record(run_id).named & names)
    before = next(earlier, None)
    return zoo_between(known, names, before, after) if before is not None else None


def history(known: Runs, model: str) -> History:
    """The history of a model: the stored one, continued and rewritten where runs were completed since."""
    stored = _stored(known.storage, model)
    kept, fresh = [result.run_id for result in stored.runs], list[Summary]()
    for summary in known.summaries(model):
        if summary.run_id in kept or len(fresh) == RUNS_SHOWN:
            break
        fresh.append(summary)
    if not fresh and not (stored.compared and stored.compared.problem):
        return stored
    results = (*(ModelResult.of(summary) for summary in fresh), *stored.runs)[:RUNS_SHOWN]
    made = _history(known, model, results)
    known.storage.write(history_file(model), encode(made))
    return made


def _history(known: Runs, model: str, results: tuple[ModelResult, ...]) -> History:
    """The history of these runs; the first two are compared."""
    latest = known.summary(results[0].run_id, model)
    if latest is None:
        return History(runs=results)
    earlier = known.summary(results[1].run_id, model) if len(results) > 1 else None
    return History(
        runs=results,
        compared=compare(known, model, earlier, latest, FLAGS_SHOWN) if earlier is not None else None,
        reviewed=reviewed_flags(_table(known, model, latest), known.reviews(latest.run_id)),
    )


def _stored(storage: Storage, model: str) -> History:
    """The stored history; an empty one where there is none that this version can read."""
    with suppress(Missing, Corrupt):
        return parse(storage.read(history_file(model)), History, storage.locate(history_file(model)))
    return History()
