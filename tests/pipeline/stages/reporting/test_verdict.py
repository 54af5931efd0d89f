"""Verdicts: `unusual inputs` is said by chance less than once in a hundred audits, and said when it should be."""

from functools import cache

import numpy as np
import pytest

from madcore.scoring.calibration import largest_rank, p_values
from pipeline.config.on_verdict import CANNOT_TELL, NOTHING_UNUSUAL, UNUSUAL
from pipeline.stages.reporting.verdict import Evidence, judge


def evidence(**changes: float) -> Evidence:
    values = {
        "audited": 2000,
        "scored": 2000,
        "extreme": 20,
        "nonfinite": 0,
        "calibration": 600,
        "infinite": 0,
        "reference": 1200,
        "filtered": 200,
        "alpha": 0.01,
    } | changes
    shares = ("alpha", "little_gradient")
    given = {name: value if name in shares else int(value) for name, value in values.items()}
    return Evidence(**given)  # type: ignore[arg-type]


CASES = {
    "as many as expected": (
        {},
        NOTHING_UNUSUAL,
        "20 of 2,000 samples have a p-value <= 0.01; chance alone gives 20.0 on average",
    ),
    "none": ({"extreme": 0}, NOTHING_UNUSUAL, "0 of 2,000 samples"),
    "far more": ({"extreme": 200}, UNUSUAL, "200 of 2,000 samples have a p-value <= 0.01"),
    "a calibration part too small for alpha": (
        {"calibration": 98},
        CANNOT_TELL,
        "98 calibration samples cannot resolve p-values of 0.01",
    ),
    "a calibration part that no score can top": (
        {"infinite": 6},
        CANNOT_TELL,
        "6 of 600 calibration samples have a gradient that is not finite",
    ),
    "one that some can": ({"infinite": 5, "extreme": 200}, UNUSUAL, "200 of 2,000 samples"),
    "a calibration part without gradients, whoever arranged it": (
        {"infinite": 6, "flat_calibration": 6},
        CANNOT_TELL,
        "6 of 600 calibration samples have no gradient and score above all others, so that no finite score can reach a "
        "p-value <= 0.01; audit outputs that depend on the weights",
    ),
    "more than half of what hides everything": (
        {"infinite": 4, "flat_calibration": 3, "extreme": 0},
        CANNOT_TELL,
        "4 of 600 calibration samples have no gradient (3) or one that is not finite (1) and score above all others, "
        "which hides anomalous samples: a p-value <= 0.01 needs fewer than 6 calibration scores as high, and these are "
        "there already. At most 3 of them leave enough to find nothing unusual; audit outputs",
    ),
    "half of it": ({"infinite": 3, "flat_calibration": 3}, NOTHING_UNUSUAL, "20 of 2,000 samples"),
    "more than half of it, not finite": (
        {"infinite": 4},
        CANNOT_TELL,
        "leave enough to find nothing unusual; repair the model or those trusted samples",
    ),
    "more than half, and yet": ({"infinite": 5, "flat_calibration": 5, "extreme": 200}, UNUSUAL, "200 of 2,000"),
    "many audited ones without a gradient": (
        {"flat": 98, "extreme": 98},
        UNUSUAL,
        "98 of 2,000 audited samples (4.9%) have no gradient (status flat), so that nothing can explain them",
    ),
    "references mostly filtered": (
        {"reference": 1, "filtered": 1399},
        CANNOT_TELL,
        "only 1 are predicted as labelled and 1,399 are not: check the labels",
    ),
    "references mostly filtered, and yet": (
        {"reference": 1, "filtered": 1399, "extreme": 200},
        UNUSUAL,
        "200 of 2,000 samples",
    ),
    "rows of little of the gradient": (
        {"little_gradient": 0.4375},
        CANNOT_TELL,
        "rows cover 43.7 % of the gradient's squared norm in the modules that estimator.layers selects, and a verdict "
        "needs 50 %",
    ),
    "rows of little of the gradient, and many extreme": (
        {"little_gradient": 0.4375, "extreme": 200},
        CANNOT_TELL,
        "rows cover 43.7 %",
    ),
    "nothing scored": ({"scored": 0, "extreme": 0}, CANNOT_TELL, "no audited sample could be scored"),
    "too few to tell": (
        {"audited": 1, "scored": 1, "extreme": 1, "alpha": 0.05},
        CANNOT_TELL,
        "1 scored samples are too few",
    ),
    "most not scored": (
        {"scored": 900, "extreme": 9},
        CANNOT_TELL,
        "only 900 of 2,000 audited samples could be scored",
    ),
    "most not scored, but unusual": ({"scored": 900, "extreme": 300}, UNUSUAL, "300 of 900"),
}


@pytest.mark.parametrize(("changes", "value", "reason"), CASES.values(), ids=CASES.keys())
def test_a_verdict_has_its_reason(changes: dict[str, float], value: str, reason: str) -> None:
    verdict = judge(evidence(**changes))
    assert verdict.value == value
    assert any(reason in text for text in verdict.reasons)


def test_what_has_no_score_is_always_mentioned() -> None:
    assert "100 of 2,000 audited samples have no score" in judge(evidence(scored=1900)).reasons
    assert any("3 samples have a gradient that is not finite" in text for text in judge(evidence(nonfinite=3)).reasons)


@pytest.mark.parametrize(("calibration", "audited"), [(150, 300), (600, 2000)])
def test_samples_like_the_trusted_ones_are_seldom_called_unusual(calibration: int, audited: int) -> None:
    """Both parts from one distribution, 600 audits: the share of false alarms stays below 1 %, up to sampling error."""
    generator, alarms, audits = np.random.default_rng(0), 0, 600

    @cache
    def unusual(extreme: int) -> bool:
        found = judge(evidence(audited=audited, scored=audited, extreme=extreme, calibration=calibration))
        return found.value == UNUSUAL

    for _ in range(audits):
        p = p_values(generator.normal(size=audited), generator.normal(size=calibration))
        alarms += unusual(int((p <= 0.01).sum()))
    assert alarms <= 0.01 * audits + 3 * (0.01 * audits) ** 0.5
    assert largest_rank(0.01, calibration) >= 1
