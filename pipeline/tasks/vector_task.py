"""What a task is whose model has outputs (n, D) for n samples: all but language modelling, which is of tokens."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from madcore import Measurement
from pipeline.config.schema import ModelConfig
from pipeline.tasks.predictions import Predictions


@dataclass(frozen=True)
class VectorTask:
    """How a task reads a model's outputs.

    `expected`: the outputs that it needs, in words. `fewest`: how many a sample has at least. `adapt`: makes them
    of what the model returns, by what the config says of it; None where they are taken as they are. `measurement`:
    of a model by its config. `predict`: what outputs (n, D) predict.
    """

    expected: str
    fewest: int
    adapt: Callable[[ModelConfig], Callable[[Tensor], Tensor] | None]
    measurement: Callable[[ModelConfig], Measurement]
    predict: Callable[[Tensor], Predictions]

    def accepts(self, outputs: Tensor) -> bool:
        """Whether outputs have the shape that the task needs."""
        return outputs.ndim == 2 and outputs.shape[1] >= self.fewest
