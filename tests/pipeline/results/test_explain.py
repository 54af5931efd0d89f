"""What p-values say in words, by hand."""

import pytest

from pipeline.results.explain import in_words


@pytest.mark.parametrize(
    ("p_value", "q_value", "says"),
    [
        (
            1 / 100,
            0.5,
            "None of 99 calibration samples scores at least this high, so a normal sample would with probability "
            "at most 0.01 (once in 100). Of the audited samples that are at least this extreme, at most about 50.0% "
            "should be normal ones.",
        ),
        (
            25 / 100,
            1.7,
            "24 of 99 calibration samples score at least this high, so a normal sample would with probability at most "
            "0.25 (once in 4). Of the audited samples that are at least this extreme, at most about 100.0% should be "
            "normal ones.",
        ),
    ],
)
def test_a_p_value_is_a_count_of_calibration_samples(p_value: float, q_value: float, says: str) -> None:
    assert in_words("ok", p_value, q_value, calibration=99) == says


def test_a_sample_without_a_gradient_says_so() -> None:
    assert "so nothing explains it. It counts as a score above all others, of p-value 0.01." in in_words(
        "flat", 0.01, 0.02, calibration=99
    )


@pytest.mark.parametrize("status", ["nonfinite", "unreadable: no picture", "failed: out of memory"])
def test_a_sample_without_a_score_says_why(status: str) -> None:
    assert in_words(status, None, None, calibration=99) == f"This sample has no score: {status}."
