"""How a chain's draws are cut into segments and tasks."""

from itertools import pairwise

import pytest

from infra.storage.storage import Storage
from pipeline.config.estimators import LossTrace
from pipeline.planning.chains import Segment, chain_log, chain_tasks, segment_length, segments
from pipeline.planning.plan import SNAPSHOT_BYTES, ModelPlan
from tests.pipeline.planning.plans import model_plan


def holding(snapshots: int) -> ModelPlan:
    """A model of which so many snapshots fit in a segment."""
    return model_plan(weights=SNAPSHOT_BYTES // (4 * snapshots), snapshots_key="snapshots")


def traced(draws: int, thin: int = 1, burn_in: int = 10) -> LossTrace:
    return LossTrace(kind="loss_trace", sampling=("s",), draws=draws, thin=thin, burn_in=burn_in)


@pytest.mark.parametrize(
    ("snapshots", "thin", "length"), [(1, 1, 1), (100, 1, 100), (100, 3, 300), (100, 7, 500), (10_000, 1, 500)]
)
def test_a_segment_keeps_what_fits_in_memory_and_has_at_most_500_draws(snapshots: int, thin: int, length: int) -> None:
    assert segment_length(holding(snapshots), traced(2000, thin)) == length


def test_segments_cover_all_draws_and_a_longer_chain_continues_the_grid() -> None:
    plan = holding(100)
    short, long = segments(plan, traced(250)), segments(plan, traced(420))
    assert short == [Segment(0, 100), Segment(100, 200), Segment(200, 250)]
    assert long == [Segment(0, 100), Segment(100, 200), Segment(200, 300), Segment(300, 400), Segment(400, 420)]
    assert short[0].name == "000000000000-000000000100"


def test_a_segment_keeps_draws_after_the_burn_in_that_are_not_thinned_out() -> None:
    settings = traced(600, thin=50, burn_in=100)  # keeps 100, 150, 200 and so on
    assert [Segment(start, start + 25).keeps(settings) for start in (75, 100, 125, 150, 175)] == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_a_task_has_segments_of_500_draws_and_continues_from_the_one_before() -> None:
    tasks = chain_tasks(holding(100), traced(1120), 3)
    assert [len(task.segments) for task in tasks] == [5, 5, 2]
    assert [task.chain for task in tasks] == [3, 3, 3]
    assert tasks[0].before is None
    assert all(later.before == earlier.segments[-1] for earlier, later in pairwise(tasks))


def test_a_chain_has_a_log_under_the_key_of_its_snapshots() -> None:
    assert chain_log(Storage("/nowhere"), holding(1), 2).folder == "net/gradients/snapshots/chain-000002"
