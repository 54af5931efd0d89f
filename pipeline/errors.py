"""The errors that users see, each one paragraph: what, where, the numbers, the remedy. Jobs make exit codes of them."""


class AuditError(Exception):
    """Base class of the pipeline's errors."""


class ConfigError(AuditError, ValueError):
    """The config as a whole cannot be run; nothing was written."""


class RootError(AuditError, OSError):
    """The folder is not a root, or its store cannot keep an audit; nothing was written."""


class SourceError(AuditError, ValueError):
    """One model or one data file cannot be used; the others can."""


class CannotFit(AuditError, MemoryError):
    """The plan needs more than the config grants."""


class StageError(AuditError, RuntimeError):
    """A stage cannot be completed for one model."""
