"""The four stages in their order, each reading only what an earlier one has committed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from infra.commits import CommitLog, Receipt
from infra.events import StageEnded, Stopwatch
from infra.storage.storage import Storage
from pipeline.artifacts.rows import RowsPart
from pipeline.artifacts.scores import ScorePart
from pipeline.planning.plan import AuditPlan, ModelPlan, RowTask, row_task_log
from pipeline.root.logs import reporting_log, scoring_log
from pipeline.stages.curvature.step import Fitting
from pipeline.stages.gradients.chain_step import Chains
from pipeline.stages.gradients.step import row_part
from pipeline.stages.gradients.worker import GradientTask, GradientWorker
from pipeline.stages.progress import ModelRun
from pipeline.stages.reporting.worker import REPORT, ReportingWorker, ReportTask, reporting_key
from pipeline.stages.runner import AbsentRows, Failure, Job, StepRunner
from pipeline.stages.scoring.worker import ScoreTask, ScoringWorker, scoring_key


def compute(
    plan: AuditPlan, storage: Storage, runner: StepRunner, stages: Sequence[str], check: Callable[[], None]
) -> None:
    """Stages of a plan, for the models of the runner: their tasks are committed, no run is recorded, and nothing is published.

    `check`: called after each stage; raises where the root's lock is lost.
    """
    steps = _Stages(plan, storage, runner)
    for stage in stages:
        watch = Stopwatch()
        getattr(steps, stage)()
        runner.tell(StageEnded(stage, watch.seconds))
        check()


class _Stages:
    """The four stages, each reading only what an earlier one has committed."""

    def __init__(self, plan: AuditPlan, storage: Storage, runner: StepRunner):
        self._config, self._storage, self._runner = plan.config, storage, runner
        self._plans: dict[str, ModelPlan] = {model.name: model for model in plan.models}

    def gradients(self) -> None:
        Chains(self._config, self._storage, self._plans, self._runner).run()
        tasks = {model.plan.name: model.plan.row_tasks for model in self._runner.alive}
        jobs = {name: [self._rows_job(self._runner.models[name], task) for task in own] for name, own in tasks.items()}
        rescored = any(model.plan.stored for model in self._runner.alive)
        results = self._runner.run(
            "gradients", AbsentRows if rescored else partial(GradientWorker, self._config, self._plans), jobs
        )
        for model in self._runner.alive:
            done = dict(zip(tasks[model.plan.name], results[model.plan.name], strict=True))
            model.trusted, model.audited = (self._row_parts(model, split, 0, done) for split in ("trusted", "audited"))
            labels = model.plan.labels_per_sample
            if labels:
                model.curvature_trusted = self._row_parts(model, "trusted", labels, done)
            if labels and model.plan.config.curvature.transductive:
                model.curvature_audited = self._row_parts(model, "audited", labels, done)
            model.failure = self._rows_failure(model, done)

    def _rows_failure(self, model: ModelRun, done: dict[RowTask, Receipt | Failure]) -> str:
        """Why a model cannot go on with the rows that it has; "" where it can."""
        trusted = (*model.trusted, *model.curvature_trusted)
        lost = [part.failure for part in trusted if part.failure]
        if lost:
            return f"{len(lost)} of {len(trusted)} tasks of the trusted set failed, so there is nothing complete to compare with: {lost[0]}"
        receipts = {task: result for task, result in done.items() if isinstance(result, Receipt)}
        nonfinite = {
            task: receipt.measures.nonfinite for task, receipt in receipts.items() if receipt.measures.nonfinite
        }
        if nonfinite and self._config.run.on_nonfinite == "fail":
            first = next(iter(nonfinite)).source.file.name
            return f"{sum(nonfinite.values()):,} gradients are not finite, the first of them in {first}, and run.on_nonfinite is fail"
        return ""

    def _rows_job(self, model: ModelRun, rows: RowTask) -> Job[GradientTask]:
        log, task = (
            row_task_log(self._storage, model.plan, rows.source, rows.labels_per_sample),
            GradientTask(rows, snapshots=model.snapshots),
        )
        return Job(
            log, rows.name, task, retry=None if model.plan.stored else lambda receipt: replace(task, supersedes=receipt)
        )

    def _row_parts(
        self, model: ModelRun, split: str, labels: int, done: dict[RowTask, Receipt | Failure]
    ) -> tuple[RowsPart, ...]:
        """The parts of a split, in order, of the samples' own rows, or of those at so many labels a sample; a source without a failed task is published."""
        parts: list[RowsPart] = []
        for source in model.plan.trusted if split == "trusted" else model.plan.audited:
            log = row_task_log(self._storage, model.plan, source, labels)
            results = {task: done[task] for task in model.plan.tasks(source, labels)}
            receipts = [result for result in results.values() if isinstance(result, Receipt)]
            if len(receipts) == len(results):
                model.manifests.setdefault(f"fitted_{split}" if labels else split, []).append(log.publish(receipts))
            parts += [row_part(log, task, result) for task, result in results.items()]
        return tuple(parts)

    def curvature(self) -> None:
        Fitting(self._storage, self._plans, self._runner).run()

    def scoring(self) -> None:
        jobs: dict[str, list[Job[ScoreTask]]] = {}
        for model in self._runner.alive:
            assert model.curvature is not None
            key = scoring_key(model.plan, model.curvature)
            jobs[model.plan.name] = [
                Job(
                    scoring_log(self._storage, model.plan.name, key, part.source_key),
                    part.name,
                    ScoreTask(model.plan.name, key, part, model.curvature),
                )
                for part in model.audited
            ]
        results = self._runner.run("scoring", partial(ScoringWorker, self._storage.url, self._plans), jobs)
        for name, own in results.items():
            self._collect_scores(self._runner.models[name], jobs[name], own)

    def _collect_scores(
        self, model: ModelRun, jobs: Sequence[Job[ScoreTask]], results: Sequence[Receipt | Failure]
    ) -> None:
        by_log: dict[str, tuple[CommitLog, list[Receipt]]] = {}
        parts: list[ScorePart] = []
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Failure):
                model.failure = f"scoring rows {job.task.part.start} to {job.task.part.stop} of {job.task.part.source}: {result.reason}"
                return
            part = job.task.part
            parts.append(
                ScorePart(
                    part.source, part.source_key, part.start, part.stop, job.log.attempt_folder(result), result.content
                )
            )
            by_log.setdefault(job.log.folder, (job.log, []))[1].append(result)
        model.score_parts = tuple(parts)
        model.manifests["scoring"] = [log.publish(receipts) for log, receipts in by_log.values()]

    def reporting(self) -> None:
        jobs: dict[str, list[Job[ReportTask]]] = {}
        for model in self._runner.alive:
            assert model.curvature is not None
            name, key = model.plan.name, reporting_key(model.plan, model.score_parts, model.curvature.content)
            task = ReportTask(name, key, model.score_parts, model.curvature.references, model.segments)
            jobs[name] = [Job(reporting_log(self._storage, name, key), REPORT, task)]
        results = self._runner.run("reporting", partial(ReportingWorker, self._storage.url, self._plans), jobs)
        for name, (receipt,) in self._runner.whole(results).items():
            model, log = self._runner.models[name], jobs[name][0].log
            model.report = receipt
            model.report_folder = log.attempt_folder(receipt)
            model.manifests["reporting"] = [log.publish([receipt])]
