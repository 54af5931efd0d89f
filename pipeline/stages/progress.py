"""The progress of each model in a run: what its stages made, what they cost, and why it stopped if it did."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from infra.commits import CommitLog, Receipt
from infra.errors import Missing
from pipeline.artifacts.parts import CurvatureFolders, RowsPart, ScorePart
from pipeline.planning.plan import Cost, ModelPlan
from pipeline.root.logs import STAGES
from pipeline.root.summary import StageSummary, Summary


@dataclass
class StageCost:
    """The cost of a stage in this run.

    `seconds` of the tasks that were run, those of them in which the model computed, and the bytes that tasks stored;
    how many tasks were run, and how many reused.
    """

    seconds: float = 0.0
    computing_seconds: float = 0.0
    bytes_stored: int = 0
    tasks_run: int = 0
    tasks_reused: int = 0

    @property
    def summary(self) -> StageSummary:
        """For a summary. `computing_share` is None where no model computes."""
        return StageSummary(
            seconds=round(self.seconds, 3),
            computing_share=round(self.computing_seconds / self.seconds, 3) if self.computing_seconds else None,
            tasks_run=self.tasks_run,
            tasks_reused=self.tasks_reused,
        )


@dataclass
class ModelRun:
    """One model in one run.

    `gone`: files that the latest completed run found by a glob, and that are missing now. `expected`: the estimated
    cost, if there is an estimate. `unreached`: the run's deadline passed before all of its tasks were started.
    `trusted`, `audited`: parts of the samples' own rows. `curvature_trusted`, `curvature_audited`: parts of the rows
    that the curvature is made of, where those are others.
    `snapshots`: folders of the weights that traces are taken at, in order; `segments`: all folders of each chain, which
    took their gradients of all but `sampling_left_out` samples of the sampling set.
    `manifests`: what the stages published, by what it holds. `latest`: the summary of the model's latest
    completed run, None where it has none.
    """

    plan: ModelPlan
    gone: tuple[str, ...] = ()
    expected: Cost | None = None
    failure: str = ""
    unreached: bool = False
    failed_tasks: list[str] = field(default_factory=list)
    stages: dict[str, StageCost] = field(default_factory=lambda: {stage: StageCost() for stage in STAGES})
    trusted: tuple[RowsPart, ...] = ()
    audited: tuple[RowsPart, ...] = ()
    curvature_trusted: tuple[RowsPart, ...] = ()
    curvature_audited: tuple[RowsPart, ...] = ()
    snapshots: tuple[str, ...] = ()
    segments: tuple[tuple[str, ...], ...] = ()
    sampling_left_out: int = 0
    curvature: CurvatureFolders | None = None
    score_parts: tuple[ScorePart, ...] = ()
    report: Receipt | None = None
    report_folder: str = ""
    manifests: dict[str, list[str]] = field(default_factory=dict)
    latest: Summary | None = None
    _listed: dict[str, Mapping[str, Receipt]] = field(default_factory=dict)

    @property
    def runnable(self) -> bool:
        """Whether its next stage can begin."""
        return not (self.failure or self.unreached)

    @cached_property
    def published(self) -> dict[str, str]:
        """Paths of the manifests that the latest completed run named, by the folders of their logs."""
        named = self.latest.manifests.values() if self.latest is not None else ()
        return {path.rpartition("/manifests/")[0]: path for paths in named for path in paths}

    def listed(self, log: CommitLog) -> Mapping[str, Receipt]:
        """The receipts, by task, in the manifest that the latest completed run named of a log; none where it is gone.

        One request tells them, for they are never changed; the log itself may hold more.

        Raises:
            Corrupt: the manifest is damaged.
        """
        path = self.published.get(log.folder)
        if path is not None and log.folder not in self._listed:
            with suppress(Missing):
                self._listed[log.folder] = {receipt.task: receipt for receipt in log.manifest(path).receipts}
        return self._listed.get(log.folder, {})

    def publish(self, log: CommitLog, receipts: Sequence[Receipt]) -> str:
        """Publish these receipts in this order; returns the manifest's path. What is published already is left."""
        listed = self._listed.get(log.folder, {})
        return self.published[log.folder] if listed and [*listed.values()] == [*receipts] else log.publish(receipts)

    @property
    def costs(self) -> dict[str, StageSummary]:
        """The stages' costs, for a summary."""
        return {stage: cost.summary for stage, cost in self.stages.items()}
