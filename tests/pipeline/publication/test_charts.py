"""The geometry of charts: bars, ticks, and lines over runs."""

import re

import pytest

from pipeline.publication.charts import Plot, plot


def test_bars_are_shares_of_their_own_total_on_a_square_root_scale() -> None:
    drawn = plot([0.0, 1.0, 2.0], [1, 4], [300, 1200], 5.0)
    assert isinstance(drawn, Plot)
    assert drawn.calibration == drawn.audited
    heights = [252 - float(top) for top in re.findall(r"V([\d.]+) H", drawn.audited)]
    assert heights == pytest.approx([190 / 2, 190])
    assert drawn.threshold == 704
    assert [label for _, label in drawn.x_ticks] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("low", "high"), [(-1e-9, 1e-9), (-0.95, 0.44), (12345.0, 12346.0), (-3e7, 8e7)])
def test_axes_have_a_few_labels_inside_the_frame(low: float, high: float) -> None:
    drawn = plot([low, (low + high) / 2, high], [1, 0], [1, 999], None)
    assert drawn is not None
    labels = [label for _, label in drawn.x_ticks]
    assert 3 <= len(set(labels)) == len(labels) <= 9
    assert all(68 <= x <= 704 for x, _ in drawn.x_ticks)
    assert all(62 <= y <= 252 for y, _ in drawn.y_ticks)
