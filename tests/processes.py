"""Processes of their own for tests, forked from a server that has imported what takes seconds.

The server is a process without threads that multiprocessing starts at the first use, so forking it is safe.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    # The last three are what a run imports late.
    ["pipeline.run", "infra.storage.s3", "tests.end_to_end.killing", "jobs.commands", "sklearn.metrics", "pandas"]
)


@dataclass(frozen=True)
class Printed:
    """How a process ended, with all that it printed."""

    code: int
    out: bytes
    err: bytes


def ended(process: BaseProcess) -> int:
    """The exit code of a process, once it has ended."""
    process.join(300)
    assert process.exitcode is not None, "the process did not end within 300 s"
    return process.exitcode


@dataclass(frozen=True)
class Mad:
    """The command `mad` at work in a process of its own, and where that prints to."""

    process: BaseProcess
    printed: Sequence[Path]

    def ended(self) -> Printed:
        """What there is to see once it has ended."""
        return Printed(ended(self.process), *(path.read_bytes() for path in self.printed))


@contextmanager
def begun_mad(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Mad]:
    """The command `mad` in a process that has this working folder and this environment alone."""
    with tempfile.TemporaryDirectory() as scratch:
        printed = [Path(scratch, name) for name in ("out", "err")]
        process = FORKED.Process(target=_mad, args=(list(arguments), folder, dict(environment), printed))
        process.start()
        try:
            yield Mad(process, printed)
        finally:
            process.kill()  # nothing happens to one that has ended
            process.join()


def mad_in_process(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Printed:
    """Runs the command as `begun_mad` does, to its end."""
    with begun_mad(arguments, folder, environment) as running:
        return running.ended()


def _mad(arguments: list[str], folder: Path, environment: dict[str, str], printed: list[Path]) -> None:
    for descriptor, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # the server's, found by its environment
    sys.argv = ["mad", *arguments]
    from jobs.main import main  # noqa: PLC0415 - as the command imports it

    main()
