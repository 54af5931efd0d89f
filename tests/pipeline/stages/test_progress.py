"""What a summary says of a stage's cost, and when a model can continue."""

from pipeline.planning.plan import ModelPlan
from pipeline.root.logs import STAGES
from pipeline.root.summary import StageSummary
from pipeline.stages.progress import ModelRun, StageCost


def test_the_share_of_computing_is_unknown_where_no_model_computes() -> None:
    cost = StageCost(seconds=2.00049, tasks_run=3, tasks_reused=1)
    assert cost.summary == StageSummary(seconds=2.0, computing_share=None, tasks_run=3, tasks_reused=1)
    assert StageCost(seconds=3.0, computing_seconds=2.0).summary.computing_share == 0.667


def test_a_model_continues_until_it_fails_or_is_not_reached(plan: ModelPlan) -> None:
    run = ModelRun(plan)
    assert run.runnable and list(run.costs) == list(STAGES)
    run.failure = "why"
    assert not run.runnable
    assert not ModelRun(plan, unreached=True).runnable


def test_runs_of_a_model_share_nothing(plan: ModelPlan) -> None:
    first, second = ModelRun(plan), ModelRun(plan)
    first.failed_tasks.append("a task")
    first.stages["scoring"].tasks_run += 1
    assert second.failed_tasks == [] and second.stages["scoring"].tasks_run == 0
