"""Classification: the outputs are logits of classes, or probabilities, whose logarithms are logits up to a constant.

The margin of logarithms of probabilities is `log sum over c != y of p_c, minus log p_y = log(1 - p_y) - log p_y`, and
their softmax is the probabilities themselves, so that everything after the model is the same for both. The margin of
the probabilities as they are would be worthless: softmax at the end of a certain model has no gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from madcore import margin
from madcore.measurements import predictions_and_confidence
from madcore.scoring.flat import margin_sizes
from pipeline.config.schema import PROBABILITIES, ModelConfig
from pipeline.tasks.predictions import Predictions
from pipeline.tasks.vector_task import VectorTask


def predict_classes(logits_nc: Tensor) -> Predictions:
    """The predicted class and its probability."""
    finite = torch.isfinite(logits_nc).all(dim=1)
    logits_nc = torch.where(finite.unsqueeze(1), logits_nc, 0.0)
    predictions, confidence = predictions_and_confidence(logits_nc)
    return Predictions(predictions, confidence, finite, margin_sizes(logits_nc))


def logarithms(probabilities: Tensor) -> Tensor:
    """Logarithms of probabilities; below the smallest normal number one counts as that, and has no gradient."""
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def _adapt(model: ModelConfig) -> Callable[[Tensor], Tensor] | None:
    return logarithms if model.outputs == PROBABILITIES else None


CLASSIFICATION = VectorTask("logits (samples, classes)", 2, _adapt, lambda _: margin, predict_classes)
