"""Samples of stored rows come back as they were written; what is not ok has no numbers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.parts import RowsPart
from pipeline.artifacts.samples import (
    SampleColumns,
    encode_samples,
    read_sample_table,
    read_samples,
    read_statuses,
    scales_of,
)
from pipeline.data.statuses import FLAT, NO_CLASS, NONFINITE, OK
from tests.pipeline.artifacts.stores import stored

SAMPLES = SampleColumns(
    ids=["a", "", "c"],
    rows=[10, 11, 12],
    predictions=torch.tensor([3, NO_CLASS, 1]),
    confidence=torch.tensor([0.5, 0.9, float("nan")]),
    gradient_norm=torch.tensor([2.0, 7.0, float("inf")]),
    statuses=[OK, "unreadable: the id is null", NONFINITE],
)


def test_samples_come_back_without_the_numbers_of_those_that_are_not_ok(tmp_path: Path) -> None:
    storage = stored(tmp_path, encode_samples(SAMPLES, torch.ones(3, 2)))
    found = read_samples(storage, RowsPart("s", "k", 10, 13, "task", "c"))
    assert (found.ids, found.rows, found.statuses) == (SAMPLES.ids, SAMPLES.rows, SAMPLES.statuses)
    assert found.predictions.tolist() == [3, NO_CLASS, 1]
    assert found.confidence.tolist() == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)
    assert found.gradient_norm.tolist() == [2.0, 0, 0]
    assert found.ok.tolist() == [True, False, False]
    assert read_statuses(storage, "task") == SAMPLES.statuses


def test_a_row_of_zeros_that_an_earlier_version_stored_as_ok_is_flat(tmp_path: Path) -> None:
    zeros = torch.tensor([0.0, 0.0, 3.0])
    samples = SampleColumns(["a", "b", "c"], [0, 1, 2], torch.tensor([3, 1, 2]), torch.ones(3), zeros, [OK, FLAT, OK])
    storage = stored(tmp_path, encode_samples(samples, torch.ones(3, 2)))
    found = read_samples(storage, RowsPart("s", "k", 0, 3, "task", "c"))
    assert (found.statuses, found.recognised().statuses) == ([OK, FLAT, OK], [FLAT, FLAT, OK])
    assert found.confidence.tolist() == [1, 1, 1], "what the model predicts of flat ones is known"
    assert SAMPLES.recognised() is SAMPLES


def test_scales_of_some_samples_are_theirs(tmp_path: Path) -> None:
    scales = torch.arange(6.0).reshape(3, 2)
    table = read_sample_table(stored(tmp_path, encode_samples(SAMPLES, scales)), "task")
    assert np.array_equal(scales_of(table), scales.numpy())
    assert np.array_equal(scales_of(table.slice(1, 2)), scales[1:].numpy())
