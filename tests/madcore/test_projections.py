"""Projection matrices: the same everywhere, keyed by all they depend on, unbiased; rows of small sides are kept whole."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madcore import Layer, Projection
from madcore.coverage import project_gradient
from tests.reference import side_matrix
from tests.strategies import LAW, seeds

ranks, sizes = st.integers(1, 12), st.integers(1, 40)


def test_the_generator_is_frozen() -> None:
    """Stored rows of another night are compared with tonight's: a change of generator must be noticed."""
    signs = Projection(rank=16, seed=7).matrix("blocks.0.conv1.weight", 1, 145).sign().to(torch.int8).numpy().tobytes()
    assert hashlib.sha256(signs).hexdigest() == "afd0568f705d2819bc388be2e8f167b5fa32a098bb3091c5c3cc0003102d4561"


@LAW
@given(ranks, sizes, seeds, st.sampled_from([0, 1]))
def test_entries_are_plus_or_minus_one_over_root_rank(rank: int, size: int, seed: int, side: int) -> None:
    matrix = Projection(rank, seed).matrix("layer.weight", side, size)
    if size <= rank:
        assert matrix is None
    else:
        assert matrix.dtype == torch.float64 and matrix.device.type == "cpu"
        assert matrix.shape == (rank, size)
        torch.testing.assert_close(matrix.abs(), torch.full((rank, size), rank**-0.5, dtype=torch.float64), rtol=1e-15, atol=0)


@LAW
@given(ranks, sizes, seeds)
def test_a_side_keeps_as_many_numbers_as_its_matrix_has_rows(rank: int, size: int, seed: int) -> None:
    assert Projection(rank, seed).kept(size) == side_matrix(Projection(rank, seed), "layer.weight", 0, size).shape[0]


def test_the_same_key_gives_the_same_matrix() -> None:
    assert torch.equal(Projection(16, 5).matrix("a.weight", 0, 200), Projection(16, 5).matrix("a.weight", 0, 200))


OTHER_KEYS = {"seed": (6, "a.weight", 0), "parameter": (5, "b.weight", 0), "side": (5, "a.weight", 1), "digits move": (51, "a.weight", 0)}


@pytest.mark.parametrize(("seed", "parameter", "side"), OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_another_key_gives_an_unrelated_matrix(seed: int, parameter: str, side: int) -> None:
    signs = Projection(16, 5).matrix("a.weight", 0, 400).sign()
    agreement = (signs == Projection(16, seed).matrix(parameter, side, 400).sign()).double().mean()
    assert abs(float(agreement) - 0.5) < 5 * 0.5 / (16 * 400) ** 0.5


def test_inner_products_are_kept_in_expectation() -> None:
    """E[P^T P] = I: each entry of the mean over S seeds has variance (1 - [i = j]) / (rank S)."""
    rank, size, draws = 4, 9, 2000
    grams = torch.stack([matrix.T @ matrix for matrix in (Projection(rank, seed).matrix("layer.weight", 0, size) for seed in range(draws))])
    off_diagonal = ~torch.eye(size, dtype=torch.bool)
    bound = 5 * (rank * draws) ** -0.5
    torch.testing.assert_close(grams.diagonal(dim1=1, dim2=2), torch.ones(draws, size, dtype=torch.float64))
    assert float(grams.mean(dim=0)[off_diagonal].abs().max()) < bound
    spread = float(grams[:, off_diagonal].square().mean())
    assert abs(spread - 1 / rank) < 0.02


@LAW
@given(ranks, st.integers(1, 20), st.integers(1, 20), seeds)
def test_factored_equals_dense(rank: int, dim0: int, rest: int, seed: int) -> None:
    """vec(P_0 dW P_1^T) = (P_0 (x) P_1) vec(dW), row-major."""
    projection, layer = Projection(rank, seed), Layer("layer", "weight", (dim0, rest))
    grad = torch.from_numpy(np.random.default_rng(seed).standard_normal((dim0, rest)))
    dense = torch.kron(side_matrix(projection, layer.name, 0, dim0), side_matrix(projection, layer.name, 1, rest))
    torch.testing.assert_close(project_gradient(grad, layer, projection), dense @ grad.flatten(), rtol=1e-10, atol=1e-10)
