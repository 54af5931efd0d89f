"""Sources: the Parquet files of a data set, found by their paths and checked by their schema."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal

import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import StorageError
from infra.formats.parquet_bounds import check_claims
from infra.formats.parquet_footer import read_footer
from infra.formats.tables import open_parquet, read_rows
from infra.storage.files import digest, find
from infra.storage.identity import InputFile
from infra.storage.pins import PinnedInput
from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import Columns
from pipeline.config.schema import ModelConfig
from pipeline.data.columns import EXPECTED, UnfitValue, fits, may_not_fit, token_lists, unfit
from pipeline.data.identities import Identify, identify
from pipeline.data.ids import ids_of
from pipeline.data.images.column import refuse_paths_only
from pipeline.data.input_columns import (
    LOOKED_FOR,
    TYPE_IDS,
    described_unread,
    input_roles,
    possible_roles,
    unread_columns,
)
from pipeline.data.schema_checks import (
    TRUTH,
    check_names,
    check_single,
    check_tensors,
    check_types,
    refuse_partitioned,
    remedy,
)
from pipeline.errors import SourceError

Split = Literal["trusted", "audited", "sampling"]


PLACES: dict[Split, str] = {"trusted": "data.trusted", "audited": "data.audited", "sampling": "estimator.sampling"}


CHECKED_AT_ONCE = 1024


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
        """Digest of the file's URL and identity, and of what is read beyond the inputs that all files have.

        A changed file is another source.
        """
        more = [role for role in self.inputs if role in LOOKED_FOR and role != "completion_start"]
        read = "".join(f"\n{role}: {getattr(self.columns, role)}" for role in more)
        return digest(f"{self.file.url}\n{self.file.identity}{read}".encode())[:24]

    @property
    def may_be_padded(self) -> bool:
        """Whether its texts may hold padding that no mask hides: there is none, and the config does not decline it."""
        return "attention_mask" not in self.inputs and self.columns.attention_mask is not None


def find_sources(
    config: AuditConfig, model: ModelConfig, split: Split, identified: Identify = identify
) -> tuple[list[Source], dict[str, str]]:
    """The files of a model's split, and for each file or pattern that cannot be used, why.

    A file without rows, such as a part that Spark left empty, is used up by being looked at: it has no source.

    Args:
        config: the audit.
        model: one of its models.
        split: which of the model's files.
        identified: what identifies a file of a model.

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
                source = _inspect(identified(file, model), model, split)
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
    with PinnedInput(file) as handle:
        named = [getattr(columns, role) for role in ("id", *possible_roles(model.samples), *TRUTH)]
        _check_claims(handle, file, [TYPE_IDS, *columns.of_tensors, *(name for name in named if name is not None)])
        parquet = open_parquet(handle, file.name)
        schema, rows, metadata = parquet.schema_arrow, parquet.metadata.num_rows, parquet.metadata
    if rows == 0:
        return None
    inputs, optional = input_roles(model.samples, columns, schema.names), _optional(model, split)
    refuse_partitioned(schema, columns, ("id", *possible_roles(model.samples), *optional), file)
    needed = ["id", *inputs, *(name for name in optional if _is_needed(name, columns, split))]
    check_names(schema, columns, needed, file.name)
    present = tuple(role for role in optional if getattr(columns, role) in schema.names)
    check_single(schema, columns, ("id", *inputs, *present), file.name)
    check_types(schema, columns, ("id", *inputs, *present), file.name)
    check_tensors(schema, columns, file.name)
    if "image" in inputs:
        refuse_paths_only(metadata, columns.image, schema.field(columns.image).type, file.name)
    source = Source(file, rows, columns, present, inputs)
    for unread in unread_columns(model.samples, columns, schema.names):
        if unread != TYPE_IDS or not _holds_zeros(source, schema, unread):
            raise SourceError(f"{file.name}: {described_unread(unread)}")
    _check_values(source, schema, ("id", *inputs, *present))
    return source


def _holds_zeros(source: Source, schema: pa.Schema, column: str) -> bool:
    """Whether a column of lists of integers has no other value than 0, as tokenizers fill token types."""
    if schema.names.count(column) > 1 or not fits("labels", schema.field(column).type):
        return False
    batches = read_rows(source.file, 0, source.rows, [column], CHECKED_AT_ONCE)
    try:
        return not any(pc.any(pc.not_equal(token_lists(batch.column(column)).values, 0)).as_py() for batch in batches)
    except UnfitValue:
        return False


def _check_values(source: Source, schema: pa.Schema, roles: Sequence[str]) -> None:
    """Refuse values that do not fit their column's role, where its type leaves that open."""
    for role in roles:
        column = getattr(source.columns, role)
        if may_not_fit(role, schema.field(column).type):
            batches = read_rows(source.file, 0, source.rows, [column], CHECKED_AT_ONCE)
            found = unfit(role, (batch.column(column) for batch in batches))
            if found is not None:
                raise SourceError(
                    f"{source.file.name}: row {found.row:,} of the column {column!r} (data.columns.{role}) "
                    f"{found.reason}; expected {EXPECTED[role]}{remedy(role, schema.field(column).type)}"
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


def _optional(model: ModelConfig, split: Split) -> tuple[str, ...]:
    """Roles of truth that a file may have; a label or target means nothing to an audit without classes."""
    return tuple(role for role in model.facts.truth if split == "audited" or role == "label")


def read_ids(source: Source, start: int = 0, stop: int | None = None) -> Iterator[list[str | None]]:
    """Ids of rows [start, stop) as text, batch by batch."""
    for batch in read_rows(source.file, start, source.rows if stop is None else stop, [source.columns.id], 65536):
        yield ids_of(batch.column(source.columns.id))
