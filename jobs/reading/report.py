"""`mad report`: the latest results, their most anomalous samples, and what differs since a run."""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from infra.errors import StorageError
from jobs.console import Common
from jobs.rendering.changes import since_document, since_text
from jobs.rendering.results import results
from jobs.rendering.tables import share, table
from jobs.rendering.terminal import sentence
from pipeline.data.statuses import FLAT
from pipeline.publication.history import changes_since, history
from pipeline.publication.site import latest_failures, rewrite_pages
from pipeline.results.audit import Audit, open_audit
from pipeline.root.documents import JsonObject
from pipeline.root.layout import summary_file
from pipeline.root.runs import Runs
from pipeline.root.summary import Summary

SHOWN = ("sample_id", "source", "row", "prediction", "confidence", "score", "p_value", "q_value", "status")


class _ModelReport(NamedTuple):
    """The latest summary of a model, its top flagged rows, and the reviews of flagged samples, None without reviews."""

    summary: Summary
    top: list[JsonObject]
    reviewed: Mapping[str, int] | None

    @property
    def document(self) -> JsonObject:
        """As a JSON object."""
        reviewed: JsonObject = {"reviewed": dict(self.reviewed)} if self.reviewed is not None else {}
        return {**self.summary.json_object, "top": list(self.top), **reviewed}


def show_report(root: str, top: int, run: str | None, common: Common) -> None:
    """`mad report`; given the run `run`, what differs from it."""
    audit = open_audit(root)
    known = Runs(audit.storage)
    changes = changes_since(known, audit.models, run, top) if run is not None else None
    failures = latest_failures(known)
    page = rewrite_pages(audit.storage, known)
    models = dict[str, _ModelReport]()
    for name in audit.models:
        try:
            if audit.storage.exists(summary_file(name)):
                models[name] = _model_report(audit, known, name, top)
        except StorageError as error:
            failures[name] = str(error)
    document: JsonObject = {
        "models": {name: model.document for name, model in models.items()},
        "failures": dict(failures),
        "page": page,
    }
    if changes is not None:
        document["since"] = since_document(changes)
    lines = _report_lines(models, failures)
    details = [since_text(changes)] if changes is not None else _listings(models)
    lines += [line for text in details for line in ("", text)]
    common.emit(document, "\n".join([*lines, "", f"page: {page}"]))


def _model_report(audit: Audit, known: Runs, name: str, top: int) -> _ModelReport:
    summary = audit.summary(name)
    reviews = known.reviews(summary.run_id)
    rows = _top_flagged(audit, name, top, reviews)
    return _ModelReport(summary, rows, history(known, name).reviewed if reviews else None)


def _report_lines(models: Mapping[str, _ModelReport], failures: Mapping[str, str]) -> list[str]:
    lines = [results([model.summary for model in models.values()])]
    for name, reason in failures.items():
        older = f"; shown is run {models[name].summary.run_id}" if name in models else ""
        lines.append(sentence(f"{name}: not audited in the latest run: {reason}{older}"))
    for name, model in models.items():
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in (model.reviewed or {}).items())
        lines += [f"{name}: reviewed of the flagged: {counts}"] if counts else []
    return lines


def _listings(models: Mapping[str, _ModelReport]) -> list[str]:
    """A table of each model's flagged samples, with a column of reviews where there are any."""
    texts = []
    for name, model in models.items():
        columns = (*SHOWN, "review") if model.reviewed is not None else SHOWN
        cells = [[_shown(model.summary, column, row[column]) for column in columns] for row in model.top]
        title = f"{name}: the {len(cells)} most anomalous of its flagged samples"
        texts += [table(columns, cells, title)] if cells else []
    return texts


def _top_flagged(audit: Audit, name: str, top: int, reviews: Mapping[str, str]) -> list[JsonObject]:
    """Flagged rows of largest score, with reviews.

    Those without a score, whose gradient is not finite, come first, and then those without a gradient, whose infinite
    score is no number in JSON.
    """
    kept: list[pa.RecordBatch] = []
    for batch in audit.scores(name):
        flagged = pa.Table.from_batches([batch.filter(batch.column("flagged")).select(list(SHOWN))])
        merged = pa.concat_tables([pa.Table.from_batches(kept), flagged]) if kept else flagged
        order = pc.sort_indices(merged, sort_keys=[("score", "descending", "at_start")])
        kept = merged.take(order[:top]).to_batches()
    rows = [row for batch in kept for row in batch.to_pylist()]
    return [
        {**row, "score": None if row["status"] == FLAT else row["score"], "review": reviews.get(row["sample_id"])}
        for row in rows
    ]


def _shown(summary: Summary, column: str, value: JsonValue) -> str:
    """A cell; a predicted class by its name where it has one."""
    return summary.class_named(value) if column == "prediction" and isinstance(value, int) else _cell(value)


def _cell(value: object) -> str:
    return share(value, 4) if isinstance(value, float) else "-" if value is None else str(value)
