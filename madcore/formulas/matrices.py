"""How linear layers, convolutions and embeddings turn inputs and output gradients into projected per-sample gradients.

Two layouts. A *module* speaks its own: Linear (n, ..., d), Conv (n, c, spatial...), Embedding (n, ...). *Rows* are (n,
o, i): sample, projected first dimension, projected rest. A formula saves the projected input (never the whole one) in
the forward pass, and joins it with the output gradient in the backward pass; the gradient itself is never formed
(LoGra, Choe et al. 2024, arXiv 2405.13954). Which of the two sides the input is on is the formula's own business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madcore.projections import Sketch

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


CONVOLVE: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


@dataclass(frozen=True)
class Sides:
    """The projections of the two sides of a gradient: `p0` (o, dim0) and `p1` (i, rest); None keeps that side whole.

    `sketch` hashes what both leave; None keeps all of it.
    """

    p0: Tensor | None
    p1: Tensor | None
    sketch: Sketch | None = None

    def numbers(self, projected_noi: Tensor) -> Tensor:
        """A layer's numbers of rows, (n, k_l), of its projected gradients (n, o, i)."""
        numbers_nk = projected_noi.flatten(1)
        return numbers_nk if self.sketch is None else self.sketch.apply(numbers_nk)


class Formula(Protocol):
    """The gradient of one parameter of one module, a sample at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(dim0, rest) of the parameter."""

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """What the backward pass needs of the module's input; must not alias `inputs`, which may change in place."""

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """The projected per-sample gradient (n, o, i) from `saved` and the gradient of the module's output."""


@runtime_checkable
class OuterProductFormula(Formula, Protocol):
    """A formula whose gradient is a sum of outer products over positions."""

    def by_position(self, saved: Tensor, grads: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
        """The projected first side (n, s, o) and the projected second side (n, s, i), whose outer products sum to the row's (n, o, i)."""


def _positions_nsd(tensor: Tensor) -> Tensor:
    """(n, ..., d) -> (n, s, d), n from 0 on."""
    return tensor.flatten(1, -2) if tensor.ndim > 2 else tensor.unsqueeze(1)


def projected(tensor: Tensor, projection: Tensor | None) -> Tensor:
    """(n, ..., d) -> (n, s, r)."""
    tensor_nsd = _positions_nsd(tensor)
    return tensor_nsd if projection is None else tensor_nsd @ projection.T


def projected_copy(tensor: Tensor, projection: Tensor | None) -> Tensor:
    """As `projected`, but never an alias."""
    return _positions_nsd(tensor).clone() if projection is None else projected(tensor, projection)


def outer(grads_nos: Tensor, inputs_nis: Tensor) -> Tensor:
    """Sum over positions s of the outer products: (n, o, s), (n, i, s) -> (n, o, i)."""
    return torch.bmm(grads_nos, inputs_nis.transpose(1, 2))


def joined(pair: tuple[Tensor, Tensor]) -> Tensor:
    """The outer products of two sides by position, (n, s, o) and (n, s, i), summed: (n, o, i)."""
    return outer(pair[0].transpose(1, 2), pair[1].transpose(1, 2))


def projected_outer(grads_ncs: Tensor, inputs_nis: Tensor, p0: Tensor | None) -> Tensor:
    """As `outer`, with the first side projected: the longer of channels and positions is summed over first. (n, o, i)."""
    if p0 is None:
        return outer(grads_ncs, inputs_nis)
    if grads_ncs.shape[1] <= grads_ncs.shape[2]:
        return p0 @ outer(grads_ncs, inputs_nis)
    return outer(p0 @ grads_ncs, inputs_nis)


@dataclass(frozen=True)
class LinearWeight:
    """Weight (d_out, d_in) of a Linear on inputs (n, ..., d_in): sum over positions of d (x) a."""

    shape: tuple[int, int]

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Projected inputs (n, s, i)."""
        return projected_copy(inputs, sides.p1)

    def by_position(self, saved: Tensor, grads: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
        """Output gradients and inputs."""
        return projected(grads, sides.p0), saved

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        return joined(self.by_position(saved, grads, sides))


@dataclass(frozen=True)
class TransposedLinearWeight:
    """Weight (d_in, d_out) of a linear map of inputs (n, ..., d_in), as GPT-2's `Conv1D` holds it: sum over positions of a (x) d."""

    shape: tuple[int, int]

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Projected inputs (n, s, o): here they are the first side."""
        return projected_copy(inputs, sides.p0)

    def by_position(self, saved: Tensor, grads: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
        """Inputs and output gradients."""
        return saved, projected(grads, sides.p1)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        return joined(self.by_position(saved, grads, sides))


def channels_by_group(tensor_ncs: Tensor, p0: Tensor | None, groups: int) -> Tensor:
    """Projects channels; those of each group are positions of their own: (n, c, s) -> (n, o, groups * s). May alias the tensor."""
    if groups == 1:
        return tensor_ncs if p0 is None else p0 @ tensor_ncs
    channels = tensor_ncs.shape[1]
    p0 = torch.eye(channels, dtype=tensor_ncs.dtype, device=tensor_ncs.device) if p0 is None else p0
    by_group: Tensor = torch.einsum(
        "ogc,ngcs->nogs", p0.unflatten(1, (groups, -1)), tensor_ncs.unflatten(1, (groups, -1))
    )
    return by_group.flatten(2)


@dataclass(frozen=True)
class ConvWeight:
    """Kernel (c_out, c_in / groups, ...) of a convolution.

    Projecting the unfolded input equals a convolution with i filters, so patches are never materialised. With groups,
    each group's patches and output gradients are positions of their own, and the sum runs over groups too.
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

    def by_position(self, saved: Tensor, grads: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
        """Output gradients and patches."""
        return channels_by_group(grads.flatten(2), sides.p0, self.module.groups).transpose(1, 2), saved.transpose(1, 2)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        if self.module.groups == 1:
            return projected_outer(grads.flatten(2), saved, sides.p0)
        return joined(self.by_position(saved, grads, sides))


@dataclass(frozen=True)
class TransposedConvWeight:
    """Kernel (c_in, c_out / groups, ...) of a transposed convolution.

    It is the adjoint of a convolution with the same kernel (Dumoulin and Visin 2016, arXiv 1603.07285, section 4),
    which maps output gradients to input gradients: so its kernel's gradient is that convolution's, with inputs and
    output gradients in each other's place.
    """

    module: TransposedConvolution

    @property
    def shape(self) -> tuple[int, int]:
        """(c_in, c_out / groups * kernel volume)."""
        return self.module.weight.shape[0], self.module.weight[0].numel()

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Inputs with projected channels, their positions apart: (n, o, groups, spatial...)."""
        groups = self.module.groups
        by_group: Tensor = channels_by_group(inputs.flatten(2), sides.p0, groups).unflatten(
            2, (groups, *inputs.shape[2:])
        )
        return by_group.clone() if sides.p0 is None else by_group

    def by_position(self, saved: Tensor, grads: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
        """Inputs and patches of output gradients."""
        module, spatial = self.module, saved.shape[3:]
        filters = torch.eye(self.shape[1], dtype=grads.dtype, device=grads.device) if sides.p1 is None else sides.p1
        kernel = filters.reshape(-1, *module.weight.shape[1:]).repeat(module.groups, *[1] * (1 + len(spatial)))
        patches = CONVOLVE[kernel.ndim](
            grads, kernel, None, module.stride, module.padding, module.dilation, module.groups
        )
        for axis, length in enumerate(
            spatial, 2
        ):  # an output padding of a stride or more gives positions that no input is at
            patches = patches.narrow(axis, 0, length)
        patches_ngis = patches.flatten(2).unflatten(1, (module.groups, filters.shape[0]))
        return saved.flatten(2).transpose(1, 2), patches_ngis.transpose(1, 2).flatten(2).transpose(1, 2)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        return joined(self.by_position(saved, grads, sides))


@dataclass(frozen=True)
class EmbeddingWeight:
    """Table (vocabulary, d) looked up by ids (n, ...): the sum over positions of the id's column of P_0 (x) the output gradient.

    `scale` is what the module multiplies its vectors by.
    """

    shape: tuple[int, int]
    padding: int | None
    scale: float

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """The ids, (n, s)."""
        return inputs.reshape(inputs.shape[0], -1 if len(inputs) else 0).clone()

    def by_position(self, saved: Tensor, grads: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
        """One-hot ids and output gradients."""
        ids_vo = torch.eye(self.shape[0], dtype=grads.dtype, device=grads.device) if sides.p0 is None else sides.p0.T
        return ids_vo[saved], self._grads_nsi(saved, grads, sides)

    def _grads_nsi(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """Projected output gradients; the padding id has none."""
        grads_nsi = self.scale * projected(grads.reshape(*saved.shape, self.shape[1]), sides.p1)
        return grads_nsi if self.padding is None else grads_nsi.masked_fill((saved == self.padding).unsqueeze(2), 0)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        if sides.p0 is not None:
            return joined(self.by_position(saved, grads, sides))
        samples, grads_nsi = saved.shape[0], self._grads_nsi(saved, grads, sides)
        table = grads.new_zeros(samples * self.shape[0], grads_nsi.shape[2])
        places = saved + self.shape[0] * torch.arange(samples, device=saved.device).unsqueeze(1)
        summed: Tensor = table.index_add(0, places.flatten(), grads_nsi.flatten(0, 1)).unflatten(
            0, (samples, self.shape[0])
        )
        return summed
