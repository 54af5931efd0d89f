"""The section `curvature`: kinds, their seed, and damping."""

import pytest
from pydantic import ValidationError

from pipeline.config.curvature import Absolute, CurvatureSection, RelativeMean


def test_damping_without_a_kind_is_relative() -> None:
    assert CurvatureSection.model_validate({"damping": {"factor": 2}}).damping == RelativeMean(factor=2.0)
    assert CurvatureSection.model_validate({"damping": {"kind": "absolute", "value": 2}}).damping == Absolute(value=2.0)


def test_the_seed_is_left_out_at_zero() -> None:
    assert "seed" not in CurvatureSection(kind="fisher").model_dump()
    assert CurvatureSection(kind="fisher", seed=3).model_dump()["seed"] == 3


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"kind": "identity", "transductive": True}, "identity is computed from none; choose one of them"),
        ({"kind": "kfac", "seed": 1}, "seed is that of the labels that kind: fisher samples; kfac samples none"),
        ({"damping": {"factor": 0}}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(section: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CurvatureSection.model_validate(section)
