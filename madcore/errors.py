"""The errors of the numerics: each says what was wrong, with the numbers, and what to change."""


class MadcoreError(Exception):
    """Root of every error that madcore raises."""


class ModelError(MadcoreError, ValueError):
    """The model, as given, has no per-sample gradients that mean anything."""


class LayerError(MadcoreError, ValueError):
    """A layer cannot be hooked or selected; `name` is the parameter or pattern at fault."""

    def __init__(self, name: str, reason: str):
        """`name`: parameter or pattern. `reason`: why, as a clause."""
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class CalibrationError(MadcoreError, ValueError):
    """A target lies below what the calibration part can resolve."""
