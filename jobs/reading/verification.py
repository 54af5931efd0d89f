"""`mad verify`: everything stored against its recorded digests."""

import typer

from jobs.console import FAILED, Common
from jobs.progress import ProgressDisplay
from jobs.rendering.tables import size
from jobs.rendering.terminal import sentence
from pipeline.operations.verify import verify
from pipeline.root.documents import JsonObject
from pipeline.root.mark import root_storage


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
