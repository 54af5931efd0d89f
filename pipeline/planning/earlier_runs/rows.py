"""What earlier runs recorded of their rows, found by what a config needs (see `pipeline.operations.rescore`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError

from infra.commits import CommitLog
from infra.storage.identity import NO_VERSION
from infra.storage.storage import Storage
from madcore.extraction.selection import is_chosen
from pipeline.artifacts.truth import TRUTH_FILE
from pipeline.config.schema import PROBABILITIES, ModelConfig
from pipeline.errors import SourceError
from pipeline.planning.plan import ModelPlan
from pipeline.planning.recipe import EarlierRun, RowRecipe, rules_changed
from pipeline.root.documents import JsonObject
from pipeline.root.layout import outcome_file, run_file, run_summary_file, runs
from pipeline.root.logs import SPLIT
from pipeline.root.records import ModelRecord, read_record, read_run_summary
from pipeline.root.runs import Runs

FREE = ("curvature", "score", "calibration")  # sections that rows do not depend on


RANK = "estimator.projection.rank"


@dataclass(frozen=True)
class EarlierRows:
    """What a run recorded of a model: the model's entry in the run's record, its config, and the recipe of its rows."""

    run_id: str
    entry: ModelRecord
    config: ModelConfig
    recipe: RowRecipe


Compare = Callable[[ModelConfig, ModelConfig], Iterator[str]]


def find_rows(storage: Storage, model: ModelConfig) -> EarlierRows:
    """The latest completed run of a model whose rows are those of the config.

    Raises:
        SourceError: there is none; with what differs from the latest.
    """
    found = _latest(storage, model, differences)
    if isinstance(found, str):
        ranks = "; `mad sweep` takes ranks below the stored one too" if RANK in found else ""
        raise SourceError(f"{found}{ranks}")
    return found


def find_rows_of_rank(storage: Storage, model: ModelConfig) -> EarlierRows:
    """Like `find_rows`; where no rows have the config's rank, the latest run whose rows differ only by a higher one."""
    found = _latest(storage, model, differences)
    if isinstance(found, str):
        found = _latest(storage, model, _differences_but_rank)
    if isinstance(found, str):
        raise SourceError(found)
    return found


def _latest(storage: Storage, model: ModelConfig, compare: Compare) -> EarlierRows | str:
    """The latest completed run whose rows do not differ, or how those of the latest do."""
    reason = ""
    for run_id in reversed(runs(storage)):
        if not storage.exists(outcome_file(run_id)) or not storage.exists(run_summary_file(run_id, model.name)):
            continue
        found = _recorded(storage, run_id, model, compare)
        if not isinstance(found, str):
            return found
        reason = reason or (
            f"run {run_id} stored other rows than the config needs: {found}; "
            "`mad run` with this config computes them, or use that run's settings"
        )
    nothing = f"no run of this model has completed in {storage.url}, so there are no stored rows; `mad run` stores them"
    return reason or nothing


def _recorded(storage: Storage, run_id: str, model: ModelConfig, compare: Compare) -> EarlierRows | str:
    """What a run recorded of a model, or how its rows differ from those of the config."""
    record = read_record(storage, run_id)
    entry = record.models.get(model.name) if record is not None else None
    if record is None or entry is None or entry.rows is None:
        return "it is of an earlier version of mad, which did not record what rows are made of"
    try:
        stored = ModelConfig.model_validate(record.settings(model.name))
        recipe = RowRecipe.model_validate(entry.rows)
    except ValidationError as error:
        return (
            f"{storage.locate(run_file(run_id))} is damaged, or of a newer version of mad "
            f"({error.error_count()} values in it are invalid)"
        )
    return "; ".join(compare(model, stored)) or EarlierRows(run_id, entry, stored, recipe)


def differences(wanted: ModelConfig, stored: ModelConfig) -> Iterator[str]:
    """How stored rows differ from those of a config, a phrase each."""
    return _differences(_settings_of_rows(wanted), _settings_of_rows(stored), "")


def _differences_but_rank(wanted: ModelConfig, stored: ModelConfig) -> Iterator[str]:
    """Like `differences`, where a rank below the stored one does not count."""
    if wanted.traced is None and stored.traced is None:
        rank = stored.gradient.projection.rank
        if wanted.gradient.projection.rank < rank:
            projection = wanted.gradient.projection.model_copy(update={"rank": rank})
            estimator = wanted.gradient.model_copy(update={"projection": projection})
            wanted = wanted.model_copy(update={"estimator": estimator})
    return differences(wanted, stored)


def _settings_of_rows(model: ModelConfig) -> JsonObject:
    """The settings that rows depend on, without the layers, of which fewer can be used."""
    document: JsonObject = model.model_dump(
        mode="json", exclude={**dict.fromkeys((*FREE, "estimator"), True), "data": {"identity"}}
    )
    if model.outputs != PROBABILITIES:
        del document["outputs"]  # logits, said or not
    return {**document, "estimator": model.estimator.model_dump(mode="json", exclude={"layers"})}


def _differences(wanted: JsonValue, stored: JsonValue, place: str) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(stored, dict):
        for name in sorted({*wanted, *stored}):
            yield from _differences(wanted.get(name), stored.get(name), f"{place}.{name}" if place else name)
    elif wanted != stored:
        yield f"{place} is {wanted!r}, the stored rows have {stored!r}"


def outdated_rows(earlier: Runs, plan: ModelPlan) -> str:
    """Why the rows that an earlier version stored of a model are computed again; "" where none are.

    Looked at is the latest completed run of the model: whether it had the same settings, and older rules.
    """
    records = (earlier.record(run_id) for run_id in earlier.completed())
    record = next((one for one in records if plan.name in one.models), None)
    if record is None:
        return ""
    entry = record.models[plan.name]
    before = int(str((entry.rows or {}).get("rows_format", 1)))
    try:
        same = not any(differences(plan.config, ModelConfig.model_validate(record.settings(plan.name))))
    except ValidationError:
        return ""
    changes = rules_changed(before)
    reasons = [f"stored rows by earlier rules: {changes}"] if changes else []
    if entry.sources and all(file.version in NO_VERSION and not file.by_contents for file in entry.sources.values()):
        reasons.append("told files from others by their size alone, because their store told mad no version")
    return f"run {record.run_id} {', and '.join(reasons)}" if same and reasons else ""


def chosen_layers(model: ModelConfig, recipe: RowRecipe) -> tuple[str, ...]:
    """Names of the stored layers that a config's patterns choose; all where the rows were stored with these patterns.

    Raises:
        SourceError: a pattern, or all together, choose none.
    """
    names = recipe.sides.rows.names
    if model.traced is not None or model.gradient.layers == recipe.patterns:
        return names
    modules, patterns = [layer.module for layer in recipe.layers], model.gradient.layers
    idle = [one for one in patterns if not any(is_chosen(module, [one.removeprefix("!")]) for module in modules)]
    chosen = tuple(layer.name for layer in recipe.layers if is_chosen(layer.module, patterns))
    if idle or not chosen:
        failing, stored = idle[0] if idle else " ".join(patterns), ", ".join(dict.fromkeys(modules))
        raise SourceError(
            f"estimator.layers: {failing!r} chooses none of the {len(names)} layers whose rows are stored ({stored}); "
            "`mad run` computes rows of others"
        )
    return chosen


def find_earlier_run(storage: Storage, model: str, run_id: str) -> EarlierRun:
    """Where a run kept labels and truth. Its split, one for each curvature key, is the first task of its manifest."""
    summary = read_run_summary(storage, run_id, model)
    assert summary is not None
    report, labels = summary.report_folder, ""
    for path in summary.manifests.get("curvature", ()):
        log = CommitLog(storage, path.rpartition("/manifests/")[0])
        split = next(receipt for receipt in log.manifest(path).receipts if receipt.task == SPLIT)
        labels = log.attempt_folder(split) if any(file.name == TRUTH_FILE for file in split.files) else ""
    return EarlierRun(run_id, labels, report if storage.exists(f"{report}/{TRUTH_FILE}") else "", report)
