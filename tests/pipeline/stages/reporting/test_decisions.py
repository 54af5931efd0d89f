"""Decisions by hand: p-values, q-values, flags, the published table, and what a report shows of it."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifacts.scores import PUBLISHED_FORMAT
from pipeline.config.scoring import Target
from pipeline.stages.reporting.counts import ScoreCounts
from pipeline.stages.reporting.decisions import TOP_FLAGGED, TOP_TRUSTED_SHOWN, Decisions, FlaggedSamples
from tests.pipeline.stages.reporting.tables import score_part

CALIBRATION = np.array([0.125, 0.25, 0.5, np.inf])


def second_pass(target: Target, *parts: pa.RecordBatch) -> tuple[FlaggedSamples, pa.Table]:
    counts = ScoreCounts(CALIBRATION)
    for part in parts:
        counts.add(part, None)
    flagged = FlaggedSamples(Decisions.of(target, counts), counts)
    return flagged, pa.Table.from_batches([flagged.decide(part) for part in parts])


def test_a_false_positive_rate_flags_by_p_values() -> None:
    part = score_part([0.0625, 0.75, None, 0.375], ["ok", "ok", "nonfinite", "ok"])
    flagged, table = second_pass(Target(fpr=0.4), part)
    assert table.column("p_value").to_pylist() == [1.0, 0.4, None, 0.6]
    assert table.column("flagged").to_pylist() == [False, True, True, False]
    assert flagged.decisions.flag_rank == 2
    assert flagged.decisions.finite_threshold == 0.5
    assert flagged.flagged == 2
    assert flagged.by_class == {0: 1}, "a sample that is not finite has no class"
    assert table.schema.equals(PUBLISHED_FORMAT.schema)
    assert table.column("layer_scores").to_pylist()[0] == [("conv", 0.5)]


def test_no_finite_score_is_flagged_where_the_threshold_is_infinite() -> None:
    flagged, table = second_pass(Target(fpr=0.2), score_part([1e30, 0.0]))
    assert flagged.decisions.threshold == math.inf
    assert flagged.decisions.finite_threshold is None
    assert table.column("flagged").to_pylist() == [False, False]


def test_a_sample_without_a_gradient_scores_above_all_and_ties_with_calibration_samples_without_one() -> None:
    part = score_part([math.inf, 0.75, 0.0], ["flat", "ok", "ok"], predictions=[3, 0, 0])
    flagged, table = second_pass(Target(fpr=0.4), part)
    assert table.column("p_value").to_pylist() == [0.4, 0.4, 1.0], "one of four calibration scores is infinite"
    assert table.column("flagged").to_pylist() == [True, True, False]
    assert [entry["row"] for entry in flagged.top] == [1], "flat ones are a group of their own"
    assert flagged.bins.sum() == 2
    shown = {"sample_id": "s0", "source": "day.parquet", "row": 0, "prediction": 3, "confidence": 1.0}
    assert flagged.flat == [{**shown, "p_value": 0.4, "flagged": True}]
    assert (flagged.flagged_flat, flagged.by_class) == (1, {3: 1, 0: 1})
    strict, rows = second_pass(Target(fpr=0.2), *[part] * 20)
    assert not any(rows.column("flagged").to_pylist()), "1 of 4 calibration scores ties"
    assert len(strict.flat) == 20


def test_a_false_discovery_rate_flags_by_q_values() -> None:
    """Benjamini-Hochberg: eight p-values of 0.1 among ten have q = 0.1 x 10 / 8; the two of 1 have q = 1."""
    counts = ScoreCounts(np.arange(1.0, 10.0))
    part = score_part([10.0] * 8 + [0.0] * 2)
    counts.add(part, None)
    strict, loose = (Decisions.of(Target(fdr=level), counts) for level in (0.12, 0.13))
    assert loose.q_values[0] == pytest.approx(0.125) and loose.q_values[9] == 1.0
    assert (strict.flag_rank, loose.flag_rank) == (0, 1)
    assert strict.finite_threshold is None and loose.finite_threshold == 9.0
    assert sum(FlaggedSamples(loose, counts).decide(part).column("flagged").to_pylist()) == 8


def test_the_top_flagged_samples_are_the_largest_over_all_batches() -> None:
    scores = [float(1 + (7 * row) % 31) for row in range(62)]  # each twice
    parts = [score_part(scores[start : start + 20], first_row=start) for start in range(0, 62, 20)]
    flagged, _ = second_pass(Target(fpr=0.4), *parts)
    shown = [(entry["score"], entry["row"]) for entry in flagged.top]
    assert len(shown) == TOP_FLAGGED
    assert (
        shown
        == sorted(((score, row) for row, score in enumerate(scores)), key=lambda one: (-one[0], one[1]))[:TOP_FLAGGED]
    )
    assert [entry["sample_id"] for entry in flagged.top[0]["top_trusted"]] == [
        f"t{rank}" for rank in range(TOP_TRUSTED_SHOWN)
    ]  # type: ignore[union-attr,index,call-overload]


def test_every_finite_score_is_in_the_histogram() -> None:
    flagged, _ = second_pass(Target(fpr=0.4), score_part([0.0, 1.0, None]), score_part([0.5]))
    assert flagged.bins.sum() == 3
    assert (flagged.bins[0], flagged.bins[-1]) == (1, 1)
