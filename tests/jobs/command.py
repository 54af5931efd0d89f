"""The command `mad`, called in this process, and what it leaves behind."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
from pydantic import JsonValue
from typer.testing import CliRunner

from jobs.main import app

Json = dict[str, JsonValue]


@dataclass(frozen=True)
class Ended:
    """How a call ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Json:
        """stdout as the one JSON object that it must be."""
        document: Json = json.loads(self.out)
        return document

    @property
    def summary(self) -> Json:
        """The summary of the only model."""
        (summary,) = section(self.document, "models").values()
        assert isinstance(summary, dict)
        return summary

    @property
    def complaint(self) -> str:
        """stderr of a call that is refused: one paragraph, foreseen, without a traceback."""
        assert self.err.startswith("mad: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1
        assert not self.err.startswith("mad: unexpected")
        assert "Traceback" not in self.err
        return self.err.removeprefix("mad: ").rstrip("\n")


def mad(*arguments: str | Path) -> Ended:
    """Runs `mad ARGUMENTS`; what escapes the command's own edge is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, without_planning(result.stderr))


def without_planning(stderr: str) -> str:
    """stderr without the lines that say what is planned, which a slow machine shows and a fast one does not."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("planning: "))


def section(document: Json, *path: str) -> Json:
    """A mapping inside a document."""
    for name in path:
        value = document[name]
        assert isinstance(value, dict)
        document = value
    return document


def tasks(summary: Json) -> dict[str, tuple[JsonValue, JsonValue]]:
    """(run, reused) tasks by stage."""
    stages = section(summary, "stages")
    return {name: (section(stages, name)["tasks_run"], section(stages, name)["tasks_reused"]) for name in stages}


def published(root: Path, model: str) -> list[Sequence[Path]]:
    """The files of each published table of a model, one item a run."""
    return [sorted(run.iterdir()) for run in sorted((root / model / "scores").glob("run=*"))]


def table(root: Path, model: str) -> list[Json]:
    """The rows of the only published table of a model, as any Parquet reader sees them."""
    (files,) = published(root, model)
    data: pa.Table = ds.dataset([str(path) for path in files]).to_table()
    rows: list[Json] = data.to_pylist()
    return rows
