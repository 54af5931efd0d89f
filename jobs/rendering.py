"""Results as text for a terminal: aligned tables, one fact a line."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from infra.storage.storage import Storage
from jobs.terminal import plain, sentence
from madcore import RerunCost
from pipeline.data.statuses import NO_CLASS
from pipeline.operations.cost import RUN_REQUESTS
from pipeline.planning.limits import certifiable
from pipeline.planning.plan import AuditPlan, Cost, ModelPlan
from pipeline.publication.summary import cost_estimate
from pipeline.results.explain import Explanation
from pipeline.root.documents import JsonObject
from pipeline.root.layout import page_file
from pipeline.root.logs import STAGES
from pipeline.root.records import RunOutcome
from pipeline.root.summary import CostSummary, StageSummary, Summary

MOST_NAMED = 100


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """A plain text table; columns that hold numbers only are set right."""
    numeric = [bool(rows) and all(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    grid = Table(
        title=sentence(title) or None,
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for name, right in zip(columns, numeric, strict=True):
        grid.add_column(name, justify="right" if right else "left", no_wrap=True, header_style="")
    for row in rows:
        grid.add_row(*(plain(cell) for cell in row))
    sink = io.StringIO()
    Console(file=sink, width=100_000, no_color=True, markup=False, highlight=False, emoji=False).print(grid)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def _is_number(cell: str) -> bool:
    return (
        cell in ("", "-")
        or cell.replace(",", "").replace("%", "").replace(" ", "").replace(".", "").replace("-", "").isdigit()
    )


def share(value: object, digits: int = 3) -> str:
    """A number between 0 and 1, or - where there is none."""
    return f"{value:.{digits}f}" if isinstance(value, float) else "-"


def size(count: int) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    raise AssertionError


def plan_document(plan: AuditPlan) -> JsonObject:
    """The plan as a JSON object."""
    return {
        "root": plan.config.root,
        "stages": list(STAGES),
        "models": {model.name: _planned(model) for model in plan.models},
        "refused": dict(plan.refused),
        "cannot_fit": dict(plan.misfits),
        **(
            {
                "cost": {
                    "models": {name: cost_estimate(cost).json_object for name, cost in plan.costs.items()},
                    "run_requests": RUN_REQUESTS,
                }
            }
            if plan.costs
            else {}
        ),
    }


def _planned(model: ModelPlan) -> JsonObject:
    return {
        "digest": model.digest,
        "row_key": model.row_key,
        "trusted": {source.file.name: source.rows for source in model.trusted},
        "audited": {source.file.name: source.rows for source in model.audited},
        "refused_files": dict(model.refused_files),
        "tasks": len(model.row_tasks),
        "row_numbers": model.layout.k,
        "row_bytes": model.row_bytes,
        "sampling": {source.file.name: source.rows for source in model.sampling},
        "snapshot_bytes": model.snapshot_bytes,
        "projected_memory_bytes": asdict(model.memory),
        "smallest_certified_group": certifiable(model.config, model.recipe),
        "layers": {
            "covered": dict(zip(model.layout.names, model.layout.sizes, strict=True)),
            "fallback": list(model.fallback),
            "fallback_cost": {name: asdict(cost) for name, cost in model.fallback.items()},
            "not_covered": dict(model.not_covered),
        },
    }


def plan_text(plan: AuditPlan) -> str:
    """The plan for a person."""
    columns = [
        "model",
        "trusted",
        "audited",
        "tasks",
        "numbers a row",
        "rows at rest",
        "memory a worker",
        "layers",
        "by fallback",
        "not covered",
    ]
    rows = [
        [
            model.name,
            f"{sum(source.rows for source in model.trusted):,}",
            f"{sum(source.rows for source in model.audited):,}",
            f"{len(model.row_tasks):,}",
            f"{model.layout.k:,}",
            size(model.row_bytes),
            size(model.memory.peak),
            str(len(model.layout.names)),
            str(len(model.fallback)),
            str(len(model.not_covered)),
        ]
        for model in plan.models
    ]
    lines = [
        f"root: {plan.config.root}",
        f"stages: {', '.join(STAGES)}",
        table(columns, rows),
        *([cost_text(plan)] if plan.costs else []),
    ]
    for model in plan.models:
        group = certifiable(model.config, model.recipe)
        lines += [f"{model.name}: {_chains(model)}"] if model.config.traced else []
        lines += [f"{model.name}: the fdr target can flag no fewer than {group:,} samples, if any"] if group else []
        lines += [
            sentence(f"{model.name}: by the fallback: {name}: {_rerun(cost)}") for name, cost in model.fallback.items()
        ]
        lines += [
            sentence(f"{model.name}: not covered: {name}: {reason}") for name, reason in model.not_covered.items()
        ]
        lines += [sentence(f"{model.name}: file left out: {reason}") for reason in model.refused_files.values()]
    lines += [sentence(f"{name}: cannot be audited: {reason}") for name, reason in plan.refused.items()]
    return "\n".join(
        [*lines, *(sentence(f"cannot fit: model {name}: {reason}") for name, reason in plan.misfits.items())]
    )


def cost_text(plan: AuditPlan) -> str:
    """What is not done yet is expected to cost, a line a model and one for all."""
    columns = ["expected cost", *STAGES, "worker-hours", "stored", "read", "requests"]
    costs = list(plan.costs.values())
    total = Cost(
        {stage: sum(cost.seconds[stage] for cost in costs) for stage in STAGES},
        sum(cost.bytes_stored for cost in costs),
        sum(cost.bytes_read for cost in costs),
        RUN_REQUESTS + sum(cost.requests for cost in costs),
    )
    return table(columns, [_cost_row(name, cost) for name, cost in (*plan.costs.items(), ("in all", total))])


def _cost_row(name: str, cost: Cost) -> list[str]:
    seconds = [f"{cost.seconds[stage]:,.1f} s" for stage in STAGES]
    return [
        name,
        *seconds,
        f"{cost.worker_hours:,.4f}",
        size(cost.bytes_stored),
        size(cost.bytes_read),
        f"{cost.requests:,}",
    ]


def _chains(model: ModelPlan) -> str:
    """What the chains of sampled weights cost, as a sentence."""
    settings, samples = model.config.traced, sum(source.rows for source in model.sampling)
    assert settings is not None
    kept = settings.chains * len(settings.kept)
    return (
        f"chains of sampled weights: {settings.chains}, of {settings.draws:,} draws each, on {samples:,} samples; {kept:,} are kept, "
        f"{size(model.snapshot_bytes)} at rest, "
        f"and each sample goes through the model {1 + kept:,} times"
    )


def _rerun(cost: RerunCost) -> str:
    """What the fallback costs a layer, as a clause."""
    module = cost.module or "the whole model"
    share, gradient = f"{100 * cost.parameters_share:.2g} %", size(cost.gradient_bytes)
    loop = ", sample by sample in a loop" if cost.one_by_one else ""
    return f"{module}, with {share} of the model's parameters, runs forward and backward once more{loop}, and a sample has a whole gradient of {gradient}"


def run_text(outcome: RunOutcome, storage: Storage) -> str:
    """How a run ended, for a person."""
    lines, summaries = [f"run {outcome.run_id}"], outcome.summaries
    if summaries:
        lines += [results(list(summaries.values())), stage_seconds(outcome.stages)]
        for name, summary in summaries.items():
            lines += [sentence(f"{name}: warning: {warning}") for warning in summary.warnings]
        same = {name: summary.same_as for name, summary in summaries.items() if summary.same_as}
        lines += [f"{name}: same scores as run {run_id}" for name, run_id in same.items()]
        costs = {name: summary.cost for name, summary in summaries.items() if summary.cost is not None}
        lines += [f"{name}: {_cost_ratio(cost)}" for name, cost in costs.items()]
        lines.append(f"page: {storage.locate(page_file('index'))}")
    else:
        lines.append(stage_seconds(outcome.stages))
    lines += [f"not reached before the deadline: {named(outcome.unreached)}"] if outcome.unreached else []
    lines += [sentence(f"{name}: FAILED: {reason}") for name, reason in outcome.failures.items()]
    given_up = {name: tasks for name, tasks in outcome.failed_tasks.items() if name not in outcome.failures}
    lines += [
        sentence(f"{name}: task given up, tried again by the next run: {tasks[0]} ({len(tasks)} in all)")
        for name, tasks in given_up.items()
    ]
    return "\n".join(lines)


def _cost_ratio(cost: CostSummary) -> str:
    """What a model cost, and the ratio to what was expected, as a clause."""
    hours, stored = (
        f"{ratio} of what was expected" if ratio is not None else "nothing was expected"
        for ratio in (cost.over_expected.worker_hours, cost.over_expected.bytes_stored)
    )
    measured = cost.measured
    return f"{measured.worker_hours:,.4f} worker-hours ({hours}), {size(measured.bytes_stored)} stored ({stored})"


def unreached_text(outcome: RunOutcome) -> str:
    """Which models a run published before its deadline, and which it did not reach, as a paragraph."""
    published, unreached = (
        f"{len(names):,} ({named(names)})" if names else "none"
        for names in (list(outcome.summaries), outcome.unreached)
    )
    return (
        f"the deadline passed before all models were done: {published} published; not reached: {unreached}; "
        "what is done of these is kept, and the next `mad run` resumes from there"
    )


def named(names: Sequence[str]) -> str:
    """Names in a row, the first MOST_NAMED of many."""
    more = len(names) - MOST_NAMED
    return ", ".join([*names[:MOST_NAMED], *([f"and {more:,} more"] if more > 0 else [])])


def results(summaries: Sequence[Summary]) -> str:
    """A line per model: what was audited and flagged, and how well where the truth is known."""
    columns = ["model", "verdict", "audited", "flagged", "not scored", "target", "AUROC", "TPR", "FPR"]
    return table(columns, [_result_row(summary) for summary in summaries])


def _result_row(summary: Summary) -> list[str]:
    counts, main = summary.counts, summary.evaluation.main if summary.evaluation is not None else None
    at = main.at_calibrated if main is not None else None
    return [
        summary.model,
        summary.verdict.value,
        f"{counts.audited:,}",
        f"{counts.flagged:,}",
        f"{counts.not_ok:,}",
        ", ".join(f"{kind} {level:g}" for kind, level in summary.calibration.target.items()),
        share(main.auroc if main is not None else None),
        *(share(rate) for rate in ((at.tpr, at.fpr) if at is not None else (None, None))),
    ]


def explanation_text(found: Explanation) -> str:
    """What is behind one score, for a person."""
    lines = [
        sentence(
            f"sample {found.sample_id} (row {found.row} of {found.source}), model {found.model}, run {found.run_id}"
        )
    ]
    if found.prediction != NO_CLASS:
        lines.append(f"prediction: class {found.prediction}, confidence {share(found.confidence)}")
    if found.score is not None:
        threshold = f"threshold {found.threshold:.5g}: " if found.threshold is not None else ""
        lines.append(f"score: {found.score:.5g} ({threshold}{'flagged' if found.flagged else 'not flagged'})")
    lines.append(sentence(found.in_words))
    trusted = [[one.sample_id, f"{one.influence:.4g}"] for one in found.top_trusted if one.influence is not None]
    layers = [[one.layer, f"{one.score:.4f}"] for one in found.layers]
    for title, columns, rows in (
        ("the trusted samples with the largest influence on this output:", ("trusted sample", "influence"), trusted),
        ("its layers, those that the trusted samples explain least first:", ("layer", "score"), layers),
    ):
        lines += ["", title, table(columns, rows)] if rows else []
    return "\n".join(lines)


def stage_seconds(stages: Mapping[str, Mapping[str, StageSummary]]) -> str:
    """Seconds and tasks of each stage, summed over models; of the seconds, the share in which a model computed."""
    rows = []
    for stage in STAGES:
        costs = [of_model[stage] for of_model in stages.values() if stage in of_model]
        seconds = sum(cost.seconds for cost in costs)
        computing = sum((cost.computing_share or 0) * cost.seconds for cost in costs)
        share_of = f"{computing / seconds:.0%}" if computing else "-"
        run, reused = sum(cost.tasks_run for cost in costs), sum(cost.tasks_reused for cost in costs)
        rows.append([stage, f"{seconds:.1f}", share_of, str(run), str(reused)])
    return table(["stage", "seconds", "computing", "tasks run", "reused"], rows)
