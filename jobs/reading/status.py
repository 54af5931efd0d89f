"""`mad status`: runs, and the latest verdict of each model."""

from jobs.console import Common
from jobs.rendering.tables import named, table
from pipeline.operations.status import ModelStatus, RunStatus, status
from pipeline.root.mark import root_storage


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
