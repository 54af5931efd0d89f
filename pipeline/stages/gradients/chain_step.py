"""The chains of all models as the driver sees them: task after task, those of all chains of all models together (see `pipeline.stages.gradients.chain_worker`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from infra.storage.storage import Storage
from pipeline.config.audit_config import AuditConfig
from pipeline.planning.chains import ChainTask, chain_log, chain_tasks, segments
from pipeline.planning.plan import ModelPlan
from pipeline.stages.gradients.chain_worker import SamplingWorker
from pipeline.stages.progress import ModelRun
from pipeline.stages.runner import Job, StepRunner


@dataclass(frozen=True)
class Chains:
    """Runs the chains of the models that need some."""

    config: AuditConfig
    storage: Storage
    plans: Mapping[str, ModelPlan]
    runner: StepRunner

    def run(self) -> None:
        """All tasks; a model's folders of snapshots, and of all segments, are noted in its `ModelRun`."""
        level = 0
        while jobs := {model.plan.name: own for model in self.runner.alive if (own := self._jobs(model.plan, level))}:
            self.runner.whole(self.runner.run("gradients", partial(SamplingWorker, self.config, self.plans), jobs))
            level += 1
        for model in self.runner.alive:
            if model.plan.config.traced is not None:
                self._note(model)

    def _jobs(self, plan: ModelPlan, level: int) -> list[Job[ChainTask]]:
        """The next task of each chain, none at the end. It is done when its last segment is."""
        settings = plan.config.traced
        tasks = (
            [chain_tasks(plan, settings, chain)[level : level + 1] for chain in range(settings.chains)]
            if settings is not None
            else []
        )
        return [
            Job(chain_log(self.storage, plan, task.chain), task.segments[-1].name, task)
            for own in tasks
            for task in own
        ]

    def _note(self, model: ModelRun) -> None:
        plan, settings = model.plan, model.plan.config.traced
        assert settings is not None
        own, folders = segments(plan, settings), list[list[str]]()
        for log in (chain_log(self.storage, plan, chain) for chain in range(settings.chains)):
            known = log.receipts()
            receipts = [known[segment.name] for segment in own]
            folders.append([log.attempt_folder(receipt) for receipt in receipts])
            model.manifests.setdefault("snapshots", []).append(log.publish(receipts))
            model.sampling_left_out = receipts[-1].measures.unreadable
        model.segments = tuple(tuple(each) for each in folders)
        model.snapshots = tuple(
            folder for each in folders for folder, segment in zip(each, own, strict=True) if segment.keeps(settings)
        )
