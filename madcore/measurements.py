"""Measurements: the scalar of a sample's output whose gradient becomes its row.

Outputs are logits (n, C), n samples by C classes; a measurement maps them to n numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from madcore.errors import ModelError

Measurement = Callable[[Tensor], Tensor]


def margin(logits_nc: Tensor) -> Tensor:
    """Margin of the model's own prediction y^: log sum over c != y^ of exp f_c, minus f_y^.

    Minus the output function of TRAK (Park et al. 2023, arXiv 2303.14186). Its gradient has the direction of the gradient of
    cross-entropy against y^ without the factor 1 - p, which underflows for confident samples.

    Args:
        logits_nc: logits, shape (n, C), C at least 2.

    Returns:
        The margins in nats, shape (n,); more negative means more certain.

    Raises:
        ModelError: the outputs are not (n, C) with at least two classes.
    """
    if logits_nc.ndim != 2 or logits_nc.shape[1] < 2:
        raise ModelError(f"the measurement margin needs logits (samples, classes) of at least 2 classes; the model returned shape {tuple(logits_nc.shape)}")
    predictions = logits_nc.argmax(dim=1, keepdim=True)
    own = logits_nc.gather(1, predictions).squeeze(1)
    others = logits_nc.scatter(1, predictions, float("-inf"))
    return torch.logsumexp(others, dim=1) - own


def predictions_and_confidence(logits_nc: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted class (n,), int64, and its softmax probability (n,), float32, of logits (n, C)."""
    predictions = logits_nc.argmax(dim=1)
    return predictions, torch.softmax(logits_nc.float(), dim=1).gather(1, predictions.unsqueeze(1)).squeeze(1)
