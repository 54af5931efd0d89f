"""Columns of numbers, and of lists of them, as tensors: one for each argument of a model, checked row by row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config.samples import TensorColumns
from pipeline.data.columns import is_list, leaf_type, plain
from pipeline.data.ids import ids_of
from pipeline.data.sources import Source
from pipeline.errors import SourceError

Numbers = NDArray[np.float32] | NDArray[np.int64]

ROWS_SEARCHED = 256


@dataclass(frozen=True)
class TensorArgument:
    """One argument of a model: the shape of a sample's tensor, () for a number, and what its numbers are."""

    shape: tuple[int, ...]
    kind: Literal["float32", "int64"]


@dataclass(frozen=True)
class TensorBatch:
    """Consecutive rows of a source: their ids, why each is unreadable, and arrays (n, *shape) of the n that are not.

    A null id is "", and so is the reason of a readable row.
    """

    ids: tuple[str, ...]
    unreadable: tuple[str, ...]
    arrays: Mapping[str, Numbers]


def names_of(columns: str | Sequence[str]) -> list[str]:
    """The names of an argument's columns, of which several are stacked."""
    return [columns] if isinstance(columns, str) else list(columns)


def read_tensors(
    source: Source, start: int, stop: int, arguments: Mapping[str, TensorArgument], batch_rows: int
) -> Iterator[TensorBatch]:
    """Rows [start, stop) in batches; a row that cannot be read is in its batch with the reason."""
    columns = source.columns.inputs or {}
    named = [source.columns.id, *source.columns.of_tensors]
    for batch in source.read(start, stop, named, batch_rows):
        ids = ids_of(batch.column(source.columns.id))
        reasons = ["the id is null" if name is None else "" for name in ids]
        read = {
            argument: _argument(batch, columns[argument], expected, reasons) for argument, expected in arguments.items()
        }
        fit = np.array([not reason for reason in reasons], bool)
        arrays = {argument: numbers[fit] for argument, numbers in read.items()}
        yield TensorBatch(tuple(name or "" for name in ids), tuple(reasons), arrays)


def first_tensors(
    sources: Sequence[Source], columns: TensorColumns, wanted: int
) -> tuple[dict[str, TensorArgument], dict[str, Numbers]]:
    """The arguments as the first file has them, and the first readable samples of it, (up to wanted, *shape) each.

    Raises:
        SourceError: the first rows hold none.
    """
    source = sources[0]
    arguments, reasons, searched = _arguments(source, columns), list[str](), min(source.rows, ROWS_SEARCHED)
    found: list[Mapping[str, Numbers]] = []
    for batch in read_tensors(source, 0, searched, arguments, searched):
        reasons += [reason for reason in batch.unreadable if reason]
        found.append(batch.arrays)
    arrays = {name: np.concatenate([one[name] for one in found])[:wanted] for name in arguments}
    if not len(next(iter(arrays.values()))):
        raise SourceError(f"{source.file.name}: none of its first {searched} rows can be read; the first: {reasons[0]}")
    return arguments, arrays


def _arguments(source: Source, columns: TensorColumns) -> dict[str, TensorArgument]:
    """Shapes are those of the first row that has no null; columns that are stacked are taken for fractions."""
    searched = min(source.rows, ROWS_SEARCHED)
    (first, *_) = source.read(0, searched, source.columns.of_tensors, ROWS_SEARCHED)
    found = {}
    for argument, own in columns.items():
        values = plain(first.column(names_of(own)[0]))
        shape = _shape(values.drop_null())
        stacked = not isinstance(own, str)
        whole = pa.types.is_integer(leaf_type(values.type)) and not stacked
        found[argument] = TensorArgument((len(own), *shape) if stacked else shape, "int64" if whole else "float32")
    return found


def _shape(values: pa.Array) -> tuple[int, ...]:
    """The shape of the first value of an array without nulls; lists of length 0 where there is none."""
    shape: list[int] = []
    while is_list(values.type):
        lengths = pc.list_value_length(values)
        shape.append(int(lengths[0].as_py() or 0) if len(lengths) else 0)
        values = plain(values.flatten()).drop_null()
    return tuple(shape)


def _argument(
    batch: pa.RecordBatch, columns: str | Sequence[str], expected: TensorArgument, reasons: list[str]
) -> Numbers:
    """The numbers of one argument, (n, *shape), 0 where a row is unreadable; the reasons of such rows are noted."""
    stacked, kind = not isinstance(columns, str), np.dtype(expected.kind)
    shape = expected.shape[1:] if stacked else expected.shape
    arrays = [_numbers(plain(batch.column(name)), name, shape, kind, reasons) for name in names_of(columns)]
    return np.stack(arrays, axis=1) if stacked else arrays[0]  # type: ignore[return-value]


def _numbers(
    values: pa.Array, name: str, shape: tuple[int, ...], kind: np.dtype[np.generic], reasons: list[str]
) -> Numbers:
    """The numbers of one column, (n, *shape)."""
    rows, inner, wanted = np.arange(len(values)), values, list(shape)
    for length in shape:
        lengths = pc.fill_null(pc.list_value_length(inner), -1).to_numpy(zero_copy_only=False)
        of_row = lengths.reshape(len(rows), -1)
        bad = (of_row != length).any(axis=1)
        for place in np.flatnonzero(bad):
            held = int(of_row[place][of_row[place] != length][0])
            _note(reasons, rows[place], f"{name} {_misfit(held, wanted)}")
        inner, rows = inner.filter(pa.array(np.repeat(~bad, of_row.shape[1]))), rows[~bad]
        inner = plain(inner.flatten())
    leaf = inner.cast(pa.float64()) if pa.types.is_decimal(inner.type) else inner
    flat = leaf.fill_null(False if pa.types.is_boolean(leaf.type) else 0).to_numpy(zero_copy_only=False)
    missing = _of_rows(leaf.is_null().to_numpy(zero_copy_only=False), rows, shape)
    for place in np.flatnonzero(missing):
        _note(reasons, rows[place], f"{name} is null" if not shape else f"{name} holds a null")
    if kind == np.int64 and flat.dtype.kind == "f":
        for place in np.flatnonzero(_of_rows(np.trunc(flat) != flat, rows, shape)):
            _note(reasons, rows[place], f"{name} holds a fraction, the first trusted sample's numbers are whole")
    numbers: Numbers = np.zeros((len(values), *shape), kind)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is infinite; of a fraction, the row is noted
        numbers[rows] = flat.astype(kind).reshape(len(rows), *shape)
    return numbers


def _of_rows(odd: NDArray[np.bool_], rows: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which rows have an odd number, (rows,)."""
    found: NDArray[np.bool_] = np.asarray(odd.reshape(len(rows), prod(shape)).any(axis=1))
    return found


def _misfit(held: int, wanted: Sequence[int]) -> str:
    if held < 0:
        return "is null" if len(wanted) == 1 else "is null, or holds a null"
    shape = " x ".join(map(str, wanted))
    return f"has a list of {held:,} numbers, the first trusted sample's has the shape {shape}"


def _note(reasons: list[str], row: int, reason: str) -> None:
    reasons[row] = reasons[row] or reason
