"""`mad inspect`: stored models, stages and tasks."""

from collections.abc import Mapping, Sequence

from jobs.console import Common
from jobs.rendering.tables import size, table
from jobs.rendering.terminal import sentence
from pipeline.operations.inspect import LogContents, ModelInspection, RootInspection, StageContents, inspect


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
