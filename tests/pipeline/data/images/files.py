"""Files of pictures, and the sources that they make."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import JsonValue

from pipeline.config.audit_config import AuditConfig
from pipeline.config.schema import ModelConfig
from pipeline.data.finding.sources import find_sources
from pipeline.data.sources import Source, Split
from tests.pipeline.config.configs import MINIMAL


def picture(value: int, height: int = 2, width: int = 3) -> bytes:
    """A PNG whose pixels all have this value."""
    sink = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def sources_of(folder: Path, split: Split = "audited", **columns: Sequence[object]) -> tuple[list[Source], ModelConfig]:
    """The sources of a config whose only file has these columns, and its model."""
    pq.write_table(pa.table(columns), folder / "images.parquet")
    return find(folder, split, "images.parquet")


def find(folder: Path, split: Split, *paths: str, **data: JsonValue) -> tuple[list[Source], ModelConfig]:
    """The sources that these paths name, none of them refused, and the model of the config."""
    raw = {**MINIMAL, "data": {"trusted": [*paths], "audited": [*paths], **data}}
    config = AuditConfig.parse(raw, str(folder))
    sources, refused = find_sources(config, config.models[0], split)
    assert refused == {}
    return sources, config.models[0]
