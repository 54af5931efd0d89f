"""A score must not depend on the rows in the same block, to the last bit."""

import pytest
import torch
from torch import Tensor

from madcore import Whitening
from pipeline.artifacts.curvature import TrustedSamples
from pipeline.artifacts.rows import SCORING_BLOCK
from pipeline.planning.plan import ModelPlan
from pipeline.stages.scoring.scorer import Scorer

REFERENCES = 40


@pytest.fixture
def scorer(plan: ModelPlan) -> Scorer:
    """Against random references of ten classes, four of each."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(REFERENCES, plan.layout.k, generator=generator)
    ids = [f"t{row}" for row in range(REFERENCES)]
    trusted = TrustedSamples(ids, ["reference"] * REFERENCES, torch.arange(REFERENCES) % 10, torch.zeros(0).numpy())
    return Scorer.of(plan, Whitening(plan.layout), rows, trusted)


@pytest.fixture
def rows(plan: ModelPlan) -> Tensor:
    return torch.randn(SCORING_BLOCK, plan.layout.k, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("samples", [1, 3, 100, SCORING_BLOCK - 1])
def test_fewer_rows_have_the_same_scores_to_the_last_bit(scorer: Scorer, rows: Tensor, samples: int) -> None:
    predictions = torch.arange(SCORING_BLOCK) % 10
    whole, some = scorer(rows, predictions), scorer(rows[:samples], predictions[:samples])
    assert len(some.score) == len(some.top_indices) == samples
    assert torch.equal(some.score, whole.score[:samples])
    assert torch.equal(some.layer_scores, whole.layer_scores[:samples])
    assert torch.equal(some.top_indices, whole.top_indices[:samples])


def test_the_length_of_a_row_changes_no_score_and_its_direction_does(plan: ModelPlan, scorer: Scorer) -> None:
    row = torch.randn(1, plan.layout.k, generator=torch.Generator().manual_seed(2))
    scores = scorer(torch.cat([row, 3 * row, -row]), torch.tensor([4, 4, 4])).score
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], -scores[2])
    assert scores[0] != scores[2]


def test_another_predicted_class_is_compared_with_other_references(scorer: Scorer, rows: Tensor) -> None:
    predictions = torch.arange(SCORING_BLOCK) % 10
    assert not torch.equal(scorer(rows, predictions).score, scorer(rows, (predictions + 1) % 10).score)
