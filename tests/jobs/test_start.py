"""What commands import: those that read a root start without torch, and without what only other commands need."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.command import Ended

HEAVY = ("torch", "ray", "zarr", "dask", "pandas", "sklearn", "transformers")


PROGRAM = """
import json, sys
from jobs.main import app
app(sys.argv[2:], standalone_mode=False)
print(json.dumps([name for name in sys.argv[1].split(",") if name in sys.modules]), file=sys.stderr)
"""


def imported(*words: str) -> list[str]:
    """Which of the heavy packages a command has imported at its end, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(HEAVY), *words], capture_output=True, text=True, check=True
    )
    names: list[str] = json.loads(ended.stderr.splitlines()[-1])
    return names


@pytest.mark.parametrize("command", ["status", "report", "inspect", "verify"])
def test_a_command_that_reads_a_root_imports_nothing_heavy(finished: tuple[Path, Ended], command: str) -> None:
    assert imported(command, str(finished[0])) == []


def test_neither_does_an_explanation(finished: tuple[Path, Ended]) -> None:
    root, ended = finished
    (model,) = json.loads(ended.out)["models"]
    report = subprocess.run(
        [sys.executable, "-m", "jobs.main", "report", root, "--output", "json", "-q"],
        capture_output=True,
        text=True,
        check=True,
    )
    sample = json.loads(report.stdout)["models"][model]["top"][0]["sample_id"]
    assert imported("explain", str(root), "--model", model, "--sample", sample) == []
