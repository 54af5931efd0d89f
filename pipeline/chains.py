"""The chains of all models as the driver sees them: segment after segment, those of all chains of all models together (see `pipeline.sampling`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from infra.commits import CommitLog, Receipt
from infra.storage import Storage
from pipeline.artifacts.logs import rows_log
from pipeline.config import AuditConfig
from pipeline.plan import ModelPlan
from pipeline.progress import ModelRun
from pipeline.sampling import SamplingWorker, SegmentTask, chain_log_key, keeps, segments
from pipeline.steps import Job, StepRunner

Place = tuple[str, int]


@dataclass(frozen=True)
class Chains:
    """Runs the chains of the models that need some. `receipts` are those of each chain so far, in order."""

    config: AuditConfig
    storage: Storage
    plans: Mapping[str, ModelPlan]
    runner: StepRunner
    receipts: dict[Place, list[Receipt]] = field(default_factory=dict)

    def run(self) -> None:
        """All segments; a model's folders of snapshots, and of all segments, are noted in its `ModelRun`."""
        level = 0
        while tasks := {name: own for model in self.runner.alive if (own := self._segments(model, level)) for name in [model.plan.name]}:
            jobs = {name: [Job(self._log(name, task.chain), task.name, task) for task in own] for name, own in tasks.items()}
            done = self.runner.whole(self.runner.run("gradients", partial(SamplingWorker, self.config, self.plans), jobs))
            for name, receipts in done.items():
                for chain, receipt in enumerate(receipts):
                    self.receipts.setdefault((name, chain), []).append(receipt)
            level += 1
        for model in self.runner.alive:
            if model.plan.config.traced is not None:
                self._note(model)

    def _segments(self, model: ModelRun, level: int) -> list[SegmentTask]:
        """The next segment of each chain, none at the end."""
        settings = model.plan.config.traced
        if settings is None or level >= len(found := segments(model.plan, settings)):
            return []
        draws, name = found[level], model.plan.name
        previous = [self._folder(name, chain, self.receipts[name, chain][-1]) if level else "" for chain in range(settings.chains)]
        return [SegmentTask(name, chain, draws.start, draws.stop, folder) for chain, folder in enumerate(previous)]

    def _note(self, model: ModelRun) -> None:
        settings, name = model.plan.config.traced, model.plan.name
        assert settings is not None
        ranges = segments(model.plan, settings)
        folders = [[self._folder(name, chain, receipt) for receipt in self.receipts[name, chain]] for chain in range(settings.chains)]
        model.sampling_left_out = max(receipt.measures.unreadable for receipt in self.receipts[name, 0])
        model.segments = tuple(tuple(own) for own in folders)
        model.snapshots = tuple(folder for own in folders for folder, draws in zip(own, ranges, strict=True) if keeps(settings, draws))
        model.manifests["snapshots"] = [self._log(name, chain).publish(self.receipts[name, chain]) for chain in range(settings.chains)]

    def _log(self, name: str, chain: int) -> CommitLog:
        return rows_log(self.storage, name, self.plans[name].snapshots_key, chain_log_key(chain))

    def _folder(self, name: str, chain: int, receipt: Receipt) -> str:
        return self._log(name, chain).attempt_folder(receipt)
