"""`mad gc`: removes what no kept run refers to."""

from infra.events import Notice
from jobs.console import Common
from jobs.progress import ProgressDisplay
from jobs.rendering.tables import size, table
from pipeline.config.durations import parse_duration
from pipeline.operations.garbage import Garbage, find_garbage
from pipeline.operations.gc import check_keep, collect
from pipeline.root.documents import JsonObject
from pipeline.root.mark import root_lock, root_storage


def list_garbage(root: str, keep: str, common: Common) -> None:
    """`mad gc --dry-run`. Notes when a run is active, because the list may then change."""
    seconds, storage = check_keep(parse_duration(keep)), root_storage(root)
    found = find_garbage(storage, seconds)
    holder = root_lock(storage).holder()
    with ProgressDisplay(common) as display:
        for note in found.notes:
            display(Notice(note))
        if holder:
            display(Notice(f"{root}: a run is active here ({holder}); until it ends, `mad gc` removes nothing"))
    common.emit(_document(root, seconds, found, dry_run=True), _text(found, "to be removed"))


def remove_garbage(root: str, keep: str, common: Common) -> None:
    """`mad gc`: exit 3 if a run is active in the root."""
    seconds = check_keep(parse_duration(keep))
    with ProgressDisplay(common) as display:
        found = collect(root_storage(root), seconds, display)
    common.emit(_document(root, seconds, found, dry_run=False), _text(found, "removed"))


def _document(root: str, seconds: float, found: Garbage, dry_run: bool) -> JsonObject:
    removed: dict[str, JsonObject] = {}
    for (model, stage), (objects, count) in found.by_model_and_stage().items():
        removed.setdefault(model, {})[stage] = {"objects": objects, "bytes": count}
    return {
        "root": root,
        "keep_seconds": seconds,
        "dry_run": dry_run,
        "runs_kept": found.kept,
        "runs_removed": list(found.gone),
        "runs_reduced": [run_id for run_id in found.marked if run_id not in found.gone],
        "objects": len(found.removals),
        "bytes": found.bytes,
        "removed": dict(removed),
        "notes": list(found.notes),
    }


def _text(found: Garbage, what: str) -> str:
    rows = [
        [model or "-", stage, f"{objects:,}", size(count)]
        for (model, stage), (objects, count) in found.by_model_and_stage().items()
    ]
    reduced = len(found.marked) - len(found.gone)
    without = f", {reduced:,} of them without superseded results" if reduced else ""
    lines = [table(["model", "stage", "objects", "bytes"], rows), ""] if rows else []
    lines.append(f"runs: {len(found.gone):,} {what}, {found.kept:,} kept{without}")
    lines.append(f"{what}: {len(found.removals):,} objects, {size(found.bytes)}")
    return "\n".join(lines)
