"""The commands that read a root."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import typer

from infra.errors import StorageError
from jobs.console import FAILED, Common
from jobs.progress import ProgressDisplay
from jobs.rendering import explanation_text, items, mapping, named, results, share, size, table
from jobs.since import since_document, since_text
from jobs.terminal import sentence
from pipeline.operations.status import inspect, status
from pipeline.operations.verify import verify
from pipeline.publication.history import history, since
from pipeline.publication.publish import latest_failures, publish_pages
from pipeline.results.audit import Audit, open_audit
from pipeline.results.explain import explain
from pipeline.root.layout import summary_file
from pipeline.root.mark import root_storage
from pipeline.root.records import Document
from pipeline.root.runs import Runs

SHOWN = ("sample_id", "source", "row", "prediction", "confidence", "score", "p_value", "q_value", "status")


def show_status(root: str, common: Common) -> None:
    """`mad status`."""
    found = status(root_storage(root))
    runs = [[str(run["run_id"]), str(run["state"]), _notes(run)] for run in _dicts(found["runs"])]
    models = []
    for name, model in mapping(found["models"]).items():
        counts, verdict = mapping(mapping(model).get("counts")), mapping(mapping(model).get("verdict"))
        said = mapping(model).get("unreadable") or verdict.get("value", "not audited yet")
        latest = str(mapping(model).get("run_id", "-"))
        models.append([name, str(said), str(counts.get("audited", "-")), str(counts.get("flagged", "-")), latest])
    text = "\n".join(
        [
            f"root: {root}",
            table(["run", "state", ""], runs),
            "",
            table(["model", "latest verdict", "audited", "flagged", "of run"], models),
        ]
    )
    common.emit(found, text)


def _notes(run: Document) -> str:
    notes = [
        f"{name}: {model['done']} of {model['tasks']} row tasks"
        for name, model in mapping(run.get("rows")).items()
        if isinstance(model, dict)
    ]
    unreached = [str(name) for name in items(run.get("unreached"))]
    notes += (
        [f"done: {named([str(name) for name in items(run.get('done'))]) or 'none'}; not come to: {named(unreached)}"]
        if unreached
        else []
    )
    notes += [f"{name}: {reason}" for name, reason in mapping(run.get("failures")).items()]
    notes += [
        f"{name}: {len(given_up)} tasks given up, first {given_up[0]}"
        for name, given_up in mapping(run.get("failed_tasks")).items()
        if isinstance(given_up, list)
    ]
    notes += [
        f"{name}: file left out: {reason}"
        for name, files in mapping(run.get("refused_files")).items()
        for reason in mapping(files).values()
    ]
    return "; ".join(notes)


def show_verification(root: str, common: Common) -> None:
    """`mad verify`: exit 1 where something differs."""
    with ProgressDisplay(common) as display:
        found = verify(root_storage(root), display)
    document: Document = {
        "receipts": found.receipts,
        "files": found.files,
        "bytes": found.bytes,
        "tables": found.tables,
        "unclaimed_attempts": found.unclaimed_attempts,
        "superseded_manifests": found.superseded_manifests,
        "problems": list(found.problems),
    }
    checked = f"{found.receipts:,} receipts, {found.files:,} files ({size(found.bytes)}) and {found.tables:,} published tables checked"
    leftover = (
        f"{found.unclaimed_attempts:,} attempts that no receipt names, left by interrupted tasks; harmless"
        if found.unclaimed_attempts
        else ""
    )
    moved = (
        f"{found.superseded_manifests:,} manifests of superseded results are gone; harmless"
        if found.superseded_manifests
        else ""
    )
    remedy = "to compute anew what is damaged, and nothing else: mad run CONFIG --repair" if found.problems else ""
    verdict = f"{len(found.problems):,} PROBLEMS" if found.problems else "all as written"
    common.emit(
        document,
        "\n".join(line for line in (checked, leftover, moved, *map(sentence, found.problems), remedy, verdict) if line),
    )
    if found.problems:
        raise typer.Exit(FAILED)


def show_inspection(place: str, common: Common) -> None:
    """`mad inspect`."""
    found = inspect(place)
    if "keys" in found:
        rows = [_task_row(task) for log in mapping(found["keys"]).values() for task in _dicts(mapping(log)["tasks"])]
        text = table(
            ["task", "generation", "rows", "bytes", "seconds", "peak memory", "nonfinite", "unreadable", "folder"], rows
        )
    else:
        models = mapping(found["models"]) if "models" in found else {str(found["model"]): found["stages"]}
        costs = [
            (name, stage, mapping(cost)) for name, stages in models.items() for stage, cost in mapping(stages).items()
        ]
        text = table(
            ["model", "stage", "tasks", "rows", "bytes", "seconds"],
            [[name, *_stage_row(stage, cost)] for name, stage, cost in costs],
        )
        text = "\n".join(
            [text, *(sentence(f"{name}: {problem}") for name, _, cost in costs for problem in items(cost["problems"]))]
        )
    common.emit(found, text)


def _task_row(task: Document) -> list[str]:
    peak = size(int(str(task["peak_memory_bytes"])))
    numbers = [
        str(task["task"]),
        str(task["generation"]),
        f"{task['rows']:,}",
        size(int(str(task["bytes"]))),
        f"{float(str(task['seconds'])):.2f}",
        peak,
    ]
    return [*numbers, str(task["nonfinite"]), str(task["unreadable"]), str(task["folder"])]


def _stage_row(stage: str, values: Document) -> list[str]:
    return [
        stage,
        f"{values['tasks']:,}",
        f"{values['rows']:,}",
        size(int(str(values["bytes"]))),
        str(values["seconds"]),
    ]


def show_report(root: str, top: int, run: str | None, common: Common) -> None:
    """`mad report`; of the run that `run` names, what differs from it."""
    audit = open_audit(root)
    compared = since(audit.storage, audit.models, run, top) if run is not None else None
    failures = latest_failures(audit.storage)
    page, known = publish_pages(audit.storage, failures), Runs(audit.storage)
    models, tables = dict[str, Document](), list[str]()
    for name in audit.models:
        try:
            if audit.storage.exists(summary_file(name)):
                summary = audit.summary(name)
                reviews = known.reviews(str(summary["run_id"]))
                rows = _top_flagged(audit, name, top, reviews)
                models[name] = {
                    **summary,
                    "top": list(rows),
                    **({"reviewed": dict(history(known, name).reviewed)} if reviews else {}),
                }
                tables += [_listing(name, rows, bool(reviews))] if rows else []
        except StorageError as error:
            failures[name] = str(error)
    lines = [results(list(models.values()))]
    for name, reason in failures.items():
        older = f"; shown is run {models[name]['run_id']}" if name in models else ""
        lines.append(sentence(f"{name}: not audited in the latest run: {reason}{older}"))
    lines += [
        f"{name}: reviewed of the flagged: {_said(model['reviewed'])}"
        for name, model in models.items()
        if model.get("reviewed")
    ]
    lines += [line for text in ([since_text(compared)] if compared is not None else tables) for line in ("", text)]
    document: Document = {"models": {**models}, "failures": dict(failures), "page": page}
    if compared is not None:
        document["since"] = since_document(compared)
    common.emit(document, "\n".join([*lines, "", f"page: {page}"]))


def _said(reviewed: object) -> str:
    return ", ".join(f"{count:,} {verdict}" for verdict, count in mapping(reviewed).items())


def _listing(name: str, rows: list[Document], reviewed: bool) -> str:
    """The table of a model's flagged samples; a column of what reviews said where there are any."""
    shown = (*SHOWN, "review") if reviewed else SHOWN
    cells = [[_cell(row[column]) for column in shown] for row in rows]
    return table(shown, cells, f"{name}: the {len(rows)} most anomalous of its flagged samples")


def show_explanation(root: str, model: str, sample: str, top: int, common: Common) -> None:
    """`mad explain`."""
    found = explain(open_audit(root), model, sample, top)
    common.emit({"model": model, "sample_id": sample, "rows": list(found)}, "\n\n".join(map(explanation_text, found)))


def _top_flagged(audit: Audit, name: str, top: int, reviews: Mapping[str, str]) -> list[Document]:
    """Flagged rows of largest score, with what reviews said; those without a score, whose gradient is not finite, first."""
    kept = pa.table({column: [] for column in SHOWN}).slice(0, 0).to_batches()
    for batch in audit.scores(name):
        flagged = pa.Table.from_batches([batch.filter(batch.column("flagged")).select(list(SHOWN))])
        merged = pa.concat_tables([pa.Table.from_batches(kept), flagged]) if kept else flagged
        order = pc.sort_indices(merged, sort_keys=[("score", "descending", "at_start")])
        kept = merged.take(order[:top]).to_batches()
    return [{**row, "review": reviews.get(row["sample_id"])} for batch in kept for row in batch.to_pylist()]


def _cell(value: object) -> str:
    return share(value, 4) if isinstance(value, float) else "-" if value is None else str(value)


def _dicts(value: object) -> list[Document]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
