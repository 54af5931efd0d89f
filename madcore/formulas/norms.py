"""Per-sample gradients of vectors: biases, and the scales of norms.

Both are sums over positions: of the output gradient, or of its product with the normalised input. A parameter's axes
are either the channel axis of the module's output, axis 1, or its last ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from madcore.formulas.matrices import Sides

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
InstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


def project_both(grads_nor: Tensor, sides: Sides) -> Tensor:
    """Project whole gradients: (n, dim0, rest) -> (n, o, i)."""
    left = grads_nor if sides.p0 is None else sides.p0 @ grads_nor
    return left if sides.p1 is None else left @ sides.p1.T


@dataclass(frozen=True)
class Axes:
    """Where a parameter's axes are in its module's output: `size` numbers on axis 1, or on the last axes if `last`."""

    size: tuple[int, ...]
    last: bool

    @property
    def sides(self) -> tuple[int, int]:
        """(dim0, rest) of the parameter."""
        rest = 1
        for length in self.size[1:]:
            rest *= length
        return self.size[0], rest

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over all other positions: the module's output -> (n, dim0, rest)."""
        if not self.last:
            tensor = tensor.movedim(1, -1)
        positions = tuple(range(1, tensor.ndim - len(self.size)))
        summed = tensor.sum(dim=positions) if positions else tensor
        return summed.reshape(tensor.shape[0], *self.sides)


@dataclass(frozen=True)
class Bias:
    """A vector added to a module's output: the output gradient summed over all other positions."""

    axes: Axes

    @property
    def shape(self) -> tuple[int, int]:
        """(dim0, rest)."""
        return self.axes.sides

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Nothing is needed: an empty tensor."""
        return inputs.new_empty(0)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        return project_both(self.axes.total(grads), sides)


@dataclass(frozen=True)
class Scale:
    """A vector that multiplies a module's normalised input: sum over positions of the output gradient times that input.

    The statistics are frozen or the sample's own. A scale of `1 + weight` (as in Gemma) has the same gradient.
    """

    normalise: Callable[[Tensor], Tensor]
    axes: Axes

    @property
    def shape(self) -> tuple[int, int]:
        """(dim0, rest)."""
        return self.axes.sides

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Normalised inputs, shaped like the module's inputs."""
        return self.normalise(inputs)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        return project_both(self.axes.total(saved * grads), sides)


def norm_formula(module: nn.Module, parameter: str) -> Bias | Scale | None:
    """Return the formula of a norm's `weight` or `bias`; None for any other parameter, or a norm that is not known."""
    found = _normaliser(module)
    if found is None or parameter not in {"weight", "bias"}:
        return None
    normalise, last = found
    axes = Axes(tuple(module.get_parameter(parameter).shape), last)
    return Scale(normalise, axes) if parameter == "weight" else Bias(axes)


def _normaliser(module: nn.Module) -> tuple[Callable[[Tensor], Tensor], bool] | None:
    """Return what a norm does to its input before the scale, and whether the scale is on the last axes."""
    if isinstance(module, BatchNorm):
        return partial(_batch_norm, module), False
    if isinstance(module, InstanceNorm):
        return partial(_instance_norm, module), False
    if isinstance(module, nn.GroupNorm):
        return partial(F.group_norm, num_groups=module.num_groups, eps=module.eps), False
    within = _of_a_vector(module)
    return None if within is None else (within, True)


def _of_a_vector(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return what a LayerNorm or RMSNorm does before the scale.

    Besides torch's, they are recognised by the name of their class: each of Hugging Face's models has its own.
    """
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    names = [base.__name__ for base in type(module).__mro__]
    if weight is None or not any(name.endswith(("RMSNorm", "LayerNorm")) for name in names):
        return None
    root_mean_square = any(name.endswith("RMSNorm") for name in names) or hasattr(module, "variance_epsilon")
    eps = _epsilon(module)
    if root_mean_square:
        return partial(F.rms_norm, normalized_shape=tuple(weight.shape), eps=eps)
    return partial(F.layer_norm, normalized_shape=tuple(weight.shape), eps=1e-5 if eps is None else eps)


def _epsilon(module: nn.Module) -> float | None:
    """Return a norm's epsilon, whose name depends on the model (`variance_epsilon` in T5 and Llama, `eps` in Gemma)."""
    for name in ("variance_epsilon", "eps", "epsilon", "norm_eps"):
        value = getattr(module, name, None)
        if isinstance(value, int | float):
            return float(value)
    return None


def _batch_norm(module: BatchNorm, inputs: Tensor) -> Tensor:
    own = module.running_mean is None
    return F.batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps, training=own)


def _instance_norm(module: InstanceNorm, inputs: Tensor) -> Tensor:
    own = module.running_mean is None
    return F.instance_norm(inputs, module.running_mean, module.running_var, use_input_stats=own, eps=module.eps)
