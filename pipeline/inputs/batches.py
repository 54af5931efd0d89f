"""Batches of samples, in groups that go through the model together.

A score must not depend on the other samples in its batch. Kernels sum in another order for other shapes, so shapes are
kept to multiples: for images and tensors, the number in a group; for texts, the padded length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from madcore import Inputs, Measured, TokenBatch
from pipeline.tasks.predictions import Predictions

TRACED_AT_ONCE = 64


BATCH_MULTIPLE = 8


@dataclass(frozen=True)
class Group:
    """Samples that go through the model together: their places (r,) in the batch, the inputs, and how logits are read.

    The first r samples of the inputs and of the logits are these; any others are padding. For texts, the inputs are
    made from `tokens`. `mask`: of other sequences, which positions are tokens (n, s).
    """

    places: Tensor
    measured: Measured
    predict: Callable[[Tensor], Predictions]
    tokens: TokenBatch | None = None
    mask: Tensor | None = None

    @property
    def present(self) -> Tensor | None:
        """Which positions of sequences are tokens, and not padding, (n, s); None for samples of one size."""
        return self.mask if self.tokens is None else self.tokens.present


@dataclass(frozen=True)
class SampleBatch:
    """Consecutive rows of a source: their ids, why each is unreadable, and those that are not in groups.

    A null id is "", and so is the reason of a readable row.
    """

    ids: tuple[str, ...]
    unreadable: tuple[str, ...]
    groups: tuple[Group, ...]

    def pinned(self) -> "SampleBatch":
        """With the model's inputs in pinned memory, from which a GPU copies while the CPU continues."""
        pinned = (
            replace(group, places=group.places.pin_memory(), measured=group.measured.pinned()) for group in self.groups
        )
        return SampleBatch(self.ids, self.unreadable, tuple(pinned))


def align(inputs: Tensor) -> Tensor:
    """Inputs (n, ...), n at least 1, with the first one repeated until n is a multiple of BATCH_MULTIPLE.

    Kernels sum in another order for batches of one or of odd sizes. A last-bit difference can open or close a
    rectifier, which moved one row in 200 by up to 0.4 % of its norm between batches of 1 and 256 (zoo networks, CPU);
    aligned, they were equal.
    """
    missing = -len(inputs) % BATCH_MULTIPLE
    return torch.cat([inputs, inputs[:1].expand(missing, *inputs.shape[1:])]) if missing else inputs


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Inputs of samples of one shape, as one batch."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat([one for one in batches if isinstance(one, Tensor)])
    return {name: torch.cat([one[name] for one in batches if not isinstance(one, Tensor)]) for name in first}


def chosen(inputs: Inputs, places: Tensor) -> Inputs:
    """Inputs of some samples, by their places (r,) or by a mask (n,)."""
    if isinstance(inputs, Tensor):
        return inputs[places]
    return {name: tensor[places] for name, tensor in inputs.items()}


def readable(unreadable: Sequence[str]) -> Tensor:
    """Places (r,) of the rows that have no reason to be unreadable."""
    return torch.tensor([index for index, reason in enumerate(unreadable) if not reason], dtype=torch.int64)
