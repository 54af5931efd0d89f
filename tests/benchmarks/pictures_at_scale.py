"""Any number of different JPEG pictures: the zoo's training images, shifted, mirrored and tinted.

Files have the same number of pictures, however many there are in all, so that an audit of ten times as many has ten
times the tasks and no other ones. File N is made from N alone.
"""

import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from tests.benchmarks.zoo import Zoo

ROWS_PER_GROUP, REACH = 1000, 4


Pictures = NDArray[np.uint8]


def write_pictures(zoo: Zoo, folder: Path, each: int, files: int) -> list[Path]:
    """Writes so many files of `each` audited pictures into a folder; files that are there stay. Returns all of them."""
    paths = [folder / f"audited-{number:05d}.parquet" for number in range(files)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            list(pool.map(partial(_write_file, zoo, folder, each), missing))
    return paths


def _write_file(zoo: Zoo, folder: Path, images: int, number: int) -> None:
    """One file, whole or not at all."""
    generator = np.random.default_rng(number)
    partial_path = folder / f".audited-{number:05d}"
    originals = _originals(zoo, generator, min(images, ROWS_PER_GROUP))
    with pq.ParquetWriter(partial_path, _SCHEMA) as writer:
        for start in range(0, images, ROWS_PER_GROUP):
            stop = min(start + ROWS_PER_GROUP, images)
            encoded = [{"bytes": data, "path": None} for data in _varied(originals, generator, stop - start)]
            ids = [f"{number:05d}-{row:07d}" for row in range(start, stop)]
            writer.write_table(pa.table({"id": ids, "image": encoded}, schema=_SCHEMA))
    partial_path.rename(folder / f"audited-{number:05d}.parquet")


_SCHEMA = pa.schema({"id": pa.string(), "image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})


def _originals(zoo: Zoo, generator: np.random.Generator, count: int) -> Pictures:
    """Training images drawn for one file, (count, 32, 32, 3)."""
    column = pq.read_table(zoo.data("train"), columns=["image"]).column("image").combine_chunks().field("bytes")
    chosen = generator.choice(len(column), count, replace=False)
    return np.stack([np.asarray(Image.open(io.BytesIO(column[int(place)].as_py())).convert("RGB")) for place in chosen])


def _varied(originals: Pictures, generator: np.random.Generator, count: int) -> Iterator[bytes]:
    """Encoded variations of the originals, of a training image each, none of them like another."""
    shifts, mirrored = generator.integers(-REACH, REACH + 1, (count, 2)), generator.random(count) < 0.5
    tints = generator.uniform(0.85, 1.15, (count, 3))
    for place in range(count):
        picture = np.roll(originals[place % len(originals)], shifts[place], axis=(0, 1))
        picture = picture[:, ::-1] if mirrored[place] else picture
        tinted = np.clip(picture * tints[place], 0, 255).astype(np.uint8)
        sink = io.BytesIO()
        Image.fromarray(tinted).save(sink, "JPEG", quality=92)
        yield sink.getvalue()
