"""The summary of a model, made at the end of a run: what its report found, and what the run adds to that."""

from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from infra.commits import read_file
from infra.errors import REPAIR, Corrupt
from infra.storage.files import digest
from infra.storage.storage import Storage
from pipeline.artifacts.scores import FACTS, TABLE
from pipeline.config.estimators import Estimator, LossTrace
from pipeline.config.samples import Preprocess
from pipeline.config.schema import ModelConfig
from pipeline.data.sources import Source
from pipeline.inputs.images import ImageInputs
from pipeline.planning.coverage import coverage_warning, shares_of
from pipeline.planning.plan import Cost, ModelPlan
from pipeline.planning.recipe import rules_changed
from pipeline.root.documents import JsonObject, decode_document
from pipeline.root.facts import Control, Facts
from pipeline.root.layout import report_file, table_file
from pipeline.root.summary import (
    CostEstimate,
    CostRatio,
    CostSummary,
    FileRows,
    LayerCoverage,
    MeasuredCost,
    Summary,
    SummaryFiles,
    TableSummary,
)
from pipeline.stages.progress import ModelRun

LAYERS_NAMED = 5


def summarize(storage: Storage, run_id: str, run: ModelRun) -> Summary:
    """The summary of a model whose report is committed.

    Raises:
        Corrupt: the report changed since it was written.
    """
    plan, facts = run.plan, _read_facts(storage, run)
    assert run.report is not None
    table = next(file for file in run.report.files if file.name == TABLE)
    found = {name: getattr(facts, name) for name in facts.model_fields_set}
    added = {
        "run_id": run_id,
        "model": plan.name,
        "task": plan.config.task,
        "model_digest": plan.digest,
        "settings": _settings(plan),
        "warnings": (*_report_warnings(facts), *_run_warnings(run)),
        "layers": _coverage(plan),
        "files": _files(plan),
        "stages": run.costs,
        "table": TableSummary(rows=facts.counts.audited, bytes=table.bytes, sha256=table.sha256),
        "same_as": _same_table(storage, run, table.sha256),
        "cost": cost_summary(run.expected, run) if run.expected is not None else None,
        "manifests": run.manifests,
        "report_folder": run.report_folder,
        "rows_of": plan.stored.run_id if plan.stored else None,
    }
    return Summary.model_validate(found | added)


def with_controls(models: Sequence[ModelConfig], summaries: Mapping[str, Summary]) -> dict[str, Summary]:
    """The summaries, with what the same audit found on random weights beside each model that has such a control."""
    found = dict(summaries)
    for model in models:
        control = summaries.get(model.control_name) if model.control is not None else None
        if control is not None:
            beside = {**(found[model.name].controls or {}), "untrained": _untrained(control)}
            found[model.name] = found[model.name].model_copy(update={"controls": beside})
    return found


def _untrained(control: Summary) -> Control:
    """What a control adds to its model's summary."""
    counts, found = control.counts, control.evaluation.all if control.evaluation is not None else None
    scored = counts.audited - counts.unreadable - counts.failed
    return Control(
        auroc=found.auroc if found is not None else None,
        samples=scored,
        flagged_share=counts.flagged / scored if scored else None,
    )


def _coverage(plan: ModelPlan) -> LayerCoverage:
    shares = shares_of(plan)
    return LayerCoverage(
        covered=plan.layout.names,
        fallback=tuple(plan.fallback),
        not_covered=dict(plan.not_covered),
        share_of_parameters=shares.of_parameters if shares is not None else None,
        share_of_gradient=shares.of_gradient if shares is not None else None,
    )


def _read_facts(storage: Storage, run: ModelRun) -> Facts:
    assert run.report is not None
    expected = next(file.sha256 for file in run.report.files if file.name == FACTS)
    path = report_file(run.report_folder, FACTS)
    place, data = storage.locate(path), read_file(storage, path)
    if digest(data) != expected:
        raise Corrupt(f"{place}: its contents changed since it was written (SHA-256 differs); {REPAIR}")
    return decode_document(data, Facts, place)


def cost_summary(expected: Cost, run: ModelRun) -> CostSummary:
    """What a model was expected to cost, what it did cost as far as its tasks tell, and the ratio of both."""
    hours = sum(cost.seconds for cost in run.stages.values()) / 3600
    stored = sum(cost.bytes_stored for cost in run.stages.values())
    seconds = {stage: round(cost.seconds, 3) for stage, cost in run.stages.items()}
    return CostSummary(
        expected=cost_estimate(expected),
        measured=MeasuredCost(worker_hours=hours, seconds=seconds, bytes_stored=stored),
        over_expected=CostRatio(
            worker_hours=round(hours / expected.worker_hours, 3) if expected.worker_hours else None,
            bytes_stored=round(stored / expected.bytes_stored, 3) if expected.bytes_stored else None,
        ),
    )


def cost_estimate(cost: Cost) -> CostEstimate:
    """An expected cost as it is written."""
    return CostEstimate(
        worker_hours=cost.worker_hours,
        seconds={stage: round(value, 3) for stage, value in cost.seconds.items()},
        bytes_stored=cost.bytes_stored,
        bytes_read=cost.bytes_read,
        requests=cost.requests,
    )


def _files(plan: ModelPlan) -> SummaryFiles:
    return SummaryFiles(
        trusted=_file_rows(plan.trusted),
        audited=_file_rows(plan.audited),
        refused=dict(plan.refused_files),
        sampling=_file_rows(plan.sampling) or None,
    )


def _file_rows(sources: Sequence[Source]) -> tuple[FileRows, ...]:
    return tuple(FileRows(name=source.file.name, rows=source.rows) for source in sources)


def _settings(plan: ModelPlan) -> JsonObject:
    config = plan.config
    of_rows = _trace_settings(config.traced) if config.traced else _gradient_settings(config.gradient)
    curvature: JsonValue = config.curvature.model_dump(mode="json")
    of_rows |= {"outputs": config.outputs} if config.outputs else {}
    return {**of_rows, "curvature": curvature, "score": config.score.model_dump(mode="json")}


def _gradient_settings(estimator: Estimator) -> JsonObject:
    return {"measurement": estimator.measurement, "parameters": estimator.parameters, "rank": estimator.projection.rank}


def _trace_settings(estimator: LossTrace) -> JsonObject:
    """Running statistics of batch norms stay frozen while weights are sampled, which is recorded."""
    kept = estimator.chains * len(estimator.kept)
    return {"estimator": estimator.model_dump(mode="json"), "draws_kept": kept, "batchnorm": "frozen"}


def _report_warnings(facts: Facts) -> Iterator[str]:
    yield from facts.warnings
    for section in (facts.screening, facts.sampling):
        yield from section.warnings if section is not None else ()


def _run_warnings(run: ModelRun) -> Iterator[str]:
    plan = run.plan
    little = coverage_warning(plan)
    if little is not None:
        yield little
    if run.sampling_left_out:
        total = sum(source.rows for source in plan.sampling)
        samples = f"{run.sampling_left_out:,} of {total:,} samples of the sampling set"
        yield f"{samples} are unreadable or unlabelled, and no chain saw them"
    if plan.config.untrained:
        yield "a control: its weights are random, so what is flagged here is unusual in the samples alone"
    yield from plan.recipe.warnings
    if plan.config.data.preprocess == Preprocess() and isinstance(plan.inputs, ImageInputs):
        yield "data.preprocess is not given: images are only scaled to [0, 1]"
    outdated = rules_changed(plan.recipe.rows_format)
    if outdated:
        yield f"the stored rows follow earlier rules, and `mad run` computes them again: {outdated}"
    if run.gone:
        yield f"files that the latest run audited and that no glob finds any more: {', '.join(run.gone)}"
    if plan.refused_files:
        yield f"files that could not be used: {'; '.join(plan.refused_files.values())}"
    if plan.not_covered:
        named = ", ".join(list(plan.not_covered)[:LAYERS_NAMED])
        yield f"{len(plan.not_covered)} selected parameters are not covered: {named}"


def _same_table(storage: Storage, run: ModelRun, sha256: str) -> str | None:
    """The run whose published table is this very table, if it is that of the latest completed run."""
    latest = run.latest
    if latest is None or latest.table.sha256 != sha256:
        return None
    published = latest.same_as or latest.run_id
    return published if storage.exists(table_file(run.plan.name, published)) else None
