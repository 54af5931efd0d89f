"""Columns as other people's tools write them: which Arrow types carry integers, text, bytes or truth, and their values.

A column is what its values are, however they are stored: categories (dictionaries), views, runs, whole numbers that
pandas turned into doubles because some were missing, decimals of DuckDB's HUGEINT, UUIDs. Each function below gives one
plain type; every reader of a column goes through one of them.
"""

import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError

EXPECTED = {
    "id": "a string or an integer",
    "image": "encoded bytes, or a struct with a field `bytes` of them",
    "text": "text",
    "prompt": "text",
    "completion": "text",
    "messages": "a list of structs with role and content",
    "input_ids": "a list of integers",
    "token_type_ids": "a list of integers",
    "attention_mask": "a list of integers or booleans",
    "labels": "a list of integers",
    "completion_start": "an integer",
    "completion_end": "an integer",
    "label": "an integer, or the name of a class",
    "anomalous": "booleans, 0 and 1, or text such as true and false",
    "target": "an integer, or the name of a class",
}


EXTENSIONS = ("arrow.uuid", "arrow.json", "arrow.bool8")


UUID_BYTES = 16


HIVE_NULL, WHOLE = "__HIVE_DEFAULT_PARTITION__", re.compile(r"-?(0|[1-9][0-9]{0,17})")


SPELLINGS = {"": None, "true": 1, "false": 0, "yes": 1, "no": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0}


EXACT_UP_TO = {pa.float16(): 1 << 11, pa.float32(): 1 << 24, pa.float64(): 1 << 53}


class UnfitValue(SourceError):
    """A value that its column's role has no use for: `row` is its index in the array."""

    def __init__(self, row: int, reason: str):
        """`reason` continues "row 3 of the column 'label' "."""
        super().__init__(f"row {row} {reason}")
        self.row, self.reason = row, reason


def fits(role: str, kind: pa.DataType) -> bool:
    """Whether a column of this type can have this role; whether all its values fit, `unfit` says."""
    plain = stored(kind)
    if role in ("text", "prompt", "completion", "messages"):
        return _is_conversation(plain) if role == "messages" else is_text(plain)
    if role in ("input_ids", "labels", "attention_mask", "token_type_ids"):
        inner = stored(plain.value_type) if is_list(plain) else None
        return inner is not None and (_is_number(inner) or (role == "attention_mask" and pa.types.is_boolean(inner)))
    if role == "image":
        place = plain.get_field_index("bytes") if pa.types.is_struct(plain) else -1
        return _is_bytes(stored(plain.field(place).type) if place >= 0 else plain)
    if role == "id":
        return _is_number(plain) or is_text(plain) or _is_bytes(plain)
    if role in ("completion_start", "completion_end"):
        return _is_number(plain)
    truth = _is_number(plain) or pa.types.is_boolean(plain) or pa.types.is_null(plain)
    return truth or is_text(plain)


def _is_conversation(kind: pa.DataType) -> bool:
    """Whether a plain type holds lists of messages."""
    inner = stored(kind.value_type) if is_list(kind) else pa.null()
    return bool(pa.types.is_struct(inner)) and min(inner.get_field_index(one) for one in ("role", "content")) >= 0


def holds_numbers(kind: pa.DataType) -> bool:
    """Whether a column's type holds numbers or truth, or lists of them."""
    leaf = leaf_type(kind)
    return _is_number(leaf) or bool(pa.types.is_boolean(leaf))


def is_text(kind: pa.DataType) -> bool:
    """Whether a plain type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    """Whether a plain type can hold whole numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def leaf_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values in lists of any depth; a type itself where it is none of lists."""
    inner = stored(kind)
    return leaf_type(inner.value_type) if is_list(inner) else inner


def is_list(kind: pa.DataType) -> bool:
    """Whether a plain type is one of lists."""
    tests = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def stored(kind: pa.DataType) -> pa.DataType:
    """The type of the values, without dictionaries, runs and the extension types that are only another spelling."""
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name in EXTENSIONS:
        return stored(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return stored(kind.value_type)
    return kind


def plain(array: pa.Array) -> pa.Array:
    """The values of an array as an array of type `stored`."""
    if isinstance(array.type, pa.BaseExtensionType) and array.type.extension_name in EXTENSIONS:
        return plain(array.storage)
    if pa.types.is_dictionary(array.type):
        return plain(array.dictionary_decode())
    return plain(pc.run_end_decode(array)) if pa.types.is_run_end_encoded(array.type) else array


def integers(array: pa.Array) -> pa.Array:
    """Int64 values (n,), null where the array has null or NaN.

    Raises:
        UnfitValue: one is not a whole number of 64 bits, or so large that its type does not hold all integers.
    """
    values = plain(array)
    kind = values.type
    if pa.types.is_floating(kind):
        limit = EXACT_UP_TO[kind]
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        known = ~np.isnan(numbers)
        whole = (np.abs(numbers) <= limit) & (np.trunc(numbers) == numbers)
        for row in np.flatnonzero(known & ~whole)[:1].tolist():
            raise UnfitValue(row, f"holds {_shown(numbers[row], limit)}")
        return pa.array(np.where(known, numbers, 0).astype(np.int64), mask=~known)
    if pa.types.is_decimal(kind) or pa.types.is_uint64(kind):
        return pa.array(list(_within_int64(values.to_pylist())), pa.int64())
    return values.cast(pa.int64())


def _shown(number: float, limit: int) -> str:
    if np.isfinite(number) and np.trunc(number) == number:
        return f"{number:.17g}, and beyond {limit:,} its type does not hold every integer"
    return f"{number:g}, which is no whole number"


def _whole(values: Iterable[int | Decimal | None]) -> Iterator[int | None]:
    """Integers and decimals as integers of any size."""
    for row, value in enumerate(values):
        number = None if value is None else int(value)
        if number != value:
            raise UnfitValue(row, f"holds {value}, which is no whole number")
        yield number


def _within_int64(values: Iterable[int | Decimal | None]) -> Iterator[int | None]:
    for row, number in enumerate(_whole(values)):
        if number is not None and not -(1 << 63) <= number < 1 << 63:
            raise UnfitValue(row, f"holds {number}, which has more than 64 bits")
        yield number


def truth(array: pa.Array) -> pa.Array:
    """Int64 values (n,), 0 or 1, null where nothing is known: of booleans, numbers, or text such as `true`.

    Raises:
        UnfitValue: one is neither.
    """
    values = plain(array)
    if is_text(values.type):
        found = [None if text is None else SPELLINGS.get(text.strip().lower(), text) for text in values.to_pylist()]
    else:
        found = integers(values).to_pylist()
    for row, value in enumerate(found):
        if value not in (None, 0, 1):
            raise UnfitValue(row, f"holds {value!r}, which says neither 1 (anomalous) nor 0 (normal)")
    return pa.array(found, pa.int64())


def binary(array: pa.Array) -> pa.Array:
    """Bytes, whatever type holds them; of a struct, those of its field `bytes`."""
    values = plain(array)
    if pa.types.is_struct(values.type):
        values = plain(pc.struct_field(values, "bytes"))
    return values.cast(pa.large_binary()) if pa.types.is_binary_view(values.type) else values


def texts(array: pa.Array) -> list[bytes | None]:
    """Text of text, numbers and UUIDs, as the bytes of its UTF-8; of other bytes, the bytes themselves.

    Raises:
        UnfitValue: a number is not whole.
    """
    values = plain(array)
    kind = values.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == UUID_BYTES:
        return [None if value is None else str(uuid.UUID(bytes=value)).encode() for value in values.to_pylist()]
    if pa.types.is_decimal(kind):
        return [None if number is None else str(number).encode() for number in _whole(values.to_pylist())]
    if _is_number(kind):
        values = integers(values) if pa.types.is_floating(kind) else values
        values = values.cast(pa.large_string())
    found: list[bytes | None] = values.cast(
        kind if pa.types.is_fixed_size_binary(kind) else pa.large_binary()
    ).to_pylist()
    return found


def token_lists(array: pa.Array) -> pa.Array:
    """Lists of integers, one a row, null where the array has null; an integer is null where it is null or NaN.

    Raises:
        UnfitValue: a number in one is not whole.
    """
    lists = plain(array)
    whole = pa.types.is_integer(lists.type.value_type) or pa.types.is_boolean(lists.type.value_type)
    # Arrow's cast from views to lists loses values behind a null.
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    try:
        numbers = lists.flatten() if whole else integers(lists.flatten())
    except UnfitValue as error:
        row = int(np.searchsorted(offsets, error.row, side="right")) - 1
        raise UnfitValue(row, f"{error.reason} (at position {error.row - offsets[row]})") from error
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), numbers, mask=lists.is_null())


def constant(text: str, rows: int) -> pa.Array:
    """What the name of a folder says of all rows: an integer where it is one, null as Hive writes it, or else text."""
    if text == HIVE_NULL:
        return pa.nulls(rows)
    return pa.array([int(text) if WHOLE.fullmatch(text) else text] * rows)


READERS: dict[str, Callable[[pa.Array], object]] = {
    "id": texts,
    "anomalous": truth,
    "label": integers,
    "target": integers,
    "completion_start": integers,
    "completion_end": integers,
    "input_ids": token_lists,
    "attention_mask": token_lists,
    "labels": token_lists,
}


def may_not_fit(role: str, kind: pa.DataType) -> bool:
    """Whether a column of a type that fits its role may still hold values that do not."""
    values = stored(kind)
    if role in ("label", "target") and is_text(values):
        return False  # whether a class has that name is known once there are names
    if role == "anomalous":
        return not pa.types.is_boolean(values) and not pa.types.is_null(values)
    if is_list(values):
        values = stored(values.value_type)
        return bool(pa.types.is_floating(values) or pa.types.is_decimal(values))
    too_wide = pa.types.is_uint64(values) and role != "id"
    return bool(pa.types.is_floating(values) or pa.types.is_decimal(values) or too_wide)


def unfit(role: str, batches: Iterable[pa.Array]) -> UnfitValue | None:
    """The first value in consecutive arrays of a column that does not fit its role; its row counts from the first."""
    first = 0
    for array in batches:
        try:
            READERS[role](array)
        except UnfitValue as error:
            return UnfitValue(first + error.row, error.reason)
        first += len(array)
    return None
