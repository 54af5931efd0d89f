"""Finding the sources of a model: the files that its config names, and whether each has what a source needs."""

from collections.abc import Callable, Iterator, Sequence
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import IsFolder, StorageError
from infra.formats.data.contract import Layout, Table
from infra.formats.data.formats import inspect
from infra.storage.files import Found, find
from infra.storage.identity import InputFile
from infra.storage.pins import PinnedInput
from pipeline.config.audit_config import AuditConfig
from pipeline.config.samples import Columns
from pipeline.config.schema import ModelConfig
from pipeline.data.classes.features import class_features
from pipeline.data.columns import EXPECTED, UnfitValue, constant, fits, is_text, may_not_fit, stored, token_lists, unfit
from pipeline.data.finding.folders import find_in_folder
from pipeline.data.identities import Identify, identify
from pipeline.data.images.column import refuse_paths_only
from pipeline.data.input_columns import TYPE_IDS, described_unread, input_roles, possible_roles, unread_columns
from pipeline.data.schema_checks import TRUTH, check_names, check_single, check_tensors, check_types, near, remedy
from pipeline.data.sources import PLACES, Source, Split
from pipeline.errors import SourceError

CHECKED_AT_ONCE = 1024


TEXT_ROLES = ("text", "prompt", "completion")

Recall = Callable[[InputFile, ModelConfig], tuple[Layout, int] | None]


def recall_nothing(file: InputFile, model: ModelConfig) -> None:
    """No earlier run recorded how the rows of a file are found."""


def find_sources(
    config: AuditConfig,
    model: ModelConfig,
    split: Split,
    identified: Identify = identify,
    recall: Recall = recall_nothing,
) -> tuple[list[Source], dict[str, str]]:
    """The files of a model's split, and for each file or pattern that cannot be used, why.

    A file without rows, such as a part that Spark left empty, is used up by being looked at: it has no source.

    Args:
        config: the audit.
        model: one of its models.
        split: which of the model's files.
        identified: what identifies a file of a model.
        recall: how the rows of a file are found, as an earlier run recorded it, and how many there are.

    Raises:
        SourceError: a file is named twice, no file is usable, or none has rows.
    """
    sources: list[Source] = []
    refused: dict[str, str] = {}
    known: set[str] = set()
    empty: list[str] = []
    for path in _paths(model, split):
        try:
            found = _found(path, config.locate(path))
        except (StorageError, SourceError) as error:
            refused[path] = str(error)
            continue
        refused |= found.faults
        if not found.files and not found.faults:
            refused[path] = f"{path}: no file matches this glob ({config.locate(path)})"
        for file in found.files:
            if file.url in known:
                raise SourceError(f"{PLACES[split]} names {file.name} twice; every file counts once")
            try:
                source = _source(identified(file, model), model, split, recall)
                known.add(file.url)
                empty += [file.name] if source is None else []
                sources += [] if source is None else [source]
            except (StorageError, SourceError) as error:
                refused[file.name] = str(error)
    refused |= {name: f"{name}: has no rows" for name in empty if not sources}
    if not sources:
        raise SourceError(f"{PLACES[split]}: no usable file; " + "; ".join(refused.values()))
    return sources, refused


def _found(path: str, url: str) -> Found:
    """The files that a path of the config names: a file, a glob, or a folder."""
    try:
        return find(path, url)
    except IsFolder:
        return find_in_folder(path, url)


def _paths(model: ModelConfig, split: Split) -> tuple[str, ...]:
    if split == "sampling":
        return model.traced.sampling if model.traced is not None else ()
    return model.data.trusted if split == "trusted" else model.data.audited


def _source(file: InputFile, model: ModelConfig, split: Split, recall: Recall) -> Source | None:
    """The source that a file is; None where it has no rows.

    Raises:
        SourceError: it has not the columns, types or values that a source needs.
        StorageError: it cannot be read.
    """
    columns = model.data.columns.of(split)
    named = [getattr(columns, role) for role in ("id", *possible_roles(model.samples), *TRUTH)]
    with PinnedInput(file) as handle:
        read = [TYPE_IDS, *columns.of_tensors, *(name for name in named if name is not None)]
        table = inspect(handle, file, read, _texts(columns), lambda: recall(file, model))
    return _fitting(file, table, model, split) if table.rows else None


def _texts(columns: Columns) -> list[str]:
    """The columns that are text, whatever their values look like."""
    texts = (getattr(columns, role, None) for role in TEXT_ROLES)
    return [columns.id, *(name for name in texts if isinstance(name, str))]


def _fitting(file: InputFile, table: Table, model: ModelConfig, split: Split) -> Source:
    columns, optional = model.data.columns.of(split), _optional(model, split)
    roles = ("id", *possible_roles(model.samples), *optional)
    named = [*(getattr(columns, role) for role in roles), *columns.of_tensors]
    constants = dict(_in_folders(file, table.schema, named))
    schema = _with_constants(table.schema, constants)
    inputs = input_roles(model.samples, columns, schema.names)
    numbered = columns.id not in schema.names and not columns.insists_on("id") and not near(columns.id, schema.names)
    own = inputs if numbered else ("id", *inputs)
    check_names(schema, columns, [*own, *(one for one in optional if _is_needed(one, columns, split))], file.name)
    present = tuple(role for role in optional if getattr(columns, role) in schema.names)
    check_single(schema, columns, (*own, *present), file.name)
    check_types(schema, columns, (*own, *present), file.name)
    check_tensors(schema, columns, file.name)
    if "image" in inputs:
        refuse_paths_only(table, str(columns.image), file.name)
    source = Source(
        file,
        table.rows,
        columns,
        present,
        inputs,
        layout=table.layout,
        numbered=numbered,
        constants=tuple(constants.items()),
        features=class_features(schema, columns, present),
        named=_named(schema, columns, present),
        apart=split == "audited" and _differ(columns, model.data.columns.of("trusted"), ("id", "inputs", *inputs)),
    )
    for unread in unread_columns(model.samples, columns, schema.names):
        if unread != TYPE_IDS or not _holds_zeros(source, schema, unread):
            raise SourceError(f"{file.name}: {described_unread(unread)}")
    _check_values(source, schema, (*own, *present))
    return source


def _differ(columns: Columns, others: Columns, roles: Sequence[str]) -> bool:
    return any(getattr(columns, role) != getattr(others, role) for role in roles)


def _in_folders(file: InputFile, schema: pa.Schema, columns: Sequence[str | None]) -> Iterator[tuple[str, str]]:
    """Those of the columns that the file lacks and names of its folders hold, as Hive and Spark partition by them."""
    folders = [folder.partition("=") for folder in file.url.split("/")[:-1]]
    for column in columns:
        values = [unquote(value) for name, equals, value in folders if equals and unquote(name) == column]
        if column is not None and values and column not in schema.names:
            yield column, values[-1]


def _with_constants(schema: pa.Schema, constants: dict[str, str]) -> pa.Schema:
    for name, text in constants.items():
        schema = schema.append(pa.field(name, constant(text, 1).type))
    return schema


def _named(schema: pa.Schema, columns: Columns, roles: Sequence[str]) -> tuple[str, ...]:
    """The roles of truth whose values are names of classes."""
    kinds = {role: stored(schema.field(getattr(columns, role)).type) for role in roles if role != "anomalous"}
    return tuple(role for role, kind in kinds.items() if is_text(kind))


def _holds_zeros(source: Source, schema: pa.Schema, column: str) -> bool:
    """Whether a column of lists of integers has no other value than 0, as tokenizers fill token types."""
    if schema.names.count(column) > 1 or not fits("labels", schema.field(column).type):
        return False
    batches = source.read(0, source.rows, [column], CHECKED_AT_ONCE)
    try:
        return not any(pc.any(pc.not_equal(token_lists(batch.column(column)).values, 0)).as_py() for batch in batches)
    except UnfitValue:
        return False


def _check_values(source: Source, schema: pa.Schema, roles: Sequence[str]) -> None:
    """Refuse values that do not fit their column's role, where its type leaves that open."""
    for role in roles:
        column = getattr(source.columns, role)
        if may_not_fit(role, schema.field(column).type):
            batches = source.read(0, source.rows, [column], CHECKED_AT_ONCE)
            found = unfit(role, (batch.column(column) for batch in batches))
            if found is not None:
                raise SourceError(
                    f"{source.file.name}: row {found.row:,} of the column {column!r} (data.columns.{role}) "
                    f"{found.reason}; expected {EXPECTED[role]}{remedy(role, schema.field(column).type)}"
                )


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
