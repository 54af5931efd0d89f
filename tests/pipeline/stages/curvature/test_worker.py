"""From a config's damping to a whitening, and the refusal of a curvature that cannot be inverted."""

import pytest
import torch

from madcore import BlockMoment, Damping, RowLayout
from pipeline.config.curvature import Absolute, RelativeMean
from pipeline.config.schema import CurvatureSection
from pipeline.errors import StageError
from pipeline.stages.curvature.worker import damping_of, whitening_of

LAYOUT = RowLayout(("first", "second"), (2, 1))


def test_a_config_has_one_damping() -> None:
    assert damping_of(CurvatureSection(damping=Absolute(kind="absolute", value=0.25))) == Damping("absolute", 0.25)
    assert damping_of(CurvatureSection(damping=RelativeMean(factor=2.0))) == Damping("relative_mean", 2.0)


def test_rows_are_whitened_by_the_damped_inverse_square_root() -> None:
    """Moments of four rows: diag(4, 1) and 9; with an absolute damping of 0, the rows are divided by 2, 1 and 3."""
    rows = torch.tensor([[4.0, 0.0, 3.0], [0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [0.0, 0.0, 3.0]])
    blocks = BlockMoment.zero(LAYOUT).update(rows).finalize()
    whitening = whitening_of(LAYOUT, blocks, Damping("absolute", 1e-12))
    expected = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(whitening(rows), expected, atol=1e-5, rtol=1e-5)


def test_a_layer_that_cannot_be_inverted_is_named_with_its_numbers() -> None:
    blocks = BlockMoment.zero(LAYOUT).update(torch.tensor([[1.0, 1.0, 0.0]])).finalize()
    with pytest.raises(StageError) as refusal:
        whitening_of(LAYOUT, blocks, Damping("absolute", 1e-300))
    assert "the curvature of 2 layers cannot be inverted in float32, first that of first" in str(refusal.value)
    assert "(mean eigenvalue 1, damping 1e-300); raise curvature.damping" in str(refusal.value)
