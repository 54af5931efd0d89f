"""Regression: one number or several for each sample, which are measured as they are."""

from collections.abc import Callable

from torch import Tensor

from madcore.many_outputs import OutputSum
from pipeline.config.schema import ModelConfig
from pipeline.tasks.predictions import without_classes
from pipeline.tasks.vector_task import VectorTask


def in_columns(outputs: Tensor) -> Tensor:
    """Outputs (n, D) of those that a model returns: (n,) is one each, and further axes are counted as one."""
    return outputs.unsqueeze(1) if outputs.ndim == 1 else outputs.flatten(1)


def _adapt(_: ModelConfig) -> Callable[[Tensor], Tensor]:
    return in_columns


REGRESSION = VectorTask(
    "numbers (samples, outputs)",
    1,
    _adapt,
    lambda model: OutputSum(model.gradient.projection.seed, model.gradient.measured_numbers),
    without_classes,
)
