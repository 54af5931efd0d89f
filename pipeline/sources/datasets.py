"""Data sets: Parquet files of samples, checked by their schema, read a few rows at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import StorageError
from infra.files import InputFile, digest, find, is_pattern, open_input
from infra.parquet_bounds import check_claims
from infra.parquet_footer import read_footer
from infra.tables import open_parquet, read_rows
from pipeline.config import AuditConfig
from pipeline.errors import SourceError
from pipeline.schema import Columns, ModelConfig, Preprocess, Task
from pipeline.sources.ids import ids_of
from pipeline.sources.images import Pixels, UnreadableImage, decode

Split = Literal["trusted", "audited", "sampling"]
TRUTH = ("label", "anomalous", "target")
INPUTS: dict[Task, tuple[str, ...]] = {"classification": ("image",), "causal_lm": ("input_ids", "completion_start")}
MISSING_CLASS = -1


@dataclass(frozen=True)
class Source:
    """One file of samples: what it is, how many rows it has, and which of the optional columns are in it."""

    file: InputFile
    rows: int
    columns: Columns
    truth: tuple[str, ...]

    @property
    def key(self) -> str:
        """Digest of the file's place, size and version: a changed file is another source."""
        return digest(f"{self.file.url}\n{self.file.size}\n{self.file.version}".encode())[:24]


@dataclass(frozen=True)
class ImageBatch:
    """Consecutive rows of a source: ids (null as ""), why a row is unreadable ("" where it is not), and the readable pixels."""

    ids: tuple[str, ...]
    unreadable: tuple[str, ...]
    pixels: Pixels


def find_sources(config: AuditConfig, model: ModelConfig, split: Split) -> tuple[list[Source], dict[str, str]]:
    """The files of a model's split, and why each other one that is named cannot be used.

    Raises:
        SourceError: a file is named twice, or nothing at all is found.
    """
    sources: list[Source] = []
    refused: dict[str, str] = {}
    known: set[str] = set()
    for path in _paths(model, split):
        try:
            files = find(path, config.locate(path))
        except StorageError as error:
            refused[path] = str(error)
            continue
        if not files and is_pattern(path):
            refused[path] = f"{path}: no file matches this glob ({config.locate(path)})"
        for file in files:
            if file.url in known:
                raise SourceError(f"{PLACES[split]} names {file.name} twice; every file counts once")
            try:
                sources.append(_inspect(file, model, split))
                known.add(file.url)
            except (StorageError, SourceError) as error:
                refused[file.name] = str(error)
    if not sources:
        raise SourceError(f"{PLACES[split]}: no usable file; " + "; ".join(refused.values()))
    return sources, refused


PLACES: dict[Split, str] = {"trusted": "data.trusted", "audited": "data.audited", "sampling": "estimator.sampling"}


def _paths(model: ModelConfig, split: Split) -> tuple[str, ...]:
    if split == "sampling":
        return model.traced.sampling if model.traced is not None else ()
    return model.data.trusted if split == "trusted" else model.data.audited


def _inspect(file: InputFile, model: ModelConfig, split: Split) -> Source:
    columns, inputs = model.data.columns, ("id", *INPUTS[model.task])
    with open_input(file.url) as handle:
        _check_claims(handle, file, [str(getattr(columns, role)) for role in inputs])
        parquet = open_parquet(handle, file.name)
        schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    if rows == 0:
        raise SourceError(f"{file.name}: has no rows")
    optional = _optional(model.task, split)
    needed = [*inputs, *(name for name in optional if _is_needed(name, columns, split))]
    here = ", ".join(f"{field.name} ({field.type})" for field in schema)
    for role in needed:
        if getattr(columns, role) is None:
            raise SourceError(f"{file.name}: the sampling set needs labels, and data.columns.{role} is null; name their column")
        if getattr(columns, role) not in schema.names:
            raise SourceError(f"{file.name}: has no column {getattr(columns, role)!r} (data.columns.{role}); columns there: {here}")
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise SourceError(f"{file.name}: has several columns named {twice[0]!r}; rename them")
    present = tuple(role for role in optional if getattr(columns, role) in schema.names)
    for role in (*inputs, *present):
        kind = schema.field(getattr(columns, role)).type
        if not _fits(role, kind):
            column = f"the column {getattr(columns, role)!r} (data.columns.{role})"
            remedy = f"; or set data.columns.{role}: null to do without" if role in TRUTH else ""
            raise SourceError(f"{file.name}: {column} is {kind}, expected {EXPECTED[role]}{remedy}; columns there: {here}")
    return Source(file, rows, columns, present)


def _check_claims(handle: IO[bytes], file: InputFile, columns: Sequence[str]) -> None:
    try:
        footer = read_footer(handle)
    except StorageError as error:
        raise SourceError(f"{file.name}: {error}") from error
    check_claims(footer, file.size, columns, file.name)


def _is_needed(role: str, columns: Columns, split: Split) -> bool:
    """Whether a file must have a column of truth: labels of the sampling set, and what the config itself names, but for labels of audited samples."""
    if split == "sampling":
        return role == "label"
    return columns.insists_on(role) and (role != "label" or split == "trusted")


def _optional(task: Task, split: Split) -> tuple[str, ...]:
    """Roles of truth that a file may have. A text has no class, so a label or target there is nothing that an audit knows."""
    roles = TRUTH if task == "classification" else ("anomalous",)
    return tuple(role for role in roles if split == "audited" or role == "label")


EXPECTED = {
    "id": "a string or an integer",
    "image": "encoded bytes, or a struct with a field `bytes` of them",
    "input_ids": "a list of integers",
    "completion_start": "an integer",
    "label": "an integer",
    "anomalous": "a boolean or an integer",
    "target": "an integer",
}


def _fits(role: str, kind: pa.DataType) -> bool:
    if role == "image":
        return _is_bytes(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type))
    if role == "input_ids":
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return bool(listed and pa.types.is_integer(kind.value_type))
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if pa.types.is_uint64(kind) and role != "id":
        return False
    return bool(pa.types.is_integer(kind) or (role == "id" and text) or (role == "anomalous" and pa.types.is_boolean(kind)))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@dataclass(frozen=True)
class Reading:
    """How images are read: rows a batch, (height, width) that the model takes, and whether others are resized to it."""

    batch_rows: int
    size: tuple[int, int]
    resize: bool


def read_images(source: Source, start: int, stop: int, reading: Reading) -> Iterator[ImageBatch]:
    """Rows [start, stop) in batches; a row that cannot be read is in its batch with the reason."""
    ids, reasons, pixels = list[str](), list[str](), list[Pixels]()
    for batch in read_rows(source.file.url, start, stop, [source.columns.id, source.columns.image], reading.batch_rows):
        for name, data in zip(ids_of(batch.column(source.columns.id)), _image_bytes(batch.column(source.columns.image)), strict=True):
            ids.append(name or "")
            try:
                if name is None:
                    raise UnreadableImage("the id is null")
                pixels.append(decode(data, reading.size, reading.resize))
                reasons.append("")
            except UnreadableImage as error:
                reasons.append(str(error))
            if len(ids) == reading.batch_rows:
                yield _batch(ids, reasons, pixels, reading)
                ids, reasons, pixels = [], [], []
    if ids:
        yield _batch(ids, reasons, pixels, reading)


def _batch(ids: Sequence[str], reasons: Sequence[str], pixels: Sequence[Pixels], reading: Reading) -> ImageBatch:
    return ImageBatch(tuple(ids), tuple(reasons), np.stack(pixels) if pixels else np.zeros((0, *reading.size, 3), np.uint8))


def first_images(sources: Sequence[Source], wanted: int, preprocess: Preprocess) -> Pixels:
    """The first readable images, all of the first one's size unless the config sets one, shape (up to wanted, h, w, 3).

    Raises:
        SourceError: the first rows hold no readable image.
    """
    found: list[Pixels] = []
    size = (preprocess.size, preprocess.size) if preprocess.size else None
    reasons: list[str] = []
    for batch in read_rows(sources[0].file.url, 0, min(sources[0].rows, 256), [sources[0].columns.image], 16):
        for data in _image_bytes(batch.column(sources[0].columns.image)):
            try:
                found.append(decode(data, size or (found[0].shape[:2] if found else None), resize=preprocess.size is not None))
            except UnreadableImage as error:
                reasons.append(str(error))
            if len(found) == wanted:
                return np.stack(found)
    if not found:
        raise SourceError(f"{sources[0].file.name}: none of its first {min(sources[0].rows, 256)} images can be read; the first: {reasons[0]}")
    return np.stack(found)


def read_image(source: Source, row: int) -> bytes | None:
    """The encoded image of one row."""
    return next(_image_bytes(next(read_rows(source.file.url, row, row + 1, [source.columns.image])).column(source.columns.image)))


def read_ids(source: Source, start: int = 0, stop: int | None = None) -> Iterator[list[str | None]]:
    """Ids of rows [start, stop) as text, batch by batch."""
    for batch in read_rows(source.file.url, start, source.rows if stop is None else stop, [source.columns.id], 65536):
        yield ids_of(batch.column(source.columns.id))


@dataclass(frozen=True)
class Truth:
    """What is known of rows, for evaluation and for filtering the reference part; never seen by a score.

    Classes (n,) with -1 where unknown; `anomalous` (n,) is 0, 1, or -1 where unknown.
    """

    label: NDArray[np.int64]
    anomalous: NDArray[np.int64]
    target: NDArray[np.int64]

    def of(self, start: int, stop: int) -> "Truth":
        """That of samples [start, stop)."""
        return Truth(self.label[start:stop], self.anomalous[start:stop], self.target[start:stop])


def read_truth(source: Source, start: int, stop: int) -> Truth:
    """Labels, anomaly marks and targets of rows [start, stop)."""
    columns = {role: getattr(source.columns, role) for role in source.truth}
    values = {role: np.full(stop - start, MISSING_CLASS, np.int64) for role in TRUTH}
    position = 0
    for batch in read_rows(source.file.url, start, stop, list(columns.values()), 65536) if columns else ():
        for role, name in columns.items():
            column = pc.fill_null(pc.cast(batch.column(name), pa.int64()), MISSING_CLASS)
            values[role][position : position + batch.num_rows] = column.to_numpy(zero_copy_only=False)
        position += batch.num_rows
    return Truth(**values)


def joined(pieces: Sequence[Truth]) -> Truth:
    """Pieces of truth, one after the other."""
    return Truth(**{role: np.concatenate([getattr(piece, role) for piece in pieces]) for role in TRUTH})


def unknown(samples: int) -> Truth:
    """That nothing is known of so many samples."""
    return Truth(**{role: np.full(samples, MISSING_CLASS, np.int64) for role in TRUTH})


def _image_bytes(column: pa.Array) -> Iterator[bytes | None]:
    """The encoded images of a column, one at a time."""
    values = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    return (value.as_py() for value in values)
