"""Files of texts, and the sources that they make."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.data.finding.sources import find_sources
from pipeline.data.sources import Source


def source_of(folder: Path, table: pa.Table, **columns: JsonValue) -> Source:
    """The only source of a config that names this table."""
    pq.write_table(table, folder / "texts.parquet", row_group_size=3)
    data: JsonValue = {"trusted": "texts.parquet", "audited": "texts.parquet", "columns": columns}
    config = AuditConfig.parse(
        {"root": "r", "task": "causal_lm", "models": [{"name": "m", "huggingface": "/m"}], "data": data}, str(folder)
    )
    sources, refused = find_sources(config, config.models[0], "audited")
    assert not refused
    return sources[0]


def text_table(
    ids: list[list[int] | None], starts: list[int | None], names: list[str | None] | None = None
) -> pa.Table:
    return pa.table(
        {
            "id": names or [f"t{row}" for row in range(len(ids))],
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "completion_start": starts,
        }
    )
