"""What a model predicts for its samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.statuses import NO_CLASS


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for r samples.

    The predicted class (r,), NO_CLASS where there are no classes, its confidence (r,), NaN where there is none, and
    whether the outputs are finite (r,). `size`: of what is measured (r,): the absolute margin, or the sum of the
    absolute outputs, of a text those of its completion's tokens. `flat`: which samples have no gradient (r,) (see
    `madcore.scoring.flat`), once known.
    """

    predictions: Tensor
    confidence: Tensor
    finite: Tensor
    size: Tensor
    flat: Tensor | None = None


def no_predictions(samples: int, device: torch.device) -> Predictions:
    """For samples whose predictions are not needed: no class, and all outputs finite."""
    classes = torch.full((samples,), NO_CLASS, dtype=torch.int64, device=device)
    finite = torch.ones(samples, dtype=torch.bool, device=device)
    nothing = torch.zeros(samples, device=device)
    return Predictions(classes, nothing, finite, nothing)


def without_classes(outputs_nd: Tensor) -> Predictions:
    """For outputs (n, D) that are no logits of classes: no class, and no confidence."""
    finite = torch.isfinite(outputs_nd).all(dim=1)
    classes = torch.full((len(outputs_nd),), NO_CLASS, dtype=torch.int64, device=outputs_nd.device)
    confidence = torch.full((len(outputs_nd),), torch.nan, device=outputs_nd.device)
    return Predictions(classes, confidence, finite, torch.where(finite, outputs_nd.abs().sum(dim=1), 0.0))
