"""Summaries: derived figures, and which performance is shown first."""

import pytest

from pipeline.root.facts import ClassCounts, Counts, Evaluation, Performance, Rates

ALL = Performance(anomalous=4, benign=6, auroc=0.5)

SUCCEEDED = Performance(anomalous=2, benign=6, auroc=0.9)


@pytest.mark.parametrize(("rate", "shown"), [(None, ALL), (0.5, SUCCEEDED), (0.0, SUCCEEDED)])
def test_attacks_that_succeeded_come_first_where_success_is_known(rate: float | None, shown: Performance) -> None:
    assert Evaluation(attack_success_rate=rate, all=ALL, attack_succeeded=SUCCEEDED).main is shown


def test_without_any_evaluation_nothing_comes_first() -> None:
    assert Evaluation().main is None


def test_samples_that_are_not_ok_are_counted_by_status() -> None:
    counts = Counts(audited=20, flagged=5, flat=32, nonfinite=1, unreadable=2, failed=4, duplicates=8)
    assert (counts.not_ok, counts.not_scored) == (39, 7)


def test_a_class_is_written_under_its_own_key() -> None:
    counts = ClassCounts(number=3, reference=1, audited=2, flagged=0, fpr=None)
    expected = {"class": 3, "reference": 1, "audited": 2, "flagged": 0, "fpr": None}
    assert counts.json_object == expected and ClassCounts.model_validate(expected) == counts


def test_counts_and_rates_keep_their_kinds_of_numbers() -> None:
    assert repr(Rates(tpr=1, fpr=0.0).json_object) == "{'tpr': 1.0, 'fpr': 0.0}"
