"""Batches and checks that several test modules of `madcore` share."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from madcore import (
    Coverage,
    Measured,
    Projection,
    RowExtractor,
    TokenBatch,
    check_layers,
    margin,
    select_layers,
)
from tests.madcore.models import LayerCase, batch_of
from tests.reference import autograd_rows

BELOW, ABOVE = Projection(rank=2, seed=3), Projection(rank=200, seed=3)
RANKS = pytest.mark.parametrize("projection", [BELOW, ABOVE], ids=["rank below the sides", "rank above the sides"])


def hooked_rows(model: nn.Module, batch: Tensor, projection: Projection) -> Tensor:
    """Rows of all parameters of the model."""
    return RowExtractor(model, select_layers(model, parameters="all").covered, projection)(Measured(batch, margin)).rows


def assert_equals_autograd(
    model: nn.Module, batch: Tensor, projection: Projection, twin: nn.Module | None = None
) -> None:
    """Every parameter is covered, and rows equal those of the loop to 1e-10."""
    coverage = select_layers(model, parameters="all")
    assert [layer.name for layer in coverage.covered] == [
        name for name, _ in model.named_parameters()
    ] and not coverage.not_covered
    expected = autograd_rows(twin or model, coverage.covered, batch, projection)
    rows = hooked_rows(model, batch, projection)
    assert rows.dtype == torch.float64 and rows.shape == expected.shape
    assert expected.abs().sum() > 0
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-10)


def covered(model: nn.Module, case: LayerCase) -> Coverage:
    """All that the self-check covers, on three samples."""
    samples = batch_of(3, case.sample_shape, seed=5).split(1)
    return check_layers(
        model,
        select_layers(model, parameters="all"),
        samples,
        lambda chosen: Measured(torch.cat(list(chosen)), margin),
        ABOVE,
    )


def tokens_of(samples: Sequence[tuple[Tensor, int]], padded_length: int | None = None) -> TokenBatch:
    """Right-padded token sequences with the starts of their completions."""
    ids, starts = zip(*samples, strict=True)
    return TokenBatch.of(ids, starts, padded_length)
