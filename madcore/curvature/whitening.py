"""Curvature blocks by their eigenvectors, and the maps computed from them: the damped inverse, and whitening.

A layer's curvature H (k, k) is symmetric and positive semi-definite. `Spectrum` has its eigenvalues and its
eigenvectors, in one of three forms: all of them; only the r of a block made of r < k rows, outside which H is zero; or
those of a Kronecker product, as the eigenvectors of its factors. `f(H + lambda I)`, for a function f of eigenvalues, is
applied without being formed where that costs less. For the second form this is the Woodbury identity in its spectral
form:

    (H + lambda I)^p = lambda^p I + V (diag(d + lambda)^p - lambda^p I) V^T.

Influence of trusted sample j on audited sample i is `g_i^T (H + lambda I)^-1 g_j` (Koh & Liang 2017, arXiv 1703.04730;
damping: Grosse et al. 2023, arXiv 2308.03296), so with rows whitened by `(H + lambda I)^(-1/2)` it is a plain inner
product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from madcore.rows import RowLayout


@dataclass(frozen=True)
class DenseBasis:
    """r orthonormal vectors of k numbers: (k, r)."""

    vectors: Tensor

    def rotate(self, rows_nk: Tensor) -> Tensor:
        """Return the coefficients (n, r) of rows (n, k)."""
        return rows_nk @ self.vectors.to(rows_nk)

    def rotate_back(self, coefficients_nr: Tensor) -> Tensor:
        """Return the rows (n, k) with coefficients (n, r)."""
        return coefficients_nr @ self.vectors.to(coefficients_nr).T


@dataclass(frozen=True)
class KroneckerBasis:
    """The k = o * i vectors `q (x) p`, q a column of `first` (o, o) and p one of `second` (i, i)."""

    first: Tensor
    second: Tensor

    def rotate(self, rows_nk: Tensor) -> Tensor:
        """Return the coefficients (n, k) of rows (n, k): Q_0^T G Q_1, G being the row as (o, i)."""
        rows_noi = rows_nk.unflatten(1, (len(self.first), len(self.second)))
        rotated_noi: Tensor = self.first.to(rows_nk).T @ rows_noi @ self.second.to(rows_nk)
        return rotated_noi.flatten(1)

    def rotate_back(self, coefficients_nk: Tensor) -> Tensor:
        """Return the rows (n, k) with coefficients (n, k)."""
        coefficients_noi = coefficients_nk.unflatten(1, (len(self.first), len(self.second)))
        rotated_noi: Tensor = self.first.to(coefficients_nk) @ coefficients_noi @ self.second.to(coefficients_nk).T
        return rotated_noi.flatten(1)


Basis = DenseBasis | KroneckerBasis


@dataclass(frozen=True)
class Spectrum:
    """A curvature block (k, k), k its `size`: r eigenvectors and eigenvalues (r,), float64; zero in all others."""

    basis: Basis
    eigenvalues: Tensor
    size: int

    @classmethod
    def of(cls, matrix: Tensor) -> "Spectrum":
        """Decompose H (k, k). Rounding can leave tiny negative eigenvalues; they count as 0."""
        eigenvalues, vectors = torch.linalg.eigh(matrix.double())
        return cls(DenseBasis(vectors), eigenvalues.clamp(min=0), len(matrix))

    @classmethod
    def of_rows(cls, rows_mk: Tensor) -> "Spectrum":
        """Decompose the second moment (1/m) sum_j g_j g_j^T of m rows of k numbers by a singular value decomposition.

        Cheaper than `of` where m < k.
        """
        _, singular, vectors_rk = torch.linalg.svd(rows_mk.double() / len(rows_mk) ** 0.5, full_matrices=False)
        return cls(DenseBasis(vectors_rk.T.contiguous()), singular.square(), rows_mk.shape[1])

    @classmethod
    def of_product(cls, first: Tensor, second: Tensor) -> "Spectrum":
        """Decompose the Kronecker product of two factors (o, o) and (i, i), k = o * i."""
        one, other = cls.of(first), cls.of(second)
        assert isinstance(one.basis, DenseBasis) and isinstance(other.basis, DenseBasis)
        basis = KroneckerBasis(one.basis.vectors, other.basis.vectors)
        return cls(basis, torch.outer(one.eigenvalues, other.eigenvalues).flatten(), one.size * other.size)

    @property
    def complete(self) -> bool:
        """Whether there are as many eigenvectors as directions."""
        return len(self.eigenvalues) == self.size

    @property
    def mean_eigenvalue(self) -> float:
        """The mean of all k eigenvalues."""
        return float(self.eigenvalues.sum()) / self.size

    @property
    def dense(self) -> Tensor:
        """H itself, float64 (k, k)."""
        rotated_kr = self.basis.rotate(torch.eye(self.size, dtype=torch.float64, device=self.eigenvalues.device))
        return self.basis.rotate_back(rotated_kr * self.eigenvalues)


@dataclass(frozen=True)
class Damping:
    """The damping: `amount` times the layer's mean eigenvalue (`relative_mean`), or `amount` itself (`absolute`)."""

    kind: Literal["relative_mean", "absolute"] = "relative_mean"
    amount: float = 1.0

    def of(self, spectrum: Spectrum) -> float:
        """Return the number added to each eigenvalue of a block."""
        return self.amount if self.kind == "absolute" else self.amount * spectrum.mean_eigenvalue

    def of_all(self, spectra: Sequence[Spectrum]) -> list[float]:
        """Return the number added to the eigenvalues of each block.

        A layer without any gradient on the reference part has an all-zero block, so its relative damping would be 0. It
        gets the smallest damping of the other layers, so that a sample that activates it stands out whatever the unit
        of the gradients.
        """
        amounts = [self.of(spectrum) for spectrum in spectra]
        least = min((amount for amount in amounts if amount > 0), default=0.0)
        return [amount if amount > 0 else least for amount in amounts]


@dataclass(frozen=True)
class Matrix:
    """A linear map of rows, as a symmetric matrix (k, k)."""

    matrix: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that define the map."""
        return (self.matrix,)

    def __call__(self, rows_nk: Tensor) -> Tensor:
        """Map rows (n, k) to rows (n, k)."""
        return rows_nk @ self.matrix.to(rows_nk)


@dataclass(frozen=True)
class SpectralMap:
    """A linear map of rows: coefficients on a basis times `gains` (r,), all other directions times `rest` (1,)."""

    basis: Basis
    gains: Tensor
    rest: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that define the map."""
        vectors = (self.basis.vectors,) if isinstance(self.basis, DenseBasis) else (self.basis.first, self.basis.second)
        return (*vectors, self.gains, self.rest)

    def __call__(self, rows_nk: Tensor) -> Tensor:
        """Map rows (n, k) to rows (n, k)."""
        coefficients_nr = self.basis.rotate(rows_nk)
        if isinstance(self.basis, KroneckerBasis):
            return self.basis.rotate_back(coefficients_nr * self.gains.to(rows_nk))
        difference_r = (self.gains - self.rest).to(rows_nk)
        return rows_nk * self.rest.to(rows_nk) + self.basis.rotate_back(coefficients_nr * difference_r)


Map = Matrix | SpectralMap


@dataclass(frozen=True)
class DampedInverse:
    """(H + lambda I)^-1 of one block, factored once, applied many times. Eigenvalues below `floor` count as `floor`."""

    spectrum: Spectrum
    damping: float
    floor: float = 0.0

    @classmethod
    def of(cls, spectrum: Spectrum, damping: Damping) -> "DampedInverse":
        """Damp a block.

        Without damping, eigenvalues below the rounding error of the largest count as that error, and an all-zero block
        as the identity.
        """
        amount = damping.of(spectrum)
        if amount > 0:
            return cls(spectrum, amount)
        largest = float(spectrum.eigenvalues.max()) if len(spectrum.eigenvalues) else 0.0
        return cls(spectrum, 0.0, largest * torch.finfo(torch.float64).eps * spectrum.size if largest > 0 else 1.0)

    def power(self, exponent: float) -> Map:
        """Return the map (H + lambda I)^exponent, float64."""
        spectrum = self.spectrum
        gains = (spectrum.eigenvalues.clamp(min=self.floor) + self.damping) ** exponent
        if spectrum.complete and isinstance(spectrum.basis, DenseBasis):
            return Matrix((spectrum.basis.vectors * gains) @ spectrum.basis.vectors.T)
        return SpectralMap(spectrum.basis, gains, gains.new_full((1,), self.floor + self.damping) ** exponent)

    def apply(self, rows_nk: Tensor) -> Tensor:
        """Return (H + lambda I)^-1 g for rows (n, k)."""
        return self.power(-1.0)(rows_nk)

    def quadratic(self, rows_nk: Tensor) -> Tensor:
        """Return the leverage g^T (H + lambda I)^-1 g of rows (n, k), shape (n,)."""
        return (self.apply(rows_nk) * rows_nk).sum(dim=1)

    def whiten(self, rows_nk: Tensor) -> Tensor:
        """Return (H + lambda I)^(-1/2) g for rows (n, k)."""
        return self.whitening()(rows_nk)

    def whitening(self) -> Map:
        """Return the symmetric map (H + lambda I)^(-1/2), float64."""
        return self.power(-0.5)


@dataclass(frozen=True)
class Whitening:
    """The whitening of rows, a map per layer; None, the `identity` curvature, leaves rows unchanged."""

    layout: RowLayout
    maps: tuple[Map, ...] | None = None

    @classmethod
    def fit(cls, layout: RowLayout, spectra: Sequence[Spectrum], damping: Damping) -> "Whitening":
        """Compute the maps from a curvature block per layer; kept as float32, the precision of rows."""
        pairs = zip(spectra, damping.of_all(spectra), strict=True)
        inverses = [DampedInverse.of(spectrum, Damping("absolute", amount)) for spectrum, amount in pairs]
        return cls(layout, tuple(_in_float32(inverse.whitening()) for inverse in inverses))

    @property
    def infinite(self) -> tuple[str, ...]:
        """The layers whose whitening overflows float32."""
        named = zip(self.layout.names, self.maps or (), strict=self.maps is not None)
        return tuple(name for name, own in named if not all(torch.isfinite(tensor).all() for tensor in own.tensors))

    def __call__(self, rows_nk: Tensor) -> Tensor:
        """Whiten rows (n, k): of the result u (n, k), influence is u_i . u_j and leverage |u_i|^2."""
        if self.maps is None:
            return rows_nk
        return torch.cat([own(block) for block, own in zip(self.layout.blocks(rows_nk), self.maps, strict=True)], dim=1)


def _in_float32(own: Map) -> Map:
    if isinstance(own, Matrix):
        return Matrix(own.matrix.float())
    gains, rest = own.gains.float(), own.rest.float()
    if isinstance(own.basis, DenseBasis):
        return SpectralMap(DenseBasis(own.basis.vectors.float()), gains, rest)
    return SpectralMap(KroneckerBasis(own.basis.first.float(), own.basis.second.float()), gains, rest)
