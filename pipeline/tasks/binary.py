"""Binary classification by one output: its logit z, or its probability, of the class 1.

It is a classification of two classes with the logits 0 and z, whose softmax is the logistic function of z.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from madcore import ModelError, margin
from pipeline.config.schema import PROBABILITIES, ModelConfig
from pipeline.tasks.classification import logarithms, predict_classes
from pipeline.tasks.vector_task import VectorTask


def two_logits(logits: Tensor) -> Tensor:
    """The logits (n, 2) of both classes, from that of class 1, (n,) or (n, 1)."""
    logit_n1 = _one_each(logits)
    return torch.cat([torch.zeros_like(logit_n1), logit_n1], dim=1)


def two_logarithms(probabilities: Tensor) -> Tensor:
    """The logarithms (n, 2) of both classes' probabilities, from that of class 1, (n,) or (n, 1).

    NaN of what is no probability.
    """
    probability_n1 = _one_each(probabilities)
    known = (probability_n1 >= 0) & (probability_n1 <= 1)
    return torch.where(known, logarithms(torch.cat([1 - probability_n1, probability_n1], dim=1)), torch.nan)


def _one_each(outputs: Tensor) -> Tensor:
    if outputs.ndim == 1:
        return outputs.unsqueeze(1)
    if outputs.ndim != 2 or outputs.shape[1] != 1:
        raise ModelError(
            f"the task binary is of models with one output for each sample, and this one returned the shape "
            f"{tuple(outputs.shape)}; with two logits or more, set task: classification, with a decision for each of "
            "several labels, task: multi_label"
        )
    return outputs


def _adapt(model: ModelConfig) -> Callable[[Tensor], Tensor]:
    return two_logarithms if model.outputs == PROBABILITIES else two_logits


BINARY = VectorTask("one logit for each sample", 2, _adapt, lambda _: margin, predict_classes)
