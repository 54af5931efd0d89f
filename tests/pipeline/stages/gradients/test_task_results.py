"""The results of a task by hand: places, statuses, samples with several rows, and names to sample labels by."""

import pytest
import torch

from madcore import Measured, RowLayout, margin
from pipeline.inputs.batches import Group, SampleBatch
from pipeline.planning.plan import ModelPlan, RowTask
from pipeline.stages.gradients.task_results import TaskResults, label_names
from pipeline.tasks.predictions import Predictions

LAYOUT = RowLayout(("layer",), (2,))


def outcome_of(logits: torch.Tensor) -> Predictions:
    raise AssertionError("what the model predicts is given")


def group_of(*places: int) -> Group:
    return Group(torch.tensor(places), Measured(torch.zeros(len(places), 1), margin), outcome_of)


def predicted(
    *classes: int, finite: tuple[bool, ...] | None = None, flat: tuple[bool, ...] | None = None
) -> Predictions:
    n = len(classes)
    known = torch.tensor(finite or (True,) * n)
    which = None if flat is None else torch.tensor(flat)
    return Predictions(torch.tensor(classes), torch.full((n,), 0.5), known, torch.ones(n), which)


def results_of(samples: int, labels: int = 1) -> TaskResults:
    return TaskResults(LAYOUT.k, samples, labels, torch.device("cpu"))


def test_results_lie_at_the_places_of_their_samples() -> None:
    results = results_of(5)
    first = results.add(SampleBatch(("a", "b"), ("", "the image is null"), ()))
    second = results.add(SampleBatch(("c", "", "e"), ("", "", ""), ()))
    assert (first, second) == (0, 2)
    results.fill(first, torch.tensor([[3.0, 4.0]]), predicted(7), group_of(0))
    results.fill(second, torch.tensor([[0.0, 5.0], [6.0, 8.0]]), predicted(2, 1), group_of(2, 0))
    results.settle(LAYOUT, "float32")
    assert results.rows.tolist() == [[3, 4], [0, 0], [6, 8], [0, 0], [0, 5]]
    columns = results.columns(100)
    assert columns.ids == ["a", "b", "c", "", "e"]
    assert columns.rows == [100, 101, 102, 103, 104]
    assert columns.predictions.tolist() == [7, -1, 1, -1, 2]
    assert columns.gradient_norm.tolist() == [5, 0, 10, 0, 5]
    assert columns.statuses == ["ok", "unreadable: the image is null", "ok", "ok", "ok"]
    assert (results.unreadable, results.nonfinite) == (1, 0)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_is_not_finite_leaves_nothing_but_its_status(number: float) -> None:
    results = results_of(2)
    place = results.add(SampleBatch(("a", "b"), ("", ""), ()))
    rows = torch.tensor([[1.0, number], [1.0, 1.0]])
    results.fill(place, rows, predicted(3, 4, finite=(True, False)), group_of(0, 1))
    results.settle(LAYOUT, "float32")
    columns = results.columns(0)
    assert results.rows.tolist() == [[0, 0], [0, 0]]
    assert columns.statuses == ["nonfinite", "nonfinite"]
    assert (columns.predictions.tolist(), columns.confidence.tolist(), columns.gradient_norm.tolist()) == (
        [-1, -1],
        [0, 0],
        [0, 0],
    )
    assert results.nonfinite == 2


def test_what_has_no_gradient_keeps_its_prediction_and_no_row() -> None:
    results = results_of(3)
    place = results.add(SampleBatch(("a", "b", "c"), ("", "", ""), ()))
    rows = torch.tensor([[3e-9, 4e-9], [3.0, 4.0], [1.0, torch.nan]])
    outcome = predicted(7, 8, 9, flat=(True, False, True))
    results.fill(place, rows, outcome, group_of(0, 1, 2))
    results.settle(LAYOUT, "float16")
    columns = results.columns(0)
    assert columns.statuses == ["flat", "ok", "nonfinite"]
    assert (columns.predictions.tolist(), columns.confidence.tolist()) == ([7, 8, -1], [0.5, 0.5, 0])
    assert columns.gradient_norm.tolist() == pytest.approx([5e-9, 5, 0])
    assert (results.rows != 0).any(dim=1).tolist() == [False, True, False]
    assert (columns.ok.tolist(), columns.flat.tolist()) == ([False, True, False], [True, False, False])


def test_a_norm_beyond_float32_is_of_finite_numbers() -> None:
    results = results_of(1)
    place = results.add(SampleBatch(("a",), ("",), ()))
    results.fill(place, torch.full((1, 2), 3e38), predicted(0), group_of(0))
    results.settle(LAYOUT, "float32")
    assert results.nonfinite == 0 and results.rows.tolist() == torch.full((1, 2), 3e38).tolist()


def test_several_rows_of_a_sample_lie_together_and_stand_or_fall_together() -> None:
    results = results_of(3, labels=2)
    place = results.add(SampleBatch(("a", "b", "c"), ("", "", "the image is null"), ()))
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [torch.inf, 0.0]])
    results.fill(place, rows, predicted(-1, -1), group_of(0, 1))
    results.settle(LAYOUT, "float32")
    assert results.rows[:, 0].tolist() == [1, 2, 0, 0, 0, 0]
    columns = results.columns(10)
    assert columns.ids == ["a", "a", "b", "b", "c", "c"]
    assert columns.rows == [10, 10, 11, 11, 12, 12]
    assert columns.statuses == ["ok", "ok", "nonfinite", "nonfinite"] + ["unreadable: the image is null"] * 2
    assert (results.nonfinite, results.unreadable) == (1, 1), "samples are counted, not rows"


def test_half_precision_has_a_scale_per_layer() -> None:
    results = results_of(1)
    place = results.add(SampleBatch(("a",), ("",), ()))
    results.fill(place, torch.tensor([[1e6, 2e6]]), predicted(0), group_of(0))
    results.settle(LAYOUT, "float16")
    assert results.rows.dtype == torch.float16 and results.scales.shape == (1, 1)
    torch.testing.assert_close(results.rows.float() * results.scales, torch.tensor([[1e6, 2e6]]), rtol=1e-3, atol=0)


def test_labels_are_sampled_by_ids_and_by_places_where_there_is_none(plan: ModelPlan) -> None:
    source = plan.audited[0]
    task = RowTask(plan.name, source.key, 100, 200, source, 1)
    batch = SampleBatch(("a", "", "c"), ("", "", ""), ())
    assert label_names(task, 20, batch) == ["a", f"{source.key}/121", "c"]
