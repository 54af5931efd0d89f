"""The bounds that the realised FPR of a clean twin is held against."""

import numpy as np
import pytest
from scipy.stats import betabinom

from madcore import p_values
from tests.breadth.planted import BROKEN, Found, assert_calibrated, flagged_bounds

CLEAN, CALIBRATION, FIRST = 200, 150, 7  # 7 of 151 ranks are at most 5 %


def test_bounds_are_those_of_exchangeable_scores() -> None:
    low, high = flagged_bounds(CLEAN, CALIBRATION)
    chance = betabinom(CLEAN, FIRST, CALIBRATION + 1 - FIRST)
    assert chance.cdf(low - 1) + chance.sf(high) <= BROKEN
    assert chance.cdf(low) + chance.sf(high - 1) > BROKEN / 2, "the bounds are no wider than they must be"
    rng, counts = np.random.default_rng(0), []
    for _ in range(2000):
        scores = rng.normal(size=CLEAN + CALIBRATION)
        counts.append(int((p_values(scores[:CLEAN], scores[CLEAN:]) <= 0.05).sum()))
    assert np.mean(counts) == pytest.approx(chance.mean(), rel=0.06)
    assert np.var(counts) == pytest.approx(chance.var(), rel=0.2)
    assert np.mean([low <= count <= high for count in counts]) > 1 - 3 / 2000


@pytest.mark.parametrize("fpr", [0.0, 0.3])
def test_a_rate_that_cannot_be_chance_fails(fpr: float) -> None:
    low, high = flagged_bounds(2000, 1500)
    assert 0 < low < 100 < high < 200
    with pytest.raises(AssertionError, match="within chance"):
        assert_calibrated(Found(1.0, 0.5, fpr, 2000, 1500))
    assert_calibrated(Found(1.0, 0.5, 0.05, 2000, 1500))
