"""Sources: the Parquet files of a data set, found by their paths and checked by their schema."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal

import pyarrow as pa

from infra.errors import StorageError
from infra.formats.parquet_bounds import check_claims
from infra.formats.parquet_footer import read_footer
from infra.formats.tables import open_parquet, read_rows
from infra.storage.files import InputFile, digest, find, open_input
from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import Columns
from pipeline.config.schema import ModelConfig, Task
from pipeline.data.columns import EXPECTED, fits, may_not_fit, unfit
from pipeline.data.ids import ids_of
from pipeline.data.images.column import advice, refuse_paths_only
from pipeline.data.input_columns import LOOKED_FOR, input_roles, possible_roles, unread_columns
from pipeline.errors import SourceError

Split = Literal["trusted", "audited", "sampling"]


TRUTH = ("label", "anomalous", "target")


PLACES: dict[Split, str] = {"trusted": "data.trusted", "audited": "data.audited", "sampling": "estimator.sampling"}


CHECKED_AT_ONCE = 1024


NAMED_COLUMNS = 30  # of a file, in a message


@dataclass(frozen=True)
class Source:
    """One file of samples: its identity, how many rows it has, and which columns are in it.

    `truth`: the roles of truth that it has. `inputs`: the roles of a model's inputs that are read of it.
    """

    file: InputFile
    rows: int
    columns: Columns
    truth: tuple[str, ...]
    inputs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Digest of the file's URL, size and version, and of what is read beyond the inputs that all files have.

        A changed file is another source.
        """
        more = [role for role in self.inputs if role in LOOKED_FOR and role != "completion_start"]
        read = "".join(f"\n{role}: {getattr(self.columns, role)}" for role in more)
        return digest(f"{self.file.url}\n{self.file.size}\n{self.file.version}{read}".encode())[:24]

    @property
    def may_be_padded(self) -> bool:
        """Whether its texts may hold padding that no mask hides: there is none, and the config does not decline it."""
        return "attention_mask" not in self.inputs and self.columns.attention_mask is not None


def find_sources(config: AuditConfig, model: ModelConfig, split: Split) -> tuple[list[Source], dict[str, str]]:
    """The files of a model's split, and for each file or pattern that cannot be used, why.

    A file without rows, such as a part that Spark left empty, is used up by being looked at: it has no source.

    Raises:
        SourceError: a file is named twice, no file is usable, or none has rows.
    """
    sources: list[Source] = []
    refused: dict[str, str] = {}
    known: set[str] = set()
    empty: list[str] = []
    for path in _paths(model, split):
        try:
            found = find(path, config.locate(path))
        except StorageError as error:
            refused[path] = str(error)
            continue
        refused |= found.faults
        if not found.files and not found.faults:
            refused[path] = f"{path}: no file matches this glob ({config.locate(path)})"
        for file in found.files:
            if file.url in known:
                raise SourceError(f"{PLACES[split]} names {file.name} twice; every file counts once")
            try:
                source = _inspect(file, model, split)
                known.add(file.url)
                empty += [file.name] if source is None else []
                sources += [] if source is None else [source]
            except (StorageError, SourceError) as error:
                refused[file.name] = str(error)
    refused |= {name: f"{name}: has no rows" for name in empty if not sources}
    if not sources:
        raise SourceError(f"{PLACES[split]}: no usable file; " + "; ".join(refused.values()))
    return sources, refused


def _paths(model: ModelConfig, split: Split) -> tuple[str, ...]:
    if split == "sampling":
        return model.traced.sampling if model.traced is not None else ()
    return model.data.trusted if split == "trusted" else model.data.audited


def _inspect(file: InputFile, model: ModelConfig, split: Split) -> Source | None:
    """The source that a file is; None where it has no rows.

    Raises:
        SourceError: it has not the columns, types or values that a source needs.
        StorageError: it cannot be read.
    """
    columns = model.data.columns
    with open_input(file.url) as handle:
        named = [getattr(columns, role) for role in ("id", *possible_roles(model.task), *TRUTH)]
        _check_claims(handle, file, [name for name in named if name is not None])
        parquet = open_parquet(handle, file.name)
        schema, rows, metadata = parquet.schema_arrow, parquet.metadata.num_rows, parquet.metadata
    if rows == 0:
        return None
    inputs, optional = input_roles(model.task, columns, schema.names), _optional(model.task, split)
    needed = ["id", *inputs, *(name for name in optional if _is_needed(name, columns, split))]
    _check_names(schema, columns, needed, file.name)
    present = tuple(role for role in optional if getattr(columns, role) in schema.names)
    _check_single(schema, columns, ("id", *inputs, *present), file.name)
    _check_types(schema, columns, ("id", *inputs, *present), file.name)
    for unread in unread_columns(model.task, columns, schema.names):
        raise SourceError(
            f"{file.name}: has a column {unread!r}, which would change what a sample is to its model and is not read; "
            "drop or rename it, or list it under data.columns.ignored"
        )
    if "image" in inputs:
        refuse_paths_only(metadata, columns.image, schema.field(columns.image).type, file.name)
    source = Source(file, rows, columns, present, inputs)
    _check_values(source, schema, ("id", *inputs, *present))
    return source


def _check_names(schema: pa.Schema, columns: Columns, needed: Sequence[str], name: str) -> None:
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
        near = _near(role, column or "", schema.names)
        raise SourceError(f"{name}: has no column {' nor '.join(absent)}{near}; columns there: {_described(schema)}")


def _near(role: str, column: str, names: Sequence[str]) -> str:
    """The hint at a column whose name differs only in case or in how its accents are composed."""
    alike = (name for name in names if _folded(name) == _folded(column))
    return next((f", but {name!r}: set data.columns.{role}: {name}" for name in alike), "")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _check_single(schema: pa.Schema, columns: Columns, roles: Sequence[str], name: str) -> None:
    for role in roles:
        column = getattr(columns, role)
        if schema.names.count(column) > 1:
            raise SourceError(f"{name}: has several columns named {column!r} (data.columns.{role}); rename them")


def _check_types(schema: pa.Schema, columns: Columns, roles: Sequence[str], name: str) -> None:
    for role in roles:
        kind = schema.field(getattr(columns, role)).type
        if not fits(role, kind):
            column = f"the column {getattr(columns, role)!r} (data.columns.{role})"
            raise SourceError(
                f"{name}: {column} is {kind}, expected {EXPECTED[role]}{_remedy(role, kind)}; "
                f"columns there: {_described(schema)}"
            )


def _remedy(role: str, kind: pa.DataType) -> str:
    if role in (*TRUTH, *LOOKED_FOR):
        return f"; or set data.columns.{role}: null to do without"
    return f"; {advice(kind)}" if role == "image" and advice(kind) else ""


def _described(schema: pa.Schema) -> str:
    named = ", ".join(
        f"{schema.field(place).name} ({schema.field(place).type})" for place in range(min(len(schema), NAMED_COLUMNS))
    )
    return named if len(schema) <= NAMED_COLUMNS else f"{named} and {len(schema) - NAMED_COLUMNS:,} more"


def _check_values(source: Source, schema: pa.Schema, roles: Sequence[str]) -> None:
    """Refuse values that do not fit their column's role, where its type leaves that open."""
    for role in roles:
        column = getattr(source.columns, role)
        if may_not_fit(role, schema.field(column).type):
            batches = read_rows(source.file.url, 0, source.rows, [column], CHECKED_AT_ONCE)
            found = unfit(role, (batch.column(column) for batch in batches))
            if found is not None:
                raise SourceError(
                    f"{source.file.name}: row {found.row:,} of the column {column!r} (data.columns.{role}) "
                    f"{found.reason}; expected {EXPECTED[role]}"
                )


def _check_claims(handle: IO[bytes], file: InputFile, columns: Sequence[str]) -> None:
    try:
        footer = read_footer(handle)
    except StorageError as error:
        raise SourceError(f"{file.name}: {error}") from error
    check_claims(footer, file.size, columns, file.name)


def _is_needed(role: str, columns: Columns, split: Split) -> bool:
    """Whether a file must have a column of truth.

    It must have labels in the sampling set, and elsewhere what the config itself names, except labels of audited
    samples.
    """
    if split == "sampling":
        return role == "label"
    return columns.insists_on(role) and (role != "label" or split == "trusted")


def _optional(task: Task, split: Split) -> tuple[str, ...]:
    """Roles of truth that a file may have. A text has no class, so its label or target means nothing to an audit."""
    roles = TRUTH if task == "classification" else ("anomalous",)
    return tuple(role for role in roles if split == "audited" or role == "label")


def read_ids(source: Source, start: int = 0, stop: int | None = None) -> Iterator[list[str | None]]:
    """Ids of rows [start, stop) as text, batch by batch."""
    for batch in read_rows(source.file.url, start, source.rows if stop is None else stop, [source.columns.id], 65536):
        yield ids_of(batch.column(source.columns.id))
