"""How a model's rows are scored, as its config asks: calibration samples and audited ones alike."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from madcore import References, Whitening, score
from madcore.sampling.traces import TraceReferences, centred
from madcore.scoring.coupling import SampleScores, ScoreKind
from pipeline.artifacts.curvature import TrustedSamples
from pipeline.artifacts.rows import SCORING_BLOCK
from pipeline.planning.plan import ModelPlan

SCORER_FORMAT = 2  # of the numbers, to the last bit: calibration scores and audited ones must be of the same


@dataclass(frozen=True)
class Scorer:
    """Scores blocks of rows. `prepare` is what is done to rows before they are compared; `concordance` replaces the score where it is asked for."""

    references: References
    prepare: Callable[[Tensor], Tensor]
    kind: ScoreKind
    concordance: TraceReferences | None = None

    @classmethod
    def of(cls, plan: ModelPlan, whitening: Whitening, stored_mk: Tensor, trusted: TrustedSamples) -> "Scorer":
        """From the reference part's rows as they are at rest: whitened (m, k); traces as they are."""
        config, predictions = plan.config.score, trusted.reference_predictions
        prepare, prepared_mk = (
            (whitening, stored_mk)
            if plan.config.traced is None
            else (partial(centred, layout=plan.layout), centred(stored_mk, plan.layout))
        )
        references = References.of(
            plan.layout, config.layers_form, prepared_mk, predictions, plan.classes, debias=config.debiased
        )
        references = replace(references, q=config.nearest)
        if config.resolved != "concordance":
            return cls(references, prepare, config.resolved)
        concordance = TraceReferences.of(
            plan.layout, stored_mk, predictions, plan.classes if config.form == "class" else 0
        )
        return cls(references, prepare, "mean_coupling", concordance)

    def __call__(self, rows_bk: Tensor, predictions_b: Tensor) -> SampleScores:
        """Scores of at most SCORING_BLOCK rows as they are stored.

        Blocks are filled up to one size: matrix products of another size add in another order, and the last bit decides between a
        calibration score and an equal audited one, where ties must count against the sample.
        """
        samples = len(rows_bk)
        rows, predictions = rows_bk, predictions_b
        if samples < SCORING_BLOCK:
            rows = torch.nn.functional.pad(rows_bk, (0, 0, 0, SCORING_BLOCK - samples))
            predictions = torch.nn.functional.pad(predictions_b, (0, SCORING_BLOCK - samples))
        scored = score(self.references, self.kind, self.prepare(rows), predictions)
        if self.concordance is not None:
            scored = replace(scored, score=-self.concordance(rows))
        return scored.first(samples)
