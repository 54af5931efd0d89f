"""Projection matrices: the same everywhere, keyed by all they depend on, unbiased; small sides are kept whole."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madcore import Layer, Projection
from madcore.coverage.expected import project_gradient
from madcore.projections import ProjectionKind
from tests.reference import side_matrix
from tests.strategies import LAW, seeds

ranks, sizes = st.integers(1, 12), st.integers(1, 40)


KINDS: tuple[ProjectionKind, ...] = ("rademacher", "gaussian")


EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def test_the_generator_is_frozen() -> None:
    """Stored rows of another night are compared with tonight's: a change of generator must be noticed."""
    signs = Projection(rank=16, seed=7).matrix("blocks.0.conv1.weight", 1, 145).sign().to(torch.int8).numpy().tobytes()
    assert hashlib.sha256(signs).hexdigest() == "afd0568f705d2819bc388be2e8f167b5fa32a098bb3091c5c3cc0003102d4561"


def test_the_gaussian_generator_is_frozen() -> None:
    """To 1e-6: a processor may round the last bit of a logarithm differently."""
    rounded = (
        Projection(rank=16, seed=7, kind="gaussian")
        .matrix("blocks.0.conv1.weight", 1, 145)
        .mul(1e6)
        .round()
        .to(torch.int64)
        .numpy()
        .tobytes()
    )
    assert hashlib.sha256(rounded).hexdigest() == "0133fd06ee3cbfddadda2f7e3b5fcb48ac0517a094abbd633ce7c52f95dc276e"


def test_the_sketch_is_frozen() -> None:
    sketch = Projection(rank=16, seed=7, sketch=100).sketch_of("blocks.0.conv1.weight", (20, 145))
    kept = sketch.order.numpy().tobytes() + sketch.signs.to(torch.int8).numpy().tobytes()
    assert hashlib.sha256(kept).hexdigest() == "100f460d4abd4565623a3b0390ed7e2ccc6a13e3956548c8fe05f489b7659c55"


@LAW
@given(ranks, sizes, seeds, st.sampled_from([0, 1]))
def test_entries_are_plus_or_minus_one_over_root_rank(rank: int, size: int, seed: int, side: int) -> None:
    matrix = Projection(rank, seed).matrix("layer.weight", side, size)
    if size <= rank:
        assert matrix is None
    else:
        assert matrix.dtype == torch.float64 and matrix.device.type == "cpu"
        assert matrix.shape == (rank, size)
        torch.testing.assert_close(
            matrix.abs(), torch.full((rank, size), rank**-0.5, dtype=torch.float64), rtol=1e-15, atol=0
        )


def test_gaussian_entries_are_normal_with_variance_one_over_rank() -> None:
    """Mean, variance, skewness, fourth moment of 400,000 entries, to 5 standard errors; each row and column in turn."""
    rank, size = 100, 4000
    entries = Projection(rank, 3, "gaussian").matrix("layer.weight", 0, size) * rank**0.5
    for power, (moment, variance) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}.items():
        assert abs(float(entries.pow(power).mean()) - moment) < 5 * (variance / (rank * size)) ** 0.5
    assert (
        float(entries.mean(dim=0).abs().max()) < 5 * rank**-0.5
        and float(entries.mean(dim=1).abs().max()) < 5 * size**-0.5
    )
    pairs = entries.flatten()
    assert abs(float((pairs[::2] * pairs[1::2]).mean())) < 5 * (len(pairs) / 2) ** -0.5


@LAW
@given(ranks, sizes, seeds)
def test_a_side_keeps_as_many_numbers_as_its_matrix_has_rows(rank: int, size: int, seed: int) -> None:
    assert Projection(rank, seed).kept(size) == side_matrix(Projection(rank, seed), "layer.weight", 0, size).shape[0]


@EACH_KIND
def test_the_same_key_gives_the_same_matrix(kind: ProjectionKind) -> None:
    assert torch.equal(
        Projection(16, 5, kind).matrix("a.weight", 0, 200), Projection(16, 5, kind).matrix("a.weight", 0, 200)
    )


def test_a_smaller_rank_of_the_same_size_begins_as_a_larger_one() -> None:
    """One stream a side, read from its beginning: nothing depends on how much of it is read."""
    few, many = (Projection(rank, 5, "gaussian").matrix("a.weight", 0, 200) * rank**0.5 for rank in (3, 16))
    torch.testing.assert_close(few, many[:3], rtol=1e-12, atol=0)


OTHER_KEYS = {
    "seed": (6, "a.weight", 0),
    "parameter": (5, "b.weight", 0),
    "side": (5, "a.weight", 1),
    "digits move": (51, "a.weight", 0),
}


@EACH_KIND
@pytest.mark.parametrize(("seed", "parameter", "side"), OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_another_key_gives_an_unrelated_matrix(seed: int, parameter: str, side: int, kind: ProjectionKind) -> None:
    signs = Projection(16, 5, kind).matrix("a.weight", 0, 400).sign()
    agreement = (signs == Projection(16, seed, kind).matrix(parameter, side, 400).sign()).double().mean()
    assert abs(float(agreement) - 0.5) < 5 * 0.5 / (16 * 400) ** 0.5


def test_inner_products_are_kept_in_expectation() -> None:
    """E[P^T P] = I: each entry of the mean over S seeds has variance (1 - [i = j]) / (rank S)."""
    rank, size, draws = 4, 9, 2000
    grams = torch.stack(
        [
            matrix.T @ matrix
            for matrix in (Projection(rank, seed).matrix("layer.weight", 0, size) for seed in range(draws))
        ]
    )
    off_diagonal = ~torch.eye(size, dtype=torch.bool)
    bound = 5 * (rank * draws) ** -0.5
    torch.testing.assert_close(grams.diagonal(dim1=1, dim2=2), torch.ones(draws, size, dtype=torch.float64))
    assert float(grams.mean(dim=0)[off_diagonal].abs().max()) < bound
    spread = float(grams[:, off_diagonal].square().mean())
    assert abs(spread - 1 / rank) < 0.02


@LAW
@given(ranks, sizes, sizes, seeds, st.integers(1, 200))
def test_a_sketch_deals_every_number_to_one_of_evenly_filled_buckets(
    rank: int, dim0: int, rest: int, seed: int, size: int
) -> None:
    projection = Projection(rank, seed, sketch=size)
    kept, sketch = min(dim0, rank) * min(rest, rank), projection.sketch_of("layer.weight", (dim0, rest))
    assert projection.numbers((dim0, rest)) == min(kept, size)
    if sketch is None:
        assert kept <= size
        return
    hashed = sketch.apply(torch.eye(kept, dtype=torch.float64))
    assert hashed.shape == (kept, size)
    assert (hashed.abs().sum(dim=1) == 1).all()
    loads = hashed.abs().sum(dim=0)
    assert float(loads.max() - loads.min()) <= 1


UNBIASED = {
    "rademacher": Projection(rank=4),
    "gaussian": Projection(rank=4, kind="gaussian"),
    "rademacher, hashed": Projection(rank=4, sketch=6),
    "gaussian, hashed": Projection(rank=4, kind="gaussian", sketch=6),
    "hashed alone": Projection(rank=50, sketch=6),
}


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("projection", UNBIASED.values(), ids=UNBIASED)
def test_inner_products_of_rows_are_unbiased_and_spread_within_the_stated_bound(
    projection: Projection, alike: float
) -> None:
    """Over S seeds: the mean within 5 standard errors, the variance below the bound, at inner products 0, 0.5 and 1."""
    draws, generator = 1500, np.random.default_rng(0)
    a, other = (torch.from_numpy(generator.standard_normal((9, 11))) for _ in range(2))
    other -= a * (a * other).sum() / a.square().sum()
    a, other = a / a.norm(), other / other.norm()
    b = alike * a + (1 - alike**2) ** 0.5 * other
    layer, seeded = Layer("layer", "weight", (9, 11)), [replace(projection, seed=seed) for seed in range(draws)]
    products = torch.stack([project_gradient(a, layer, own) @ project_gradient(b, layer, own) for own in seeded])
    sides = 2 / projection.rank if projection.rank < 9 else 0.0
    bound = (1 + sides) ** 2 * (1 + 2 / (projection.sketch or np.inf)) - 1
    assert float(products.var()) <= bound
    assert abs(float(products.mean()) - alike) < 5 * (bound / draws) ** 0.5


@LAW
@given(ranks, st.integers(1, 20), st.integers(1, 20), seeds)
def test_factored_equals_dense(rank: int, dim0: int, rest: int, seed: int) -> None:
    """vec(P_0 dW P_1^T) = (P_0 (x) P_1) vec(dW), row-major."""
    projection, layer = Projection(rank, seed), Layer("layer", "weight", (dim0, rest))
    grad = torch.from_numpy(np.random.default_rng(seed).standard_normal((dim0, rest)))
    dense = torch.kron(side_matrix(projection, layer.name, 0, dim0), side_matrix(projection, layer.name, 1, rest))
    torch.testing.assert_close(
        project_gradient(grad, layer, projection), dense @ grad.flatten(), rtol=1e-10, atol=1e-10
    )
