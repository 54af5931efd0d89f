"""The history of a root: two of its completed runs compared, model by model.

What a run found of a model is its own summary or, where it did not audit that model, the summary of the latest run before it that did.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from infra.errors import Corrupt, Missing, StorageError
from infra.formats.documents import encode, parse
from infra.storage.files import InputFile
from infra.storage.storage import Storage
from pipeline.publication.comparison import Comparing, Difference, Table, difference, reviewed_flags
from pipeline.root.layout import history_file, table_file
from pipeline.root.records import Planned, Standing, Summary
from pipeline.root.runs import Runs

FORMAT = 1


RUNS_SHOWN, FLAGS_SHOWN = 30, 20


COMPARED_SECTIONS = ("estimator", "curvature", "score", "calibration")


class Compared(BaseModel):
    """Two runs of a model. `changed`: which of model, trusted set and settings did. `problem`: why there is no difference, "" where there is."""

    model_config = ConfigDict(frozen=True)
    before: Standing
    after: Standing
    changed: tuple[str, ...] = ()
    difference: Difference = Difference()
    problem: str = ""


class Zoo(BaseModel):
    """How models differ between two runs: `added`, first audited after the earlier; `changed`, of another digest.

    `gone`: named by the config of the earlier run, and no more by that of the latest run that names any of its models; another zoo's runs
    in the same root say nothing of it.
    """

    model_config = ConfigDict(frozen=True)
    before: str
    after: str
    added: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]


class History(BaseModel):
    """A model's view: its latest completed runs, the newest first; the newest compared with the one before, None where there is none.

    `reviewed`: how many flagged samples of the newest have been reviewed, by what was said of them.
    """

    model_config = ConfigDict(frozen=True)
    format: int = FORMAT
    runs: tuple[Standing, ...] = ()
    compared: Compared | None = None
    reviewed: dict[str, int] = {}


def compare(known: Runs, model: str, before: Summary, after: Summary, top: int) -> Compared:
    """Compares what two runs found of a model; names the first `top` flags of each kind."""
    compared = Compared(
        before=before.standing, after=after.standing, changed=tuple(_changes(known, model, before, after))
    )
    try:
        return compared.model_copy(update={"difference": _difference(known, model, before, after, top)})
    except StorageError as error:
        return compared.model_copy(update={"problem": str(error)})


def _difference(known: Runs, model: str, before: Summary, after: Summary, top: int) -> Difference:
    if before.table == after.table:
        return Difference(common=after.counts.audited)
    files = [_files(known, model, summary).items() for summary in (before, after)]
    how = Comparing(frozenset(name for name, _ in files[0] & files[1]), known.reviews(after.run_id), top)
    return difference(_table(known, model, before), _table(known, model, after), how)


def _table(known: Runs, model: str, summary: Summary) -> Table:
    return Table(known.storage, table_file(model, summary.same_as or summary.run_id))


def _files(known: Runs, model: str, summary: Summary) -> dict[str, InputFile]:
    """The files that a run read for a model, by name, as they were then."""
    planned = known.record(summary.run_id).models.get(model, Planned())
    return {file.name: file for file in planned.sources.values()}


def _changes(known: Runs, model: str, before: Summary, after: Summary) -> Iterator[str]:
    trusted, settings = [], []
    for summary in (before, after):
        files, dropped = (
            _files(known, model, summary),
            known.record(summary.run_id).models.get(model, Planned()).dropped,
        )
        trusted.append(({(file.name, files.get(file.name)) for file in summary.files.trusted}, dropped))
        own = known.record(summary.run_id).settings(model)
        settings.append({name: own.get(name) for name in COMPARED_SECTIONS})
    if before.model_digest != after.model_digest:
        yield "model"
    if trusted[0] != trusted[1]:
        yield "trusted set"
    if settings[0] != settings[1]:
        yield "settings"


def zoo_between(known: Runs, models: Iterable[str], before: str, after: str) -> Zoo:
    """How these models of the root differ between two completed runs, and which the later misses."""
    now = {name: next(known.summaries(name, after), None) for name in sorted(models)}
    then = {name: next(known.summaries(name, before), None) for name in now}
    named = known.record(before).named
    latest = next(run_id for run_id in known.completed(after) if run_id == before or known.record(run_id).named & named)
    return Zoo(
        before=before,
        after=after,
        added=tuple(name for name in now if then[name] is None and now[name] is not None),
        changed=tuple(name for name in now if _digest(then[name]) and _digest(then[name]) != _digest(now[name])),
        gone=tuple(sorted(named - known.record(latest).named)),
    )


def _digest(summary: Summary | None) -> str:
    return summary.model_digest if summary is not None else ""


@dataclass(frozen=True)
class Since:
    """All that happened since a run: the zoo, and each model that was audited both by then and later (None: not by then)."""

    zoo: Zoo
    models: Mapping[str, Compared | None]


def since(storage: Storage, models: Sequence[str], text: str, top: int) -> Since:
    """Compares the latest results with those of the completed run whose id begins with a text.

    Raises:
        RootError: there is no such run.
    """
    known = Runs(storage)
    run_id = known.find(text)
    found: dict[str, Compared | None] = {}
    for name in models:
        before, after = next(known.summaries(name, run_id), None), next(known.summaries(name), None)
        if after is not None:
            found[name] = compare(known, name, before, after, top) if before is not None else None
    return Since(zoo_between(known, models, run_id, next(known.completed())), found)


def latest_zoo(known: Runs) -> Zoo | None:
    """The latest completed run beside the latest one before it that audits some of the same models; None where there is none."""
    after = next(known.completed(), None)
    if after is None:
        return None
    names = known.record(after).named
    before = next(
        (run_id for run_id in known.completed() if run_id < after and known.record(run_id).named & names), None
    )
    return zoo_between(known, names, before, after) if before is not None else None


def history(known: Runs, model: str) -> History:
    """The history of a model, from its view as far as that is up to date; the view is written anew where it was not."""
    stored = _stored(known.storage, model)
    kept, fresh = [standing.run_id for standing in stored.runs], list[Summary]()
    for summary in known.summaries(model):
        if summary.run_id in kept or len(fresh) == RUNS_SHOWN:
            break
        fresh.append(summary)
    if not fresh and not (stored.compared and stored.compared.problem):
        return stored
    standings = (*(summary.standing for summary in fresh), *stored.runs)[:RUNS_SHOWN]
    latest, earlier = (
        known.summary(standing.run_id, model) for standing in (standings[0], standings[min(1, len(standings) - 1)])
    )
    compared = (
        compare(known, model, earlier, latest, FLAGS_SHOWN) if latest and earlier and latest is not earlier else None
    )
    reviewed = reviewed_flags(_table(known, model, latest), known.reviews(latest.run_id)) if latest else {}
    made = History(runs=standings, compared=compared, reviewed=reviewed)
    known.storage.write(history_file(model), encode(made))
    return made


def _stored(storage: Storage, model: str) -> History:
    """The view as it is; an empty one where there is none that this version can read."""
    with suppress(Missing, Corrupt):
        return parse(storage.read(history_file(model)), History, storage.locate(history_file(model)))
    return History()
