"""Hooked rows beside autograd's: which are right, doubtful, faint, zero."""

import torch
from torch import Tensor, nn

from madcore.coverage.expected import ZERO, Compared
from madcore.extraction.selection import select_layers
from tests.madcore.coverage.test_layers import check
from tests.madcore.models import batch_of, with_head

LARGEST_B = torch.tensor([2.0, 4.0], dtype=torch.float64)


def compared(size: float, gap: float) -> Compared:
    """Rows of a layer of which both samples' norms are `size`, and the differences `gap`, each times their largest."""
    sizes_b = size * LARGEST_B
    return Compared(gap * LARGEST_B, sizes_b, sizes_b, LARGEST_B)


def test_rows_that_are_equal_and_no_rounding_are_right() -> None:
    rows = compared(0.5, 1e-5)
    assert rows.reason is None
    assert not rows.doubtful
    assert not rows.faint


def test_what_rounding_can_make_is_doubtful_and_what_it_cannot_is_wrong() -> None:
    assert compared(0.5, 0.05).doubtful
    assert not compared(0.5, 0.4).doubtful
    assert compared(0.5, 0.4).reason == "its hooked gradient differs from autograd's by 0.8 of its norm"


def test_rows_below_rounding_are_zero_where_they_differ_and_faint_where_they_happen_to_be_equal() -> None:
    assert compared(1e-7, 1e-7).reason == ZERO
    assert compared(1e-7, 0).reason is None
    assert compared(1e-7, 0).faint
    assert not compared(1e-7, 0).vanishes
    assert compared(1e-13, 0).vanishes


def test_rows_that_are_zero_exactly_are_those_of_a_part_that_no_sample_used() -> None:
    assert not compared(0, 0).faint
    assert compared(0, 0).reason is None


class Weighted(nn.Module):
    """A linear map, and what another matrix makes of the input, taken with a weight that is a sum."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.inner, self.weight, self.weights = nn.Linear(6, 5), nn.Parameter(torch.empty(5, 6)), weights

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) to (n, 5)."""
        weight = sum(map(x.new_tensor, self.weights))
        return self.inner(x) + weight * (x[:, None] * self.weight).sum(2)


def not_covered(body: nn.Module) -> dict[str, str]:
    """Which of the body's matrices a float32 model of it does not cover, and why."""
    model = with_head(body, (6,)).float()
    return check(model, select_layers(model), batch_of(3, (6,)).float()).not_covered


def test_a_gradient_that_rounds_alike_in_both_is_decided_in_float64() -> None:
    """The weights' sum is zero, and 6e-8 in float32, by hooks and by autograd."""
    assert not_covered(Weighted(0.3, 0.6, -0.9)) == {"0.weight": ZERO}
    assert not_covered(Weighted(6e-8)) == {}
