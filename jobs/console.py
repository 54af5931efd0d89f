"""What all commands share: options, printing results, and the edge where an error becomes a paragraph and a code."""

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Annotated, Literal, TextIO

import typer

from jobs.rendering.terminal import PrintableFormatter, printable, sentence

OWN = ("infra", "jobs", "madcore", "pipeline")


OutputForm = Literal["text", "json"]


Stage = Literal["gradients", "curvature", "scoring", "reporting"]


Output = Annotated[OutputForm, typer.Option(help="Print results as text or as one JSON object.")]


Verbose = Annotated[int, typer.Option("-v", "--verbose", count=True, help="Log more to stderr, with tracebacks.")]


Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print no progress, only errors.")]


DONE, FAILED, WRONG, CANNOT, VERDICT, INTERRUPTED = 0, 1, 2, 3, 4, 130


@dataclass(frozen=True)
class Common:
    """The options of every command, and where its results go."""

    output: OutputForm = "text"
    verbose: int = 0
    quiet: bool = False
    results: TextIO = field(default_factory=lambda: sys.stdout)

    def emit(self, document: Mapping[str, object], text: str) -> None:
        """Prints a result: as the JSON object, or as the text."""
        as_json = self.output == "json"
        print(json.dumps(document, indent=1, allow_nan=False) if as_json else printable(text), file=self.results)


@contextmanager
def edge(common: Common) -> Iterator[Common]:
    """Runs a command; an error becomes one paragraph on stderr and an exit code, with a traceback only with `-v`.

    Only results go to stdout: what the user's own code prints goes to stderr.
    """
    # Torch's own warning about the fallback, which `mad plan` reports by itself.
    warnings.filterwarnings("ignore", "There is a performance drop because")
    _log_to_stderr(common.verbose)
    try:
        with redirect_stdout(sys.stderr):
            yield common
    except KeyboardInterrupt:
        print("interrupted; finished tasks are kept, and the same command resumes", file=sys.stderr, flush=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        raise typer.Exit(FAILED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001
        if common.verbose:
            print(printable(traceback.format_exc()), file=sys.stderr)
        complain(paragraph(error))
        _leave_if_lost(error)
        raise typer.Exit(exit_code(error)) from None


def _log_to_stderr(verbose: int) -> None:
    """Logs at the chosen level. Only own loggers go below INFO: an S3 client's would show tokens and signatures."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter(logging.BASIC_FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.INFO if verbose else logging.WARNING)
    for name in OWN:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose > 1 else logging.NOTSET)


def complain(text: str) -> None:
    """Prints what is wrong as one paragraph on stderr."""
    print(f"mad: {sentence(text)}", file=sys.stderr, flush=True)


def _leave_if_lost(error: Exception) -> None:
    """Ends the process if a cluster was lost: Ray would wait for minutes before it shuts down."""
    from infra.errors import ClusterLost  # noqa: PLC0415

    if isinstance(error, ClusterLost):
        os._exit(exit_code(error))


def paragraph(error: Exception) -> str:
    """An error as text for people; an unexpected one says that it is."""
    from infra.errors import ClusterError, StorageError  # noqa: PLC0415
    from pipeline.errors import AuditError  # noqa: PLC0415

    if isinstance(error, AuditError | StorageError | ClusterError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} (a bug or an unforeseen input; -v shows where)"


def exit_code(error: Exception) -> int:
    """2 for what was wrong before the first task, 3 for what cannot fit or is locked, 1 for everything else."""
    from infra.errors import ClusterError, ClusterLost, LockHeld  # noqa: PLC0415
    from pipeline.errors import CannotFit, ConfigError, RootError, SourceError  # noqa: PLC0415

    if isinstance(error, CannotFit | LockHeld):
        return CANNOT
    if isinstance(error, ClusterLost):
        return FAILED
    return WRONG if isinstance(error, ConfigError | RootError | SourceError | ClusterError) else FAILED
