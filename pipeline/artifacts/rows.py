"""Rows at rest: one Zarr array (n, k) a task, and beside it the task's samples as an Arrow table."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel
from torch import Tensor

from infra.commits import CommitLog, Receipt, read_file
from infra.formats import arrays
from infra.formats.tables import TableFormat, decode_arrow, encode_arrow
from infra.storage.storage import Storage
from madcore.reprojection import Reprojection
from madcore.rows import RowLayout, from_half, to_half
from pipeline.data.statuses import OK
from pipeline.errors import StageError
from pipeline.keys import key_of

SCORING_BLOCK = 512


ARRAY, SAMPLES = "rows", "samples.arrow"


Places = slice | list[int]


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


class _Attributes(BaseModel):
    format: Literal[1]
    layers: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class RowsPart:
    """The committed rows [start, stop) of one source; or, without a folder, why its task was given up."""

    source: str
    source_key: str
    start: int
    stop: int
    folder: str
    content: str
    failure: str = ""

    @classmethod
    def of(cls, log: CommitLog, receipt: Receipt, source: str = "") -> "RowsPart":
        """The part that a rows task committed; `source` is the name of its file, which only the names of later tasks need."""
        start, stop = (int(number) for number in receipt.task.split("-"))
        key = log.folder.rpartition("/")[2]
        return cls(source, key, start, stop, log.attempt_folder(receipt), receipt.content)

    @property
    def name(self) -> str:
        """The part's name as a task of a later stage: its range, and a digest of what it holds and of its source's name."""
        return f"{self.start:012d}-{self.stop:012d}-{key_of(content=self.content, source=self.source)[:16]}"


@dataclass(frozen=True)
class SampleColumns:
    """What is known of each of n samples beside its row."""

    ids: list[str]
    rows: list[int]
    predictions: Tensor
    confidence: Tensor
    gradient_norm: Tensor
    statuses: list[str]

    @cached_property
    def ok(self) -> Tensor:
        """Which samples have a row that counts, (n,) bool."""
        return torch.tensor([status == OK for status in self.statuses], dtype=torch.bool)


def at_rest(rows_nk: Tensor, layout: RowLayout, dtype: str) -> tuple[Tensor, Tensor]:
    """Float32 rows as they are stored, (n, k) of `dtype` (`float16` or `float32`), and their scales (n, layers), which are 1 for float32."""
    return (
        to_half(rows_nk, layout)
        if dtype == "float16"
        else (rows_nk, rows_nk.new_ones(rows_nk.shape[0], len(layout.sizes)))
    )


def encode_rows(stored_nk: Tensor, scales_nl: Tensor, samples: SampleColumns, layout: RowLayout) -> dict[str, bytes]:
    """The files of a rows task: array metadata, shard, samples.

    Args:
        stored_nk: as `at_rest` returns them; rows of samples that are not ok must be 0.
        scales_nl: the scales returned with them.
        samples: of the same n samples.
        layout: of the rows.
    """
    objects = arrays.encode(stored_nk.numpy(), {"format": 1, "layers": list(layout.names), "sizes": list(layout.sizes)})
    missing = ~samples.ok.numpy()
    columns = [
        pa.array(samples.ids, pa.string()),
        pa.array(samples.rows, pa.int64()),
        pa.array(samples.predictions.numpy(), pa.int32()),
        pa.array(samples.confidence.numpy(), pa.float32(), mask=missing),
        pa.array(samples.gradient_norm.numpy(), pa.float32(), mask=missing),
        pa.array(list(scales_nl.numpy()), pa.list_(pa.float32())),
        pa.array(samples.statuses, pa.string()),
    ]
    table = pa.Table.from_arrays(columns, schema=SAMPLES_FORMAT.schema)
    return {**{f"{ARRAY}/{name}": data for name, data in objects.items()}, SAMPLES: encode_arrow(table)}


def read_statuses(storage: Storage, folder: str) -> list[str]:
    """The statuses of the samples in an attempt's folder."""
    path = f"{folder}/{SAMPLES}"
    statuses: list[str] = (
        decode_arrow(read_file(storage, path), SAMPLES_FORMAT, storage.locate(path)).column("status").to_pylist()
    )
    return statuses


def read_samples(storage: Storage, part: RowsPart) -> SampleColumns:
    """The samples of a part."""
    return _columns(_samples(storage, part))


@dataclass(frozen=True)
class StoredBlock:
    """Consecutive rows as they are at rest: numbers (b, k), scales (b, layers), and the samples they are of; `lower` is the rank that they are read at."""

    stored: Tensor
    scales: Tensor
    samples: SampleColumns
    layout: RowLayout
    lower: Reprojection | None = None

    @property
    def rows(self) -> Tensor:
        """Float32 rows (b, k), re-projected where a lower rank is asked for."""
        rows_bk = from_half(self.stored, self.scales, self.layout)
        return rows_bk if self.lower is None else self.lower(rows_bk)


def read_blocks(
    storage: Storage, part: RowsPart, layout: RowLayout | Reprojection, block_rows: int
) -> Iterator[tuple[Tensor, SampleColumns]]:
    """Float32 rows (b, k) and their samples, block by block; raises as `read_stored`."""
    for block in read_stored(storage, part, layout, block_rows):
        yield block.rows, block.samples


def read_stored(
    storage: Storage, part: RowsPart, layout: RowLayout | Reprojection, block_rows: int
) -> Iterator[StoredBlock]:
    """Rows as they are at rest, in blocks of `block_rows` and a last one of what is left; nothing is computed.

    Of the stored layers only those of `layout` are taken, which is a re-projection where rows are wanted at a lower rank than the stored one.

    Raises:
        StageError: the stored rows have not all of them.
    """
    lower = layout if isinstance(layout, Reprojection) else None
    layout = layout.stored if isinstance(layout, Reprojection) else layout
    table, array = _samples(storage, part), open_rows(storage, part)
    columns, layers = _chosen(stored_layout(array), layout, part.folder)
    start = 0
    for values in _evenly(array, block_rows):
        piece = table.slice(start, len(values))
        start += len(values)
        scales = piece.column("scales").combine_chunks().flatten().to_numpy().reshape(len(values), -1)
        yield StoredBlock(
            torch.from_numpy(values[:, columns]),
            torch.from_numpy(np.array(scales[:, layers])),
            _columns(piece),
            layout,
            lower,
        )


def _chosen(stored: RowLayout, layout: RowLayout, folder: str) -> tuple[Places, Places]:
    """Which numbers and which layers of stored rows make rows of a layout: all, or those of a selection of its layers."""
    if stored == layout:
        return slice(None), slice(None)
    places = {
        name: (place, numbers) for place, (name, numbers) in enumerate(zip(stored.names, stored.slices, strict=True))
    }
    if any(
        name not in places or stored.sizes[places[name][0]] != size
        for name, size in zip(layout.names, layout.sizes, strict=True)
    ):
        raise StageError(
            f"{folder}: holds rows of other layers than the plan's; its key should have differed, please report this"
        )
    columns = [number for name in layout.names for number in range(*places[name][1].indices(stored.k))]
    return columns, [places[name][0] for name in layout.names]


def read_range(storage: Storage, part: RowsPart, layout: RowLayout, start: int, stop: int) -> Tensor:
    """Float32 rows [start, stop) of a part, (stop - start, k); only the chunks that they lie in are read. Raises as `read_stored`."""
    array = open_rows(storage, part)
    columns, layers = _chosen(stored_layout(array), layout, part.folder)
    scales = (
        _samples(storage, part)
        .slice(start, stop - start)
        .column("scales")
        .combine_chunks()
        .flatten()
        .to_numpy()
        .reshape(stop - start, -1)
    )
    return from_half(
        torch.from_numpy(arrays.read(array, start, stop)[:, columns]),
        torch.from_numpy(np.array(scales[:, layers])),
        layout,
    )


def _evenly(array: arrays.StoredArray, block_rows: int) -> Iterator[arrays.Numbers]:
    """An array's rows in blocks of one size. Whole chunks are read, each once: of a smaller part a chunk is read and its checksum computed all the same."""
    rows, held = array.shape[0], list[arrays.Numbers]()
    for start in range(0, rows, array.chunks[0]):
        held.append(arrays.read(array, start, min(start + array.chunks[0], rows)))
        if sum(map(len, held)) >= block_rows:
            ready = np.concatenate(held)
            whole = len(ready) // block_rows * block_rows
            yield from np.split(ready[:whole], whole // block_rows)
            held = [ready[whole:]]
    if sum(map(len, held)):
        yield np.concatenate(held)


def open_rows(storage: Storage, part: RowsPart) -> arrays.StoredArray:
    """The Zarr array of a part, scales not applied."""
    return arrays.open_array(storage, f"{part.folder}/{ARRAY}")


def stored_layout(array: arrays.StoredArray) -> RowLayout:
    """The layout that an array of rows was written with."""
    attributes = _Attributes.model_validate(dict(array.attrs))
    return RowLayout(attributes.layers, attributes.sizes)


def _samples(storage: Storage, part: RowsPart) -> pa.Table:
    path = f"{part.folder}/{SAMPLES}"
    return decode_arrow(read_file(storage, path), SAMPLES_FORMAT, storage.locate(path))


def _columns(table: pa.Table) -> SampleColumns:
    def numbers(name: str, kind: type[np.generic]) -> Tensor:
        return torch.from_numpy(np.array(table.column(name).fill_null(0).to_numpy(), kind))

    return SampleColumns(
        ids=table.column("sample_id").to_pylist(),
        rows=table.column("row").to_pylist(),
        predictions=numbers("prediction", np.int64),
        confidence=numbers("confidence", np.float32),
        gradient_norm=numbers("gradient_norm", np.float32),
        statuses=table.column("status").to_pylist(),
    )
