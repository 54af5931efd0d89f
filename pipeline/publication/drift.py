"""Whether scores moved between two runs by more than chance, per predicted class.

Two tests, because samples that both runs audited are not independent draws:

- `same samples`: the sign test (Dixon & Mood 1946). Null hypothesis: a score that moved is as likely to have risen as
  fallen. A change of at most EQUAL is no move, since executors agree only up to that; where model, trusted set and
  settings are unchanged nothing moves, and p is 1.
- `other samples`: the two-sample test of Kolmogorov and Smirnov, between samples that only the earlier run audited and
  those that only the later one did. Null hypothesis: their scores come from one distribution. It is exact for up to
  EXACT_SAMPLES samples; beyond, exact p-values would take minutes and the asymptotic ones are as good.

q-values are of Benjamini & Hochberg 1995, over all tests of a model: of the classes reported as drifted, on average a
share of at most LEVEL did so by chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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

    `before` and `after`: how many samples of either run were tested. `shift`: the median move of the same samples, or
    the difference of the medians of other samples; larger scores are more anomalous.
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
    tests = [*_of_same(moves), *_of_others(before, after)]
    tests.sort(key=lambda test: (test.predicted, test.samples != SAME))
    if not tests:
        return []
    q_values = scipy.stats.false_discovery_control([test.p_value for test in tests]).tolist()
    return [test.drift(q_value) for test, q_value in zip(tests, q_values, strict=True)]


def drifted_classes(found: Sequence[Drift]) -> list[int]:
    """Predicted classes for which some test found more than chance."""
    return sorted({drift.predicted for drift in found if drift.drifted})


@dataclass(frozen=True)
class _Test:
    """A test of one class, before its q-value is known; `sizes`: samples of the earlier and the later run."""

    predicted: int
    samples: Samples
    sizes: tuple[int, int]
    shift: float
    p_value: float

    def drift(self, q_value: float) -> Drift:
        """The result, with the q-value among all tests."""
        before, after = self.sizes
        return Drift(
            predicted=self.predicted,
            samples=self.samples,
            before=before,
            after=after,
            shift=self.shift,
            p_value=self.p_value,
            q_value=q_value,
            drifted=q_value <= LEVEL,
        )


def _of_same(moves: ByClass) -> Iterator[_Test]:
    for predicted, own in moves.items():
        if len(own):
            rose, fell = int((own > EQUAL).sum()), int((own < -EQUAL).sum())
            p_value = float(scipy.stats.binomtest(rose, rose + fell).pvalue) if rose + fell else 1.0
            yield _Test(predicted, SAME, (len(own), len(own)), float(np.median(own)), p_value)


def _of_others(before: ByClass, after: ByClass) -> Iterator[_Test]:
    for predicted in before.keys() & after.keys():
        old, new = before[predicted], after[predicted]
        if len(old) and len(new):
            exact = len(old) + len(new) <= EXACT_SAMPLES
            p_value = float(scipy.stats.ks_2samp(old, new, method="exact" if exact else "asymp").pvalue)
            shift = float(np.median(new)) - float(np.median(old))
            yield _Test(predicted, OTHER, (len(old), len(new)), shift, p_value)
