"""How much of a model its rows are made of: the shares of parameters and of gradients that covered layers hold.

Both are of all parameters of the modules that were chosen, of real or complex numbers, biases and norms included. A
tied parameter counts once. The gradient's share is of its squared norm, on samples that layers are checked on: each
sample's gradient is first scaled to length 1, as scores compare rows by their directions, so that no sample outweighs
the others.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore.coverage.autograd import whole_gradients
from madcore.extraction.selection import parameters_of
from madcore.isolation import has_gradient
from madcore.measurements import Measured

SAMPLES = 3


@dataclass(frozen=True)
class ParameterShare:
    """What one parameter is of a model.

    `numbers`: how many it has. `gradient`: its part of the squared norm of a sample's gradient over all chosen
    parameters, the mean over samples; 0 where no sample has a gradient.
    """

    numbers: int
    gradient: float


@dataclass(frozen=True)
class Shares:
    """The shares that covered layers hold, each in [0, 1]; None of the gradient where no sample has one."""

    of_parameters: float
    of_gradient: float | None

    @classmethod
    def of(cls, parameters: Mapping[str, ParameterShare], covered: Collection[str]) -> "Shares":
        """The shares of the covered ones, by name, among some parameters, at least one."""
        numbers = sum(one.numbers for one in parameters.values())
        gradient = math.fsum(one.gradient for one in parameters.values())
        held = [parameters[name] for name in covered]
        return cls(
            sum(one.numbers for one in held) / numbers,
            min(1.0, math.fsum(one.gradient for one in held) / gradient) if gradient else None,
        )


def measure_shares(model: nn.Module, patterns: Sequence[str], samples: Iterable[Measured]) -> dict[str, ParameterShare]:
    """Measure what each parameter is of all that the chosen modules hold.

    Args:
        model: in eval mode.
        patterns: shell patterns over module names, as for `select_layers`.
        samples: candidates, each a batch of its own; the first three whose gradient is finite and not zero count.

    Returns:
        By name, of those with real or complex numbers, of which a complex one counts as two.
    """
    named = {name: model.get_parameter(name) for name in parameters_of(model, patterns)}
    parameters = {name: parameter for name, parameter in named.items() if has_gradient(parameter)}
    parts, counted = dict.fromkeys(parameters, 0.0), 0
    for sample in samples:
        squares = _squared_norms(model, parameters, sample)
        total = math.fsum(squares.values())
        if not 0 < total < math.inf:
            continue
        parts = {name: parts[name] + square / total for name, square in squares.items()}
        counted += 1
        if counted == SAMPLES:
            break
    return {
        name: ParameterShare(_real(parameter).numel(), parts[name] / max(1, counted))
        for name, parameter in parameters.items()
    }


def _squared_norms(model: nn.Module, parameters: Mapping[str, nn.Parameter], sample: Measured) -> dict[str, float]:
    """Return the squared norm of a sample's gradient by parameter; 0 of one that takes no part."""
    with whole_gradients(model, sample):
        return {name: _squared_norm(parameter.grad) for name, parameter in parameters.items()}


def _squared_norm(grad: Tensor | None) -> float:
    """Return the sum of squares, in float64, of a gradient of any shape."""
    return 0.0 if grad is None else float(torch.linalg.vector_norm(_real(grad), dtype=torch.float64).square())


def _real(tensor: Tensor) -> Tensor:
    """Return real numbers as they are, complex ones as two each."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
