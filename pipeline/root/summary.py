"""The summary of a model: `runs/RUN/MODEL.json`, and the latest one as `MODEL/summary.json`.

The facts of the model's report are its first half; what a run adds to them is the second.
"""

from collections.abc import Mapping

from pydantic import Field, JsonValue

from pipeline.root.documents import DocumentPart, optional_key
from pipeline.root.facts import Facts

Number = int | float


class LayerCoverage(DocumentPart):
    """Names of layers that rows cover, of those covered by the fallback, and why others are not covered.

    The shares are those that covered layers hold of the parameters of the modules that `estimator.layers` selects, and
    of the squared norm of their gradient (see `madcore.coverage.shares`); None where they are not known.
    """

    covered: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    not_covered: dict[str, str] = Field(default_factory=dict)
    share_of_parameters: float | None = None
    share_of_gradient: float | None = None


class FileRows(DocumentPart):
    """A file and how many rows it has."""

    name: str
    rows: int = 0


class SummaryFiles(DocumentPart):
    """The files that a run read, and why others could not be used."""

    trusted: tuple[FileRows, ...] = ()
    audited: tuple[FileRows, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    sampling: tuple[FileRows, ...] | None = optional_key()


class StageSummary(DocumentPart):
    """Seconds of a stage's tasks, the share of them in which the model computed (None where none does), and tasks."""

    seconds: float = 0.0
    computing_share: float | None = None
    tasks_run: int = 0
    tasks_reused: int = 0


class TableSummary(DocumentPart):
    """The table that a run published, or that is the same as an earlier one."""

    rows: int = 0
    bytes: int
    sha256: str


class CostEstimate(DocumentPart):
    """What a model was expected to cost."""

    worker_hours: Number
    seconds: dict[str, Number]
    bytes_stored: int
    bytes_read: int
    requests: int


class MeasuredCost(DocumentPart):
    """What a model cost, as far as its tasks tell."""

    worker_hours: Number
    seconds: dict[str, Number]
    bytes_stored: int


class CostRatio(DocumentPart):
    """Measured over expected cost; None where nothing was expected."""

    worker_hours: float | None
    bytes_stored: float | None


class CostSummary(DocumentPart):
    """Expected and measured cost."""

    expected: CostEstimate
    measured: MeasuredCost
    over_expected: CostRatio


class Summary(Facts):
    """What a run found of a model, what it was found with, and what it cost.

    `settings` holds the sections of the config that scores follow from. `same_as`: the run whose published table is
    this very one. `manifests`: paths, by what they list. `rows_of`: the run whose rows were used, where that was
    another.
    """

    run_id: str
    model: str = ""
    task: str = ""
    model_digest: str = ""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    layers: LayerCoverage = LayerCoverage()
    files: SummaryFiles = SummaryFiles()
    stages: dict[str, StageSummary] = Field(default_factory=dict)
    table: TableSummary
    same_as: str | None = None
    cost: CostSummary | None = optional_key()
    manifests: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    report_folder: str = ""
    rows_of: str | None = optional_key()

    @property
    def table_run(self) -> str:
        """The run under whose id the table is published."""
        return self.same_as or self.run_id


NO_SUMMARIES: Mapping[str, Summary] = {}
