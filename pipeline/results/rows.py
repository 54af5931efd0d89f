"""The rows of a completed run as they are stored: its parts, by the manifests that its summary names, and all of a split as one Dask array."""

from collections.abc import Mapping
from dataclasses import dataclass

import dask.array
import numpy as np
from dask.delayed import delayed
from numpy.typing import NDArray
from pydantic import JsonValue

from infra.commits import CommitLog, Receipt
from infra.formats.arrays import StoredArray
from infra.storage.storage import Storage
from madcore import RowLayout
from pipeline.artifacts.rows import RowsPart, open_rows, read_range, stored_layout
from pipeline.errors import RootError

PIECE_BYTES = 64 << 20


Summary = Mapping[str, JsonValue]


@dataclass(frozen=True)
class SplitRows:
    """All rows of a split: parts in the order of the table, the layout that they share, and rows in a chunk at rest."""

    parts: tuple[RowsPart, ...]
    layout: RowLayout
    chunk: int

    @property
    def pieces(self) -> list[tuple[RowsPart, int, int]]:
        """Ranges of a part's rows of at most PIECE_BYTES as float32 (one chunk at least), which begin where a chunk does, so that each is read once."""
        step = max(1, PIECE_BYTES // (4 * self.layout.k) // self.chunk) * self.chunk
        sizes = [(part, part.stop - part.start) for part in self.parts]
        return [(part, start, min(start + step, rows)) for part, rows in sizes for start in range(0, rows, step)]


def receipts(storage: Storage, summary: Summary, what: str) -> list[tuple[CommitLog, Receipt]]:
    """What a run's manifests of a kind list, in order; `what` is a key of the summary's `manifests`."""
    manifests = summary["manifests"]
    paths = manifests.get(what, []) if isinstance(manifests, dict) else []
    found = []
    for path in paths if isinstance(paths, list) else []:
        log = CommitLog(storage, str(path).rpartition("/manifests/")[0])
        found += [(log, receipt) for receipt in log.manifest(str(path)).receipts]
    return found


def stored_parts(storage: Storage, summary: Summary, split: str, fitted: bool = False) -> tuple[RowsPart, ...]:
    """The parts of a split; `fitted`: of the rows that the curvature is fitted on, where those are not the samples' own.

    Raises:
        RootError: tasks failed, so that rows are missing.
    """
    listed = receipts(storage, summary, f"fitted_{split}" if fitted else split)
    parts = tuple(RowsPart.of(log, receipt) for log, receipt in listed)
    found, expected = sum(part.stop - part.start for part in parts), _expected_rows(summary, split)
    if found != expected:
        raise RootError(
            f"model {summary['model']}: {expected - found:,} of {expected:,} {split} rows are in files of which tasks failed; `mad run` tries them again"
        )
    return parts


def stored_rows(storage: Storage, summary: Summary, split: str) -> SplitRows:
    """The rows of a split; of the rows themselves nothing is read yet. Raises as `stored_parts`."""
    parts = stored_parts(storage, summary, split)
    first = open_rows(storage, parts[0])
    return SplitRows(parts, layout_of(summary, first), int(first.chunks[0]))


def covered(summary: Summary) -> list[str]:
    """Names of the layers of a run, in order; what is stored may have more of them, which a run from stored rows left out."""
    layers = summary["layers"]
    names = layers["covered"] if isinstance(layers, dict) else []
    return [str(name) for name in names] if isinstance(names, list) else []


def layout_of(summary: Summary, array: StoredArray) -> RowLayout:
    """The layout of a run's rows, of an array that they are stored in."""
    stored, names = stored_layout(array), covered(summary)
    kept = [(name, size) for name, size in zip(stored.names, stored.sizes, strict=True) if name in names]
    return RowLayout(tuple(name for name, _ in kept), tuple(size for _, size in kept))


def row_array(storage: Storage, rows: SplitRows) -> dask.array.Array:
    """A Dask array (n, k), float32, of pieces of at most PIECE_BYTES."""
    read, k = delayed(_read_piece), rows.layout.k
    pieces = [
        dask.array.from_delayed(read(storage.url, part, rows.layout, (start, stop)), (stop - start, k), np.float32)
        for part, start, stop in rows.pieces
    ]
    array: dask.array.Array = dask.array.concatenate(pieces)
    return array


def _read_piece(url: str, part: RowsPart, layout: RowLayout, piece: tuple[int, int]) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = read_range(Storage(url), part, layout, *piece).numpy()
    return numbers


def _expected_rows(summary: Summary, split: str) -> int:
    files = summary["files"]
    listed = files[split] if isinstance(files, dict) else []
    return sum(int(str(file["rows"])) for file in listed if isinstance(file, dict)) if isinstance(listed, list) else 0
