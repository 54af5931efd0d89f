"""Stage 4: decisions, the table, and the facts of a report. One task a model.

It streams over the score parts twice, and once over their ids. The first pass counts (conformal p-values take M + 1
values, so q-values need counts only), the second writes the table and fills the histogram. What is committed becomes
public only when the whole run is done: see `pipeline.run`.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pydantic import JsonValue

from infra.commits import Measures, Receipt, read_file
from infra.events import Stopwatch, peak_memory_bytes
from infra.formats.tables import open_parquet, write_parquet
from infra.storage.scratch import scratch_errors, scratch_folder
from infra.storage.storage import Storage
from madcore import MadcoreError
from madcore.scoring.calibration import check_target
from pipeline.artifacts.parts import ScorePart
from pipeline.artifacts.scores import FACTS, IMAGES, PART, PART_FORMAT, PUBLISHED_FORMAT, TABLE
from pipeline.artifacts.screening import read_screening
from pipeline.artifacts.trusted import TrustedSamples, read_trusted
from pipeline.artifacts.truth import read_stored_truth
from pipeline.data.classes.names import described_roles
from pipeline.errors import StageError
from pipeline.keys import key_of
from pipeline.planning.coverage import percent, share_without_verdict
from pipeline.planning.plan import ModelPlan
from pipeline.root.logs import reporting_log
from pipeline.stages.reporting.chain_diagnostics import diagnose
from pipeline.stages.reporting.counts import ScoreCounts, count_ids
from pipeline.stages.reporting.decisions import Decisions, FlaggedSamples
from pipeline.stages.reporting.inputs import ReportInputs
from pipeline.stages.reporting.report import Facts, build_report, screening_section
from pipeline.stages.reporting.thumbnails import stored_thumbnails, thumbnails
from pipeline.stages.reporting.truth_reader import TruthReader

REPORT_FORMAT = 2

REPORT = "report"

BATCH_ROWS = 8192

COUNTED = ("row", "prediction", "confidence", "score", "gradient_norm", "status")


@dataclass(frozen=True)
class ReportTask:
    """A model to report on: all its score parts, in the order of the table, and the folders of each chain, if any."""

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
    """Made of the scores' contents, the calibration scores, the target, and the columns that hold the truth.

    Where rows cover too little for a verdict, their share is in it too.
    A report on stored rows has a key of its own: its only pictures are those of an earlier report.
    """
    of_stored: dict[str, JsonValue] = {"pictures": "stored", "dropped": [*plan.dropped]} if plan.stored else {}
    little = share_without_verdict(plan)
    of_names: dict[str, JsonValue] = {"class_names": [*plan.class_names]} if plan.class_names else {}
    of_verdict: dict[str, JsonValue] = {"share_of_gradient": percent(little)} if little is not None else {}
    return key_of(
        format=REPORT_FORMAT,
        classes=plan.classes,
        parts=[[part.source, part.source_key, part.start, part.content] for part in parts],
        references=references_content,
        target=plan.config.calibration.target.model_dump(mode="json"),
        truth={source.key: described_roles(source, source.truth, plan.class_names) for source in plan.audited},
        **of_stored,
        **of_verdict,
        **of_names,
    )


class ReportingWorker:
    """Reports on one model after the other."""

    def __init__(self, root: str, plans: dict[str, ModelPlan]):
        """Open the storage."""
        self._storage, self._plans = Storage(root), plans

    def __call__(self, task: ReportTask) -> Receipt:
        """Write and commit the table and the facts of one model."""
        watch, plan = Stopwatch(), self._plans[task.model]
        trusted = read_trusted(self._storage, task.references)
        _check_target(plan, trusted)
        counts = ScoreCounts(trusted.calibration_scores, trusted.suspected_scores)
        with self._truth_reader(plan) as truth:
            for part, batch in self._batches(task, COUNTED, check=True):
                counts.add(batch, truth.read(part, batch))
        flagged = FlaggedSamples(Decisions.of(plan.config.calibration.target, counts), counts)
        with scratch_folder() as folder:
            table = folder / TABLE
            with scratch_errors(str(folder.parent)), table.open("wb") as sink:
                write_parquet(sink, (flagged.decide(batch) for _, batch in self._batches(task)), PUBLISHED_FORMAT)
            ids = count_ids(lambda: self._ids(task), counts.total, set(trusted.ids) - set(plan.dropped))
            inputs = ReportInputs(plan, trusted, counts, flagged, ids)
            facts = build_report(inputs) | self._sections(task, inputs)
            pictures = self._pictures(plan, flagged.top)
            files: dict[str, bytes | Path] = {TABLE: table, FACTS: _json(facts), IMAGES: _json(pictures), **truth.files}
            measures = Measures(rows=counts.total, seconds=watch.seconds, peak_memory_bytes=peak_memory_bytes())
            truth.confirm()
            return reporting_log(self._storage, plan.name, task.key).commit(REPORT, files, measures)

    def _truth_reader(self, plan: ModelPlan) -> TruthReader:
        stored = plan.stored.truth if plan.stored is not None else ""
        sources = {source.key: source for source in plan.audited}
        known = read_stored_truth(self._storage, stored) if stored else None
        return TruthReader(sources, known, plan.class_names)

    def _sections(self, task: ReportTask, inputs: ReportInputs) -> Facts:
        """The sections that not every model has: of screening, and of the chains of weights."""
        sections: Facts = {}
        screening = read_screening(self._storage, task.references)
        if screening is not None:
            sections |= screening_section(inputs.plan, inputs.trusted, inputs.counts, screening)
        if task.segments:
            sections |= diagnose(self._storage, inputs.plan, task.segments, task.references)
        return sections

    def _pictures(self, plan: ModelPlan, entries: Sequence[Mapping[str, JsonValue]]) -> dict[str, JsonValue]:
        if plan.stored:
            return stored_thumbnails(self._storage, plan.stored, entries)
        return thumbnails(plan, {source.key: source for source in plan.audited}, entries)

    def _batches(
        self, task: ReportTask, columns: Sequence[str] | None = None, check: bool = False
    ) -> Iterator[tuple[ScorePart, pa.RecordBatch]]:
        """Batches of all parts, of these columns only (None: all).

        `check`: read each part whole first, and compare it with its digest.
        """
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
    """Refuse a target that is out of reach: unreadable and suspected samples leave fewer for calibration than planned.

    Raises:
        StageError: it is.
    """
    unreadable, suspected = len(trusted.of("unreadable")), len(trusted.of("suspect calibration"))
    samples = len(trusted.ids) - unreadable - len(plan.dropped)
    try:
        check_target(plan.config.calibration.target.level, len(trusted.of("calibration")), samples)
    except MadcoreError as error:
        raise StageError(
            f"{error}; {unreadable:,} trusted samples could not be read, {suspected:,} calibration samples were "
            "screened out: repair or add some, or raise calibration.fraction or the target"
        ) from error


def _json(value: JsonValue) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
