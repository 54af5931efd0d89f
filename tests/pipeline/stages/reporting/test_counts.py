"""Counts of a report, against counting by hand and in one piece."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.truth import Truth
from pipeline.stages.reporting.counts import BINS, IDS_AT_ONCE, IdCounts, ScoreCounts, count_ids, kind_of_status
from tests.pipeline.stages.reporting.tables import score_part

CALIBRATION = np.array([0.5, 0.125, np.inf, 0.25])


def truth(*anomalous: int) -> Truth:
    """Marks of samples whose labels are 0, 1, ... and whose targets are unknown."""
    return Truth(label=np.arange(len(anomalous)), anomalous=np.array(anomalous), target=np.full(len(anomalous), -1))


def test_scores_are_counted_by_how_many_calibration_scores_are_as_large() -> None:
    counts = ScoreCounts(CALIBRATION)
    counts.add(score_part([0.0625, 0.75, None, 0.375]), None)
    counts.add(score_part([0.25, None], ["ok", "unreadable: the image is null"]), None)
    assert counts.calibration.tolist() == [0.125, 0.25, 0.5, np.inf]
    assert counts.by_exceedances.tolist() == [0, 1, 1, 1, 1]
    assert counts.statuses == {"ok": 4, "nonfinite": 1, "unreadable": 1}
    assert counts.total == 6


def test_suspects_lengthen_the_calibration_that_was_not_screened() -> None:
    counts = ScoreCounts(CALIBRATION, suspected=np.array([0.625, 0.1875]))
    counts.add(score_part([0.75, 0.5625]), None)
    assert counts.by_exceedances.tolist() == [0, 2, 0, 0, 0]
    assert counts.by_exceedances_unscreened.tolist() == [0, 1, 1, 0, 0, 0, 0]


def test_predicted_classes_are_those_of_scored_samples() -> None:
    counts = ScoreCounts(CALIBRATION)
    counts.add(score_part([1.0, 2.0, None], predictions=[3, 3, 7]), None)
    assert counts.predicted == {3: 2}


def test_the_histogram_spans_all_finite_scores() -> None:
    counts = ScoreCounts(CALIBRATION)
    counts.add(score_part([0.0625, 0.75]), None)
    assert len(counts.edges) == BINS + 1
    assert (counts.edges[0], counts.edges[-1]) == (0.0625, 0.75)
    assert counts.calibration_bins.sum() == 3, "the infinite one is in no bin"
    flat = ScoreCounts(np.array([np.inf]))
    assert (flat.edges[0], flat.edges[-1]) == (0.0, 1e-6)


def test_samples_of_known_truth_are_flagged_as_the_table_flags_them() -> None:
    counts = ScoreCounts(CALIBRATION)
    part = score_part(
        [0.0625, 0.75, None, 0.375, None, 9.0],
        ["ok", "ok", "nonfinite", "ok", "failed: why", "ok"],
        predictions=[0, 1, -1, 3, -1, 5],
    )
    counts.add(part, truth(0, 1, 1, 0, 1, -1))
    counts.add(score_part([9.0]), None)
    labelled = counts.labelled(flag_rank=2)
    assert labelled is not None
    assert labelled.scores.tolist() == [0.0625, 0.75, 1.75, 0.375], "not finite: above all others"
    assert labelled.flagged.tolist() == [False, True, True, False]
    assert labelled.predictions.tolist() == [0, 1, -1, 3]
    assert labelled.label.tolist() == [0, 1, 2, 3]
    assert labelled.anomalous.tolist() == [0, 1, 1, 0]
    assert labelled.confidence[:2].tolist() == [1.0, 0.5] and np.isnan(labelled.confidence[2])


def test_a_sample_without_a_gradient_is_the_most_anomalous_and_flagged_by_its_p_value() -> None:
    counts = ScoreCounts(CALIBRATION)
    counts.add(score_part([0.0625, np.inf, None], ["ok", "flat", "nonfinite"]), truth(0, 1, 1))
    assert (counts.low, counts.high) == (0.0625, 0.5), "the histogram is of finite scores"
    assert counts.statuses == {"ok": 1, "flat": 1, "nonfinite": 1}
    assert counts.by_exceedances.tolist() == [0, 1, 0, 0, 1]
    rare, common = counts.labelled(flag_rank=1), counts.labelled(flag_rank=2)
    assert rare is not None and common is not None
    assert rare.scores.tolist() == [0.0625, 1.0625, 1.0625]
    assert rare.flagged.tolist() == [False, False, True]
    assert common.flagged.tolist() == [False, True, True]


def test_without_truth_nothing_is_labelled() -> None:
    counts = ScoreCounts(CALIBRATION)
    assert counts.labelled(1) is None
    counts.add(score_part([1.0]), truth(-1))
    assert counts.labelled(1) is None


def test_a_status_is_known_without_its_reason() -> None:
    statuses = ["ok", "nonfinite", "flat", "unreadable: corrupt image", "failed: no memory"]
    assert [kind_of_status(status) for status in statuses] == ["ok", "nonfinite", "flat", "unreadable", "failed"]


IDS = [["a", "b", "a"], ["", "b", "c"], [], ["a", "", "d"]]


def test_ids_that_repeat_and_ids_that_are_shared_by_hand() -> None:
    assert count_ids(lambda: IDS, 9, {"a", "d", "z"}) == IdCounts(repeated=3, shared=4)
    assert count_ids(list, 0, {"a"}) == IdCounts(0, 0)


@given(st.lists(st.lists(st.sampled_from(["", "a", "b", "c", "d", "e"]), max_size=8), max_size=5))
def test_shares_of_the_hashes_change_no_count_and_are_one_pass_each(batches: list[list[str]]) -> None:
    passes = 0

    def read() -> list[list[str]]:
        nonlocal passes
        passes += 1
        return batches

    names = [name for batch in batches for name in batch if name]
    expected = IdCounts(len(names) - len(set(names)), sum(name in ("a", "e") for name in names))
    assert count_ids(read, len(names), {"a", "e"}) == expected
    assert passes == 1
    assert count_ids(read, 2 * IDS_AT_ONCE + 1, {"a", "e"}) == expected
    assert passes == 4
