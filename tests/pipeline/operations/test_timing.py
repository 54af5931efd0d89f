"""What is timed of work after the rows, and what costs nothing."""

import pytest

from pipeline.operations.timing import REFERENCES, score_rates
from tests.pipeline.planning.plans import model_config, model_plan


def test_the_identity_whitens_nothing() -> None:
    rates = score_rates(model_plan(model_config(curvature={"kind": "identity"})), references=20)
    assert (rates.whitened, rates.moment, rates.factor) == (0.0, 0.0, 0.0)
    assert rates.scored > 0 and rates.part_bytes > 0


@pytest.mark.parametrize("kind", ["block_moment", "ekfac", "kfac"])
def test_a_moment_is_whitening_with_eigenvectors_and_nothing_with_factors(kind: str) -> None:
    rates = score_rates(model_plan(model_config(curvature={"kind": kind})), references=20)
    assert rates.whitened > 0
    assert (rates.factor > 0) == (kind == "block_moment")
    if kind == "ekfac":
        assert rates.moment == rates.whitened
    else:
        assert (rates.moment > 0) == (kind == "block_moment")


def test_scoring_against_more_references_than_are_timed_takes_longer_in_proportion() -> None:
    """Its bytes do not grow with them: a row names its ten nearest."""
    plan = model_plan()
    few, many = score_rates(plan, REFERENCES), score_rates(plan, 100 * REFERENCES)
    assert many.scored > 10 * few.scored
    assert many.part_bytes == few.part_bytes
