"""The curvature at rest: whitening maps in one flat array, and the reference part's whitened rows beside all trusted samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from infra.commits import read_file
from infra.formats import arrays
from infra.formats.documents import encode, parse
from infra.formats.tables import TableFormat, decode_arrow, encode_arrow
from infra.storage.storage import Storage
from madcore import RowLayout, Whitening
from madcore.curvature.moments import Moment
from madcore.curvature.whitening import DenseBasis, KroneckerBasis, Map, Matrix, SpectralMap


@dataclass(frozen=True)
class CurvatureFolders:
    """Where a model's whitening ("" for identity) and references are, and a digest of both."""

    factor: str
    references: str
    content: str


Part = Literal["reference", "calibration", "filtered", "suspect", "suspect calibration", "unreadable", "dropped"]


WHITENING, LAYERS = "whitening", "layers.arrow"


REFERENCES, TRUSTED = "references", "trusted.arrow"


MOMENT, SCREENING = "moment", "screening.json"


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


TRUSTED_FORMAT = TableFormat(
    "trusted",
    1,
    (
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("prediction", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
    ),
)


MapKind = Literal["matrix", "vectors", "factors"]


AnyMoment = TypeVar("AnyMoment", bound=Moment)


class _Maps(BaseModel):
    """What a whitening's flat array holds: of each layer, the form of its map and the shapes of the tensors that it is made of. Format 1 had matrices only."""

    format: Literal[2] = 2
    maps: list[tuple[MapKind, list[list[int]]]]


@dataclass(frozen=True)
class TrustedSamples:
    """All trusted samples, in task order: the part each belongs to, its prediction, and, in the calibration part, its score.

    A suspect was found by screening and is in neither part, whichever it was drawn for; nor is one that was dropped by its id.
    Scores are NaN outside the calibration part, but for suspects that were drawn for it, and +infinity for a calibration sample whose
    gradient is not finite: the most anomalous there is, as it would be flagged if it were audited.
    """

    ids: list[str]
    parts: list[Part]
    predictions: Tensor
    scores: NDArray[np.float64]

    def of(self, part: Part) -> list[int]:
        """Indices of a part's samples."""
        return [index for index, own in enumerate(self.parts) if own == part]

    @property
    def calibration_scores(self) -> NDArray[np.float64]:
        """Scores of the calibration part, shape (M,)."""
        return self.scores[self.of("calibration")]

    @property
    def suspected_scores(self) -> NDArray[np.float64]:
        """Scores of the suspects that were drawn for the calibration part, shape (S,)."""
        return self.scores[self.of("suspect calibration")]

    @property
    def reference_ids(self) -> list[str]:
        """Ids of the reference part, in the order of its rows."""
        return [self.ids[index] for index in self.of("reference")]

    @property
    def reference_predictions(self) -> Tensor:
        """Predicted classes of the reference part, in the order of its rows."""
        return self.predictions[self.of("reference")]


def encode_whitening(
    whitening: Whitening, mean_eigenvalues: Sequence[float], dampings: Sequence[float]
) -> dict[str, bytes]:
    """The files of a factor task."""
    maps = whitening.maps or ()
    flat = torch.cat([tensor.flatten() for own in maps for tensor in own.tensors]).numpy()
    objects = arrays.encode(flat, _Maps(maps=[_described(own) for own in maps]).model_dump(mode="json"))
    layout = whitening.layout
    table = pa.table(
        [list(layout.names), list(layout.sizes), list(mean_eigenvalues), list(dampings)], schema=LAYERS_FORMAT.schema
    )
    return {**{f"{WHITENING}/{name}": data for name, data in objects.items()}, LAYERS: encode_arrow(table)}


def read_whitening(storage: Storage, folder: str, layout: RowLayout) -> Whitening:
    """The whitening of a factor task's folder; the identity where there is none ("")."""
    if not folder:
        return Whitening(layout)
    array = arrays.open_array(storage, f"{folder}/{WHITENING}", newest=2)
    flat = torch.from_numpy(arrays.read(array, 0, array.shape[0]))
    maps = (
        _Maps(maps=[("matrix", [[size, size]]) for size in layout.sizes])
        if array.attrs["format"] == 1
        else _Maps.model_validate(dict(array.attrs))
    )
    pieces = iter(flat.split([math.prod(shape) for _, shapes in maps.maps for shape in shapes]))
    return Whitening(
        layout, tuple(_map_of(kind, [next(pieces).reshape(shape) for shape in shapes]) for kind, shapes in maps.maps)
    )


def _described(own: Map) -> tuple[MapKind, list[list[int]]]:
    kind: MapKind = (
        "matrix" if isinstance(own, Matrix) else "vectors" if isinstance(own.basis, DenseBasis) else "factors"
    )
    return kind, [list(tensor.shape) for tensor in own.tensors]


def _map_of(kind: MapKind, tensors: Sequence[Tensor]) -> Map:
    if kind == "matrix":
        return Matrix(tensors[0])
    basis = DenseBasis(tensors[0]) if kind == "vectors" else KroneckerBasis(tensors[0], tensors[1])
    return SpectralMap(basis, tensors[-2], tensors[-1])


def encode_moment(moment: Moment) -> dict[str, bytes]:
    """The files of a moment task: its numbers, float64, in one flat array, and the number of rows in them."""
    return {
        f"{MOMENT}/{name}": data
        for name, data in arrays.encode(moment.flat.numpy(), {"format": 2, "count": moment.count}).items()
    }


def read_moment(storage: Storage, folder: str, zero: AnyMoment) -> AnyMoment:
    """The moment of a moment task's folder, of the kind and layout of `zero`."""
    array = arrays.open_array(storage, f"{folder}/{MOMENT}", newest=2)
    return zero.restored(torch.from_numpy(arrays.read(array, 0, array.shape[0])), int(str(array.attrs["count"])))


class ClassModes(BaseModel):
    """What screening found in one predicted class (see `madcore.scoring.screening.Modes`)."""

    predicted: int
    samples: int
    separation: float
    z: float
    share: float
    stands_out: bool
    decidable: bool


class Screening(BaseModel):
    """What screening found; `suspects` are ids, whether or not they were taken out."""

    format: Literal[1] = 1
    suspects: list[str]
    classes: list[ClassModes]
    too_small: list[int]


def encode_screening(screening: Screening) -> dict[str, bytes]:
    """The file of what screening found."""
    return {SCREENING: encode(screening)}


def read_screening(storage: Storage, folder: str) -> Screening | None:
    """What screening found, of a split's or a references task's folder; None where nothing was screened."""
    path = f"{folder}/{SCREENING}"
    return parse(read_file(storage, path), Screening, storage.locate(path)) if storage.exists(path) else None


def encode_references(whitened_mk: Tensor, trusted: TrustedSamples) -> dict[str, bytes]:
    """The files of a references task: whitened rows (m, k) of the reference part, m at least 1, and all trusted samples."""
    objects = arrays.encode(whitened_mk.numpy(), {"format": 1})
    return {**{f"{REFERENCES}/{name}": data for name, data in objects.items()}, **encode_trusted(trusted)}


def encode_trusted(trusted: TrustedSamples) -> dict[str, bytes]:
    """The file of all trusted samples."""
    columns = [
        pa.array(trusted.ids, pa.string()),
        pa.array(trusted.parts, pa.string()),
        pa.array(trusted.predictions.numpy(), pa.int32()),
        pa.array(trusted.scores, pa.float64(), mask=np.isnan(trusted.scores)),
    ]
    table = pa.Table.from_arrays(columns, schema=TRUSTED_FORMAT.schema)
    return {TRUSTED: encode_arrow(table)}


def read_trusted(storage: Storage, folder: str) -> TrustedSamples:
    """All trusted samples, of a references task's folder, or, without scores, of the split's."""
    path = f"{folder}/{TRUSTED}"
    table = decode_arrow(read_file(storage, path), TRUSTED_FORMAT, storage.locate(path))
    return TrustedSamples(
        ids=table.column("sample_id").to_pylist(),
        parts=table.column("part").to_pylist(),
        predictions=torch.from_numpy(np.array(table.column("prediction").to_numpy(), np.int64)),
        scores=np.array(table.column("score").fill_null(float("nan")).to_numpy(), np.float64),
    )


def read_reference_rows(storage: Storage, folder: str) -> Tensor:
    """Whitened rows (m, k) of the reference part."""
    array = arrays.open_array(storage, f"{folder}/{REFERENCES}")
    return torch.from_numpy(arrays.read(array, 0, array.shape[0]))
