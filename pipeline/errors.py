"""The errors a user meets. Each is one paragraph: what, where, the numbers, the remedy. Jobs turn them into exit codes."""


class AuditError(Exception):
    """Root of every error of the pipeline."""


class ConfigError(AuditError, ValueError):
    """The config as a whole cannot be run; nothing was written."""


class RootError(AuditError, OSError):
    """The root is not one, or its store cannot keep an audit; nothing was written."""


class SourceError(AuditError, ValueError):
    """One model or one data file cannot be used; the others can."""


class CannotFit(AuditError, MemoryError):
    """The plan needs more than the config grants."""


class StageError(AuditError, RuntimeError):
    """A stage cannot be done for one model."""
