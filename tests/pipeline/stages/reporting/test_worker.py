"""The key of a report, and the task that bears its name."""

from dataclasses import replace

from madcore.coverage.shares import ParameterShare
from pipeline.artifacts.parts import ScorePart
from pipeline.config.scoring import Target
from pipeline.planning.plan import ModelPlan
from pipeline.planning.recipe import EarlierRun
from pipeline.stages.reporting.worker import REPORT, ReportTask, reporting_key


def part(content: str = "content", folder: str = "folder") -> ScorePart:
    return ScorePart("day.parquet", "source", 0, 10, folder, content)


def with_target(plan: ModelPlan, target: Target) -> ModelPlan:
    calibration = plan.config.calibration.model_copy(update={"target": target})
    return replace(plan, config=plan.config.model_copy(update={"calibration": calibration}))


def test_the_key_changes_with_what_a_report_follows_from(plan: ModelPlan) -> None:
    stored = replace(plan, stored=EarlierRun(run_id="run", labels="", truth="", report="report"))
    keys = [
        reporting_key(plan, (part(),), "references"),
        reporting_key(plan, (part("other"),), "references"),
        reporting_key(plan, (part(), part()), "references"),
        reporting_key(plan, (part(),), "other"),
        reporting_key(with_target(plan, Target(fpr=0.02)), (part(),), "references"),
        reporting_key(with_target(plan, Target(fdr=0.01)), (part(),), "references"),
        reporting_key(stored, (part(),), "references"),
        reporting_key(replace(stored, dropped=("an id",)), (part(),), "references"),
    ]
    assert len(set(keys)) == len(keys)


def with_shares(plan: ModelPlan, gradient: float) -> ModelPlan:
    """The plan with layers that hold this share of the gradient; one more parameter holds the rest."""
    part = gradient / len(plan.layout.names)
    shares = {
        **dict.fromkeys(plan.layout.names, ParameterShare(1, part)),
        "norm.weight": ParameterShare(1, 1 - gradient),
    }
    return replace(plan, recipe=plan.recipe.model_copy(update={"shares": shares}))


def test_the_share_of_the_gradient_is_in_the_key_where_it_forbids_a_verdict(plan: ModelPlan) -> None:
    unknown = plan.recipe.model_copy(update={"shares": {}})
    plans = [replace(plan, recipe=unknown), *(with_shares(plan, gradient) for gradient in (0.95, 0.5, 0.49, 0.3))]
    keys = [reporting_key(one, (part(),), "references") for one in plans]
    assert keys[0] == keys[1] == keys[2] and len(set(keys)) == 3


def test_where_scores_are_stored_changes_no_key(plan: ModelPlan) -> None:
    one, other = (reporting_key(plan, (part(folder=folder),), "references") for folder in ("here", "there"))
    assert one == other


def test_a_model_has_one_report(plan: ModelPlan) -> None:
    assert ReportTask(plan.name, "key", (part(),), "references").name == REPORT
