"""What a run writes about itself under a root: its record, its outcome, and the summary of each model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from infra.errors import Corrupt, Missing
from infra.storage.files import InputFile
from infra.storage.storage import Storage
from pipeline.root.layout import summary_file

FORMAT = 1


Document = dict[str, JsonValue]


FORMAT = 1


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: summaries of the models that got through, what failed, by model, and models that a deadline left unfinished."""

    run_id: str
    summaries: Mapping[str, Document] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    failed_tasks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    refused_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    stages: Mapping[str, JsonValue] = field(default_factory=dict)
    unreached: Sequence[str] = ()

    @property
    def clean(self) -> bool:
        """Whether no model, file or task failed."""
        return not (self.failures or self.failed_tasks or self.refused_files)


def read_summary(storage: Storage, model: str) -> Document | None:
    """The latest summary of a model; None where it has none."""
    return read_document(storage, summary_file(model))


def read_document(storage: Storage, path: str) -> Document | None:
    """A JSON object that this package wrote; None where there is none.

    Raises:
        Corrupt: what is there is no JSON, or of a newer version.
    """
    try:
        document = json.loads(storage.read(path))
    except Missing:
        return None
    except (ValueError, RecursionError) as error:
        raise Corrupt(
            f"{storage.locate(path)}: not readable JSON ({error}); move it away; a model's summary.json the next run writes anew"
        ) from error
    if not isinstance(document, dict):
        return None
    version = document.get("schema", document.get("format", FORMAT))
    if not isinstance(version, int) or version > FORMAT:
        raise Corrupt(
            f"{storage.locate(path)}: has version {version}, this mad reads up to {FORMAT}; upgrade mad to read it"
        )
    return document


def encode_document(document: Document) -> bytes:
    """A document's bytes as they are written; the same for a document that was read."""
    return json.dumps(document, indent=1, allow_nan=False).encode()


class Standing(BaseModel):
    """What one run found of a model."""

    model_config = ConfigDict(frozen=True)
    run_id: str
    verdict: str
    audited: int
    flagged: int
    same_as: str | None


class _Read(BaseModel):
    """Part of a document of a run; what is not named here is not of interest here."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT


class _Outcome(_Read):
    complete: bool
    summaries: dict[str, str] = {}


class Planned(_Read):
    """A model as a run planned it: its digest, the key of its rows, the files that it read for it, and the trusted samples that it did without."""

    digest: str = ""
    row_key: str = ""
    sources: dict[str, InputFile] = {}
    dropped: tuple[str, ...] = ()


class _Config(_Read):
    models: tuple[dict[str, JsonValue], ...] = ()


class _Review(_Read):
    samples: int


class Record(_Read):
    """A run's record: its resolved config, and its models."""

    config: _Config = _Config()
    models: dict[str, Planned] = {}
    refused: dict[str, str] = {}
    review: _Review | None = None

    def settings(self, model: str) -> dict[str, JsonValue]:
        """The resolved config of a model; empty where it had none."""
        return next((own for own in self.config.models if own.get("name") == model), {})

    @property
    def named(self) -> set[str]:
        """The models of the run's config."""
        return {*self.models, *self.refused}


class _Counts(_Read):
    audited: int
    flagged: int


class _Verdict(_Read):
    value: str


class _TableFacts(_Read):
    sha256: str


class _File(_Read):
    name: str


class _Files(_Read):
    trusted: tuple[_File, ...] = ()


class Summary(_Read):
    """A run's summary of one model."""

    format: int = Field(FORMAT, alias="schema")
    run_id: str
    model_digest: str
    same_as: str | None
    counts: _Counts
    verdict: _Verdict
    table: _TableFacts
    files: _Files = _Files()

    @property
    def standing(self) -> Standing:
        """What of it belongs to a history."""
        counts = {"audited": self.counts.audited, "flagged": self.counts.flagged}
        return Standing(run_id=self.run_id, verdict=self.verdict.value, same_as=self.same_as, **counts)
