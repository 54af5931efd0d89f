"""Reviews: a Parquet or CSV table of sample ids and a person's verdict on each."""

import pyarrow as pa
from pyarrow import csv

from infra.errors import StorageError
from infra.formats.parquet_bounds import check_claims
from infra.formats.parquet_footer import read_footer
from infra.formats.tables import open_parquet, read_rows
from infra.storage.files import find, read_input
from infra.storage.identity import InputFile
from infra.storage.pins import PinnedInput
from pipeline.config.audit_config import AuditConfig
from pipeline.data.columns import UnfitValue, fits, is_text, stored
from pipeline.data.ids import ids_of
from pipeline.errors import ConfigError

IDS, VERDICT = ("sample_id", "id"), "verdict"


LONGEST_VERDICT = 100


LARGEST_REVIEW = 256 << 20


FORM = "a Parquet or CSV file with a column sample_id (or id) and a column verdict"


def read_reviews(config: AuditConfig) -> dict[str, str]:
    """The verdicts in the config's `review`, by sample id as in the published table; none where it names no file.

    Raises:
        ConfigError: there is no such file, it is no such table, a row has no id or verdict, or an id has two verdicts.
    """
    if config.review is None:
        return {}
    try:
        return _checked(_read(config.review, config.locate(config.review)), config.review)
    except StorageError as error:
        raise ConfigError(f"review: {error}; expected {FORM}") from error


def _read(name: str, url: str) -> pa.Table:
    files = find(name, url).files
    if len(files) != 1:
        raise ConfigError(f"review: {name}: {len(files):,} files match this glob; name one file")
    (file,) = files
    if file.size > LARGEST_REVIEW:
        raise ConfigError(
            f"review: {name}: has {file.size:,} bytes, at most {LARGEST_REVIEW:,} are read; "
            "leave out all columns but the id and the verdict"
        )
    return _read_csv(name, file.url) if name.lower().endswith(".csv") else _read_parquet(name, file)


def _read_csv(name: str, url: str) -> pa.Table:
    options = csv.ConvertOptions(
        column_types={column: pa.large_binary() for column in (*IDS, VERDICT)},
        null_values=[""],
        strings_can_be_null=True,
    )
    try:
        return csv.read_csv(pa.BufferReader(read_input(url)), convert_options=options)
    except (pa.ArrowException, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"review: {name}: not a readable CSV file ({first}); expected {FORM}") from error


def _read_parquet(name: str, file: InputFile) -> pa.Table:
    with PinnedInput(file) as handle:
        parquet = open_parquet(handle, name)
        schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
        columns = [column for column in (*IDS, VERDICT) if column in schema.names]
        check_claims(read_footer(handle), file.size, columns, name)
    if not columns:
        return schema.empty_table()
    batches = list(read_rows(file, 0, rows, columns, 65536))
    return pa.Table.from_batches(batches, pa.schema([schema.field(column) for column in columns]))


def _checked(table: pa.Table, name: str) -> dict[str, str]:
    for column in table.column_names:
        if column in (*IDS, VERDICT) and table.column_names.count(column) > 1:
            raise ConfigError(f"review: {name}: has several columns named {column!r}; rename all but one")
    ids = next((column for column in IDS if column in table.column_names), None)
    if ids is None or VERDICT not in table.column_names:
        here = ", ".join(table.column_names) or "none that can be used"
        missing = VERDICT if ids else " or ".join(IDS)
        raise ConfigError(f"review: {name}: has no column {missing}; columns there: {here}; expected {FORM}")
    for column in (ids, VERDICT):
        kind = table.schema.field(column).type
        if not (fits("id", kind) if column == ids else is_text(stored(kind)) or kind == pa.large_binary()):
            raise ConfigError(f"review: {name}: the column {column} is {kind}, expected text; expected {FORM}")
    return _verdicts(_texts(table, ids, name), _texts(table, VERDICT, name), name)


def _texts(table: pa.Table, column: str, name: str) -> list[str | None]:
    try:
        return ids_of(table.column(column).combine_chunks())
    except UnfitValue as error:
        what = f"row {error.row:,} of the column {column} {error.reason}"
        raise ConfigError(f"review: {name}: {what}; expected {FORM}") from error


def _verdicts(ids: list[str | None], verdicts: list[str | None], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for row, (sample, text) in enumerate(zip(ids, verdicts, strict=True)):
        verdict = (text or "").strip()
        if not sample or not verdict:
            missing = "verdict" if sample else "sample id"
            raise ConfigError(f"review: {name}: row {row} has no {missing}; fill it in, or remove the row")
        if len(verdict) > LONGEST_VERDICT:
            raise ConfigError(
                f"review: {name}: the verdict of row {row} has {len(verdict):,} characters, "
                f"at most {LONGEST_VERDICT} are kept; shorten it"
            )
        if found.setdefault(sample, verdict) != verdict:
            raise ConfigError(
                f"review: {name}: has two verdicts on sample {sample!r}, {found[sample]!r} and, "
                f"in row {row}, {verdict!r}; keep one"
            )
    return found
