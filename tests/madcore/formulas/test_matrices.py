"""Linear layers and embeddings: projected gradients equal outer products written out, and autograd's for any table."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from madcore import select_layers
from madcore.formulas.matrices import (
    EmbeddingWeight,
    Formula,
    LinearWeight,
    OuterProductFormula,
    Sides,
    TransposedLinearWeight,
    joined,
    outer,
)
from madcore.formulas.norms import Axes, Bias
from madcore.projections import Projection
from tests.madcore.checks import ABOVE, BELOW, hooked_rows
from tests.madcore.kinds import Looks
from tests.madcore.models import batch_of, with_head
from tests.reference import autograd_rows
from tests.strategies import LAW, seeds


@LAW
@given(st.integers(1, 9), st.integers(1, 6), st.lists(st.integers(1, 4), max_size=3), st.booleans(), seeds)
def test_any_embedding(vocabulary: int, size: int, positions: list[int], padded: bool, seed: int) -> None:
    table = nn.Embedding(vocabulary, size, padding_idx=seed % vocabulary if padded else None)
    model, batch = (
        with_head(nn.Sequential(Looks(table), nn.Tanh()), tuple(positions), seed),
        batch_of(2, tuple(positions), seed),
    )
    layers = select_layers(model, parameters="all").covered
    for projection in (BELOW, ABOVE):
        torch.testing.assert_close(
            hooked_rows(model, batch, projection),
            autograd_rows(model, layers, batch, projection),
            rtol=1e-10,
            atol=1e-10,
        )


WHOLE, NARROW = Sides(None, None), Sides(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0, -1.0]]))


def test_outer_products_by_hand() -> None:
    """Two positions: (1, 2) (x) (3, 4, 5) + (10, 20) (x) (1, 0, 1)."""
    first, second = torch.tensor([[[1.0, 2.0], [10.0, 20.0]]]), torch.tensor([[[3.0, 4.0, 5.0], [1.0, 0.0, 1.0]]])
    expected = [[[13.0, 4.0, 15.0], [26.0, 8.0, 30.0]]]
    assert joined((first, second)).tolist() == expected
    assert outer(first.transpose(1, 2), second.transpose(1, 2)).tolist() == expected


@pytest.mark.parametrize("sides", [WHOLE, NARROW], ids=["whole", "projected"])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 2, 5)])
def test_a_linear_weight_sums_over_positions(shape: tuple[int, ...], sides: Sides) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, grads = torch.randn(*shape, 3, generator=generator), torch.randn(*shape, 2, generator=generator)
    expected = torch.stack(
        [
            sum(torch.outer(d, a) for d, a in zip(ds.reshape(-1, 2), xs.reshape(-1, 3), strict=True))
            for ds, xs in zip(grads, inputs, strict=True)
        ]
    )
    if sides is NARROW:
        expected = sides.p0 @ expected @ sides.p1.T
    weight = LinearWeight((2, 3))
    torch.testing.assert_close(weight.row(weight.save(inputs, sides), grads, sides), expected)
    flipped, transposed = Sides(sides.p1, sides.p0), TransposedLinearWeight((3, 2))
    row = transposed.row(transposed.save(inputs, flipped), grads, flipped)
    torch.testing.assert_close(row, expected.transpose(1, 2))


@pytest.mark.parametrize(
    "formula", [LinearWeight((2, 3)), TransposedLinearWeight((3, 2)), EmbeddingWeight((9, 2), None, 1.0)]
)
def test_what_is_saved_is_no_alias_of_the_input(formula: Formula) -> None:
    inputs = torch.ones(2, 3, dtype=torch.int64 if isinstance(formula, EmbeddingWeight) else torch.float32)
    saved = formula.save(inputs, WHOLE)
    inputs.zero_()
    assert (saved == 1).all()


def test_an_embedding_sums_by_id_and_skips_padding() -> None:
    """By hand: id 2 twice in the first sample, the padding id 0 without a gradient, all scaled by 3."""
    ids, grads = torch.tensor([[2, 0, 2], [1, 1, 0]]), torch.arange(6.0).reshape(2, 3, 1)
    table = EmbeddingWeight((3, 1), 0, 3.0)
    row = table.row(table.save(ids, WHOLE), grads, WHOLE)
    assert row.squeeze(2).tolist() == [[0.0, 0.0, 6.0], [0.0, 21.0, 0.0]]
    p0 = torch.tensor([[1.0, 10.0, 100.0]])
    assert table.row(table.save(ids, WHOLE), grads, Sides(p0, None)).flatten().tolist() == [600.0, 210.0]


def test_only_sums_of_outer_products_have_two_sides() -> None:
    assert isinstance(LinearWeight((2, 3)), OuterProductFormula)
    assert not isinstance(Bias(Axes((2,), last=True)), OuterProductFormula)


def test_numbers_are_flattened_row_by_row_and_hashed() -> None:
    projected = torch.arange(12.0).reshape(1, 3, 4)
    assert WHOLE.numbers(projected).tolist() == [list(range(12))]
    sketch = Projection(rank=4, sketch=5).sketch_of("a.weight", (3, 4))
    assert sketch is not None
    sums = [0.0] * 5
    for turn, (number, sign) in enumerate(zip(sketch.order.tolist(), sketch.signs.tolist(), strict=True)):
        sums[turn % 5] += sign * number
    assert Sides(None, None, sketch).numbers(projected).tolist() == [sums]
