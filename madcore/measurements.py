"""Measurements: the scalar function of a sample's output whose gradient becomes its row.

Outputs are logits, (n, C) for a classifier with n samples and C classes; a measurement maps them to n numbers. It can
depend on the batch (for a language model, on its tokens: see `madcore.tokens`), so a batch and its measurement go
together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madcore.errors import FAILURES, ModelError
from madcore.isolation import isolated

PART_MULTIPLE = 8  # matrix products of other sizes may add in another order

Measurement = Callable[[Tensor], Tensor]
Inputs = Tensor | Mapping[str, Tensor]


@runtime_checkable
class SeparableMeasurement(Protocol):
    """A measurement that depends on the batch, and can measure some of its samples separately."""

    def some(self, samples: slice) -> Measurement:
        """Return the measurement of these samples."""


@dataclass(frozen=True)
class Measured:
    """The inputs of a model, one tensor or several by keyword, each with the samples first, and their measurement."""

    inputs: Inputs
    measurement: Measurement

    @property
    def samples(self) -> int:
        """The number of samples, n."""
        return (self.inputs if isinstance(self.inputs, Tensor) else next(iter(self.inputs.values()))).shape[0]

    def to(self, device: torch.device) -> "Measured":
        """Return the batch with its inputs on a device, copied asynchronously if they are pinned.

        A measurement moves its own tensors to the device of the logits.
        """
        wait = device.type != "cuda"
        return self._each(lambda tensor: tensor.to(device, non_blocking=not wait))

    def pinned(self) -> "Measured":
        """Return the batch with its inputs in pinned memory, from which a GPU copies while the CPU continues."""
        return self._each(Tensor.pin_memory)

    def channels_last(self) -> "Measured":
        """Return the batch with images (n, c, h, w) laid out as (n, h, w, c) in memory, where a CPU convolves faster.

        Values and shapes stay the same.
        """
        return self._each(
            lambda tensor: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        )

    @property
    def separable(self) -> bool:
        """Whether some samples can be measured alone; unknown measurements may depend on the whole batch."""
        return self.measurement is margin or isinstance(self.measurement, SeparableMeasurement)

    def parts(self, most: int) -> Sequence[tuple[slice, "Measured"]]:
        """Split the batch into as few parts as possible, with at most `most` samples each, `most` a multiple of 8.

        The parts have nearly equal sizes, multiples of 8 except for the last. An inseparable batch stays whole.
        """
        count = -(-self.samples // most) if self.separable else 1
        units = -(-self.samples // PART_MULTIPLE)
        bounds = [min(self.samples, PART_MULTIPLE * (units * number // count)) for number in range(count + 1)]
        places = [slice(start, stop) for start, stop in pairwise(bounds)]
        return [(place, self.some(place)) for place in places] if count > 1 else [(slice(None), self)]

    def some(self, samples: slice) -> "Measured":
        """Return some of the samples of a separable batch."""
        inputs, measurement = self._each(lambda tensor: tensor[samples]).inputs, self.measurement
        if isinstance(measurement, SeparableMeasurement):
            measurement = measurement.some(samples)
        return Measured(inputs, measurement)

    def shuffled(self, generator: torch.Generator) -> "Measured":
        """Return the batch with the last axis of its inputs in another order, the same for all inputs of one length.

        `generator` is on the CPU.
        """
        orders = dict[int, Tensor]()

        def shuffle(tensor: Tensor) -> Tensor:
            length = tensor.shape[-1]
            if length not in orders:
                orders[length] = torch.randperm(length, generator=generator)
            return tensor[..., orders[length].to(tensor.device)] if tensor.ndim > 1 else tensor

        return self._each(shuffle)

    def double(self) -> "Measured":
        """Return the batch with its inputs that are floating-point numbers in float64."""
        return self._each(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Measured":
        if isinstance(self.inputs, Tensor):
            return Measured(change(self.inputs), self.measurement)
        return Measured({name: change(tensor) for name, tensor in self.inputs.items()}, self.measurement)


@dataclass(frozen=True)
class CrossEntropy:
    """The measurement -log p_y, (n,), of a classifier's logits (n, C) at given classes y (n,).

    Computed in float64, so that the loss of a confident sample, which is far below the rounding of 1, has as many
    digits as its logits.
    """

    classes: Tensor

    def __call__(self, logits_nc: Tensor) -> Tensor:
        """Measure all samples, (n,)."""
        return F.cross_entropy(logits_nc.double(), self.classes.to(logits_nc.device), reduction="none")

    def some(self, samples: slice) -> "CrossEntropy":
        """Return the measurement of some of the samples."""
        return CrossEntropy(self.classes[samples])


def real_parameter(model: nn.Module) -> nn.Parameter:
    """Return a model's first parameter of real numbers, whose device and precision are the model's.

    Raises:
        ModelError: it has none.
    """
    found = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    if found is None:
        raise ModelError("the model has no parameters of real numbers, so that there is nothing to take gradients of")
    return found


def runs_channels_last(model: nn.Module, batch: Measured) -> bool:
    """Return whether the model accepts a batch with its images laid out as (n, h, w, c), where a CPU convolves faster.

    The first sample is run to find out.
    """
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    if real_parameter(model).device.type != "cpu" or not convolves:
        return False
    try:
        with torch.no_grad():
            run(model, batch.some(slice(0, 1)).channels_last().inputs)
    except FAILURES:  # from `view` or a check, in a model that relies on the other order in memory
        return False
    return True


def input_shapes(model: nn.Module, inputs: Inputs) -> dict[nn.Module, list[torch.Size]]:
    """Run a forward pass and return the shapes of the first argument of each call of each module with parameters."""
    found = dict[nn.Module, list[torch.Size]]()

    def see(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        first = [*args, *kwargs.values()][:1]
        found.setdefault(module, []).extend(leaf.shape for leaf in first if isinstance(leaf, Tensor))

    modules = [module for module in model.modules() if list(module.parameters())]
    handles = [module.register_forward_pre_hook(see, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad():
            run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def run(model: nn.Module, inputs: Inputs) -> object:
    """Run the model on a copy of inputs, which it may change, and undo what it keeps (see `madcore.isolation`)."""
    with isolated(model):
        if isinstance(inputs, Tensor):
            return model(inputs.detach().clone())
        return model(**{name: tensor.detach().clone() for name, tensor in inputs.items()})


def logits_of(outputs: object) -> Tensor:
    """Return the logits of a model's outputs: the outputs, or their attribute `logits`, as in Hugging Face's models.

    Raises:
        ModelError: neither is a tensor.
    """
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        needed = "a tensor of logits is needed, or an object with one named logits"
        raise ModelError(f"the model returned an object of type {type(outputs).__name__}; {needed}")
    return logits


def margin(logits_nc: Tensor) -> Tensor:
    """Compute the margin of the model's own prediction y^: log sum over c != y^ of exp f_c, minus f_y^.

    Minus the output function of TRAK (Park et al. 2023, arXiv 2303.14186). Its gradient has the direction of the
    gradient of cross-entropy against y^ without the factor 1 - p, which underflows for confident samples.

    Args:
        logits_nc: logits, shape (n, C), C at least 2.

    Returns:
        The margins in nats, shape (n,); more negative means more confident.

    Raises:
        ModelError: the outputs are not (n, C) with at least two classes.
    """
    if logits_nc.ndim != 2 or logits_nc.shape[1] < 2:
        needed = "the measurement margin needs logits (samples, classes) of at least 2 classes"
        raise ModelError(f"{needed}; the model returned shape {tuple(logits_nc.shape)}")
    predictions = logits_nc.argmax(dim=1, keepdim=True)
    own = logits_nc.gather(1, predictions).squeeze(1)
    others = logits_nc.scatter(1, predictions, float("-inf"))
    return torch.logsumexp(others, dim=1) - own


def predictions_and_confidence(logits_nc: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predicted class (n,), int64, and its softmax probability (n,), float32, for logits (n, C)."""
    predictions = logits_nc.argmax(dim=1)
    return predictions, torch.softmax(logits_nc.float(), dim=1).gather(1, predictions.unsqueeze(1)).squeeze(1)
