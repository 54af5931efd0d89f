"""How linear layers and embeddings turn inputs and output gradients into projected per-sample gradients.

There are two layouts. A *module* has its own: Linear (n, ..., d), Embedding (n, ...), Conv (n, c, spatial...; see
`madcore.formulas.convolutions`). *Rows* are (n, o, i): sample, projected first dimension, projected rest. A formula
saves the projected input (never the whole one) in the forward pass, and joins it with the output gradient in the
backward pass; the gradient itself is never formed (LoGra, Choe et al. 2024, arXiv 2405.13954). Which of the two sides
the input is on depends on the formula.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from madcore.projections import Sketch


@dataclass(frozen=True)
class Sides:
    """The projections of the two sides of a gradient: `p0` (o, dim0) and `p1` (i, rest); None keeps that side whole.

    `sketch` hashes what both projections leave; None keeps all of it.
    """

    p0: Tensor | None
    p1: Tensor | None
    sketch: Sketch | None = None

    def numbers(self, projected_noi: Tensor) -> Tensor:
        """Return the layer's part of rows, (n, k_l), from projected gradients (n, o, i)."""
        numbers_nk = projected_noi.flatten(1)
        return numbers_nk if self.sketch is None else self.sketch.apply(numbers_nk)


class Formula(Protocol):
    """Computes the per-sample gradient of one parameter of one module."""

    @property
    def shape(self) -> tuple[int, int]:
        """(dim0, rest) of the parameter."""

    def save(self, inputs: Tensor, sides: Sides) -> Tensor:
        """Return what the backward pass needs of the input; no alias of `inputs`, which may change in place."""

    def row(self, saved: Tensor, grads: Tensor, sides: Sides) -> Tensor:
        """Return the projected per-sample gradient (n, o, i) from `saved` and the gradient of the module's output."""


@runtime_checkable
class OuterProductFormula(Formula, Protocol):
    """A formula whose gradient is a sum of outer products over positions."""

    def by_position(self, saved: Tensor, grads: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
        """Return the projected first side (n, s, o) and second side (n, s, i), whose outer products sum to the row."""


def _positions_nsd(tensor: Tensor) -> Tensor:
    """(n, ..., d) -> (n, s, d); n may be 0."""
    return tensor.flatten(1, -2) if tensor.ndim > 2 else tensor.unsqueeze(1)


def projected(tensor: Tensor, projection: Tensor | None) -> Tensor:
    """(n, ..., d) -> (n, s, r)."""
    tensor_nsd = _positions_nsd(tensor)
    return tensor_nsd if projection is None else tensor_nsd @ projection.T


def projected_copy(tensor: Tensor, projection: Tensor | None) -> Tensor:
    """Like `projected`, but never an alias."""
    return _positions_nsd(tensor).clone() if projection is None else projected(tensor, projection)


def outer(grads_nos: Tensor, inputs_nis: Tensor) -> Tensor:
    """Sum over positions s of the outer products: (n, o, s), (n, i, s) -> (n, o, i)."""
    return torch.bmm(grads_nos, inputs_nis.transpose(1, 2))


def joined(pair: tuple[Tensor, Tensor]) -> Tensor:
    """Sum the outer products of two sides by position, (n, s, o) and (n, s, i): (n, o, i)."""
    return outer(pair[0].transpose(1, 2), pair[1].transpose(1, 2))


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
    """Weight (d_in, d_out) of a linear map of (n, ..., d_in), as in GPT-2's `Conv1D`: sum over positions of a (x) d."""

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


@dataclass(frozen=True)
class EmbeddingWeight:
    """Table (vocabulary, d) looked up by ids (n, ...): sum over positions of the id's column of P_0 (x) the gradient.

    `scale` is the factor by which the module multiplies its vectors.
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
        summed = table.index_add(0, places.flatten(), grads_nsi.flatten(0, 1))
        summed_noi: Tensor = summed.unflatten(0, (samples, self.shape[0]))
        return summed_noi
