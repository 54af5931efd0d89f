"""Copies, one per sample, of parameters that a module holds directly: class tokens, position embeddings, layer scales.

During a pass the parameter is replaced by n copies of it, which the module's own arithmetic broadcasts over the samples
like any tensor with samples first; the gradient of a copy is its sample's. That costs only the copies. Whether the
module's arithmetic does broadcast them, and which axes it needs between the samples and the parameter's own, is
determined by the self-check.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from madcore.formulas.matrices import Sides
from madcore.formulas.norms import project_both
from madcore.rows import Way

AXES_BETWEEN: dict[Way, int] = {"copies": 0, "copies before one axis": 1, "copies before two axes": 2}
VECTOR = 1
LARGEST_COPIED = 1 << 20  # numbers; copies of larger matrices take more memory than whole gradients, a few at a time


@dataclass(frozen=True)
class ParameterCopies:
    """One parameter to copy, with the modules that hold it and its name in each."""

    parameter: nn.Parameter
    holders: Sequence[tuple[nn.Module, str]]
    way: Way
    shape: tuple[int, int]
    sides: Sides
    place: slice

    def copies(self, samples: int) -> Tensor:
        """Return a leaf (n, ...) that requires grad.

        After the samples come the parameter's own axes, all of them or all but the first, or one or two axes of length
        one and then its own.
        """
        own = tuple(self.parameter.shape)
        rest = own[1:] if self.way == "copies for the first axis" else (*[1] * AXES_BETWEEN[self.way], *own)
        return self.parameter.detach().reshape(1, *rest).expand(samples, *rest).clone().requires_grad_()

    def add(self, rows: Tensor, copies: Tensor) -> None:
        """Add the copies' gradients to rows (n, k)."""
        if copies.grad is not None and len(copies):
            gradients = copies.grad.reshape(len(copies), *self.shape)
            rows[:, self.place] += self.sides.numbers(project_both(gradients, self.sides))


def ways_to_copy(parameter: nn.Parameter) -> tuple[Way, ...]:
    """Return the layouts that copies of a parameter may have, likeliest first; none for a large matrix."""
    if parameter.ndim > VECTOR and parameter.numel() > LARGEST_COPIED:
        return ()
    if parameter.ndim > VECTOR:
        return ("copies for the first axis",) if parameter.shape[0] == 1 else ("copies",)
    return ("copies before one axis", "copies", "copies before two axes")


@contextmanager
def replaced(copied: Sequence[ParameterCopies], samples: int) -> Iterator[list[Tensor]]:
    """Inside, modules hold the copies instead of their parameters; yields the copies."""
    made = [one.copies(samples) for one in copied]
    try:
        for one, copies in zip(copied, made, strict=True):
            for module, name in one.holders:
                module._parameters[name] = copies  # type: ignore[assignment]  # what torch.func.functional_call does
        yield made
    finally:
        for one in copied:
            for module, name in one.holders:
                module._parameters[name] = one.parameter
