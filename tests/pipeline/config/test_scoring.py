"""The sections `score` and `calibration`."""

import pytest
from pydantic import ValidationError

from madcore.scoring.coupling import CLASS_SCORES
from pipeline.config.scoring import CLASS_MEANS, Calibration, ScoreSection, Target


def test_what_can_be_debiased_is_what_compares_with_class_means() -> None:
    """A config is parsed without torch, so it has names of its own."""
    assert CLASS_MEANS == CLASS_SCORES


def test_auto_of_layers_and_of_q() -> None:
    assert (ScoreSection().layers_form, ScoreSection(layers="apart").layers_form) == ("concatenated", "apart")
    assert (ScoreSection().nearest, ScoreSection(q=7).nearest) == (None, 7)


def test_the_kind_is_known_once_auto_is_resolved() -> None:
    assert ScoreSection(kind="leverage").resolved == "leverage"
    with pytest.raises(ValueError, match="the score is still auto"):
        _ = ScoreSection().resolved


@pytest.mark.parametrize("q", [0, -1, True, 1.5, "many"])
def test_q_is_auto_or_a_whole_number(q: object) -> None:
    with pytest.raises(ValidationError, match="q must be auto or a whole number from 1 on"):
        ScoreSection.model_validate({"q": q})


def test_the_level_is_that_of_the_target_that_is_given() -> None:
    assert (Target(fpr=0.02).level, Target(fdr=0.1).level, Calibration().target.level) == (0.02, 0.1, 0.01)


def test_flags_at_their_default_are_left_out_of_keys() -> None:
    assert set(ScoreSection().model_dump()) == {"kind", "layers", "q"}
    assert set(ScoreSection(form="mean", debiased=True).model_dump()) == {"kind", "form", "layers", "q", "debiased"}
    assert "screen" not in Calibration().model_dump() and Calibration(screen=True).model_dump()["screen"] is True
