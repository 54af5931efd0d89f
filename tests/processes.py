"""Processes of their own for tests, forked from a server that has imported what takes seconds.

The server is a process without threads that multiprocessing starts at the first use, so forking it is safe.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
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


def mad_in_process(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Printed:
    """Runs the command `mad` in a process that has this working folder and this environment alone."""
    with tempfile.TemporaryDirectory() as scratch:
        printed = [Path(scratch, name) for name in ("out", "err")]
        process = FORKED.Process(target=_mad, args=(list(arguments), folder, dict(environment), printed))
        process.start()
        code = ended(process)
        return Printed(code, *(path.read_bytes() for path in printed))


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
