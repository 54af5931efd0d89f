"""The layout of a row against plain slicing, and stored rows: float16 times a power of two, with error bounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from madcore import RowLayout
from madcore.rows import from_half, to_half
from tests.reference import places
from tests.strategies import LAW, layouts, normal_rows, seeds


def assert_round_trip(rows: Tensor, layout: RowLayout) -> None:
    """Relative error 2^-11 within 29 octaves of a layer's largest entry, otherwise half of float16's smallest step."""
    half, scales = to_half(rows, layout)
    restored = from_half(half, scales, layout)
    assert half.dtype == torch.float16 and scales.dtype == torch.float32 and restored.dtype == torch.float32
    assert half.shape == rows.shape and scales.shape == (len(rows), len(layout.sizes))
    assert torch.isfinite(half).all()
    assert torch.equal(torch.frexp(scales).mantissa, torch.full_like(scales, 0.5))
    per_number = layout.spread(scales).double()
    bound = torch.maximum(rows.double().abs() * 2**-11, per_number * 2**-25)
    assert ((restored.double() - rows.double()).abs() <= bound).all()


@LAW
@given(layouts, seeds, st.integers(0, 4), st.lists(st.integers(-110, 120), min_size=4, max_size=4))
def test_round_trip(layout: RowLayout, seed: int, n: int, exponents: list[int]) -> None:
    magnitudes = layout.spread(torch.tensor([exponents[: len(layout.sizes)]]).float().exp2().expand(n, -1))
    assert_round_trip(normal_rows(seed, n, layout.k) * magnitudes, layout)


@LAW
@given(seeds, st.integers(-100, 100))
def test_entries_of_very_different_size_within_a_layer(seed: int, exponent: int) -> None:
    layout = RowLayout(("a", "b"), (6, 3))
    falling = torch.tensor([0, -3, -9, -20, -28, -35, 0, -1, -24]).float().exp2()
    assert_round_trip(normal_rows(seed, 3, 9).clamp(-4, 4) * falling * 2.0**exponent, layout)


@LAW
@given(layouts, seeds, st.integers(-20, 20))
def test_stored_rows_come_back_exactly(layout: RowLayout, seed: int, exponent: int) -> None:
    half, scales = to_half(normal_rows(seed, 3, layout.k) * 2.0**exponent, layout)
    again, scales_again = to_half(from_half(half, scales, layout), layout)
    assert torch.equal(from_half(again, scales_again, layout), from_half(half, scales, layout))


@LAW
@given(layouts, seeds, st.integers(-100, 100))
def test_a_layers_largest_number_lands_in_the_highest_octave_but_one(
    layout: RowLayout, seed: int, exponent: int
) -> None:
    """So float16 neither overflows by rounding nor loses octaves below."""
    half, _ = to_half(normal_rows(seed, 3, layout.k) * 2.0**exponent, layout)
    for block in layout.blocks(half.float()):
        assert (block.abs().amax(dim=1) >= 2**14).all() and (block.abs() <= 2**15).all()


@pytest.mark.parametrize("exponent", [-120, -14, -1, 0, 1, 40, 126])
def test_powers_of_two_are_exact(exponent: int) -> None:
    layout = RowLayout(("a", "b"), (3, 1))
    rows = torch.tensor([[1.0, -0.5, 0.0, -(2.0**-6)], [2.0**-20, -1.0, 0.25, 1.0]]) * 2.0**exponent
    assert torch.equal(from_half(*to_half(rows, layout), layout), rows)


def test_scaling_a_row_by_a_power_of_two_changes_its_scales_only() -> None:
    layout = RowLayout(("a", "b"), (5, 4))
    rows = normal_rows(0, 6, 9)
    half, scales = to_half(rows, layout)
    scaled_half, scaled_scales = to_half(rows * 1024, layout)
    assert torch.equal(scaled_half, half)
    assert torch.equal(scaled_scales, scales * 1024)


def test_zero_rows_and_zero_layers_stay_zero() -> None:
    layout = RowLayout(("a", "b"), (2, 3))
    rows = torch.tensor([[0.0] * 5, [1.5, -1.0, 0.0, 0.0, 0.0]])
    half, scales = to_half(rows, layout)
    assert torch.isfinite(scales).all() and (scales > 0).all()
    assert torch.equal(from_half(half, scales, layout), rows)


@pytest.mark.parametrize("magnitude", [2.0**-149, 1e-44, 1e-38, 1e-30, 1e30, 1e38, 3.3e38])
def test_huge_and_tiny_magnitudes(magnitude: float) -> None:
    layout = RowLayout(("a", "b"), (3, 1))
    rows = torch.tensor([[1.0, -0.7, 0.1, 1.0]]) * magnitude
    assert_round_trip(rows, layout)


def test_a_layers_largest_number_does_not_round_another_layers() -> None:
    layout = RowLayout(("a", "b"), (2, 2))
    rows = torch.tensor([[1e30, 1.0, 1e-9, 3e-9]])
    restored = from_half(*to_half(rows, layout), layout)
    torch.testing.assert_close(restored[:, 2:], rows[:, 2:], rtol=2**-11, atol=0)
    assert restored[0, 1] == 0


@LAW
@given(layouts, seeds, st.integers(0, 3))
def test_blocks_norms_and_spread_follow_the_slices(layout: RowLayout, seed: int, n: int) -> None:
    rows, found = normal_rows(seed, n, layout.k), places(layout.sizes)
    assert layout.slices == tuple(found) and layout.k == found[-1].stop
    for index, place in enumerate(found):
        assert torch.equal(layout.blocks(rows)[index], rows[:, place])
        torch.testing.assert_close(
            layout.layer_norms(rows)[:, index], rows[:, place].double().square().sum(dim=1).sqrt()
        )
        assert (
            layout.spread(layout.layer_norms(rows))[:, place] == layout.layer_norms(rows)[:, index : index + 1]
        ).all()
