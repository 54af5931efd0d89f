"""Tests of drift: how often they raise false alarms, and p-values against a second way to find them."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ks_2samp

from pipeline.publication.drift import EQUAL, LEVEL, OTHER, SAME, drifted_classes, drifts


def test_samples_of_the_same_kind_seldom_drift_and_others_do() -> None:
    """Ten classes, two nights of other samples, 300 times: by chance some class drifts in about LEVEL of them."""
    generator, alarms = np.random.default_rng(0), 0
    for _ in range(300):
        nights = [
            {number: generator.normal(size=generator.integers(5, 60)).astype(np.float32) for number in range(10)}
            for _ in range(2)
        ]
        alarms += bool(drifted_classes(drifts({}, *nights)))
    assert alarms / 300 <= 3 * LEVEL
    nights[1][4] = nights[1][4][:0]
    nights[1][7] = (generator.normal(size=200) + 1.5).astype(np.float32)
    found = drifts({}, *nights)
    assert drifted_classes(found) == [7]
    assert [drift.predicted for drift in found] == [0, 1, 2, 3, 5, 6, 7, 8, 9], (
        "a class without scores in one night is not tested"
    )
    assert [drift.q_value for drift in found] == pytest.approx(
        false_discovery_control([drift.p_value for drift in found])
    )
    seven = next(drift for drift in found if drift.predicted == 7)
    assert (seven.samples, seven.after) == (OTHER, 200)
    assert seven.p_value == pytest.approx(ks_2samp(nights[0][7], nights[1][7], method="exact").pvalue)


def test_the_same_samples_drift_where_most_scores_move_one_way() -> None:
    moves = {0: [0.1] * 14 + [-0.1] * 14, 1: [0.1] * 28, 2: [EQUAL / 2] * 28, 3: [-0.2] * 27 + [0.3]}
    found = drifts({number: np.array(own, np.float32) for number, own in moves.items()}, {}, {})
    assert drifted_classes(found) == [1, 3]
    assert [drift.p_value for drift in found] == pytest.approx([1.0, 2 * 2.0**-28, 1.0, 2 * 29 * 2.0**-28])
    assert {drift.samples for drift in found} == {SAME}
    assert [drift.shift for drift in found] == pytest.approx([0.0, 0.1, EQUAL / 2, -0.2])


def test_without_scores_nothing_is_tested() -> None:
    none = np.zeros(0, np.float32)
    assert drifts({}, {}, {}) == drifts({0: none}, {1: none}, {1: none}) == []


def test_tests_of_a_class_are_in_order_and_shifts_are_of_medians() -> None:
    one, two = np.array([1, 2, 9], np.float32), np.array([4, 4.5], np.float32)
    found = drifts({5: np.array([0.5, -0.25, 1.0], np.float32)}, {5: one, 2: one}, {5: two, 2: two})
    assert [(test.predicted, test.samples, test.before, test.after, test.shift) for test in found] == [
        (2, OTHER, 3, 2, 2.25),
        (5, SAME, 3, 3, 0.5),
        (5, OTHER, 3, 2, 2.25),
    ]
