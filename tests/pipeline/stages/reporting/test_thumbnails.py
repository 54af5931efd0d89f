"""Pictures of a report: of the right samples, small, in order, and without those that cannot be read."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import JsonValue

from infra.storage.storage import Storage
from pipeline.data.sources import Source
from pipeline.planning.plan import ModelPlan
from pipeline.planning.recipe import EarlierRun
from pipeline.stages.reporting.thumbnails import LONGEST_SIDE, stored_thumbnails, thumbnails
from tests.input_files import found


def png(shade: int, width: int = 4, height: int = 2) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


def source_of(plan: ModelPlan, path: Path, images: list[bytes | None]) -> Source:
    """A file of images in row groups of three."""
    table = pa.table({"id": [str(row) for row in range(len(images))], "image": pa.array(images, pa.binary())})
    pq.write_table(table, path, row_group_size=3, use_dictionary=False, write_page_checksum=True)
    return replace(plan.audited[0], file=found(path), rows=len(images))


def entries(*places: tuple[str, int]) -> list[dict[str, JsonValue]]:
    return [{"source": source, "row": row} for source, row in places]


def decoded(picture: JsonValue) -> Image.Image:
    text = str(picture)
    assert text.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2])))


def pictures_of(document: dict[str, JsonValue]) -> dict[str, JsonValue]:
    pictures = document["pictures"]
    assert document["schema"] == 1 and isinstance(pictures, dict)
    return pictures


@pytest.fixture
def sources(plan: ModelPlan, tmp_path: Path) -> dict[str, Source]:
    """Two files whose images are shaded by their rows; rows 4 and 5 of the first cannot be decoded."""
    shaded = [png(10 * row) for row in range(8)]
    first = source_of(plan, tmp_path / "a.parquet", [*shaded[:4], b"no image", None, *shaded[6:]])
    second = source_of(plan, tmp_path / "b.parquet", [png(100 + row) for row in range(4)])
    return {source.key: source for source in (first, second)}


def test_pictures_are_of_their_samples_in_the_order_of_the_entries(plan: ModelPlan, sources: dict[str, Source]) -> None:
    chosen = entries(("a.parquet", 7), ("b.parquet", 2), ("a.parquet", 4), ("a.parquet", 1), ("a.parquet", 5))
    pictures = pictures_of(thumbnails(plan, sources, chosen))
    assert list(pictures) == ["a.parquet#7", "b.parquet#2", "a.parquet#1"]
    assert [decoded(picture).getpixel((0, 0)) for picture in pictures.values()] == [(70, 0, 0), (102, 0, 0), (10, 0, 0)]


def test_pictures_are_small(plan: ModelPlan, tmp_path: Path) -> None:
    source = source_of(plan, tmp_path / "large.parquet", [png(1, width=400, height=100)])
    pictures = pictures_of(thumbnails(plan, {source.key: source}, entries(("large.parquet", 0))))
    assert decoded(pictures["large.parquet#0"]).size == (LONGEST_SIDE, LONGEST_SIDE // 4)


def test_a_file_that_is_gone_costs_its_own_pictures_only(
    plan: ModelPlan, sources: dict[str, Source], tmp_path: Path
) -> None:
    (tmp_path / "a.parquet").unlink()
    chosen = entries(("a.parquet", 0), ("b.parquet", 0))
    assert list(pictures_of(thumbnails(plan, sources, chosen))) == ["b.parquet#0"]


def test_a_damaged_row_group_costs_its_own_pictures_only(plan: ModelPlan, tmp_path: Path) -> None:
    path = tmp_path / "noisy.parquet"
    source = source_of(plan, path, [png(row, width=64, height=64) + bytes([row]) * 200 for row in range(9)])
    data = bytearray(path.read_bytes())
    middle = pq.read_metadata(path).row_group(1).column(1)
    place = middle.data_page_offset + middle.total_compressed_size - 4  # statistics fill the header
    data[place] ^= 0xFF
    path.write_bytes(data)
    source = replace(source, file=found(path))
    chosen = entries(*(("noisy.parquet", row) for row in (8, 4, 3, 0)))
    assert list(pictures_of(thumbnails(plan, {source.key: source}, chosen))) == ["noisy.parquet#8", "noisy.parquet#0"]


def test_stored_pictures_are_those_of_the_earlier_report(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    earlier = EarlierRun(run_id="run", labels="", truth="", report="report")
    chosen = entries(("a", 1), ("a", 2))
    assert pictures_of(stored_thumbnails(storage, earlier, chosen)) == {}
    storage.write("report/images.json", json.dumps({"schema": 1, "pictures": {"a#2": "two", "a#3": "three"}}).encode())
    assert pictures_of(stored_thumbnails(storage, earlier, chosen)) == {"a#2": "two"}
