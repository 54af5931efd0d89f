"""Rows re-projected to a lower rank are the rows of that rank, of every kind of layer."""

import math

import pytest
import torch

from madcore import Measured, ModelError, Projection, RowExtractor, margin
from madcore.projections import ProjectionKind
from madcore.reprojection import Reprojection
from madcore.rows import Layer
from tests.madcore.checks import covered
from tests.madcore.models import LAYER_CASES, LayerCase, batch_of, with_head
from tests.madcore.zoo import BY_FALLBACK, ZOO

CASES = {**LAYER_CASES, **ZOO, **{name: case for name, (case, _) in BY_FALLBACK.items()}}


KINDS = pytest.mark.parametrize("kind", ["rademacher", "gaussian"])


pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:None of the inputs have requires_grad"
    ),  # of reentrant checkpoints, before the pass is tried another way
    pytest.mark.filterwarnings(
        "ignore:There is a performance drop"
    ),  # of modules that vmap has no rule for, before they go one by one
]


@KINDS
@pytest.mark.parametrize(("rank", "lower", "size"), [(8, 4, 9), (7, 3, 11), (5, 1, 7), (65, 64, 67)])
def test_a_matrix_of_a_lower_rank_is_the_first_rows_of_one_of_a_higher(
    kind: ProjectionKind, rank: int, lower: int, size: int
) -> None:
    higher_rs, lower_rs = (Projection(one, 3, kind).matrix("a.weight", 1, size) for one in (rank, lower))
    assert higher_rs is not None
    assert lower_rs is not None
    torch.testing.assert_close(higher_rs[:lower] * math.sqrt(rank / lower), lower_rs, rtol=1e-12, atol=0)


@KINDS
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rows_equal_those_of_the_lower_rank(case: LayerCase, kind: ProjectionKind) -> None:
    model, batch = with_head(case.body(), case.sample_shape), Measured(batch_of(3, case.sample_shape), margin)
    layers = covered(model, case).covered
    for rank, lower in ((5, 2), (200, 3)):
        stored = RowExtractor(model, layers, Projection(rank, 3, kind))
        wanted = RowExtractor(model, layers, Projection(lower, 3, kind))
        reprojection = Reprojection.of(layers, Projection(rank, 3, kind), lower)
        assert (reprojection.stored, reprojection.layout) == (stored.layout, wanted.layout)
        torch.testing.assert_close(reprojection(stored(batch).rows), wanted(batch).rows, rtol=1e-9, atol=1e-9)


def test_no_rows_are_re_projected_to_no_rows() -> None:
    reprojection = Reprojection.of([Layer("a", "weight", (3, 9))], Projection(rank=4), 2)
    assert reprojection(torch.zeros(0, 12)).shape == (0, 4)


@pytest.mark.parametrize("rank", [0, -1, 4, 5])
def test_a_rank_that_is_not_below_is_refused(rank: int) -> None:
    with pytest.raises(ModelError, match=f"rows of rank 4 can be re-projected to ranks from 1 to 3, not to {rank}"):
        Reprojection.of([Layer("a", "weight", (3, 9))], Projection(rank=4), rank)


def test_hashed_rows_are_refused() -> None:
    with pytest.raises(ModelError, match=r"hashed to 16 numbers a layer .* cannot be re-projected to rank 2"):
        Reprojection.of([Layer("a", "weight", (3, 9))], Projection(rank=4, sketch=16), 2)
