"""Reviews: a table of sample ids and a person's verdict on each."""

from collections.abc import Sequence

import pyarrow as pa

from infra.errors import StorageError
from infra.formats.range_reader import read_texts
from infra.storage.files import find
from pipeline.config.audit_config import AuditConfig
from pipeline.data.columns import UnfitValue, fits, is_text, stored
from pipeline.data.ids import ids_of
from pipeline.errors import ConfigError

IDS, VERDICT = ("sample_id", "id"), "verdict"


LONGEST_VERDICT = 100


LARGEST_REVIEW = 256 << 20


FORM = "a file, such as CSV or Parquet, with a column sample_id (or id) and a column verdict"


def read_reviews(config: AuditConfig) -> dict[str, str]:
    """The verdicts in the config's `review`, by sample id as in the published table; none where it names no file.

    Raises:
        ConfigError: there is no such file, it is no such table, a row has no id or verdict, or an id has two verdicts.
    """
    if config.review is None:
        return {}
    try:
        table, columns = _read(config.review, config.locate(config.review))
        return _checked(table, columns, config.review)
    except StorageError as error:
        raise ConfigError(f"review: {error}; expected {FORM}") from error


def _read(name: str, url: str) -> tuple[pa.Table, list[str]]:
    files = find(name, url).files
    if len(files) != 1:
        raise ConfigError(f"review: {name}: {len(files):,} files match this glob; name one file")
    (file,) = files
    if file.size > LARGEST_REVIEW:
        raise ConfigError(
            f"review: {name}: has {file.size:,} bytes, at most {LARGEST_REVIEW:,} are read; "
            "leave out all columns but the id and the verdict"
        )
    return read_texts(file, [*IDS, VERDICT])


def _checked(table: pa.Table, columns: Sequence[str], name: str) -> dict[str, str]:
    for column in table.column_names:
        if table.column_names.count(column) > 1:
            raise ConfigError(f"review: {name}: has several columns named {column!r}; rename all but one")
    ids = next((column for column in IDS if column in table.column_names), None)
    if ids is None or VERDICT not in table.column_names:
        missing = VERDICT if ids else " or ".join(IDS)
        raise ConfigError(
            f"review: {name}: has no column {missing}; columns there: {', '.join(columns)}; expected {FORM}"
        )
    for column in (ids, VERDICT):
        kind = table.schema.field(column).type
        if not (fits("id", kind) if column == ids else is_text(stored(kind))):
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
