"""The section `estimator`: which draws of a chain are kept, and what is left out of keys."""

import pytest
from pydantic import ValidationError

from pipeline.config.estimators import Estimator, LossTrace, ProjectionSection


def trace(**keys: int) -> LossTrace:
    return LossTrace.model_validate({"sampling": "s.parquet", **keys})


def test_draws_are_kept_after_the_burn_in_every_thin_th() -> None:
    assert list(trace(draws=30, burn_in=5, thin=3).kept) == [5, 8, 11, 14, 17, 20, 23, 26, 29]
    assert len(trace().kept) == 1750


def test_eight_draws_are_enough_and_seven_are_not() -> None:
    assert len(trace(draws=12, burn_in=4).kept) == 8
    with pytest.raises(
        ValidationError, match="of 11 draws, 7 are kept after a burn_in of 4, thinned by 1; a trace needs 8"
    ):
        trace(draws=11, burn_in=4)


def test_a_sketch_that_is_not_given_is_left_out() -> None:
    assert ProjectionSection().model_dump() == {"kind": "rademacher", "rank": 16, "seed": 0}
    assert ProjectionSection(sketch=8).model_dump() == {"kind": "rademacher", "rank": 16, "seed": 0, "sketch": 8}


def test_one_pattern_of_layers_is_a_list_of_one() -> None:
    assert Estimator.model_validate({"layers": "conv*"}).layers == ("conv*",)
