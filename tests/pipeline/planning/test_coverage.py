"""How much rows cover, as plans and reports say it."""

from collections.abc import Mapping

import pytest
from pydantic import JsonValue

from madcore.coverage.shares import ParameterShare, Shares
from pipeline.planning.coverage import coverage_warning, percent, share_without_verdict, shares_of
from pipeline.planning.plan import ModelPlan
from tests.pipeline.planning.plans import model_config, model_plan

ALL: Mapping[str, JsonValue] = {"parameters": "all"}


def plan(first: float, second: float, norm: float, estimator: Mapping[str, JsonValue] | None = None) -> ModelPlan:
    """Of two covered layers and a norm, with these parts of the gradient and 36, 12 and 12 numbers."""
    numbers = {"first.weight": (36, first), "second.weight": (12, second), "norm.weight": (12, norm)}
    shares = {name: ParameterShare(*one) for name, one in numbers.items()}
    return model_plan(model_config(estimator=dict(estimator or {})), shares=shares)


def test_shares_are_of_all_that_was_planned() -> None:
    assert shares_of(plan(0.5, 0.25, 0.25)) == Shares(0.8, 0.75)


def test_fewer_layers_are_measured_by_what_their_patterns_choose() -> None:
    """As when stored rows are scored again with fewer layers."""
    fewer = plan(0.5, 0.25, 0.25, {"layers": ["second", "norm"]})
    fewer = ModelPlan(**{**vars(fewer), "sides": fewer.sides.of_layers(("second.weight",))})
    assert shares_of(fewer) == Shares(0.5, 0.5)


def test_without_what_an_earlier_version_did_not_record_nothing_is_known_or_said() -> None:
    assert shares_of(model_plan()) is None
    assert coverage_warning(model_plan()) is None and share_without_verdict(model_plan()) is None


def test_little_of_either_is_a_warning_that_names_the_largest_of_the_rest_and_the_remedy() -> None:
    warning = coverage_warning(plan(0.5, 0.44, 0.06))
    assert warning == (
        "rows cover 80 % of the parameters and 94 % of the gradient's squared norm in the modules that "
        "estimator.layers selects; most of the rest: norm.weight (20 % and 6 %); "
        "estimator.parameters: all takes biases, norms, embeddings and tables too"
    )
    assert str(coverage_warning(plan(0.5, 0.44, 0.06, ALL))).endswith("norm.weight (20 % and 6 %)")


def test_ninety_percent_of_both_is_enough() -> None:
    shares = {
        name: ParameterShare(*one)
        for name, one in {"first.weight": (80, 0.5), "second.weight": (10, 0.4), "norm.weight": (10, 0.1)}.items()
    }
    assert coverage_warning(model_plan(shares=shares)) is None


@pytest.mark.parametrize(("norm", "share"), [(0.5, None), (0.51, 0.49)])
def test_half_of_the_gradient_is_enough_for_a_verdict(norm: float, share: float | None) -> None:
    found = share_without_verdict(plan(0.25, 0.75 - norm, norm))
    assert found == (None if share is None else pytest.approx(share))


def test_an_unknown_part_of_the_gradient_forbids_no_verdict() -> None:
    assert share_without_verdict(plan(0.0, 0.0, 0.0)) is None
    assert "80 % of the parameters and an unknown part of the gradient's" in str(coverage_warning(plan(0.0, 0.0, 0.0)))


def test_percents_are_rounded_down() -> None:
    assert [percent(share) for share in (0.89999, 0.9, 0.175, 1.0, None)] == [
        "89.9 %",
        "90 %",
        "17.5 %",
        "100 %",
        "an unknown part",
    ]
