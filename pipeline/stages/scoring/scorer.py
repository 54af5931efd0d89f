"""How a model's rows are scored by its config: calibration samples and audited ones alike."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from madcore import References, Whitening, score
from madcore.sampling.traces import TraceReferences, centred
from madcore.scoring.coupling import SampleScores, ScoreKind
from pipeline.artifacts.rows import SCORING_BLOCK
from pipeline.artifacts.trusted import TrustedSamples
from pipeline.planning.plan import ModelPlan

SCORER_FORMAT = 3  # of the numbers, to the last bit: calibration scores and audited ones must be of the same


@dataclass(frozen=True)
class Scorer:
    """Scores blocks of rows.

    `prepare`: applied to rows before they are compared. `concordance`: replaces the score, where that is its kind.
    """

    references: References
    prepare: Callable[[Tensor], Tensor]
    kind: ScoreKind
    concordance: TraceReferences | None = None

    @classmethod
    def of(cls, plan: ModelPlan, whitening: Whitening, stored_mk: Tensor, trusted: TrustedSamples) -> "Scorer":
        """Made of the reference part's stored rows (m, k), which are whitened, or traces as they are."""
        config, predictions, layout = plan.config.score, trusted.reference_predictions, plan.layout
        prepare: Callable[[Tensor], Tensor] = (
            whitening if plan.config.traced is None else partial(centred, layout=layout)
        )
        prepared_mk = stored_mk if plan.config.traced is None else prepare(stored_mk)
        references = References.of(
            layout, config.layers_form, prepared_mk, predictions, plan.classes, debias=config.debiased
        )
        references = replace(references, q=config.nearest)
        if config.resolved != "concordance":
            return cls(references, prepare, config.resolved)
        classes = plan.classes if config.form == "class" else 0
        concordance = TraceReferences.of(layout, stored_mk, predictions, classes)
        return cls(references, prepare, "mean_coupling", concordance)

    def __call__(self, rows_bk: Tensor, predictions_b: Tensor) -> SampleScores:
        """Scores of at most SCORING_BLOCK rows as they are stored.

        Blocks are padded to one size: matrix products of another size add in another order, and the last bit decides
        between a calibration score and an equal audited one, where ties must count against the sample.
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
