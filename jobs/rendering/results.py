"""Results as text for a terminal: runs, models and single scores."""

from collections.abc import Mapping, Sequence

from infra.storage.storage import Storage
from jobs.rendering.tables import named, share, size, table
from jobs.rendering.terminal import sentence
from pipeline.root.layout import page_file
from pipeline.root.logs import STAGES
from pipeline.root.records import RunOutcome
from pipeline.root.summary import CostSummary, StageSummary, Summary


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
        f"{counts.not_scored:,}",
        ", ".join(f"{kind} {level:g}" for kind, level in summary.calibration.target.items()),
        share(main.auroc if main is not None else None),
        *(share(rate) for rate in ((at.tpr, at.fpr) if at is not None else (None, None))),
    ]


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
