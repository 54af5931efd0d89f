"""Stored rows: one Zarr array (n, k) per task, with the task's samples beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from infra.formats import arrays
from infra.storage.storage import Storage
from madcore.reprojection import Reprojection
from madcore.rows import RowLayout, from_half, to_half
from pipeline.artifacts.parts import RowsPart
from pipeline.artifacts.samples import SampleColumns, encode_samples, read_sample_table, scales_of
from pipeline.errors import StageError

SCORING_BLOCK = 512


ARRAY = "rows"


Places = slice | list[int]


class _Attributes(BaseModel):
    format: Literal[1]
    layers: tuple[str, ...]
    sizes: tuple[int, ...]


def to_stored(rows_nk: Tensor, layout: RowLayout, dtype: str) -> tuple[Tensor, Tensor]:
    """Float32 rows as they are stored, (n, k) of `dtype`, and their scales (n, layers).

    `dtype` is `float16` or `float32`; the scales of float32 rows are 1.
    """
    if dtype == "float16":
        return to_half(rows_nk, layout)
    return rows_nk, rows_nk.new_ones(rows_nk.shape[0], len(layout.sizes))


def encode_rows(stored_nk: Tensor, scales_nl: Tensor, samples: SampleColumns, layout: RowLayout) -> dict[str, bytes]:
    """The files of a rows task: array metadata, shard, samples.

    Args:
        stored_nk: as `to_stored` returns them; rows of samples that are not ok must be 0.
        scales_nl: the scales returned with them.
        samples: of the same n samples.
        layout: of the rows.
    """
    objects = arrays.encode(stored_nk.numpy(), {"format": 1, "layers": list(layout.names), "sizes": list(layout.sizes)})
    return {**{f"{ARRAY}/{name}": data for name, data in objects.items()}, **encode_samples(samples, scales_nl)}


@dataclass(frozen=True)
class StoredBlock:
    """Consecutive rows as they are stored: numbers (b, k), scales (b, layers), and their samples.

    `reprojection`: the one that they are read with, where rows of a lower rank are wanted.
    """

    stored: Tensor
    scales: Tensor
    samples: SampleColumns
    layout: RowLayout
    reprojection: Reprojection | None = None

    @property
    def rows(self) -> Tensor:
        """Float32 rows (b, k), re-projected where rows of a lower rank are wanted."""
        rows_bk = from_half(self.stored, self.scales, self.layout)
        return rows_bk if self.reprojection is None else self.reprojection(rows_bk)


def read_blocks(
    storage: Storage, part: RowsPart, layout: RowLayout | Reprojection, block_rows: int
) -> Iterator[tuple[Tensor, SampleColumns]]:
    """Float32 rows (b, k) and their samples, block by block; raises as `read_stored`."""
    for block in read_stored(storage, part, layout, block_rows):
        yield block.rows, block.samples


def read_stored(
    storage: Storage, part: RowsPart, layout: RowLayout | Reprojection, block_rows: int
) -> Iterator[StoredBlock]:
    """Rows as they are stored, in blocks of `block_rows` and a last one of the rest; nothing is computed.

    Only the layers of `layout` are taken from the stored ones. It is a re-projection where rows of a lower rank than
    the stored one are wanted.

    Raises:
        StageError: the stored rows lack a layer.
    """
    reprojection = layout if isinstance(layout, Reprojection) else None
    layout = layout.stored if isinstance(layout, Reprojection) else layout
    table, array = read_sample_table(storage, part.folder), open_rows(storage, part)
    columns, layers = _chosen(stored_layout(array), layout, part.folder)
    start = 0
    for values in _even_blocks(array, block_rows):
        piece = table.slice(start, len(values))
        start += len(values)
        stored = torch.from_numpy(values[:, columns])
        scales = torch.from_numpy(np.array(scales_of(piece)[:, layers]))
        yield StoredBlock(stored, scales, SampleColumns.of(piece), layout, reprojection)


def read_range(storage: Storage, part: RowsPart, layout: RowLayout, start: int, stop: int) -> Tensor:
    """Float32 rows [start, stop) of a part, (stop - start, k); only the chunks that hold them are read.

    Raises:
        StageError: the stored rows lack a layer.
    """
    array = open_rows(storage, part)
    columns, layers = _chosen(stored_layout(array), layout, part.folder)
    scales = scales_of(read_sample_table(storage, part.folder).slice(start, stop - start))
    stored = torch.from_numpy(arrays.read(array, start, stop)[:, columns])
    return from_half(stored, torch.from_numpy(np.array(scales[:, layers])), layout)


def open_rows(storage: Storage, part: RowsPart) -> arrays.StoredArray:
    """The Zarr array of a part, scales not applied."""
    return arrays.open_array(storage, f"{part.folder}/{ARRAY}")


def stored_layout(array: arrays.StoredArray) -> RowLayout:
    """The layout that an array of rows was written with."""
    attributes = _Attributes.model_validate(dict(array.attrs))
    return RowLayout(attributes.layers, attributes.sizes)


def _chosen(stored: RowLayout, layout: RowLayout, folder: str) -> tuple[Places, Places]:
    """Which numbers and which layers of stored rows make rows of a layout that has all or some of their layers."""
    if stored == layout:
        return slice(None), slice(None)
    places = {name: place for place, name in enumerate(stored.names)}
    sizes = dict(zip(stored.names, stored.sizes, strict=True))
    if any(sizes.get(name) != size for name, size in zip(layout.names, layout.sizes, strict=True)):
        raise StageError(
            f"{folder}: holds rows of other layers than the plan's; its key should have differed, please report this"
        )
    layers = [places[name] for name in layout.names]
    slices = stored.slices
    columns = [number for layer in layers for number in range(*slices[layer].indices(stored.k))]
    return columns, layers


def _even_blocks(array: arrays.StoredArray, block_rows: int) -> Iterator[arrays.Numbers]:
    """An array's rows in blocks of one size.

    Whole chunks are read, each once: for a smaller part a whole chunk would be read and its checksum computed all the
    same.
    """
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
