"""Every score, with layers concatenated and apart, against a twin that loops over samples, classes and layers."""

import itertools
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from madcore import Measured, Projection, References, RowExtractor, RowLayout, margin, score, select_layers
from madcore.scoring.coupling import (
    CLASS_SCORES,
    LayersForm,
    SampleScores,
    ScoreKind,
    class_means,
    cohesion,
    debiased,
    unit_rows,
)
from tests.madcore.models import batch_of, conv, with_head
from tests.reference import CouplingTwin, mean_coupling_from_gradients, unit_row
from tests.reference import class_means as class_means_twin
from tests.reference import cohesion as cohesion_twin

LAYOUT = RowLayout(("a.weight", "b.weight", "c.weight"), (5, 1, 4))


KINDS, FORMS = get_args(ScoreKind), get_args(LayersForm)


@dataclass(frozen=True)
class Rows:
    """Whitened rows (n, k) and predicted classes (n,)."""

    whitened: Tensor
    predictions: Tensor


def rows_of(seed: int, counts: tuple[int, ...]) -> Rows:
    """The given number of rows per class, around a direction of the class; the middle layer of one in three is zero."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((len(counts), LAYOUT.k))
    predictions = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    whitened = 3 * (centres[predictions] + generator.standard_normal((len(predictions), LAYOUT.k)))
    whitened[::3, LAYOUT.slices[1]] = 0
    return Rows(torch.from_numpy(whitened).float(), torch.from_numpy(predictions))


REFERENCES = {
    "many": (150, 120, 131),
    "more than 20 nearest would take": (200, 150, 95),
    "rare classes": (31, 9, 10, 1, 8),
    "absent classes": (21, 0, 12, 0),
    "fewer than 20 rows": (6, 5),
    "one row": (0, 1),
}


AUDITED = rows_of(5, (4, 4))


def both(counts: tuple[int, ...], layers: LayersForm) -> tuple[References, CouplingTwin]:
    """The references and their twin."""
    rows = rows_of(0, counts)
    twin = CouplingTwin(LAYOUT.sizes, layers, rows.whitened.double().numpy(), rows.predictions.tolist(), len(counts))
    return References.of(LAYOUT, layers, rows.whitened, rows.predictions, len(counts)), twin


def audited_pairs(classes: int) -> tuple[Tensor, Tensor]:
    """Every audited row with every class for its prediction, whitened (n, k) and predictions (n,)."""
    pairs = list(itertools.product(range(len(AUDITED.whitened)), range(classes)))
    return AUDITED.whitened[[i for i, _ in pairs]], torch.tensor([c for _, c in pairs])


ALL = pytest.mark.parametrize(
    ("kind", "layers", "counts"),
    [
        pytest.param(kind, layers, counts, id=f"{kind}-{layers}-{name}")
        for kind in KINDS
        for layers in FORMS
        for name, counts in REFERENCES.items()
    ],
)


@ALL
def test_scores_and_layer_scores_equal_the_loops(kind: ScoreKind, layers: LayersForm, counts: tuple[int, ...]) -> None:
    references, twin = both(counts, layers)
    whitened, predictions = audited_pairs(len(counts))
    scored = score(references, kind, whitened, predictions)
    pairs = list(zip(whitened.double().numpy(), predictions.tolist(), strict=True))
    np.testing.assert_allclose(scored.score, [twin.score(kind, row, predicted) for row, predicted in pairs], atol=1e-5)
    np.testing.assert_allclose(scored.leverage, [row @ row for row, _ in pairs], rtol=1e-5)
    np.testing.assert_allclose(
        scored.layer_scores, [twin.layer_scores(kind, row, predicted) for row, predicted in pairs], atol=1e-5
    )


@ALL
def test_every_sample_is_scored_on_its_own(kind: ScoreKind, layers: LayersForm, counts: tuple[int, ...]) -> None:
    references, _ = both(counts, layers)
    whitened, predictions = audited_pairs(len(counts))
    together = score(references, kind, whitened, predictions)
    alone = [
        score(references, kind, row, predicted)
        for row, predicted in zip(whitened.split(1), predictions.split(1), strict=True)
    ]
    for field in ("score", "leverage", "layer_scores", "top_influence"):
        torch.testing.assert_close(
            torch.cat([getattr(one, field) for one in alone]), getattr(together, field), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("counts", REFERENCES.values(), ids=REFERENCES.keys())
def test_the_largest_influences_equal_a_sorted_list(counts: tuple[int, ...]) -> None:
    references, twin = both(counts, "concatenated")
    scored = score(references, "mean_coupling", AUDITED.whitened, torch.zeros(len(AUDITED.whitened), dtype=torch.int64))
    expected = [twin.top_influence(row) for row in AUDITED.whitened.double().numpy()]
    assert scored.top_indices.tolist() == [[index for index, _ in top] for top in expected]
    np.testing.assert_allclose(
        scored.top_influence, [[value for _, value in top] for top in expected], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("m", "q"), [(1, 1), (19, 1), (39, 1), (40, 2), (399, 19), (400, 20), (1000, 20)])
def test_how_many_nearest_rows_top_coupling_takes(m: int, q: int) -> None:
    assert (
        References.of(LAYOUT, "concatenated", rows_of(0, (m,)).whitened, torch.zeros(m, dtype=torch.int64), 1).nearest
        == q
    )


@pytest.mark.parametrize("layers", FORMS)
def test_unit_rows_equal_the_loop_and_zero_stays_zero(layers: LayersForm) -> None:
    whitened = torch.cat(
        [AUDITED.whitened, torch.zeros(1, LAYOUT.k), 1e-12 * AUDITED.whitened[:1], 1e12 * AUDITED.whitened[:1]]
    )
    expected = [unit_row(row, LAYOUT.sizes, layers) for row in whitened.double().numpy()]
    np.testing.assert_allclose(unit_rows(whitened, LAYOUT, layers), expected, atol=1e-6)


@pytest.mark.parametrize("layers", FORMS)
def test_unit_rows_of_tiny_rows_have_no_more_than_unit_length(layers: LayersForm) -> None:
    units = unit_rows(1e-30 * AUDITED.whitened, LAYOUT, layers)
    expected = unit_rows(AUDITED.whitened, LAYOUT, layers)
    torch.testing.assert_close(units, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("counts", REFERENCES.values(), ids=REFERENCES.keys())
def test_class_means_equal_the_loop(counts: tuple[int, ...]) -> None:
    rows = rows_of(0, counts)
    units = unit_rows(rows.whitened, LAYOUT, "apart")
    expected = class_means_twin(list(units.double().numpy()), rows.predictions.tolist(), len(counts))
    np.testing.assert_allclose(class_means(units, rows.predictions, len(counts)), expected, atol=1e-6)


@pytest.mark.parametrize("layers", FORMS)
@pytest.mark.parametrize("counts", [(20, 15, 12), REFERENCES["rare classes"], REFERENCES["absent classes"]], ids=str)
def test_cohesion_is_the_mean_over_pairs(counts: tuple[int, ...], layers: LayersForm) -> None:
    rows = rows_of(0, counts)
    units = unit_rows(rows.whitened, LAYOUT, layers)
    expected = cohesion_twin(list(units.double().numpy()), rows.predictions.tolist(), len(counts))
    np.testing.assert_allclose(cohesion(units, rows.predictions, len(counts)), expected, atol=1e-6)


def test_no_pair_of_rows_has_no_cohesion_and_debiases_nothing() -> None:
    units, predictions = torch.eye(3), torch.arange(3)
    assert torch.equal(cohesion(units, predictions, 4), torch.zeros(4, dtype=torch.float64))
    assert torch.equal(debiased(units, cohesion(units, predictions, 3)), units)


def test_debiased_means_are_over_the_root_of_their_cohesion_and_no_less_than_a_tenth_of_the_median() -> None:
    means, agreement = torch.ones(4, 2), torch.tensor([0.4, 0.2, 0.001, -0.1], dtype=torch.float64)
    floor = float(agreement.quantile(0.5)) / 10
    torch.testing.assert_close(debiased(means, agreement)[:, 0], 1 / torch.tensor([0.4, 0.2, floor, floor]).sqrt())


@pytest.mark.parametrize("kind", CLASS_SCORES)
def test_debiasing_changes_scores_of_class_means_by_a_factor_per_class(kind: ScoreKind) -> None:
    rows = rows_of(0, (150, 120, 131))
    plain, changed = (
        References.of(LAYOUT, "concatenated", rows.whitened, rows.predictions, 3, debias=debias)
        for debias in (False, True)
    )
    factors = 1 / cohesion(plain.units, rows.predictions, 3).sqrt()
    torch.testing.assert_close(changed.class_means, plain.class_means * factors.unsqueeze(1).float())
    before, after = (score(one, kind, AUDITED.whitened, AUDITED.predictions).score for one in (plain, changed))
    assert not torch.allclose(before, after)
    if kind == "prediction_coupling":
        torch.testing.assert_close(after, before * factors[AUDITED.predictions].float())


def test_class_means_are_not_renormalised() -> None:
    units = torch.tensor([[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10)
    means = class_means(units, torch.zeros(20, dtype=torch.int64), 1)
    torch.testing.assert_close(means, torch.tensor([[0.5, 0.5]]))


def test_the_overall_mean_is_one_of_classes_not_of_rows() -> None:
    units, predictions = torch.tensor([[1.0, 0.0]] * 30 + [[0.0, 1.0]] * 10), torch.tensor([0] * 30 + [1] * 10)
    torch.testing.assert_close(class_means(units, predictions, 3)[2], torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("layers", FORMS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "leverage"])
def test_what_the_references_point_at_is_less_anomalous_than_its_opposite(kind: ScoreKind, layers: LayersForm) -> None:
    references, _ = both((80,), layers)
    direction = references.class_means[:1]
    towards, away = score(references, kind, torch.cat([direction, -direction]), torch.zeros(2, dtype=torch.int64)).score
    assert towards < 0 and towards < away


def test_leverage_of_an_even_number_of_references_is_about_their_median() -> None:
    references, twin = both((20, 20), "concatenated")
    scored = score(references, "leverage", AUDITED.whitened, AUDITED.predictions)
    np.testing.assert_allclose(
        scored.score, [twin.score("leverage", row, 0) for row in AUDITED.whitened.double().numpy()], atol=1e-5
    )


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_leverage_is_two_sided(factor: float) -> None:
    references, _ = both((40, 41), "concatenated")
    ordinary = references.whitened[references.whitened.square().sum(dim=1).argsort()[40]].unsqueeze(0)
    predictions = torch.zeros(1, dtype=torch.int64)
    assert score(references, "leverage", ordinary, predictions).score.abs() < 1e-6
    expected = torch.tensor([abs(np.log(factor**2))], dtype=torch.float32)
    torch.testing.assert_close(
        score(references, "leverage", factor * ordinary, predictions).score, expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("layers", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_row_has_finite_scores(kind: ScoreKind, layers: LayersForm) -> None:
    references, _ = both((12, 13), layers)
    scored = score(references, kind, torch.zeros(1, LAYOUT.k), torch.zeros(1, dtype=torch.int64))
    assert torch.isfinite(scored.score).all()
    assert scored.layer_scores.abs().sum() == 0
    assert kind == "leverage" or scored.score == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_samples_have_no_scores(kind: ScoreKind) -> None:
    references, _ = both((12, 13), "apart")
    scored = score(references, kind, torch.zeros(0, LAYOUT.k), torch.zeros(0, dtype=torch.int64))
    assert (scored.score.shape, scored.layer_scores.shape, scored.top_indices.shape) == ((0,), (0, 3), (0, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_float64_model_can_be_scored(kind: ScoreKind) -> None:
    references, twin = both((12, 13), "apart")
    precise = replace(
        references,
        whitened=references.whitened.double(),
        units=references.units.double(),
        class_means=references.class_means.double(),
    )
    scored: SampleScores = score(precise, kind, AUDITED.whitened.double(), AUDITED.predictions)
    expected = [
        twin.score(kind, row, predicted)
        for row, predicted in zip(AUDITED.whitened.double().numpy(), AUDITED.predictions.tolist(), strict=True)
    ]
    np.testing.assert_allclose(scored.score, expected, atol=1e-5)


def test_an_empty_reference_part_is_refused() -> None:
    with pytest.raises(ValueError, match="reference part is empty"):
        References.of(LAYOUT, "apart", torch.zeros(0, LAYOUT.k), torch.zeros(0, dtype=torch.int64), 3)


def test_references_without_classes_have_all_scores_but_those_of_classes() -> None:
    rows = rows_of(0, (31, 9, 10))
    none, audited = torch.full_like(rows.predictions, -1), torch.full_like(AUDITED.predictions, -1)
    with_classes, _ = both((31, 9, 10), "concatenated")
    without = References.of(LAYOUT, "concatenated", rows.whitened, none, 0)
    for kind in KINDS:
        if kind in CLASS_SCORES:
            with pytest.raises(
                ValueError, match=f"{kind} compares with predicted classes, but these references have none"
            ):
                score(without, kind, AUDITED.whitened, audited)
        else:
            expected = score(with_classes, kind, AUDITED.whitened, AUDITED.predictions)
            assert torch.equal(score(without, kind, AUDITED.whitened, audited).score, expected.score)


def test_mean_coupling_with_large_rank_and_identity_curvature_is_brute_force() -> None:
    """The named exact regime: rank above every side, no whitening, equals whole autograd gradients in float64."""
    model: nn.Module = with_head(conv(2, 3, 4, 3, padding=1)(), (2, 4, 4))
    coverage = select_layers(model, parameters="all")
    extractor = RowExtractor(model, coverage.covered, Projection(rank=1000, seed=0))
    trusted, audited = batch_of(6, (2, 4, 4), seed=2), batch_of(5, (2, 4, 4), seed=3)
    predictions = torch.zeros(6, dtype=torch.int64)
    references = References.of(
        extractor.layout, "concatenated", extractor(Measured(trusted, margin)).rows, predictions, 1
    )
    scored = score(references, "mean_coupling", extractor(Measured(audited, margin)).rows, predictions[:5])
    expected = mean_coupling_from_gradients(model, [name for name, _ in model.named_parameters()], trusted, audited)
    assert scored.score.dtype == torch.float64
    np.testing.assert_allclose(scored.score, expected, rtol=1e-10)
