"""Whether a file's schema has what a source needs: columns of the right names and types, each once."""

import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches

import pyarrow as pa

from pipeline.config.samples import Columns
from pipeline.data.columns import EXPECTED, fits, holds_numbers, is_text, stored
from pipeline.data.images.column import advice
from pipeline.data.input_columns import LOOKED_FOR
from pipeline.errors import SourceError

TRUTH = ("label", "anomalous", "target")


TOKENIZE = "tokenize the texts with the model's own tokenizer, prompt and completion together"


NAMED_COLUMNS = 30  # of a file, in a message


def check_names(schema: pa.Schema, columns: Columns, needed: Sequence[str], name: str) -> None:
    """Refuse a file without a column of a needed role.

    Raises:
        SourceError: with the columns there are.
    """
    for role in needed:
        column = getattr(columns, role)
        if column is not None and column in schema.names:
            continue
        either = ("completion_start", "labels") if role == "completion_start" and "labels" not in needed else (role,)
        absent = [f"{getattr(columns, one)!r} (data.columns.{one})" for one in either if getattr(columns, one)]
        if not absent and role == "label":
            raise SourceError(
                f"{name}: the sampling set needs labels, and data.columns.label is null; name their column"
            )
        if not absent:
            raise SourceError(
                f"{name}: a text needs a completion, and data.columns.completion_start and labels are null; "
                "name a column that says where it is"
            )
        alike = near(column or "", schema.names)
        hint = f", but {alike!r}: set data.columns.{role}: {alike}" if alike else ""
        hint = hint or (f"; {TOKENIZE}" if role == "input_ids" else "")
        raise SourceError(f"{name}: has no column {' nor '.join(absent)}{hint}; columns there: {_described(schema)}")


def near(column: str, names: Sequence[str]) -> str | None:
    """The column whose name differs from another only in case or in how its accents are composed."""
    return next((name for name in names if _folded(name) == _folded(column)), None)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def check_single(schema: pa.Schema, columns: Columns, roles: Sequence[str], name: str) -> None:
    """Refuse a file that has several columns of the name of one that is read.

    Raises:
        SourceError: with the columns there are.
    """
    for role in roles:
        column = getattr(columns, role)
        if schema.names.count(column) > 1:
            raise SourceError(f"{name}: has several columns named {column!r} (data.columns.{role}); rename them")


def check_types(schema: pa.Schema, columns: Columns, roles: Sequence[str], name: str) -> None:
    """Refuse a file with a column whose type cannot have its role.

    Raises:
        SourceError: with the columns there are.
    """
    for role in roles:
        kind = schema.field(getattr(columns, role)).type
        if not fits(role, kind):
            column = f"the column {getattr(columns, role)!r} (data.columns.{role})"
            raise SourceError(
                f"{name}: {column} is {kind}, expected {EXPECTED[role]}{remedy(role, kind)}; "
                f"columns there: {_described(schema)}"
            )


def check_tensors(schema: pa.Schema, columns: Columns, name: str) -> None:
    """Refuse a file without the columns that tensors are made of, or with others than numbers in them.

    Raises:
        SourceError: with the columns there are.
    """
    for column in columns.of_tensors:
        what = f"the column {column!r} (data.columns.inputs)"
        if column not in schema.names:
            near = get_close_matches(column, schema.names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SourceError(
                f"{name}: has no column {column!r} (data.columns.inputs){hint}; columns there: {_described(schema)}"
            )
        if schema.names.count(column) > 1:
            raise SourceError(f"{name}: has several columns named {column!r} (data.columns.inputs); rename them")
        if not holds_numbers(schema.field(column).type):
            raise SourceError(
                f"{name}: {what} is {schema.field(column).type}, expected numbers, or lists of numbers, which are all "
                "of one length; encode what else it holds as numbers first"
            )


def remedy(role: str, kind: pa.DataType) -> str:
    """What to do with a column that does not fit its role, beginning with `; `; "" where that is not known."""
    if role in (*TRUTH, *LOOKED_FOR):
        return f"; or set data.columns.{role}: null to do without"
    if role == "input_ids":
        plain = stored(kind)
        return (
            f"; {TOKENIZE}" if is_text(plain) else "; if each row is a batch of one text, store the text's list itself"
        )
    return f"; {advice(kind)}" if role == "image" and advice(kind) else ""


def _described(schema: pa.Schema) -> str:
    named = ", ".join(
        f"{schema.field(place).name} ({schema.field(place).type})" for place in range(min(len(schema), NAMED_COLUMNS))
    )
    return named if len(schema) <= NAMED_COLUMNS else f"{named} and {len(schema) - NAMED_COLUMNS:,} more"
