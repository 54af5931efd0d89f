"""What earlier runs recorded of their rows, found by what a config asks for (see `pipeline.rescore`)."""

from collections.abc import Iterator

from pydantic import JsonValue, ValidationError

from infra.commits import CommitLog
from infra.storage import Storage
from madcore.selection import is_chosen
from pipeline.artifacts.layout import outcome_file, run_file, run_summary_file, runs
from pipeline.artifacts.truth import TRUTH_FILE
from pipeline.curvature import SPLIT
from pipeline.errors import SourceError
from pipeline.publication import Document, read_document
from pipeline.schema import ModelConfig
from pipeline.stored import StoredRows, StoredRun

FREE = ("curvature", "score", "calibration")


def recorded(storage: Storage, model: ModelConfig) -> tuple[str, Document, StoredRows]:
    """The latest completed run of a model whose rows are those that the config asks for: its id, and what it recorded of the model.

    Raises:
        SourceError: there is none; with what differs from the latest.
    """
    reason = ""
    for run_id in reversed(runs(storage)):
        if not storage.exists(outcome_file(run_id)) or not storage.exists(run_summary_file(run_id, model.name)):
            continue
        found = _found(storage, run_id, model)
        if not isinstance(found, str):
            return run_id, *found
        reason = reason or f"run {run_id} stored other rows than the config asks for: {found}; `mad run` with this config computes them, or take that run's"
    raise SourceError(reason or f"no run of it was completed in {storage.url}, so no rows are stored to use; `mad run` stores them")


def _found(storage: Storage, run_id: str, model: ModelConfig) -> tuple[Document, StoredRows] | str:
    """What a run recorded of a model, or how its rows differ from those that are asked for."""
    record = read_document(storage, run_file(run_id)) or {}
    models, config = record.get("models"), record.get("config")
    entry = models.get(model.name) if isinstance(models, dict) else None
    if not isinstance(entry, dict) or "rows" not in entry or not isinstance(config, dict):
        return "it is of an earlier version of mad, which did not record what rows are made of"
    configured = config.get("models")
    own = next((one for one in configured if isinstance(one, dict) and one.get("name") == model.name), {}) if isinstance(configured, list) else {}
    try:
        differences, rows = list(_differences(_of_rows(model), _of_rows(ModelConfig.model_validate(own)), "")), StoredRows.model_validate(entry["rows"])
    except ValidationError as error:
        return f"{storage.locate(run_file(run_id))} is damaged, or of a newer version of mad ({error.error_count()} places of it make no sense)"
    return "; ".join(differences) if differences else (entry, rows)


def _of_rows(model: ModelConfig) -> Document:
    """What of a model's config decides which rows there are, but for the layers, of which fewer can be taken."""
    document: Document = model.model_dump(mode="json", exclude={*FREE, "estimator"})
    return {**document, "estimator": model.estimator.model_dump(mode="json", exclude={"layers"})}


def _differences(asked: JsonValue, stored: JsonValue, place: str) -> Iterator[str]:
    if isinstance(asked, dict) and isinstance(stored, dict):
        for name in sorted({*asked, *stored}):
            yield from _differences(asked.get(name), stored.get(name), f"{place}.{name}" if place else name)
    elif asked != stored:
        yield f"{place} is {asked!r}, stored are rows of {stored!r}"


def chosen_layers(model: ModelConfig, rows: StoredRows) -> tuple[str, ...]:
    """Names of the stored layers that a config's patterns choose; all where the patterns are those that the rows were stored with.

    Raises:
        SourceError: a pattern, or all together, choose none.
    """
    names = rows.sides.rows.names
    if model.traced is not None or model.gradient.layers == rows.patterns:
        return names
    modules, patterns = [layer.module for layer in rows.layers], model.gradient.layers
    idle = [pattern for pattern in patterns if not any(is_chosen(module, [pattern.removeprefix("!")]) for module in modules)]
    chosen = tuple(layer.name for layer in rows.layers if is_chosen(layer.module, patterns))
    if idle or not chosen:
        raise SourceError(
            f"estimator.layers: {idle[0] if idle else ' '.join(patterns)!r} chooses none of the {len(names)} layers whose rows are stored "
            f"({', '.join(dict.fromkeys(modules))}); `mad run` computes rows of others"
        )
    return chosen


def stored_run(storage: Storage, model: str, run_id: str, rows: StoredRows) -> StoredRun:
    """Where a run kept labels and truth. Its split, of which there is one a curvature key, is the first task of its manifest."""
    summary = read_document(storage, run_summary_file(run_id, model)) or {}
    report, manifests = str(summary["report_folder"]), summary["manifests"]
    labels = ""
    for path in manifests.get("curvature", []) if isinstance(manifests, dict) else []:  # type: ignore[union-attr]
        log = CommitLog(storage, str(path).rpartition("/manifests/")[0])
        split = next(receipt for receipt in log.manifest(str(path)).receipts if receipt.task == SPLIT)
        labels = log.attempt_folder(split) if any(file.name == TRUTH_FILE for file in split.files) else ""
    return StoredRun(run_id, rows, labels, report if storage.exists(f"{report}/{TRUTH_FILE}") else "", report)
