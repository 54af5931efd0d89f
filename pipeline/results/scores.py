"""Published scores as a Dask data frame, a partition per row group; needs pandas, from the extra `dask`."""

from typing import TYPE_CHECKING

import pyarrow as pa

from infra.formats.tables import open_parquet
from infra.storage.storage import Storage
from pipeline.artifacts.scores import PUBLISHED_FORMAT

if TYPE_CHECKING:
    import dask.dataframe
    import pandas as pd


NEEDS = (
    "a data frame of scores needs pandas, which is not installed here: pip install '.[dask]' from a clone; "
    "`Audit.scores` has the same as Arrow, without it"
)


def score_frame(storage: Storage, place: str) -> "dask.dataframe.DataFrame":
    """The table at a place, a partition per row group (8,192 rows), read when computed.

    Columns keep their Arrow types as published, nested ones too.

    Raises:
        ImportError: there is no pandas.
        Corrupt: the table was written by a newer version.
    """
    try:
        import dask.dataframe  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError(NEEDS) from error

    with storage.open(place) as file:
        opened = open_parquet(file, storage.locate(place))
        PUBLISHED_FORMAT.check(opened.schema_arrow, storage.locate(place))
        groups = opened.metadata.num_row_groups
    frame: dask.dataframe.DataFrame = dask.dataframe.from_map(
        _read_group, range(groups) if groups else [None], url=storage.url, place=place, meta=_frame(None)
    )
    return frame


def _read_group(group: int | None, url: str, place: str) -> "pd.DataFrame":
    storage = Storage(url)
    with storage.open(place) as file:
        return _frame(open_parquet(file, storage.locate(place)).read_row_group(group) if group is not None else None)


def _frame(table: pa.Table | None) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415 - an extra

    kept = PUBLISHED_FORMAT.schema.empty_table() if table is None else table
    return kept.replace_schema_metadata(None).to_pandas(types_mapper=pd.ArrowDtype)
