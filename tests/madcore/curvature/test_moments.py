"""The block moment is a monoid, equal to the dense second moment of the rows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from madcore import BlockMoment, RowLayout
from madcore.curvature.moments import sum_of
from tests.reference import block_moment
from tests.strategies import LAW, layouts, normal_rows, seeds


def moment_of(layout: RowLayout, rows: Tensor) -> BlockMoment:
    """The moment of these rows, in one update."""
    return BlockMoment.zero(layout).update(rows)


def assert_same(one: BlockMoment, other: BlockMoment) -> None:
    """Equal counts, and sums equal up to the rounding of float64."""
    assert one.layout == other.layout and one.count == other.count
    for a, b in zip(one.parts, other.parts, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(sum_of(a, one.count), sum_of(b, other.count), rtol=1e-12, atol=1e-12)


@LAW
@given(layouts, seeds, st.integers(1, 8))
def test_equals_the_dense_second_moment(layout: RowLayout, seed: int, m: int) -> None:
    rows = normal_rows(seed, m, layout.k)
    for block, expected in zip(
        moment_of(layout, rows).finalize(), block_moment(rows.double().numpy(), layout.sizes), strict=True
    ):
        assert block.dense.dtype == torch.float64
        np.testing.assert_allclose(block.dense.numpy(), expected, rtol=1e-12, atol=1e-12)


@LAW
@given(layouts, seeds, st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_regrouping_changes_nothing(layout: RowLayout, seed: int, parts: list[int]) -> None:
    rows = normal_rows(seed, sum(parts), layout.k)
    moments = [moment_of(layout, part) for part in rows.split(parts)]
    updated, left, right = BlockMoment.zero(layout), BlockMoment.zero(layout), BlockMoment.zero(layout)
    for part in rows.split(parts):
        updated = updated.update(part)
    for moment in moments:
        left = left.merge(moment)
    for moment in moments[::-1]:
        right = moment.merge(right)
    for regrouped in (updated, left, right):
        assert_same(regrouped, moment_of(layout, rows))


@LAW
@given(layouts, seeds, st.integers(0, 5), st.integers(0, 5))
def test_order_changes_nothing_and_zero_is_neutral(layout: RowLayout, seed: int, n: int, m: int) -> None:
    one, other, zero = (
        moment_of(layout, normal_rows(seed, n, layout.k)),
        moment_of(layout, normal_rows(seed + 1, m, layout.k)),
        BlockMoment.zero(layout),
    )
    assert_same(one.merge(other), other.merge(one))
    assert_same(one.merge(zero), one)
    assert_same(zero.merge(one), one)


def test_many_rows_do_not_lose_small_ones() -> None:
    """Accumulation is in float64: in float32 the second row would vanish next to the first."""
    layout = RowLayout(("a",), (1,))
    assert float(moment_of(layout, torch.tensor([[1e4], [1.0]])).parts[0]) == 1e8 + 1


def test_no_rows_have_no_moment() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        BlockMoment.zero(RowLayout(("a",), (2,))).finalize()
