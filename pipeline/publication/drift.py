"""Whether scores moved between two runs by more than chance, per predicted class.

Two tests, because samples that both runs audited are no independent draws:

- `same samples`: the sign test (Dixon & Mood 1946). Null hypothesis: a score that moved rose as likely as it fell. A move of at most
  EQUAL is none, since executors agree to that; where model, trusted set and settings are unchanged nothing moves, and p is 1.
- `other samples`: the two-sample test of Kolmogorov and Smirnov, between samples that only the earlier run audited and those that only
  the later one did. Null hypothesis: their scores are of one distribution.

q-values are of Benjamini & Hochberg 1995, over all tests of a model: of the classes said to have drifted, a share of LEVEL at most did
so by chance, on average.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

LEVEL = 0.01


EQUAL = 1e-5


EXACT_SAMPLES = 500


Samples = Literal["same samples", "other samples"]


SAME: Samples = "same samples"


OTHER: Samples = "other samples"


Scores = NDArray[np.float32]


ByClass = Mapping[int, Scores]


class Drift(BaseModel):
    """One test of one predicted class (-1: all samples of a model without classes).

    `before` and `after`: samples of either run that were tested. `shift`: the median move of the same samples, else the difference of
    the medians; larger scores are more anomalous.
    """

    model_config = ConfigDict(frozen=True)
    predicted: int
    samples: Samples
    before: int
    after: int
    shift: float
    p_value: float
    q_value: float
    drifted: bool


def drifts(moves: ByClass, before: ByClass, after: ByClass) -> list[Drift]:
    """Tests every class that has scores to compare, in the order of classes.

    Args:
        moves: per class, by how much the scores of the same samples rose, shape (n,).
        before: per class, scores of samples that only the earlier run audited, (n,).
        after: per class, of those that only the later run did, (n,).
    """
    found = sorted(
        [*_of_same(moves), *_of_others(before, after)], key=lambda drift: (drift.predicted, drift.samples != SAME)
    )
    if not found:
        return []
    q_values = scipy.stats.false_discovery_control([drift.p_value for drift in found])
    return [
        drift.model_copy(update={"q_value": float(q), "drifted": bool(q <= LEVEL)})
        for drift, q in zip(found, q_values, strict=True)
    ]


def drifted_classes(found: Sequence[Drift]) -> list[int]:
    """Predicted classes of which some test found more than chance."""
    return sorted({drift.predicted for drift in found if drift.drifted})


def _of_same(moves: ByClass) -> Iterator[Drift]:
    for predicted, own in moves.items():
        if len(own):
            rose, fell = int((own > EQUAL).sum()), int((own < -EQUAL).sum())
            p_value = float(scipy.stats.binomtest(rose, rose + fell).pvalue) if rose + fell else 1.0
            yield _drift(predicted, SAME, (len(own), len(own)), float(np.median(own)), p_value)


def _of_others(before: ByClass, after: ByClass) -> Iterator[Drift]:
    for predicted in before.keys() & after.keys():
        old, new = before[predicted], after[predicted]
        if len(old) and len(new):
            exact = len(old) + len(new) <= EXACT_SAMPLES  # beyond, the limit is as good and does not take minutes
            p_value = float(scipy.stats.ks_2samp(old, new, method="exact" if exact else "asymp").pvalue)
            yield _drift(predicted, OTHER, (len(old), len(new)), float(np.median(new)) - float(np.median(old)), p_value)


def _drift(predicted: int, samples: Samples, sizes: tuple[int, int], shift: float, p_value: float) -> Drift:
    return Drift(
        predicted=predicted,
        samples=samples,
        before=sizes[0],
        after=sizes[1],
        shift=shift,
        p_value=p_value,
        q_value=1.0,
        drifted=False,
    )
