"""Code of the user's: whatever it raises becomes one sentence; the project's own errors stay as they are."""

import pytest

from madcore import MadcoreError
from pipeline.errors import ConfigError, SourceError
from pipeline.models.user_code import user_code


@pytest.mark.parametrize("error", [ValueError("no\nwidth"), KeyError("no"), SystemExit("no")])
def test_whatever_it_raises_names_the_code(error: BaseException) -> None:
    with (
        pytest.raises(SourceError, match=f"^building it: failed with {type(error).__name__}.*no") as caught,
        user_code("building it"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ConfigError("ours"), MadcoreError("ours"), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, user_code("building it"):
        raise error
    assert caught.value is error


def test_what_succeeds_is_left_alone() -> None:
    with user_code("building it"):
        value = 3
    assert value == 3
