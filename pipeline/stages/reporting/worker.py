"""Stage 4: decisions, the table, and the facts of a report. One task a model; it streams over the score parts twice, and over their ids.

The first pass counts (conformal p-values take M + 1 values, so q-values need counts only), the second writes the table and fills
the histogram. What it commits becomes public only when the whole run is done: see `pipeline.run`.
"""

import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pydantic import JsonValue

from infra.commits import Measures, Receipt, read_file
from infra.events import Stopwatch, peak_memory_bytes
from infra.formats.tables import open_parquet, write_parquet
from infra.storage.storage import Storage
from madcore import MadcoreError
from madcore.scoring.calibration import check_target
from pipeline.artifacts.curvature import TrustedSamples, read_screening, read_trusted
from pipeline.artifacts.scores import FACTS, IMAGES, PART, PART_FORMAT, PUBLISHED_FORMAT, TABLE, ScorePart
from pipeline.artifacts.truth import encode_truth, read_stored_truth
from pipeline.data.sources import Source
from pipeline.data.statuses import NONFINITE, OK
from pipeline.data.truth import Truth, joined, read_truth, unknown
from pipeline.errors import StageError
from pipeline.keys import key_of
from pipeline.planning.plan import ModelPlan
from pipeline.root.logs import reporting_log
from pipeline.stages.reporting.chain_diagnostics import diagnose
from pipeline.stages.reporting.counts import ScoreCounts
from pipeline.stages.reporting.decisions import Decisions, FlaggedSamples
from pipeline.stages.reporting.report import build_report, screened
from pipeline.stages.reporting.thumbnails import stored_thumbnails, thumbnails

REPORT_FORMAT = 1


REPORT = "report"


BATCH_ROWS = 8192


TALLIED = ("row", "prediction", "confidence", "score", "gradient_norm", "status")


@dataclass(frozen=True)
class ReportTask:
    """A model to report on: all its score parts, in the order of the table; of traces, the folders of each chain."""

    model: str
    key: str
    parts: tuple[ScorePart, ...]
    references: str
    segments: tuple[tuple[str, ...], ...] = ()

    @property
    def name(self) -> str:
        """The name under which it is committed."""
        return REPORT


def reporting_key(plan: ModelPlan, parts: tuple[ScorePart, ...], references_content: str) -> str:
    """Of the scores' contents, the calibration scores, the target, and the columns that hold the truth.

    A report on stored rows has a key of its own: it has no pictures but those of an earlier one.
    """
    of_stored: dict[str, JsonValue] = {"pictures": "stored", "dropped": [*plan.dropped]} if plan.stored else {}
    return key_of(
        format=REPORT_FORMAT,
        classes=plan.classes,
        parts=[[part.source, part.source_key, part.start, part.content] for part in parts],
        references=references_content,
        target=plan.config.calibration.target.model_dump(mode="json"),
        truth={source.key: {role: getattr(source.columns, role) for role in source.truth} for source in plan.audited},
        **of_stored,
    )


class ReportingWorker:
    """Reports on one model after the other."""

    def __init__(self, root: str, plans: dict[str, ModelPlan]):
        """Opens the storage."""
        self._storage, self._plans = Storage(root), plans

    def __call__(self, task: ReportTask) -> Receipt:
        """Writes and commits the table and the facts of one model."""
        watch, plan = Stopwatch(), self._plans[task.model]
        sources = {source.key: source for source in plan.audited}
        trusted = read_trusted(self._storage, task.references)
        _check_target(plan, trusted)
        tally = ScoreCounts(trusted.calibration_scores, trusted.suspected_scores)
        known = self._known(plan)
        for part, batch in self._batches(task, TALLIED, check=True):
            tally.add(batch, known.of(part, batch))
        found = FlaggedSamples(Decisions.of(plan.config.calibration.target, tally), tally)
        with tempfile.TemporaryDirectory(prefix="mad-") as folder:
            table = Path(folder) / TABLE
            with table.open("wb") as sink:
                write_parquet(sink, (found.decide(batch) for _, batch in self._batches(task)), PUBLISHED_FORMAT)
            facts = build_report(plan, trusted, tally, found, lambda: self._ids(task))
            screening = read_screening(self._storage, task.references)
            if screening is not None:
                facts |= screened(plan, trusted, tally, screening)
            if task.segments:
                facts |= diagnose(self._storage, plan, task.segments, task.references)
            pictures = (
                stored_thumbnails(self._storage, plan.stored, found.top)
                if plan.stored
                else thumbnails(plan, sources, found.top)
            )
            files: dict[str, bytes | Path] = {TABLE: table, FACTS: _json(facts), IMAGES: _json(pictures), **known.files}
            measures = Measures(rows=tally.total, seconds=watch.seconds, peak_memory_bytes=peak_memory_bytes())
            return reporting_log(self._storage, plan.name, task.key).commit(REPORT, files, measures)

    def _known(self, plan: ModelPlan) -> "_Known":
        stored = plan.stored.truth if plan.stored is not None else ""
        return _Known(
            {source.key: source for source in plan.audited},
            read_stored_truth(self._storage, stored) if stored else None,
        )

    def _batches(
        self, task: ReportTask, columns: Sequence[str] | None = None, check: bool = False
    ) -> Iterator[tuple[ScorePart, pa.RecordBatch]]:
        """Batches of all parts, of these columns only (None are all); on demand each part is read whole first, and checked against its digest."""
        for part in task.parts:
            path = f"{part.folder}/{PART}"
            handle = io.BytesIO(read_file(self._storage, path, part.content)) if check else self._storage.open(path)
            with handle:
                file = open_parquet(handle, self._storage.locate(path))
                PART_FORMAT.check(file.schema_arrow, self._storage.locate(path))
                for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                    yield part, batch

    def _ids(self, task: ReportTask) -> Iterator[list[str]]:
        for _, batch in self._batches(task, ["sample_id"]):
            yield batch.column("sample_id").to_pylist()


def _check_target(plan: ModelPlan, trusted: TrustedSamples) -> None:
    """Unreadable and suspected samples can leave fewer for calibration than the plan saw."""
    unreadable, suspected = len(trusted.of("unreadable")), len(trusted.of("suspect calibration"))
    try:
        check_target(
            plan.config.calibration.target.level,
            len(trusted.of("calibration")),
            len(trusted.ids) - unreadable - len(plan.dropped),
        )
    except MadcoreError as error:
        raise StageError(
            f"{error}; {unreadable:,} trusted samples could not be read, {suspected:,} calibration samples were screened out: mend or add some, or raise "
            "calibration.fraction or the target"
        ) from error


class _Known:
    """The truth of audited samples, asked for batch by batch in the order of the table, and kept in it; where no source has any, nothing is."""

    def __init__(self, sources: Mapping[str, Source], stored: Truth | None):
        """`stored`: that of the whole table, as an earlier report kept it; None reads the sources."""
        self._sources, self._stored, self._pieces = sources, stored, list[Truth]()
        self._any = any("anomalous" in source.truth for source in sources.values())
        self._seen = 0

    def of(self, part: ScorePart, batch: pa.RecordBatch) -> Truth | None:
        """None where there is none, or no use for it: rows of a given-up task, whose file may be gone."""
        if not self._any:
            return None
        start, source, rows = self._seen, self._sources[part.source_key], batch.column("row")
        self._seen += batch.num_rows
        used = "anomalous" in source.truth and any(
            status in (OK, NONFINITE) for status in batch.column("status").to_pylist()
        )
        if not used:
            truth = unknown(batch.num_rows)
        else:
            truth = (
                self._stored.of(start, self._seen)
                if self._stored is not None
                else read_truth(source, rows[0].as_py(), rows[-1].as_py() + 1)
            )
        self._pieces.append(truth)
        return truth if used else None

    @property
    def files(self) -> dict[str, bytes]:
        """The file of all that was asked for; none where no source has any truth."""
        return encode_truth(joined(self._pieces)) if self._any else {}


def _json(value: JsonValue) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
