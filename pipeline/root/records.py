"""What a run records of itself under a root: its record before the first task, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from infra.storage.identity import InputFile
from infra.storage.storage import Storage
from pipeline.root.documents import RECORD_FORMAT, Document, DocumentPart, JsonObject, optional_key, read_document
from pipeline.root.layout import outcome_file, run_file, run_summary_file, summary_file
from pipeline.root.summary import StageSummary, Summary


class RecordedConfig(DocumentPart):
    """The resolved config of a run."""

    root: str = ""
    models: tuple[JsonObject, ...] = ()


class ModelRecord(DocumentPart):
    """A model as a run planned it.

    `row_key` and `sources` are the key of its rows and the files that it was planned with, by source key;
    `fitted_key` and `fitted_sources` are those of the rows that the curvature needs besides, where it does.
    `rows_of`: the run whose rows are used, where they are an earlier run's, and `dropped` the trusted samples left
    out by id. `rows`: a `RowRecipe`, None in records of early versions. `probe`: the key of what planning found out
    about the model, where that is kept.
    """

    digest: str = ""
    row_key: str = ""
    fitted_key: str | None = optional_key()
    fitted_sources: tuple[str, ...] | None = optional_key()
    tasks: int = 0
    sources: dict[str, InputFile] = Field(default_factory=dict)
    rows_of: str | None = optional_key()
    dropped: tuple[str, ...] | None = optional_key()
    rows: dict[str, JsonValue] | None = optional_key()
    probe: str | None = optional_key()

    @property
    def row_places(self) -> list[tuple[str, str]]:
        """The (row key, source key) of each log of rows that the model needs."""
        of_curvature = [(self.fitted_key, source) for source in self.fitted_sources or ()] if self.fitted_key else []
        return [*((self.row_key, source) for source in self.sources), *of_curvature]


class ReviewRecord(DocumentPart):
    """The table of reviews that a run found: how many samples it names, and its file."""

    samples: int
    bytes: int = 0
    sha256: str = ""


class RunRecord(Document):
    """`_run.json`: a run's resolved config, versions and models; `refused` says why models could not be planned."""

    format: int = RECORD_FORMAT
    run_id: str = ""
    started: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    config: RecordedConfig = RecordedConfig()
    models: dict[str, ModelRecord] = Field(default_factory=dict)
    refused: dict[str, str] = Field(default_factory=dict)
    review: ReviewRecord | None = optional_key()

    def settings(self, model: str) -> JsonObject:
        """The resolved config of a model; empty where it had none."""
        return next((own for own in self.config.models if own.get("name") == model), {})

    @property
    def named(self) -> set[str]:
        """The models of the run's config."""
        return {*self.models, *self.refused}


class OutcomeRecord(Document):
    """`_outcome.json`: how a run ended. `complete` is False where it was to stop after an earlier stage than the last.

    `summaries`: digests of the summaries' bytes, by model. `failed_tasks`: tasks given up. `refused_files`: why files
    could not be used. `unreached`: models that a deadline left unfinished.
    """

    format: int = RECORD_FORMAT
    run_id: str = ""
    ended: str = ""
    complete: bool
    summaries: dict[str, str] = Field(default_factory=dict)
    failures: dict[str, str] = Field(default_factory=dict)
    failed_tasks: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    refused_files: dict[str, dict[str, str]] = Field(default_factory=dict)
    stages: dict[str, dict[str, StageSummary]] = Field(default_factory=dict)
    unreached: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether no model, file or task failed."""
        return not (self.failures or self.failed_tasks or self.refused_files)


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: as `OutcomeRecord`, with the summaries of audited models themselves."""

    run_id: str
    summaries: Mapping[str, Summary] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    failed_tasks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    refused_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, StageSummary]] = field(default_factory=dict)
    unreached: Sequence[str] = ()

    @property
    def clean(self) -> bool:
        """Whether no model, file or task failed."""
        return not (self.failures or self.failed_tasks or self.refused_files)


class ModelResult(BaseModel):
    """What one run found of a model, for its history."""

    model_config = ConfigDict(frozen=True)
    run_id: str
    verdict: str
    audited: int
    flagged: int
    same_as: str | None

    @classmethod
    def of(cls, summary: Summary) -> "ModelResult":
        """From the run's summary."""
        return cls(
            run_id=summary.run_id,
            verdict=summary.verdict.value,
            audited=summary.counts.audited,
            flagged=summary.counts.flagged,
            same_as=summary.same_as,
        )


def read_record(storage: Storage, run_id: str) -> RunRecord | None:
    """A run's record; None where it has none. Raises as `read_document`."""
    return read_document(storage, run_file(run_id), RunRecord)


def read_outcome(storage: Storage, run_id: str) -> OutcomeRecord | None:
    """How a run ended; None where it has not. Raises as `read_document`."""
    return read_document(storage, outcome_file(run_id), OutcomeRecord)


def read_run_summary(storage: Storage, run_id: str, model: str) -> Summary | None:
    """A run's summary of a model; None where it has none. Raises as `read_document`."""
    return read_document(storage, run_summary_file(run_id, model), Summary)


def read_summary(storage: Storage, model: str) -> Summary | None:
    """The latest summary of a model; None where it has none. Raises as `read_document`."""
    return read_document(storage, summary_file(model), Summary)
