"""`mad gc`: lists what no kept run refers to, and removes what an earlier one listed."""

from pydantic import JsonValue

from infra.events import Notice, stamp_of
from jobs.console import Common
from jobs.progress import ProgressDisplay
from jobs.rendering.tables import size, table
from pipeline.config.durations import parse_duration
from pipeline.operations.collection.garbage import Garbage
from pipeline.operations.collection.steps import Collection
from pipeline.operations.gc import check_keep, collect, preview
from pipeline.publication.filters import when_exactly
from pipeline.root.documents import JsonObject
from pipeline.root.mark import root_lock, root_storage


def list_garbage(root: str, keep: str, common: Common) -> None:
    """`mad gc --dry-run`. Notes when a run is active, because the list may then change."""
    seconds, storage = check_keep(parse_duration(keep)), root_storage(root)
    found = preview(storage, seconds)
    holder = root_lock(storage).holder()
    with ProgressDisplay(common) as display:
        for note in found.notes:
            display(Notice(note))
        if holder:
            display(Notice(f"{root}: a run is active here ({holder}); until it ends, `mad gc` removes nothing"))
    common.emit(_document(root, seconds, found, dry_run=True), _text(found, "to be removed", "to be removed later"))


def remove_garbage(root: str, keep: str, common: Common) -> None:
    """`mad gc`: exit 3 if a run is active in the root."""
    seconds = check_keep(parse_duration(keep))
    with ProgressDisplay(common) as display:
        found = collect(root_storage(root), seconds, display)
    common.emit(_document(root, seconds, found, dry_run=False), _text(found, "removed", "listed"))


def _document(root: str, seconds: float, found: Collection, dry_run: bool) -> JsonObject:
    return {
        "root": root,
        "keep_seconds": seconds,
        "dry_run": dry_run,
        "runs_kept": found.kept,
        "runs_removed": list(found.removed.gone),
        "runs_reduced": _reduced(found.removed),
        "objects": len(found.removed.removals),
        "bytes": found.removed.bytes,
        "removed": _by_model(found.removed),
        "listed": {
            "runs_removed": list(found.listed.gone),
            "runs_reduced": _reduced(found.listed),
            "objects": len(found.listed.removals),
            "bytes": found.listed.bytes,
            "removed": _by_model(found.listed),
            "from": stamp_of(found.due) if found.due is not None else None,
        },
        "notes": list(found.notes),
    }


def _reduced(found: Garbage) -> list[JsonValue]:
    return [run_id for run_id in found.marked if run_id not in found.gone]


def _by_model(found: Garbage) -> JsonObject:
    counted: dict[str, JsonObject] = {}
    for (model, stage), (objects, count) in found.by_model_and_stage().items():
        counted.setdefault(model, {})[stage] = {"objects": objects, "bytes": count}
    return dict(counted)


def _text(found: Collection, removed: str, listed: str) -> str:
    """What is removed now, and what by a later call, and from when on."""
    lines = [*_table(found.removed, removed), *_table(found.listed, listed)]
    runs = f"{len(found.removed.gone):,} {removed}, {len(found.listed.gone):,} {listed}, {found.kept:,} kept"
    reduced = len(_reduced(found.removed))
    lines.append(f"runs: {runs}" + (f", {reduced:,} of them without superseded results" if reduced else ""))
    lines.append(f"{removed}: {len(found.removed.removals):,} objects, {size(found.removed.bytes)}")
    if found.due is not None:
        later = f"`mad gc` removes them from {when_exactly(stamp_of(found.due))} on"
        lines.append(f"{listed}: {len(found.listed.removals):,} objects, {size(found.listed.bytes)}; {later}")
    return "\n".join(lines)


def _table(found: Garbage, title: str) -> list[str]:
    rows = [
        [model or "-", stage, f"{objects:,}", size(count)]
        for (model, stage), (objects, count) in found.by_model_and_stage().items()
    ]
    return [table(["model", "stage", "objects", "bytes"], rows, title), ""] if rows else []
