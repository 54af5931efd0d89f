"""What earlier runs recorded of their rows, found by what a config asks for (see `pipeline.operations.rescore`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError

from infra.commits import CommitLog
from infra.storage.storage import Storage
from madcore.extraction.selection import is_chosen
from pipeline.artifacts.truth import TRUTH_FILE
from pipeline.config.schema import ModelConfig
from pipeline.errors import SourceError
from pipeline.planning.recipe import EarlierRun, RowRecipe
from pipeline.root.documents import JsonObject
from pipeline.root.layout import outcome_file, run_file, run_summary_file, runs
from pipeline.root.logs import SPLIT
from pipeline.root.records import ModelRecord, read_record, read_run_summary

FREE = ("curvature", "score", "calibration")


RANK = "estimator.projection.rank"


@dataclass(frozen=True)
class EarlierRows:
    """What a run recorded of a model: the run's id, the model's entry, its config, and what its rows are made of."""

    run_id: str
    entry: ModelRecord
    config: ModelConfig
    rows: RowRecipe


Differ = Callable[[ModelConfig, ModelConfig], Iterator[str]]


def recorded(storage: Storage, model: ModelConfig) -> EarlierRows:
    """The latest completed run of a model whose rows are those that the config asks for.

    Raises:
        SourceError: there is none; with what differs from the latest.
    """
    found = _latest(storage, model, _unlike)
    if isinstance(found, str):
        ranks = "; `mad sweep` takes ranks below the stored one too" if RANK in found else ""
        raise SourceError(f"{found}{ranks}")
    return found


def recorded_of_rank(storage: Storage, model: ModelConfig) -> EarlierRows:
    """As `recorded`; where no run has rows of the rank that is asked for, the latest whose rows are those but for a higher rank. Raises alike."""
    found = _latest(storage, model, _unlike)
    if isinstance(found, str):
        found = _latest(storage, model, _unlike_at_its_rank)
    if isinstance(found, str):
        raise SourceError(found)
    return found


def _latest(storage: Storage, model: ModelConfig, differ: Differ) -> EarlierRows | str:
    """The latest completed run whose rows do not differ, or how those of the latest do."""
    reason = ""
    for run_id in reversed(runs(storage)):
        if not storage.exists(outcome_file(run_id)) or not storage.exists(run_summary_file(run_id, model.name)):
            continue
        found = _found(storage, run_id, model, differ)
        if not isinstance(found, str):
            return found
        reason = (
            reason
            or f"run {run_id} stored other rows than the config asks for: {found}; `mad run` with this config computes them, or take that run's"
        )
    return reason or f"no run of it was completed in {storage.url}, so no rows are stored to use; `mad run` stores them"


def _found(storage: Storage, run_id: str, model: ModelConfig, differ: Differ) -> EarlierRows | str:
    """What a run recorded of a model, or how its rows differ from those that are asked for."""
    record = read_record(storage, run_id)
    entry = record.models.get(model.name) if record is not None else None
    if record is None or entry is None or entry.rows is None:
        return "it is of an earlier version of mad, which did not record what rows are made of"
    try:
        stored = ModelConfig.model_validate(record.settings(model.name))
        rows = RowRecipe.model_validate(entry.rows)
    except ValidationError as error:
        return f"{storage.locate(run_file(run_id))} is damaged, or of a newer version of mad ({error.error_count()} places of it make no sense)"
    return "; ".join(differ(model, stored)) or EarlierRows(run_id, entry, stored, rows)


def _unlike(asked: ModelConfig, stored: ModelConfig) -> Iterator[str]:
    return _differences(_of_rows(asked), _of_rows(stored), "")


def _unlike_at_its_rank(asked: ModelConfig, stored: ModelConfig) -> Iterator[str]:
    """As `_unlike`, where a rank below the stored one is no difference."""
    if (
        asked.traced is None
        and stored.traced is None
        and asked.gradient.projection.rank < stored.gradient.projection.rank
    ):
        projection = asked.gradient.projection.model_copy(update={"rank": stored.gradient.projection.rank})
        asked = asked.model_copy(update={"estimator": asked.gradient.model_copy(update={"projection": projection})})
    return _unlike(asked, stored)


def _of_rows(model: ModelConfig) -> JsonObject:
    """What of a model's config decides which rows there are, but for the layers, of which fewer can be taken."""
    document: JsonObject = model.model_dump(mode="json", exclude={*FREE, "estimator"})
    return {**document, "estimator": model.estimator.model_dump(mode="json", exclude={"layers"})}


def _differences(asked: JsonValue, stored: JsonValue, place: str) -> Iterator[str]:
    if isinstance(asked, dict) and isinstance(stored, dict):
        for name in sorted({*asked, *stored}):
            yield from _differences(asked.get(name), stored.get(name), f"{place}.{name}" if place else name)
    elif asked != stored:
        yield f"{place} is {asked!r}, stored are rows of {stored!r}"


def chosen_layers(model: ModelConfig, rows: RowRecipe) -> tuple[str, ...]:
    """Names of the stored layers that a config's patterns choose; all where the patterns are those that the rows were stored with.

    Raises:
        SourceError: a pattern, or all together, choose none.
    """
    names = rows.sides.rows.names
    if model.traced is not None or model.gradient.layers == rows.patterns:
        return names
    modules, patterns = [layer.module for layer in rows.layers], model.gradient.layers
    idle = [
        pattern for pattern in patterns if not any(is_chosen(module, [pattern.removeprefix("!")]) for module in modules)
    ]
    chosen = tuple(layer.name for layer in rows.layers if is_chosen(layer.module, patterns))
    if idle or not chosen:
        raise SourceError(
            f"estimator.layers: {idle[0] if idle else ' '.join(patterns)!r} chooses none of the {len(names)} layers whose rows are stored "
            f"({', '.join(dict.fromkeys(modules))}); `mad run` computes rows of others"
        )
    return chosen


def stored_run(storage: Storage, model: str, run_id: str, rows: RowRecipe) -> EarlierRun:
    """Where a run kept labels and truth. Its split, of which there is one a curvature key, is the first task of its manifest."""
    summary = read_run_summary(storage, run_id, model)
    assert summary is not None
    report, labels = summary.report_folder, ""
    for path in summary.manifests.get("curvature", ()):
        log = CommitLog(storage, path.rpartition("/manifests/")[0])
        split = next(receipt for receipt in log.manifest(path).receipts if receipt.task == SPLIT)
        labels = log.attempt_folder(split) if any(file.name == TRUTH_FILE for file in split.files) else ""
    return EarlierRun(run_id, rows, labels, report if storage.exists(f"{report}/{TRUTH_FILE}") else "", report)
