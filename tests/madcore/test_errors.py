"""What errors say, and what a caller can catch them by."""

import pytest

from madcore import CalibrationError, LayerError, MadcoreError, ModelError
from madcore.errors import first_line


@pytest.mark.parametrize("kind", [CalibrationError, ModelError])
def test_errors_have_one_root_and_are_value_errors(kind: type[MadcoreError]) -> None:
    assert issubclass(kind, MadcoreError) and issubclass(kind, ValueError)


def test_a_layer_error_names_the_first_layer_and_keeps_all_reasons() -> None:
    assert str(LayerError({"a.weight": "it is tied"})) == "a.weight: it is tied"
    error = LayerError({"a.weight": "it is tied", "b.weight": "it is unused", "c.weight": "it is unused"})
    assert str(error) == "a.weight: it is tied (and 2 more layers like it)"
    assert list(error.reasons) == ["a.weight", "b.weight", "c.weight"]
    assert isinstance(error, MadcoreError) and isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("shapes differ\nsee the manual"), "shapes differ"),
        (RuntimeError("\n  shapes differ"), "shapes differ"),
        (RuntimeError(""), "RuntimeError"),
        (KeyError(), "KeyError"),
    ],
)
def test_the_first_line_of_an_error_or_its_type(error: Exception, line: str) -> None:
    assert first_line(error) == line
