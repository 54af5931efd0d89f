"""The curvature as stored: whitening maps and moments in flat arrays, and the whitened rows of the reference part."""

import math
from collections.abc import Sequence
from typing import Literal, TypeVar

import pyarrow as pa
import torch
from pydantic import BaseModel
from torch import Tensor

from infra.formats import arrays
from infra.formats.tables import TableFormat, encode_arrow
from infra.storage.storage import Storage
from madcore import RowLayout, Whitening
from madcore.curvature.moments import Moment
from madcore.curvature.whitening import DenseBasis, KroneckerBasis, Map, Matrix, SpectralMap
from pipeline.artifacts.trusted import TrustedSamples, encode_trusted

WHITENING, LAYERS = "whitening", "layers.arrow"


REFERENCES = "references"


MOMENT = "moment"


LAYERS_FORMAT = TableFormat(
    "curvature-layers",
    1,
    (
        pa.field("layer", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mean_eigenvalue", pa.float64(), nullable=False),
        pa.field("damping", pa.float64(), nullable=False),
    ),
)


MapKind = Literal["matrix", "vectors", "factors"]


AnyMoment = TypeVar("AnyMoment", bound=Moment)


class _Maps(BaseModel):
    """What the flat array of a whitening holds: for each layer, the form of its map and the shapes of its tensors.

    Format 1 had matrices only.
    """

    format: Literal[2] = 2
    maps: list[tuple[MapKind, list[list[int]]]]


def encode_whitening(
    whitening: Whitening, mean_eigenvalues: Sequence[float], dampings: Sequence[float]
) -> dict[str, bytes]:
    """The files of a factor task."""
    maps = whitening.maps or ()
    flat = torch.cat([tensor.flatten() for own in maps for tensor in own.tensors]).numpy()
    objects = arrays.encode(flat, _Maps(maps=[_described(own) for own in maps]).model_dump(mode="json"))
    layout = whitening.layout
    columns = [list(layout.names), list(layout.sizes), list(mean_eigenvalues), list(dampings)]
    table = pa.table(columns, schema=LAYERS_FORMAT.schema)
    return {**{f"{WHITENING}/{name}": data for name, data in objects.items()}, LAYERS: encode_arrow(table)}


def read_whitening(storage: Storage, folder: str, layout: RowLayout) -> Whitening:
    """The whitening of a factor task's folder; the identity where there is none ("")."""
    if not folder:
        return Whitening(layout)
    array = arrays.open_array(storage, f"{folder}/{WHITENING}", newest=2)
    flat = torch.from_numpy(arrays.read(array, 0, array.shape[0]))
    if array.attrs["format"] == 1:
        described = _Maps(maps=[("matrix", [[size, size]]) for size in layout.sizes])
    else:
        described = _Maps.model_validate(dict(array.attrs))
    pieces = iter(flat.split([math.prod(shape) for _, shapes in described.maps for shape in shapes]))
    maps = [(kind, [next(pieces).reshape(shape) for shape in shapes]) for kind, shapes in described.maps]
    return Whitening(layout, tuple(_map_of(kind, tensors) for kind, tensors in maps))


def _described(own: Map) -> tuple[MapKind, list[list[int]]]:
    shapes = [list(tensor.shape) for tensor in own.tensors]
    if isinstance(own, Matrix):
        return "matrix", shapes
    return "vectors" if isinstance(own.basis, DenseBasis) else "factors", shapes


def _map_of(kind: MapKind, tensors: Sequence[Tensor]) -> Map:
    if kind == "matrix":
        return Matrix(tensors[0])
    basis = DenseBasis(tensors[0]) if kind == "vectors" else KroneckerBasis(tensors[0], tensors[1])
    return SpectralMap(basis, tensors[-2], tensors[-1])


def encode_moment(moment: Moment) -> dict[str, bytes]:
    """The files of a moment task: its numbers, float64, in one flat array, and the number of rows in them."""
    objects = arrays.encode(moment.flat.numpy(), {"format": 2, "count": moment.count})
    return {f"{MOMENT}/{name}": data for name, data in objects.items()}


def read_moment(storage: Storage, folder: str, zero: AnyMoment) -> AnyMoment:
    """The moment of a moment task's folder, of the kind and layout of `zero`."""
    array = arrays.open_array(storage, f"{folder}/{MOMENT}", newest=2)
    return zero.restored(torch.from_numpy(arrays.read(array, 0, array.shape[0])), int(str(array.attrs["count"])))


def encode_references(whitened_mk: Tensor, trusted: TrustedSamples) -> dict[str, bytes]:
    """The files of a references task: whitened rows (m, k) of the reference part, m > 0, and all trusted samples."""
    objects = arrays.encode(whitened_mk.numpy(), {"format": 1})
    return {**{f"{REFERENCES}/{name}": data for name, data in objects.items()}, **encode_trusted(trusted)}


def read_reference_rows(storage: Storage, folder: str) -> Tensor:
    """Whitened rows (m, k) of the reference part."""
    array = arrays.open_array(storage, f"{folder}/{REFERENCES}")
    return torch.from_numpy(arrays.read(array, 0, array.shape[0]))
