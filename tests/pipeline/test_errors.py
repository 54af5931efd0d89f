"""Errors share one base class, and each is also the built-in that a caller would catch."""

import pytest

from pipeline import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.RootError, OSError),
        (errors.SourceError, ValueError),
        (errors.CannotFit, MemoryError),
        (errors.StageError, RuntimeError),
    ],
)
def test_an_error_is_caught_as_either(error: type[Exception], builtin: type[Exception]) -> None:
    for kind in (errors.AuditError, builtin):
        with pytest.raises(kind, match=r"^what, the numbers, the remedy$"):
            raise error("what, the numbers, the remedy")
