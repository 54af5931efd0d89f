"""What hooked rows must be: each sample's whole gradient by autograd, projected."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madcore.coverage.autograd import whole_gradients
from madcore.measurements import Measured
from madcore.projections import Projection
from madcore.rows import Layer, row_layout

RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-12  # of a sample's largest row of a layer, or of 1: the rounding of a zero in float64
ROUNDING = 1e-5  # of a sample's largest row of a layer: in float32, nothing is left of a row below it
VANISHING = 1e-10  # of the same: in float64, a row below it is a zero
LARGEST_DOUBT = 0.25  # of a row: flipped ReLUs made 0.035, a kernel that reads other numbers makes more than this

DIFFERS, ZERO = "its hooked gradient differs from autograd's", "its gradient is zero but for rounding"


@dataclass(frozen=True)
class Compared:
    """A layer's hooked rows beside autograd's, a number for each of b samples.

    `gaps_b`: norms of the differences. `norms_b`: of autograd's rows. `hooked_b`: of the hooked ones. `largest_b`: of
    the sample's largest row of any layer, by autograd.
    """

    gaps_b: Tensor
    norms_b: Tensor
    hooked_b: Tensor
    largest_b: Tensor

    @classmethod
    def of(cls, expected: Tensor, hooked: Tensor, largest_b: Tensor) -> "Compared":
        """Compare rows of one layer, (b, k_l)."""
        gaps, norms, own = (rows.norm(dim=1).double().cpu() for rows in (hooked - expected, expected, hooked))
        return cls(gaps, norms, own, largest_b)

    @property
    def right_b(self) -> Tensor:
        """Which rows are equal, (b,) bool."""
        return self.gaps_b <= RELATIVE_TOLERANCE * self.norms_b + ABSOLUTE_TOLERANCE * self.largest_b.clamp(min=1)

    @property
    def zero_b(self) -> Tensor:
        """Which rows are nothing but rounding in float32, (b,) bool."""
        return torch.maximum(self.norms_b, self.hooked_b) < ROUNDING * self.largest_b

    @property
    def expected_zero(self) -> bool:
        """Whether autograd's rows are nothing but rounding in float32, whatever the hooked ones are."""
        return bool((self.norms_b < ROUNDING * self.largest_b).all())

    @property
    def faint(self) -> bool:
        """Whether autograd's rows may be nothing but rounding, which kernels may happen to round alike."""
        return self.expected_zero and bool((self.norms_b > 0).any())

    @property
    def vanishes(self) -> bool:
        """Whether autograd's rows are zeros, if they were computed in float64."""
        return bool((self.norms_b <= VANISHING * self.largest_b).all())

    @property
    def reason(self) -> str | None:
        """Why the rows are not the expected ones, None where they are."""
        if self.right_b.all():
            return None
        if self.zero_b.all():
            return ZERO
        worst = float((self.gaps_b / self.norms_b.clamp(min=1e-12))[~self.right_b].max())
        return f"{DIFFERS} by {worst:.2g} of its norm"

    @property
    def doubtful(self) -> bool:
        """Whether rows differ, and rounding could have made the difference."""
        near_b = self.gaps_b <= LARGEST_DOUBT * self.norms_b
        different = not self.right_b.all() and not self.zero_b.all()
        return different and bool((self.right_b | self.zero_b | near_b).all())


@dataclass(frozen=True)
class ExpectedRows:
    """Autograd's rows of each sample alone, by the name of the layer; a layer that takes no part has none."""

    layers: Sequence[Layer]
    rows: Sequence[Mapping[str, Tensor]]

    @property
    def not_finite(self) -> int:
        """How many rows, by sample and layer, are not finite."""
        return sum(not torch.isfinite(row).all() for of_sample in self.rows for row in of_sample.values())

    @classmethod
    def of(
        cls, model: nn.Module, layers: Sequence[Layer], samples: Sequence[Measured], projection: Projection
    ) -> "ExpectedRows":
        """Compute the rows of samples, each a batch of its own."""
        return cls(layers, [autograd_rows(model, layers, sample, projection) for sample in samples])

    def hopeless(self, layer: Layer) -> str | None:
        """Return why there are no rows of a layer to compare with, or None where there are."""
        rows = [rows[layer.name] for rows in self.rows if layer.name in rows]
        if not rows:
            return "its parameter takes no part in the forward pass"
        finite = all(torch.isfinite(row).all() for row in rows)
        return None if finite else "its gradient is not finite on a trusted sample"

    def compared(self, layers: Sequence[Layer], hooked: Tensor, projection: Projection) -> dict[str, Compared]:
        """Compare hooked rows (b, k) of several layers, none of them hopeless; by layer."""
        largest_b = torch.tensor([_largest(rows.values()) for rows in self.rows], dtype=torch.float64)
        places = zip(layers, row_layout(layers, projection).slices, strict=True)
        found = dict[str, Compared]()
        for layer, place in places:
            pairs = zip(self.rows, hooked[:, place], strict=True)
            reference = torch.stack([rows.get(layer.name, torch.zeros_like(row)) for rows, row in pairs])
            found[layer.name] = Compared.of(reference, hooked[:, place], largest_b)
        return found


def _largest(rows: Iterable[Tensor]) -> float:
    """Return the largest norm of finite rows."""
    return max((float(row.norm()) for row in rows if torch.isfinite(row).all()), default=0.0)


def autograd_rows(
    model: nn.Module, layers: Sequence[Layer], sample: Measured, projection: Projection
) -> dict[str, Tensor]:
    """Compute a sample's rows of layers, each (k_l,), by name; a layer that takes no part has none."""
    with whole_gradients(model, sample):
        grads = [(layer, model.get_parameter(layer.name).grad) for layer in layers]
    return {layer.name: project_gradient(grad, layer, projection) for layer, grad in grads if grad is not None}


def project_gradient(grad: Tensor, layer: Layer, projection: Projection) -> Tensor:
    """Project one full gradient dW of a layer's parameter: `vec(P_0 dW P_1^T)`, row-major, hashed if so set, (k_l,)."""
    grad_2d = grad.reshape(layer.shape)
    p0, p1 = (projection.matrix(layer.name, side, size) for side, size in enumerate(layer.shape))
    left = grad_2d if p0 is None else p0.to(grad_2d) @ grad_2d
    row_1k = (left if p1 is None else left @ p1.to(grad_2d).T).reshape(1, -1)
    sketch = projection.sketch_of(layer.name, layer.shape)
    return (row_1k if sketch is None else sketch.like(row_1k).apply(row_1k)).flatten()
