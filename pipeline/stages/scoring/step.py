"""The driver's part of the scoring stage: a task for each audited part, and the score parts that tasks made."""

from collections.abc import Sequence
from functools import partial

from infra.commits import CommitLog, Receipt
from infra.storage.storage import Storage
from pipeline.artifacts.parts import ScorePart
from pipeline.root.logs import scoring_log
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import Failure, Job, StageInputs
from pipeline.stages.scoring.worker import ScoreTask, ScoringWorker, scoring_key


def run_scoring(inputs: StageInputs) -> None:
    """Score all audited parts; what reporting needs of them is noted in each `ModelRun`."""
    storage, runner = inputs.storage, inputs.runner
    jobs = {model.plan.name: _jobs(storage, model) for model in runner.runnable}
    results = runner.run("scoring", partial(ScoringWorker, storage.url, inputs.plans), jobs)
    for name, own in results.items():
        _note(runner.models[name], jobs[name], own)


def _jobs(storage: Storage, model: ModelRun) -> list[Job[ScoreTask]]:
    assert model.curvature is not None
    name, key = model.plan.name, scoring_key(model.plan, model.curvature)
    return [
        Job(scoring_log(storage, name, key, part.source_key), ScoreTask(name, key, part, model.curvature))
        for part in model.audited
    ]


def _note(model: ModelRun, jobs: Sequence[Job[ScoreTask]], results: Sequence[Receipt | Failure]) -> None:
    """Note the score parts in the order of their tasks, and publish each log; one failed task fails the model."""
    by_log: dict[str, tuple[CommitLog, list[Receipt]]] = {}
    parts: list[ScorePart] = []
    for job, result in zip(jobs, results, strict=True):
        part = job.task.part
        if isinstance(result, Failure):
            model.failure = f"scoring rows {part.start} to {part.stop} of {part.source}: {result.reason}"
            return
        folder = job.log.attempt_folder(result)
        parts.append(ScorePart(part.source, part.source_key, part.start, part.stop, folder, result.content))
        by_log.setdefault(job.log.folder, (job.log, []))[1].append(result)
    model.score_parts = tuple(parts)
    model.manifests["scoring"] = [model.publish(log, receipts) for log, receipts in by_log.values()]
