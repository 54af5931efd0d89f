"""The driver's part of the gradients stage: chains first where traces are taken, then a task for each range of rows."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from infra.commits import CommitLog, Receipt
from infra.storage.storage import Storage
from pipeline.artifacts.parts import RowsPart
from pipeline.keys import key_of
from pipeline.planning.plan import RowTask, row_task_log
from pipeline.stages.gradients.chain_step import run_chains
from pipeline.stages.gradients.worker import GradientTask, GradientWorker
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import AbsentRows, Failure, Job, StageInputs

RowResults = Mapping[RowTask, Receipt | Failure]


def run_gradients(inputs: StageInputs) -> None:
    """Compute the rows of all models; the parts that later stages read are noted in each `ModelRun`."""
    run_chains(inputs)
    storage, runner = inputs.storage, inputs.runner
    tasks = {model.plan.name: model.plan.row_tasks for model in runner.runnable}
    jobs = {name: [_job(storage, runner.models[name], task) for task in own] for name, own in tasks.items()}
    rescored = any(model.plan.stored for model in runner.runnable)
    worker = AbsentRows if rescored else partial(GradientWorker, inputs.config, inputs.plans)
    results = runner.run("gradients", worker, jobs)
    for model in runner.runnable:
        done = dict(zip(tasks[model.plan.name], results[model.plan.name], strict=True))
        model.trusted = _publish_parts(storage, model, "trusted", 0, done)
        model.audited = _publish_parts(storage, model, "audited", 0, done)
        labels = model.plan.labels_per_sample
        if labels:
            model.curvature_trusted = _publish_parts(storage, model, "trusted", labels, done)
        if labels and model.plan.config.curvature.transductive:
            model.curvature_audited = _publish_parts(storage, model, "audited", labels, done)
        model.failure = _failure(model, done, refuse_nonfinite=inputs.config.run.on_nonfinite == "fail")


def _job(storage: Storage, model: ModelRun, rows: RowTask) -> Job[GradientTask]:
    log = row_task_log(storage, model.plan, rows.source, rows.labels_per_sample)
    task = GradientTask(rows, snapshots=model.snapshots)
    return Job(log, task, retry=None if model.plan.stored else lambda receipt: replace(task, supersedes=receipt))


def _publish_parts(
    storage: Storage, model: ModelRun, split: str, labels: int, done: RowResults
) -> tuple[RowsPart, ...]:
    """The parts of a split, in order, of rows for so many labels a sample; publish sources without a failed task."""
    parts: list[RowsPart] = []
    for source in model.plan.trusted if split == "trusted" else model.plan.audited:
        log = row_task_log(storage, model.plan, source, labels)
        results = {task: done[task] for task in model.plan.tasks(source, labels)}
        receipts = [result for result in results.values() if isinstance(result, Receipt)]
        if len(receipts) == len(results):
            model.manifests.setdefault(f"fitted_{split}" if labels else split, []).append(model.publish(log, receipts))
        parts += [rows_part(log, task, result) for task, result in results.items()]
    return tuple(parts)


def rows_part(log: CommitLog, task: RowTask, result: Receipt | Failure) -> RowsPart:
    """The part that a task's result makes; that of a failed task has no folder, and the reason."""
    source, key = task.source.file.name, task.source.key
    if isinstance(result, Failure):
        return RowsPart(source, key, task.start, task.stop, "", key_of(failure=result.reason), result.reason)
    return RowsPart.of(log, result, source)


def _failure(model: ModelRun, done: RowResults, refuse_nonfinite: bool) -> str:
    """Why a model cannot continue with the rows that it has; "" where it can."""
    trusted = (*model.trusted, *model.curvature_trusted)
    failures = [part.failure for part in trusted if part.failure]
    if failures:
        return (
            f"{len(failures)} of {len(trusted)} tasks of the trusted set failed, "
            f"so there is nothing complete to compare with: {failures[0]}"
        )
    receipts = {task: result for task, result in done.items() if isinstance(result, Receipt)}
    nonfinite = {task: receipt.measures.nonfinite for task, receipt in receipts.items() if receipt.measures.nonfinite}
    if nonfinite and refuse_nonfinite:
        first = next(iter(nonfinite)).source.file.name
        return (
            f"{sum(nonfinite.values()):,} gradients are not finite, the first of them in {first}, "
            "and run.on_nonfinite is fail"
        )
    return ""
