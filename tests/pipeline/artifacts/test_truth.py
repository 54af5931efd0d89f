"""Stored truth comes back as it was."""

from pathlib import Path

import numpy as np

from pipeline.artifacts.truth import encode_truth, read_stored_truth
from pipeline.data.truth import UNKNOWN, Truth
from tests.pipeline.artifacts.stores import stored


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    truth = Truth(np.array([1, UNKNOWN]), np.array([0, 1]), np.array([UNKNOWN, 9]))
    found = read_stored_truth(stored(tmp_path, encode_truth(truth)), "task")
    assert [found.label.tolist(), found.anomalous.tolist(), found.target.tolist()] == [[1, -1], [0, 1], [-1, 9]]
