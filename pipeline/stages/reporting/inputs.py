"""What the facts of a report follow from."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.artifacts.trusted import TrustedSamples
from pipeline.planning.plan import ModelPlan
from pipeline.stages.reporting.counts import IdCounts, ScoreCounts
from pipeline.stages.reporting.decisions import FlaggedSamples
from pipeline.stages.reporting.evaluation import LabelledScores
from pipeline.stages.reporting.verdict import FINITE, LABELLED, Criterion


@dataclass(frozen=True)
class ReportInputs:
    """What a report follows from: the plan, the trusted samples, and counts and decisions of the audited ones."""

    plan: ModelPlan
    trusted: TrustedSamples
    counts: ScoreCounts
    flagged: FlaggedSamples
    ids: IdCounts

    @cached_property
    def labelled(self) -> LabelledScores | None:
        """The samples whose truth is known."""
        return self.counts.labelled(self.flagged.decisions.flag_rank)

    @cached_property
    def references(self) -> list[int]:
        """Reference samples by predicted class; empty where the model's outputs have no classes."""
        classes = self.plan.classes
        counts: list[int] = self.trusted.reference_predictions.bincount(minlength=classes).tolist() if classes else []
        return counts

    @property
    def criterion(self) -> Criterion:
        """What a trusted sample must be to explain anything."""
        config = self.plan.config
        return LABELLED if config.has_classes and not config.untrained else FINITE

    @property
    def infinite(self) -> int:
        """Calibration samples whose gradient is not finite, or that have none."""
        return int(np.isinf(self.counts.calibration).sum())
