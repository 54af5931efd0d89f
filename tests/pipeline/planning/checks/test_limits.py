"""The targets that samples can reach, and why a model does not fit."""

import pytest
from pydantic import JsonValue

from pipeline.errors import SourceError
from pipeline.planning.checks.limits import certifiable, check_samples, describe_misfit
from pipeline.planning.memory import ProjectedMemory
from tests.pipeline.planning.plans import model_config, row_recipe, source

GIB = 1 << 30


def test_a_target_out_of_reach_is_refused_with_the_remedy() -> None:
    """30 % of 20 samples calibrate, 6, so p-values are at least 1/7."""
    check_samples(model_config(calibration={"target": {"fpr": 0.15}}), 20)
    with pytest.raises(
        SourceError, match=r"^calibration: .*; add trusted samples, or raise calibration.fraction \(0.3\)"
    ):
        check_samples(model_config(calibration={"target": {"fpr": 0.14}}), 20)


def test_the_smallest_group_that_an_fdr_target_certifies() -> None:
    """With c calibration and n audited samples, k flagged ones have q >= (n / k) / (c + 1): k >= n / (q (c + 1))."""
    recipe = row_recipe(trusted=(source("t", 330),), audited=(source("a", 600), source("b", 400)))
    assert certifiable(model_config(calibration={"target": {"fdr": 0.1}}), recipe) == 100  # 1000 / (0.1 * 100)
    assert certifiable(model_config(calibration={"target": {"fdr": 0.2}}), recipe) == 50
    assert certifiable(model_config(), recipe) is None


LOSS_TRACE: dict[str, JsonValue] = {"kind": "loss_trace", "sampling": "sampling.parquet"}


@pytest.mark.parametrize(
    ("stage", "estimator", "remedy"),
    [
        ("gradients", None, "lower run.batch_size or run.rows_per_task"),
        ("gradients", LOSS_TRACE, "lower estimator.batch, run.batch_size or run.rows_per_task"),
        ("curvature", None, "lower estimator.projection.rank, or use fewer trusted samples"),
        ("curvature", LOSS_TRACE, "lower estimator.draws, or use fewer trusted samples"),
        ("scoring", None, "lower estimator.projection.rank, or use fewer trusted samples"),
        ("reporting", None, "audit fewer samples at once, or set data.columns.anomalous: null"),
    ],
)
def test_the_largest_stage_is_named_with_both_numbers_and_its_remedy(
    stage: str, estimator: JsonValue, remedy: str
) -> None:
    needs = {"gradients": GIB, "curvature": GIB, "scoring": GIB, "reporting": GIB, stage: 3 * GIB}
    model = model_config(**({"estimator": estimator} if estimator else {}))
    assert describe_misfit(model, ProjectedMemory(**needs), 2 * GIB) == (
        f"the stage {stage} would need 3.00 GiB a worker, run.memory_per_worker grants 2.00 GiB (0.59 GiB of it for "
        f"Python and torch alone); {remedy}, or grant more"
    )
