"""Measurements: the scalar of a sample's output whose gradient becomes its row.

Outputs are logits, (n, C) of a classifier, n samples by C classes; a measurement maps them to n numbers. What is
measured can depend on the batch (of a language model, on its tokens: see `madcore.tokens`), so a batch goes together
with its measurement.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madcore.errors import ModelError

PART_MULTIPLE = 8  # matrix products of other sizes may add in another order


Measurement = Callable[[Tensor], Tensor]


Inputs = Tensor | Mapping[str, Tensor]


@runtime_checkable
class SeparableMeasurement(Protocol):
    """A measurement that depends on the batch and knows how to measure some of its samples alone."""

    def some(self, samples: slice) -> Measurement:
        """What it measures of these samples' logits."""


@dataclass(frozen=True)
class Measured:
    """Inputs of a model, one tensor or several by keyword, samples first in each, and what is measured of their logits."""

    inputs: Inputs
    measurement: Measurement

    @property
    def samples(self) -> int:
        """N."""
        return (self.inputs if isinstance(self.inputs, Tensor) else next(iter(self.inputs.values()))).shape[0]

    def to(self, device: torch.device) -> "Measured":
        """With the inputs on a device, copied without waiting where they are pinned; a measurement goes where the logits are by itself."""
        wait = device.type != "cuda"
        return self._each(lambda tensor: tensor.to(device, non_blocking=not wait))

    def pinned(self) -> "Measured":
        """With the inputs in pinned memory, from which a GPU copies while the CPU goes on."""
        return self._each(Tensor.pin_memory)

    def channels_last(self) -> "Measured":
        """With images (n, c, h, w) laid out in memory as (n, h, w, c), in which a CPU convolves faster; their values and shapes stay."""
        return self._each(
            lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        )

    @property
    def separable(self) -> bool:
        """Whether some samples can be measured alone: of a measurement by others, who knows what it holds of the batch?"""
        return self.measurement is margin or isinstance(self.measurement, SeparableMeasurement)

    def parts(self, most: int) -> Sequence[tuple[slice, "Measured"]]:
        """In as few parts as have at most so many samples each, of nearly equal size, a multiple of 8 but for the last.

        `most`: a multiple of 8. A batch that is not separable stays in one part.
        """
        count, units = -(-self.samples // most) if self.separable else 1, -(-self.samples // PART_MULTIPLE)
        bounds = [min(self.samples, PART_MULTIPLE * (units * number // count)) for number in range(count + 1)]
        places = [slice(start, stop) for start, stop in pairwise(bounds)]
        return [(place, self.some(place)) for place in places] if count > 1 else [(slice(None), self)]

    def some(self, samples: slice) -> "Measured":
        """Some of the samples, of a batch that is separable."""
        inputs = self._each(lambda tensor: tensor[samples]).inputs
        return Measured(
            inputs,
            self.measurement.some(samples) if isinstance(self.measurement, SeparableMeasurement) else self.measurement,
        )

    def shuffled(self, generator: torch.Generator) -> "Measured":
        """With the numbers of each sample's last axis in another order, the same for all inputs of one length; `generator` is a CPU's."""
        orders = dict[int, Tensor]()

        def shuffle(tensor: Tensor) -> Tensor:
            length = tensor.shape[-1]
            if length not in orders:
                orders[length] = torch.randperm(length, generator=generator)
            return tensor[..., orders[length].to(tensor.device)] if tensor.ndim > 1 else tensor

        return self._each(shuffle)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Measured":
        if isinstance(self.inputs, Tensor):
            return Measured(change(self.inputs), self.measurement)
        return Measured({name: change(tensor) for name, tensor in self.inputs.items()}, self.measurement)


@dataclass(frozen=True)
class CrossEntropy:
    """The measurement -log p_y, (n,), of a classifier's logits (n, C) at given classes y (n,).

    In float64, so that what a certain sample loses, which is far below the rounding of 1, is known to as many digits as
    its logits are.
    """

    classes: Tensor

    def __call__(self, logits_nc: Tensor) -> Tensor:
        """Of all samples."""
        return F.cross_entropy(logits_nc.double(), self.classes.to(logits_nc.device), reduction="none")

    def some(self, samples: slice) -> "CrossEntropy":
        """Of some samples."""
        return CrossEntropy(self.classes[samples])


def runs_channels_last(model: nn.Module, batch: Measured) -> bool:
    """Whether a batch goes through the model with its images laid out as (n, h, w, c), in which a CPU convolves faster, tried on its first sample."""
    if next(model.parameters()).device.type != "cpu" or not any(
        isinstance(module, nn.Conv2d) for module in model.modules()
    ):
        return False
    try:
        with torch.no_grad():
            run(model, batch.some(slice(0, 1)).channels_last().inputs)
    except RuntimeError:  # as from `view`, in a model that counts on the other order in memory
        return False
    return True


def input_shapes(model: nn.Module, inputs: Inputs) -> dict[nn.Module, list[torch.Size]]:
    """The shapes of the first argument of each call of each module that holds parameters, in a forward pass for nothing else."""
    found = dict[nn.Module, list[torch.Size]]()

    def see(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        found.setdefault(module, []).extend(
            leaf.shape for leaf in [*args, *kwargs.values()][:1] if isinstance(leaf, Tensor)
        )

    handles = [
        module.register_forward_pre_hook(see, with_kwargs=True)
        for module in model.modules()
        if list(module.parameters())
    ]
    try:
        with torch.no_grad():
            run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def run(model: nn.Module, inputs: Inputs) -> object:
    """What the model returns for inputs."""
    if isinstance(inputs, Tensor):
        return model(inputs.detach())
    return model(**{name: tensor.detach() for name, tensor in inputs.items()})


def logits_of(outputs: object) -> Tensor:
    """The logits among what a model returned: itself, or its attribute `logits`, as Hugging Face's models have it.

    Raises:
        ModelError: it is neither.
    """
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"the model returned an object of type {type(outputs).__name__}; a tensor of logits is needed, or an object with one named logits"
        )
    return logits


def margin(logits_nc: Tensor) -> Tensor:
    """Margin of the model's own prediction y^: log sum over c != y^ of exp f_c, minus f_y^.

    Minus the output function of TRAK (Park et al. 2023, arXiv 2303.14186). Its gradient has the direction of the
    gradient of cross-entropy against y^ without the factor 1 - p, which underflows for confident samples.

    Args:
        logits_nc: logits, shape (n, C), C at least 2.

    Returns:
        The margins in nats, shape (n,); more negative means more certain.

    Raises:
        ModelError: the outputs are not (n, C) with at least two classes.
    """
    if logits_nc.ndim != 2 or logits_nc.shape[1] < 2:
        raise ModelError(
            f"the measurement margin needs logits (samples, classes) of at least 2 classes; the model returned shape {tuple(logits_nc.shape)}"
        )
    predictions = logits_nc.argmax(dim=1, keepdim=True)
    own = logits_nc.gather(1, predictions).squeeze(1)
    others = logits_nc.scatter(1, predictions, float("-inf"))
    return torch.logsumexp(others, dim=1) - own


def predictions_and_confidence(logits_nc: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted class (n,), int64, and its softmax probability (n,), float32, of logits (n, C)."""
    predictions = logits_nc.argmax(dim=1)
    return predictions, torch.softmax(logits_nc.float(), dim=1).gather(1, predictions.unsqueeze(1)).squeeze(1)
