"""The errors of the numerics: each says what is wrong, with the numbers, and what to change."""

from collections.abc import Mapping

# what a model raises where it is run in a way that does not suit it; libraries have errors of their own for shapes
FAILURES = (Exception,)


class MadcoreError(Exception):
    """Root of every error that madcore raises."""


class ModelError(MadcoreError, ValueError):
    """The model, as given, has no per-sample gradients that mean anything."""


class LayerError(MadcoreError, ValueError):
    """Layers cannot be hooked or selected; `reasons` says why by parameter or pattern. The message names the first."""

    def __init__(self, reasons: Mapping[str, str]):
        """`reasons`: at least one, each a clause."""
        (name, reason), *others = reasons.items()
        super().__init__(f"{name}: {reason}" + (f" (and {len(others)} more layers like it)" if others else ""))
        self.reasons = reasons


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class CalibrationError(MadcoreError, ValueError):
    """A target lies below what the calibration part can resolve."""
