"""The commands that read a root."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import typer

from infra.errors import StorageError
from jobs.console import FAILED, Common
from jobs.progress import ProgressDisplay
from jobs.rendering import explanation_text, named, results, share, size, table
from jobs.since import since_document, since_text
from jobs.terminal import sentence
from pipeline.operations.inspect import LogContents, ModelInspection, RootInspection, StageContents, inspect
from pipeline.operations.status import ModelStatus, RunStatus, status
from pipeline.operations.verify import verify
from pipeline.publication.history import changes_since, history
from pipeline.publication.publish import latest_failures, publish_pages
from pipeline.results.audit import Audit, open_audit
from pipeline.results.explain import explain
from pipeline.root.documents import JsonObject
from pipeline.root.layout import summary_file
from pipeline.root.mark import root_storage
from pipeline.root.runs import Runs
from pipeline.root.summary import Summary

SHOWN = ("sample_id", "source", "row", "prediction", "confidence", "score", "p_value", "q_value", "status")


def show_status(root: str, common: Common) -> None:
    """`mad status`."""
    found = status(root_storage(root))
    runs = [[run.run_id, run.state, _notes(run)] for run in found.runs]
    models = [[name, *_model_cells(model)] for name, model in found.models.items()]
    text = [
        f"root: {root}",
        table(["run", "state", ""], runs),
        "",
        table(["model", "latest verdict", "audited", "flagged", "of run"], models),
    ]
    common.emit(found.json_object, "\n".join(text))


def _model_cells(model: ModelStatus | None) -> list[str]:
    if model is None or model.verdict is None or model.counts is None:
        return [(model.unreadable if model is not None else None) or "not audited yet", "-", "-", "-"]
    return [model.verdict.value, str(model.counts.audited), str(model.counts.flagged), str(model.run_id)]


def _notes(run: RunStatus) -> str:
    notes = [f"{name}: {model.done} of {model.tasks} row tasks" for name, model in (run.rows or {}).items()]
    if run.unreached:
        notes.append(f"done: {named(run.done or ()) or 'none'}; not reached: {named(run.unreached)}")
    notes += [f"{name}: {reason}" for name, reason in (run.failures or {}).items()]
    notes += [
        f"{name}: {len(given_up)} tasks given up, first {given_up[0]}"
        for name, given_up in (run.failed_tasks or {}).items()
    ]
    notes += [
        f"{name}: file left out: {reason}"
        for name, files in (run.refused_files or {}).items()
        for reason in files.values()
    ]
    return "; ".join(notes)


def show_verification(root: str, common: Common) -> None:
    """`mad verify`: exit 1 where something differs."""
    with ProgressDisplay(common) as display:
        found = verify(root_storage(root), display)
    document: JsonObject = {
        "receipts": found.receipts,
        "files": found.files,
        "bytes": found.bytes,
        "tables": found.tables,
        "unclaimed_attempts": found.unclaimed_attempts,
        "superseded_manifests": found.superseded_manifests,
        "problems": list(found.problems),
    }
    files = f"{found.files:,} files ({size(found.bytes)})"
    lines = [f"{found.receipts:,} receipts, {files} and {found.tables:,} published tables checked"]
    if found.unclaimed_attempts:
        lines.append(
            f"{found.unclaimed_attempts:,} attempts that no receipt names, left by interrupted tasks; harmless"
        )
    if found.superseded_manifests:
        lines.append(f"{found.superseded_manifests:,} manifests of superseded results are gone; harmless")
    lines += map(sentence, found.problems)
    if found.problems:
        lines.append("to recompute what is damaged, and nothing else: mad run CONFIG --repair")
    lines.append(f"{len(found.problems):,} PROBLEMS" if found.problems else "all as written")
    common.emit(document, "\n".join(lines))
    if found.problems:
        raise typer.Exit(FAILED)


def show_inspection(place: str, common: Common) -> None:
    """`mad inspect`."""
    found = inspect(place)
    if isinstance(found, RootInspection):
        text = _stages_text(found.models)
    elif isinstance(found, ModelInspection):
        text = _stages_text({found.model: found.stages})
    else:
        text = _tasks_text(list(found.keys.values()))
    common.emit(found.json_object, text)


def _tasks_text(logs: Sequence[LogContents]) -> str:
    columns = ["task", "generation", "rows", "bytes", "seconds", "peak memory", "nonfinite", "unreadable", "folder"]
    rows = [
        [
            task.task,
            str(task.generation),
            f"{task.rows:,}",
            size(task.bytes),
            f"{task.seconds:.2f}",
            size(task.peak_memory_bytes),
            str(task.nonfinite),
            str(task.unreadable),
            task.folder,
        ]
        for log in logs
        for task in log.tasks
    ]
    return table(columns, rows)


def _stages_text(models: Mapping[str, Mapping[str, StageContents]]) -> str:
    rows, problems = list[list[str]](), list[str]()
    for name, stages in models.items():
        for stage, found in stages.items():
            counts = [f"{found.tasks:,}", f"{found.rows:,}", size(found.bytes), str(found.seconds)]
            rows.append([name, stage, *counts])
            problems += [sentence(f"{name}: {problem}") for problem in found.problems]
    return "\n".join([table(["model", "stage", "tasks", "rows", "bytes", "seconds"], rows), *problems])


class _ModelReport(NamedTuple):
    """The latest summary of a model, its top flagged rows, and how many were reviewed, None without reviews."""

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
    page = publish_pages(audit.storage, failures, known)
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
        cells = [[_cell(row[column]) for column in columns] for row in model.top]
        title = f"{name}: the {len(cells)} most anomalous of its flagged samples"
        texts += [table(columns, cells, title)] if cells else []
    return texts


def show_explanation(root: str, model: str, sample: str, top: int, common: Common) -> None:
    """`mad explain`."""
    found = explain(open_audit(root), model, sample, top)
    rows = [explanation.model_dump() for explanation in found]
    text = "\n\n".join(map(explanation_text, found))
    common.emit({"model": model, "sample_id": sample, "rows": rows}, text)


def _top_flagged(audit: Audit, name: str, top: int, reviews: Mapping[str, str]) -> list[JsonObject]:
    """Flagged rows of largest score, with reviews; those without a score, whose gradient is not finite, first."""
    kept = pa.table({column: [] for column in SHOWN}).slice(0, 0).to_batches()
    for batch in audit.scores(name):
        flagged = pa.Table.from_batches([batch.filter(batch.column("flagged")).select(list(SHOWN))])
        merged = pa.concat_tables([pa.Table.from_batches(kept), flagged]) if kept else flagged
        order = pc.sort_indices(merged, sort_keys=[("score", "descending", "at_start")])
        kept = merged.take(order[:top]).to_batches()
    return [{**row, "review": reviews.get(row["sample_id"])} for batch in kept for row in batch.to_pylist()]


def _cell(value: object) -> str:
    return share(value, 4) if isinstance(value, float) else "-" if value is None else str(value)
