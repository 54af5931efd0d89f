"""The driver's part of the chains of weights: task after task, those of all chains of all models together.

What a task does is in `pipeline.stages.gradients.chain_worker`.
"""

from functools import partial

from infra.storage.storage import Storage
from pipeline.planning.chains import ChainTask, chain_log, chain_tasks, segments
from pipeline.planning.plan import ModelPlan
from pipeline.stages.gradients.chain_worker import SamplingWorker
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import Job, StageInputs


def run_chains(inputs: StageInputs) -> None:
    """Run the chains of the models that need some; their folders are noted in each `ModelRun`."""
    storage, runner, level = inputs.storage, inputs.runner, 0
    worker = partial(SamplingWorker, inputs.config, inputs.plans)
    while jobs := {model.plan.name: own for model in runner.runnable if (own := _jobs(storage, model.plan, level))}:
        runner.receipts_of_complete(runner.run("gradients", worker, jobs))
        level += 1
    for model in runner.runnable:
        if model.plan.config.traced is not None:
            _note(storage, model)


def _jobs(storage: Storage, plan: ModelPlan, level: int) -> list[Job[ChainTask]]:
    """The task number `level` of each chain, none beyond the last."""
    settings = plan.config.traced
    if settings is None:
        return []
    tasks = [chain_tasks(plan, settings, chain)[level : level + 1] for chain in range(settings.chains)]
    return [Job(chain_log(storage, plan, task.chain), task) for own in tasks for task in own]


def _note(storage: Storage, model: ModelRun) -> None:
    """Publish the chains, and note the folders of all segments and of those that hold snapshots."""
    plan, settings = model.plan, model.plan.config.traced
    assert settings is not None
    own, folders = segments(plan, settings), list[list[str]]()
    for log in (chain_log(storage, plan, chain) for chain in range(settings.chains)):
        known = log.receipts()
        receipts = [known[segment.name] for segment in own]
        folders.append([log.attempt_folder(receipt) for receipt in receipts])
        model.manifests.setdefault("snapshots", []).append(model.publish(log, receipts))
        model.sampling_left_out = receipts[-1].measures.unreadable
    model.segments = tuple(tuple(each) for each in folders)
    model.snapshots = tuple(
        folder for each in folders for folder, segment in zip(each, own, strict=True) if segment.keeps(settings)
    )
