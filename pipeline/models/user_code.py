"""Code that is not this project's: whatever it raises becomes a sentence that says which code failed."""

from collections.abc import Iterator
from contextlib import contextmanager

from infra.execution.contract import describe
from madcore import MadcoreError
from pipeline.errors import AuditError, SourceError


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Runs code that the config names, which may raise anything.

    Raises:
        SourceError: the code failed; the message begins with `what`.
    """
    try:
        yield
    except (AuditError, MadcoreError):
        raise
    except (Exception, SystemExit) as error:
        raise SourceError(f"{what}: failed with {describe(error)}") from error
