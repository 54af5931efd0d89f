"""From scores to decisions: the split, conformal p-values, q-values, and the number of flags expected by chance.

Sources: split-conformal p-values and their validity, Bates et al. 2023 (arXiv 2104.08279); q-values, Benjamini &
Hochberg 1995. M is the number of calibration samples, n of audited ones, alpha a target.
"""

import hashlib
from collections.abc import Sequence
from math import ceil, lgamma

import numpy as np
from numpy.typing import NDArray

from madcore.errors import CalibrationError

Floats = NDArray[np.float64]


def calibration_size(samples: int, fraction: float) -> int:
    """Return how many of the readable trusted samples form the calibration part: round(fraction x samples)."""
    return round(fraction * samples)


def split_order(ids: Sequence[str], seed: int) -> list[int]:
    """Return the indices of the ids, sorted by a digest keyed by the seed.

    The order of two ids does not depend on the others, so a sample added to the trusted set moves few others to the
    other part.
    """
    key = f"mad-split/{seed}".encode()
    digests = [hashlib.blake2b(name.encode(), key=key, digest_size=16).digest() for name in ids]
    return sorted(range(len(ids)), key=lambda index: digests[index])


def exceedances(scores: Floats, calibration: Floats) -> NDArray[np.int64]:
    """Count, for each score (n,), the calibration scores (M,) that are at least as large, ties included."""
    ordered = np.sort(calibration)
    return len(ordered) - np.searchsorted(ordered, scores, side="left")


def p_values(scores: Floats, calibration: Floats) -> Floats:
    """Compute (1 + #{calibration >= score}) / (1 + M), shape (n,).

    P(p <= alpha) <= alpha for a sample that is exchangeable with the calibration part.
    """
    return (1 + exceedances(scores, calibration)) / (1 + len(calibration))


def largest_rank(alpha: float, calibration: int) -> int:
    """Return the largest k with k / (M + 1) <= alpha in float64: p <= alpha means at most k - 1 exceedances."""
    rank = int(alpha * (calibration + 1))
    return max(r for r in (rank - 1, rank, rank + 1) if r <= 0 or r / (calibration + 1) <= alpha)


def needed_calibration(alpha: float) -> int:
    """Return the fewest calibration samples with which a p-value can reach alpha: ceil(1 / alpha) - 1."""
    fewest = max(1, ceil(1 / alpha) - 2)
    while largest_rank(alpha, fewest) < 1:
        fewest += 1
    return fewest


def check_target(alpha: float, calibration: int, samples: int) -> None:
    """Check that M calibration samples of a trusted set of `samples` can reach a target.

    Raises:
        CalibrationError: they cannot; the message has the number of calibration samples that the target needs.
    """
    if largest_rank(alpha, calibration) < 1:
        needed, smallest = needed_calibration(alpha), 1 / (calibration + 1)
        raise CalibrationError(
            f"the target {alpha:g} is out of reach: the smallest p-value that {calibration} calibration samples "
            f"(of {samples} trusted) can give is 1/{calibration + 1} = {smallest:.3g}, "
            f"and {alpha:g} needs at least {needed} calibration samples"
        )


def threshold(calibration: Floats, rank: int) -> float | None:
    """Return the rank-th largest calibration score: samples above it have p <= rank / (M + 1). None for rank 0."""
    return None if rank < 1 else float(np.sort(calibration)[-rank])


def smallest_certified_group(alpha: float, calibration: int, samples: int) -> int:
    """Return the fewest samples that Benjamini-Hochberg at alpha can flag among n: ceil(n / (alpha (M + 1)))."""
    group = ceil(samples / (alpha * (calibration + 1)))
    return group - 1 if group > 1 and samples / (calibration + 1) / (group - 1) <= alpha else group


def q_values_by_exceedances(counts: NDArray[np.int64]) -> Floats:
    """Compute Benjamini-Hochberg q-values of conformal p-values, from how often each occurs.

    A conformal p-value takes only M + 1 values, so memory does not depend on n: `counts[e]` is the number of samples
    with e exceedances, e = 0..M.

    Returns:
        The q-value of a sample with e exceedances, shape (M + 1,).
    """
    levels = len(counts)
    total, ranks = counts.sum(), np.cumsum(counts)
    p = np.arange(1, levels + 1) / levels
    raw = np.where(ranks > 0, p * total / np.maximum(ranks, 1), 1.0)
    return np.minimum(1.0, np.minimum.accumulate(raw[::-1])[::-1])


def flag_count_tail(flagged: int, audited: int, rank: int, calibration: int) -> float:
    """Return P(at least `flagged` of n audited samples have p <= rank / (M + 1)), all being like the calibration part.

    The flags share one calibration part: with k the rank, their number is beta-binomial(n, k, M + 1 - k). Its upper
    tail is summed exactly in k terms: at least x audited samples exceed the k-th largest calibration score if and only
    if, among the top x + k - 1 of all n + M scores, at most k - 1 are calibration scores, a hypergeometric event.
    """
    if flagged <= 0 or rank < 1 or flagged > audited:
        return 1.0 if flagged <= 0 else 0.0
    top, total = flagged + rank - 1, audited + calibration
    lowest, highest = max(0, top - audited), min(rank - 1, calibration)
    whole = _log_choose(total, top)
    terms = [_log_choose(calibration, j) + _log_choose(audited, top - j) - whole for j in range(lowest, highest + 1)]
    return min(1.0, float(np.exp(terms).sum())) if terms else 0.0


def _log_choose(n: int, r: int) -> float:
    return lgamma(n + 1) - lgamma(r + 1) - lgamma(n - r + 1)
