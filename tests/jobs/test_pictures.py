"""A model of grey images, and audited pictures as cameras, editors and other tools store them."""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray
from PIL import ExifTags, Image
from safetensors.torch import load_file, save_file

from pipeline.config.audit_config import merge
from tests.jobs.command import Ended, Json, mad, table
from tests.jobs.workshop import AUDITED, small_config, small_tables

NETWORK = """
from torch import nn

from pipeline.demo.network import digit_cnn


def grey() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *[*digit_cnn()][1:])
"""


@dataclass(frozen=True)
class Audited:
    """The demo's network and its twin for grey images, on the same rows, of which the last are `stored`."""

    root: Path
    ended: Ended
    rgb: list[Json]
    grey: list[Json]
    stored: list[str]


def saved(form: str, pixels: NDArray[np.generic], **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, form, **options)
    return sink.getvalue()


def ways(pixels: NDArray[np.uint8]) -> dict[str, bytes]:
    """One grey picture (8, 8), stored in several ways, and two files that are not read."""
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    return {
        "16 bits": saved("PNG", pixels.astype(np.uint16) * 257),
        "turned": saved("PNG", np.rot90(pixels), exif=turned),
        "TIFF": saved("TIFF", pixels, compression="tiff_lzw"),
        "JPEG 2000": saved("JPEG2000", pixels),
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "path": b"",
    }


@pytest.fixture(scope="module")
def audit(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """One audit of both models."""
    folder = tmp_path_factory.mktemp("pictures")
    shutil.copy(digits / "digits.safetensors", folder)
    (folder / "network.py").write_text(NETWORK)
    state = load_file(digits / "digits.safetensors")
    save_file({**state, "0.weight": state["0.weight"].sum(1, keepdim=True)}, folder / "grey.safetensors")
    trusted, audited = small_tables(digits)
    rows = audited.select(["id", "image"]).to_pylist()
    first = np.array(Image.open(io.BytesIO(rows[0]["image"]["bytes"])).convert("L"))
    stored = ways(first)
    for name, data in stored.items():
        rows.append({"id": name, "image": {"bytes": data or None, "path": None if data else "elsewhere.png"}})
    pq.write_table(trusted, folder / "trusted.parquet")
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([row["image"] for row in rows], struct)
    pq.write_table(pa.table({"id": [row["id"] for row in rows], "image": images}), folder / "rows.parquet")
    own: Json = {"preprocess": {"mean": [0.3], "std": [0.35], "size": 8}}
    config = merge(small_config(folder / "root"), {"data": {"audited": "rows.parquet"}})
    config["models"] = [
        *config["models"],  # type: ignore[misc]
        {"name": "grey", "architecture": "network.py:grey", "weights": "grey.safetensors", "data": own},
    ]
    (folder / "audit.yaml").write_text(yaml.safe_dump(config))
    ended = mad("run", folder / "audit.yaml")
    assert ended.code == 0, ended.err
    root = folder / "root"
    return Audited(root, ended, table(root, "digits"), table(root, "grey"), list(stored))


def test_a_model_of_grey_images_answers_as_its_twin_for_rgb(audit: Audited) -> None:
    """Their pictures have equal channels, and its first kernel is the sum of the other's over the channels."""
    assert [row["prediction"] for row in audit.grey] == [row["prediction"] for row in audit.rgb]
    confidence = [row["confidence"] for row in audit.rgb[:AUDITED]]
    assert [row["confidence"] for row in audit.grey[:AUDITED]] == pytest.approx(confidence, abs=1e-4)
    assert [row["status"] for row in audit.grey] == [row["status"] for row in audit.rgb]


def test_one_picture_stored_in_several_ways_has_one_score(audit: Audited) -> None:
    for rows in (audit.rgb, audit.grey):
        by_id = {row["sample_id"]: row for row in rows}
        for name in audit.stored[:-2]:
            assert by_id[name]["score"] == rows[0]["score"]


def test_what_is_not_read_is_named_in_its_row(audit: Audited) -> None:
    statuses = [str(row["status"]) for row in audit.rgb[-2:]]
    assert statuses[0].startswith("unreadable: a HEIF (HEIC) image, which is not among the formats that are read (PNG,")
    assert statuses[1].startswith("unreadable: the image has no bytes, only the path 'elsewhere.png'")


def test_the_page_of_a_model_of_grey_images_has_pictures(audit: Audited) -> None:
    assert 'src="data:image/png;base64,' in (audit.root / "report" / "grey.html").read_text()
