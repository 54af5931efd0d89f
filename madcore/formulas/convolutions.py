"""How convolutions and transposed convolutions turn inputs and output gradients into projected per-sample gradients.

Modules have the layout (n, c, spatial...), rows (n, o, i); see `madcore.formulas.matrices`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madcore.formulas.matrices import Sides, joined, outer

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

CONVOLVE: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def projected_outer(grads_ncs: Tensor, inputs_nis: Tensor, p0: Tensor | None) -> Tensor:
    """Compute `outer` with the first side projected, summing over the longer of channels and positions first."""
    if p0 is None:
        return outer(grads_ncs, inputs_nis)
    if grads_ncs.shape[1] <= grads_ncs.shape[2]:
        return p0 @ outer(grads_ncs, inputs_nis)
    return outer(p0 @ grads_ncs, inputs_nis)


def channels_by_group(tensor_ncs: Tensor, p0: Tensor | None, groups: int) -> Tensor:
    """Project channels, with the positions of each group apart: (n, c, s) -> (n, o, groups * s). May be an alias."""
    if groups == 1:
        return tensor_ncs if p0 is None else p0 @ tensor_ncs
    channels = tensor_ncs.shape[1]
    p0 = torch.eye(channels, dtype=tensor_ncs.dtype, device=tensor_ncs.device) if p0 is None else p0
    p0_ogc, tensor_ngcs = p0.unflatten(1, (groups, -1)), tensor_ncs.unflatten(1, (groups, -1))
    by_group: Tensor = torch.einsum("ogc,ngcs->nogs", p0_ogc, tensor_ngcs)
    return by_group.flatten(2)


@dataclass(frozen=True)
class ConvWeight:
    """Kernel (c_out, c_in / groups, ...) of a convolution.

    Projecting the unfolded input equals a convolution with i filters, so patches are never materialised. With groups,
    the patches and output gradients of each group count as separate positions, and the sum runs over groups too. A
    sample may have several images, (n, m, c, spatial...): those of each count as further positions.
    """

    module: Convolution

    @property
    def shape(self) -> tuple[int, int]:
        """(c_out, c_in / groups * kernel volume)."""
        return self.module.weight.shape[0], self.module.weight[0].numel()

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Projected patches (n, i, groups * positions)."""
        module = self.module
        if self._has_several(inputs):
            return _together(self.save(inputs.flatten(0, 1), sides), len(inputs))
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
        images = grads.flatten(0, 1) if self._has_several(grads) else grads
        grads_nos = channels_by_group(images.flatten(2), sides.p0, self.module.groups)
        grads_nos = _together(grads_nos, len(grads)) if self._has_several(grads) else grads_nos
        return grads_nos.transpose(1, 2), saved.transpose(1, 2)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        if self.module.groups == 1 and not self._has_several(grads):
            return projected_outer(grads.flatten(2), saved, sides.p0)
        return joined(self.by_position(saved, grads, sides))

    def _has_several(self, images: Tensor) -> bool:
        return images.ndim > self.module.weight.ndim


def _together(numbers_mds: Tensor, samples: int) -> Tensor:
    """Put the positions of a sample's images side by side: (n * m, d, s) -> (n, d, m * s)."""
    images = len(numbers_mds) // samples if samples else 1
    together: Tensor = numbers_mds.unflatten(0, (samples, images)).transpose(1, 2).flatten(2)
    return together


@dataclass(frozen=True)
class TransposedConvWeight:
    """Kernel (c_in, c_out / groups, ...) of a transposed convolution.

    It is the adjoint of a convolution with the same kernel (Dumoulin and Visin 2016, arXiv 1603.07285, section 4),
    which maps output gradients to input gradients: so its kernel's gradient is that convolution's with inputs and
    output gradients swapped.
    """

    module: TransposedConvolution

    @property
    def shape(self) -> tuple[int, int]:
        """(c_in, c_out / groups * kernel volume)."""
        return self.module.weight.shape[0], self.module.weight[0].numel()

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Inputs with projected channels: (n, o, groups, spatial...)."""
        groups = self.module.groups
        projected = channels_by_group(inputs.flatten(2), sides.p0, groups)
        by_group: Tensor = projected.unflatten(2, (groups, *inputs.shape[2:]))
        return by_group.clone() if sides.p0 is None else by_group

    def by_position(self, saved: Tensor, grads: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
        """Inputs and patches of output gradients."""
        module, spatial = self.module, saved.shape[3:]
        filters = torch.eye(self.shape[1], dtype=grads.dtype, device=grads.device) if sides.p1 is None else sides.p1
        kernel = filters.reshape(-1, *module.weight.shape[1:]).repeat(module.groups, *[1] * (1 + len(spatial)))
        patches = CONVOLVE[kernel.ndim](
            grads, kernel, None, module.stride, module.padding, module.dilation, module.groups
        )
        for axis, length in enumerate(spatial, 2):
            # an output padding of a stride or more gives positions without an input
            patches = patches.narrow(axis, 0, length)
        patches_ngis = patches.flatten(2).unflatten(1, (module.groups, filters.shape[0]))
        return saved.flatten(2).transpose(1, 2), patches_ngis.transpose(1, 2).flatten(2).transpose(1, 2)

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """(n, o, i)."""
        return joined(self.by_position(saved, grads, sides))
