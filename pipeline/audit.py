"""A root opened for reading: scores, rows and summaries of its models."""

from collections.abc import Iterator
from typing import Literal

import dask.array
import numpy as np
import pyarrow as pa
from dask.delayed import delayed
from numpy.typing import NDArray
from pydantic import JsonValue

from infra.commits import CommitLog, Receipt
from infra.storage import Storage
from infra.tables import open_parquet
from madcore import RowLayout
from pipeline.artifacts.layout import models, open_root, report_file, root_storage
from pipeline.artifacts.rows import RowsPart, open_rows, read_blocks, stored_layout
from pipeline.artifacts.scores import PUBLISHED_FORMAT, TABLE
from pipeline.errors import RootError
from pipeline.publication import RunOutcome, read_summary


class Audit:
    """Everything in one root. `outcome` is that of the run that returned it, None when it was opened."""

    def __init__(self, storage: Storage, outcome: RunOutcome | None = None):
        """Use `open_audit` or `run_audit`."""
        self.storage = storage
        self.outcome = outcome

    @property
    def models(self) -> list[str]:
        """Names of the models in the root."""
        return models(self.storage)

    def summary(self, model: str) -> dict[str, JsonValue]:
        """The summary of the latest completed run of a model.

        Raises:
            RootError: the model has none.
        """
        summary = read_summary(self.storage, model)
        if summary is None:
            raise RootError(f"{self.storage.url}: no completed run of model {model!r}; models here: {', '.join(self.models) or 'none'}")
        return summary

    def scores(self, model: str) -> pa.RecordBatchReader:
        """The scores of the latest completed run, as published, batch by batch.

        Raises:
            RootError: the model has none.
            Corrupt: it was written by a newer version.
        """
        place = report_file(self.summary(model), TABLE)
        file = open_parquet(self.storage.open(place), self.storage.locate(place))
        PUBLISHED_FORMAT.check(file.schema_arrow, self.storage.locate(place))
        return pa.RecordBatchReader.from_batches(PUBLISHED_FORMAT.schema, file.iter_batches())

    def rows(self, model: str, split: Literal["trusted", "audited"] = "audited") -> dask.array.Array:
        """All rows (n, k), float32, of the latest completed run, in the order of its table, read when computed, a task's rows at a time.

        Raises:
            RootError: the model has no completed run, or tasks of it failed, so that rows are missing.
        """
        if split not in ("trusted", "audited"):
            raise RootError(f"there is no split {split!r}; splits: trusted, audited")
        pieces = [
            dask.array.from_delayed(delayed(_read_part)(self.storage.url, part, layout), (part.stop - part.start, layout.k), np.float32)
            for part, layout in self._parts(model, split)
        ]
        found, expected = sum(piece.shape[0] for piece in pieces), self._expected_rows(model, split)
        if found != expected:
            raise RootError(f"model {model}: {expected - found:,} of {expected:,} {split} rows are in files of which tasks failed; `mad run` tries them again")
        rows: dask.array.Array = dask.array.concatenate(pieces)
        return rows

    def _expected_rows(self, model: str, split: str) -> int:
        files = self.summary(model)["files"]
        listed = files[split] if isinstance(files, dict) else []
        return sum(int(str(file["rows"])) for file in listed if isinstance(file, dict)) if isinstance(listed, list) else 0

    def _parts(self, model: str, split: str) -> Iterator[tuple[RowsPart, RowLayout]]:
        manifests = self.summary(model)["manifests"]
        paths = manifests.get(split, []) if isinstance(manifests, dict) else []
        for path in paths if isinstance(paths, list) else []:
            log = CommitLog(self.storage, str(path).rpartition("/manifests/")[0])
            for receipt in log.manifest(str(path)).receipts:
                part = _part(log, receipt)
                yield part, stored_layout(open_rows(self.storage, part))


def open_audit(root: str) -> Audit:
    """Opens a root.

    Raises:
        RootError: it is not one, or written by a newer version.
    """
    storage = root_storage(root)
    open_root(storage)
    return Audit(storage)


def _part(log: CommitLog, receipt: Receipt) -> RowsPart:
    start, stop = (int(number) for number in receipt.task.split("-"))
    return RowsPart("", log.folder.rpartition("/")[2], start, stop, log.attempt_folder(receipt), receipt.content)


def _read_part(url: str, part: RowsPart, layout: RowLayout) -> NDArray[np.float32]:
    blocks = [rows.numpy() for rows, _ in read_blocks(Storage(url), part, layout, block_rows=1024)]
    return np.concatenate(blocks)
