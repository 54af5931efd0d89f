"""The split of the trusted set by hand, and of stored rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.storage.storage import Storage
from madcore import split_order
from pipeline.artifacts.rows import RowsPart, SampleColumns, encode_rows, to_stored
from pipeline.data.truth import Truth
from pipeline.errors import StageError
from pipeline.planning.plan import ModelPlan
from pipeline.stages.curvature.split import assign_parts, rows_of, split_trusted

IDS = [f"s{number}" for number in range(10)]


def drawn(ids: list[str], number: int) -> set[str]:
    """The first ids by their keyed digests: those of the calibration part."""
    return {ids[place] for place in split_order(ids, 0)[:number]}


def test_calibration_is_drawn_before_any_filter(plan: ModelPlan) -> None:
    """30 % of ten samples: three, whether predicted correctly or not."""
    parts = assign_parts(IDS, [True] * 10, [False] * 10, plan)
    assert {name for name, part in zip(IDS, parts, strict=True) if part == "calibration"} == drawn(IDS, 3)
    assert parts.count("filtered") == 7


def test_unreadable_and_dropped_samples_are_not_drawn(plan: ModelPlan) -> None:
    readable = [name != "s0" for name in IDS]
    parts = assign_parts(IDS, readable, readable, replace(plan, dropped=("s1", "s2")))
    by_id = dict(zip(IDS, parts, strict=True))
    assert [by_id[name] for name in ("s0", "s1", "s2")] == ["unreadable", "dropped", "dropped"]
    candidates = IDS[3:]
    assert {name for name in candidates if by_id[name] == "calibration"} == drawn(candidates, 2)
    assert parts.count("reference") == 5


def stored_part(storage: Storage, plan: ModelPlan, start: int, predictions: list[int], statuses: list[str]) -> RowsPart:
    """Committed rows, each filled with its place, of samples named by it."""
    n, layout = len(predictions), plan.layout
    rows = torch.arange(start, start + n).float().unsqueeze(1).expand(n, layout.k).contiguous()
    numbers, scales = to_stored(rows, layout, "float32")
    ids = [f"s{place}" for place in range(start, start + n)]
    columns = SampleColumns(ids, list(range(n)), torch.tensor(predictions), torch.ones(n), torch.ones(n), statuses)
    folder = f"part-{start}"
    for name, data in encode_rows(numbers, scales, columns, layout).items():
        storage.write(f"{folder}/{name}", data)
    return RowsPart("trusted.parquet", "key", start, start + n, folder, "content")


def test_only_correct_finite_samples_explain(plan: ModelPlan, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    parts = (
        stored_part(storage, plan, 0, [0, 1, 2, 3, 4], ["ok"] * 5),
        stored_part(storage, plan, 5, [5, 6, -1, -1, 9], ["ok", "ok", "nonfinite", "unreadable: why", "ok"]),
    )
    labels = np.array([0, 1, 2, 3, 0, 5, -1, 7, 8, 9])  # that of 4 is wrong, that of 6 unknown
    trusted, screening = split_trusted(storage, plan, parts, Truth(labels, np.full(10, -1), np.full(10, -1)))
    by_id = dict(zip(trusted.ids, trusted.parts, strict=True))
    calibration = drawn([name for name in IDS if name != "s8"], 3)
    assert by_id["s8"] == "unreadable"
    assert {name for name in IDS if by_id[name] == "calibration"} == calibration
    assert {name for name in IDS if by_id[name] == "filtered"} == {"s4", "s7"} - calibration
    assert np.isnan(trusted.scores).all()
    assert screening is not None and screening.suspects == []
    assert rows_of(storage, plan, parts)[:, 0].tolist() == list(range(10))


def test_samples_without_a_gradient_explain_nothing_and_stay_in_the_calibration_part(
    plan: ModelPlan, tmp_path: Path
) -> None:
    storage, calibration = Storage(str(tmp_path)), drawn(IDS, 3)
    statuses = ["flat" if number % 2 else "ok" for number in range(10)]
    part, unknown = stored_part(storage, plan, 0, [1] * 10, statuses), np.full(10, -1)
    trusted, screening = split_trusted(storage, plan, (part,), Truth(unknown, unknown, unknown))
    by_id, odd = dict(zip(trusted.ids, trusted.parts, strict=True)), {f"s{number}" for number in (1, 3, 5, 7, 9)}
    assert {name for name in IDS if by_id[name] == "calibration"} == calibration
    assert {name for name in IDS if by_id[name] == "flat"} == odd - calibration
    assert set(trusted.reference_ids) == set(IDS) - odd - calibration
    assert (trusted.flat, trusted.flat_calibration) == ({1, 3, 5, 7, 9}, len(odd & calibration))
    assert screening is not None and screening.too_small == [1], "they are no samples of a class"


def test_a_trusted_set_without_gradients_is_refused_with_the_remedy(plan: ModelPlan, tmp_path: Path) -> None:
    part, unknown = stored_part(Storage(str(tmp_path)), plan, 0, [1] * 10, ["flat"] * 10), np.full(10, -1)
    with pytest.raises(StageError, match=r"7 have none \(status flat: .* audit the model's logits"):
        split_trusted(Storage(str(tmp_path)), plan, (part,), Truth(unknown, unknown, unknown))


def test_an_empty_reference_part_is_refused_with_the_remedy(plan: ModelPlan, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    part = stored_part(storage, plan, 0, [1, 1, 1], ["ok"] * 3)
    wrong = Truth(np.zeros(3, np.int64), np.full(3, -1), np.full(3, -1))
    with pytest.raises(StageError, match=r"of 3 readable trusted samples, none outside .* check the labels"):
        split_trusted(storage, plan, (part,), wrong)
