"""The split, and conformal p-values: against the definition, and valid by simulation."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from madcore import CalibrationError, p_values, split_order
from madcore.scoring.calibration import (
    calibration_size,
    check_target,
    exceedances,
    largest_rank,
    needed_calibration,
    threshold,
)
from tests.reference import p_value
from tests.strategies import LAW

coarse = st.integers(-3, 3).map(float)


scores = st.lists(coarse, max_size=8)


calibrations = st.lists(coarse, min_size=1, max_size=12)


alphas = st.one_of(
    st.floats(1e-4, 0.9),
    st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.25, 1 / 3, 0.7, 0.001]),
    st.integers(2, 3000).map(lambda n: 1 / n),
)


names = st.lists(st.text(max_size=5), unique=True, max_size=20)


@LAW
@given(scores, calibrations)
def test_p_values_equal_the_definition_with_ties(audited: list[float], calibration: list[float]) -> None:
    p = p_values(np.array(audited), np.array(calibration))
    assert p.dtype == np.float64
    assert p.tolist() == [p_value(score, calibration) for score in audited]
    counts = exceedances(np.array(audited), np.array(calibration))
    assert counts.tolist() == [sum(other >= score for other in calibration) for score in audited]


def exchangeable(rng: np.random.Generator, ties: bool, n: int) -> np.ndarray:
    """n scores of one skewed distribution, continuous or of few values."""
    return rng.poisson(2.0, n).astype(float) if ties else rng.gamma(2.0, size=n)


@pytest.mark.parametrize("ties", [False, True], ids=["continuous", "ties"])
@pytest.mark.parametrize(("calibration", "alpha"), [(99, 0.05), (99, 0.01), (60, 0.05), (19, 0.5)])
def test_p_values_are_valid(calibration: int, alpha: float, ties: bool) -> None:
    """P(p <= alpha) <= alpha over 2,000 calibration parts, within binomial bounds; k / (M + 1) without ties."""
    draws, rejected = 2000, 0
    for seed in range(draws):
        drawn = exchangeable(np.random.default_rng(seed), ties, calibration + 1)
        rejected += int(p_values(drawn[:1], drawn[1:])[0] <= alpha)
    assert rejected <= stats.binom.ppf(1 - 1e-6, draws, alpha)
    assert ties or rejected >= stats.binom.ppf(1e-6, draws, largest_rank(alpha, calibration) / (calibration + 1))


@LAW
@given(alphas, st.integers(0, 3000))
def test_largest_rank_is_the_largest_that_floating_point_accepts(alpha: float, calibration: int) -> None:
    accepted = np.arange(1, calibration + 2) / (calibration + 1) <= alpha
    assert largest_rank(alpha, calibration) == int(accepted.sum())


@pytest.mark.parametrize(
    ("alpha", "calibration", "rank"),
    [(0.01, 99, 1), (0.01, 98, 0), (0.07, 99, 7), (0.29, 99, 29), (0.01, 600, 6), (0.5, 1, 1)],
)
def test_largest_rank_where_a_product_would_round_wrongly(alpha: float, calibration: int, rank: int) -> None:
    assert largest_rank(alpha, calibration) == rank


@LAW
@given(alphas)
def test_needed_calibration_is_the_fewest_that_can_reach_the_target(alpha: float) -> None:
    fewest = needed_calibration(alpha)
    assert 1 / (fewest + 1) <= alpha
    assert fewest == 1 or 1 / fewest > alpha


@pytest.mark.parametrize(("alpha", "needed"), [(0.01, 99), (0.05, 19), (0.001, 999), (0.5, 1), (0.3, 3), (1 / 49, 48)])
def test_needed_calibration_of_common_targets(alpha: float, needed: int) -> None:
    assert needed_calibration(alpha) == needed


@LAW
@given(alphas, st.integers(1, 2000), st.integers(0, 5000))
def test_a_target_is_refused_exactly_when_it_needs_more(alpha: float, calibration: int, samples: int) -> None:
    if calibration >= needed_calibration(alpha):
        check_target(alpha, calibration, samples)
    else:
        with pytest.raises(CalibrationError, match=f"needs at least {needed_calibration(alpha)} calibration samples"):
            check_target(alpha, calibration, samples)


def test_the_refusal_holds_all_numbers() -> None:
    expected = (
        "the target 0.01 is out of reach: the smallest p-value that 30 calibration samples (of 100 trusted) can give "
        "is 1/31 = 0.0323, and 0.01 needs at least 99 calibration samples"
    )
    with pytest.raises(CalibrationError, match=re.escape(expected)):
        check_target(0.01, 30, 100)


@LAW
@given(scores, calibrations, st.floats(0.01, 0.95))
def test_above_the_threshold_means_flagged(audited: list[float], calibration: list[float], alpha: float) -> None:
    limit = threshold(np.array(calibration), largest_rank(alpha, len(calibration)))
    above = [limit is not None and score > limit for score in audited]
    assert above == (p_values(np.array(audited), np.array(calibration)) <= alpha).tolist()


def test_the_threshold_is_the_kth_largest_score() -> None:
    calibration = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    assert [threshold(calibration, rank) for rank in range(6)] == [None, 5.0, 4.0, 3.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("samples", "fraction", "size"), [(100, 0.3, 30), (0, 0.3, 0), (7, 0.5, 4), (5, 0.5, 2), (10, 0.26, 3)]
)
def test_calibration_size_is_rounded(samples: int, fraction: float, size: int) -> None:
    assert calibration_size(samples, fraction) == size


@LAW
@given(names, st.integers(0, 2**70))
def test_split_order_is_a_permutation_that_ignores_the_order_given(ids: list[str], seed: int) -> None:
    order = split_order(ids, seed)
    assert sorted(order) == list(range(len(ids)))
    backwards = ids[::-1]
    assert [backwards[i] for i in split_order(backwards, seed)] == [ids[i] for i in order]


@LAW
@given(names, st.text(max_size=6), st.integers(0, 1000))
def test_an_added_id_does_not_reorder_the_others(ids: list[str], added: str, seed: int) -> None:
    if added not in ids:
        longer = [*ids, added]
        assert [longer[i] for i in split_order(longer, seed) if longer[i] != added] == [
            ids[i] for i in split_order(ids, seed)
        ]


def test_the_split_depends_on_the_seed_and_is_frozen() -> None:
    ids = [f"sample-{i}" for i in range(12)]
    assert split_order(ids, 0) == [3, 10, 4, 6, 5, 9, 7, 11, 8, 1, 2, 0]
    assert len({tuple(split_order(ids, seed)) for seed in range(50)}) == 50


def test_the_split_is_not_related_to_the_ids() -> None:
    """Over 400 seeds, an id is in the first third as often as any other."""
    ids, draws = [f"{i:03}" for i in range(30)], 400
    first = np.bincount(np.concatenate([split_order(ids, seed)[:10] for seed in range(draws)]), minlength=30)
    assert first.sum() == 10 * draws
    assert stats.binom.ppf(1e-6, draws, 1 / 3) <= first.min() and first.max() <= stats.binom.ppf(1 - 1e-6, draws, 1 / 3)
