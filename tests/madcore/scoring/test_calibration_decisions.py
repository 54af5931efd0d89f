"""q-values against scipy, and the number of flags by chance against scipy's beta-binomial and a simulation."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from madcore import p_values
from madcore.scoring.calibration import exceedances, flag_count_tail, q_values_by_exceedances, smallest_certified_group
from tests.strategies import LAW

coarse = st.integers(-5, 5).map(float)


@LAW
@given(st.lists(coarse, min_size=1, max_size=30), st.lists(coarse, min_size=1, max_size=15))
def test_q_values_are_those_of_benjamini_and_hochberg(audited: list[float], calibration: list[float]) -> None:
    scores, reference = np.array(audited), np.array(calibration)
    found = exceedances(scores, reference)
    q = q_values_by_exceedances(np.bincount(found, minlength=len(calibration) + 1))
    assert q.shape == (len(calibration) + 1,)
    np.testing.assert_allclose(q[found], stats.false_discovery_control(p_values(scores, reference)), rtol=1e-12)


@LAW
@given(st.lists(st.integers(0, 5), min_size=1, max_size=15))
def test_q_values_rise_with_p_values_and_are_never_smaller(counts: list[int]) -> None:
    q, p = q_values_by_exceedances(np.array(counts)), np.arange(1, len(counts) + 1) / len(counts)
    assert (np.diff(q) >= 0).all() and (q <= 1).all()
    occurring = np.array(counts) > 0
    assert (q[occurring] >= p[occurring] - 1e-12).all()


def fewest_flagged(alpha: float, calibration: int, samples: int) -> int:
    """The smallest group of most extreme samples that Benjamini-Hochberg flags, by trying every size."""
    for group in range(1, samples + 1):
        counts = np.zeros(calibration + 1, dtype=np.int64)
        counts[0], counts[-1] = group, samples - group
        if q_values_by_exceedances(counts)[0] <= alpha:
            return group
    return samples + 1


@LAW
@given(st.floats(0.01, 0.5), st.integers(2, 60), st.integers(1, 60))
def test_the_smallest_certified_group_is_the_smallest_that_is_flagged(
    alpha: float, calibration: int, samples: int
) -> None:
    group = smallest_certified_group(alpha, calibration, samples)
    assume(abs(samples / (alpha * (calibration + 1)) - round(samples / (alpha * (calibration + 1)))) > 1e-9)
    assert min(group, samples + 1) == fewest_flagged(alpha, calibration, samples)


def test_the_smallest_certified_group_of_the_method_page() -> None:
    assert smallest_certified_group(0.01, 600, 1_000_000) == 166_390


def test_the_smallest_certified_group_at_the_edge() -> None:
    assert fewest_flagged(0.29, 99, 29) == 1
    assert smallest_certified_group(0.29, 99, 29) == 1


@LAW
@given(st.data())
def test_flag_count_tail_is_that_of_the_beta_binomial(data: st.DataObject) -> None:
    calibration = data.draw(st.integers(1, 300))
    rank, audited = data.draw(st.integers(1, calibration)), data.draw(st.integers(1, 400))
    flagged = data.draw(st.integers(0, audited + 1))
    expected = stats.betabinom(audited, rank, calibration + 1 - rank).sf(flagged - 1)
    assert flag_count_tail(flagged, audited, rank, calibration) == pytest.approx(expected, rel=1e-7, abs=1e-12)


AUDITS = [(3, 1000, 1, 600), (20_000, 1_000_000, 6, 600), (60, 5000, 6, 599), (900, 1000, 2, 300)]


@pytest.mark.parametrize(("flagged", "audited", "rank", "calibration"), AUDITS)
def test_flag_count_tail_at_the_sizes_of_an_audit(flagged: int, audited: int, rank: int, calibration: int) -> None:
    expected = stats.betabinom(audited, rank, calibration + 1 - rank).sf(flagged - 1)
    assert flag_count_tail(flagged, audited, rank, calibration) == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_flag_count_tail_by_simulation() -> None:
    """4,000 audits of 50 samples like the calibration part of 99, at rank 5: how often at least x are flagged."""
    calibration, audited, rank, draws = 99, 50, 5, 4000
    scores = np.random.default_rng(0).standard_normal((draws, calibration + audited))
    flagged = np.array(
        [(p_values(row[calibration:], row[:calibration]) <= rank / (calibration + 1)).sum() for row in scores]
    )
    for x in (0, 1, 3, 6, 10):
        tail = flag_count_tail(x, audited, rank, calibration)
        assert stats.binom.ppf(1e-6, draws, tail) <= (flagged >= x).sum() <= stats.binom.ppf(1 - 1e-6, draws, tail)


def test_rank_zero_flags_no_sample() -> None:
    assert flag_count_tail(1, 100, 0, 30) == 0.0
