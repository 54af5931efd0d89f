"""What kept runs refer to: their results, the tables and manifests that those name, and commit logs as a whole.

A result is what one run found about one model. Kept are all results of young runs, the latest one of each model, and
those whose rows a kept one was made from (`rows_of` in its summary).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from infra.events import stamp_after
from infra.storage.storage import Storage
from pipeline.root.layout import models, runs
from pipeline.root.logs import PROBE
from pipeline.root.records import ModelRecord, OutcomeRecord, read_outcome, read_record, read_run_summary, read_summary

Result = tuple[str, str]


@dataclass(frozen=True)
class Retained:
    """What stays. A result is (run id, model).

    `runs`: those whose records stay whole. `results`: those whose summaries and tables stay, and what they name.
    `tables`: further results whose tables stay, because a later result is the same. `manifests`: their paths.
    `folders`: commit logs of kept runs that hold no kept manifest, because a task failed or the run ended before.
    """

    runs: frozenset[str]
    results: frozenset[Result]
    tables: frozenset[Result]
    manifests: frozenset[str]
    folders: frozenset[str]

    def summary_stays(self, run_id: str, model: str) -> bool:
        """Whether a run's summary and table of a model stay."""
        return (run_id, model) in self.results or (run_id, model) in self.tables


@dataclass
class _Retention:
    storage: Storage
    tables: set[Result] = field(default_factory=set)
    manifests: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)

    def add_result(self, run_id: str, model: str) -> Result | None:
        """Add what a result names; return the other result, if any, whose rows it was made from."""
        summary = read_run_summary(self.storage, run_id, model)
        if summary is None:
            return None
        if summary.same_as:
            self.tables.add((summary.same_as, model))
        for paths in summary.manifests.values():
            self.manifests.update(paths)
        return (summary.rows_of, model) if summary.rows_of else None

    def add_results(self, results: frozenset[Result]) -> frozenset[Result]:
        """Add what results name, and the results that they were made from; return all of them."""
        known, pending = set(results), sorted(results)
        while pending:
            made_of = self.add_result(*pending.pop())
            if made_of is not None and made_of not in known:
                known.add(made_of)
                pending.append(made_of)
        return frozenset(known)

    def add_rows(self, run_id: str, wanted: frozenset[str] | None) -> None:
        """Add the commit logs that a run's models, all or those wanted, were planned with; not those of a manifest."""
        record = read_record(self.storage, run_id)
        published = {path.rpartition("/manifests/")[0] for path in self.manifests}
        for name, model in record.models.items() if record is not None else ():
            if wanted is None or name in wanted:
                self.folders.update(folder for folder in _folders(name, model) if folder not in published)


def _folders(name: str, model: ModelRecord) -> Iterator[str]:
    if model.probe is not None:
        yield f"{name}/{PROBE}/{model.probe}"
    for row_key, source_key in model.row_places:
        yield f"{name}/gradients/{row_key}/{source_key}"


def find_kept(storage: Storage, cutoff: str) -> Retained:
    """What is referred to by the runs that began or ended at or after a UTC stamp, and by each model's latest result.

    The latest run, and the latest completed one, keep their records in any case.

    Raises:
        Corrupt: a document of a kept run cannot be read, so what it refers to is unknown.
    """
    every = runs(storage)
    outcomes = {run_id: read_outcome(storage, run_id) for run_id in every}
    young = {run_id for run_id in every if _is_young(run_id, outcomes[run_id], cutoff)}
    latest = _latest(storage, outcomes)
    retention = _Retention(storage)
    of_young = {(run_id, name) for run_id in young for name in summarised_models(storage, run_id)}
    results = retention.add_results(frozenset(of_young | latest))
    for run_id in sorted(young):
        retention.add_rows(run_id, None)
    for run_id, name in sorted(latest):
        retention.add_rows(run_id, frozenset([name]))
    completed = [run_id for run_id, outcome in outcomes.items() if outcome is not None and outcome.complete]
    kept = young | set(every[-1:]) | set(completed[-1:]) | {run_id for run_id, _ in results | retention.tables}
    return Retained(
        runs=frozenset(kept),
        results=results,
        tables=frozenset(retention.tables),
        manifests=frozenset(retention.manifests),
        folders=frozenset(retention.folders),
    )


def summarised_models(storage: Storage, run_id: str) -> list[str]:
    """Models that a run has a summary of."""
    names = storage.list(f"runs/{run_id}")
    return [name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith("_")]


def _is_young(run_id: str, outcome: OutcomeRecord | None, cutoff: str) -> bool:
    """A folder that is not named like a run was not written by mad, and counts as young."""
    ended = outcome.ended if outcome is not None else ""
    return not stamp_after(run_id) or run_id[: len(cutoff)] >= cutoff or ended >= cutoff


def _latest(storage: Storage, outcomes: Mapping[str, OutcomeRecord | None]) -> set[Result]:
    """The latest result of each model, and the one that its summary shows, if that is another."""
    found: dict[str, str] = {}
    for run_id, outcome in sorted(outcomes.items()):
        found.update(dict.fromkeys(outcome.summaries if outcome is not None else (), run_id))
    shown = {(summary.run_id, name) for name in models(storage) if (summary := read_summary(storage, name)) is not None}
    return {(run_id, name) for name, run_id in found.items()} | shown
