"""The damped inverse and the whitening of a spectrum equal those of the dense matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from madcore import BlockMoment, DampedInverse, Damping, RowLayout, Spectrum, Whitening
from madcore.curvature.whitening import Matrix
from tests.reference import places
from tests.strategies import LAW, layouts, normal_rows, seeds

DAMPINGS = st.builds(Damping, st.sampled_from(["relative_mean", "absolute"]), st.floats(0.01, 10))


def positive_semi_definite(seed: int, k: int, rank: int) -> Tensor:
    """A random symmetric matrix (k, k), float64, of at most this rank."""
    factor = torch.from_numpy(np.random.default_rng(seed).standard_normal((k, rank)))
    return factor @ factor.T


@LAW
@given(seeds, st.integers(1, 8), st.integers(0, 8), DAMPINGS)
def test_damped_inverse_equals_the_dense_one(seed: int, k: int, rank: int, damping: Damping) -> None:
    matrix, rows = positive_semi_definite(seed, k, max(rank, 1)), normal_rows(seed, 4, k).double()
    amount = damping.amount * (float(torch.linalg.eigvalsh(matrix).mean()) if damping.kind == "relative_mean" else 1.0)
    dense = torch.linalg.inv(matrix + amount * torch.eye(k, dtype=torch.float64))
    inverse = DampedInverse.of(Spectrum.of(matrix), damping)
    torch.testing.assert_close(inverse.apply(rows), rows @ dense, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        inverse.quadratic(rows), torch.stack([row @ dense @ row for row in rows]), rtol=1e-7, atol=1e-7
    )
    torch.testing.assert_close(inverse.whiten(inverse.whiten(rows)), rows @ dense, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        inverse.whiten(rows) @ inverse.whiten(rows).T, rows @ dense @ rows.T, rtol=1e-7, atol=1e-7
    )
    whitening = inverse.whitening()
    assert isinstance(whitening, Matrix) and torch.allclose(whitening.matrix, whitening.matrix.T, atol=1e-12)


def test_dampings_have_their_unit() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    rows = torch.eye(3, dtype=torch.float64)
    relative = DampedInverse.of(Spectrum.of(matrix), Damping("relative_mean", 0.5)).apply(rows)
    absolute = DampedInverse.of(Spectrum.of(matrix), Damping("absolute", 0.5)).apply(rows)
    torch.testing.assert_close(relative.diagonal(), 1 / torch.tensor([2.5, 3.5, 7.5], dtype=torch.float64))
    torch.testing.assert_close(absolute.diagonal(), 1 / torch.tensor([1.5, 2.5, 6.5], dtype=torch.float64))


def test_relative_damping_does_not_see_the_scale_of_the_rows() -> None:
    matrix, rows = positive_semi_definite(3, 5, 5), normal_rows(3, 4, 5).double()
    whitened = DampedInverse.of(Spectrum.of(matrix), Damping("relative_mean", 1.0)).whiten(rows)
    torch.testing.assert_close(
        DampedInverse.of(Spectrum.of(100 * matrix), Damping("relative_mean", 1.0)).whiten(10 * rows), whitened
    )


ZERO_BLOCKS = {
    "relative": (Damping("relative_mean", 1.0), 1.0),
    "none": (Damping("absolute", 0.0), 1.0),
    "absolute": (Damping("absolute", 0.25), 4.0),
}


@pytest.mark.parametrize(("damping", "factor"), ZERO_BLOCKS.values(), ids=ZERO_BLOCKS.keys())
def test_an_all_zero_block(damping: Damping, factor: float) -> None:
    rows = normal_rows(0, 3, 4)
    torch.testing.assert_close(DampedInverse.of(Spectrum.of(torch.zeros(4, 4)), damping).apply(rows), factor * rows)


def test_without_damping_a_singular_block_stays_finite_and_a_regular_one_is_inverted() -> None:
    undamped = Damping("relative_mean", 0.0)
    singular, regular = positive_semi_definite(1, 6, 2), positive_semi_definite(1, 6, 12)
    rows = normal_rows(1, 3, 6).double()
    assert torch.isfinite(DampedInverse.of(Spectrum.of(singular), undamped).apply(rows)).all()
    torch.testing.assert_close(
        DampedInverse.of(Spectrum.of(regular), undamped).apply(rows),
        rows @ torch.linalg.inv(regular),
        rtol=1e-7,
        atol=1e-7,
    )


def test_rounding_below_zero_counts_as_zero() -> None:
    matrix = torch.diag(torch.tensor([2.0, -1e-14], dtype=torch.float64))
    inverse = DampedInverse.of(Spectrum.of(matrix), Damping("absolute", 0.5))
    torch.testing.assert_close(
        inverse.apply(torch.eye(2, dtype=torch.float64)).diagonal(), torch.tensor([0.4, 2.0], dtype=torch.float64)
    )
    assert float(inverse.spectrum.eigenvalues.min()) == 0.0


@LAW
@given(seeds, st.integers(1, 7), st.integers(8, 12), DAMPINGS)
def test_fewer_rows_than_numbers_are_inverted_by_the_woodbury_identity(
    seed: int, m: int, k: int, damping: Damping
) -> None:
    """Without a k x k matrix, and equal to its inverse; also for repeated rows, whose Gram matrix is singular."""
    layout, rows = RowLayout(("a",), (k,)), normal_rows(seed, m, k).double()
    rows[m // 2 :] = rows[: m - m // 2].clone()
    (thin,) = BlockMoment.zero(layout).update(rows).finalize()
    full = Spectrum.of(rows.T @ rows / m)
    assert len(thin.eigenvalues) == m and not thin.complete and full.complete
    torch.testing.assert_close(thin.dense, full.dense, rtol=1e-10, atol=1e-10)
    assert thin.mean_eigenvalue == pytest.approx(full.mean_eigenvalue)
    others, one, other = (
        normal_rows(seed + 1, 3, k).double(),
        DampedInverse.of(thin, damping),
        DampedInverse.of(full, damping),
    )
    for made in ("apply", "quadratic", "whiten"):
        torch.testing.assert_close(getattr(one, made)(others), getattr(other, made)(others), rtol=1e-7, atol=1e-7)
    assert Whitening.fit(layout, [thin], damping).infinite == ()
    torch.testing.assert_close(
        Whitening.fit(layout, [thin], damping)(others),
        Whitening.fit(layout, [full], damping)(others),
        rtol=1e-4,
        atol=1e-4,
    )


def test_few_rows_without_damping_stay_finite_and_no_rows_at_all_are_the_identity() -> None:
    undamped, rows = Damping("absolute", 0.0), normal_rows(0, 3, 6).double()
    (thin,), (nothing,) = (
        BlockMoment.zero(RowLayout(("a",), (6,))).update(some).finalize() for some in (rows[:2], torch.zeros(2, 6))
    )
    assert torch.isfinite(DampedInverse.of(thin, undamped).whiten(rows)).all()
    torch.testing.assert_close(DampedInverse.of(nothing, undamped).apply(rows), rows)


@LAW
@given(layouts, seeds, DAMPINGS)
def test_whitening_works_layer_by_layer(layout: RowLayout, seed: int, damping: Damping) -> None:
    blocks = [Spectrum.of(positive_semi_definite(seed + i, size, size + 1)) for i, size in enumerate(layout.sizes)]
    rows = normal_rows(seed, 3, layout.k)
    whitened = Whitening.fit(layout, blocks, damping)(rows)
    assert whitened.dtype == torch.float32
    for place, block in zip(places(layout.sizes), blocks, strict=True):
        expected = DampedInverse.of(block, damping).whiten(rows[:, place].double())
        torch.testing.assert_close(whitened[:, place].double(), expected, rtol=1e-4, atol=1e-4)


def test_the_identity_curvature_leaves_rows_alone() -> None:
    rows = normal_rows(0, 3, 4)
    assert torch.equal(Whitening(RowLayout(("a", "b"), (1, 3)))(rows), rows)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_layer_that_the_reference_part_never_uses_counts_like_the_one_it_uses_least(scale: float) -> None:
    """Whatever unit gradients come in: relative damping sees no scale, also where a block is all zero."""
    layout, damping = RowLayout(("used", "used little", "unused"), (2, 2, 2)), Damping("relative_mean", 2.0)
    blocks = [Spectrum.of(scale**2 * torch.eye(2, dtype=torch.float64) * amount) for amount in (1.0, 0.25, 0.0)]
    assert damping.of_all(blocks) == pytest.approx([2 * scale**2, 0.5 * scale**2, 0.5 * scale**2])
    rows = scale * normal_rows(0, 3, 6)
    torch.testing.assert_close(Whitening.fit(layout, blocks, damping)(rows)[:, 4:], rows[:, 4:] / (0.5**0.5 * scale))


def test_a_whitening_that_leaves_float32_names_its_layers() -> None:
    layout, blocks = RowLayout(("a", "b"), (1, 1)), [Spectrum.of(torch.eye(1)), Spectrum.of(torch.zeros(1, 1))]
    assert Whitening.fit(layout, blocks, Damping("absolute", 1e-80)).infinite == ("b",)
    assert Whitening.fit(layout, blocks, Damping("absolute", 1e-8)).infinite == ()
    assert Whitening(layout).infinite == ()
