"""Evaluation against its definitions, counted by hand and by loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from pipeline.stages.reporting.evaluation import LabelledScores, auroc, controls, evaluate


def labelled(scores: list[float], threshold: float, **columns: list[int]) -> LabelledScores:
    """Samples flagged above a threshold; what is not given is unknown (-1), confidence and norm are constant."""
    n = len(scores)
    known = {name: np.array(columns.get(name, [-1] * n)) for name in ("predictions", "anomalous", "label", "target")}
    flat, values = np.ones(n), np.array(scores, np.float64)
    return LabelledScores(
        values,
        values > threshold,
        known["predictions"],
        flat,
        flat,
        known["anomalous"],
        known["label"],
        known["target"],
    )


ATTACKED = labelled(
    scores=[0.9, 0.8, 0.2, 0.7, 0.1, 0.0, 0.3],
    threshold=0.5,
    anomalous=[1, 1, 1, 0, 0, 0, 0],
    predictions=[0, 0, 3, 1, 1, 2, 2],
    label=[5, 6, 3, 1, 1, 2, 1],
    target=[0, 0, 0, -1, -1, -1, -1],
)


def part(result: JsonValue, *names: str) -> JsonValue:
    for name in names:
        assert isinstance(result, dict)
        result = result[name]
    return result


def test_rates_and_der_by_hand() -> None:
    """Two of three attacks succeed and are flagged; of three clean samples classified correctly one is flagged."""
    result = evaluate(ATTACKED)
    assert part(result, "attack_success_rate") == pytest.approx(2 / 3)
    assert part(result, "accuracy") == pytest.approx(3 / 4)
    assert part(result, "all", "at_calibrated") == pytest.approx(
        {"tpr": 2 / 3, "fpr": 1 / 4, "der": (2 / 3 - 3 / 4 * 1 / 3 + 1) / 2}
    )
    assert part(result, "attack_succeeded", "at_calibrated", "tpr") == 1.0
    assert part(result, "paper_filter", "at_calibrated") == pytest.approx(
        {"tpr": 1.0, "fpr": 1 / 3, "der": (1 + 1 - 1 / 3) / 2}
    )
    assert [part(result, name, "anomalous") for name in ("all", "attack_succeeded", "paper_filter")] == [3, 2, 2]
    assert [part(result, name, "benign") for name in ("all", "attack_succeeded", "paper_filter")] == [4, 4, 3]


def test_the_best_threshold_separates_what_can_be_separated() -> None:
    best = part(evaluate(ATTACKED), "paper_filter", "at_best")
    assert best == pytest.approx({"tpr": 1.0, "fpr": 0.0, "der": 1.0, "threshold": 0.8})


def test_an_attack_without_target_succeeds_where_the_prediction_leaves_the_label() -> None:
    samples = labelled([1.0, 0.0, 0.0], 0.5, anomalous=[1, 1, 0], predictions=[2, 1, 1], label=[1, 1, 1])
    assert samples.succeeded.tolist() == [True, False, False]
    assert part(evaluate(samples), "attack_success_rate") == 0.5


def test_what_cannot_be_known_is_none() -> None:
    unlabelled = evaluate(labelled([1.0, 0.0], 0.5, anomalous=[1, 0], predictions=[0, 0]))
    assert part(unlabelled, "all", "auroc") == 1.0
    assert [
        part(unlabelled, "accuracy"),
        part(unlabelled, "attack_success_rate"),
        part(unlabelled, "all", "at_calibrated", "der"),
    ] == [None] * 3
    clean = evaluate(labelled([1.0, 0.0], 0.5, anomalous=[0, 0], predictions=[0, 0], label=[0, 1]))
    assert part(clean, "all", "at_calibrated") == {"tpr": None, "fpr": 0.5, "der": None}
    never = evaluate(
        labelled([1.0, 0.0, 0.0], 0.5, anomalous=[1, 0, 0], predictions=[1, 1, 1], label=[1, 1, 1], target=[0, -1, -1])
    )
    assert [part(never, "attack_success_rate"), part(never, "all", "at_calibrated", "der")] == [0.0, 0.5], (
        "nothing to reject, nothing lost"
    )
    assert part(clean, "all", "at_best") == {"tpr": None, "fpr": None, "der": None, "threshold": None}


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(samples: list[tuple[bool, int]]) -> None:
    anomalous, scores = np.array([mark for mark, _ in samples]), np.array([score for _, score in samples], np.float64)
    pairs = [(high > low) + (high == low) / 2 for high in scores[anomalous] for low in scores[~anomalous]]
    expected = None if not pairs else pytest.approx(sum(pairs) / len(pairs))
    assert auroc(anomalous, scores) == expected


def test_a_score_that_repeats_a_control_adds_nothing_within_its_strata() -> None:
    generator = np.random.default_rng(0)
    anomalous = (np.arange(4000) % 2).astype(np.int64)
    confidence = anomalous + 2 * generator.random(4000)
    other = generator.random(4000)
    unknown = np.full(4000, -1)

    def found(scores: np.ndarray[tuple[int], np.dtype[np.float64]]) -> JsonValue:
        return controls(LabelledScores(scores, scores > 0, unknown, confidence, other, anomalous, unknown, unknown))

    repeated, perfect = found(confidence), found(anomalous.astype(np.float64))
    assert part(repeated, "confidence", "auroc") == pytest.approx(0.875, abs=0.02)
    assert part(repeated, "gradient_norm", "auroc") == pytest.approx(0.5, abs=0.05)
    matched = part(repeated, "confidence", "matched_auroc")
    assert isinstance(matched, float) and matched - 0.5 < (0.875 - 0.5) / 2
    assert part(repeated, "gradient_norm", "matched_auroc") == pytest.approx(0.875, abs=0.02)
    assert part(perfect, "confidence", "matched_auroc") == 1.0


def test_samples_without_a_finite_gradient_are_left_out_of_the_controls() -> None:
    scores, unknown = np.array([0.1, 0.2, 0.9, 9.0, 9.0]), np.full(5, -1)
    control = np.array([0.1, 0.2, 0.9, np.nan, np.nan])
    found = controls(
        LabelledScores(scores, scores > 1, unknown, control, control, np.array([0, 0, 1, 1, 1]), unknown, unknown)
    )
    assert part(found, "confidence") == {"auroc": 1.0, "matched_auroc": None, "samples": 3}
