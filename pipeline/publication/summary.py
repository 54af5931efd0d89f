"""The summary of a model: what was audited, what was found, how far it can be trusted, and what it cost."""

import json

from pydantic import JsonValue

from infra.commits import read_file
from infra.errors import REPAIR, Corrupt
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.artifacts.scores import FACTS, TABLE
from pipeline.config.estimators import Estimator, LossTrace
from pipeline.config.samples import Preprocess
from pipeline.planning.plan import Cost, ModelPlan
from pipeline.root.layout import published_runs, run_summary_file
from pipeline.root.records import Document, read_document
from pipeline.stages.progress import ModelRun


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
        "warnings": facts["warnings"]
        + [line for part in ("screening", "sampling") for line in facts.get(part, {}).get("warnings", [])]
        + _warnings(run),
        "layers": {
            "covered": list(plan.layout.names),
            "fallback": list(plan.fallback),
            "not_covered": dict(plan.not_covered),
        },
        "files": {
            "trusted": [{"name": source.file.name, "rows": source.rows} for source in plan.trusted],
            "audited": [{"name": source.file.name, "rows": source.rows} for source in plan.audited],
            "refused": dict(plan.refused_files),
            **(
                {"sampling": [{"name": source.file.name, "rows": source.rows} for source in plan.sampling]}
                if plan.sampling
                else {}
            ),
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
    seconds, stored = (
        sum(cost.seconds for cost in run.stages.values()),
        sum(cost.bytes_stored for cost in run.stages.values()),
    )
    hours = seconds / 3600
    return {
        "expected": cost_document(expected),
        "measured": {
            "worker_hours": hours,
            "seconds": {stage: round(cost.seconds, 3) for stage, cost in run.stages.items()},
            "bytes_stored": stored,
        },
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
    return {
        "estimator": estimator.model_dump(mode="json"),
        "draws_kept": estimator.chains * len(estimator.kept),
        "batchnorm": "frozen",
    }


def _warnings(run: ModelRun) -> list[JsonValue]:
    plan, lines = run.plan, list[JsonValue]()
    if run.sampling_left_out:
        total = sum(source.rows for source in plan.sampling)
        lines.append(
            f"{run.sampling_left_out:,} of {total:,} samples of the sampling set are unreadable or unlabelled, and no chain saw them"
        )
    if plan.config.data.preprocess == Preprocess() and not plan.config.is_text:
        lines.append("data.preprocess is not given: images go in scaled to [0, 1] only")
    if run.gone:
        lines.append(f"files that the latest run audited and that no glob finds any more: {', '.join(run.gone)}")
    if plan.refused_files:
        lines.append(f"files that could not be used: {'; '.join(plan.refused_files.values())}")
    if plan.not_covered:
        lines.append(
            f"{len(plan.not_covered)} selected parameters are not covered: {', '.join(list(plan.not_covered)[:5])}"
        )
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
