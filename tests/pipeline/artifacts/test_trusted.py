"""Trusted samples: their parts, and scores that are missing outside the calibration part."""

from pathlib import Path

import numpy as np
import torch

from infra.formats.tables import decode_arrow, encode_arrow
from pipeline.artifacts.trusted import TRUSTED as TRUSTED_FILE
from pipeline.artifacts.trusted import TRUSTED_FORMAT, TrustedSamples, encode_trusted, read_trusted
from tests.pipeline.artifacts.stores import stored

NAN, INFINITY = float("nan"), float("inf")


TRUSTED = TrustedSamples(
    ids=list("abcdef"),
    parts=["reference", "calibration", "suspect", "reference", "calibration", "suspect calibration"],
    predictions=torch.tensor([4, 0, 1, 2, 3, 5]),
    scores=np.array([NAN, 0.5, NAN, NAN, INFINITY, 0.25]),
    flat=frozenset({2, 4}),
)


def test_parts_are_taken_in_order() -> None:
    assert (TRUSTED.of("reference"), TRUSTED.of("calibration"), TRUSTED.of("dropped")) == ([0, 3], [1, 4], [])
    assert (TRUSTED.reference_ids, TRUSTED.reference_predictions.tolist()) == (["a", "d"], [4, 2])
    assert TRUSTED.calibration_scores.tolist() == [0.5, INFINITY]
    assert TRUSTED.suspected_scores.tolist() == [0.25]


def test_they_come_back_as_they_were_written(tmp_path: Path) -> None:
    found = read_trusted(stored(tmp_path, encode_trusted(TRUSTED)), "task")
    assert (found.ids, found.parts) == (TRUSTED.ids, TRUSTED.parts)
    assert torch.equal(found.predictions, TRUSTED.predictions)
    np.testing.assert_array_equal(found.scores, TRUSTED.scores)
    assert (found.flat, found.flat_calibration) == ({2, 4}, 1)


def test_earlier_versions_wrote_nothing_of_samples_without_a_gradient(tmp_path: Path) -> None:
    table = decode_arrow(encode_trusted(TRUSTED)[TRUSTED_FILE], TRUSTED_FORMAT, "")
    earlier = {TRUSTED_FILE: encode_arrow(table.drop_columns(["flat"]))}
    assert read_trusted(stored(tmp_path, earlier), "task").flat == frozenset()
