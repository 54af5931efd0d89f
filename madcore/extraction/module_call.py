"""A recorded call of a module, which the fallback repeats for one sample at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class ModuleCall:
    """The arguments of a call: its tensors, copied, and everything else, as leaves of one structure."""

    leaves: tuple[object, ...]
    structure: pytree.TreeSpec

    @classmethod
    def of(cls, args: tuple[object, ...], kwargs: Mapping[str, object], precision: torch.dtype) -> "ModuleCall":
        """Copy the arguments, with numbers in the model's own precision, whatever autocast made of them."""
        leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
        return cls(tuple(_copied(leaf, precision) for leaf in leaves), structure)

    def mapped(self, samples: int) -> tuple[list[int], list[Tensor]]:
        """Return which of the leaves have the samples first, and those leaves."""
        found = {
            place: leaf
            for place, leaf in enumerate(self.leaves)
            if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == samples
        }
        return list(found), list(found.values())

    def with_one(
        self, places: Sequence[int], tensors: Sequence[Tensor]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the arguments with one sample instead of all in some places; the module may overwrite them."""
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor.unsqueeze(0).clone()
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return args, kwargs


def _copied(leaf: object, precision: torch.dtype) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().to(precision, copy=True) if leaf.is_floating_point() else leaf.clone()
