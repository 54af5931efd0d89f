"""How each kind of layer turns its input and its output gradient into projected per-sample gradients.

Two layouts. A *module* speaks its own: Linear (n, ..., d), Conv (n, c, spatial...), BatchNorm (n, c, spatial...). *Rows* are
(n, o, i): sample, projected first dimension, projected rest. A formula saves the projected input (never the whole one) in the
forward pass, and joins it with the output gradient in the backward pass; the gradient itself is never formed
(LoGra, Choe et al. 2024, arXiv 2405.13954). Which of the two sides the input is on is the formula's own business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
CONVOLVE: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


@dataclass(frozen=True)
class Sides:
    """The projections of the two sides of a gradient: `p0` (o, dim0) and `p1` (i, rest); None keeps that side whole."""

    p0: Tensor | None
    p1: Tensor | None


class Formula(Protocol):
    """The gradient of one parameter of one module, a sample at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(dim0, rest) of the parameter."""

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """What the backward pass needs of the module's input; must not alias `inputs`, which may change in place."""

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """The projected per-sample gradient (n, o, i) from `saved` and the gradient of the module's output."""


def _positions_nsd(tensor: Tensor) -> Tensor:
    """(n, ..., d) -> (n, s, d), n from 0 on."""
    return tensor.flatten(1, -2) if tensor.ndim > 2 else tensor.unsqueeze(1)


def _projected(tensor: Tensor, projection: Tensor | None) -> Tensor:
    """(n, ..., d) -> (n, s, r)."""
    tensor_nsd = _positions_nsd(tensor)
    return tensor_nsd if projection is None else tensor_nsd @ projection.T


def _projected_copy(tensor: Tensor, projection: Tensor | None) -> Tensor:
    """As `_projected`, but never an alias."""
    return _positions_nsd(tensor).clone() if projection is None else _projected(tensor, projection)


def _sum_positions(tensor_nc: Tensor) -> Tensor:
    """(n, c, ...) -> (n, c)."""
    return tensor_nc.flatten(2).sum(dim=2) if tensor_nc.ndim > 2 else tensor_nc


def _outer(grads_nos: Tensor, inputs_nis: Tensor) -> Tensor:
    """Sum over positions s of the outer products: (n, o, s), (n, i, s) -> (n, o, i)."""
    return torch.bmm(grads_nos, inputs_nis.transpose(1, 2))


def _projected_outer(grads_ncs: Tensor, inputs_nis: Tensor, p0: Tensor | None) -> Tensor:
    """As `_outer`, with the first side projected: the longer of channels and positions is summed over first. (n, o, i)."""
    if p0 is None:
        return _outer(grads_ncs, inputs_nis)
    if grads_ncs.shape[1] <= grads_ncs.shape[2]:
        return p0 @ _outer(grads_ncs, inputs_nis)
    return _outer(p0 @ grads_ncs, inputs_nis)


@dataclass(frozen=True)
class LinearWeight:
    """Weight (d_out, d_in) of a Linear on inputs (n, ..., d_in): sum over positions of d (x) a."""

    module: nn.Linear

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.module.out_features, self.module.in_features

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Projected inputs (n, s, i)."""
        return _projected_copy(inputs, sides.p1)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        return _outer(_projected(grads, sides.p0).transpose(1, 2), saved.transpose(1, 2))


@dataclass(frozen=True)
class TransposedLinearWeight:
    """Weight (d_in, d_out) of a linear map of inputs (n, ..., d_in), as GPT-2's `Conv1D` holds it: sum over positions of a (x) d."""

    module: nn.Module

    @property
    def shape(self) -> tuple[int, int]:
        """(d_in, d_out)."""
        d_in, d_out = self.module.get_parameter("weight").shape
        return d_in, d_out

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Projected inputs (n, s, o): here they are the first side."""
        return _projected_copy(inputs, sides.p0)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        return _outer(saved.transpose(1, 2), _projected(grads, sides.p1).transpose(1, 2))


@dataclass(frozen=True)
class ConvWeight:
    """Kernel (c_out, c_in / groups, ...) of a convolution.

    Projecting the unfolded input equals a convolution with i filters, so patches are never materialised. With groups, each
    group's patches and output gradients are positions of their own, and the sum runs over groups too.
    """

    module: Convolution

    @property
    def shape(self) -> tuple[int, int]:
        """(c_out, c_in / groups * kernel volume)."""
        return self.module.weight.shape[0], self.module.weight[0].numel()

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Projected patches (n, i, groups * positions)."""
        module = self.module
        filters = torch.eye(self.shape[1], dtype=inputs.dtype, device=inputs.device) if sides.p1 is None else sides.p1
        kernel, padding = filters.reshape(-1, *module.weight.shape[1:]), module.padding
        if module.groups > 1:
            kernel = kernel.repeat(module.groups, *[1] * (module.weight.ndim - 1))
        if module.padding_mode != "zeros":
            inputs = F.pad(inputs, module._reversed_padding_repeated_twice, mode=module.padding_mode)
            padding = (0,) * len(module.kernel_size)
        patches = CONVOLVE[kernel.ndim](inputs, kernel, None, module.stride, padding, module.dilation, module.groups)
        if module.groups == 1:
            return patches.flatten(2)
        patches_ngis: Tensor = patches.flatten(2).unflatten(1, (module.groups, filters.shape[0]))
        return patches_ngis.transpose(1, 2).flatten(2)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        grads_ncs, groups = grads.flatten(2), self.module.groups
        if groups == 1:
            return _projected_outer(grads_ncs, saved, sides.p0)
        p0 = torch.eye(self.shape[0], dtype=grads.dtype, device=grads.device) if sides.p0 is None else sides.p0
        by_group = torch.einsum("ogc,ngcs->nogs", p0.unflatten(1, (groups, -1)), grads_ncs.unflatten(1, (groups, -1)))
        return _outer(by_group.flatten(2), saved)


@dataclass(frozen=True)
class Bias:
    """An additive vector along `axis` of the module's output: the output gradient summed over all other positions."""

    size: int
    axis: int

    @property
    def shape(self) -> tuple[int, int]:
        """(size, 1)."""
        return self.size, 1

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Nothing: an empty tensor."""
        return inputs.new_empty(0)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, 1)."""
        sums_nc = _sum_positions(grads.movedim(self.axis, 1))
        return (sums_nc if sides.p0 is None else sums_nc @ sides.p0.T).unsqueeze(2)


@dataclass(frozen=True)
class BatchNormWeight:
    """The scale of a BatchNorm whose statistics are frozen: sum over positions of d times the normalised input."""

    module: BatchNorm

    @property
    def shape(self) -> tuple[int, int]:
        """(channels, 1)."""
        return self.module.num_features, 1

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Normalised inputs, shaped like the module's."""
        module = self.module
        return F.batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps, training=module.running_mean is None)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, 1)."""
        sums_nc = _sum_positions(saved * grads)
        return (sums_nc if sides.p0 is None else sums_nc @ sides.p0.T).unsqueeze(2)


def matrix_formula(module: nn.Module) -> Formula | None:
    """The formula of the module's weight matrix or kernel; None where the module has none that is known here.

    A subclass is taken for its base: whether its forward pass still is the base's, the self-check of `madcore.coverage` decides.
    """
    if isinstance(module, nn.Linear):
        return LinearWeight(module)
    if _is_transposed_linear(module):
        return TransposedLinearWeight(module)
    return ConvWeight(module) if isinstance(module, Convolution) else None


def _is_transposed_linear(module: nn.Module) -> bool:
    """Hugging Face's `Conv1D`, known by its name and its weight, because its library is none that this package imports."""
    own = dict(module.named_parameters(recurse=False))
    return "weight" in own and own["weight"].ndim == 2 and any(base.__name__ == "Conv1D" for base in type(module).__mro__)


def vector_formula(module: nn.Module, parameter: str) -> Formula | None:
    """The formula of a bias or of a norm's scale; None where it is not known here."""
    if isinstance(module, BatchNorm):
        return BatchNormWeight(module) if parameter == "weight" else Bias(module.num_features, axis=1)
    if parameter != "bias":
        return None
    if isinstance(module, nn.Linear):
        return Bias(module.out_features, axis=-1)
    if _is_transposed_linear(module):
        return Bias(module.get_parameter("weight").shape[1], axis=-1)
    return Bias(module.out_channels, axis=1) if isinstance(module, Convolution) else None


def formula_of(module: nn.Module, parameter: str) -> Formula | None:
    """The formula of one direct parameter of a module; None where no formula is known for it."""
    matrix = matrix_formula(module) if parameter == "weight" else None
    return matrix or vector_formula(module, parameter)
