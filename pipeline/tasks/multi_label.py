"""Multi-label classification: a logit for each label, or its probability, and a decision about each."""

from collections.abc import Callable

import torch
from torch import Tensor

from madcore.many_outputs import LabelMargin
from pipeline.config.schema import PROBABILITIES, ModelConfig
from pipeline.tasks.predictions import without_classes
from pipeline.tasks.vector_task import VectorTask


def log_odds(probabilities: Tensor) -> Tensor:
    """Logits of probabilities; NaN of what is none. Where one is 0 or 1 they have no gradient."""
    precision = torch.finfo(probabilities.dtype)
    inside = probabilities.clamp(min=precision.tiny, max=1 - precision.eps / 2)
    known = (probabilities >= 0) & (probabilities <= 1)
    return torch.where(known, inside.log() - (1 - inside).log(), torch.nan)


def _adapt(model: ModelConfig) -> Callable[[Tensor], Tensor] | None:
    return log_odds if model.outputs == PROBABILITIES else None


MULTI_LABEL = VectorTask(
    "logits (samples, labels)", 1, _adapt, lambda model: LabelMargin(model.gradient.measured_numbers), without_classes
)
