"""What a run leaves for people: its record before the first task; at its end summaries, how it ended, tables and pages.

The outcome is the moment from which a run counts. Before it nothing is public, so a killed run publishes nothing; after it tables get
their public names, whole and at once, and should that be cut off, the next run makes up for it before anything else.
"""

import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

from pydantic import JsonValue

from infra.commits import damage_of, read_file
from infra.errors import REPAIR, AlreadyExists, Corrupt, Missing, StorageError
from infra.events import stamp_after, utc_stamp
from infra.files import digest
from infra.storage import Storage
from pipeline.artifacts.layout import (
    models,
    outcome_file,
    page_file,
    published_runs,
    report_file,
    review_file,
    run_file,
    run_summary_file,
    runs,
    summary_file,
    table_file,
)
from pipeline.artifacts.reviews import encode_review
from pipeline.artifacts.scores import FACTS, IMAGES, TABLE
from pipeline.completed import Runs
from pipeline.estimators import Estimator, LossTrace
from pipeline.history import history, latest_zoo
from pipeline.pages import Past, render
from pipeline.plan import AuditPlan, Cost, ModelPlan
from pipeline.progress import ModelRun
from pipeline.schema import Preprocess
from pipeline.stored import StoredRows

FORMAT = 1
VERSIONED = ("mad", "torch", "numpy", "zarr", "pyarrow")
Document = dict[str, JsonValue]


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: summaries of the models that got through, what failed, by model, and models that a deadline left unfinished."""

    run_id: str
    summaries: Mapping[str, Document] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    failed_tasks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    refused_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    stages: Mapping[str, JsonValue] = field(default_factory=dict)
    unreached: Sequence[str] = ()

    @property
    def clean(self) -> bool:
        """Whether no model, file or task failed."""
        return not (self.failures or self.failed_tasks or self.refused_files)


def begin(storage: Storage, plan: AuditPlan) -> str:
    """Records a run, with its resolved config, versions and digests, and returns its id: UTC time and a short digest.

    Ids sort in the order of the runs, also where the clock was set back since the latest.
    """
    config = plan.config.model_dump(mode="json")
    now = utc_stamp()
    stamp = max(now, stamp_after(next(reversed(runs(storage)), "")))
    run_id = f"{stamp}-{digest(json.dumps([config, uuid.uuid4().hex]).encode())[:8]}"
    record: Document = {
        "format": FORMAT,
        "run_id": run_id,
        "started": now,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _packages(plan)}},
        "config": config,
        "models": {model.name: _planned(model) for model in plan.models},
        "refused": dict(plan.refused),
    }
    reviews = encode_review(plan.reviews) if plan.config.review is not None else None
    if reviews is not None:
        record["review"] = {"samples": len(plan.reviews), "bytes": len(reviews), "sha256": digest(reviews)}
    storage.create(run_file(run_id), encode_document(record))
    if reviews is not None:
        storage.create(review_file(run_id), reviews)  # after the record: without one, `mad verify` misses it
    return run_id


def _packages(plan: AuditPlan) -> tuple[str, ...]:
    """Packages whose versions a run records; transformers, an extra, where one of its models is loaded."""
    return (*VERSIONED, *(["transformers"] if any(model.config.huggingface and not model.stored for model in plan.models) else []))


def _planned(model: ModelPlan) -> Document:
    sources: JsonValue = {source.key: asdict(source.file) for source in model.sources}
    fitted: Document = {"fitted_key": model.fitted_key, "fitted_sources": [source.key for source in model.fitted]} if model.draws else {}
    of_stored: Document = {"rows_of": model.stored.run_id, "dropped": list(model.dropped)} if model.stored else {}
    rows = _stored_rows(model).model_dump(mode="json")
    return {"digest": model.digest, "row_key": model.row_key, **fitted, "tasks": len(model.row_tasks), "sources": sources, **of_stored, "rows": rows}


def _stored_rows(model: ModelPlan) -> StoredRows:
    """What `mad rescore` needs to know of the rows; of rows that are themselves used as they are stored, what is known of them."""
    if model.stored is not None:
        return model.stored.rows
    return StoredRows(
        patterns=() if model.config.traced else model.config.gradient.layers,
        snapshots_key=model.snapshots_key,
        layers=model.layers,
        sides=model.sides,
        fallback=dict(model.fallback),
        not_covered=dict(model.not_covered),
        classes=model.classes,
        inputs=model.inputs,
        trusted=model.trusted,
        audited=model.audited,
        sampling=model.sampling,
        weights=model.weights,
        rows_per_task=model.rows_per_task,
    )


def publish(storage: Storage, run_id: str, plan: AuditPlan, progress: Sequence[ModelRun], complete: bool) -> RunOutcome:
    """Ends a run: summaries, the outcome, tables, and last the views of the latest run. An incomplete run leaves its outcome only."""
    done = [run for run in progress if not run.failure and run.report is not None] if complete else []
    summaries = {run.plan.name: _summary(storage, run_id, run) for run in done}
    outcome = RunOutcome(
        run_id=run_id,
        summaries=summaries,
        failures={**plan.refused, **{run.plan.name: run.failure for run in progress if run.failure}},
        failed_tasks={run.plan.name: run.failed_tasks for run in progress if run.failed_tasks},
        refused_files={model.name: model.refused_files for model in plan.models if model.refused_files},
        stages={run.plan.name: run.costs for run in progress},
        unreached=[run.plan.name for run in progress if not run.failure and run.report is None] if complete else [],
    )
    for name, summary in summaries.items():
        storage.create(run_summary_file(run_id, name), encode_document(summary))
    storage.create(outcome_file(run_id), encode_document(_record(outcome, complete)))
    for name, summary in summaries.items():
        _publish_table(storage, name, summary)
        storage.write(summary_file(name), encode_document(summary))
    if summaries:
        publish_pages(storage, outcome.failures)
    return outcome


def make_up(storage: Storage) -> None:
    """Publishes what the latest run that ended did not come to publish, because it was killed right then."""
    ended = next((run_id for run_id in reversed(runs(storage)) if storage.exists(outcome_file(run_id))), None)
    for name in models(storage) if ended else ():
        with suppress(Corrupt):  # `mad verify` names what is damaged; it must not stop the models beside it
            summary = read_document(storage, run_summary_file(str(ended), name))
            if summary is not None and not storage.exists(table_file(name, str(summary["run_id"]))) and not _report_damaged(storage, summary):
                _publish_table(storage, name, summary)


def _report_damaged(storage: Storage, summary: Document) -> str:
    table = summary["table"]
    return damage_of(storage, report_file(summary, TABLE), str(table["sha256"]), int(str(table["bytes"]))) if isinstance(table, dict) else ""


def _publish_table(storage: Storage, model: str, summary: Document) -> None:
    if summary["same_as"] is None:
        with suppress(AlreadyExists):
            storage.publish(report_file(summary, TABLE), table_file(model, str(summary["run_id"])))


def publish_pages(storage: Storage, failures: Mapping[str, str]) -> str:
    """Renders the pages of the latest summaries of all models in the root; returns where the first page is.

    `failures`: models that the latest run could not audit, and why.
    """
    summaries, images, failed, past, known = [], {}, dict(failures), Past(), Runs(storage)
    for name in models(storage):
        try:
            summary = read_summary(storage, name)
            if summary is not None:
                images[name] = _images(storage, summary)
                summaries.append(summary)
                past.histories[name] = history(known, name).model_dump(mode="json")
                past.reviews[name] = known.reviews(str(summary["run_id"]))
        except StorageError as error:
            failed[name] = str(error)
    zoo = latest_zoo(known)
    past.zoo.update(zoo.model_dump(mode="json") if zoo is not None else {})
    for name, page in render(summaries, images, failed, past).items():
        storage.write(page_file(name), page.encode())
    return storage.locate(page_file("index"))


def latest_failures(storage: Storage) -> dict[str, str]:
    """Models that the latest completed run could not audit, and why."""
    for run_id in reversed(runs(storage)):
        try:
            outcome = read_document(storage, outcome_file(run_id))
        except Corrupt:
            continue
        if outcome is not None and outcome.get("complete"):
            failures = outcome.get("failures")
            return {name: str(reason) for name, reason in failures.items()} if isinstance(failures, dict) else {}
    return {}


def read_summary(storage: Storage, model: str) -> Document | None:
    """The latest summary of a model; None where it has none."""
    return read_document(storage, summary_file(model))


def read_document(storage: Storage, path: str) -> Document | None:
    """A JSON object that this package wrote; None where there is none.

    Raises:
        Corrupt: what is there is no JSON, or of a newer version.
    """
    try:
        document = json.loads(storage.read(path))
    except Missing:
        return None
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{storage.locate(path)}: not readable JSON ({error}); move it away; a model's summary.json the next run writes anew") from error
    if not isinstance(document, dict):
        return None
    version = document.get("schema", document.get("format", FORMAT))
    if not isinstance(version, int) or version > FORMAT:
        raise Corrupt(f"{storage.locate(path)}: has version {version}, this mad reads up to {FORMAT}; upgrade mad to read it")
    return document


def _summary(storage: Storage, run_id: str, run: ModelRun) -> Document:
    plan = run.plan
    assert run.report is not None
    files = {file.name: file for file in run.report.files}
    table, place = files[TABLE], f"{run.report_folder}/{FACTS}"
    read = read_file(storage, place)
    if digest(read) != files[FACTS].sha256:
        raise Corrupt(f"{storage.locate(place)}: its contents changed since it was written (SHA-256 differs); {REPAIR}")
    facts = json.loads(read)
    return {
        **facts,
        "run_id": run_id,
        "model": plan.name,
        "task": plan.config.task,
        "model_digest": plan.digest,
        "settings": _settings(plan),
        "warnings": facts["warnings"] + [line for part in ("screening", "sampling") for line in facts.get(part, {}).get("warnings", [])] + _warnings(run),
        "layers": {"covered": list(plan.layout.names), "fallback": list(plan.fallback), "not_covered": dict(plan.not_covered)},
        "files": {
            "trusted": [{"name": source.file.name, "rows": source.rows} for source in plan.trusted],
            "audited": [{"name": source.file.name, "rows": source.rows} for source in plan.audited],
            "refused": dict(plan.refused_files),
            **({"sampling": [{"name": source.file.name, "rows": source.rows} for source in plan.sampling]} if plan.sampling else {}),
        },
        "stages": run.costs,
        "table": {"rows": facts["counts"]["audited"], "bytes": table.bytes, "sha256": table.sha256},
        "same_as": _same_table(storage, plan.name, table.sha256),
        **({"cost": _compared(run.expected, run)} if run.expected is not None else {}),
        "manifests": {what: list(paths) for what, paths in run.manifests.items()},
        "report_folder": run.report_folder,
        **({"rows_of": plan.stored.run_id} if plan.stored else {}),
    }


def _compared(expected: Cost, run: ModelRun) -> JsonValue:
    """What a model was expected to cost, what it did, as far as tasks tell, and the second over the first; None where nothing was expected."""
    seconds, stored = sum(cost.seconds for cost in run.stages.values()), sum(cost.bytes_stored for cost in run.stages.values())
    hours = seconds / 3600
    return {
        "expected": cost_document(expected),
        "measured": {"worker_hours": hours, "seconds": {stage: round(cost.seconds, 3) for stage, cost in run.stages.items()}, "bytes_stored": stored},
        "over_expected": {
            "worker_hours": round(hours / expected.worker_hours, 3) if expected.worker_hours else None,
            "bytes_stored": round(stored / expected.bytes_stored, 3) if expected.bytes_stored else None,
        },
    }


def cost_document(cost: Cost) -> Document:
    """A cost as a JSON object."""
    seconds: Document = {stage: round(value, 3) for stage, value in cost.seconds.items()}
    whole = {"bytes_stored": cost.bytes_stored, "bytes_read": cost.bytes_read, "requests": cost.requests}
    return {"worker_hours": cost.worker_hours, "seconds": seconds, **whole}


def _settings(plan: ModelPlan) -> JsonValue:
    config = plan.config
    return {
        **(_trace_settings(config.traced) if config.traced else _gradient_settings(config.gradient)),
        "curvature": config.curvature.model_dump(mode="json"),
        "score": config.score.model_dump(mode="json"),
    }


def _gradient_settings(estimator: Estimator) -> Document:
    return {"measurement": estimator.measurement, "parameters": estimator.parameters, "rank": estimator.projection.rank}


def _trace_settings(estimator: LossTrace) -> Document:
    """Statistics of batch norms are left as they are: the choice is recorded."""
    return {"estimator": estimator.model_dump(mode="json"), "draws_kept": estimator.chains * len(estimator.kept), "batchnorm": "frozen"}


def _warnings(run: ModelRun) -> list[JsonValue]:
    plan, lines = run.plan, list[JsonValue]()
    if run.sampling_left_out:
        total = sum(source.rows for source in plan.sampling)
        lines.append(f"{run.sampling_left_out:,} of {total:,} samples of the sampling set are unreadable or unlabelled, and no chain saw them")
    if plan.config.data.preprocess == Preprocess() and not plan.config.is_text:
        lines.append("data.preprocess is not given: images go in scaled to [0, 1] only")
    if run.gone:
        lines.append(f"files that the latest run audited and that no glob finds any more: {', '.join(run.gone)}")
    if plan.refused_files:
        lines.append(f"files that could not be used: {'; '.join(plan.refused_files.values())}")
    if plan.not_covered:
        lines.append(f"{len(plan.not_covered)} selected parameters are not covered: {', '.join(list(plan.not_covered)[:5])}")
    return lines


def _same_table(storage: Storage, model: str, sha256: str) -> str | None:
    """The run whose published table is this very table, if it is the latest one."""
    latest = next(published_runs(storage, model), None)
    try:
        summary = read_document(storage, run_summary_file(latest, model)) if latest else None
    except Corrupt:
        return None
    table = summary.get("table") if summary else None
    return latest if isinstance(table, dict) and table.get("sha256") == sha256 else None


def _images(storage: Storage, summary: Document) -> Mapping[str, str]:
    pictures = (read_document(storage, report_file(summary, IMAGES)) or {}).get("pictures")
    return {place: str(picture) for place, picture in pictures.items()} if isinstance(pictures, dict) else {}


def _record(outcome: RunOutcome, complete: bool) -> Document:
    return {
        "format": FORMAT,
        "run_id": outcome.run_id,
        "ended": utc_stamp(),
        "complete": complete,
        "summaries": {name: digest(encode_document(dict(summary))) for name, summary in outcome.summaries.items()},
        "failures": dict(outcome.failures),
        "failed_tasks": {name: list(tasks) for name, tasks in outcome.failed_tasks.items()},
        "refused_files": {name: dict(files) for name, files in outcome.refused_files.items()},
        "stages": dict(outcome.stages),
        "unreached": list(outcome.unreached),
    }


def encode_document(document: Document) -> bytes:
    """A document's bytes as they are written; the same for a document that was read."""
    return json.dumps(document, indent=1, allow_nan=False).encode()
