"""The samples of stored rows: an Arrow table beside each task's array of rows."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from infra.commits import read_file
from infra.formats.tables import TableFormat, decode_arrow, encode_arrow
from infra.storage.storage import Storage
from pipeline.artifacts.parts import RowsPart
from pipeline.data.statuses import FLAT, OK

SAMPLES = "samples.arrow"


SAMPLES_FORMAT = TableFormat(
    "samples",
    1,
    (
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("prediction", pa.int32(), nullable=False),
        pa.field("confidence", pa.float32()),
        pa.field("gradient_norm", pa.float32()),
        pa.field("scales", pa.list_(pa.float32()), nullable=False),
        pa.field("status", pa.string(), nullable=False),
    ),
)


@dataclass(frozen=True)
class SampleColumns:
    """What is known about each of n samples besides its row; a confidence is NaN where there is none."""

    ids: list[str]
    rows: list[int]
    predictions: Tensor
    confidence: Tensor
    gradient_norm: Tensor
    statuses: list[str]

    @classmethod
    def of(cls, table: pa.Table) -> "SampleColumns":
        """From a table of SAMPLES_FORMAT."""

        def numbers(name: str, kind: type[np.generic], unknown: float = 0) -> Tensor:
            return torch.from_numpy(np.array(table.column(name).fill_null(unknown).to_numpy(), kind))

        return cls(
            ids=table.column("sample_id").to_pylist(),
            rows=table.column("row").to_pylist(),
            predictions=numbers("prediction", np.int64),
            confidence=numbers("confidence", np.float32, np.nan),
            gradient_norm=numbers("gradient_norm", np.float32),
            statuses=table.column("status").to_pylist(),
        )

    @cached_property
    def ok(self) -> Tensor:
        """Which samples have a row that counts, (n,) bool."""
        return torch.tensor([status == OK for status in self.statuses], dtype=torch.bool)

    @cached_property
    def flat(self) -> Tensor:
        """Which samples have no gradient, (n,) bool: what the model predicts is known, but no row counts."""
        return torch.tensor([status == FLAT for status in self.statuses], dtype=torch.bool)

    def recognised(self) -> "SampleColumns":
        """With the status of samples whose own row is zero, which earlier versions stored as ok."""
        zero = self.ok & (self.gradient_norm == 0)
        if not zero.any():
            return self
        statuses = [FLAT if no else status for no, status in zip(zero.tolist(), self.statuses, strict=True)]
        return replace(self, statuses=statuses)


def encode_samples(samples: SampleColumns, scales_nl: Tensor) -> dict[str, bytes]:
    """The file of n samples, with the scales (n, layers) of their rows."""
    missing = ~(samples.ok | samples.flat).numpy()
    columns = [
        pa.array(samples.ids, pa.string()),
        pa.array(samples.rows, pa.int64()),
        pa.array(samples.predictions.numpy(), pa.int32()),
        pa.array(samples.confidence.numpy(), pa.float32(), mask=missing | samples.confidence.isnan().numpy()),
        pa.array(samples.gradient_norm.numpy(), pa.float32(), mask=missing),
        pa.array(list(scales_nl.numpy()), pa.list_(pa.float32())),
        pa.array(samples.statuses, pa.string()),
    ]
    return {SAMPLES: encode_arrow(pa.Table.from_arrays(columns, schema=SAMPLES_FORMAT.schema))}


def read_sample_table(storage: Storage, folder: str) -> pa.Table:
    """The samples in an attempt's folder, as a table of SAMPLES_FORMAT."""
    path = f"{folder}/{SAMPLES}"
    return decode_arrow(read_file(storage, path), SAMPLES_FORMAT, storage.locate(path))


def read_samples(storage: Storage, part: RowsPart) -> SampleColumns:
    """The samples of a part."""
    return SampleColumns.of(read_sample_table(storage, part.folder))


def read_statuses(storage: Storage, folder: str) -> list[str]:
    """The statuses of the samples in an attempt's folder."""
    statuses: list[str] = read_sample_table(storage, folder).column("status").to_pylist()
    return statuses


def scales_of(table: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The scales (n, layers) of the rows of n samples, n at least 1."""
    scales: np.ndarray[tuple[int, int], np.dtype[np.float32]] = (
        table.column("scales").combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    )
    return scales
