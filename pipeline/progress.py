"""How far each model is in a run: what its stages made, what they cost, and why it stopped if it did."""

from dataclasses import dataclass, field

from pydantic import JsonValue

from infra.commits import Receipt
from pipeline.artifacts.logs import STAGES
from pipeline.artifacts.rows import RowsPart
from pipeline.plan import ModelPlan
from pipeline.reporting import ScorePart
from pipeline.scoring import CurvatureFolders


@dataclass
class StageCost:
    """Seconds of the tasks that this run executed, how many they were, and how many were done already."""

    seconds: float = 0.0
    tasks_run: int = 0
    tasks_reused: int = 0


@dataclass
class ModelRun:
    """One model in one run. `manifests` are what the stages published, by what they hold."""

    plan: ModelPlan
    failure: str = ""
    failed_tasks: list[str] = field(default_factory=list)
    stages: dict[str, StageCost] = field(default_factory=lambda: {stage: StageCost() for stage in STAGES})
    trusted: tuple[RowsPart, ...] = ()
    audited: tuple[RowsPart, ...] = ()
    curvature: CurvatureFolders | None = None
    score_parts: tuple[ScorePart, ...] = ()
    report: Receipt | None = None
    report_folder: str = ""
    manifests: dict[str, list[str]] = field(default_factory=dict)

    @property
    def costs(self) -> dict[str, JsonValue]:
        """The stages' costs, for a summary."""
        return {
            stage: {"seconds": round(cost.seconds, 3), "tasks_run": cost.tasks_run, "tasks_reused": cost.tasks_reused} for stage, cost in self.stages.items()
        }
